"""Optimizer steps of a T5 on a GPU, as graphs.

A graph has fixed shapes and addresses, so that micro-batches are filled up to a few widths and to a
multiple of rows. Batches are made on the device: the host only says which samples they have. The
weights are laid out and cast once a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import T5ForConditionalGeneration

from mql4grec import language
from mql4grec.config import Task
from mql4grec.language import IGNORED, Corpus, Stream
from mql4grec.recommender.epochs import Epoch
from mql4grec.recommender.graphs import Recordings, pinned
from mql4grec.recommender.network import Network, lay_out
from mql4grec.recommender.padded import EVEN, Pieces, summed_loss

# Tokens of an input. Fewer widths would be more padding, more of them more launches. Of the samples
# of Instruments 63 % have 16 tokens at most, 12 % more than 40, and the longest 85.
WIDTHS = (16, 40, 100, 250, 625, 1562, 3906)
WIDTH_STEP, ROW_STEP = 8, 64  # what a micro-batch is filled up to
N_SLOTS = 3  # micro-batches that a GPU works on at the same time: kernels are too small to fill it


@dataclass(frozen=True)
class Samples:
    """Samples on a device.

    Attributes:
        stream: What they are parts of.
        tokens: Its tokens, int32 (N,).
        spans: int64 (S + 1, 6), as `language.find_spans` gives them; the last is of no sample.
        n_written: Tokens of the longest target.
        pad: Token id of padding, which every target starts from.
        eos: Token id of the end.
    """

    stream: Stream
    tokens: Tensor
    spans: Tensor
    n_written: int
    pad: int
    eos: int

    def batch(self, rows: Tensor, *, n_read: int) -> tuple[Tensor, Tensor]:
        """Make a batch: `input_ids` and `labels`, int64 (B, n_read) and (B, n_written)."""
        prompt, n_prompt, read, n, target, n_codes = self.spans[rows].T[:, :, None]
        place = torch.arange(n_read, device=rows.device) - n_prompt
        where = torch.where(place < 0, prompt + n_prompt + place, read + place)
        inputs = self._until(n, place, where, rest=self.pad)
        place = torch.arange(self.n_written, device=rows.device)[None]
        return inputs, self._until(n_codes, place, target + place, rest=IGNORED)

    def _until(self, n: Tensor, place: Tensor, where: Tensor, *, rest: int) -> Tensor:
        found = self.tokens[where.clamp(0, len(self.tokens) - 1)].long()
        end = torch.where(place == n, self.eos, rest)
        return torch.where(place < n, found, end)


class Slot:
    """What micro-batches add to, one after the other; those of other slots run beside them."""

    def __init__(self, sizes: Mapping[torch.dtype, int], *, device: torch.device) -> None:
        """Begin with nothing.

        Args:
            sizes: Numbers of all gradients together, by precision.
            device: Of all.
        """
        on_gpu = device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if on_gpu else None
        self.sums = {dtype: torch.zeros(size, device=device) for dtype, size in sizes.items()}
        self.loss = torch.zeros((), device=device)
        self.rows: dict[tuple[int, int], Tensor] = {}

    def clear(self) -> None:
        """Forget what was added."""
        for tensor in (*self.sums.values(), self.loss):
            tensor.zero_()


class T5Steps:
    """The losses and gradients of optimizer steps."""

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        samples: Samples,
        *,
        n_read: int,
        dtype: torch.dtype,
        pieces: Pieces,
        recordings: Recordings,
        rivals: Tensor | None = None,
    ) -> None:
        """Compile and record nothing yet.

        Args:
            model: On its device, with the dropout of its config.
            samples: On the same.
            n_read: Tokens of the longest input.
            dtype: Of the matrix products.
            pieces: Of the pass, compiled or not.
            recordings: Where work goes.
            rivals: As in `network.summed_loss`.
        """
        self._model, self._samples, self._pieces, self._rivals = model, samples, pieces, rivals
        self._dropout = model.config.dropout_rate
        self._n_read = -(-n_read // WIDTH_STEP) * WIDTH_STEP
        self._recordings = recordings
        self._parameters = list(model.parameters())
        self._network = self._lay_out().cast(dtype)
        self._weights = _lie_side_by_side(self._network.tensors())
        self._gradients = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._n_tokens = torch.ones((), device=model.device)
        sizes = {dtype: len(flat) for dtype, flat in self._weights.items()}
        self._slots = [Slot(sizes, device=model.device) for _ in range(N_SLOTS)]
        self._n_added = 0

    def draw(self, corpus: Corpus, epoch: Epoch) -> None:
        """Go on with the samples of another epoch, as many as before."""
        assert isinstance(epoch.samples, language.Samples)
        spans = language.find_spans(corpus, epoch.samples, self._samples.stream)
        self._samples.spans[:-1].copy_(torch.from_numpy(spans))

    def begin(self) -> None:
        """Begin an optimizer step."""
        self._recordings.do("begin", self._begin)
        self._n_added = 0
        for slot in self._slots:
            if slot.stream is not None:
                slot.stream.wait_stream(torch.cuda.current_stream())

    def add(self, rows: NDArray[np.int64], *, longest: int, seed: int) -> None:
        """Add a micro-batch; waits for the host nowhere.

        Args:
            rows: int64 (B,), of the samples.
            longest: Tokens of the longest input among them.
            seed: Of dropout.
        """
        number = self._n_added % N_SLOTS
        slot, self._n_added = self._slots[number], self._n_added + 1
        n, width = -(-len(rows) // ROW_STEP) * ROW_STEP, self._width(longest)
        filled = torch.full((n + 1,), len(self._samples.spans) - 1)
        filled[: len(rows)] = torch.from_numpy(rows)
        filled[n] = seed
        with nullcontext() if slot.stream is None else torch.cuda.stream(slot.stream):
            own = slot.rows.setdefault(
                (n, width), torch.empty_like(filled, device=slot.loss.device)
            )
            own.copy_(pinned(filled, own.device), non_blocking=True)
            self._recordings.do((number, n, width), partial(self._pass, slot, n, width))

    def finish(self, *, n_tokens: int) -> Tensor:
        """Give every parameter its gradient, and the loss summed over target tokens.

        Args:
            n_tokens: By which gradients are divided.
        """
        for slot in self._slots:
            if slot.stream is not None:
                torch.cuda.current_stream().wait_stream(slot.stream)
        self._n_tokens.fill_(n_tokens)
        self._recordings.do("finish", self._finish)
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return torch.stack([slot.loss for slot in self._slots]).sum()

    @torch.no_grad()
    def _begin(self) -> None:
        laid_out = self._lay_out().tensors()
        for dtype, flat in self._weights.items():
            flat.copy_(_joined(self._of(dtype, laid_out)))
        for slot in self._slots:
            slot.clear()

    def _pass(self, slot: Slot, n: int, width: int) -> None:
        rows = slot.rows[n, width]
        input_ids, labels = self._samples.batch(rows[:n], n_read=width)
        loss = summed_loss(
            self._network,
            input_ids,
            labels,
            start=self._samples.pad,
            dropout=self._dropout,
            seed=rows[n].int(),
            rivals=self._rivals,
            pieces=self._pieces,
        )
        gradients = torch.autograd.grad(loss, self._network.tensors())
        for dtype, sums in slot.sums.items():
            sums.add_(_joined(self._of(dtype, gradients)))
        slot.loss.add_(loss.detach())

    def _finish(self) -> None:
        laid_out = self._lay_out().tensors()
        given: list[Tensor] = []
        found: list[Tensor] = []
        for dtype in self._weights:
            own = self._of(dtype, laid_out)
            total = torch.stack([slot.sums[dtype] for slot in self._slots]).sum(dim=0)
            parts = total.split([tensor.numel() for tensor in own])
            given += own
            found += [part.view_as(tensor) for part, tensor in zip(parts, own, strict=True)]
        gradients = torch.autograd.grad(given, self._parameters, found)
        torch._foreach_copy_(self._gradients, gradients)
        torch._foreach_div_(self._gradients, self._n_tokens)

    def _lay_out(self) -> Network:
        written = -(-self._samples.n_written // EVEN) * EVEN
        return lay_out(self._model, n_read=self._n_read, n_written=written, multiply_out=True)

    def _of(self, dtype: torch.dtype, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Choose those whose place in the network has a precision."""
        places = zip(tensors, self._network.tensors(), strict=True)
        return [tensor for tensor, own in places if own.dtype == dtype]

    def _width(self, longest: int) -> int:
        wide = next(width for width in (*WIDTHS, longest) if width >= longest)
        return min(wide, self._n_read)


def _lie_side_by_side(tensors: Sequence[Tensor]) -> dict[torch.dtype, Tensor]:
    """Move tensors into one array for each precision, so that one kernel can fill them all."""
    found = {}
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        own = [tensor for tensor in tensors if tensor.dtype == dtype]
        found[dtype] = _joined(own).detach()
        parts = found[dtype].split([tensor.numel() for tensor in own])
        for tensor, part in zip(own, parts, strict=True):
            tensor.data = part.view_as(tensor)
    return found


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def put_samples(
    corpus: Corpus, samples: language.Samples, tasks: Sequence[Task], *, device: torch.device
) -> Samples:
    """Put the samples of an epoch on a device."""
    stream = language.lay_side_by_side(corpus, tasks)
    spans = language.find_spans(corpus, samples, stream)
    none = np.full((1, spans.shape[1]), -1)
    return Samples(
        stream=stream,
        tokens=torch.from_numpy(stream.tokens).to(device),
        spans=torch.from_numpy(np.concatenate([spans, none])).to(device),
        n_written=int(spans[:, 5].max()) + 1,
        pad=corpus.vocabulary.pad,
        eos=corpus.vocabulary.eos,
    )
