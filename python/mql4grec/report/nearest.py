"""Some items with their nearest, by embedding and by codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mql4grec.config import Modality
from mql4grec.report.examples import item_card, shelf
from mql4grec.report.markup import NOTHING, Html, element, paragraph, section, text
from mql4grec.report.record import ReportData

if TYPE_CHECKING:
    from mql4grec.catalog import Catalog

NOTE = (
    "Items drawn at random. By embedding: the nearest by Euclidean distance, with the number of "
    "codes that they share with the item from the first on. By codes: those with the longest "
    "common prefix, of equally long ones those whose codes' vectors add up to what is nearest."
)
DOT = "\u00b7"


def nearest(data: ReportData) -> Html:
    """Show items and their nearest with titles and pictures."""
    if data.catalog is None:
        return NOTHING
    found: dict[int, list[Html]] = {}
    for modality, figures in data.quality.items():
        for example in figures["examples"]:
            shelves = _shelves(data, data.catalog, modality=modality, example=example)
            found.setdefault(example["item"], []).extend(shelves)
    if not found:
        return NOTHING
    articles = [_article(data, data.catalog, item, shelves) for item, shelves in found.items()]
    return section("nearest", "Nearest items", paragraph(NOTE), *articles)


def _article(data: ReportData, catalog: Catalog, item: int, shelves: Sequence[Html]) -> Html:
    title = catalog.titles[item] or f"item {catalog.item_ids[item]}"
    own = shelf([item_card(data, catalog, item, mark="own")], f"The item {title}")
    return element("article", element("h3", text(title)), own, *shelves)


def _shelves(
    data: ReportData, catalog: Catalog, *, modality: Modality, example: Mapping[str, Any]
) -> list[Html]:
    ids = data.semantic_ids[modality]
    own = ids.codes[example["item"]]
    title = catalog.titles[example["item"]] or catalog.item_ids[example["item"]]
    spelt = f" {DOT} ".join(str(code) for code in own.tolist())
    shelves = [element("h4", text(f"{modality.capitalize()} codes {spelt}"))]
    for name, words in (("by_embedding", "embedding"), ("by_codes", "codes")):
        if name not in example:
            continue
        cards = []
        for item in example[name]:
            n_common = int(np.logical_and.accumulate(ids.codes[item] == own).sum())
            note = f"{n_common} of {ids.n_levels} codes"
            cards.append(item_card(data, catalog, item, note=note))
        shelves.append(element("h4", text(f"Nearest by {modality} {words}")))
        shelves.append(shelf(cards, f"Nearest to {title} by {modality} {words}"))
    return shelves
