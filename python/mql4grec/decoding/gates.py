"""Filters laid out over a trie.

No trie is built for them. Leaves of the trie are in the order of their codes, so that the items
below a node are a range of leaves, and a prefix is open if any leaf in its range is: a difference
of two running sums of a mask, or of two places in a sorted list.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mql4grec.catalog import Histories
from mql4grec.decoding.filters import Filters
from mql4grec.decoding.trie import ItemTrie


@dataclass(frozen=True)
class OpenLeaves:
    """The open leaves of B users on the device.

    Attributes:
        begin: First leaf below each node of the trie, int32 (nodes).
        end: One after the last.
        counts: Open leaves before each leaf and in all, by mask, int32 (R, leaves + 1), or None.
        mask_of: Which row of `counts` each user has, int64 (B, 1, 1).
        listed: Leaves, ascending, padded by the number of leaves: int32 (B, S), or None.
        only_listed: The listed leaves are those open; otherwise, they are the ones closed.
    """

    begin: Tensor
    end: Tensor
    counts: Tensor | None
    mask_of: Tensor | None
    listed: Tensor | None
    only_listed: bool

    def open(self, nodes: Tensor) -> Tensor:
        """Tell below which nodes (B, m, W) there is an open leaf: bool (B, m, W)."""
        begin, end = self.begin[nodes], self.end[nodes]
        if self.listed is None:
            return self._allowed(begin, end) > 0
        places = torch.stack([begin, end]).flatten(2).transpose(0, 1).flatten(1)  # (B, 2 m W)
        found = torch.searchsorted(self.listed, places.contiguous()).unflatten(1, (2, -1))
        listed = (found[:, 1] - found[:, 0]).view(nodes.shape)
        number: Tensor = listed if self.only_listed else self._allowed(begin, end) - listed
        return number > 0

    def _allowed(self, begin: Tensor, end: Tensor) -> Tensor:
        """Count the leaves of ranges that the masks allow."""
        if self.counts is None or self.mask_of is None:
            return end - begin
        return self.counts[self.mask_of, end.long()] - self.counts[self.mask_of, begin.long()]


@dataclass(frozen=True)
class Gate:
    """Filters laid out over a trie; gives the open leaves of any batch of users.

    Attributes:
        filters: Of U users.
        items: int64 (leaves), the item row of each leaf.
        leaf_of: int64 (N), the leaf of each item row, -1 if none.
        device: Of the model.
        begin: As in `OpenLeaves`.
        end: As in `OpenLeaves`.
        counts: As in `OpenLeaves`.
    """

    filters: Filters
    items: NDArray[np.int64]
    leaf_of: NDArray[np.int64]
    device: torch.device
    begin: Tensor
    end: Tensor
    counts: Tensor | None

    def of(self, users: NDArray[np.int64]) -> OpenLeaves:
        """Give the open leaves of some users.

        Args:
            users: Their places among the U users of the filters, int64 (B).
        """
        chosen = self._mask_of(users)
        mask_of = None if chosen is None else _upload(chosen[:, None, None], self.device)
        listed = self._listed(users, chosen)
        return OpenLeaves(
            begin=self.begin,
            end=self.end,
            counts=self.counts,
            mask_of=mask_of,
            listed=None if listed is None else _upload(listed, self.device),
            only_listed=self.filters.only is not None,
        )

    def _mask_of(self, users: NDArray[np.int64]) -> NDArray[np.int64] | None:
        if self.filters.masks is None:
            return None
        if self.filters.mask_of is None:
            return np.zeros(len(users), np.int64)
        return self.filters.mask_of[users].astype(np.int64)

    def _listed(
        self, users: NDArray[np.int64], mask_of: NDArray[np.int64] | None
    ) -> NDArray[np.int32] | None:
        """List the open leaves of users with lists of their own, or the closed ones of the rest."""
        only, without = self.filters.only, self.filters.without
        if only is None and without is None:
            return None
        pairs = self._pairs(users, without) if only is None else self._pairs(users, only)
        if only is not None and without is not None:
            pairs = np.setdiff1d(pairs, self._pairs(users, without), assume_unique=True)
        row, leaf = np.divmod(pairs, len(self.items))
        if mask_of is not None and self.filters.masks is not None:
            allowed = self.filters.masks[mask_of[row], self.items[leaf]]
            row, leaf = row[allowed], leaf[allowed]
        lengths = np.bincount(row, minlength=len(users))
        listed = np.full((len(users), max(1, lengths.max(initial=0))), len(self.items), np.int32)
        starts = np.cumsum(lengths) - lengths
        listed[row, np.arange(len(row)) - starts[row]] = leaf
        return listed

    def _pairs(self, users: NDArray[np.int64], lists: Histories | None) -> NDArray[np.int64]:
        """Number the (user, leaf) pairs of lists, ascending, each once."""
        assert lists is not None
        lengths = lists.lengths()[users]
        row = np.repeat(np.arange(len(users)), lengths)
        place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        leaf = self.leaf_of[lists.items[lists.offsets[users][row] + place]]
        return np.unique(row[leaf >= 0] * len(self.items) + leaf[leaf >= 0])


def lay_out_filters(
    filters: Filters, trie: ItemTrie, *, n_users: int, device: torch.device
) -> Gate:
    """Check filters and lay them out over the leaves of a trie.

    Args:
        filters: Of `n_users` users.
        trie: Whose items may come out.
        n_users: U.
        device: Of the model.

    Raises:
        ValueError: If a part has other users or items than it should.
    """
    offsets, _, rows = trie.core.arrays()
    items = trie.rows[rows].astype(np.int64)
    n_items = filters.check(n_users=n_users, n_items=int(trie.rows.max(initial=-1)) + 1)
    leaf_of = np.full(n_items, -1, np.int64)
    leaf_of[items] = np.arange(len(items))
    begin, end = _ranges(offsets.astype(np.int64), len(items))
    counts = None
    if filters.masks is not None:
        counts = np.zeros((len(filters.masks), len(items) + 1), np.int32)
        np.cumsum(filters.masks[:, items], axis=1, out=counts[:, 1:])
    return Gate(
        filters=filters,
        items=items,
        leaf_of=leaf_of,
        device=device,
        begin=torch.from_numpy(begin).to(device),
        end=torch.from_numpy(end).to(device),
        counts=None if counts is None else torch.from_numpy(counts).to(device),
    )


def _ranges(
    offsets: NDArray[np.int64], n_leaves: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Give the range of leaves below each node; children of n are `offsets[n] + 1` and so on."""
    n_inner = len(offsets) - 1
    begin = np.zeros(n_inner + n_leaves, np.int32)
    end = np.zeros(n_inner + n_leaves, np.int32)
    begin[n_inner:] = np.arange(n_leaves)
    end[n_inner:] = np.arange(1, n_leaves + 1)
    last = n_inner
    while last > 0 and n_leaves > 0:
        # Nodes whose children are known: those whose first child is `last` or later.
        first = int(np.searchsorted(offsets[:-1] + 1, last))
        begin[first:last] = begin[offsets[first:last] + 1]
        end[first:last] = end[offsets[first + 1 : last + 1]]
        last = first
    return begin, end


def _upload(values: NDArray[np.int64] | NDArray[np.int32], device: torch.device) -> Tensor:
    return torch.from_numpy(values).to(device)
