"""The trie as a constraint for anyone's `transformers.generate`.

`recommend` searches by itself, faster; these two are for other models and other ways to generate
(sampling, diverse beams), and they are the measure that our own search is tested against.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor

from mql4grec.config import Modality
from mql4grec.decoding.device_trie import DeviceTrie, lay_out
from mql4grec.decoding.trie import ItemTrie, first_codes
from mql4grec.language import Vocabulary


class TrieLogitsProcessor(LogitsProcessor):
    """Allow only tokens that lead to an item, for all beams at once.

    On a CPU one call to Rust per step; on a GPU the trie lies there as tensors, and nothing waits
    for the host. After the last code only eos is allowed, after eos only padding. `generate` keeps
    a dead beam where the catalog has fewer prefixes than there are beams; such a beam may only end,
    its score is -inf or near -1e9, and it spells no item. Scores are only masked, not normalised
    again: with `renormalize_logits=False` and `length_penalty=0`, `sequences_scores` are
    log-probabilities over the whole vocabulary.
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
        self._laid_out: dict[torch.device, tuple[DeviceTrie, Tensor]] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Set all but the allowed tokens to -inf.

        Args:
            input_ids: int64 (B, T), the sequences so far.
            scores: float (B, V).
        """
        if scores.device.type != "cpu":
            return self.on_device(input_ids, scores)
        tokens = input_ids[:, self._n_start :].numpy()
        rows, allowed = self.allowed(tokens)
        index = (torch.from_numpy(rows), torch.from_numpy(allowed))
        masked = torch.full_like(scores, -torch.inf)
        masked[index] = scores[index]
        return masked

    def on_device(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Do what a call does, in tensor operations alone, none of which waits for the host."""
        tokens = input_ids[:, self._n_start :]  # (B, t)
        level, levels = tokens.shape[1], self._trie.n_codes
        masked = torch.full_like(scores, -torch.inf)
        if level >= len(levels):
            only = self._eos if level == len(levels) else self._pad
            masked[:, only] = scores[:, only]
            return masked
        trie, edges = self._on(scores.device)
        nodes, known = torch.zeros_like(input_ids[:, 0]), torch.ones_like(input_ids[:, 0]).bool()
        if level:
            codes = [tokens[:, i] - int(self._first[i]) for i in range(level)]
            spelt = [(code >= 0) & (code < k) for code, k in zip(codes, levels, strict=False)]
            bounded = [code.clamp(0, k - 1) for code, k in zip(codes, levels, strict=False)]
            nodes, known = trie.walk(torch.stack(bounded, dim=1), edges)
            known = known & torch.stack(spelt).all(dim=0)
        children, taken = trie.slots(nodes[:, None], level)  # (B, 1, W)
        taken = taken[:, 0] & known[:, None]
        # Places that are not taken write to a column beside the vocabulary.
        columns = torch.where(
            taken, trie.codes[children[:, 0]] + int(self._first[level]), scores.shape[1]
        )
        wide = torch.cat([masked, masked[:, :1]], dim=1)
        wide.scatter_(1, columns, scores.gather(1, columns.clamp(max=scores.shape[1] - 1)))
        masked = wide[:, :-1]
        masked[:, self._eos] = torch.where(
            taken.any(dim=1), masked[:, self._eos], scores[:, self._eos]
        )
        return masked

    def _on(self, device: torch.device) -> tuple[DeviceTrie, Tensor]:
        if device not in self._laid_out:
            trie = lay_out(self._trie, device=device)
            self._laid_out[device] = (trie, trie.edges())
        return self._laid_out[device]

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
) -> Callable[[int, Tensor], list[int]]:
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

    def allowed_tokens(batch_id: int, sequence: Tensor) -> list[int]:
        tokens = sequence[None, n_start:].cpu().numpy()
        return [int(token) for token in processor.allowed(tokens)[1]]

    return allowed_tokens
