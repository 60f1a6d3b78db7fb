"""Which code a vector gets: the nearest, or one balanced over a batch by Sinkhorn."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_CELLS = 1 << 22  # of a distance matrix, at once: 32 MiB in float64
CACHED_CELLS = 1 << 18  # on a CPU, where they fit into its caches: twice as fast
CALM = 30.0  # nats; float32 ends at e^-87


def squared_distances(rows: Tensor, codebook: Tensor) -> Tensor:
    """Give the squared Euclidean distance of every row to every code, exact in all digits.

    |x|^2 - 2xy + |y|^2 as a matrix product is the fast way, but in float32 it loses the digits that
    count when codes lie close together and far from zero. In float64 it keeps them.

    Args:
        rows: float32 (B, E).
        codebook: float32 (K, E).

    Returns:
        float32 (B, K).
    """
    rows, codebook = rows.double(), codebook.double()
    products = torch.addmm(codebook.square().sum(1), rows, codebook.T, alpha=-2)
    return products.add_(rows.square().sum(1, keepdim=True)).clamp_min_(0).float()


def nearest(rows: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest code of every row, without ever holding all distances.

    Args:
        rows: float32 (N, E).
        codebook: float32 (K, E).

    Returns:
        Squared distances float32 (N,), and codes int64 (N,); of equals the lower code.
    """
    n_cells = CHUNK_CELLS if rows.is_cuda else min(CHUNK_CELLS, CACHED_CELLS)
    parts = torch.split(rows, max(1, n_cells // len(codebook)))
    found = [squared_distances(part, codebook).min(1) for part in parts]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def sinkhorn(distances: Tensor, *, epsilon: float, n_iters: int) -> Tensor:
    """Share the rows of a batch out over the codes, as evenly as a few iterations can.

    In the log domain an iteration is a log-softmax over the codes, then one over the rows: nothing
    overflows in float32, however small epsilon is. On a CPU that is most of a small network's step.
    So there, once an iteration changes the codes' log-weights by less than `CALM` in all, the next
    ones are done by plain products with the exponentiated scores. No iteration changes more than
    the one before it, so they stay within e^CALM together: far from where float32 ends.

    Args:
        distances: float32 (B, K), squared.
        epsilon: > 0; the smaller, the closer to the nearest code.
        n_iters: Iterations.

    Returns:
        Log-scores (B, K); the best code of a row is their argmax.

    Source:
        The authors' code: distances are first centred and scaled to about [-1, 1] by the batch's
        smallest and largest one, so an outlier changes the others' assignments; 50 iterations are
        part of the recipe. They compute it in float64 by the plain formula.
    """
    low, high = distances.aminmax()
    middle = (high + low) / 2
    scores = (middle - distances) / ((high - middle + 1e-5) * epsilon)  # 1e-5: theirs
    done = 0
    while done < n_iters:
        by_row = scores.log_softmax(1)
        scores = by_row.log_softmax(0)
        done += 1
        if not scores.is_cuda:  # two kernels an iteration are the least there, and no waiting
            low, high = (by_row[0] - scores[0]).aminmax()
            change = torch.nan_to_num(high - low, nan=torch.inf).clamp_min(1e-6)
            n_calm = min(n_iters - done, int(CALM / float(change)))
            scores = _iterate_calmly(scores, n_iters=n_calm)
            done += n_calm
    return scores


def _iterate_calmly(scores: Tensor, *, n_iters: int) -> Tensor:
    """Do Sinkhorn iterations by products, for scores (B, K) that are almost shared out."""
    if n_iters == 0:
        return scores
    shares = functional.threshold(scores.softmax(0), 1e-36, 0)  # denormal numbers are slow
    n_rows, n_codes = scores.shape
    weights = torch.ones(n_codes)
    for _ in range(n_iters):
        by_row = (n_codes / n_rows) / (shares @ weights)  # the ratio keeps the weights near 1
        weights = 1 / (shares.T @ by_row)
    return scores + by_row.log()[:, None] + weights.log()
