"""What the codes keep: of the embeddings, of which items are alike, of what users do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mql4grec.config import Modality
from mql4grec.report.markup import (
    NO_VALUE,
    NOTHING,
    Html,
    amount,
    count,
    element,
    figure,
    paragraph,
    percent,
    row,
    table,
    text,
)
from mql4grec.report.record import ReportData

RECONSTRUCTION = (
    "Mean squared error of what the decoder makes of an item's codes, as a share of the variance "
    "of the embeddings: 0 % loses nothing, 100 % is as good as the mean embedding for every item. "
    "Without codes: the decoder is given the latent itself, so that is the network's own part."
)
PREFIXES = (
    "The share of pairs of items whose semantic IDs begin with at least so many common codes. The "
    "nearest items by embedding (Euclidean distance) should share more than any two items do, and "
    "so should items that a user had one right after the other, beside two items drawn as often as "
    "they are in such pairs. Histories without their held-out events only. After repair no two "
    "items have all codes in common."
)


def quality_parts(data: ReportData) -> list[Html]:
    """Show the error of reconstruction and common prefixes, as far as they were measured."""
    parts: list[Html] = []
    if any(found["reconstruction"] for found in data.quality.values()):
        parts += [element("h3", text("Error of reconstruction")), paragraph(RECONSTRUCTION)]
        parts.append(_reconstruction(data.quality))
    tables = [_prefixes(modality, found) for modality, found in data.quality.items()]
    if any(tables):
        parts += [element("h3", text("Common prefixes")), paragraph(PREFIXES), *tables]
    return parts


def quality_summary(data: ReportData) -> Html:
    """Say in a sentence per modality what the codes keep."""
    said = [_summary(modality, found) for modality, found in data.quality.items()]
    return paragraph(" ".join(filter(None, said)), class_="summary") if any(said) else NOTHING


def _summary(modality: Modality, found: Mapping[str, Any]) -> str:
    lost, near, chance = found["reconstruction"], found["neighbours"], found["chance"]
    if not (lost and near and chance):
        return ""
    return (
        f"{modality.capitalize()} codes lose {percent(lost['after'])} of the embeddings' variance; "
        f"of an item's {near['k']} nearest {percent(near['after'][0])} begin with the same code, "
        f"of any two items {percent(chance[0])}."
    )


def _reconstruction(quality: Mapping[Modality, Mapping[str, Any]]) -> Html:
    rows = []
    for modality, found in quality.items():
        lost = found["reconstruction"]
        if lost:
            shares = [lost[name] for name in ("without_codes", "before", "after")]
            cells = [count(lost["n_items"]), figure(lost["variance"]), *map(_share, shares)]
            rows.append(row(text(modality.capitalize()), map(text, cells)))
    header = ("Modality", "Items", "Variance", "Without codes", "Nearest codes", "After repair")
    return table([rows], caption="Error as a share of the variance", header=header)


def _prefixes(modality: Modality, found: Mapping[str, Any]) -> Html:
    rows = [row(text(name), map(text, map(_share, shares))) for name, shares in prefix_lines(found)]
    if not rows:
        return NOTHING
    n_levels = len(prefix_lines(found)[0][1])
    caption = f"{modality.capitalize()}: pairs with common codes. {_counted(found)}"
    header = ("Pairs", *(f"{n} or more" for n in range(1, n_levels)), f"All {n_levels}")
    return table([rows], caption=caption, header=header)


def prefix_lines(found: Mapping[str, Any]) -> list[tuple[str, Sequence[float]]]:
    """List what was measured of common prefixes: the kind of pairs, and L shares."""
    near, bought = found["neighbours"], found["cobought"]
    lines: list[tuple[str, Sequence[float] | None]] = []
    if near:
        lines.append((f"{near['k']} nearest, before repair", near["before"]))
        lines.append((f"{near['k']} nearest, after repair", near["after"]))
    lines.append(("any two items", found["chance"]))
    if bought:
        lines.append(("one after the other in a history", bought["after"]))
        lines.append(("any two, drawn as often", bought["chance"]))
    return [(name, shares) for name, shares in lines if shares]


def _counted(found: Mapping[str, Any]) -> str:
    near, bought = found["neighbours"], found["cobought"]
    said = []
    if near:
        said.append(
            f"nearest of {amount(near['n_items'], 'item')} among all {count(found['n_items'])}"
        )
    if bought:
        said.append(f"{amount(bought['n_pairs'], 'pair')} of histories")
    return "; ".join(said).capitalize() + "." if said else ""


def _share(share: float | None) -> str:
    return NO_VALUE if share is None else percent(share, digits=2)
