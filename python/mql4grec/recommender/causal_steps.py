"""Optimizer steps of a decoder-only model on a GPU, as graphs.

The host only says which windows a micro-batch has. What is read, what is written, what a teacher
draws and what can follow is looked up on the device, in arrays of one shape: every window is filled
up to one of a few lengths, and every place has all its choices, of which many count nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mql4grec.config import Modality
from mql4grec.language import Branches, Corpus, Windows
from mql4grec.recommender.causal import CausalModel
from mql4grec.recommender.dropout import RandomDropout
from mql4grec.recommender.epochs import Epoch
from mql4grec.recommender.graphs import GraphSteps, Recordings
from mql4grec.recommender.teacher import Teacher

LENGTHS = (8, 16, 32, 64, 128, 256, 512, 1024)  # of windows, in items


@dataclass(frozen=True)
class Lookups:
    """What windows of E events are made of, on a device.

    Attributes:
        items: int64 (E,).
        starts: int64 (W,), of windows.
        lengths: int64 (W,).
        n_answered: int64 (W,).
        words: int64 (N + 1, tokens of an item), the last row of padding.
        branches: By modality and level, prefix of each item (N + 1) and what follows it, in bits.
        teacher: Items (E', M) and shares (E', M), or none.
        share: Of an answer, what the teacher has.
    """

    items: Tensor
    starts: Tensor
    lengths: Tensor
    n_answered: Tensor
    words: Tensor
    branches: dict[Modality, list[tuple[Tensor, Tensor]]]
    teacher: tuple[Tensor, Tensor] | None
    share: float


@dataclass(frozen=True)
class Asked:
    """What is asked at the R places of a batch of windows.

    Attributes:
        items: int64 (R,), what is read; N for none.
        targets: int64 (R,), what is written after what came before.
        answers: int64 (R, C), what would be right.
        shares: float32 (R, C), how right; rows of zeros are not asked.
    """

    items: Tensor
    targets: Tensor
    answers: Tensor
    shares: Tensor


def put_lookups(
    epoch: Epoch,
    words: NDArray[np.int64],
    branches: Mapping[Modality, Sequence[Branches]],
    teacher: Teacher | None,
    *,
    device: torch.device,
) -> Lookups:
    """Put what an epoch's windows are made of on a device."""
    windows = epoch.samples
    assert isinstance(windows, Windows)
    assert epoch.n_answered is not None

    def put(array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(device)

    return Lookups(
        items=put(windows.items.astype(np.int64)),
        starts=put(windows.starts),
        lengths=put(windows.lengths),
        n_answered=put(epoch.n_answered),
        words=put(words),
        branches={
            modality: [(put(each.prefixes.astype(np.int64)), put(each.bits)) for each in levels]
            for modality, levels in branches.items()
        },
        teacher=None
        if teacher is None
        else (put(teacher.items.astype(np.int64)), put(teacher.shares)),
        share=0.0 if teacher is None else teacher.share,
    )


class CausalSteps(GraphSteps):
    """The losses and gradients of optimizer steps."""

    def __init__(
        self,
        model: CausalModel,
        lookups: Lookups,
        *,
        bf16: bool,
        recordings: Recordings,
    ) -> None:
        """Record nothing yet.

        Args:
            model: On its device.
            lookups: On the same.
            bf16: Whether matrix products are in bfloat16.
            recordings: Where work goes.
        """
        super().__init__(model, recordings)
        self._model, self._lookups, self._bf16 = model, lookups, bf16
        rate = model.config.dropout_rate
        self._dropout = RandomDropout(rate) if rate else None
        self._n_open = 0 if lookups.teacher is None else 1
        self._lengths = lookups.lengths.cpu().numpy()
        self._longest = int(self._lengths.max())

    def draw(self, corpus: Corpus, epoch: Epoch) -> None:
        """Go on with the windows of another epoch, which are as many."""
        assert isinstance(epoch.samples, Windows)
        assert epoch.n_answered is not None
        lookups = self._lookups
        lookups.starts.copy_(torch.from_numpy(epoch.samples.starts))
        lookups.lengths.copy_(torch.from_numpy(epoch.samples.lengths))
        lookups.n_answered.copy_(torch.from_numpy(epoch.n_answered))
        self._lengths = epoch.samples.lengths
        self._longest = max(self._longest, int(self._lengths.max()))

    def begin(self) -> None:
        """Begin an optimizer step."""
        torch._foreach_zero_(self._gradients)
        self._loss.zero_()

    def add(self, rows: NDArray[np.int64], *, seed: int) -> None:
        """Add a micro-batch of windows."""
        longest = int(self._lengths[rows].max())  # without the place beyond the end
        length = next(each for each in (*LENGTHS, longest) if each >= longest)
        length = min(length, self._longest) + self._n_open
        self._do_pass(torch.from_numpy(rows), length, seed=seed)

    def _gather(self) -> None:
        torch._foreach_div_(self._gradients, self._n_tokens)

    def _pass(self, n: int, width: int) -> None:
        asked = self._ask(self._rows[n, width], width)
        with torch.autocast(self._loss.device.type, torch.bfloat16, enabled=self._bf16):
            states = self._model(
                self._lookups.words[asked.items],
                [width] * n,
                self._lookups.words[asked.targets],
                self._dropout,
            )
            loss = self._summed_loss(states, asked)
        found = torch.autograd.grad(
            loss, self._parameters, allow_unused=True, materialize_grads=True
        )
        torch._foreach_add_(self._gradients, found)
        self._loss.add_(loss.detach())

    def _ask(self, rows: Tensor, length: int) -> Asked:
        """Do what `losses` does with arrays of the host, for windows that are all of one length."""
        lookups, n_open = self._lookups, self._n_open
        place = torch.arange(length, device=rows.device)
        events = (lookups.starts[rows][:, None] + place).flatten()
        lengths = (lookups.lengths[rows] + n_open).repeat_interleave(
            length, output_size=len(events)
        )
        left = lengths - place.repeat(len(rows))  # 1 of the last place, less of padding
        n_asked = (lookups.n_answered[rows] + n_open).repeat_interleave(
            length, output_size=len(events)
        )
        none = len(lookups.words) - 1
        items = lookups.items[events.clamp(max=len(lookups.items) - 1)]
        items = targets = torch.where(left > n_open, items, none)
        is_asked = (left > 0) & (left <= n_asked)
        answers, shares = items[:, None], is_asked[:, None].float()
        if lookups.teacher is not None:
            known, known_shares = lookups.teacher
            before = (events - 1).clamp(0, len(known) - 1)
            drawn = self._draw(before)
            taught = torch.where(left == 1, 1.0, lookups.share)
            taught = taught * ((drawn >= 0) & (left < lengths))  # a first item follows none
            targets = torch.where(torch.rand_like(taught) < taught, drawn, items)
            answers = torch.cat([answers, known[before] % (none + 1)], dim=1)  # -1 is none
            taught = taught[:, None]
            shares = shares * torch.cat([1 - taught, taught * known_shares[before]], dim=1)
        return Asked(items, targets, answers, shares)

    def _draw(self, events: Tensor) -> Tensor:
        """Draw what a teacher lets follow events (R): int64 (R), -1 where it knows nothing."""
        assert self._lookups.teacher is not None
        items, shares = self._lookups.teacher
        sums = shares[events].cumsum(dim=1)
        chance = torch.rand_like(sums[:, :1]) * sums[:, -1:]
        place = (sums <= chance).sum(dim=1, keepdim=True).clamp(max=sums.shape[1] - 1)
        return items[events].gather(1, place)[:, 0]

    def _summed_loss(self, states: Tensor, asked: Asked) -> Tensor:
        """Do what `causal.summed_loss` does, with all choices of all places (R, P, D)."""
        config = self._model.config
        total = torch.zeros((), device=states.device)
        places = {modality: place for modality, _, place in config.words()}
        for modality, level, is_open, codes, shares in self._choices(asked):
            place = places[modality]
            end = [0, *range(place.start, place.stop)][level]  # where each code is told
            first, n_codes = config.first_code[modality][level], config.n_codes[modality][level]
            head = self._model.head.weight[first:][:n_codes]
            logits = functional.linear(states[:, end], head).float()
            told = logits.masked_fill(~is_open, -torch.inf).log_softmax(dim=1).gather(1, codes)
            total = total - (shares * torch.where(shares > 0, told, 0.0)).sum()
        return total

    def _choices(self, asked: Asked) -> Iterator[tuple[Modality, int, Tensor, Tensor, Tensor]]:
        """Do what `choices.list_choices` does; shares are 0 where there is nothing to choose."""
        config, lookups = self._model.config, self._lookups
        own, others = lookups.words[asked.targets], lookups.words[asked.answers]
        shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=own.device)
        for modality, token, _ in config.words():
            weights = asked.shares * (others[:, :, token.start] != config.pad)
            weights = weights * (own[:, token.start, None] != config.pad)
            for level, (prefixes, bits) in enumerate(lookups.branches[modality]):
                column = token.start + level
                n_codes = config.n_codes[modality][level]
                following = bits[prefixes[asked.targets]][:, :, None] >> shifts & 1
                is_open = following.flatten(1)[:, :n_codes].bool()
                total = weights.sum(dim=1, keepdim=True)
                counts = (total > 0) & (is_open.sum(dim=1, keepdim=True) > 1)
                codes = (others[:, :, column] - config.first_code[modality][level]).clamp(min=0)
                shares = torch.where(counts, weights / torch.where(counts, total, 1.0), 0.0)
                yield modality, level, is_open | ~counts, codes, shares
                weights = weights * (others[:, :, column] == own[:, column, None])
