"""Semantic IDs: how the codes are used, what collided, what they keep, how the codebooks lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mql4grec.config import Modality
from mql4grec.report.charts import colour, strip
from mql4grec.report.maps import MAPS, level_counts, maps
from mql4grec.report.markup import (
    NO_BREAK,
    NO_VALUE,
    Html,
    amount,
    count,
    element,
    paragraph,
    percent,
    row,
    section,
    table,
    text,
)
from mql4grec.report.quality import quality_parts
from mql4grec.report.record import ReportData

if TYPE_CHECKING:
    from mql4grec.codes import CollisionReport, SemanticIds

USAGE = (
    "An item's semantic ID is one code per level, coarse to fine. Bars: items per code, the most "
    "used code first, each strip on a scale of its own; the dashed line is even use. Perplexity is "
    "the number of codes in effective use: all of them if use is even."
)
COLLISIONS = (
    "Items that share a semantic ID cannot be told apart; repair moves all but one of each group "
    "to other codes. The collision rate is 1 minus the number of different semantic IDs per item."
)


def semantics(data: ReportData) -> Html:
    """Show usage and collisions of the codes, what they keep, and maps of codebooks and items."""
    parts: list[Html] = []
    if any(_used(ids) for ids in data.semantic_ids.values()):
        parts += [element("h3", text("Use of the codes")), paragraph(USAGE)]
        parts += [
            _usage(modality, ids) for modality, ids in data.semantic_ids.items() if _used(ids)
        ]
    if data.collisions:
        parts += [element("h3", text("Collisions")), paragraph(COLLISIONS), _collisions(data)]
    parts += quality_parts(data)
    if data.maps:
        parts += [element("h3", text("Maps")), paragraph(MAPS), maps(data)]
    elif parts:
        parts.append(
            paragraph("The codes were given, so there are no codebooks to draw.", class_="aside")
        )
    return section("codes", "Semantic IDs", *parts)


def perplexity(counts: NDArray[np.int64]) -> float:
    """Give the number of codes in effective use: exp of the entropy of int64 (K)."""
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _used(ids: SemanticIds) -> bool:
    return bool(ids.present.any())


def _usage(modality: Modality, ids: SemanticIds) -> Html:
    n_coded = int(ids.present.sum())
    caption = f"{modality.capitalize()} codes of {amount(n_coded, 'item')}"
    if n_coded < len(ids.present):
        caption += f" ({count(len(ids.present) - n_coded)} more have no {modality})"
    rows = [_level(level, counts) for level, counts in enumerate(level_counts(ids))]
    header = ("Level", "Items per code", "Perplexity", "Codes", "Unused", "Most used")
    return table([rows], caption=caption, header=header, class_="usage")


def _level(level: int, counts: NDArray[np.int64]) -> Html:
    effective, unused = perplexity(counts), int((counts == 0).sum())
    said = f"level {level + 1}: perplexity {effective:.1f} of {len(counts)}, {unused} codes unused"
    cells = [
        strip(counts, colour=colour(level), label=said),
        text(f"{effective:,.1f}"),
        text(count(len(counts))),
        text(count(unused)),
        text(amount(counts.max(), "item")),
    ]
    return row(text(level + 1), cells)


def _collisions(data: ReportData) -> Html:
    # Each row: its name, and how it is spelt for one report.
    lines: list[tuple[str, Callable[[CollisionReport], str]]] = [
        ("Items with codes", lambda report: count(report.n_items)),
        ("Sharing a semantic ID before", lambda report: count(report.n_shared_before)),
        ("Groups of such items", lambda report: count(report.n_groups_before)),
        ("Largest group", lambda report: amount(report.largest_group, "item")),
        ("Collision rate before", lambda report: percent(report.rate_before, digits=2)),
        ("Collision rate after", lambda report: percent(report.rate_after, digits=2)),
        ("Moved to other codes", lambda report: count(report.n_moved)),
        ("First changed at level 1 / 2 / \u2026", lambda report: _levels(report.moved_per_level)),
        ("Squared error per item before", lambda report: _error(report.quantisation_error)),
        ("Added squared error per moved item", lambda report: _error(report.added_error)),
        ("Added error of all, of the error before", lambda report: _share(report.added_share)),
        ("Codes used at level 1 / 2 / \u2026", lambda report: _levels(report.usage_after)),
        ("Entropy in bits", lambda report: _decimals(report.entropy_after)),
        ("Perplexity", lambda report: _decimals(report.perplexity_after)),
        ("Prefixes of 1 / 2 / \u2026 codes", lambda report: _levels(report.prefixes)),
        ("Codes that follow a prefix, of all", lambda report: _percents(report.fill)),
    ]
    rows = [
        row(text(name), [text(spell(report)) for report in data.collisions.values()])
        for name, spell in lines
    ]
    header = ("Count", *(label.capitalize() for label in data.collisions))
    return table([rows], caption="Before and after repair", header=header)


def _levels(numbers: Sequence[int]) -> str:
    return f"{NO_BREAK}/{NO_BREAK}".join(count(n) for n in numbers) or NO_VALUE


def _decimals(numbers: Sequence[float]) -> str:
    return f"{NO_BREAK}/{NO_BREAK}".join(f"{n:,.1f}" for n in numbers) or NO_VALUE


def _percents(shares: Sequence[float]) -> str:
    return f"{NO_BREAK}/{NO_BREAK}".join(percent(n, digits=1) for n in shares) or NO_VALUE


def _share(share: float | None) -> str:
    return NO_VALUE if share is None else percent(share, digits=2)


def _error(error: float | None) -> str:
    return NO_VALUE if error is None else f"{error:.4g}"
