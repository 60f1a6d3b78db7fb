"""The codes that the items of a shop go on with from each prefix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mql4grec.config import Modality
from mql4grec.language.corpus import Corpus
from mql4grec.language.samples import ITEM_TASKS, Samples


@dataclass(frozen=True)
class Branches:
    """What can follow the P prefixes of one length, in one modality.

    Attributes:
        prefixes: int32 (N + 1,), the prefix of each item; of items without codes, and of the row of
            padding after the last, any.
        bits: uint8 (P, K / 8 rounded up), one for each code that follows some prefix.
        n_codes: K of the code that follows.
    """

    prefixes: NDArray[np.int32]
    bits: NDArray[np.uint8]
    n_codes: int

    def after(self, items: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Tell which codes can follow the prefix of each item (n): bool (n, K)."""
        bits = self.bits[self.prefixes[items]]
        return np.unpackbits(bits, axis=1, count=self.n_codes).astype(np.bool_)


def open_tokens(
    corpus: Corpus,
    samples: Samples,
    rows: NDArray[np.int64],
    branches: Mapping[Modality, Sequence[Branches]],
    *,
    width: int,
) -> NDArray[np.bool_]:
    """Tell which tokens items go on with at every place of some samples' targets.

    Args:
        corpus: That the samples are of.
        samples: S samples.
        rows: int64 (B,), which of them.
        branches: By modality and level.
        width: Tokens of the longest target, L codes and the end.

    Returns:
        bool (B, width, V). The end is certain after the last code; after it everything is open.
    """
    part, vocabulary = samples.take(rows), corpus.vocabulary
    found = np.ones((len(part), width, vocabulary.n_tokens), bool)
    for task, _, target, chosen in part.kinds():
        events = part.target[chosen]
        items = events if task in ITEM_TASKS else corpus.histories.items[events]
        firsts = vocabulary.first_code[target]
        found[chosen, : len(firsts) + 1] = False
        for level, (first, after) in enumerate(zip(firsts, branches[target], strict=True)):
            found[chosen, level, first : first + after.n_codes] = after.after(items)
        found[chosen, len(firsts), vocabulary.eos] = True
    return found


def list_branches(corpus: Corpus, modality: Modality) -> list[Branches]:
    """List what can follow, for prefixes of no code, of one, up to all but one (L)."""
    tokens, items = corpus.tokens[modality], np.flatnonzero(corpus.present[modality])
    vocabulary = corpus.vocabulary
    prefixes, n_prefixes = np.zeros(corpus.n_items + 1, np.int32), 1
    found = []
    for level in range(tokens.shape[1]):
        n_codes = vocabulary.n_codes[modality][level]
        codes = tokens[items, level].astype(np.int64) - vocabulary.first_code[modality][level]
        edges, after = np.unique(prefixes[items] * n_codes + codes, return_inverse=True)
        bits = np.zeros((n_prefixes, -(-n_codes // 8)), np.uint8)
        parents, codes = np.divmod(edges, n_codes)
        np.add.at(bits, (parents, codes // 8), (128 >> codes % 8).astype(np.uint8))
        found.append(Branches(prefixes, bits, n_codes))
        prefixes, n_prefixes = np.zeros_like(prefixes), len(edges)
        prefixes[items] = after
    return found
