"""The authors' way to train a translator, written anew from its description, as a rival.

A data loader takes the rows one by one; k-means by scikit-learn on the first batch; Sinkhorn by the
plain formula in float64; the loss is asked for after every step; collisions are counted by strings.
The two MLPs are those of our network, with the same first weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from mql4grec.config import TranslatorSettings
from mql4grec.rqvae import RQVAE
from mql4grec.translator.training import build_network


class Items(Dataset[Tensor]):
    """Rows, one at a time."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        """Keep the rows (N, D)."""
        self.rows = rows

    def __getitem__(self, index: int) -> Tensor:
        """Give one row (D,)."""
        return torch.FloatTensor(self.rows[index])

    def __len__(self) -> int:
        """Give N."""
        return len(self.rows)


@dataclass(frozen=True)
class Trained:
    """What a training gives.

    Attributes:
        network: The last one, with its codebooks.
        seconds: Of all, evaluations left out.
        evaluation_seconds: Of one evaluation.
        counting_seconds: Of counting its collisions alone.
    """

    network: RQVAE
    seconds: float
    evaluation_seconds: float
    counting_seconds: float


def train(
    rows: NDArray[np.float32],
    settings: TranslatorSettings,
    *,
    seed: int,
    clock: Callable[[], float] = time.process_time,
) -> Trained:
    """Train for all epochs, and evaluate once."""
    torch.manual_seed(seed)
    network = build_network(settings, in_dim=rows.shape[1], seed=seed).train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
    )
    loader = DataLoader(Items(rows), batch_size=settings.batch_size, shuffle=True)
    began, losses, ready = clock(), [], False
    for _ in range(settings.epochs):
        for batch in loader:
            if not ready:
                initialise(network, batch, settings, seed=seed)
                ready = True
            optimizer.zero_grad()
            loss = forward(network, batch, settings)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    trained = clock()
    network.eval()
    codes = torch.cat([network.nearest_codes(network.encoder(batch).detach()) for batch in loader])
    encoded = clock()
    count(codes)
    ended = clock()
    return Trained(network, trained - began, ended - trained, ended - encoded)


def count(codes: Tensor) -> float:
    """Give the collision rate by a set of strings."""
    spelt = {"-".join(str(int(code)) for code in row) for row in codes.cpu().numpy()}
    return (len(codes) - len(spelt)) / len(codes)


def initialise(network: RQVAE, batch: Tensor, settings: TranslatorSettings, *, seed: int) -> None:
    """Set every codebook by scikit-learn's k-means on the first batch."""
    residual = network.encoder(batch).detach().numpy()
    for codebook in network.codebooks:
        fit = KMeans(len(codebook), max_iter=settings.kmeans_iters, random_state=seed).fit(residual)
        codebook.data.copy_(torch.from_numpy(fit.cluster_centers_))
        residual = residual - fit.cluster_centers_[fit.labels_]


def forward(network: RQVAE, batch: Tensor, settings: TranslatorSettings) -> Tensor:
    """Give the loss of a batch."""
    latents = network.encoder(batch)
    residual, total, losses = latents, torch.zeros_like(latents), []
    for codebook, epsilon in zip(network.codebooks, settings.sk_epsilons, strict=True):
        distances = (
            residual.square().sum(1, keepdim=True)
            + codebook.square().sum(1)
            - 2 * residual @ codebook.T
        ).detach()
        if epsilon > 0:
            codes = sinkhorn(distances, epsilon=epsilon, n_iters=settings.sk_iters).argmax(1)
        else:
            codes = distances.argmin(1)
        chosen = functional.embedding(codes, codebook)
        codebook_loss = functional.mse_loss(chosen, residual.detach())
        losses.append(
            codebook_loss + settings.beta * functional.mse_loss(residual, chosen.detach())
        )
        chosen = residual + (chosen - residual).detach()
        residual, total = residual - chosen, total + chosen
    decoded = network.decoder(total)
    quantization = torch.stack(losses).mean()
    return functional.mse_loss(decoded, batch) + settings.quant_loss_weight * quantization


def sinkhorn(distances: Tensor, *, epsilon: float, n_iters: int) -> Tensor:
    """Share rows out by the plain formula in float64."""
    middle = (distances.max() + distances.min()) / 2
    scaled = (distances - middle) / (distances.max() - middle + 1e-5)
    plan = torch.exp(-scaled.double() / epsilon)
    plan /= plan.sum()
    for _ in range(n_iters):
        plan /= plan.sum(1, keepdim=True)
        plan /= len(plan)
        plan /= plan.sum(0, keepdim=True)
        plan /= plan.shape[1]
    return plan * len(plan)
