"""How good codes are before collisions are resolved: shared codes, and codes that nobody uses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def collision_rate(codes: Tensor, *, n_codes: Sequence[int]) -> float:
    """Give (N - U) / N for U different semantic IDs among N items.

    Of a group of g items with one semantic ID, g - 1 count: those that will have to move.

    Args:
        codes: int64 (N, L), N >= 1.
        n_codes: K of each level.

    Source:
        The authors' code, which compares strings; here the codes of an item are one integer.
    """
    packed, n_values = codes[:, 0], n_codes[0]
    for level in range(1, len(n_codes)):
        if n_values * n_codes[level] > 2**62:  # number the prefixes that occur, and go on
            packed = torch.unique(packed, return_inverse=True)[1]
            n_values = len(codes)
        packed = packed * n_codes[level] + codes[:, level]
        n_values *= n_codes[level]
    return (len(codes) - len(torch.unique(packed))) / len(codes)


def code_usage(codes: Tensor, *, n_codes: Sequence[int]) -> tuple[list[float], list[int]]:
    """Say how evenly the codes of each level are used.

    Args:
        codes: int64 (N, L).
        n_codes: K of each level.

    Returns:
        Perplexity (L): the number of codes that, used equally, would be as uncertain; and the
        number of codes that no item has (L).
    """
    perplexity, dead = [], []
    for level, size in enumerate(n_codes):
        counts = codes[:, level].bincount(minlength=size)
        entropy = torch.special.entr(counts.double() / len(codes)).sum()
        perplexity.append(round(float(entropy.exp()), 3))
        dead.append(int((counts == 0).sum()))
    return perplexity, dead
