"""K-means in torch, plain and balanced: the first codebooks."""

from __future__ import annotations

import torch
from torch import Tensor

from mql4grec.rqvae.assignment import nearest, sinkhorn, squared_distances

N_BALANCED = 5  # rounds
BALANCED_ROWS = 16_384  # that are shared out together
SINKHORN_ITERS = 50


@torch.no_grad()
def kmeans(
    rows: Tensor,
    *,
    n_clusters: int,
    n_iters: int,
    generator: torch.Generator,
    start: Tensor | None = None,
    balance: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Cluster rows by Lloyd's algorithm.

    A cluster that becomes empty gets the row that is farthest from its centre. With fewer distinct
    rows than clusters, the clusters that are left over are random rows plus a little noise.

    Args:
        rows: float32 (N, E), N >= 1.
        n_clusters: K.
        n_iters: The most iterations; it stops once the centres hardly move.
        generator: Of the start, on the device of `rows`.
        start: First centres float32 (K, E); None: drawn by k-means++.
        balance: Sinkhorn's epsilon of some rounds that follow, in which each cluster gets about as
            many rows as any other, and becomes their mean; 0: none. From a given start, one
            iteration goes before them.

    Returns:
        Centres float32 (K, E), and the nearest one of every row, int64 (N,).
    """
    variance = rows.var(0, correction=0).mean()
    centres = start
    if centres is None:
        noise = 0.01 * variance.sqrt()
        centres = _spread(rows, n_clusters=n_clusters, noise=noise, generator=generator)
    if start is not None and balance:
        n_iters = 1  # for codes that no row is nearest to; more would undo the balance
    centres = _settle(rows, centres, n_iters=n_iters, tolerance=1e-4 * variance)
    for _ in range(N_BALANCED if balance else 0):
        labels = _share_out(rows, centres, epsilon=balance)
        centres = _means(rows, labels, centres)
    return centres, nearest(rows, centres)[1]


def _settle(rows: Tensor, centres: Tensor, *, n_iters: int, tolerance: Tensor) -> Tensor:
    """Move centres (K, E) by Lloyd's algorithm until they hardly move (scikit-learn's rule)."""
    for _ in range(n_iters):
        distances, labels = nearest(rows, centres)
        moved = _fill_empty(_means(rows, labels, centres), rows, labels, distances)
        shift = (moved - centres).square().sum()
        centres = moved
        if shift <= tolerance:
            break
    return centres


def _share_out(rows: Tensor, centres: Tensor, *, epsilon: float) -> Tensor:
    """Give every row (N, E) a cluster, int64 (N,), about as many rows to each."""
    labels = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    n_parts = -(-len(rows) // BALANCED_ROWS)
    for part in range(n_parts):  # every n-th row: neighbours in a catalog are often alike
        distances = squared_distances(rows[part::n_parts], centres)
        scores = sinkhorn(distances, epsilon=epsilon, n_iters=SINKHORN_ITERS)
        labels[part::n_parts] = scores.argmax(1)
    return labels


def _spread(rows: Tensor, *, n_clusters: int, noise: Tensor, generator: torch.Generator) -> Tensor:
    """Draw first centres by k-means++: each with a chance in proportion to its squared distance.

    It looks at no more than 64 rows per cluster, since it takes a pass over them for each.
    """
    n_seen = min(len(rows), 64 * n_clusters)
    order = torch.randperm(len(rows), generator=generator, device=rows.device)
    seen = rows[order[:n_seen]]  # (S, E)
    draws = torch.rand(n_clusters, generator=generator, device=rows.device, dtype=torch.float64)
    jitter = torch.randn(n_clusters, rows.shape[1], generator=generator, device=rows.device)
    centres = torch.empty(n_clusters, rows.shape[1], device=rows.device)
    closest = torch.ones(n_seen, device=rows.device)  # any row may be the first centre
    for cluster in range(n_clusters):
        used_up = ~closest.any()  # every distinct row is a centre already
        cumulated = (closest + used_up).cumsum(0, dtype=torch.float64)
        place = torch.searchsorted(cumulated, draws[cluster] * cumulated[-1], right=True)
        centres[cluster] = seen[place.clamp_max(n_seen - 1)] + used_up * noise * jitter[cluster]
        distances = (seen - centres[cluster]).square().sum(1)
        closest = torch.minimum(closest, distances) if cluster else distances
    return centres


def _means(rows: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """Give every cluster's mean (K, E); empty ones keep their centres."""
    counts = torch.bincount(labels, minlength=len(centres))
    sums = torch.zeros_like(centres).index_add_(0, labels, rows)
    return torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centres)


def _fill_empty(centres: Tensor, rows: Tensor, labels: Tensor, distances: Tensor) -> Tensor:
    """Give empty clusters the rows that are farthest from their centres."""
    empty = (torch.bincount(labels, minlength=len(centres)) == 0).nonzero()[:, 0]
    farthest = distances.topk(min(len(empty), len(rows)))
    takers = empty[: len(farthest.values)]
    worth = farthest.values[:, None] > 0  # with too few distinct rows the centre stays where it is
    centres[takers] = torch.where(worth, rows[farthest.indices], centres[takers])
    return centres
