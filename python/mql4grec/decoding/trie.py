"""The trie of a shop's semantic IDs, with the way back from its rows to item rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mql4grec._core import CodeTrie
from mql4grec.codes import SemanticIds
from mql4grec.config import Modality
from mql4grec.language import Vocabulary


@dataclass(frozen=True)
class ItemTrie:
    """A trie over the items that have codes, and which items these are.

    Attributes:
        core: The trie in Rust; its rows count only items with codes.
        rows: int32, item row of each row of the trie, ascending.
    """

    core: CodeTrie
    rows: NDArray[np.int32]

    @property
    def n_items(self) -> int:
        """Number of items in the trie."""
        return self.core.n_items

    @property
    def n_codes(self) -> tuple[int, ...]:
        """K of each level (L)."""
        return tuple(self.core.n_codes)

    def find(self, codes: NDArray[np.uint16]) -> NDArray[np.int32]:
        """Give the item rows of codes (B, L): int32 (B,), -1 where there is no such item."""
        found = self.core.find(codes)
        return np.where(found >= 0, self.rows[found], np.int32(-1))

    def restrict(self, items: NDArray[np.bool_]) -> ItemTrie:
        """Give the trie of some of the items: those in stock, of one category, not yet seen.

        Args:
            items: bool (N,), over all item rows.
        """
        return ItemTrie(core=self.core.restrict(items[self.rows]), rows=self.rows)


def build_trie(ids: SemanticIds) -> ItemTrie:
    """Build the trie of all items that have codes.

    Args:
        ids: Semantic IDs, no two items alike.

    Raises:
        ValueError: If no item has codes, or two items share theirs.
    """
    rows = np.flatnonzero(ids.present).astype(np.int32)
    if len(rows) == 0:
        raise ValueError(
            f"`ids`: expected at least one item of `{ids.dataset}` with {ids.modality} codes, "
            "got none; decode in the other modality"
        )
    return ItemTrie(core=CodeTrie(ids.codes[rows], list(ids.n_codes)), rows=rows)


def first_codes(trie: ItemTrie, vocabulary: Vocabulary, *, modality: Modality) -> tuple[int, ...]:
    """Give the token id of code 0 of each level (L), once trie and vocabulary are seen to fit.

    Raises:
        ValueError: If the trie has other levels than the vocabulary has in this modality.
    """
    expected = vocabulary.n_codes.get(modality)
    if expected != trie.n_codes:
        raise ValueError(
            f"`trie`: expected levels {expected} as the vocabulary has for {modality!r}, got "
            f"{trie.n_codes}; use the vocabulary that the model was trained with"
        )
    return vocabulary.first_code[modality]
