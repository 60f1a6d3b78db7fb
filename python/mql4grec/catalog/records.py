"""The two records that the other rooms work on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Histories:
    """Every user's items in time order, as CSR.

    Attributes:
        offsets: int64 (U+1,); user u owns `items[offsets[u]:offsets[u+1]]`.
        items: int32 (E,), item rows.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]

    @property
    def n_users(self) -> int:
        """Number of users U."""
        return len(self.offsets) - 1

    def of(self, user: int) -> NDArray[np.int32]:
        """Give one user's whole history, oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def lengths(self) -> NDArray[np.int64]:
        """Count every user's events: int64 (U,)."""
        return np.diff(self.offsets)

    def of_users(self, users: NDArray[np.int64]) -> Histories:
        """Take the histories of some users, rows int64, in the order that they are given in."""
        lengths = self.lengths()[users]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        shift = np.repeat(self.offsets[users] - offsets[:-1], lengths)
        return Histories(offsets=offsets, items=self.items[np.arange(offsets[-1]) + shift])

    def held_out(self, n: int) -> Histories:
        """Give every history without its last `n` events; shorter ones become empty.

        Args:
            n: 2 gives the training part, 1 the input of the test, 0 everything.

        Raises:
            ValueError: If `n` is negative.
        """
        if n < 0:
            raise ValueError(f"`n`: expected 0 or more, got {n}")
        lengths = self.lengths()
        kept = np.maximum(lengths - n, 0)  # (U,)
        # (E,), place of each event in its own user's history
        position = np.arange(len(self.items)) - np.repeat(self.offsets[:-1], lengths)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])  # (U+1,)
        return Histories(offsets=offsets, items=self.items[position < np.repeat(kept, lengths)])

    def target(self, n: int) -> NDArray[np.int32]:
        """Give every user's n-th event from the end.

        Args:
            n: 1 gives the test target, 2 the validation target.

        Returns:
            Item rows, int32 (U,).

        Raises:
            ValueError: If `n` is not positive, or a history has fewer than `n` events.
        """
        if n < 1:
            raise ValueError(f"`n`: expected 1 or more, got {n}")
        short = np.flatnonzero(self.lengths() < n)
        if len(short):
            raise ValueError(
                f"`n`: expected histories of at least {n} events, "
                f"got {self.lengths()[short[0]]} of user {short[0]}"
            )
        return self.items[self.offsets[1:] - n]


@dataclass(frozen=True)
class Catalog:
    """One shop.

    Attributes:
        name: Of the data set.
        item_ids: Source key of each row (N).
        user_ids: Source key of each user (U).
        titles: (N), "" where missing.
        texts: (N), cleaned title and description joined, "" where there is none.
        images: (N), path of the picture, None where there is none.
        histories: All events; the last of a user is for test, the one before for validation.
    """

    name: str
    item_ids: tuple[str, ...]
    user_ids: tuple[str, ...]
    titles: tuple[str, ...]
    texts: tuple[str, ...]
    images: tuple[Path | None, ...]
    histories: Histories

    @property
    def n_items(self) -> int:
        """Number of items N."""
        return len(self.item_ids)
