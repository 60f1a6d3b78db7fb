"""What a teacher would answer, beside what came next in the histories.

A history tells one next item of many that would have been as good. A linear model such as EASE^R
knows more of them from few data, and a network that learns its answers too learns them sooner and
overfits later.

Source:
    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHARPNESS = 3.0  # power of the calibrated shares: what stands first in a list is what is learnt


@dataclass(frozen=True)
class Teacher:
    """What could come after each of E training events.

    Attributes:
        items: int32 (E, M), -1 where there are no more.
        shares: float32 (E, M), of what is right; they sum to 1, or to less where the teacher knows
            too few items, 0 without any.
        share: Of an answer, what the teacher's items have; the rest is what did come.
    """

    items: NDArray[np.int32]
    shares: NDArray[np.float32]
    share: float

    def draw(self, events: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int32]:
        """Draw what follows events (n): int32 (n), -1 where the teacher knows nothing."""
        sums = self.shares[events].cumsum(axis=1)
        place = (sums <= generator.random((len(events), 1), np.float32) * sums[:, -1:]).sum(axis=1)
        drawn: NDArray[np.int32] = self.items[events, np.minimum(place, sums.shape[1] - 1)]
        return drawn


def sharpen(scores: NDArray[np.float32], *, temperature: float) -> NDArray[np.float32]:
    """Turn lists into shares.

    Args:
        scores: float32 (E, M), best first, -inf where there are no more items.
        temperature: By which scores over it are log-probabilities, but for a constant.

    Returns:
        float32 (E, M), as a `Teacher` has them.
    """
    best = scores.max(axis=1, keepdims=True, initial=np.finfo(np.float32).min)
    powers = np.exp((scores - best) * (SHARPNESS / temperature))
    total = powers.sum(axis=1, keepdims=True)
    shares: NDArray[np.float32] = powers / np.maximum(total, np.finfo(np.float32).tiny)
    return shares.astype(np.float32)


def add_cold(
    shares: NDArray[np.float32], cold: NDArray[np.int32], *, share: float
) -> NDArray[np.float32]:
    """Give items that training does not have a part of what is right.

    They have had no event by which a score could become a probability, so that their ranks count:
    the r-th has 1/r of the first one's.

    Args:
        shares: float32 (E, M), as a `Teacher` has them.
        cold: int32 (E, K), best first, -1 where there are no more.
        share: Of all, what K of them have; fewer have what is theirs of it.

    Returns:
        float32 (E, M + K), of the items and then of the cold ones.
    """
    ranked = 1 / np.arange(1, cold.shape[1] + 1)
    added = share * np.where(cold >= 0, ranked / ranked.sum(), 0)
    rest = 1 - added.sum(axis=1, keepdims=True)
    return np.hstack([rest * shares, added]).astype(np.float32)
