"""Dropout from random bits: integers that are compared with a threshold.

`torch.nn.functional.dropout` asks a generator for every number, which took a fifth of a training's
time on a CPU; here one draw of 64 bits decides about four.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 1 << 16  # what 16 bits tell apart


@dataclass(frozen=True)
class Dropout:
    """The masks of one forward pass, drawn one after the other.

    The same seed gives the same masks on every CPU, whatever the version of its vector units.

    Attributes:
        n_dropped: Of `LEVELS` equally likely numbers, those that stand for a dropped one: the share
            dropped is `dropout` rounded to 1/65,536.
        generator: On the device of what is dropped.
    """

    n_dropped: int
    generator: torch.Generator

    @property
    def scale(self) -> float:
        """What the kept are multiplied by, so that the mean stays; 0 where all are dropped."""
        kept = LEVELS - self.n_dropped
        return LEVELS / kept if kept else 0.0

    def mask(self, like: Tensor) -> Tensor:
        """Draw ones and zeros of a tensor's shape and type."""
        n = like.numel()
        bits = torch.empty(-(-n // 4), dtype=torch.int64, device=like.device)
        bits.random_(torch.iinfo(torch.int64).min, None, generator=self.generator)  # all 64 bits
        mask = torch.empty(n, dtype=like.dtype, device=like.device)
        # Written as numbers at once: a mask of booleans takes six times as long to multiply by.
        torch.gt(bits.view(torch.int16)[:n], self.n_dropped - LEVELS // 2 - 1, out=mask)
        return mask.view(like.shape)


def make_dropout(rate: float, *, seed: int, device: torch.device) -> Dropout | None:
    """Prepare the masks of a forward pass; None if nothing is dropped."""
    n_dropped = round(rate * LEVELS)
    if not n_dropped:
        return None
    return Dropout(n_dropped, torch.Generator(device).manual_seed(seed))


@dataclass(frozen=True)
class _Share:
    """Of what is dropped.

    Attributes:
        rate: From 0 to 1.
    """

    rate: float

    @property
    def scale(self) -> float:
        """What the kept are multiplied by, so that the mean stays; 0 where all are dropped."""
        return 1 / (1 - self.rate) if self.rate < 1 else 0.0


class HashedDropout(_Share):
    """Masks that are a hash of seed and place, which a GPU's compiler makes where they are used.

    A generator that draws 32 bits takes over a hundred operations for them, and kernels with one
    were a fifth of a training's time on a GPU; this takes ten. The rounds are those of a usual hash
    of integers (Wellons' lowbias32), with the seed in two of them, so that masks of other seeds are
    no shifted ones. The rate is rounded to 1/2^32.
    """

    def mask(self, like: Tensor, seed: Tensor) -> Tensor:
        """Give ones and zeros of a tensor's shape and type; `seed` is int32 ()."""
        place = torch.arange(like.numel(), dtype=torch.int32, device=like.device).view(like.shape)
        bits = place ^ seed  # a product first would be one of sizes, for which Triton has no int32
        bits = (bits ^ (bits >> 16 & 0xFFFF)) * 0x7FEB352D ^ seed
        bits = (bits ^ (bits >> 15 & 0x1FFFF)) * -0x7B935975
        bits = bits ^ (bits >> 16 & 0xFFFF)
        n_dropped = min(round(self.rate * 2**32), 2**32 - 1)  # of as many numbers
        return (bits >= n_dropped - 2**31).to(like.dtype)


class RandomDropout(_Share):
    """Masks from the device's own generator: fewest operations, where a GPU does one by one."""

    def mask(self, like: Tensor) -> Tensor:
        """Draw ones and zeros of a tensor's shape and type."""
        return (torch.rand_like(like, dtype=torch.float32) >= self.rate).to(like.dtype)
