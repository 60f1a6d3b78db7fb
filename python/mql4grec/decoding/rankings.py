"""The record that this room hands on; rooms without torch use it too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rankings:
    """Recommended items of U users, best first.

    Attributes:
        items: int32 (U, M), item rows; -1 where a list is shorter than M.
        scores: float32 (U, M), log-probability (or what the ranking's source calls score);
            -inf where items is -1.
        certified: bool (U), whether no item that was left out can have a higher score than the last
            of the list; None where the source does not tell.
    """

    items: NDArray[np.int32]
    scores: NDArray[np.float32]
    certified: NDArray[np.bool_] | None = None
