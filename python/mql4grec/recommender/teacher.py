"""Targets that a teacher draws, beside those of the histories.

A history tells one next item of many that would have been as good. A linear model such as EASE^R
knows more of them from few data, and a network that learns its answers too learns them sooner and
overfits later.

Source:
    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015; here targets are
    drawn from the teacher's shares, one for each place and epoch, and not compared with them.
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
        sums: float32 (E, M), running sum of the shares; the last is 1, or 0 without any item.
        share: Of the targets, those that the teacher draws.
    """

    items: NDArray[np.int32]
    sums: NDArray[np.float32]
    share: float

    def draw(self, events: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int32]:
        """Draw what follows events (n): int32 (n), -1 where the teacher knows nothing."""
        sums = self.sums[events]
        place = (sums <= generator.random((len(events), 1), np.float32)).sum(axis=1)
        drawn: NDArray[np.int32] = self.items[events, np.minimum(place, sums.shape[1] - 1)]
        return drawn


def sum_shares(scores: NDArray[np.float32], *, temperature: float) -> NDArray[np.float32]:
    """Turn lists into running sums of shares.

    Args:
        scores: float32 (E, M), best first, -inf where there are no more items.
        temperature: By which scores over it are log-probabilities, but for a constant.

    Returns:
        float32 (E, M), as a `Teacher` has them.
    """
    best = scores.max(axis=1, keepdims=True, initial=np.finfo(np.float32).min)
    powers = np.exp((scores - best) * (SHARPNESS / temperature))
    sums = powers.cumsum(axis=1)
    shares: NDArray[np.float32] = sums / np.maximum(sums[:, -1:], np.finfo(np.float32).tiny)
    return shares.astype(np.float32)
