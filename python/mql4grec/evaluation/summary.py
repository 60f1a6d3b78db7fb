"""What `evaluation/metrics.json` holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mql4grec.config import EvaluationSettings
from mql4grec.decoding import Rankings
from mql4grec.evaluation.figures import METRICS, gains, metrics
from mql4grec.evaluation.groups import Items, by_training_events, twin_level
from mql4grec.evaluation.intervals import intervals_of, p_value, resampled_means

GENERATED = ("text", "image", "fused", "combined", "reranked")  # all other rankings are baselines
TESTED = ("NDCG@10", "HR@10")


def evaluate(
    rankings: Mapping[str, Rankings],
    targets: NDArray[np.int32],
    *,
    items: Items,
    settings: EvaluationSettings,
    seed: int,
) -> dict[str, Any]:
    """Build what `evaluation/metrics.json` holds.

    Args:
        rankings: By name: "text", "image", "fused", "combined", "reranked"; all others are
            baselines.
        targets: int32 (U,), every test user's target.
        items: What the rankings chose from.
        settings: Of this room.
        seed: Of the bootstrap.

    Returns:
        "n_users", "n_items", "rankings" (metrics by name), "intervals" (95 %, [low, high] by name
        and metric), "differences" (of "fused", or else the first ranking, minus each other one:
        95 %, paired), "significance" (of every ranking that is no baseline, beside the baseline
        that is best by NDCG@10 and the one that is by HR@10: the difference, its 95 % interval and
        p-value, from the same paired draws), "twin_level" (where codes before repair are known) and
        "by_training_events", as the functions of these names give them, "settings".

    Raises:
        ValueError: If there is no ranking, or one does not match `targets`.
    """
    if not rankings:
        raise ValueError("`rankings`: expected at least one, got none; rank before evaluating")
    values = {name: gains(ranking, targets) for name, ranking in rankings.items()}
    return {
        "n_users": len(targets),
        "n_items": len(items.n_events),
        "rankings": {name: metrics(ranking, targets) for name, ranking in rankings.items()},
        **compare(values, n_bootstrap=settings.n_bootstrap, seed=seed),
        **({"twin_level": twin_level(rankings, targets, items)} if items.codes else {}),
        "by_training_events": by_training_events(rankings, targets, items),
        "settings": settings.model_dump(mode="json"),
    }


def compare(
    values: Mapping[str, NDArray[np.float64]], *, n_bootstrap: int, seed: int
) -> dict[str, Any]:
    """Give "intervals", "differences" and "significance" of rankings, as `evaluate` describes them.

    Args:
        values: Each user's share in every metric (U, 5), as `gains` gives it, by name.
        n_bootstrap: Number of draws of U users.
        seed: Of the draws.
    """
    names = list(values)
    best = "fused" if "fused" in values else names[0]
    # All rankings on the same draws: that is what makes the differences paired.
    together = np.concatenate(list(values.values()), axis=1)
    means = resampled_means(together, n_bootstrap=n_bootstrap, seed=seed)
    drawn = dict(zip(names, np.split(means, len(names), axis=1), strict=True))
    return {
        "intervals": {name: intervals_of(drawn[name]) for name in names},
        "differences": {
            f"{best} - {name}": intervals_of(drawn[best] - drawn[name])
            for name in names
            if name != best
        },
        "significance": _significance(values, drawn=drawn),
    }


def _significance(
    values: Mapping[str, NDArray[np.float64]], *, drawn: Mapping[str, NDArray[np.float64]]
) -> dict[str, dict[str, Any]]:
    """Set every ranking that is no baseline beside the best one that is.

    Args:
        values: Each user's share in every metric (U, 5), by name.
        drawn: Means over draws of users (n, 5), by name.
    """
    figures = {name: own.mean(axis=0) for name, own in values.items()}
    theirs = [name for name in values if name not in GENERATED]
    found: dict[str, dict[str, Any]] = {}
    for name in [name for name in values if name in GENERATED and theirs]:
        found[name] = {}
        for metric in TESTED:
            column = METRICS.index(metric)
            best = theirs[int(np.argmax([figures[other][column] for other in theirs]))]
            differences = drawn[name] - drawn[best]
            found[name][metric] = {
                "baseline": best,
                "difference": float(figures[name][column] - figures[best][column]),
                "interval": intervals_of(differences)[metric],
                "p_value": p_value(differences[:, column]),
            }
    return found
