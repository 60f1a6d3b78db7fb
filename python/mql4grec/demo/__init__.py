"""The demo shop: real picture files, titles, descriptions and histories, made from a seed.

This room knows how the shop comes about; to the rest of the package its files are a shop like any
other. The process, all of it drawn from one seed:

1. A collection of about 20 items has a family (kitchen, living, travel, garden), a maker, a use,
   two colours and a pattern. An item adds category (four per family), size, shade and material.
2. A picture shows category (silhouette), size, colour, shade and pattern. A text tells category,
   size, colour, material, maker and use. So both tell a collection, each by means that the other
   lacks: pattern and shade are only seen; material, maker and use are only read.
3. A user starts in a collection and mostly stays there, going through the family's categories in
   order; sometimes moves on to a collection of the same maker or look, sometimes goes back, and
   sometimes takes a popular item from anywhere. Nobody takes an item twice. Popularity is
   log-normal with sigma 0.5: mildly skewed.
4. About 1 % of the pictures are cut short, 1 % are missing, and 0.5 % of the items have no text, as
   in every real shop.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mql4grec.artifacts import atomic_path, remove, write_json
from mql4grec.demo.histories import make_events
from mql4grec.demo.items import (
    Collection,
    Item,
    description_of,
    make_collections,
    make_items,
    title_of,
)
from mql4grec.demo.pictures import draw_picture
from mql4grec.runtime import SILENT, Journal

MARKER = "shop.json"
PROCESS = 1  # raised when the same seed gives another shop
BROKEN = 0.01  # part of the pictures that are cut short
GONE = 0.01  # part of the pictures that are missing
WORDLESS = 0.005  # part of the items without title and description


def make_shop(
    folder: Path, *, n_items: int, n_users: int, seed: int, journal: Journal = SILENT
) -> None:
    """Make the demo shop's files, unless the folder holds just this shop already.

    Writes `items.csv` (item_id, title, description, image: path relative to the table),
    `interactions.csv` (user_id, item_id, timestamp in seconds) and `images/`. The same arguments
    give the same bytes. A marker is written last; an interrupted shop is made again from the start.

    Args:
        folder: Where the files go.
        n_items: Number of items N.
        n_users: Number of users U, of 6 to 15 events each.
        seed: Of everything that is drawn.
        journal: Where progress is told.

    Raises:
        ValueError: If `n_items` or `n_users` is not positive.
    """
    for name, value in (("n_items", n_items), ("n_users", n_users)):
        if value < 1:
            raise ValueError(f"`{name}`: expected a positive number, got {value}")
    marker = folder / MARKER
    facts = {"process": PROCESS, "n_items": n_items, "n_users": n_users, "seed": seed}
    if marker.exists():
        with contextlib.suppress(ValueError):  # cut short: made again
            if json.loads(marker.read_text(encoding="utf-8")) == facts:
                return
        marker.unlink()  # of another shop of ours; it goes first, so that no half shop has one
        remove(folder / "images")
    # A stream of its own for each part: more users do not change the pictures.
    for_items, for_images, for_events = (np.random.default_rng([seed, part]) for part in range(3))
    collections = make_collections(n_items, generator=for_items)
    items = make_items(n_items, collections, generator=for_items)
    _write_images(folder, items, collections=collections, generator=for_images, journal=journal)
    wordless = _some(n_items, WORDLESS, generator=for_items)
    _write_items(folder / "items.csv", items, collections=collections, wordless=wordless)
    events = make_events(items, collections, n_users=n_users, generator=for_events)
    _write_table(folder / "interactions.csv", ("user_id", "item_id", "timestamp"), rows=events)
    write_json(marker, facts)
    journal.log("demo.made", n_items=n_items, n_users=n_users, n_events=len(events))


def _image_path(item: Item) -> str:
    """Give the picture's path; every third is a JPEG, so that both formats are met."""
    suffix = "jpg" if int(item.item_id.removeprefix("item-")) % 3 == 0 else "png"
    return f"images/{item.item_id}.{suffix}"


def _write_images(
    folder: Path,
    items: Sequence[Item],
    *,
    collections: Sequence[Collection],
    generator: np.random.Generator,
    journal: Journal,
) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    gone = _some(len(items), GONE, generator=generator)
    broken = _some(len(items), BROKEN, generator=generator) - gone
    with journal.track("drawing pictures", total=len(items)) as advance:
        for row, item in enumerate(items):
            path = folder / _image_path(item)
            look = collections[item.collection]
            draw_picture(path, item, collection=look, generator=generator)
            if row in gone:
                path.unlink()
            elif row in broken:
                content = path.read_bytes()
                path.write_bytes(content[: len(content) // 2])
            advance(1)


def _write_items(
    path: Path, items: Sequence[Item], *, collections: Sequence[Collection], wordless: set[int]
) -> None:
    rows = []
    for row, item in enumerate(items):
        collection = collections[item.collection]
        title, description = title_of(item, collection), description_of(item, collection)
        words = ("", "") if row in wordless else (title, description)
        rows.append((item.item_id, *words, _image_path(item)))
    _write_table(path, ("item_id", "title", "description", "image"), rows=rows)


def _some(n: int, part: float, *, generator: np.random.Generator) -> set[int]:
    """Draw a part of the rows, rounded."""
    return set(generator.choice(n, size=round(n * part), replace=False).tolist())


def _write_table(path: Path, header: Sequence[str], *, rows: Iterable[Sequence[str | int]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
