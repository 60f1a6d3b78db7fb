"""What `decoding.py` compares with: `transformers.generate`, and the authors' trie and vocabulary.

Rewritten from the authors' description of their code; nothing of it is copied.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import T5ForConditionalGeneration

from mql4grec import recommender
from mql4grec.codes import SemanticIds
from mql4grec.config import RecommenderSettings
from mql4grec.decoding import ItemTrie
from mql4grec.language import Vocabulary

T5_ROWS = (
    32_100  # of the T5 vocabulary that the authors extend: none of them is ever read or written
)


@dataclass(frozen=True)
class Rival:
    """`transformers.generate` on batches of users.

    Attributes:
        model: The T5.
        ids: Semantic IDs of the items.
        trie: Of the same items, to look up what came out.
        first_code: Token id of code 0 of each level (L).
        n_beams: M.
        sort: Whether users of like history length share a batch, as ours do; otherwise they are
            taken as they come. Either way a batch is padded to its longest history.
        constraint: Arguments of `generate`.
    """

    model: T5ForConditionalGeneration
    ids: SemanticIds
    trie: ItemTrie
    first_code: NDArray[np.int64]
    n_beams: int
    sort: bool = True
    constraint: dict[str, Any] = field(default_factory=dict)

    def rank(self, inputs: tuple[Any, Any], batch: int) -> NDArray[np.int32]:
        """Rank items for users, whose token ids and mask (U, T) are given: (U, M)."""
        lengths = np.asarray(inputs[1]).sum(axis=1)
        order = np.argsort(lengths, kind="stable") if self.sort else np.arange(len(lengths))
        found = np.full((len(order), self.n_beams), -1, np.int32)
        for start in range(0, len(order), batch):
            users = order[start : start + batch]
            used = int(lengths[users].max())
            ids, mask = (
                torch.as_tensor(np.asarray(part)[users, :used]).to(self.model.device)
                for part in inputs
            )
            out = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                num_beams=self.n_beams,
                num_return_sequences=self.n_beams,
                max_new_tokens=len(self.first_code) + 1,
                length_penalty=0.0,
                do_sample=False,
                **self.constraint,
            )
            found[users] = self.look_up(out.cpu().numpy()).reshape(-1, self.n_beams)
        return found

    def look_up(self, out: NDArray[np.int64]) -> NDArray[np.int32]:
        """Give the item rows of generated sequences, -1 for what is no item."""
        codes = np.zeros((len(out), len(self.first_code)), np.int64)
        got = out[:, 1 : 1 + len(self.first_code)]
        codes[:, : got.shape[1]] = got
        codes = codes - self.first_code
        spelt = ((codes >= 0) & (codes < np.array(self.ids.n_codes))).all(axis=1)
        rows = self.trie.find(np.where(spelt[:, None], codes, 0).astype(np.uint16))
        return np.where(spelt, rows, -1)


class DictionaryTrie:
    """Nested dictionaries of tokens, as the authors describe their generation trie."""

    def __init__(self, tokens: NDArray[np.int64], start: int, eos: int) -> None:
        """Insert start, codes and eos of every item (N, L)."""
        self.root: dict[int, Any] = {}
        for row in tokens.tolist():
            node = self.root
            for token in (start, *row, eos):
                node = node.setdefault(token, {})

    def allowed(self, batch_id: int, sequence: torch.Tensor) -> list[int]:
        """List the tokens that may follow a sequence, for `prefix_allowed_tokens_fn`."""
        node = self.root
        for token in sequence.tolist():
            node = node.get(token, {})
        return list(node) or [0]


def with_authors_rows(vocabulary: Vocabulary) -> tuple[Vocabulary, T5ForConditionalGeneration]:
    """Build a T5 of the paper's size with as many tokens as the authors' has, all rows N(0, 1)."""
    wide = replace(vocabulary, n_tokens=vocabulary.n_tokens + T5_ROWS)
    return wide, recommender.build(wide, RecommenderSettings(), seed=0).eval()
