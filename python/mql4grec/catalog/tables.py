"""Tables in files: CSV, TSV, RecBole's typed TSV, JSON lines (all also .gz) and Parquet.

polars' fast readers do the work. When one of them stumbles, the file is read again line by line:
that names the faulty line, or reads what the fast reader is too strict for (Python literals
instead of JSON, a lone inch sign in a CSV field).
"""

from __future__ import annotations

import ast
import csv
import difflib
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, NamedTuple

import polars as pl

from mql4grec.artifacts import vet_parquet
from mql4grec.catalog.files import is_packed
from mql4grec.errors import DataError, short, short_text

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".inter": "recbole",
    ".item": "recbole",
    ".json": "lines",
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".parquet": "parquet",
}
SAMPLED_LINES = 1000  # of JSON lines, to tell which columns there are
FIELD_LIMIT = 2**31 - 1  # Python's csv reader refuses fields above 128 KiB otherwise
Kind = Literal["csv", "tsv", "recbole", "lines", "parquet"]


class Column(NamedTuple):
    """A column that a table should have.

    Attributes:
        name: In the file.
        setting: Of the data set, that names the column.
        required: Whether the file is refused without it.
    """

    name: str
    setting: str
    required: bool = True


def read_table(path: Path, *, columns: Mapping[str, Column]) -> pl.DataFrame:
    """Read some columns of a table.

    Args:
        path: The file; its suffix tells the format.
        columns: By the name that they get.

    Returns:
        Column "row" (int64, data rows counted from 1, the header not counted) and the `columns`
        that the file has. Everything is text, but for Parquet, which keeps its own types; JSON
        lists and objects are text too, as JSON.

    Raises:
        DataError: If the file is missing, malformed, or lacks a required column.
    """
    kind = table_kind(path)
    names = {column.name for column in columns.values()}
    try:
        frame = _read_fast(path, kind, names)
    except (pl.exceptions.PolarsError, OSError) as err:
        if kind == "parquet":
            raise DataError(f"`{path}`: expected a Parquet file, got {_first_line(err)}") from err
        frame = _read_slowly(path, kind, names)
    if kind == "recbole":
        frame = frame.rename(lambda name: name.split(":")[0])
    if kind == "lines":  # a column that no line has reads as nothing but nulls
        frame = frame.select(s for s in frame if s.null_count() < len(s))
    elif len(frame.columns) > 1:  # a line with nothing on it is no row
        frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))
    for column in columns.values():
        if column.required and column.name not in frame.columns:
            raise _no_column(path, column, column_names(path))
    return frame.select(
        pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("row"),
        *(pl.col(c.name).alias(to) for to, c in columns.items() if c.name in frame.columns),
    )


def table_kind(path: Path) -> Kind:
    """Tell the format of a file by its name.

    Raises:
        DataError: If there is no such file, or no such format.
    """
    if not path.is_file():
        raise DataError(f"`{path}`: no such file; check the path, it is relative to {Path.cwd()}")
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix not in SUFFIXES:
        raise DataError(
            f"`{path}`: expected a name ending in {', '.join(SUFFIXES)}, possibly with .gz; "
            "rename or convert the file"
        )
    return SUFFIXES[suffix]  # type: ignore[return-value]  # the table above has kinds only


def column_names(path: Path) -> list[str]:
    """Give the names of a table's columns, in order.

    Of JSON lines, those that the first 1,000 lines have.
    """
    kind = table_kind(path)
    if kind == "parquet":
        vet_parquet([path])
        return list(pl.read_parquet_schema(path))
    if kind == "lines":
        with _open(path) as file:
            sample = (_parse_line(line) for line in itertools.islice(file, SAMPLED_LINES))
            return list(dict.fromkeys(name for record in sample for name in record or {}))
    names = next((row for _, row in _rows(path, kind)), [])
    return [name.split(":")[0] for name in names] if kind == "recbole" else names


