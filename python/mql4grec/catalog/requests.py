"""Histories to recommend for, as users give them: JSON lines or Parquet; and lists of item ids.

{"history": ["item-7", "item-42"], "only": ["item-1", "item-2"], "without": ["item-1"]}
["item-7", "item-42"]
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mql4grec.errors import DataError

FIELDS = ("user_id", "history", "only", "without")
LINES = ("", ".json", ".jsonl", ".ndjson")  # no suffix: a pipe
STANDARD_INPUT = Path("-")


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

    JSON lines are never in memory together; a Parquet file is.

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
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _parse(line, place=f"`{name}`, line {number}")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as err:
        after = f" after line {number}" if number else ""
        raise DataError(
            f"`{name}`: expected a file of JSON lines in UTF-8, got {err}{after}; check the file"
        ) from err


def _open(path: Path) -> AbstractContextManager[Iterable[str]]:
    if path == STANDARD_INPUT:
        return nullcontext(sys.stdin)
    if path.suffix == ".gz":
        import gzip

        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8-sig")


def _parse(line: str, *, place: str) -> Request:
    try:
        value = json.loads(line)
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


def _read_parquet(path: Path) -> Iterator[Request]:
    import polars as pl

    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as err:
        message = str(err).splitlines()[0]
        raise DataError(
            f"`{path}`: expected a Parquet file, got {message}; check the file"
        ) from err
    columns = [name for name in FIELDS if name in table.columns]
    if "history" not in columns:
        raise DataError(
            f"`{path}`: expected a column 'history' with lists of item ids, got the columns "
            f"{table.columns}; rename one"
        )
    for name in columns:
        dtype = table.schema[name]
        inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else None
        kind = dtype if name == "user_id" else inner
        if kind is None or not (kind in (pl.String, pl.Categorical) or kind.is_integer()):
            raise DataError(
                f"`{path}`, column {name!r}: expected "
                f"{'ids' if name == 'user_id' else 'lists of item ids'}, strings or whole numbers, "
                f"got {dtype}; convert the column"
            )
    rows = table.select(columns).iter_rows(named=True)
    for number, row in enumerate(rows, start=1):
        yield _request(row, place=f"`{path}`, row {number}")


def _request(record: dict[str, Any], *, place: str) -> Request:
    """Check the fields of one request; what is null is not there."""
    if unknown := [name for name in record if name not in FIELDS]:
        raise DataError(
            f"{place}: expected the fields {', '.join(FIELDS)}, got {unknown[0]!r}; "
            "rename or remove it"
        )
    user_id = record.get("user_id")
    if user_id is not None and not _is_id(user_id):
        raise DataError(
            f"{place}, `user_id`: expected a string or a whole number, got {user_id!r}; change it"
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
