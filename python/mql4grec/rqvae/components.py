"""Principal components in torch: the linear encoder that loses least."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS_AT_ONCE = 65_536


@torch.no_grad()
def principal_components(
    rows: Tensor, *, n_components: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Find the directions in which rows vary most.

    In float64, by the eigenvectors of the covariance, for D up to a few thousand; rows pass the
    device block by block and need not lie there.

    Args:
        rows: float32 (N, D), N >= 1.
        n_components: E, at most D.
        device: Where it is computed.

    Returns:
        Mean float32 (D,), and unit vectors float32 (E, D), most variance first; of the two signs,
        the one that makes the largest of a vector's numbers positive.
    """
    width = rows.shape[1]
    total = torch.zeros(width, dtype=torch.float64, device=device)
    for block in torch.split(rows, ROWS_AT_ONCE):
        total += block.to(device).double().sum(0)
    mean = total / len(rows)
    scatter = torch.zeros(width, width, dtype=torch.float64, device=device)
    for block in torch.split(rows, ROWS_AT_ONCE):
        centred = block.to(device).double() - mean
        scatter.addmm_(centred.T, centred)
    vectors = torch.linalg.eigh(scatter).eigenvectors.T.flip(0)[:n_components]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return mean.float(), (vectors * largest.sign()).float()