def _read_fast(path: Path, kind: Kind, names: set[str]) -> pl.DataFrame:
    if kind == "parquet":
        return pl.read_parquet(path, columns=[n for n in column_names(path) if n in names])
    if path.stat().st_size == 0:
        return pl.DataFrame()
    is_packed(path)  # refuses what polars would unpack without a bound
    if kind == "lines":
        return pl.read_ndjson(path, schema=dict.fromkeys(sorted(names), pl.String))
    # All columns are read: with a part of them polars would not notice lines that are too long.
    return pl.read_csv(
        path,
        infer_schema=False,
        separator="," if kind == "csv" else "\t",
        quote_char=None if kind == "recbole" else '"',
    )


def _read_slowly(path: Path, kind: Kind, names: set[str]) -> pl.DataFrame:
    try:
        if kind == "lines":
            return _read_lines(path, names)
        rows = _rows(path, kind)
        _, header = next(rows, (0, []))
        if len(set(header)) < len(header):
            raise DataError(
                f"`{path}`: expected different column names, got {short(header)}; rename some"
            )
        records = []
        for line, row in rows:
            if row and len(row) != len(header):
                raise DataError(
                    f"`{path}`, line {line}: expected {len(header)} fields as in the header, "
                    f"got {len(row)}; put quotes around fields that contain the separator"
                )
            records.append([field or None for field in row] or [None] * len(header))
        return pl.DataFrame(records, schema=dict.fromkeys(header, pl.String), orient="row")
    except (OSError, EOFError, zlib.error) as err:
        raise DataError(
            f"`{path}`: expected a readable file, got {_first_line(err)}; write or fetch it again"
        ) from err


def _read_lines(path: Path, names: set[str]) -> pl.DataFrame:
    records: dict[str, list[str | None]] = {name: [] for name in sorted(names)}
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            record = _parse_line(line)
            if record is None:
                start = line.strip()[:40].decode("utf-8", "replace")
                raise DataError(
                    f"`{path}`, line {number}: expected one JSON object, got {start!r}; "
                    "correct or delete the line"
                )
            for name, values in records.items():
                values.append(as_text(record.get(name)))
    return pl.DataFrame(records, schema=dict.fromkeys(records, pl.String))


def _rows(path: Path, kind: Kind) -> Iterator[tuple[int, list[str]]]:
    """Give a text table's rows with the number of the line that each starts on."""
    csv.field_size_limit(FIELD_LIMIT)
    with _open(path) as file:
        reader = csv.reader(
            _decoded(path, file),
            delimiter="," if kind == "csv" else "\t",
            quoting=csv.QUOTE_NONE if kind == "recbole" else csv.QUOTE_MINIMAL,
            strict=True,
        )
        while True:
            start = reader.line_num + 1
            try:
                yield start, next(reader)
            except StopIteration:
                return
            except csv.Error as err:
                raise DataError(
                    f"`{path}`, line {start}: expected a row of fields, got {err}; "
                    "correct the quotes in it"
                ) from err


def _decoded(path: Path, file: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as err:
            raise DataError(
                f"`{path}`, line {number}: expected UTF-8, got byte {line[err.start]:#04x}; "
                "convert the file to UTF-8"
            ) from err


def _open(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path) if is_packed(path) else path.open("rb")


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """Read one JSON object, or a Python dict as in the Amazon files of 2014; None if it is not."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(line.decode().strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    return value if isinstance(value, dict) else None


def as_text(value: object) -> str | None:
    """Make a cell of a table of what JSON holds: text as it is, all else as JSON."""
    if isinstance(value, str):
        # polars holds UTF-8 only; ids that differ in halves of pairs stay different
        return re.sub(r"[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", value)
    return None if value is None else json.dumps(value)


def _no_column(path: Path, column: Column, names: list[str]) -> DataError:
    lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(column.name.lower(), lower, n=1, cutoff=0.5)
    advice = f", the nearest is {lower[near[0]]!r}" if near else ""
    have = ", ".join(map(short, names[:50])) or "none"
    have += f", and {len(names) - 50} more" if len(names) > 50 else ""
    return DataError(
        f"`{path}`: expected a column {column.name!r}, got the columns {have}; "
        f"set `{column.setting}`{advice}"
    )


def _first_line(err: Exception) -> str:
    return short_text(str(err).splitlines()[0], limit=200) if str(err) else type(err).__name__
