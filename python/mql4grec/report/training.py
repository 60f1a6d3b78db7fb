"""Curves of the translators' and the recommender's training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from mql4grec.report.charts import Series, colour, line_chart
from mql4grec.report.markup import Html, amount, element, figure, paragraph, section, text
from mql4grec.report.record import ReportData

Epochs = Sequence[Mapping[str, Any]]


def training(data: ReportData) -> Html:
    """Show the curves of every training of the run."""
    parts = [
        part
        for modality, epochs in data.translator.items()
        for part in _translator(modality, epochs)
    ]
    parts += _recommender("Recommender: pre-training", data.pretrain)
    name = "Recommender: fine-tuning" if data.pretrain else "Recommender, without pre-training"
    parts += _recommender(name, data.finetune)
    return section("training", "Training", *parts)


def _translator(modality: str, epochs: Epochs) -> list[Html]:
    losses = [
        _curve(epochs, "loss", name="total", place=0),
        _curve(epochs, "reconstruction_loss", name="reconstruction", place=1),
    ]
    collisions = [_curve(epochs, "collision_rate", name=modality, place=0, factor=100.0)]
    return _charts(
        f"Translator of {modality}s",
        [
            ("Loss", losses, False),
            ("Collision rate before repair, % of items", collisions, True),
            ("Perplexity: codes in effective use, by level", _levels(epochs, "perplexity"), True),
            ("Codes that no item uses, by level", _levels(epochs, "dead_codes"), True),
        ],
    )


def _recommender(title: str, epochs: Epochs) -> list[Html]:
    losses = [
        _curve(epochs, "train_loss", name="training", place=0),
        _curve(epochs, "valid_loss", name="validation", place=1),
    ]
    ndcg = _curve(epochs, "valid_ndcg", name="validation", place=1)  # where it decides
    charts = _charts(
        title,
        [("Loss per token, nats", losses, False), ("NDCG@10 of validation users", [ndcg], False)],
    )
    if not charts:
        return []
    said = [amount(len(epochs), "epoch")]
    if ndcg:
        epoch, best = max(ndcg.points, key=lambda point: point[1])
        said.append(f"best validation NDCG@10 {best:.4f} after epoch {epoch:g}, which is kept")
    elif losses[1]:
        epoch, best = min(losses[1].points, key=lambda point: point[1])
        said.append(f"best validation loss {best:.4f} after epoch {epoch:g}, which is kept")
    speeds = [float(e["samples_per_second"]) for e in epochs if e.get("samples_per_second")]
    if speeds:
        said.append(f"{figure(round(median(speeds)))} samples per second (median)")
    return [charts[0], paragraph("; ".join(said) + "."), *charts[1:]]


def _charts(title: str, drawn: Sequence[tuple[str, Sequence[Series | None], bool]]) -> list[Html]:
    """Draw the charts that have points, under one heading; none, no heading."""
    charts = []
    for name, series, from_zero in drawn:
        present = [one for one in series if one is not None]
        if present:
            charts.append(line_chart(present, title=name, from_zero=from_zero))
    if not charts:
        return []
    return [element("h3", text(title)), element("div", *charts, class_="charts")]


def _curve(
    epochs: Epochs,
    key: str,
    *,
    name: str,
    place: int,
    level: int | None = None,
    factor: float = 1.0,
) -> Series | None:
    """Collect one figure over the epochs that have it; None if none has."""
    points = []
    for epoch in epochs:
        value = epoch.get(key)
        if value is not None and level is not None:
            value = value[level]
        if value is not None and math.isfinite(value):
            points.append((float(epoch["epoch"]), factor * float(value)))
    return Series(name, points, colour(place)) if points else None


def _levels(epochs: Epochs, key: str) -> list[Series | None]:
    n_levels = max((len(epoch.get(key) or ()) for epoch in epochs), default=0)
    return [
        _curve(epochs, key, name=f"level {level + 1}", place=level, level=level)
        for level in range(n_levels)
    ]
