"""From a user's files to a catalog: read, clean, filter, number, write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mql4grec.artifacts import write_json
from mql4grec.catalog.faults import Fault, clean_events, clean_items, settle
from mql4grec.catalog.filtering import MIN_EVENTS, draw_items, hide, in_time_order, k_core, number
from mql4grec.catalog.layout import save
from mql4grec.catalog.pictures import Fence, root_of
from mql4grec.catalog.readers import read_source
from mql4grec.catalog.records import Catalog, Histories
from mql4grec.catalog.source import Source
from mql4grec.catalog.text import clean_text, join_texts
from mql4grec.config import CatalogSettings, DatasetSettings
from mql4grec.errors import DataError
from mql4grec.runtime import SILENT, Journal


def prepare(
    dataset: DatasetSettings,
    settings: CatalogSettings,
    *,
    folder: Path,
    seed: int,
    journal: Journal = SILENT,
) -> Catalog:
    """Read a shop's files, clean them, filter them, and write them as the authors lay them out.

    Rows are stable: items keep the order of the table of items, or, without one, of their first
    event; users that of their first event in the file. With k_core 0 all items of the table stay,
    also those without an event; otherwise those that the k-core leaves. Data in the authors'
    layout pass no k-core and keep all rows, since index files refer to them.

    Args:
        dataset: Where the files are and what is called how.
        settings: k-core, and what happens to each kind of fault.
        folder: `RUN/catalog/NAME`; gets NAME.inter.json, NAME.item.json, NAME.item2id,
            NAME.user2id and counts.json: {"rows_read", "items_read", "faults": {name: n},
            "before_k_core" and "after_k_core": {"users", "items", "events"} without and with the
            k-core and the short users' removal, "items" of the catalog, "items_without_text",
            "items_without_picture"}; with cold items "cold" too: how many "items" they are, and
            the "events" and "users" that went for them.
        seed: Of the demo shop, and of the cold items.
        journal: Told of the counts.

    Returns:
        The shop, as `load` gives it.

    Raises:
        ConfigError: If a setting that the format needs is missing.
        DataError: If a file is missing or malformed, a fault is to be refused, or nothing is left.
    """
    source = read_source(dataset, folder=folder, seed=seed, journal=journal)
    items, faults = (None, {}) if source.items is None else clean_items(source, settings)
    keys = None if items is None else items["key"]
    events, event_faults = clean_events(source, settings, keys=keys)
    before = _sizes(events)
    events, faults["short_users"] = _select(events, source, settings)
    counts: dict[str, Any] = {
        "rows_read": len(source.events),
        "items_read": 0 if source.items is None else len(source.items),
        "faults": event_faults | faults,
        "before_k_core": before,
        "after_k_core": _sizes(events),
    }
    _refuse_empty(source, settings, counts)
    kept = _kept_items(items, events, all_stay=source.complete or settings.k_core == 0)
    if settings.cold_items:
        events, counts["cold"] = _hide_cold(events, source, settings, seed=seed)
    images, n_outside = _images(kept, source=source, folder=folder, outside=dataset.images_outside)
    catalog, descriptions = _build(dataset.name, events, kept, images=images, journal=journal)
    save(catalog, descriptions=descriptions, folder=folder)
    counts["items"] = catalog.n_items
    counts["items_without_text"] = catalog.texts.count("")
    counts["items_without_picture"] = catalog.images.count(None)
    counts["pictures_outside"] = n_outside
    if n_outside:
        journal.say(
            f"{dataset.name}: {n_outside:,} pictures lie outside the shop's folder and are left "
            "out; `images_outside: true` of the data set opens them"
        )
    write_json(folder / "counts.json", counts)
    journal.log("catalog.prepared", dataset=dataset.name, **counts)
    return catalog


def _select(
    events: pl.DataFrame, source: Source, settings: CatalogSettings
) -> tuple[pl.DataFrame, int]:
    """Apply the k-core, then look for users who are too short for the split."""
    k = 0 if source.complete else settings.k_core
    events = _core(events, user_min=k, item_min=k)
    # True at the first event of each of them, so that users are counted
    short = pl.len().over("user") < MIN_EVENTS, pl.col("user").is_first_distinct()
    _, n_short = settle(
        events,
        events.select(pl.all_horizontal(short)).to_series(),
        fault=Fault("short_users", f"a user with at least {MIN_EVENTS} events", "user"),
        policy=settings.short_users,
        file=source.events_file,
        where=source.where,
        columns=source.columns,
    )
    if not n_short:
        return events, 0
    # Only with a k below 3; items that lose events with these users may fall below k.
    left = _core(events, user_min=MIN_EVENTS, item_min=k)
    return left, events["user"].n_unique() - left["user"].n_unique()


def _core(events: pl.DataFrame, *, user_min: int, item_min: int) -> pl.DataFrame:
    users = number(events["user"], events["user"].unique())
    items = number(events["item"], events["item"].unique())
    return events.filter(pl.Series(k_core(users, items, user_min=user_min, item_min=item_min)))


def _hide_cold(
    events: pl.DataFrame, source: Source, settings: CatalogSettings, *, seed: int
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Leave out what training is not to know of the items that are drawn to be cold."""
    cold = draw_items(events, settings.cold_items, seed=seed)
    left = hide(events, cold)
    before, after = _sizes(events), _sizes(left)
    if not after["users"]:
        raise DataError(
            f"`{source.events_file}`: expected users with {MIN_EVENTS} events without those of "
            f"cold items, got none of {before['users']}; lower `catalog.cold_items`"
        )
    gone = {name: before[name] - after[name] for name in ("users", "events")}
    return left, {"items": len(cold), **gone}


