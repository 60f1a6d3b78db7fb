"""Codebooks and items on planes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mql4grec.config import Modality
from mql4grec.report.charts import bubbles, scatter
from mql4grec.report.markup import Html, element, percent
from mql4grec.report.record import ReportData

if TYPE_CHECKING:
    from mql4grec.codes import SemanticIds
    from mql4grec.quality import Maps

MAPS = (
    "Vectors on the plane of their first two principal components, which shows the stated share of "
    "their variance; what is near here may be far apart in the other directions. Codebooks: a dot "
    "per code, its area by the number of items, a ring where there is none. Items: by their "
    "embedding, in the colour that their first code has on the map of level 1, so that items of "
    "one code should lie together."
)
MOST_CODES = 2000  # on a map: those with most items


def maps(data: ReportData) -> Html:
    """Draw the codebooks of every level, and the items."""
    charts = [
        chart
        for modality, found in data.maps.items()
        if modality in data.semantic_ids
        for chart in _charts(modality, found, ids=data.semantic_ids[modality])
    ]
    return element("div", *charts, class_="charts")


def _charts(modality: Modality, found: Maps, *, ids: SemanticIds) -> list[Html]:
    name = modality.capitalize()
    colours = code_colours(found.codebooks[0])
    charts = []
    for level, counts in enumerate(level_counts(ids)):
        shown = np.sort(np.argsort(-counts, kind="stable")[:MOST_CODES])
        title = f"{name}, codebook of level {level + 1}"
        charts.append(
            _codebook(
                found.codebooks[level],
                shown=shown,
                counts=counts,
                colours=colours if level == 0 else [f"var(--c{level % 8 + 1})"] * len(counts),
                title=f"{title}: {percent(found.codebook_shares[level], digits=0)} of the variance",
            )
        )
    if len(found.rows):
        share = percent(found.items_share, digits=0)
        title = f"{name}, items by embedding, coloured by first code: {share} of the variance"
        of_items = [colours[code] for code in ids.codes[found.rows, 0].tolist()]
        charts.append(scatter(found.items, colours=of_items, title=title))
    return charts


def _codebook(
    places: NDArray[np.float32],
    *,
    shown: NDArray[np.int64],
    counts: NDArray[np.int64],
    colours: list[str],
    title: str,
) -> Html:
    return bubbles(
        places[shown],
        numbers=shown,
        sizes=counts[shown],
        colours=[colours[n] for n in shown.tolist()],
        title=title,
    )


def level_counts(ids: SemanticIds) -> list[NDArray[np.int64]]:
    """Count the items of every code: one int64 (K_l) per level, over items that have codes."""
    codes = ids.codes[ids.present]  # (P, L)
    return [
        np.bincount(codes[:, level], minlength=n_codes).astype(np.int64)
        for level, n_codes in enumerate(ids.n_codes)
    ]


def code_colours(places: NDArray[np.float32]) -> list[str]:
    """Give codes (K, 2) colours by their place: the hue by direction, paler towards the middle."""
    finite = np.isfinite(places).all(axis=1)
    around = np.zeros_like(places)
    around[finite] = places[finite]
    around[finite] -= around.sum(axis=0) / max(int(finite.sum()), 1)
    far = np.hypot(around[:, 0], around[:, 1])
    strength = np.sqrt(far / max(float(far.max(initial=0)), 1e-12))
    hues = np.degrees(np.arctan2(around[:, 1], around[:, 0])) % 360
    return [
        f"hsl({hue:.0f} {15 + 65 * strong:.0f}% 52%)"
        for hue, strong in zip(hues.tolist(), strength.tolist(), strict=True)
    ]
