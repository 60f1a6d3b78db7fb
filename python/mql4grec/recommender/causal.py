"""A decoder-only model: one pass over a history learns every next item, in every modality.

T5 reads a history anew for each of its events. Here a history is a row of *items* and of the codes
that are written after each:

    start     item 1     item 2     ...
      |         |          |
      a b c     a b c      a b c     the text word of the next item, code by code
      A B C     A B C      A B C     its picture word

An item is the sum of its codes' vectors, in all modalities. It sees the items before it; a code
sees them, its own item, and the codes of its word so far. What an item ends as tells the first code
of the next item, what a code ends as the code after it. There is no end token: all words of a
modality are equally long. Items pass all layers, codes only the last `num_decoder_layers`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mql4grec.config import Modality, RecommenderSettings
from mql4grec.language import Vocabulary
from mql4grec.recommender.choices import Choice
from mql4grec.recommender.dropout import Dropout

EPS = 1e-6  # of the norms
LEVELS = ("first_code", "n_codes")  # fields by modality and level


@dataclass(frozen=True)
class CausalConfig:
    """Sizes of the model, as its `config.json` has them.

    Attributes:
        vocab_size: V.
        pad: Token id in place of the codes of an item that has none in a modality.
        first_code: Token id of code 0 of each level, by modality.
        n_codes: K of each level, by modality.
        d_model: D.
        d_ff: F.
        d_kv: Numbers per head.
        num_heads: H.
        num_layers: Layers that items pass.
        num_decoder_layers: The last of them, which codes pass as well.
        dropout_rate: In training.
        max_his_len: Items that are read, the last ones.
    """

    vocab_size: int
    pad: int
    first_code: dict[Modality, tuple[int, ...]]
    n_codes: dict[Modality, tuple[int, ...]]
    d_model: int
    d_ff: int
    d_kv: int
    num_heads: int
    num_layers: int
    num_decoder_layers: int
    dropout_rate: float
    max_his_len: int

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> CausalConfig:
        """Read what `dataclasses.asdict` and JSON made of one."""
        levels = {name: {m: tuple(sizes) for m, sizes in fields[name].items()} for name in LEVELS}
        return cls(**{**fields, **levels})

    @property
    def width(self) -> int:
        """Tokens of an item: the codes of all its modalities."""
        return sum(len(levels) for levels in self.n_codes.values())

    @property
    def n_places(self) -> int:
        """Places of an item in a history: itself, and the codes of the next that are read."""
        return 1 + sum(len(levels) - 1 for levels in self.n_codes.values())

    def words(self) -> Iterator[tuple[Modality, slice, slice]]:
        """List the modalities, where an item's tokens and where a history's places have them."""
        token, place = 0, 1
        for modality, levels in self.n_codes.items():
            n = len(levels)
            yield modality, slice(token, token + n), slice(place, place + n - 1)
            token, place = token + n, place + n - 1


class Block(nn.Module):
    """The weights of a layer: attention and two products, normed before and added to its input."""

    def __init__(self, config: CausalConfig) -> None:
        """Make both parts."""
        super().__init__()
        d, inner = config.d_model, config.num_heads * config.d_kv
        self.attention_norm = nn.RMSNorm(d, eps=EPS)
        self.qkv = nn.Linear(d, 3 * inner, bias=False)
        self.out = nn.Linear(inner, d, bias=False)
        self.inner_norm = nn.RMSNorm(d, eps=EPS)
        self.inner = nn.Linear(d, config.d_ff, bias=False)
        self.outer = nn.Linear(config.d_ff, d, bias=False)
        for part, scale in ((self.qkv, 1.0), (self.out, 0.5), (self.inner, 1.0), (self.outer, 0.5)):
            nn.init.normal_(part.weight, std=scale * part.in_features**-0.5)
        self.heads = (3, config.num_heads, config.d_kv)

    def forward(
        self,
        states: Tensor,
        groups: Sequence[tuple[int, int]],
        bias: Tensor,
        dropout: Dropout | None,
    ) -> Tensor:
        """Give the next layer's states.

        Args:
            states: float32 (R, D), histories one after the other.
            groups: How many histories of how many places each follow one another.
            bias: What is added to attention, (H, t, t) for the longest.
            dropout: None: nothing is dropped.
        """
        rows = self.qkv(self.attention_norm(states)).split([n * size for n, size in groups])
        found = []
        for part, (n, size) in zip(rows, groups, strict=True):
            qkv = part.view(n, size, *self.heads).permute(2, 0, 3, 1, 4)
            queries, keys, values = qkv  # (n, H, size, d_kv) each
            # Not the attention kernel, which takes twice as long with a bias that learns.
            scores = queries @ keys.transpose(2, 3) * self.heads[2] ** -0.5
            shares = (scores + bias[:, :size, :size].to(scores.dtype)).softmax(dim=3)
            seen = (shares.to(values.dtype) @ values).transpose(1, 2)
            found.append(seen.reshape(n * size, -1))
        states = states + _drop(self.out(torch.cat(found)), dropout)
        inner = _drop(self.inner(self.inner_norm(states)).relu(), dropout)
        return states + _drop(self.outer(inner), dropout)


class CausalModel(nn.Module):
    """The decoder-only recommender.

    Attributes:
        config: Its sizes.
        reading: Vectors of codes in an item (V, D).
        writing: Vectors of codes in a word that is being written (V, D).
        start: What stands before the first item (D).
        distance: What is added to attention to the item so many items ago, float32 (H, T + 1).
        steps: Likewise to each step of the own word, by step (H, S, S).
        head: What turns states into logits (V, D).
    """

    def __init__(self, config: CausalConfig) -> None:
        """Make an untrained model; draws from torch."""
        super().__init__()
        self.config = config
        d, n_tokens = config.d_model, config.vocab_size
        self.reading = nn.Embedding(n_tokens, d, padding_idx=config.pad)
        self.writing = nn.Embedding(n_tokens, d)
        self.start = nn.Parameter(torch.empty(d))
        n_steps = max(len(levels) for levels in config.n_codes.values())
        self.distance = nn.Parameter(torch.zeros(config.num_heads, config.max_his_len + 1))
        self.steps = nn.Parameter(torch.zeros(config.num_heads, n_steps, n_steps))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(d, eps=EPS)
        self.head = nn.Linear(d, n_tokens, bias=False)
        for tensor, std in (
            (self.reading.weight, 0.5),
            (self.writing.weight, 0.5),
            (self.start, 0.5),
            (self.head.weight, 0.02),
        ):
            nn.init.normal_(tensor, std=std)
        with torch.no_grad():
            self.reading.weight[config.pad] = 0

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.start.device

    def items(self, words: Tensor) -> Tensor:
        """Give the vectors of items (..., D) from all their tokens, int64 (..., W)."""
        return functional.embedding(words, self.reading.weight, self.config.pad).sum(dim=-2)

    def forward(
        self,
        words: Tensor,
        lengths: Sequence[int],
        targets: Tensor,
        dropout: Dropout | None = None,
    ) -> Tensor:
        """Give the states of all places of some histories, for every next item at once.

        Nothing is padded: products are over all histories together, attention over those of equal
        length that follow one another, so that histories are best sorted by length.

        Args:
            words: int64 (R, W), the tokens of all items, history after history.
            lengths: Items of each history; they sum to R.
            targets: int64 (R, W), the tokens that are written for each item: those of the item, or
                others that could stand in its place.
            dropout: None: nothing is dropped.

        Returns:
            float32 (R, P, D): what tells the first codes of each target, then what tells those
            after each code that is read. The item itself is read by those after it only.
        """
        config, n_places = self.config, self.config.n_places
        runs = [(len([*same]), length) for length, same in itertools.groupby(lengths)]
        first = self._first(len(words), lengths)
        before = torch.where(first[:, None], self.start, self.items(words).roll(1, dims=0))
        bias = self.bias(max(lengths))  # (H, n * P, n * P)
        alone = config.num_layers - config.num_decoder_layers
        before = _drop(before, dropout)
        for block in self.blocks[:alone]:
            before = block(before, runs, bias[:, ::n_places, ::n_places], dropout)
        codes = torch.cat([targets[:, token][:, :-1] for _, token, _ in config.words()], dim=1)
        written = _drop(self.writing(codes), dropout)  # (R, P - 1, D)
        states = torch.cat([before[:, None], written], dim=1).flatten(0, 1)
        runs = [(n, length * n_places) for n, length in runs]
        for block in self.blocks[alone:]:
            states = block(states, runs, bias, dropout)
        out: Tensor = self.norm(states).unflatten(0, (-1, n_places))
        return out

    def _first(self, n: int, lengths: Sequence[int]) -> Tensor:
        """Tell which of n items are the first of a history, bool (n)."""
        if len(set(lengths)) == 1:  # without a copy from the host, which waits for it
            return torch.arange(n, device=self.device) % lengths[0] == 0
        is_first = np.zeros(n, np.bool_)
        is_first[np.cumsum([0, *lengths[:-1]])] = True
        return torch.from_numpy(is_first).to(self.device)

    def bias(self, n: int) -> Tensor:
        """Give what is added to attention among the places of n items, float32 (H, n * P, n * P).

        Minus infinity where a place does not see the other.
        """
        word, step = self._places()  # (P,) each
        item = torch.arange(n, device=self.device)
        ago = item[:, None] - item
        # Looked up by item and by step, then spread: looked up by place, a weight's gradient would
        # be a sum over thousands of places, which a GPU forms one after the other.
        far = self.distance[:, ago.clamp(0, self.config.max_his_len)]  # (H, n, n)
        near = self.steps[:, step[:, None], step]  # (H, P, P)
        is_item = (ago >= 0)[:, None, :, None] & (step == 0)  # (n, 1, n, P)
        is_own = (word[:, None] == word) & (step <= step[:, None])  # (P, P)
        is_own = (ago == 0)[:, None, :, None] & is_own[:, None]  # (n, P, n, P)
        far, near = far[:, :, None, :, None], near[:, None, :, None]
        bias = torch.where(is_own & (step > 0), near, far)  # (H, n, P, n, P)
        return bias.masked_fill(~(is_item | is_own), -torch.inf).flatten(3).flatten(1, 2)

    def _places(self) -> tuple[Tensor, Tensor]:
        """Give which word each of an item's places belongs to, and which of its steps it is."""
        word, step = torch.zeros(2, self.config.n_places, dtype=torch.int64, device=self.device)
        for number, (_, _, places) in enumerate(self.config.words()):
            word[places] = number + 1
            step[places] = torch.arange(1, places.stop - places.start + 1, device=self.device)
        return word, step


