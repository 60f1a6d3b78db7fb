"""What `evaluation/metrics.json` holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mql4grec.config import EvaluationSettings
from mql4grec.decoding import Rankings
from mql4grec.evaluation.figures import gains, metrics
from mql4grec.evaluation.intervals import intervals_of, resampled_means


def evaluate(
    rankings: Mapping[str, Rankings],
    targets: NDArray[np.int32],
    *,
    n_items: int,
    settings: EvaluationSettings,
    seed: int,
) -> dict[str, Any]:
    """Build what `evaluation/metrics.json` holds.

    Args:
        rankings: By name: "text", "image", "fused", "popular", "item_knn", "ease".
        targets: int32 (U,), every test user's target.
        n_items: N, to say what the rankings chose from.
        settings: Of this room.
        seed: Of the bootstrap.

    Returns:
        "n_users", "n_items", "rankings" (metrics by name), "intervals" (95 %, [low, high] by name
        and metric), "differences" (of "fused", or else the first ranking, minus each other one:
        95 %, paired), "settings".

    Raises:
        ValueError: If there is no ranking, or one does not match `targets`.
    """
    if not rankings:
        raise ValueError("`rankings`: expected at least one, got none; rank before evaluating")
    names = list(rankings)
    best = "fused" if "fused" in rankings else names[0]
    values = np.concatenate([gains(rankings[name], targets) for name in names], axis=1)
    # All rankings on the same draws: that is what makes the differences paired.
    means = resampled_means(values, n_bootstrap=settings.n_bootstrap, seed=seed)
    drawn = dict(zip(names, np.split(means, len(names), axis=1), strict=True))
    return {
        "n_users": len(targets),
        "n_items": n_items,
        "rankings": {name: metrics(rankings[name], targets) for name in names},
        "intervals": {name: intervals_of(drawn[name]) for name in names},
        "differences": {
            f"{best} - {name}": intervals_of(drawn[best] - drawn[name])
            for name in names
            if name != best
        },
        "settings": settings.model_dump(mode="json"),
    }
