"""The trie as a constraint for anyone's `transformers.generate`.

`recommend` searches by itself, faster; these two are for other models and other ways to generate
(sampling, diverse beams), and they are the measure that our own search is tested against.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LogitsProcessor

from mql4grec.config import Modality
from mql4grec.decoding.trie import ItemTrie, first_codes
from mql4grec.language import Vocabulary


class TrieLogitsProcessor(LogitsProcessor):
    """Allow only tokens that lead to an item: one call to Rust per step for all beams.

    After the last code only eos is allowed, after eos only padding. `generate` keeps a dead beam
    where the catalog has fewer prefixes than there are beams; such a beam may only end, its score
    is -inf or near -1e9, and it spells no item. Scores are only masked, not normalised again: with
    `renormalize_logits=False` and `length_penalty=0`, `sequences_scores` are log-probabilities over
    the whole vocabulary.
    """

    def __init__(
        self, trie: ItemTrie, *, vocabulary: Vocabulary, modality: Modality, n_start: int = 1
    ) -> None:
        """Hold on to a trie.

        Args:
            trie: Of the items that may come out.
            vocabulary: Of the model.
            modality: Whose codes are written.
            n_start: Tokens before the first code: 1 for T5's decoder start; the length of the
                prompt for a decoder-only model.
        """
        self._trie = trie
        self._first = np.array(first_codes(trie, vocabulary, modality=modality))
        self._pad, self._eos = vocabulary.pad, vocabulary.eos
        self._n_start = n_start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Set all but the allowed tokens to -inf.

        Args:
            input_ids: int64 (B, T), the sequences so far.
            scores: float (B, V).
        """
        tokens = input_ids[:, self._n_start :].cpu().numpy()
        rows, allowed = self.allowed(tokens)
        index = (
            torch.from_numpy(rows).to(scores.device),
            torch.from_numpy(allowed).to(scores.device),
        )
        masked = torch.full_like(scores, -torch.inf)
        masked[index] = scores[index]
        return masked

    def allowed(self, tokens: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the allowed next tokens of sequences without their start.

        Args:
            tokens: int64 (B, t).

        Returns:
            Pairs (row, token id), every row at least once.
        """
        batch, level = tokens.shape
        n_codes = self._trie.n_codes
        everyone = np.arange(batch)
        if level > len(n_codes):
            return everyone, np.full(batch, self._pad)
        codes = tokens - self._first[:level]
        spelt = ((codes >= 0) & (codes < np.array(n_codes[:level]))).all(axis=1)
        codes = np.where(spelt[:, None], codes, 0).astype(np.uint16)
        if level == len(n_codes):
            return everyone, np.full(batch, self._eos)
        offsets, following = self._trie.core.allowed(codes)
        rows = np.repeat(everyone, np.diff(offsets))
        kept = spelt[rows]
        rows, following = rows[kept], following[kept].astype(np.int64) + self._first[level]
        dead = np.setdiff1d(everyone, rows)
        return (
            np.concatenate([rows, dead]),
            np.concatenate([following, np.full(len(dead), self._eos)]),
        )


def prefix_allowed_tokens_fn(
    trie: ItemTrie, *, vocabulary: Vocabulary, modality: Modality, n_start: int = 1
) -> Callable[[int, torch.Tensor], list[int]]:
    """Make what `generate(prefix_allowed_tokens_fn=...)` takes.

    It is called once per beam and step; `TrieLogitsProcessor` allows the same tokens with one call
    per step.

    Args:
        trie: Of the items that may come out.
        vocabulary: Of the model.
        modality: Whose codes are written.
        n_start: Tokens before the first code, as for `TrieLogitsProcessor`.

    Returns:
        A function of the batch index and the sequence so far, int64 (T,).

    Source:
        The authors' generation trie; not their second variant, which looks up the last token alone
        and lets 99.5 % of its paths end at no item.
    """
    processor = TrieLogitsProcessor(trie, vocabulary=vocabulary, modality=modality, n_start=n_start)

    def allowed_tokens(batch_id: int, sequence: torch.Tensor) -> list[int]:
        tokens = sequence[None, n_start:].cpu().numpy()
        return [int(token) for token in processor.allowed(tokens)[1]]

    return allowed_tokens
