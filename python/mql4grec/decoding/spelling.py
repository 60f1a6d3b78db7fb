"""How a model spells items: a trie, and the token of each of its codes, whatever the tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mql4grec._core import CodeTrie
from mql4grec.config import Modality
from mql4grec.decoding.trie import ItemTrie, first_codes
from mql4grec.language import Vocabulary

MOST_CODES = 1 << 16  # of one level, that the trie can tell apart


@dataclass(frozen=True, eq=False)
class Spelling:
    """A trie over items, and the tokens that a model writes for their codes.

    Attributes:
        trie: Of the items that may come out.
        tokens: Token id of each code of a level, ascending, int64 (K), one array per level (L).
        pad: Token id of padding, the only one after the end.
        eos: Token id of the end, the only one after the last code.
    """

    trie: ItemTrie
    tokens: tuple[NDArray[np.int64], ...]
    pad: int
    eos: int

    def codes_of(self, tokens: NDArray[np.int64]) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
        """Turn the first tokens of items into codes.

        Args:
            tokens: int64 (B, t), t from 0 to L.

        Returns:
            Codes uint16 (B, t), and which rows are codes of their levels throughout, bool (B);
            those that are not have code 0 instead.
        """
        codes, spelt = np.zeros(tokens.shape, np.uint16), np.ones(len(tokens), np.bool_)
        for level, known in enumerate(self.tokens[: tokens.shape[1]]):
            places = np.searchsorted(known, tokens[:, level])
            places = np.minimum(places, len(known) - 1)
            found = known[places] == tokens[:, level]
            codes[:, level] = np.where(found, places, 0)
            spelt &= found
        return codes, spelt

    def find(self, tokens: ArrayLike) -> NDArray[np.int32]:
        """Give the items that sequences of tokens spell.

        Args:
            tokens: Integers (B, T) without what stands before the first code; a tensor on a CPU
                will do. What follows the last code is not read.

        Returns:
            Item rows int32 (B), -1 where a sequence spells no item or is too short.
        """
        given = np.asarray(tokens)
        if given.shape[1] < len(self.tokens):
            return np.full(len(given), -1, np.int32)
        codes, spelt = self.codes_of(given[:, : len(self.tokens)])
        return np.where(spelt, self.trie.find(codes), np.int32(-1))


def spell(trie: ItemTrie, vocabulary: Vocabulary, *, modality: Modality) -> Spelling:
    """Spell items as our own models do.

    Args:
        trie: Of the items that may come out.
        vocabulary: Of the model.
        modality: Whose codes are written.

    Raises:
        ValueError: If the trie has other levels than the vocabulary has in this modality.
    """
    first = first_codes(trie, vocabulary, modality=modality)
    tokens = tuple(start + np.arange(k) for start, k in zip(first, trie.n_codes, strict=True))
    return Spelling(trie, tokens, pad=vocabulary.pad, eos=vocabulary.eos)


def spell_tokens(tokens: ArrayLike, *, pad: int, eos: int) -> Spelling:
    """Spell items as somebody else's model does, with any tokens of any tokenizer.

    Args:
        tokens: Token ids of every item, integers (N, L), without start and end; no two rows alike.
        pad: Token id of padding.
        eos: Token id of the end.

    Returns:
        Items are the rows of `tokens`.

    Raises:
        ValueError: If `tokens` has another shape or type, two items are alike, or a level has more
            than 65,536 different tokens.
    """
    given = np.asarray(tokens)
    if given.ndim != 2 or 0 in given.shape or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(
            f"`tokens`: expected integers (N, L), got {given.dtype} {given.shape}; "
            "give as many tokens for every item"
        )
    known, codes = [], np.zeros(given.shape, np.uint16)
    for level, column in enumerate(given.T.astype(np.int64)):
        values, places = np.unique(column, return_inverse=True)
        if len(values) > MOST_CODES:
            raise ValueError(
                f"`tokens`: expected at most {MOST_CODES} different ones in a column, got "
                f"{len(values)} in column {level}; use more levels"
            )
        known.append(values)
        codes[:, level] = places
    core = CodeTrie(codes, [len(values) for values in known])
    rows = np.arange(len(given), dtype=np.int32)
    return Spelling(ItemTrie(core, rows), tuple(known), pad=pad, eos=eos)