def summed_loss(
    model: CausalModel,
    words: Tensor,
    lengths: Sequence[int],
    targets: Tensor,
    choices: Mapping[Modality, Sequence[Choice]],
    *,
    dropout: Dropout | None = None,
) -> Tensor:
    """Give the cross entropy of all choices, each among the codes that items go on with.

    Args:
        model: The model.
        words: int64 (R, W), the items of histories, one after the other.
        lengths: Items of each history.
        targets: int64 (R, W), what is written for each.
        choices: By modality and level, of these targets.
        dropout: None: nothing is dropped.

    Returns:
        A number in float32, summed over all choices.
    """
    config = model.config
    states = model(words, lengths, targets, dropout)
    total = torch.zeros((), device=words.device)
    for modality, _, place in config.words():
        ends = [0, *range(place.start, place.stop)]  # where each code is told
        for level, choice in enumerate(choices[modality]):
            rows, is_open, codes, shares = choice.tensors(words.device)
            first, n_codes = config.first_code[modality][level], config.n_codes[modality][level]
            head = model.head.weight[first:][:n_codes]
            logits = functional.linear(states[rows, ends[level]], head).float()
            told = logits.masked_fill(~is_open, -torch.inf).log_softmax(dim=1).gather(1, codes)
            total = total - (shares * torch.where(shares > 0, told, 0.0)).sum()
    return total


def sizes(
    vocabulary: Vocabulary, settings: RecommenderSettings, *, max_his_len: int
) -> CausalConfig:
    """Give the sizes of a model.

    Args:
        vocabulary: Of the run.
        settings: Room `recommender`.
        max_his_len: Items that are read.
    """
    return CausalConfig(
        vocab_size=vocabulary.n_tokens,
        pad=vocabulary.pad,
        first_code=dict(vocabulary.first_code),
        n_codes=dict(vocabulary.n_codes),
        d_model=settings.d_model,
        d_ff=settings.d_ff,
        d_kv=settings.d_kv,
        num_heads=settings.num_heads,
        num_layers=settings.num_layers,
        num_decoder_layers=min(settings.num_decoder_layers, settings.num_layers),
        dropout_rate=settings.dropout,
        max_his_len=max_his_len,
    )


def _drop(tensor: Tensor, dropout: Dropout | None) -> Tensor:
    return tensor if dropout is None else tensor * dropout.mask(tensor).mul_(dropout.scale)
