"""What of the embeddings' variance the codes lose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mql4grec.quality.neighbours import add_up
from mql4grec.rqvae import RQVAE

ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Reconstruction:
    """Mean squared error of decoded items, as a share of the embeddings' variance.

    0 is without loss; 1 is what the mean embedding in place of every item would give.

    Attributes:
        n_items: Items that it was measured on.
        variance: Mean squared distance of a number to its column's mean, over these items.
        without_codes: Error of the decoder given the latents themselves: the network's own part.
        before: Error of the decoder given the sum of the nearest codes' vectors.
        after: The same with the codes after collisions were resolved.
    """

    n_items: int
    variance: float
    without_codes: float
    before: float
    after: float


@torch.inference_mode()
def reconstruct(
    network: RQVAE,
    vectors: NDArray[np.float32],
    *,
    latents: NDArray[np.float32],
    before: NDArray[np.uint16],
    after: NDArray[np.uint16],
) -> Reconstruction | None:
    """Decode items from their codes, and compare with their embeddings.

    Args:
        network: A trained RQ-VAE, on any device, in evaluation mode.
        vectors: float32 (S, D).
        latents: What its encoder makes of them, float32 (S, E).
        before: Nearest codes, uint16 (S, L).
        after: Codes after collisions were resolved, uint16 (S, L).

    Returns:
        The errors; None if all vectors are the same, so that there is no variance.
    """
    device = next(network.parameters()).device
    codebooks = [codebook.detach().cpu().numpy() for codebook in network.codebooks]
    mean = torch.from_numpy(vectors.mean(axis=0, dtype=np.float64)).to(device)
    sums = np.zeros(4)
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        block = torch.from_numpy(vectors[part]).to(device).double()
        sums[0] += _squares(block - mean)
        given = (latents[part], add_up(codebooks, before[part]), add_up(codebooks, after[part]))
        for place, latent in enumerate(given, start=1):
            decoded = network.decoder(torch.from_numpy(latent).to(device))
            sums[place] += _squares(decoded.double() - block)
    if sums[0] == 0:
        return None
    without_codes, nearest, resolved = (sums[1:] / sums[0]).tolist()
    return Reconstruction(
        n_items=len(vectors),
        variance=float(sums[0] / vectors.size),
        without_codes=without_codes,
        before=nearest,
        after=resolved,
    )


def _squares(differences: Tensor) -> float:
    return float(differences.square().sum())
