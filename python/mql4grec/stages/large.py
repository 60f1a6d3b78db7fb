"""Codes without a run: a user's embeddings, a trained translator, and a folder for the index.

All of it streams through files, so that a hundred million items need no more memory than allowed; a
call that was cut off goes on where it stopped, and a finished one has nothing to do.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from mql4grec import artifacts, codes
from mql4grec.config import CodesSettings, Modality
from mql4grec.errors import ArtifactError, ConfigError, DataError
from mql4grec.runtime import Journal, Runtime
from mql4grec.stages.items import write_codes

if TYPE_CHECKING:
    from mql4grec.embeddings import GivenEmbeddings
    from mql4grec.rqvae import RQVAE

SOURCE = "source.json"  # tells a folder of ours from that of any other stage
BYTES_AT_ONCE = 1 << 26
NEWLINE = ord("\n")


@dataclass(frozen=True)
class Files:
    """What codes are generated from, and where they go.

    Attributes:
        embeddings: A `.npy` file, a Parquet file, or a folder of Parquet shards.
        translator: Folder of a trained one.
        out: Folder of the index; empty, missing, or of an earlier call.
        modality: "text" or "image".
        item_ids: Text file with the source key of every row, a line each; None: rows are the keys.
    """

    embeddings: Path
    translator: Path
    out: Path
    modality: Modality = "text"
    item_ids: Path | None = None

    @property
    def dataset(self) -> str:
        """Name of the shop: that of the embeddings."""
        return self.embeddings.stem

    @property
    def report(self) -> Path:
        """Place of what was done about collisions."""
        return self.out / f"{self.dataset}.{self.modality}.json"


def generate_from_files(
    files: Files, settings: CodesSettings, *, runtime: Runtime, journal: Journal
) -> bool:
    """Give every item of a user's embeddings a semantic ID of its own.

    Args:
        files: What there is, and where the index goes.
        settings: How collisions are resolved, and how much memory may be taken.
        runtime: The machine.
        journal: Told of progress.

    Returns:
        Whether there was anything to do.

    Raises:
        DataError: If embeddings or item ids are missing, broken, or do not fit.
        ArtifactError: If there is no translator, or `out` holds files that are not of this command.
        CollisionError: If there are more items than semantic IDs.
        ConfigError: If the memory that may be taken is too little.
    """
    from mql4grec import embeddings, translator

    given = embeddings.open_given(files.embeddings, dataset=files.dataset, modality=files.modality)
    network = translator.load(files.translator)
    _require_width(given, network, files=files)
    n_codes = [len(codebook) for codebook in network.codebooks]
    _require_memory(given.n_items, settings)
    codes.require_room(given.n_items, n_codes=n_codes, what=f"`{files.embeddings}`")
    mark = _mark(files, settings, given=given)
    stamp = artifacts.read_stamp(files.out)
    if stamp is not None and stamp["fingerprint"] == mark and stamp["done"]:
        return False
    item_ids = None if files.item_ids is None else read_lines(files.item_ids, n_rows=given.n_items)
    _require_own(files.out)
    with artifacts.sole_writer(files.out):
        began = time.monotonic()
        artifacts.open_stage(files.out, mark)
        source = {name: str(value) for name, value in dataclasses.asdict(files).items()}
        artifacts.write_json(files.out / SOURCE, source)
        told = (runtime, journal)
        _generate(files, settings, given=given, network=network, item_ids=item_ids, told=told)
        artifacts.close_stage(files.out, mark, seconds=round(time.monotonic() - began, 2))
    return True


def _generate(
    files: Files,
    settings: CodesSettings,
    *,
    given: GivenEmbeddings,
    network: RQVAE,
    item_ids: Sequence[str] | None,
    told: tuple[Runtime, Journal],
) -> None:
    """Translate into `out/work`, resolve, write index and report, remove `out/work`."""
    from mql4grec import translator

    runtime, journal = told
    work = files.out / "work"
    translation = translator.translate(
        network,
        given,
        folder=work,
        runtime=runtime,
        journal=journal,
        precision=settings.precision,
        max_memory=settings.max_memory,
    )
    existing = None
    for path in _extended(settings, files.modality):
        existing = codes.read_existing(
            path, dataset=files.dataset, n_items=given.n_items, item_ids=item_ids
        )
    ids, report = codes.assign(translation, settings, existing=existing, item_ids=item_ids)
    write_codes(
        files.out, ids, report=report, item_ids=item_ids, settings=settings, journal=journal
    )
    artifacts.remove(work)


def _mark(files: Files, settings: CodesSettings, *, given: GivenEmbeddings) -> str:
    """Tell by a fingerprint all that the index depends on."""
    inputs = [*sorted(files.translator.glob("*_model.*")), *settings.extend]
    inputs += [files.item_ids] if files.item_ids is not None else []
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in inputs]
    chosen = settings.model_dump(mode="json", exclude={"max_memory_gib"})
    return artifacts.fingerprint(
        "generate-codes", files.dataset, files.modality, given.identity, stats, chosen
    )


def _extended(settings: CodesSettings, modality: Modality) -> tuple[Path, ...]:
    if len(settings.extend) > 1 or any(codes.modality_of(p) != modality for p in settings.extend):
        raise ConfigError(
            f"`codes.extend`: expected at most one index of {modality} codes with `--embeddings`, "
            f"got {[str(path) for path in settings.extend]}"
        )
    return settings.extend


def _require_width(given: GivenEmbeddings, network: RQVAE, *, files: Files) -> None:
    if given.width != network.in_dim:
        raise DataError(
            f"`{files.embeddings}`: expected vectors of width {network.in_dim}, on which "
            f"`{files.translator}` was trained, got {given.width}; use embeddings of the same "
            "encoder"
        )


def _require_memory(n_items: int, settings: CodesSettings) -> None:
    from mql4grec.translator import least_memory

    least = least_memory(n_items)
    if settings.max_memory is not None and settings.max_memory < least:
        raise ConfigError(
            f"`codes.max_memory_gib`: expected at least {least / 2**30:.2f} for {n_items} items, "
            f"got {settings.max_memory_gib:g}; raise it, or leave it out for 1 GiB and 24 bytes "
            "per item"
        )


def _require_own(folder: Path) -> None:
    """Refuse a folder with anything that an earlier call did not write: it would be emptied."""
    if not folder.is_dir():
        if folder.exists():
            raise ArtifactError(
                f"`{folder}`: expected a folder, got a file; choose another `--out`"
            )
        return
    names = artifacts.names_in(folder) - {artifacts.STAMP}
    if names and not ({SOURCE} <= names and (folder / artifacts.STAMP).exists()):
        raise ArtifactError(
            f"`{folder}`: expected an empty folder or one that `generate-codes --embeddings` made, "
            f"got {len(names)} other files, the first {min(names)!r}; choose another `--out`"
        )


@dataclass(frozen=True)
class Lines:
    """Lines of a text file that is never held whole; a sequence of N strings.

    Attributes:
        text: The file's bytes, memory-mapped, uint8.
        ends: Place after each line's last byte, int64 (N).
    """

    text: NDArray[np.uint8]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        """Count the lines."""
        return len(self.ends)

    def __getitem__(self, row: int) -> str:
        """Give one line without its end."""
        start = int(self.ends[row - 1]) + 1 if row else 0
        line = bytes(self.text[start : int(self.ends[row])])
        try:
            return line.decode().removesuffix("\r")
        except UnicodeDecodeError as err:
            raise DataError(
                f"item ids, line {row + 1}: expected UTF-8, got {line!r}; convert the file"
            ) from err


def read_lines(path: Path, *, n_rows: int) -> Sequence[str]:
    """Open a text file with the source key of every row.

    Args:
        path: UTF-8, a line each.
        n_rows: N, how many there have to be.

    Raises:
        DataError: If it is missing, or has another number of lines.
    """
    if not path.is_file():
        raise DataError(f"`{path}`: expected item ids, got no such file; correct the path")
    size = path.stat().st_size
    text = np.memmap(path, np.uint8, mode="r") if size else np.zeros(0, np.uint8)
    n_lines = sum(len(found) for found in _newlines(text))
    open_end = size > 0 and text[-1] != NEWLINE  # the last line has no end
    if n_lines + open_end != n_rows:
        raise DataError(
            f"`{path}`: expected {n_rows} lines, an item id for every row of the embeddings, got "
            f"{n_lines + open_end}"
        )
    ends = np.full(n_rows, size, np.int64)
    start = 0
    for found in _newlines(text):
        ends[start : start + len(found)] = found
        start += len(found)
    return cast("Sequence[str]", Lines(text, ends))  # all of it that is asked for


def _newlines(text: NDArray[np.uint8]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(text), BYTES_AT_ONCE):
        yield np.flatnonzero(text[start : start + BYTES_AT_ONCE] == NEWLINE) + start
