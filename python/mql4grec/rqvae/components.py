"""Principal components in torch: the linear encoder that loses least."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


@torch.no_grad()
def principal_components(
    blocks: Callable[[], Iterable[Tensor]], *, n_components: int
) -> tuple[Tensor, Tensor]:
    """Find the directions in which rows vary most.

    In float64, by the eigenvectors of the covariance, for D up to a few thousand.

    Args:
        blocks: Gives the rows, float32 (B, D) each, at least one in all; called twice.
        n_components: E, at most D.

    Returns:
        Mean float32 (D,), and unit vectors float32 (E, D), most variance first; of the two signs,
        the one that makes the largest of a vector's numbers positive.
    """
    n_rows, total = 0, torch.zeros((), dtype=torch.float64)
    for block in blocks():
        n_rows += len(block)
        total = total.to(block.device) + block.double().sum(0)
    mean = total / n_rows
    scatter = mean.new_zeros(len(mean), len(mean))
    for block in blocks():
        centred = block.double() - mean
        scatter.addmm_(centred.T, centred)
    vectors = torch.linalg.eigh(scatter).eigenvectors.T.flip(0)[:n_components]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return mean.float(), (vectors * largest.sign()).float()
