"""Histories as batches: windows of them for training, their last items for ranking.

Rows are padded at the end. Attention looks back only, so that padding there changes nothing, and
the first item of a window is always at place 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mql4grec.catalog import Histories

ROW_PLACES = 1 << 15  # padded places of one forward pass
SCORES = 1 << 23  # scores of one forward pass: 32 MiB of float32, and as much for their gradient


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


def cut(windows: Windows, which: NDArray[np.int64], *, n_items: int) -> Iterator[NDArray[np.int64]]:
    """Cut the windows of one optimizer step into forward passes of similar length, longest first.

    The gradient is a sum over all targets, so their order is free, and sorting leaves little
    padding. A pass has no more scores than memory is meant for, but at least one window.
    """
    ordered = which[np.argsort(-windows.lengths[which], kind="stable")]
    limit = min(ROW_PLACES, max(SCORES // n_items, 1))
    start = 0
    while start < len(ordered):
        longest = max(int(windows.lengths[ordered[start]]) - 1, 1)
        # A quarter of a step at most, so that short windows are not padded to long ones.
        size = min(max(limit // longest, 1), max(-(-len(which) // 4), 16))
        yield ordered[start : start + size]
        start += size
