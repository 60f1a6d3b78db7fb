"""Item-level HR@k and NDCG@k."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mql4grec.decoding import Rankings

METRICS = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10")


def metrics(rankings: Rankings, targets: NDArray[np.int32]) -> dict[str, float]:
    """Average HR and NDCG over all users.

    Args:
        rankings: Items (U, M).
        targets: int32 (U,), the item row that each user took next.

    Returns:
        "HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10" (NDCG@1 is HR@1).

    Raises:
        ValueError: If the number of users differs or a target is negative.

    Source:
        The metrics of MQL4GRec, but at item level: its code compares code strings, so that an item
        which shares its codes with the target counts as a hit there and as a miss here.
    """
    return dict(zip(METRICS, gains(rankings, targets).mean(axis=0).tolist(), strict=True))


def gains(rankings: Rankings, targets: NDArray[np.int32]) -> NDArray[np.float64]:
    """Give each user's share in every metric, float64 (U, 5), in the order of `METRICS`.

    Raises:
        ValueError: If the number of users differs or a target is negative.
    """
    n_users = len(rankings.items)
    if targets.shape != (n_users,):
        raise ValueError(
            f"`targets`: expected shape ({n_users},) to match `rankings`, got {targets.shape}; "
            "give one target per ranked user"
        )
    if n_users == 0:
        raise ValueError("`rankings`: expected at least one user, got 0; nothing to evaluate")
    if targets.min() < 0:
        raise ValueError(
            f"`targets`: expected item rows >= 0, got {int(targets.min())}; "
            "leave out users without a target"
        )
    hits = rankings.items == targets[:, None]  # (U, M)
    place = np.where(hits.any(axis=1), hits.argmax(axis=1), np.inf)  # (U,), 0 is the best
    discount = 1.0 / np.log2(place + 2.0)
    columns = [place < k for k in (1, 5, 10)]
    columns += [np.where(place < k, discount, 0.0) for k in (5, 10)]
    return np.stack(columns, axis=1).astype(np.float64)
