"""Which items each user may get: in stock, of a category, one's own list, not yet seen.

Baselines go by them too, so there is no torch here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mql4grec.catalog import Histories


@dataclass(frozen=True)
class Filters:
    """Which items U users may get: those that all four leave.

    Attributes:
        masks: bool (R, N), over all item rows: in stock, of category c. None: all items.
        mask_of: int64 (U), which mask each user has. None: one mask for everybody.
        only: Lists of the users' own; nothing else comes out. None: no lists.
        without: Items that a user does not get, such as those seen. None: no lists.
    """

    masks: NDArray[np.bool_] | None = None
    mask_of: NDArray[np.int64] | None = None
    only: Histories | None = None
    without: Histories | None = None

    def check(self, *, n_users: int, n_items: int) -> int:
        """Check that all parts speak of the same users and items.

        Args:
            n_users: U.
            n_items: Item rows that there are at least.

        Returns:
            The number of item rows that the filters speak of.

        Raises:
            ValueError: If a part has other users or items than it should.
        """
        masks, mask_of = self.masks, self.mask_of
        if masks is not None:
            if masks.dtype != np.bool_ or masks.ndim != 2 or masks.shape[1] < n_items:
                raise ValueError(
                    f"`filters.masks`: expected bool (R, N) for N >= {n_items} items, got "
                    f"{masks.dtype} {masks.shape}; give one mark per item row"
                )
            n_items = masks.shape[1]
            ways = len(masks) == 1 if mask_of is None else mask_of.shape == (n_users,)
            known = mask_of is None or bool(((mask_of >= 0) & (mask_of < len(masks))).all())
            if not (ways and known):
                raise ValueError(
                    f"`filters.mask_of`: expected one of {len(masks)} masks for each of {n_users} "
                    f"users, got {None if mask_of is None else mask_of.tolist()[:5]}; "
                    "it may be left out where there is one mask"
                )
        for name, lists in (("only", self.only), ("without", self.without)):
            if lists is not None and lists.n_users != n_users:
                raise ValueError(
                    f"`filters.{name}`: expected lists of {n_users} users, got {lists.n_users}; "
                    "give an empty list where a user has none"
                )
            if lists is not None and len(lists.items):
                n_items = max(n_items, int(lists.items.max()) + 1)
        return n_items

    def closed(self, start: int, stop: int, *, items: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Mark what some users do not get.

        Args:
            start: The first of these users.
            stop: One after the last.
            items: Item rows (W), ascending, each once.

        Returns:
            bool (stop - start, W).
        """
        closed = np.zeros((stop - start, len(items)), bool)
        if self.masks is not None:
            rows = slice(None) if self.mask_of is None else self.mask_of[start:stop]
            closed |= ~self.masks[rows][:, items]
        if self.only is not None:
            closed |= ~_marked(self.only, start, stop, items=items)
        if self.without is not None:
            closed |= _marked(self.without, start, stop, items=items)
        return closed


def _marked(
    lists: Histories, start: int, stop: int, *, items: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """Mark which of some items (W,) are listed for each user: bool (stop - start, W)."""
    listed = lists.items[lists.offsets[start] : lists.offsets[stop]]
    users = np.repeat(np.arange(stop - start), lists.lengths()[start:stop])
    place = np.searchsorted(items, listed)
    found = np.append(items, -1)[place] == listed
    marked = np.zeros((stop - start, len(items)), bool)
    marked[users[found], place[found]] = True
    return marked


EVERYTHING = Filters()  # every item, for any users