def _kept_items(
    items: pl.DataFrame | None, events: pl.DataFrame, *, all_stay: bool
) -> pl.DataFrame:
    """Give the items of the catalog in the order of their rows (N)."""
    if items is None:
        keys = events["item"].unique(maintain_order=True)
        return pl.DataFrame({"key": keys, "item_id": keys})
    return items if all_stay else items.filter(pl.col("key").is_in(events["item"].implode()))


def _build(
    name: str,
    events: pl.DataFrame,
    items: pl.DataFrame,
    *,
    images: Sequence[Path | None],
    journal: Journal,
) -> tuple[Catalog, list[str]]:
    """Number users and items; give the catalog and the descriptions (N)."""
    user_ids = events["user"].unique(maintain_order=True)
    users = number(events["user"], user_ids)
    order = in_time_order(events, users)
    titles, descriptions = _texts(items, name=name, journal=journal)
    catalog = Catalog(
        name=name,
        item_ids=tuple(items["item_id"]),
        user_ids=tuple(user_ids),
        titles=tuple(titles),
        texts=tuple(join_texts(pair) for pair in zip(titles, descriptions, strict=True)),
        images=tuple(images),
        histories=Histories(
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(users))]),
            items=number(events["item"], items["key"])[order].astype(np.int32),
        ),
    )
    return catalog, descriptions


def _texts(items: pl.DataFrame, *, name: str, journal: Journal) -> tuple[list[str], list[str]]:
    """Clean titles and descriptions: (N) each."""
    parts = [column for column in items.columns if column.startswith("part")]
    titles: list[str] = []
    descriptions: list[str] = []
    with journal.track(f"{name}: clean texts", total=len(items)) as advance:
        for row in items.iter_rows(named=True):
            titles.append(clean_text(row.get("title") or ""))
            descriptions.append(join_texts(clean_text(row[part] or "") for part in parts))
            advance(1)
    return titles, descriptions


def _images(
    items: pl.DataFrame, *, source: Source, folder: Path, outside: bool
) -> tuple[list[Path | None], int]:
    """Name every item's picture, inside `folder` relative to it, else absolute (N).

    Also counts those that lead out of the shop's folder, and are none.
    """
    pattern_root = root_of(source.image_pattern or "")
    fences = {root: Fence(root) for root in (source.image_folder, pattern_root)}
    n_outside = 0
    given = items["image"].to_list() if "image" in items.columns else [None] * len(items)
    paths: list[Path | None] = []
    for item_id, value in zip(items["item_id"], given, strict=True):
        if value and not value.startswith(("http://", "https://")):  # nothing is downloaded
            path, root = source.image_folder / value, source.image_folder
        elif source.image_pattern is not None:
            path = Path(source.image_pattern.replace("{item_id}", item_id))
            root = pattern_root
        else:
            paths.append(None)
            continue
        if not outside and not fences[root].encloses(path):
            n_outside += 1
            paths.append(None)
            continue
        paths.append(path if path.is_relative_to(folder) else path.absolute())
    return paths, n_outside


def _sizes(events: pl.DataFrame) -> dict[str, int]:
    return {
        "users": events["user"].n_unique(),
        "items": events["item"].n_unique(),
        "events": len(events),
    }


def _refuse_empty(source: Source, settings: CatalogSettings, counts: dict[str, Any]) -> None:
    if counts["after_k_core"]["events"]:
        return
    dropped = ", ".join(f"{name} {n}" for name, n in counts["faults"].items() if n)
    k = 0 if source.complete else settings.k_core
    raise DataError(
        f"`{source.events_file}`: expected histories, got none: {counts['rows_read']} rows read, "
        f"dropped: {dropped or 'none'}, {counts['before_k_core']['events']} events before the "
        f"{k}-core and the users with fewer than {MIN_EVENTS} events; "
        "check the columns or lower `catalog.k_core`"
    )
