"""The frame of the page, its summary, the data and the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from mql4grec.artifacts import atomic_path
from mql4grec.report.examples import examples
from mql4grec.report.markup import (
    NO_VALUE,
    NOTHING,
    Html,
    amount,
    count,
    details,
    duration,
    element,
    figure,
    join,
    paragraph,
    row,
    section,
    table,
    text,
)
from mql4grec.report.nearest import nearest
from mql4grec.report.quality import quality_summary
from mql4grec.report.record import ReportData
from mql4grec.report.results import results, summary
from mql4grec.report.semantics import semantics
from mql4grec.report.training import training

N_MISSING = 20  # items with nothing to encode that are listed


def write(path: Path, data: ReportData) -> None:
    """Write a run's page: one file that needs no other, the same bytes for the same data.

    Args:
        path: The HTML file; replaced at once when the page is complete.
        data: What it shows.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(page(data), encoding="utf-8")


def page(data: ReportData) -> str:
    """Give the page as HTML."""
    early = data.metrics is None and bool(data.quality)  # before any T5
    sections = {
        "Results": ("results", NOTHING if early else results(data.metrics)),
        "Users": ("examples", examples(data)),
        "Semantic IDs": ("codes", semantics(data)),
        "Nearest items": ("nearest", nearest(data)),
        "Training": ("training", training(data)),
        "Data": ("data", _data(data)),
        "Run": ("run", _run(data)),
    }
    present = {name: part for name, part in sections.items() if part[1]}
    links = [element("a", text(name), href=f"#{part[0]}") for name, part in present.items()]
    title = f"{data.name}: {'semantic IDs of' if early else 'recommendations for'} {data.shop}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", text(title)),
        element("style", Html(files("mql4grec.report").joinpath("page.css").read_text("utf-8"))),
    )
    body = element(
        "body",
        _header(data),
        element("nav", *links, aria_label="Sections"),
        element("main", *(part[1] for part in present.values())),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _header(data: ReportData) -> Html:
    metrics = data.metrics or {}
    facts = [f"shop {data.shop}"]
    facts += [
        f"{count(metrics[f'n_{what}'])} {what}"
        for what in ("users", "items")
        if f"n_{what}" in metrics
    ]
    if data.seconds:
        facts.append(duration(sum(data.seconds.values())))
    return element(
        "header",
        paragraph("mql4grec run", class_="kicker"),
        element("h1", text(data.name)),
        paragraph(" \u00b7 ".join(facts), class_="facts"),
        summary(data.metrics) or quality_summary(data),
    )


def _data(data: ReportData) -> Html:
    counts = [
        row(text(name[:1].upper() + name[1:]), [text(value)]) for name, value in _flat(data.counts)
    ]
    parts = [table([counts], caption="Catalog", header=("Count", "Value"))] if counts else []
    for modality, made in data.embeddings.items():
        parts.append(_embeddings(modality, made))
    return section("data", "Data", *parts)


def _flat(counts: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Spell nested counts as lines, an inner name after its outer ones."""
    for key, value in counts.items():
        name = f"{above}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}: ")
        elif isinstance(value, list | tuple):
            yield (
                name,
                ", ".join(str(part) for part in value[:5]) + (", \u2026" if value[5:] else ""),
            )
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, figure(value)
        else:
            yield name, NO_VALUE if value is None else str(value)


def _embeddings(modality: str, made: Mapping[str, Any]) -> Html:
    if made.get("encoder") is None:
        return paragraph(f"{modality.capitalize()}s were not encoded.")
    n_missing, listed = int(made.get("n_missing", 0)), made.get("missing") or []
    said = f"{modality.capitalize()} encoder: {made['encoder']}. "
    if n_missing == 0:
        return paragraph(said + f"Every item has its {modality}.")
    without = amount(n_missing, "item")
    said += f"Without {modality}: {without}; only the other modality can recommend them."
    rows = [
        row(text(item.get("item_id", "")), [text(item.get("reason", ""))])
        for item in listed[:N_MISSING]
    ]
    if not rows:
        return paragraph(said)
    first = f"first {len(rows)} of " if len(rows) < n_missing else ""
    caption = f"Items without {modality}: {first}{count(n_missing)}"
    listing = table([rows], caption=caption, header=("Item", "Reason"), class_="words")
    return join([paragraph(said), details("Which items", listing)])


def _run(data: ReportData) -> Html:
    longest = max(data.seconds.values(), default=0.0) or 1.0
    stages = [
        row(text(name), [_meter(seconds / longest), text(duration(seconds))])
        for name, seconds in data.seconds.items()
    ]
    return section(
        "run",
        "Run",
        paragraph(data.machine) if data.machine else NOTHING,
        table([stages], caption="Time", header=("Stage", "", "Time"), class_="time")
        if stages
        else NOTHING,
        details("Settings", element("pre", text(data.settings))) if data.settings else NOTHING,
    )


def _meter(share: float) -> Html:
    return element("span", class_="meter", style=f"width:{100 * share:.1f}%")
