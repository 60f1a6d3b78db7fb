"""Metrics of the generative rankings beside those of the baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mql4grec.report.charts import Bar, bar_chart
from mql4grec.report.markup import (
    NO_VALUE,
    NOTHING,
    Html,
    amount,
    count,
    element,
    join,
    paragraph,
    percent,
    row,
    section,
    table,
    text,
)

GENERATIVE = {
    "reranked": "Reranked",
    "combined": "Combined",
    "fused": "Fused",
    "text": "Text",
    "image": "Image",
}
BASELINES = {
    "popular": "Most popular",
    "item_knn": "Item-kNN",
    "ease": "EASE\u1d3f",
    "ease_codes": "EASE\u1d3f with codes",
    "sasrec": "SASRec",
}
COLUMNS = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10")
TESTED = ("NDCG@10", "HR@10")
HOW = {  # a part of the figures is named by what differs
    "seen_removed": "without the items of the history",
    "seen_kept": "with the items of the history",
    "with_refit": "baselines refitted",
    "without_refit": "baselines not refitted",
}
GROUP_COLUMNS = ("HR@10", "NDCG@10")
CHARTED = {
    "HR@10": "HR@10: next item among the first ten, share of users",
    "NDCG@10": "NDCG@10: the same, a hit at the top counts more",
}


def results(metrics: Mapping[str, Any] | None) -> Html:
    """Show every ranking's figures as a table and as bars."""
    if not metrics or not metrics.get("rankings"):
        return section("results", "Results", paragraph("This run has not been evaluated."))
    rankings, intervals = metrics["rankings"], metrics.get("intervals") or {}
    note = (
        "Leave-one-out over the whole catalog: for every user, the last item of the history is to "
        "be found among all items. HR@k is the share of users for whom it is among the first k; "
        "NDCG@k weighs it by its rank. The best figure of each column is marked."
    )
    note += refit_note(metrics) + left_out_note(metrics)
    if intervals:
        note += " Below each figure and as whiskers: its bootstrap interval over users."
    charts = [
        bar_chart(_bars(metric, rankings, intervals), title=title)
        for metric, title in CHARTED.items()
        if all(metric in found for found in rankings.values())
    ]
    return section(
        "results",
        "Results",
        paragraph(note),
        _table(rankings, intervals, caption="Rankings on the test items"),
        element("div", *charts, class_="charts") if charts else NOTHING,
        _significance(metrics.get("significance") or {}),
        _twin_level(metrics),
        _by_training_events(metrics),
        *(_other_way(metrics[part], how) for part, how in _parts(metrics)),
    )


