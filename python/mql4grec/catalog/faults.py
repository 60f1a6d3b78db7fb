"""Faults of events and items: counted, and either refused or dropped, as the settings say.

A fault is counted once, under the first of these that fits: missing values, bad timestamps,
duplicate rows, unknown items; users with too few events are looked for at the very end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from mql4grec.catalog.source import Source
from mql4grec.config import CatalogSettings
from mql4grec.errors import DataError, short

# ISO 8601; a zone is optional, without one a time is taken as UTC.
_TIME_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M")


@dataclass(frozen=True)
class Fault:
    """What is wrong with some rows, in the words of the message.

    Attributes:
        setting: The setting of room `catalog` that decides.
        expected: Instead of what there is.
        column: The column to look at ("user", "item", "time", "key"), None for the whole row.
    """

    setting: str
    expected: str
    column: str | None = None


def clean_items(source: Source, settings: CatalogSettings) -> tuple[pl.DataFrame, dict[str, int]]:
    """Drop or refuse items without a key, and all but the first of those with the same key.

    Args:
        source: With a table of items.
        settings: The policies for missing values and duplicate rows.

    Returns:
        The items, and the counts "items_without_id" and "duplicate_items".

    Raises:
        DataError: If there is such an item and the policy is "error".
    """
    items = source.items
    if items is None:
        raise ValueError("`source`: expected a table of items, got none")
    file = source.items_file or source.events_file
    items, n_keyless = settle(
        items,
        items["key"].is_null(),
        fault=Fault("missing_values", "the item's id", "key"),
        policy=settings.missing_values,
        file=file,
        columns=source.columns,
    )
    items, n_again = settle(
        items,
        ~items["key"].is_first_distinct(),
        fault=Fault("duplicate_rows", "each item once", "key"),
        policy=settings.duplicate_rows,
        file=file,
        columns=source.columns,
    )
    return items, {"items_without_id": n_keyless, "duplicate_items": n_again}


def clean_events(
    source: Source, settings: CatalogSettings, *, keys: pl.Series | None
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Drop or refuse faulty events.

    Args:
        source: The raw events.
        settings: The policies.
        keys: Of all known items; None if the events alone tell which items there are.

    Returns:
        The events that are left, in the order of the file, "time" as a number; and how many
        events had each fault.

    Raises:
        DataError: If there is a fault whose policy is "error".
    """
    place: dict[str, Any] = {
        "file": source.events_file,
        "where": source.where,
        "columns": source.columns,
    }
    counts: dict[str, int] = {}

    def check(events: pl.DataFrame, bad: pl.Series, fault: Fault) -> pl.DataFrame:
        policy = getattr(settings, fault.setting)
        events, n = settle(events, bad, fault=fault, policy=policy, **place)
        counts[fault.setting] = counts.get(fault.setting, 0) + n
        return events

    events = source.events
    for name in ("user", "item", "time"):
        if name in events.columns:
            missing = _missing(events[name])
            events = check(events, missing, Fault("missing_values", "a value", name))
    counts.update(bad_timestamps=0, duplicate_rows=0, unknown_items=0)
    if "time" in events.columns:
        times = parse_times(events["time"])
        fault = Fault("bad_timestamps", "a number or an ISO date", "time")
        events = check(events, times.is_null(), fault)
        events = events.with_columns(time=times.drop_nulls())
        again = ~events.select(pl.struct("user", "item", "time").is_first_distinct()).to_series()
        events = check(events, again, Fault("duplicate_rows", "each user, item and time once"))
    if keys is not None:
        unknown = ~events["item"].is_in(keys.implode())
        fault = Fault("unknown_items", f"an item of `{source.items_file}`", "item")
        events = check(events, unknown, fault)
    return events, counts


def settle(
    frame: pl.DataFrame,
    bad: pl.Series,
    *,
    fault: Fault,
    policy: Literal["drop", "error"],
    file: Path,
    where: str = "data row {row}",
    columns: Mapping[str, str] | None = None,
) -> tuple[pl.DataFrame, int]:
    """Drop the rows that have a fault, or refuse the file.

    Args:
        frame: (R) rows.
        bad: bool (R).
        fault: What is wrong with them.
        policy: Whether to refuse.
        file: For the message.
        where: A format string over the columns of `frame`.
        columns: What the file calls them.

    Returns:
        The other rows, and how many had the fault.

    Raises:
        DataError: If there are such rows and the policy is "error".
    """
    n_bad = int(bad.sum())
    if n_bad and policy == "error":
        first = frame.filter(bad).row(0, named=True)
        spelt = {n: v if isinstance(v, int) else short(v) for n, v in first.items()}
        place = f"`{file}`, {where.format(**spelt)}"
        if columns and fault.column and fault.column in columns:
            place += f", column `{columns[fault.column]}`"
        shown = tuple(first[c] for c in ("user", "item", "time") if c in first)
        got = first[fault.column] if fault.column else shown
        more = f" (and {n_bad - 1} more)" if n_bad > 1 else ""
        raise DataError(
            f"{place}: expected {fault.expected}, got {short(got)}{more}; "
            f'correct it or set `catalog.{fault.setting}` to "drop"'
        )
    return (frame.filter(~bad) if n_bad else frame), n_bad


def parse_times(column: pl.Series) -> pl.Series:
    """Read times as numbers: numbers as they are, in any unit; ISO dates as microseconds.

    A column of text holds either numbers or dates, whichever reads more of it; the others are
    bad, since their units would differ.

    Returns:
        int64 or float64; null where a value is neither.
    """
    if column.dtype.is_temporal():
        return column.dt.epoch("us")
    if column.dtype.is_integer():
        return column.cast(pl.Int64, strict=False)
    text = column.cast(pl.String).str.strip_chars()
    numbers = text.cast(pl.Float64, strict=False)
    numbers = numbers.set(~numbers.is_finite(), None)
    if numbers.null_count():
        dates = _parse_dates(text)
        if dates.null_count() < numbers.null_count():
            return dates
    whole = text.cast(pl.Int64, strict=False)  # floats cannot tell nanoseconds apart
    return whole if whole.null_count() == numbers.null_count() else numbers


def _parse_dates(text: pl.Series) -> pl.Series:
    normal = (
        pl.col("t").str.replace(r"^(\d{4}-\d{2}-\d{2}) +", "${1}T").str.replace(r"Z$", "+00:00")
    )
    readings = [pl.col("t").str.to_date("%Y-%m-%d", strict=False).dt.epoch("us")]
    for form in _TIME_FORMATS:
        for zone in ("", "%z"):
            time = pl.col("t").str.to_datetime(form + zone, strict=False, time_unit="us")
            readings.append(time.dt.epoch("us"))
    return text.to_frame("t").select(normal).select(pl.coalesce(readings)).to_series()


def _missing(column: pl.Series) -> pl.Series:
    if column.dtype.is_float():
        return column.is_null() | column.is_nan()
    if column.dtype == pl.String:
        return column.is_null() | (column.str.strip_chars() == "")
    return column.is_null()
