"""The trie as tensors on the model's device, walked there by node.

No step of it waits for the host: shapes follow from the catalog and the number of beams alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mql4grec.decoding.trie import ItemTrie


@dataclass(frozen=True)
class DeviceTrie:
    """A trie laid flat, level after level: nodes are numbered by depth, then by code.

    Three items (1, 2), (0, 2), (1, 0), being the shop's items 4, 7 and 9; K is 2, then 3:

        nodes         0 root | 1 (0), 2 (1) | 3 (0, 2), 4 (1, 0), 5 (1, 2)
        first_child   1 | 3, 4
        n_children    2 | 1, 2
        codes         0 | 0, 1 | 2, 0, 2     the last code of each node; 0 of the root
        items         7, 9, 4                of the leaves, in the order of their codes
        levels        0, 1, 3, 6             nodes of depth d are levels[d] to below levels[d + 1]
        widths        2, 2                   most children of a node of depth d

    Attributes:
        first_child: int64 (inner nodes).
        n_children: int64 (inner nodes).
        codes: int64 (nodes).
        items: int32 (items), item rows.
        levels: First node of each depth, and the number of nodes (L + 2).
        widths: The most children that a node of each depth has, at least 1 (L).
        n_codes: K of each level (L).
    """

    first_child: Tensor
    n_children: Tensor
    codes: Tensor
    items: Tensor
    levels: tuple[int, ...]
    widths: tuple[int, ...]
    n_codes: tuple[int, ...]

    @property
    def n_items(self) -> int:
        """Number of items, and of leaves."""
        return len(self.items)

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.items.device

    def slots(self, nodes: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """List the children of nodes side by side, in as many places as the widest node needs.

        Args:
            nodes: int64 (B, m), of this level.
            level: Their depth, from 0.

        Returns:
            Their nodes int64 (B, m, W), by code, and which places are taken, bool (B, m, W); at a
            place that is not stands some other node of their level.
        """
        places = torch.arange(self.widths[level], device=nodes.device)
        taken = places < self.n_children[nodes][..., None]  # (B, m, W)
        children = self.first_child[nodes][..., None] + places
        return children.clamp_(max=self.levels[level + 2] - 1), taken

    def walk(self, codes: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Follow codes down from the root.

        Args:
            codes: int64 (B, t), t from 0 to L, each below its level's K.
            edges: As `edges` gives them.

        Returns:
            Nodes int64 (B), and whether there are such, bool (B); where not, some other node.
        """
        nodes = torch.zeros(len(codes), dtype=torch.int64, device=self.device)
        known = torch.ones(len(codes), dtype=torch.bool, device=self.device)
        for level in range(codes.shape[1]):
            wanted = nodes * max(self.n_codes) + codes[:, level]
            places = torch.searchsorted(edges, wanted).clamp_(max=len(edges) - 1)
            known = known & (edges[places] == wanted)
            nodes = torch.where(known, places + 1, self.levels[level + 1])
        return nodes, known

    def edges(self) -> Tensor:
        """Number the edges, ascending: parent times the largest K plus code, int64 (nodes - 1)."""
        return self.parents_of(1, self.levels[-1] - 1) * max(self.n_codes) + self.codes[1:]

    def parents_of(self, begin: int, end: int) -> Tensor:
        """Give the parents of the nodes from `begin` to `end` inclusive, of one depth, int64."""
        nodes = torch.arange(begin, end + 1, device=self.device)
        return torch.searchsorted(self.first_child, nodes, right=True) - 1

    def parts(self, size: int) -> list[list[tuple[int, int]]]:
        """Cut the trie into parts of at most `size` leaves that lie side by side.

        Returns:
            Of each part, its first and last node at each depth (L + 1); parts share prefixes.
        """
        first = torch.arange(self.levels[-2], self.levels[-1], size, device=self.device)
        borders = torch.stack([first, (first + size).clamp(max=self.levels[-1]) - 1], dim=1)
        depths = [borders]
        for _ in self.n_codes:
            borders = torch.searchsorted(self.first_child, borders, right=True) - 1
            depths.append(borders)
        found = torch.stack(depths[::-1], dim=1).tolist()  # (parts, L + 1, 2)
        return [[(begin, end) for begin, end in part] for part in found]

    def items_of(self, leaves: Tensor) -> Tensor:
        """Give the item rows of leaves, int32 of the same shape."""
        return self.items[leaves - self.levels[-2]]


def lay_out(trie: ItemTrie, *, device: torch.device) -> DeviceTrie:
    """Copy a trie to a device.

    Args:
        trie: Whose items may come out.
        device: Of the model.
    """
    offsets, codes, rows = trie.core.arrays()
    first, number = offsets[:-1].astype(np.int64) + 1, np.diff(offsets).astype(np.int64)
    n_codes = trie.n_codes
    levels = [0, 1]
    for _ in n_codes:
        last = levels[-1]
        # The children of the first node of a level start the next; none in an empty trie.
        levels.append(int(number[levels[-2] : last].sum()) + last)
    widths = [int(number[a:b].max(initial=1)) for a, b in pairwise(levels[:-1])]
    return DeviceTrie(
        first_child=torch.from_numpy(first).to(device),
        n_children=torch.from_numpy(number).to(device),
        codes=torch.from_numpy(np.concatenate([[0], codes]).astype(np.int64)).to(device),
        items=torch.from_numpy(trie.rows[rows].astype(np.int32)).to(device),
        levels=tuple(levels),
        widths=tuple(widths),
        n_codes=n_codes,
    )
