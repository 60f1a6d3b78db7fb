"""Prefixes of semantic IDs: who has the same, and as groups of items that are alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mql4grec.codes.records import SemanticIds


def number_prefixes(
    codes: NDArray[np.uint16], *, n_codes: Sequence[int]
) -> Iterator[NDArray[np.int64]]:
    """Number the prefixes of items, int64 (N) each: equal numbers, equal prefixes.

    Args:
        codes: uint16 (N, L).
        n_codes: K of the first levels, L or less: as many prefixes are numbered.
    """
    numbers = np.zeros(len(codes), np.int64)
    for level, size in enumerate(n_codes):
        numbers = np.unique(numbers * size + codes[:, level], return_inverse=True)[1]
        yield numbers


def group_by_prefix(ids: Iterable[SemanticIds]) -> sparse.csr_array:
    """Put items together that begin alike, in any modality.

    Args:
        ids: Of the same N items, one or more.

    Returns:
        float32 (G, N), ones: a row for every prefix of 1 to L - 1 codes that several items have.
        Items without codes in a modality are in none of its groups.
    """
    groups = []
    for one in ids:
        rows = np.flatnonzero(one.present)
        prefixes = number_prefixes(one.codes[rows], n_codes=one.n_codes[:-1])
        for numbers in prefixes:
            sizes = np.bincount(numbers)
            shared = np.flatnonzero(sizes[numbers] > 1)
            order = shared[np.argsort(numbers[shared], kind="stable")]
            sizes = sizes[sizes > 1]
            offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
            ones = np.ones(len(order), np.float32)
            shape = (len(sizes), len(one.codes))
            groups.append(sparse.csr_array((ones, rows[order], offsets), shape=shape))
    return sparse.csr_array(sparse.vstack(groups, format="csr"))
