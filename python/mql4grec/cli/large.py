"""`generate-codes` without a run, for embeddings in files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mql4grec import signals
from mql4grec.cli.options import console
from mql4grec.cli.tables import print_reports
from mql4grec.errors import ConfigError

if TYPE_CHECKING:
    from mql4grec.stages.large import Files


def files_of(
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


def generate_from_files(
    files: Files, path: Path | None, overrides: list[str] | None, *, quiet: bool
) -> None:
    """Generate codes without a run, by the settings of the rooms `codes` and `runtime` alone."""
    from mql4grec import config, runtime
    from mql4grec.runtime import Journal
    from mql4grec.stages import large

    if path is None:
        path, overrides = config.demo_config(), ["runtime.n_threads=null", *(overrides or [])]
    trained = f"translator.trained={files.translator}"  # who extends an index has one
    settings = config.load(path, overrides=[*(overrides or []), trained])
    if not runtime.is_main_process():
        return
    journal = Journal(files.out / "log.jsonl", console=None if quiet else console(stderr=True))
    machine = runtime.start(settings.runtime, seed=settings.seed)
    signals.begin()
    done = large.generate_from_files(files, settings.codes, runtime=machine, journal=journal)
    print_reports({f"{files.dataset} {files.modality}": files.report})
    if not done and not quiet:
        console(stderr=True).print("done now: nothing, all codes were there", highlight=False)
