"""Vectors in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FEWEST_FOR_TSNE = 6  # below, neighbourhoods say nothing


def codebook_map(
    codebooks: Sequence[NDArray[np.float32]], *, n_points: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Lay the vectors of all levels out on one plane.

    Args:
        codebooks: One float32 (K_l, E) per level.
        n_points: A sample of so many where there are more.
        seed: Of the sample and of t-SNE.

    Returns:
        Places float32 (P, 2), the level of each point int64 (P), and its code int64 (P).
    """
    level = np.repeat(np.arange(len(codebooks)), [len(codebook) for codebook in codebooks])
    code = np.concatenate([np.arange(len(codebook)) for codebook in codebooks])
    vectors = np.concatenate([np.asarray(codebook, np.float32) for codebook in codebooks])
    finite = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    if len(finite) > n_points:
        chosen = np.random.default_rng(seed).choice(len(finite), n_points, replace=False)
        finite = finite[np.sort(chosen)]
    return flatten(vectors[finite], seed=seed), level[finite], code[finite]


def flatten(vectors: NDArray[np.float32], *, seed: int) -> NDArray[np.float32]:
    """Bring vectors (P, E) to float32 (P, 2): t-SNE, or PCA where they are few or all alike."""
    # Imported here, since scikit-learn takes a second that other commands need not wait for.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n_points, width = vectors.shape
    flat = np.zeros((n_points, 2), np.float32)
    if n_points < 2 or not np.ptp(vectors, axis=0).any():
        return flat
    if n_points < FEWEST_FOR_TSNE or width < 2:
        n_kept = min(2, n_points, width)
        flat[:, :n_kept] = PCA(n_kept, svd_solver="full").fit_transform(vectors)
        return flat
    perplexity = min(30.0, (n_points - 1) / 3)
    # Half of the usual iterations: these few points have settled by then.
    method = TSNE(2, perplexity=perplexity, max_iter=500, init="pca", random_state=seed)
    flat[:] = method.fit_transform(vectors)
    return flat
