"""Embeddings that a user brings as files, from a thousand items to a hundred million.

Either one `.npy` file of float16 or float32 (N, D), or Parquet shards in the order of their names,
with one column of fixed-size lists of such numbers. They are read range by range and never held
whole, nor mapped, so that what was read does not count as memory of the process.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mql4grec.artifacts import fingerprint, vet_parquet
from mql4grec.config import Modality
from mql4grec.errors import DataError

Read = Callable[[int, int], NDArray[Any]]
CHUNK_BYTES = 256 << 20  # of Parquet, read at once


@dataclass(frozen=True)
class GivenEmbeddings:
    """Vectors of one shop's items in one modality, in files of the user's.

    Attributes:
        dataset: Name of the shop.
        modality: "text" or "image".
        files: One `.npy` file, or Parquet shards in order.
        ends: Row after the last of each file, ascending; the last is N.
        width: D.
        dtype: float16 or float32.
        column: Of the shards; None for a `.npy` file.
        offset: Where the numbers of the `.npy` file begin, in bytes.
        present: bool (N,), all True; a row of zeros is an item like any other.
        identity: Fingerprint of names, sizes and times of change.
    """

    dataset: str
    modality: Modality
    files: tuple[Path, ...]
    ends: tuple[int, ...]
    width: int
    dtype: np.dtype[Any]
    column: str | None
    offset: int
    present: NDArray[np.bool_]
    identity: str

    @property
    def n_items(self) -> int:
        """Number of rows N."""
        return self.ends[-1]

    def place(self, row: int) -> tuple[Path, int]:
        """Tell in which file a row is, and the how manieth there, from 0."""
        number = next(n for n, end in enumerate(self.ends) if row < end)
        return self.files[number], row - (self.ends[number - 1] if number else 0)


def open_given(path: Path, *, dataset: str, modality: Modality) -> GivenEmbeddings:
    """Open a user's embeddings without reading them.

    Args:
        path: A `.npy` file, a Parquet file, or a folder of Parquet files.
        dataset: Name of the shop.
        modality: Which of the two.

    Raises:
        DataError: If a file is missing, broken, or of another shape or kind of numbers.
    """
    files = _list_files(path)
    if files[0].suffix == ".npy":
        mapped = _map(path)
        (n_items, width), dtype, column, offset = mapped.shape, mapped.dtype, None, mapped.offset
        ends = [n_items]
    else:
        column, dtype, width = _find_column(files[0])
        for other in files[1:]:
            _require_alike(_find_column(other), other, (column, dtype, width), files[0])
        ends, offset = list(itertools.accumulate(map(_count_rows, files))), 0
    if ends[-1] == 0 or width == 0:
        raise DataError(f"`{path}`: expected at least one row and column, got {(ends[-1], width)}")
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return GivenEmbeddings(
        dataset=dataset,
        modality=modality,
        files=tuple(files),
        ends=tuple(ends),
        width=width,
        dtype=dtype,
        column=column,
        offset=offset,
        present=np.ones(ends[-1], np.bool_),
        identity=fingerprint(stats),
    )


def reader(given: GivenEmbeddings) -> Read:
    """Give a function that reads rows `start` to `stop` as they are stored, (B, D).

    That of a `.npy` file may be called by several threads at once. That of shards keeps the part
    of the shard that it read last, since they have to be unpacked: it is for one thread, and for
    ranges in order.
    """
    if given.column is None:
        return lambda start, stop: _read_numpy(given, start, stop)
    chunk_rows = max(1, CHUNK_BYTES // (4 * given.width))
    kept: dict[tuple[int, int], NDArray[Any]] = {}

    def read(start: int, stop: int) -> NDArray[Any]:
        parts = []
        for number, first, last in _cut(given, start, stop, chunk_rows=chunk_rows):
            chunk = first // chunk_rows
            if (number, chunk) not in kept:
                kept.clear()  # before the next one is read
                kept[number, chunk] = _read_chunk(given, number, chunk, n_rows=chunk_rows)
            base = chunk * chunk_rows
            parts.append(kept[number, chunk][first - base : last - base].copy())
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    return read


def _list_files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(path.glob("*.parquet"))
        if not files:
            raise DataError(f"`{path}`: expected a folder of `.parquet` files, got none")
        vet_parquet(files)
        return files
    if path.is_file() and path.suffix == ".parquet":
        vet_parquet([path])
    if path.suffix not in (".npy", ".parquet"):
        raise DataError(
            f"`{path}`: expected a `.npy` file, a `.parquet` file, or a folder of them, got "
            f"{path.suffix!r}"
        )
    if not path.is_file():
        raise DataError(f"`{path}`: expected embeddings, got no such file; correct the path")
    return [path]


def _map(path: Path) -> np.memmap[Any, Any]:
    """Open a `.npy` file and check it, without reading its rows."""
    try:
        mapped = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as err:
        raise DataError(f"`{path}`: expected a `.npy` file, got {err}; write it again") from err
    fits = mapped.ndim == 2 and mapped.dtype in (np.float16, np.float32)
    if not fits or not mapped.flags.c_contiguous:
        order = "" if mapped.flags.c_contiguous else " in Fortran order"
        raise DataError(
            f"`{path}`: expected float16 or float32 (N, D) in C order, got {mapped.dtype} "
            f"{mapped.shape}{order}; write it again"
        )
    return mapped  # type: ignore[no-any-return]  # of np.load


def _read_numpy(given: GivenEmbeddings, start: int, stop: int) -> NDArray[Any]:
    begin = given.offset + start * given.width * given.dtype.itemsize
    count = (stop - start) * given.width
    found = np.fromfile(given.files[0], given.dtype, count=count, offset=begin)
    if len(found) < count:
        raise DataError(f"`{given.files[0]}`: expected {given.n_items} rows, but it became shorter")
    return found.reshape(-1, given.width)


def _find_column(path: Path) -> tuple[str, np.dtype[Any], int]:
    """Find the one column of fixed-size lists of float16 or float32: name, dtype, D."""
    import polars as pl

    dtypes: dict[Any, np.dtype[Any]]
    dtypes = {pl.Float16(): np.dtype(np.float16), pl.Float32(): np.dtype(np.float32)}
    schema = _try(path, lambda: pl.scan_parquet(path, glob=False).collect_schema())
    fitting = {
        name: (dtypes[dtype.inner], dtype.size)
        for name, dtype in schema.items()
        if isinstance(dtype, pl.Array) and dtype.inner in dtypes
    }
    if len(fitting) != 1:
        columns = ", ".join(f"`{name}` {dtype}" for name, dtype in schema.items()) or "none"
        raise DataError(
            f"`{path}`: expected one column of fixed-size lists of float16 or float32, got columns "
            f"{columns}; cast it, in polars to `pl.Array(pl.Float32, D)`"
        )
    ((name, (dtype, width)),) = fitting.items()
    return name, dtype, width


def _require_alike(
    found: tuple[str, np.dtype[Any], int],
    path: Path,
    expected: tuple[str, np.dtype[Any], int],
    first: Path,
) -> None:
    if found != expected:
        spelt = [f"`{name}` of {dtype} ({width})" for name, dtype, width in (expected, found)]
        raise DataError(
            f"`{path}`: expected a column {spelt[0]} as in `{first.name}`, got {spelt[1]}; write "
            "all shards alike"
        )


def _count_rows(path: Path) -> int:
    import polars as pl

    scan = pl.scan_parquet(path, glob=False).select(pl.len())  # reads the metadata only
    return int(_try(path, lambda: scan.collect()).item())


def _cut(
    given: GivenEmbeddings, start: int, stop: int, *, chunk_rows: int
) -> Iterator[tuple[int, int, int]]:
    """Cut a range of rows at the ends of files and chunks: file, first and last row in it."""
    begin = 0
    for number, end in enumerate(given.ends):
        first, last = max(start, begin) - begin, min(stop, end) - begin
        while first < last:
            until = min(last, (first // chunk_rows + 1) * chunk_rows)
            yield number, first, until
            first = until
        begin = end


def _read_chunk(given: GivenEmbeddings, number: int, chunk: int, *, n_rows: int) -> NDArray[Any]:
    import polars as pl

    path, column = given.files[number], given.column
    assert column is not None  # else it is no Parquet
    scan = pl.scan_parquet(path, glob=False).select(column).slice(chunk * n_rows, n_rows)
    found: NDArray[Any] = _try(path, lambda: scan.collect()).to_series().to_numpy()
    return found.reshape(-1, given.width)


def _try(path: Path, read: Callable[[], Any]) -> Any:
    import polars as pl

    try:
        return read()
    except (OSError, pl.exceptions.PolarsError) as err:
        raise DataError(f"`{path}`: expected a Parquet file, got {err}; write it again") from err
