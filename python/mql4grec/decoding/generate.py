"""The trie as a constraint for anyone's `transformers.generate`.

`recommend` searches by itself, faster; these two are for other models and other ways to generate
(sampling, diverse beams), and they are the measure that our own search is tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor

from mql4grec.decoding.device_trie import DeviceTrie, lay_out
from mql4grec.decoding.spelling import Spelling


@dataclass(frozen=True)
class OnDevice:
    """A spelling on a device.

    Attributes:
        trie: As tensors.
        edges: Of the trie, as `DeviceTrie.edges` gives them.
        tokens: Token id of each code of a level, ascending, int64 (K), one tensor per level (L).
    """

    trie: DeviceTrie
    edges: Tensor
    tokens: tuple[Tensor, ...]

    def codes_of(self, tokens: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Give the codes of tokens (B) of a level, and which tokens are codes there."""
        known = self.tokens[level]
        places = torch.searchsorted(known, tokens).clamp_(max=len(known) - 1)
        return places, known[places] == tokens


class TrieLogitsProcessor(LogitsProcessor):
    """Allow only tokens that lead to an item, for all beams at once.

    On a CPU one call to Rust per step; on a GPU the trie lies there as tensors, and nothing waits
    for the host. After the last code only eos is allowed, after eos only padding. `generate` keeps
    a dead beam where the catalog has fewer prefixes than there are beams; such a beam may only end,
    its score is -inf or near -1e9, and it spells no item. Scores are only masked, not normalised
    again: with `renormalize_logits=False` and `length_penalty=0`, `sequences_scores` are
    log-probabilities over the whole vocabulary.
    """

    def __init__(self, spelling: Spelling, *, n_start: int = 1) -> None:
        """Hold on to a trie.

        Args:
            spelling: Of the items that may come out, in the model's tokens.
            n_start: Tokens before the first code: 1 for T5's decoder start; the length of the
                prompt, padding included, for a decoder-only model.
        """
        self._spelling, self._trie = spelling, spelling.trie
        self._n_start = n_start
        self._laid_out: dict[torch.device, OnDevice] = {}

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
            only = self._spelling.eos if level == len(levels) else self._spelling.pad
            masked[:, only] = scores[:, only]
            return masked
        here = self._on(scores.device)
        nodes, known = torch.zeros_like(input_ids[:, 0]), torch.ones_like(input_ids[:, 0]).bool()
        if level:
            codes = [here.codes_of(tokens[:, i].contiguous(), i) for i in range(level)]
            nodes, known = here.trie.walk(torch.stack([c for c, _ in codes], dim=1), here.edges)
            known = known & torch.stack([spelt for _, spelt in codes]).all(dim=0)
        children, taken = here.trie.slots(nodes[:, None], level)  # (B, 1, W)
        taken = taken[:, 0] & known[:, None]
        # Places that are not taken write to a column beside the vocabulary.
        following = here.tokens[level][here.trie.codes[children[:, 0]]]
        columns = torch.where(taken, following, scores.shape[1])
        wide = torch.cat([masked, masked[:, :1]], dim=1)
        wide.scatter_(1, columns, scores.gather(1, columns.clamp(max=scores.shape[1] - 1)))
        masked = wide[:, :-1]
        eos = self._spelling.eos
        masked[:, eos] = torch.where(taken.any(dim=1), masked[:, eos], scores[:, eos])
        return masked

    def _on(self, device: torch.device) -> OnDevice:
        if device not in self._laid_out:
            trie = lay_out(self._trie, device=device)
            tokens = tuple(torch.from_numpy(known).to(device) for known in self._spelling.tokens)
            self._laid_out[device] = OnDevice(trie, trie.edges(), tokens)
        return self._laid_out[device]

    def allowed(self, tokens: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the allowed next tokens of sequences without their start.

        Args:
            tokens: int64 (B, t).

        Returns:
            Pairs (row, token id), every row at least once.
        """
        (batch, level), n_levels = tokens.shape, len(self._trie.n_codes)
        everyone = np.arange(batch)
        if level >= n_levels:
            only = self._spelling.eos if level == n_levels else self._spelling.pad
            return everyone, np.full(batch, only)
        codes, spelt = self._spelling.codes_of(tokens)
        offsets, following = self._trie.core.allowed(codes)
        rows = np.repeat(everyone, np.diff(offsets))
        kept = spelt[rows]
        rows, allowed = rows[kept], self._spelling.tokens[level][following[kept]]
        dead = np.setdiff1d(everyone, rows)
        return (
            np.concatenate([rows, dead]),
            np.concatenate([allowed, np.full(len(dead), self._spelling.eos)]),
        )


def prefix_allowed_tokens_fn(
    spelling: Spelling, *, n_start: int = 1
) -> Callable[[int, Tensor], list[int]]:
    """Make what `generate(prefix_allowed_tokens_fn=...)` takes.

    It is called once per beam and step; `TrieLogitsProcessor` allows the same tokens with one call
    per step.

    Args:
        spelling: Of the items that may come out, in the model's tokens.
        n_start: Tokens before the first code, as for `TrieLogitsProcessor`.

    Returns:
        A function of the batch index and the sequence so far, int64 (T,).

    Source:
        The authors' generation trie; not their second variant, which looks up the last token alone
        and lets 99.5 % of its paths end at no item.
    """
    processor = TrieLogitsProcessor(spelling, n_start=n_start)

    def allowed_tokens(batch_id: int, sequence: Tensor) -> list[int]:
        tokens = sequence[None, n_start:].cpu().numpy()
        return [int(token) for token in processor.allowed(tokens)[1]]

    return allowed_tokens
