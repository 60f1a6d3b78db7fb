"""Codebooks between optimizer steps: moving averages instead of gradients, dead codes restarted.

Nothing here waits for the device, and nothing is drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Upkeep:
    """What is known of the codes' use; one tensor per level, changed in place.

    Attributes:
        counts: float32 (K), moving averages of the rows of a batch that have each code.
        sums: float32 (K, E), moving averages of the sums of these rows' residuals.
        idle: int64 (K), steps since a row last had the code.
    """

    counts: tuple[Tensor, ...]
    sums: tuple[Tensor, ...]
    idle: tuple[Tensor, ...]

    def tensors(self) -> dict[str, Tensor]:
        """Name all tensors, for a checkpoint."""
        return {
            f"{name}.{level}": tensor
            for name in ("counts", "sums", "idle")
            for level, tensor in enumerate(getattr(self, name))
        }


def begin(codebooks: Sequence[Tensor]) -> Upkeep:
    """Begin with every code as large and as recently used as the others of its level."""
    upkeep = Upkeep(
        tuple(book.new_zeros(len(book)) for book in codebooks),
        tuple(torch.zeros_like(book) for book in codebooks),
        tuple(torch.zeros(len(book), dtype=torch.int64, device=book.device) for book in codebooks),
    )
    reset(upkeep, codebooks)
    return upkeep


@torch.no_grad()
def reset(upkeep: Upkeep, codebooks: Sequence[Tensor]) -> None:
    """Begin anew, because the codebooks have been set."""
    for level, book in enumerate(codebooks):
        upkeep.counts[level].fill_(1)
        upkeep.sums[level].copy_(book)
        upkeep.idle[level].zero_()


@torch.no_grad()
def keep_up(
    upkeep: Upkeep,
    codebooks: Sequence[Tensor],
    latents: Tensor,
    codes: Tensor,
    *,
    decay: float | None,
    restart_after: int,
) -> None:
    """Follow one batch.

    Args:
        upkeep: Of these codebooks.
        codebooks: float32 (K, E) each, changed in place.
        latents: float32 (B, E), rows in random order.
        codes: int64 (B, L), chosen by these codebooks.
        decay: What a moving average keeps of itself in a step; None: the codebooks are left to
            their gradients.
        restart_after: A code that no row had for so many steps becomes the residual of some row of
            the batch; 0: never.

    Source:
        van den Oord and others 2017, appendix A.1 (averages); Dhariwal and others 2020 (restarts).
        Counts are scaled so that an equal share of the batch is 1.
    """
    residual = latents
    for level, book in enumerate(codebooks):
        chosen = book[codes[:, level]].clone()
        new = torch.zeros_like(upkeep.counts[level])
        new.index_add_(0, codes[:, level], torch.ones_like(residual[:, 0]))
        if decay is not None:
            scale = (1 - decay) * len(book) / len(latents)
            upkeep.counts[level].mul_(decay).add_(new, alpha=scale)
            upkeep.sums[level].mul_(decay).index_add_(0, codes[:, level], residual, alpha=scale)
            book.copy_(upkeep.sums[level] / upkeep.counts[level].clamp_min(1e-6)[:, None])
        if restart_after:
            _restart(upkeep, book, residual, new, level=level, after=restart_after)
        residual = residual - chosen


def _restart(
    upkeep: Upkeep, book: Tensor, residual: Tensor, new: Tensor, *, level: int, after: int
) -> None:
    """Give the residuals (B, E) of rows to codes that were idle for too long."""
    idle = upkeep.idle[level]
    idle.copy_(torch.where(new > 0, 0, idle + 1))
    dead = idle >= after  # (K)
    taker = (dead.cumsum(0) - 1).clamp_min(0) % len(residual)  # the first rows are random ones
    given = residual[taker]
    book.copy_(torch.where(dead[:, None], given, book))
    upkeep.sums[level].copy_(torch.where(dead[:, None], given, upkeep.sums[level]))
    upkeep.counts[level].masked_fill_(dead, 1)
    idle.masked_fill_(dead, 0)
