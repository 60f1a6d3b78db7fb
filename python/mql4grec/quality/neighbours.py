"""The nearest items, by embedding and by codes, block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mql4grec.codes import SemanticIds

NUMBERS_AT_ONCE = 1 << 22  # of the embeddings: 16 MiB
QUERIES_AT_ONCE = 1024  # times as many rows as there are at once: at most 32 MiB of distances
MOST_ROWS_AT_ONCE = 8192


@torch.inference_mode()
def nearest_items(
    vectors: NDArray[np.float32],
    queries: NDArray[np.int64],
    *,
    among: NDArray[np.bool_],
    k: int,
    device: torch.device,
    advance: Callable[[int], None] = lambda n: None,
) -> NDArray[np.int64]:
    """Find the k nearest of all items to each of some, exactly, by Euclidean distance.

    Euclidean, since squared distance is what the translator is trained to keep and what decides
    about an item's codes. (Of vectors of length 1, such as MiniLM's, cosine gives the same order.)
    Every vector is read once; the memory depends on the number of queries, not on that of items.

    Args:
        vectors: float32 (N, D), may be memory-mapped.
        queries: Rows of items, int64 (Q).
        among: bool (N,), the items that are looked through; all queries among them.
        k: How many; fewer if there are not so many.
        device: Where distances are computed.
        advance: Told how many rows have been looked through.

    Returns:
        Rows, int64 (Q, k), nearest first, never the query itself. Among items that are as far as
        each other in float32 the order is any, but always the same.
    """
    rows = np.flatnonzero(among)
    rows_at_once = min(max(NUMBERS_AT_ONCE // vectors.shape[1], 1), MOST_ROWS_AT_ONCE)
    asked = torch.from_numpy(vectors[queries])
    origin = asked.mean(0)  # float32 has few digits left for differences far away from zero
    asked = (asked - origin).to(device)  # (Q, D)
    best = (
        torch.empty(len(queries), 0, device=device),
        torch.empty(len(queries), 0, dtype=torch.int64, device=device),
    )
    k = min(k, len(rows) - 1)
    for start in range(0, len(rows), rows_at_once):
        part = rows[start : start + rows_at_once]
        block = (torch.from_numpy(vectors[part]) - origin).to(device)  # (B, D)
        found = [
            _nearest_of_block(asked[at], block, rows=part, queries=queries[at], k=k)
            for at in _slices(len(queries), QUERIES_AT_ONCE)
        ]
        distances = torch.cat([best[0], torch.cat([one[0] for one in found])], dim=1)
        candidates = torch.cat([best[1], torch.cat([one[1] for one in found])], dim=1)
        kept = distances.topk(min(k, distances.shape[1]), dim=1, largest=False)
        best = kept.values, candidates.gather(1, kept.indices)
        advance(len(part))
    return best[1].cpu().numpy()


def _nearest_of_block(
    asked: Tensor,
    block: Tensor,
    *,
    rows: NDArray[np.int64],
    queries: NDArray[np.int64],
    k: int,
) -> tuple[Tensor, Tensor]:
    """Give the k nearest of a block (B, D) to vectors (Q, D): distances and rows, (Q, k) each.

    The query's own square is left out of the distances: it is the same for all items.
    """
    distances = torch.addmm(block.square().sum(1), asked, block.T, alpha=-2)  # (Q, B)
    places = np.minimum(np.searchsorted(rows, queries), len(rows) - 1)
    itself = np.flatnonzero(rows[places] == queries)
    distances[itself, places[itself]] = torch.inf
    found = distances.topk(min(k, len(rows)), dim=1, largest=False)
    return found.values, torch.from_numpy(rows).to(block.device)[found.indices]


def nearest_by_codes(
    ids: SemanticIds,
    items: NDArray[np.int64],
    *,
    k: int,
    codebooks: Sequence[NDArray[np.float32]] = (),
) -> NDArray[np.int64]:
    """Find the k items whose codes are most like those of each of a few items.

    The longest common prefix comes first; of equally long ones the least distance between the
    sums of the codes' vectors, or if there are none, and for equal distances, the lower row.

    Args:
        ids: Codes of N items.
        items: Rows, int64 (Q).
        k: How many; fewer if there are not so many.
        codebooks: One float32 (K_l, E) per level; empty for given codes.

    Returns:
        Rows, int64 (Q, k), never the item itself.
    """
    rows = np.flatnonzero(ids.present)
    k = min(k, len(rows) - 1)
    found = [_nearest_to(ids, item, rows=rows, k=k, codebooks=codebooks) for item in items.tolist()]
    return np.stack(found)


def _nearest_to(
    ids: SemanticIds,
    item: int,
    *,
    rows: NDArray[np.int64],
    k: int,
    codebooks: Sequence[NDArray[np.float32]],
) -> NDArray[np.int64]:
    own = ids.codes[item]
    best = np.zeros(0, np.int64)
    for part in _slices(len(rows), MOST_ROWS_AT_ONCE):
        candidates = np.concatenate([best, rows[part][rows[part] != item]])
        codes = ids.codes[candidates]
        lengths = np.logical_and.accumulate(codes == own, axis=1).sum(axis=1)
        if len(codebooks):
            between = add_up(codebooks, codes) - add_up(codebooks, own[None])
            distances = np.square(between).sum(axis=1)
        else:
            distances = np.zeros(len(candidates), np.float32)
        best = candidates[np.lexsort((candidates, distances, -lengths))[:k]]
    return best


def add_up(
    codebooks: Sequence[NDArray[np.float32]], codes: NDArray[np.uint16]
) -> NDArray[np.float32]:
    """Add the vectors of every item's codes up: float32 (N, E) of uint16 (N, L)."""
    total = np.zeros((len(codes), codebooks[0].shape[1]), np.float32)
    for codebook, chosen in zip(codebooks, codes.T, strict=True):
        total += codebook[chosen]
    return total


def _slices(n_rows: int, n_at_once: int) -> list[slice]:
    return [slice(start, start + n_at_once) for start in range(0, n_rows, n_at_once)]
