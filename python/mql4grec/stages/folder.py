"""A run's own folder: whose files are in it, its settings, and who may write it.

Looked at before anything is touched: `run_dir` may be a project's folder by mistake.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mql4grec import artifacts, config, runtime
from mql4grec.config import Settings
from mql4grec.errors import ArtifactError

SETTINGS, LOG = "config.yaml", "log.jsonl"
HEADER = "# The settings of this run, written by mql4grec; the next run may write them anew.\n"


def require_own(settings: Settings, places: Iterable[str]) -> None:
    """Refuse a folder in which files of somebody else lie where the run's would go.

    Args:
        settings: Of the run.
        places: Folders of its stages, below that of the run.

    Raises:
        ArtifactError: With the first such file.
    """
    folder = settings.folder
    stages = [folder / place for place in places]
    for path in (folder, *(parent for place in stages for parent in _between(place, folder))):
        if path.exists() and not path.is_dir():
            raise ArtifactError(
                f"`{path}`: expected a folder or nothing, got a file; choose another `run_dir`"
            )
    for stage in stages:
        artifacts.require_own(stage)
    is_ours = any(artifacts.read_stamp(stage) is not None for stage in stages)
    for path in (folder / SETTINGS, folder / LOG):
        if path.exists() and not path.is_file():
            raise _not_ours(path)
    if not is_ours:  # earlier versions wrote no header
        _require_beginning(folder / SETTINGS, HEADER)
        _require_event(folder / LOG)


def _between(place: Path, folder: Path) -> list[Path]:
    """List the folders between a run's and a stage's."""
    return [parent for parent in place.parents if folder in parent.parents]


def _require_beginning(path: Path, beginning: str) -> None:
    if path.exists() and (not path.is_file() or _first_line(path) != beginning):
        raise _not_ours(path)


def _require_event(path: Path) -> None:
    if not path.exists():
        return
    try:
        first = json.loads(_first_line(path) or "{}") if path.is_file() else None
    except ValueError as err:
        raise _not_ours(path) from err
    if not isinstance(first, dict) or (first and not {"time", "event"} <= first.keys()):
        raise _not_ours(path)


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline(1 << 16)


def _not_ours(path: Path) -> ArtifactError:
    return ArtifactError(
        f"`{path}`: expected a file that a run wrote, or none, got another; choose another "
        "`run_dir`, such as one that does not exist"
    )


@contextmanager
def sole_writer(settings: Settings) -> Iterator[None]:
    """Hold the right to write the run's folder; of several processes the main one does.

    Raises:
        ArtifactError: If another call holds it.
    """
    if runtime.is_main_process():
        with artifacts.sole_writer(settings.folder):
            yield
    else:
        yield


def write_settings(settings: Settings) -> None:
    """Write the run's `config.yaml`, unless it says the same already."""
    path, text = settings.folder / SETTINGS, HEADER + config.dump(settings)
    if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != text:
        artifacts.write_text(path, text)
