"""Histories to recommend for, as users give them: JSON lines or Parquet; and lists of item ids.

{"history": ["item-7", "item-42"], "only": ["item-1", "item-2"], "without": ["item-1"]}
["item-7", "item-42"]
"""

from __future__ import annotations

import itertools
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from mql4grec.artifacts import vet_parquet
from mql4grec.errors import DataError, short, short_text

if TYPE_CHECKING:
    import polars as pl

FIELDS = ("user_id", "history", "only", "without")
LINES = ("", ".json", ".jsonl", ".ndjson")  # no suffix: a pipe
STANDARD_INPUT = Path("-")
LONGEST_LINE = 1 << 26  # characters
PART = 1 << 14  # rows of a table that are in memory together


@dataclass(frozen=True)
class Request:
    """One history to recommend for.

    Attributes:
        history: Item ids, oldest first.
        only: Item ids; no others are recommended. None: all items.
        without: Item ids that are not recommended.
        user_id: Whose history it is; goes through to the answer.
        place: Where it stands, for messages.
    """

    history: tuple[str, ...]
    only: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    user_id: str | None = None
    place: str = "histories"


def read_requests(path: Path) -> Iterator[Request]:
    """Read histories one by one.

    They are never all in memory; of a Parquet file some thousand are, best in row groups of no more
    than some hundred thousand rows, since a group is decoded anew for each part of it.

    Args:
        path: JSON lines, possibly gzipped, each a list of item ids or an object with the fields
            `history` and, as far as wanted, `only`, `without` and `user_id`; or Parquet with these
            columns, all but `user_id` lists; `-` is standard input, JSON lines.

    Yields:
        Requests in the order of the file.

    Raises:
        DataError: If the file is missing or malformed, has an unknown suffix or no history.
    """
    if path.suffix == ".parquet":
        found = _read_parquet(path)
    elif path == STANDARD_INPUT or Path(path.name.removesuffix(".gz")).suffix in LINES:
        found = _read_lines(path)
    else:
        raise DataError(
            f"`{path}`: expected a name ending in .jsonl, .ndjson or .json (JSON lines, possibly "
            f".gz) or .parquet, got {path.name!r}; rename or convert the file"
        )
    first = next(found, None)
    if first is None:
        raise DataError(f"`{path}`: expected at least one history, got none; give one per line")
    yield first
    yield from found


