"""How sure the figures are: bootstrap over users."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mql4grec.decoding import Rankings
from mql4grec.evaluation.figures import METRICS, gains

CONFIDENCE = 0.95

Interval = tuple[float, float]


def bootstrap(
    rankings: Rankings, targets: NDArray[np.int32], *, n_bootstrap: int = 1000, seed: int
) -> dict[str, Interval]:
    """Give 95 % percentile intervals of every metric, users drawn with replacement.

    Args:
        rankings: Items (U, M).
        targets: int32 (U,).
        n_bootstrap: Number of draws of U users.
        seed: Of the draws.

    Returns:
        (low, high) by metric.
    """
    means = resampled_means(gains(rankings, targets), n_bootstrap=n_bootstrap, seed=seed)
    return intervals_of(means)


def bootstrap_difference(
    first: Rankings,
    second: Rankings,
    targets: NDArray[np.int32],
    *,
    n_bootstrap: int = 1000,
    seed: int,
) -> dict[str, Interval]:
    """Give 95 % intervals of `first - second`, paired: both on the same draws of users.

    An interval that lies on one side of 0 says that the two differ beyond chance; whether their
    single intervals overlap does not, since the same users are easy for both.
    """
    paired = gains(first, targets) - gains(second, targets)
    return intervals_of(resampled_means(paired, n_bootstrap=n_bootstrap, seed=seed))


def p_value(differences: NDArray[np.float64]) -> float:
    """Give the two-sided p-value of a difference from its draws (n,).

    Twice the share of draws on the rarer side of 0, counting those at 0 and one more, so that it is
    never 0; at most 1.
    """
    rarer = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    return min(1.0, 2 * (int(rarer) + 1) / (len(differences) + 1))


def resampled_means(
    values: NDArray[np.float64], *, n_bootstrap: int, seed: int
) -> NDArray[np.float64]:
    """Average the columns of `values` (U, C) over `n_bootstrap` draws of U users: (n, C)."""
    n_users = len(values)
    generator = np.random.default_rng(seed)
    means = np.empty((n_bootstrap, values.shape[1]))
    for draw in range(n_bootstrap):
        users = generator.integers(n_users, size=n_users)
        # How often each user was drawn, so that the mean is one product and no gather.
        means[draw] = np.bincount(users, minlength=n_users) @ values / n_users
    return means


def intervals_of(means: NDArray[np.float64]) -> dict[str, Interval]:
    """Give the 95 % percentile interval of each metric from its draws (n, 5)."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return dict(zip(METRICS, zip(low.tolist(), high.tolist(), strict=True), strict=True))
