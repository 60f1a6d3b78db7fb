"""Whole histories as samples: windows of them for training, their last items for ranking.

Rows are padded at the end: models that look back only do not see it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mql4grec.catalog import Histories


@dataclass(frozen=True)
class Windows:
    """Parts of histories, W in all.

    Attributes:
        items: int32 (E,), the events that they are parts of.
        starts: int64 (W,), place of the first event of each.
        lengths: int64 (W,), events.
    """

    items: NDArray[np.int32]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def events(
        self, which: NDArray[np.int64], *, n_beyond: int | NDArray[np.int64] = 0
    ) -> NDArray[np.int64]:
        """Give the places of the windows' events, window after window, int64 (R,).

        Args:
            which: int64 (B,), the windows.
            n_beyond: Places after the last event of each that are given as well; int64 (B,) if not
                as many for all.
        """
        lengths = self.lengths[which] + n_beyond
        before = np.cumsum(lengths) - lengths
        return np.repeat(self.starts[which] - before, lengths) + np.arange(lengths.sum())

    def rows(self, which: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Gather windows, padded by item 0 at the end: items (B, longest), lengths (B,)."""
        lengths = self.lengths[which]
        places = np.arange(lengths.max(initial=0))
        inside = places < lengths[:, None]
        flat = np.where(inside, self.starts[which][:, None] + places, 0)
        return np.where(inside, self.items[flat], 0).astype(np.int64), lengths


def training_windows(histories: Histories, *, max_his_len: int) -> Windows:
    """Cut histories so that every event but a user's first is the target of one window.

    A window has at most `max_his_len` inputs and as many targets; the last one of a user ends with
    the last event, and the one before it ends where its targets begin.
    """
    n_targets = np.maximum(histories.lengths() - 1, 0)
    counts = -(-n_targets // max_his_len)  # (U,)
    users = np.repeat(np.arange(histories.n_users), counts)
    number = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)  # from the end
    ends = histories.offsets[1:][users] - number * max_his_len
    starts = np.maximum(ends - max_his_len - 1, histories.offsets[:-1][users])
    return Windows(histories.items, starts, ends - starts)


def last_windows(histories: Histories, *, max_his_len: int) -> Windows:
    """Take the last `max_his_len` events of every user, none of an empty history."""
    lengths = np.minimum(histories.lengths(), max_his_len)
    return Windows(histories.items, histories.offsets[1:] - lengths, lengths)


def shorten(windows: Windows, *, generator: np.random.Generator) -> Windows:
    """Let every second window, by chance, begin at a random one of its events but the last.

    A model that reads windows only from their beginnings may learn these by heart, and rank worse
    for histories that it has not been trained on, as on Office (docs/log.md).
    """
    chosen = generator.random(len(windows.lengths)) < 0.5
    n_left_out = generator.integers(0, np.maximum(windows.lengths - 1, 1)) * chosen
    return Windows(windows.items, windows.starts + n_left_out, windows.lengths - n_left_out)
