"""A trained translator at work: latents and nearest codes of one shop's items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mql4grec.config import Modality
from mql4grec.embeddings import Embeddings
from mql4grec.rqvae import RQVAE
from mql4grec.runtime import SILENT, Journal, Runtime
from mql4grec.translator.rows import read_blocks

ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class Translation:
    """What a translator makes of one shop's embeddings; collisions not yet resolved.

    Attributes:
        dataset: Name of the shop.
        modality: "text" or "image".
        codes: uint16 (N, L), nearest code of every level; rows not present are zero.
        latents: float32 (N, E); rows not present are zero.
        codebooks: One float32 (K_l, E) per level; levels may differ in K.
        present: bool (N,).
        quantisation_error: Mean over the present items of the squared error of their codes'
            vectors together; None if it was not computed.
    """

    dataset: str
    modality: Modality
    codes: NDArray[np.uint16]
    latents: NDArray[np.float32]
    codebooks: tuple[NDArray[np.float32], ...]
    present: NDArray[np.bool_]
    quantisation_error: float | None = None


def translate(
    network: RQVAE, embeddings: Embeddings, *, runtime: Runtime, journal: Journal = SILENT
) -> Translation:
    """Find the latent and the nearest code at every level of each item that is present.

    It runs in float32 whatever the precision of the training, so that codes do not depend on it.

    Args:
        network: A trained RQ-VAE of L levels; it is moved to the runtime's device.
        embeddings: Vectors of one modality, float32 (N, D).
        runtime: Gives the device.
        journal: Gets a progress bar.

    Raises:
        ValueError: If D is not the width that the network was trained on.
        DataError: If a row that is present is not finite.

    Source:
        MQL4GRec, section 3.2; as in the authors' code, no Sinkhorn when translating.
    """
    n_items, width = embeddings.vectors.shape
    if width != network.in_dim:
        raise ValueError(
            f"`{embeddings.dataset}` {embeddings.modality} embeddings: expected width "
            f"{network.in_dim}, on which the translator was trained, got {width}"
        )
    device = runtime.torch_device
    network = network.to(device).eval()
    codes = np.zeros((n_items, network.n_levels), dtype=np.uint16)
    latents = np.zeros((n_items, network.e_dim), dtype=np.float32)
    title = f"translate {embeddings.dataset} {embeddings.modality}"
    with torch.inference_mode(), journal.track(title, total=n_items) as advance:
        for rows, block in read_blocks(embeddings, rows_at_once=ROWS_AT_ONCE):
            latent = network.encoder(torch.from_numpy(block).to(device))  # (B, E)
            codes[rows] = network.nearest_codes(latent).cpu().numpy()
            latents[rows] = latent.cpu().numpy()
            advance(len(rows))
        advance(n_items - int(embeddings.present.sum()))
    codebooks = tuple(codebook.detach().cpu().numpy().copy() for codebook in network.codebooks)
    return Translation(
        dataset=embeddings.dataset,
        modality=embeddings.modality,
        codes=codes,
        latents=latents,
        codebooks=codebooks,
        present=embeddings.present,
    )
