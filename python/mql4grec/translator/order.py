"""In which order a pass takes the rows, and which rows k-means looks at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_pass(sizes: Sequence[int], *, balance: float, generator: torch.Generator) -> Tensor:
    """Draw the rows of one pass, as many as there are.

    Args:
        sizes: Rows of each shop, n_s.
        balance: A shop's part goes with n_s to the power of 1 - balance: 0, every row once; 1, as
            many rows of each shop, those of small shops several times.
        generator: On the CPU.

    Returns:
        Rows, int64 (N,), counted over all shops.
    """
    n_rows = sum(sizes)
    if balance == 0 or len(sizes) == 1:
        return torch.randperm(n_rows, generator=generator)
    drawn, start = [], 0
    for size, part in zip(sizes, _parts(sizes, balance=balance), strict=True):
        for begin in range(0, part, max(size, 1)):
            order = torch.randperm(size, generator=generator)
            drawn.append(start + order[: part - begin])
        start += size
    rows = torch.cat(drawn)
    return rows[torch.randperm(n_rows, generator=generator)]


def _parts(sizes: Sequence[int], *, balance: float) -> list[int]:
    """Share out as many rows as there are; rounding goes to no shop that has none."""
    weights = torch.tensor([size ** (1 - balance) if size else 0.0 for size in sizes]).double()
    bounds = (weights.cumsum(0) / weights.sum() * sum(sizes)).round().long()
    return torch.diff(bounds, prepend=torch.zeros(1, dtype=torch.int64)).tolist()
