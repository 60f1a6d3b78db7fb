"""EASE^R, which may know groups of items that are alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lapack

from mql4grec.baselines.ranker import ItemToItem, binary
from mql4grec.catalog import Histories

MIRROR_ROWS = 1024  # rows copied at once when a triangle becomes a square


def fit_ease(
    training: Histories,
    *,
    n_items: int,
    regularization: float = 100.0,
    decay: float = 0.8,
    max_items: int = 20_000,
    groups: sparse.csr_array | None = None,
) -> ItemToItem:
    """Fit EASE^R, the linear item-to-item model with a closed form.

    With P the inverse of `X'X + lambda I`, the weights are `-P_ij / P_jj`, 0 on the diagonal. Items
    that are alike may be groups, more rows of X: as if there were a user who had all of them. So
    an item that nobody ever took has weights too.

    Args:
        training: Histories from which the users-by-items matrix X of zeros and ones comes.
        n_items: N.
        regularization: Lambda.
        decay: Weight of an input event relative to the next later one.
        max_items: The largest N that is tried: memory grows with its square, time with its cube.
        groups: float32 (G, N): 0 where an item is not in a group; the value elsewhere is 1 for an
            item of a user, and w makes a group count as w^2 users. None: no groups.

    Returns:
        A ranker.

    Raises:
        ValueError: If N is above `max_items`, or lambda too small for the matrix to be inverted.

    Source:
        Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, equation 8. Groups:
        Jeunen, Van Balen, Goethals, "Closed-Form Models for Collaborative Filtering with
        Side-Information", RecSys 2020, whose CEASE has tags as rows.
    """
    if n_items > max_items:
        raise ValueError(
            f"`n_items`: expected at most {max_items} for EASE^R, got {n_items}; "
            "leave EASE^R out, or raise `max_items` if memory for N x N floats is there"
        )
    rows = binary(training, n_items=n_items)
    if groups is not None:
        rows = sparse.csr_array(sparse.vstack([rows, groups], format="csr"))
    return ItemToItem(_ease_weights(rows, regularization=regularization), decay)


def _ease_weights(rows: sparse.csr_array, *, regularization: float) -> NDArray[np.float32]:
    """Give the item-to-item weights (N, N), in place: nearly all the memory is one such matrix."""
    matrix = (rows.T @ rows).toarray(order="F")
    np.fill_diagonal(matrix, matrix.diagonal() + np.float32(regularization))
    factor, failed = lapack.spotrf(matrix, lower=1, overwrite_a=1)
    if failed:
        raise ValueError(
            f"`regularization`: expected more than {regularization!r} for a matrix that can be "
            "inverted, got a singular one; raise it"
        )
    inverse, _ = lapack.spotri(factor, lower=1, overwrite_c=1)
    _mirror_lower(inverse)
    linear: NDArray[np.float32] = inverse.T  # LAPACK's order to C order; symmetric so far
    linear /= -linear.diagonal()  # column j by P_jj
    np.fill_diagonal(linear, 0.0)
    return linear


def _mirror_lower(matrix: NDArray[np.float32]) -> None:
    """Copy the lower triangle onto the upper one, block by block."""
    for start in range(0, len(matrix), MIRROR_ROWS):
        stop = min(start + MIRROR_ROWS, len(matrix))
        block = matrix[start:stop, start:stop]
        block[:] = np.tril(block) + np.tril(block, -1).T
        matrix[start:stop, stop:] = matrix[stop:, start:stop].T
