"""The commands, in the order of `--help`."""

from __future__ import annotations

import io
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mql4grec import signals
from mql4grec.cli import large
from mql4grec.cli.options import (
    ConfigOption,
    QuietOption,
    SetOption,
    console,
    journal_of,
    settings_of,
)
from mql4grec.cli.recommending import recommend
from mql4grec.cli.remedies import mendable
from mql4grec.cli.tables import print_collisions, print_quality, print_results, print_seeds

if TYPE_CHECKING:
    from mql4grec.config import Settings

app = typer.Typer(
    help="Multimodal generative recommendation: items become short words of codes, a small T5 "
    "writes the next one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich's would double the time to the first line
)


def main() -> None:
    """Run the command line; a fault that the user can mend is one message and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks
    try:
        app()
    except SystemExit as err:
        if isinstance(cause := getattr(err.__context__, "__cause__", None), EOFError):
            raise cause from None  # typer has said "Aborted!" of a bug of ours
        raise
    except Exception as err:
        told = mendable(err)
        if told is None or signals.is_stopping():
            raise
        print(f"error: {told}", file=sys.stderr)
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
    config: ConfigOption = None,
    overrides: SetOption = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=2, help="So many runs, of seed, seed + 1, ...: RUN/seeds/SEED each."),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Do the whole chain; finished stages are skipped, interrupted ones go on."""
    settings = settings_of(config, overrides)
    _do(settings, None, quiet=quiet, n_seeds=seeds)
    if seeds is not None:
        print_seeds(settings)
        return
    print_collisions(settings)
    print_quality(settings)
    print_results(settings)


@app.command()
def prepare(
    config: ConfigOption = None, overrides: SetOption = None, quiet: QuietOption = False
) -> None:
    """Read and clean the shops' items and histories."""
    _do(settings_of(config, overrides), "prepare", quiet=quiet)


@app.command()
def embed(
    config: ConfigOption = None, overrides: SetOption = None, quiet: QuietOption = False
) -> None:
    """Turn pictures and texts into vectors."""
    _do(settings_of(config, overrides), "embed", quiet=quiet)


@app.command("train-translator")
def train_translator(
    config: ConfigOption = None, overrides: SetOption = None, quiet: QuietOption = False
) -> None:
    """Train one RQ-VAE per modality, on all shops together."""
    _do(settings_of(config, overrides), "train-translator", quiet=quiet)


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
        files = large.files_of(embeddings, translator, out, modality=modality, item_ids=item_ids)
        large.generate_from_files(files, config, overrides, quiet=quiet)
        return
    settings = settings_of(config, overrides)
    _do(settings, "generate-codes", quiet=quiet)
    print_collisions(settings)


@app.command()
def quality(
    config: ConfigOption = None, overrides: SetOption = None, quiet: QuietOption = False
) -> None:
    """Do all up to semantic IDs, and show how good they are, before any T5 is trained."""
    settings = settings_of(config, overrides)
    _do(settings, None, until="quality", quiet=quiet)
    print_collisions(settings)
    print_quality(settings)


@app.command()
def pretrain(
    config: ConfigOption = None, overrides: SetOption = None, quiet: QuietOption = False
) -> None:
    """Train the T5 on several shops."""
    _do(settings_of(config, overrides), "pretrain", quiet=quiet)


@app.command()
def finetune(
    config: ConfigOption = None, overrides: SetOption = None, quiet: QuietOption = False
) -> None:
    """Train the T5 on the target shop."""
    _do(settings_of(config, overrides), "finetune", quiet=quiet)


@app.command()
def evaluate(
    config: ConfigOption = None, overrides: SetOption = None, quiet: QuietOption = False
) -> None:
    """Rank for all test users and compare with the baselines."""
    settings = settings_of(config, overrides)
    _do(settings, "evaluate", quiet=quiet)
    print_results(settings)


@app.command()
def report(
    config: ConfigOption = None, overrides: SetOption = None, quiet: QuietOption = False
) -> None:
    """Write the HTML page of a run."""
    settings = settings_of(config, overrides)
    _do(settings, "report", quiet=quiet)
    print(settings.folder / "report" / "index.html")


app.command()(recommend)


@app.command()
def check(config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Check settings, files and packages, and tell which stages are done."""
    from rich.table import Table

    from mql4grec import pipeline
    from mql4grec.stages import checks

    settings = settings_of(config, overrides)
    states = pipeline.inspect(settings)
    done = {
        item.stage.key
        for item in states
        if item.stage.command == "prepare" and item.state == "done"
    }
    faults, notes = checks.look_at_sizes(settings, prepared=done)
    faults = [*checks.faults(settings), *faults]
    table = Table("stage", "folder", "state", title=f"run {settings.name}")
    for item in states:
        table.add_row(item.stage.name, str(settings.folder / item.stage.place), item.state)
    console().print(table)
    for note in notes:
        print(note)
    for fault in faults:
        print(f"fault: {fault}")
    if faults:
        raise typer.Exit(1)
    print("settings, files and packages are in order")


def _do(
    settings: Settings,
    command: str | None,
    *,
    quiet: bool,
    until: str | None = None,
    n_seeds: int | None = None,
) -> None:
    from mql4grec import pipeline, seeds
    from mql4grec.runtime import is_main_process, leave_everyone

    signals.begin()
    if n_seeds is None:
        journal = journal_of(settings, quiet=quiet)
        done = pipeline.run(settings, journal=journal, only=command, until=until)
    else:
        done = seeds.run(settings, n_seeds=n_seeds, journal_of=partial(journal_of, quiet=quiet))
    leave_everyone()
    if is_main_process() and not quiet:
        text = ", ".join(done) if done else "nothing, all stages were finished"
        console(stderr=True).print(f"done now: {text}", highlight=False)
