"""Some users: what they saw, what they were offered, what they took."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import numpy as np

from mql4grec.report.markup import NOTHING, Html, amount, element, join, paragraph, section, text
from mql4grec.report.record import Example, ReportData

if TYPE_CHECKING:
    from mql4grec.catalog import Catalog
    from mql4grec.decoding import Rankings

N_HISTORY = 8
N_RECOMMENDED = 10
ARROW = "\u2192"


def choose_examples(
    catalog: Catalog, rankings: Rankings, *, n_users: int, seed: int
) -> tuple[Example, ...]:
    """Draw users to show, half of them hits as far as there are enough.

    Most users are misses, so that a plain draw of six would often show no hit at all.

    Args:
        catalog: The shop; the last event of a history is the test target.
        rankings: One ranking per user of the catalog (U, M).
        n_users: How many.
        seed: Of the draw.

    Returns:
        Hits among the first ten, then others; each in the order of the users.
    """
    offsets = catalog.histories.offsets
    tested = np.flatnonzero(np.diff(offsets) >= 2)
    targets = catalog.histories.items[offsets[tested + 1] - 1]  # (U',)
    is_hit = (rankings.items[tested, :N_RECOMMENDED] == targets[:, None]).any(axis=1)
    generator = np.random.default_rng(seed)
    hits, others = (generator.permutation(tested[found]) for found in (is_hit, ~is_hit))
    n_hits = min(len(hits), max(n_users - n_users // 2, n_users - len(others)))
    chosen = [*sorted(hits[:n_hits].tolist()), *sorted(others[: n_users - n_hits].tolist())]
    return tuple(_example(catalog, rankings, user) for user in chosen)


def _example(catalog: Catalog, rankings: Rankings, user: int) -> Example:
    *history, target = catalog.histories.of(user).tolist()
    ranking = rankings.items[user]
    found = np.flatnonzero(ranking == target)
    shown = ranking[:N_RECOMMENDED]
    return Example(
        user=user,
        history=np.array(history[-N_HISTORY:], np.int32),
        n_history=len(history),
        recommended=shown[shown >= 0],
        target=target,
        rank=int(found[0]) + 1 if len(found) else None,
    )


def examples(data: ReportData) -> Html:
    """Show histories, recommendations and true next items with titles and pictures."""
    if data.catalog is None or not data.examples:
        return NOTHING
    note = (
        "Half of these users are drawn from those whose true next item is among the first ten "
        "recommendations, half from the others, as far as there are enough of each: the share of "
        "hits here is not the share of hits in the run. The true next item is framed."
    )
    users = [_user(data, data.catalog, example) for example in data.examples]
    return section("examples", "Recommendations for some users", paragraph(note), *users)


def _user(data: ReportData, catalog: Catalog, example: Example) -> Html:
    n_shown, n_all = len(example.history), example.n_history
    seen = (
        f"last {n_shown} of {amount(n_all, 'item')}" if n_shown < n_all else amount(n_all, "item")
    )
    if example.rank is None:
        verdict = element("span", text("next item not found"), class_="verdict")
    else:
        found = f"next item found at rank {example.rank}"
        verdict = element("span", text(found), class_="verdict hit")
    history = [item_card(data, catalog, item) for item in example.history.tolist()]
    history.append(item_card(data, catalog, example.target, mark="next", note=f"{ARROW} next item"))
    offered = [
        item_card(data, catalog, item, mark="next", note=f"{rank} \u00b7 next item")
        if item == example.target
        else item_card(data, catalog, item, note=str(rank))
        for rank, item in enumerate(example.recommended.tolist(), start=1)
    ]
    heading = element("h3", text(f"User {catalog.user_ids[example.user]} "), verdict)
    return element(
        "article", heading,
        element("h4", text(f"History: {seen}, oldest first, and the true next item")),
        shelf(history, f"History of user {catalog.user_ids[example.user]}"),
        element("h4", text("Recommended, best first")),
        shelf(offered, f"Recommended to user {catalog.user_ids[example.user]}"),
    )  # fmt: skip


def shelf(items: list[Html], label: str) -> Html:
    """Put item cards in a row that scrolls where it does not fit."""
    return element("ol", *items, class_="shelf", tabindex="0", aria_label=label)


def item_card(
    data: ReportData, catalog: Catalog, item: int, *, mark: str | None = None, note: str = ""
) -> Html:
    """Show an item's picture, a note, and its title; `mark` "next" or "own" frames it."""
    title = catalog.titles[item] or f"item {catalog.item_ids[item]}"
    parts = [
        _picture(data, item, title) if data.thumbnails else NOTHING,
        element("span", text(note), class_="note") if note else NOTHING,
        element("span", text(title), class_="title", title=title),
    ]
    return element("li", join(parts), class_=mark)


def _picture(data: ReportData, item: int, title: str) -> Html:
    picture = data.thumbnails.get(item)
    if picture is None:
        return element("span", text("no picture"), class_="absent")
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
    return element("img", src=source, alt=f"Picture of {title}", loading="lazy")
