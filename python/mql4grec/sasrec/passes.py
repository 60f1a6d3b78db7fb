"""The windows of one optimizer step as forward passes of a bounded size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mql4grec.language import Windows

ROW_PLACES = 1 << 15  # padded places of one forward pass
SCORES = 1 << 23  # scores of one forward pass: 32 MiB of float32, and as much for their gradient


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
