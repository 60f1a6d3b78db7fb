"""Collisions resolved by distances that somebody else computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mql4grec._core import find_collisions, resolve_collisions
from mql4grec.config import CodesSettings


def resolve(
    codes: NDArray[np.uint16],
    distances: Any,
    settings: CodesSettings | None = None,
    *,
    n_codes: Sequence[int] | None = None,
    keys: NDArray[np.uint64] | None = None,
    frozen: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.uint16], NDArray[np.int64], NDArray[np.float32]]:
    """Give every row codes of its own by a tensor of distances, of which few rows are read.

    Only the rows that share a semantic ID and may move are taken out of the tensor, and only they
    leave a GPU.

    Args:
        codes: uint16 (N, L).
        distances: Squared distances of each row to every code of each level (N, L, K): a numpy
            array, a memory-mapped one, or a torch tensor on any device, of any floating type.
        settings: The policy; None: the paper's.
        n_codes: K of each level (L), where they differ.
        keys: Order among rows as near as each other, uint64 (N); None: the lower row first.
        frozen: Rows that keep their codes, bool (N).

    Returns:
        Codes uint16 (N, L); the rows that moved, ascending, int64 (M); the squared error that each
        of them gained, float32 (M): exact where only the last level changed, since the distances of
        deeper levels are stale once a prefix changes (`assign` is exact there).

    Raises:
        ValueError: If shapes do not fit, a code is out of range, a row that is read has NaN or
            infinity, two frozen rows share codes, or there are more rows than semantic IDs.
    """
    settings = settings or CodesSettings()
    expected = (*codes.shape, max(n_codes) if n_codes else distances.shape[-1])
    if tuple(distances.shape) != expected:
        raise ValueError(
            f"`distances`: expected shape {expected} to match `codes`, got {tuple(distances.shape)}"
        )
    rows = np.sort(find_collisions(codes)[1])
    if frozen is not None:
        rows = rows[~frozen[rows]]
    return resolve_collisions(
        codes,
        _on_host(distances[rows]),
        policy=settings.policy,
        keep=settings.keep,
        reassign=settings.reassign,
        open_levels=settings.open_levels,
        n_codes=n_codes,
        keys=keys,
        frozen=frozen,
        rows=rows,
    )


def _on_host(part: Any) -> NDArray[np.float32]:
    """Bring a slice of a numpy array or a torch tensor to float32 in memory."""
    if hasattr(part, "detach"):
        part = part.detach().float().cpu().numpy()
    return np.ascontiguousarray(part, np.float32)