def read_item_ids(path: Path) -> list[str]:
    """Read item ids from a text file, one a line; blank lines are skipped.

    Raises:
        DataError: If the file is missing, not UTF-8, or has no item id.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(
            f"`{path}`: expected a text file, an item id in each line, got {err}; check the path"
        ) from err
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise DataError(f"`{path}`: expected at least one item id, got none; leave the option out")
    return found


def _read_lines(path: Path) -> Iterator[Request]:
    name = "standard input" if path == STANDARD_INPUT else str(path)
    number = 0
    try:
        with _open(path) as lines:
            for number, line in enumerate(_bounded(lines, name), start=1):
                if line.strip():
                    yield _parse(line, place=f"`{name}`, line {number}")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as err:
        after = f" after line {number}" if number else ""
        raise DataError(
            f"`{name}`: expected a file of JSON lines in UTF-8, got {err}{after}; check the file"
        ) from err


def _bounded(lines: TextIO, name: str) -> Iterator[str]:
    """Give lines one by one; a compressed one of a few bytes may be longer than the memory."""
    for number in itertools.count(1):
        line = lines.readline(LONGEST_LINE + 1)
        if not line:
            return
        if len(line) > LONGEST_LINE:
            raise DataError(
                f"`{name}`, line {number}: expected at most {LONGEST_LINE:,} characters, got more; "
                "write one history in each line"
            )
        yield line


def _open(path: Path) -> AbstractContextManager[TextIO]:
    if path == STANDARD_INPUT:
        return nullcontext(sys.stdin)
    if path.suffix == ".gz":
        import gzip

        return cast("AbstractContextManager[TextIO]", gzip.open(path, "rt", encoding="utf-8"))
    return path.open(encoding="utf-8-sig")


def _parse(line: str, *, place: str) -> Request:
    try:
        value = json.loads(line, object_pairs_hook=_each_once)
    except _KeyTwiceError as err:
        raise DataError(f"{place}: expected every field once, got {err} twice; drop one") from err
    except (ValueError, RecursionError) as err:
        raise DataError(
            f"{place}: expected JSON, got {line[:60]!r}; correct or delete the line"
        ) from err
    if isinstance(value, list):
        value = {"history": value}
    if not isinstance(value, dict):
        raise DataError(
            f"{place}: expected a list of item ids or an object, got {line[:60]!r}; "
            'write ["ID", "ID"] or {"history": ["ID", "ID"]}'
        )
    return _request(value, place=place)


class _KeyTwiceError(Exception):
    pass


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _KeyTwiceError(short(next(name for name in names if names.count(name) > 1)))
    return found


def _read_parquet(path: Path) -> Iterator[Request]:
    rows = itertools.chain.from_iterable(part.iter_rows(named=True) for part in _parts(path))
    for number, row in enumerate(rows, start=1):
        yield _request(row, place=f"`{path}`, row {number}")


def _parts(path: Path) -> Iterator[pl.DataFrame]:
    """Read a table of histories some rows at a time.

    By slices and not by `collect_batches`, which reads ahead until the whole table is in memory.
    """
    import polars as pl

    if not path.is_file():
        raise DataError(f"`{path}`: expected a Parquet file, got No such file; check the path")
    vet_parquet([path])
    try:
        table = pl.scan_parquet(path, glob=False)
        columns = _columns(table.collect_schema(), path)
        n_rows = table.select(pl.len()).collect().item()
        for start in range(0, n_rows, PART):
            yield table.select(columns).slice(start, PART).collect()
    except (OSError, pl.exceptions.PolarsError) as err:
        message = short_text(str(err).splitlines()[0])
        raise DataError(
            f"`{path}`: expected a Parquet file, got {message}; check the file"
        ) from err


def _columns(schema: pl.Schema, path: Path) -> list[str]:
    """List the columns of a table that say something about a request, checked."""
    import polars as pl

    columns = [name for name in FIELDS if name in schema]
    if "history" not in columns:
        raise DataError(
            f"`{path}`: expected a column 'history' with lists of item ids, got the columns "
            f"{schema.names()}; rename one"
        )
    for name in columns:
        dtype = schema[name]
        inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else None
        kind = dtype if name == "user_id" else inner
        if kind is None or not (kind in (pl.String, pl.Categorical) or kind.is_integer()):
            raise DataError(
                f"`{path}`, column {name!r}: expected "
                f"{'ids' if name == 'user_id' else 'lists of item ids'}, strings or whole numbers, "
                f"got {dtype}; convert the column"
            )
    return columns


def _request(record: dict[str, Any], *, place: str) -> Request:
    """Check the fields of one request; what is null is not there."""
    if unknown := [name for name in record if name not in FIELDS]:
        raise DataError(
            f"{place}: expected the fields {', '.join(FIELDS)}, got {short(unknown[0])}; "
            "rename or remove it"
        )
    user_id = record.get("user_id")
    if user_id is not None and not _is_id(user_id):
        raise DataError(
            f"{place}, `user_id`: expected a string or a whole number, got {short(user_id)}; "
            "change it"
        )
    only = record.get("only")
    return Request(
        history=_ids(record.get("history"), f"{place}, `history`"),
        only=None if only is None else _ids(only, f"{place}, `only`"),
        without=_ids(record.get("without") or [], f"{place}, `without`"),
        user_id=None if user_id is None else str(user_id),
        place=place,
    )


def _ids(value: Any, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(map(_is_id, value)):
        raise DataError(
            f"{place}: expected a list of item ids, strings or whole numbers, got "
            f"{json.dumps(value)[:60]}; correct it"
        )
    return tuple(map(str, value))


def _is_id(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)
