"""What every format is brought to before it is cleaned: one table of events, one of items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl


@dataclass(frozen=True)
class Source:
    """The raw tables of one shop.

    Attributes:
        events: Columns "row" (int64), "user", "item" (text, the item's key), and "time" unless the
            order of the rows is the order in time.
        items: Columns "row", "key" (what events refer to), "item_id" (what the item is called
            outside), and where there are any "title", "part0", "part1", … (of the description),
            "image"; None if the shop has no table of items.
        events_file: For messages.
        items_file: For messages.
        where: How messages name an event's place: a format string over its columns.
        columns: What the files call our "user", "item", "time" and "key"; None if they have no
            columns.
        image_folder: What relative paths in "image" are relative to.
        image_pattern: Path of the pictures of items that have nothing in "image".
        complete: The rows are those of given files that others refer to, so that no item goes.
    """

    events: pl.DataFrame
    items: pl.DataFrame | None
    events_file: Path
    items_file: Path | None
    where: str = "data row {row}"
    columns: Mapping[str, str] | None = None
    image_folder: Path = Path()
    image_pattern: str | None = None
    complete: bool = False