def _parts(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """List the parts of the figures beside the main one, and how they differ from it."""
    for key in metrics:
        names = key.split(".")
        if set(names) <= set(HOW):
            yield key, ", ".join(HOW[name] for name in names)


def refit_note(metrics: Mapping[str, Any]) -> str:
    """Say which rankings were fitted on more than papers do, or nothing where none was."""
    if not metrics.get("refitted"):
        return ""
    names = ", ".join(map(_title, metrics["refitted"]))
    return (
        f" {names} are fitted on the users' last but one events too, and what is combined or "
        "reranked knows these; papers leave them out. No last event was used. How often items "
        "occur in training is counted without these."
    )


def left_out_note(metrics: Mapping[str, Any]) -> str:
    """Say which baselines a large shop does not get, and of item-kNN what; else nothing."""
    names: dict[str, list[str]] = {}
    for name, why in (metrics.get("left_out") or {}).items():
        names.setdefault(why, []).append(_title(name))
    said = [f" Left out: {', '.join(titles)} ({why})." for why, titles in names.items()]
    if metrics.get("item_knn_neighbours"):
        said.append(
            f" Item-kNN knows of each item the {count(metrics['item_knn_neighbours'])} nearest "
            "only: all pairs are too many."
        )
    return "".join(said)


def summary(metrics: Mapping[str, Any] | None) -> Html:
    """Say in a sentence how the main ranking does beside the best baseline."""
    rankings = (metrics or {}).get("rankings") or {}
    ours = [name for name in GENERATIVE if "HR@10" in rankings.get(name, {})]
    if not metrics or not ours:
        return NOTHING
    theirs = [name for name in BASELINES if "HR@10" in rankings.get(name, {})]
    users = f" of {count(metrics['n_users'])} users" if "n_users" in metrics else " of users"
    said = (
        f"The {GENERATIVE[ours[0]].lower()} ranking has the true next item among its first ten for "
        f"{percent(rankings[ours[0]]['HR@10'])}{users}"
    )
    if theirs:
        best = max(theirs, key=lambda name: rankings[name]["HR@10"])
        said += f"; the best baseline, {BASELINES[best]}, for {percent(rankings[best]['HR@10'])}"
    return paragraph(said + ".", class_="summary")


def _order(rankings: Mapping[str, Any]) -> list[list[str]]:
    """Group the rankings' names: generative, baselines, any others."""
    known = [*GENERATIVE, *BASELINES]
    others = [name for name in rankings if name not in known]
    groups = [list(GENERATIVE), list(BASELINES), others]
    return [[name for name in group if name in rankings] for group in groups]


def _title(name: str) -> str:
    return {**GENERATIVE, **BASELINES}.get(name, name)


def _bars(metric: str, rankings: Mapping[str, Any], intervals: Mapping[str, Any]) -> Sequence[Bar]:
    bars = []
    for group in _order(rankings):
        for name in group:
            low_high = intervals.get(name, {}).get(metric)
            bars.append(
                Bar(
                    _title(name),
                    float(rankings[name][metric]),
                    (float(low_high[0]), float(low_high[1])) if low_high else None,
                    "c1" if name in GENERATIVE else "c0",
                )
            )
    return bars


def _significance(found: Mapping[str, Any], how: str = "") -> Html:
    """Show by how much each ranking differs from the best baseline, and how surely."""
    if not found:
        return NOTHING
    header = ["Ranking"]
    for metric in TESTED:
        header += [f"{metric}: best baseline", "difference", "95 % interval", "p"]
    rows = []
    for name, told in found.items():
        cells = []
        for metric in TESTED:
            one = told[metric]
            low, high = one["interval"]
            cells += [
                text(_title(one["baseline"])),
                text(f"{one['difference']:+.4f}"),
                text(f"{low:+.4f} to {high:+.4f}"),
                text(f"{one['p_value']:.3f}"),
            ]
        rows.append(row(text(_title(name)), cells))
    caption = f"Difference to the best baseline, paired bootstrap over users{how and ', ' + how}"
    return table([rows], caption=caption, header=header)


def _other_way(found: Mapping[str, Any], how: str) -> Html:
    """Show the figures of the same rankings in another way."""
    note = refit_note(found).strip()
    return join(
        [
            paragraph(note) if note else NOTHING,
            _table(
                found["rankings"],
                found["intervals"],
                caption=f"Rankings on the test items, {how}",
            ),
            _significance(found["significance"], how),
            _twin_level(found, how),
            _by_training_events(found, how),
        ]
    )


def _twin_level(found: Mapping[str, Any], how: str = "") -> Html:
    """Show the figures of codes instead of items, as papers count."""
    if "twin_level" not in found:
        return NOTHING
    told = found["twin_level"]
    shared = ", ".join(
        f"by {modality} codes {amount(n, 'user')}" for modality, n in told["n_users"].items()
    )
    note = (
        "Papers count a hit when the codes are the target's. Below, an item counts if it had the "
        "target's codes before collisions were repaired, and ranks count different codes; text and "
        "image go by their own codes, all others by those of the texts where there are any. Users "
        f"whose target shared its codes: {shared}."
    )
    caption = f"Counted by codes before repair{how and ', ' + how}"
    return join([paragraph(note), _table(told["rankings"], {}, caption=caption)])


def _by_training_events(found: Mapping[str, Any], how: str = "") -> Html:
    """Show the figures of users whose target was never, seldom or often seen in training."""
    if "by_training_events" not in found:
        return NOTHING
    told = found["by_training_events"]
    groups = told["n_users"]
    header = ["Ranking", *(f"{metric}: {key}" for key in groups for metric in GROUP_COLUMNS)]
    bodies = []
    for group in _order(told["rankings"]):
        rows = []
        for name in group:
            values = [told["rankings"][name][key][m] for key in groups for m in GROUP_COLUMNS]
            cells = [text(NO_VALUE if v is None else f"{v:.4f}") for v in values]
            rows.append(row(text(_title(name)), cells))
        bodies.append(rows)
    sizes = ", ".join(f"{key}: {amount(n, 'user')}" for key, n in groups.items())
    caption = f"By events of the target in training histories ({sizes}){how and ', ' + how}"
    return table(bodies, caption=caption, header=header)


def _table(rankings: Mapping[str, Any], intervals: Mapping[str, Any], *, caption: str) -> Html:
    present = [metric for metric in COLUMNS if any(metric in found for found in rankings.values())]
    best = {m: max(found[m] for found in rankings.values() if m in found) for m in present}
    bodies = []
    for title, group in zip(("Generative", "Baselines", "Others"), _order(rankings), strict=True):
        rows = [
            row(
                text(_title(name)),
                [
                    _cell(rankings[name], m, best[m], intervals.get(name, {}).get(m))
                    for m in present
                ],
            )
            for name in group
        ]
        bodies.append([_group_row(title, len(present)), *rows] if rows else [])
    return table(bodies, caption=caption, header=("Ranking", *present))


def _group_row(title: str, n_columns: int) -> Html:
    heading = element("th", text(title), scope="rowgroup", colspan=n_columns + 1)
    return element("tr", heading, class_="group")


def _cell(
    found: Mapping[str, float], metric: str, best: float, interval: Sequence[float] | None
) -> Html:
    if metric not in found:
        return text(NO_VALUE)
    spelt = text(f"{found[metric]:.4f}")
    parts = [
        element("strong", spelt, element("span", text(" (best)"), class_="unseen"), class_="best")
        if found[metric] == best
        else spelt
    ]
    if interval is not None:
        ends = f"{interval[0]:.4f}{NO_VALUE}{interval[1]:.4f}"
        parts.append(element("small", text(ends)))
    return join(parts)
