"""One function per layout of files; each gives the same two tables.

RecBole, Amazon and the demo shop are tables with other defaults, so they only change settings. A
column or file that the settings name has to be there; one that is only a default may be absent
if it describes items.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from mql4grec.catalog.layout import read_authors
from mql4grec.catalog.source import Source
from mql4grec.catalog.tables import Column, column_names, read_table
from mql4grec.config import DatasetSettings
from mql4grec.errors import ConfigError
from mql4grec.runtime import Journal

AMAZON_2018 = {
    "user_column": "reviewerID",
    "item_column": "asin",
    "time_column": "unixReviewTime",
    "item_id_column": "asin",
}
AMAZON_2023 = {
    "user_column": "user_id",
    "item_column": "parent_asin",
    "time_column": "timestamp",
    "item_id_column": "parent_asin",
}


def read_source(dataset: DatasetSettings, *, folder: Path, seed: int, journal: Journal) -> Source:
    """Read a shop in any of the formats.

    Args:
        dataset: Where the files are and what is called how.
        folder: Where the demo shop is put, in "shop".
        seed: Of the demo shop.
        journal: Told of the demo shop's making.

    Raises:
        ConfigError: If a setting that the format needs is missing.
        DataError: If a file is missing, malformed, or lacks a column.
    """
    match dataset.format:
        case "tables":
            return _tables(dataset)
        case "recbole":
            return _recbole(dataset)
        case "amazon2018":
            return _tables(_with_defaults(dataset, AMAZON_2018))
        case "amazon2023":
            return _amazon2023(dataset)
        case "authors":
            return _authors(dataset)
        case "demo":
            return _demo(dataset, folder=folder / "shop", seed=seed, journal=journal)


def _tables(dataset: DatasetSettings) -> Source:
    if dataset.interactions is None:
        raise _missing_setting(dataset, "interactions")
    columns = {
        "user": Column(dataset.user_column, "user_column"),
        "item": Column(dataset.item_column, "item_column"),
    }
    if dataset.time_column is not None:
        columns["time"] = Column(dataset.time_column, "time_column")
    events = read_table(dataset.interactions, columns=columns)
    items = None
    if dataset.items is not None:
        items = _texts_only(read_table(dataset.items, columns=_item_columns(dataset)), time=False)
        items = items.with_columns(item_id="key")
    return Source(
        events=_texts_only(events, time=True),
        items=items,
        events_file=dataset.interactions,
        items_file=dataset.items,
        columns={
            **{name: column.name for name, column in columns.items()},
            "key": dataset.item_id_column,
        },
        image_folder=dataset.items.parent if dataset.items else Path(),
        image_pattern=_image_pattern(dataset),
    )


def _item_columns(dataset: DatasetSettings) -> dict[str, Column]:
    given = dataset.model_fields_set
    columns = {"key": Column(dataset.item_id_column, "item_id_column")}
    if dataset.title_column is not None:
        columns["title"] = Column(dataset.title_column, "title_column", "title_column" in given)
    for number, name in enumerate(dataset.description_columns):
        required = "description_columns" in given
        columns[f"part{number}"] = Column(name, "description_columns", required)
    if dataset.image_column is not None:
        columns["image"] = Column(dataset.image_column, "image_column")
    return columns


def _recbole(dataset: DatasetSettings) -> Source:
    if dataset.root is None:
        raise _missing_setting(dataset, "root")
    stem = dataset.root / dataset.name
    items = stem / f"{dataset.name}.item"
    files = {
        "interactions": stem / f"{dataset.name}.inter",
        "items": items if items.exists() else None,
    }
    return _tables(_with_defaults(dataset, files))


def _amazon2023(dataset: DatasetSettings) -> Source:
    if dataset.interactions is None:
        raise _missing_setting(dataset, "interactions")
    columns = dict(AMAZON_2023)
    if "parent_asin" not in column_names(dataset.interactions):
        columns["item_column"] = "asin"
    return _tables(_with_defaults(dataset, columns))


def _authors(dataset: DatasetSettings) -> Source:
    if dataset.root is None:
        raise _missing_setting(dataset, "root")
    columns = _item_columns(dataset)
    if "image" not in columns:  # as our own files have it
        columns["image"] = Column("image", "image_column", required=False)
    return read_authors(
        dataset.root / dataset.name,
        name=dataset.name,
        columns={name: column for name, column in columns.items() if name != "key"},
        image_pattern=_image_pattern(dataset),
    )


def _demo(dataset: DatasetSettings, *, folder: Path, seed: int, journal: Journal) -> Source:
    from mql4grec import demo  # draws pictures, which no other format needs

    demo.make_shop(
        folder, n_items=dataset.n_items, n_users=dataset.n_users, seed=seed, journal=journal
    )
    files = {
        "interactions": folder / "interactions.csv",
        "items": folder / "items.csv",
        "image_column": "image",
    }
    return _tables(_with_defaults(dataset, files))


def _with_defaults(dataset: DatasetSettings, defaults: Mapping[str, Any]) -> DatasetSettings:
    """Give the settings with other defaults; what the user has set stays."""
    given = dataset.model_fields_set
    return dataset.model_copy(update={k: v for k, v in defaults.items() if k not in given})


def _texts_only(frame: pl.DataFrame, *, time: bool) -> pl.DataFrame:
    """Make text of all columns but "row" and, with `time`, "time"."""
    kept = {"row", "time"} if time else {"row"}
    return frame.with_columns(_as_text(frame[name]) for name in frame.columns if name not in kept)


def _as_text(column: pl.Series) -> pl.Series:
    if column.dtype.is_float():  # pandas makes floats of ids as soon as one is missing
        whole = column.cast(pl.Int64, strict=False)
        column = whole if (whole == column).all() else column
    if isinstance(column.dtype, pl.List):
        column = column.cast(pl.List(pl.String)).list.join(" ", ignore_nulls=True)
    text = column.cast(pl.String).str.strip_chars()
    return text.set(text == "", None)


def _image_pattern(dataset: DatasetSettings) -> str | None:
    if dataset.images is not None and "{item_id}" not in dataset.images:
        raise ConfigError(
            f"`images` of data set {dataset.name!r}: expected a path that contains '{{item_id}}', "
            f"got {dataset.images!r}; put it where the file names differ"
        )
    if "\0" in (dataset.images or ""):
        raise ConfigError(
            f"`images` of data set {dataset.name!r}: expected a path, got {dataset.images!r}; "
            "take the character NUL out"
        )
    return dataset.images


def _missing_setting(dataset: DatasetSettings, name: str) -> ConfigError:
    return ConfigError(
        f"`{name}` of data set {dataset.name!r}: expected a path for format "
        f"{dataset.format!r}, got None; set it"
    )
