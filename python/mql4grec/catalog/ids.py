"""Source keys of rows: `NAME.item2id` and `NAME.user2id`, as the authors write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mql4grec.artifacts import atomic_path
from mql4grec.errors import DataError, short

LONGEST_ROW = 18  # digits; Python refuses to read thousands of them


def is_row(text: str) -> bool:
    """Whether a text is a row: a whole number from 0, not longer than any row can be."""
    return text.isascii() and text.isdigit() and len(text) <= LONGEST_ROW


def read_ids(path: Path) -> list[str]:
    """Read the source key of every row.

    Raises:
        DataError: If a line is not a key, a tab and a row, or keys or rows are not distinct.
    """
    names: dict[int, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as err:
        raise DataError(f"`{path}`: expected UTF-8, got {err}; convert the file") from err
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        name, _, row = line.rstrip("\r").rpartition("\t")
        if not name or not is_row(row) or int(row) in names:
            raise DataError(
                f"`{path}`, line {number}: expected a name, a tab and a row of its own, "
                f"got {short(line)}; correct the line"
            )
        names[int(row)] = name
    found = [names[row] for row in sorted(names)]
    if found and max(names) != len(names) - 1:
        raise DataError(
            f"`{path}`: expected the rows 0 to {len(names) - 1}, got {max(names)}; "
            "number the lines without gaps"
        )
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise DataError(f"`{path}`: expected different names, got {short(twice)} twice; rename one")
    return found


def write_ids(path: Path, names: Sequence[str]) -> None:
    """Write the source key of every row, as the authors do: key, tab, row.

    Raises:
        DataError: If a key has a tab or a line break.
    """
    bad = next((name for name in names if "\t" in name or "\n" in name), None)
    if bad is not None:
        raise DataError(
            f"`{path.name}`: expected names without tabs and line breaks, got "
            f"{short(bad)}; rename it"
        )
    with atomic_path(path) as temporary:
        lines = (f"{name}\t{row}\n" for row, name in enumerate(names))
        temporary.write_text("".join(lines), encoding="utf-8", newline="\n")
