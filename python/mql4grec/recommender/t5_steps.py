"""Optimizer steps of a T5 on a GPU, as graphs.

A graph has fixed shapes and addresses, so that micro-batches are filled up to a few widths and to a
multiple of rows. Batches are made on the device: the host only says which samples they have. The
weights are laid out and cast once a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import T5ForConditionalGeneration

from mql4grec import language
from mql4grec.config import Task
from mql4grec.language import IGNORED, Corpus, Stream
from mql4grec.recommender.dropout import RandomDropout
from mql4grec.recommender.epochs import Epoch
from mql4grec.recommender.graphs import GraphSteps, Recordings
from mql4grec.recommender.layout import Network, lay_out
from mql4grec.recommender.padded import Pieces, summed_loss

# Tokens of an input. Fewer widths would be more padding, more of them more launches. Of the samples
# of Instruments 63 % have 16 tokens at most, 12 % more than 40, and the longest 85.
WIDTHS = (16, 40, 100, 250, 625, 1562, 3906)
WIDTH_STEP, ROW_STEP = 8, 64  # what a micro-batch is filled up to


@dataclass(frozen=True)
class DeviceSamples:
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


class T5Steps(GraphSteps):
    """The losses and gradients of optimizer steps."""

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        samples: DeviceSamples,
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
            n_read: Tokens of the longest input of any epoch.
            dtype: Of the matrix products.
            pieces: Of the pass, compiled or not.
            recordings: Where work goes.
            rivals: As in `network.summed_loss`.
        """
        super().__init__(model, recordings)
        self._model, self._samples, self._pieces, self._rivals = model, samples, pieces, rivals
        rate = model.config.dropout_rate
        self._dropout = RandomDropout(rate) if rate else None
        self._n_read = -(-n_read // WIDTH_STEP) * WIDTH_STEP
        self._network = self._lay_out().cast(dtype)
        self._sums = [
            torch.zeros_like(tensor, dtype=torch.float32) for tensor in self._network.tensors()
        ]

    def draw(self, corpus: Corpus, epoch: Epoch) -> None:
        """Go on with the samples of another epoch, as many as before."""
        assert isinstance(epoch.samples, language.Samples)
        spans = language.find_spans(corpus, epoch.samples, self._samples.stream)
        self._samples.spans[:-1].copy_(torch.from_numpy(spans))

    def begin(self) -> None:
        """Begin an optimizer step."""
        self._recordings.do("begin", self._begin)

    def add(self, rows: NDArray[np.int64], *, longest: int, seed: int) -> None:
        """Add a micro-batch, filled up to a shape of few."""
        none = len(self._samples.spans) - 1
        filled = torch.full((-(-len(rows) // ROW_STEP) * ROW_STEP,), none)
        filled[: len(rows)] = torch.from_numpy(rows)
        self._do_pass(filled, self._width(longest), seed=seed)

    def _gather(self) -> None:
        self._recordings.do("finish", self._finish)

    def _begin(self) -> None:
        with torch.no_grad():
            for tensor, new in zip(self._network.tensors(), self._lay_out().tensors(), strict=True):
                tensor.copy_(new)
            torch._foreach_zero_(self._sums)
            self._loss.zero_()

    def _pass(self, n: int, width: int) -> None:
        input_ids, labels = self._samples.batch(self._rows[n, width], n_read=width)
        loss = summed_loss(
            self._network,
            input_ids,
            labels,
            start=self._samples.pad,
            dropout=self._dropout,
            rivals=self._rivals,
            pieces=self._pieces,
        )
        gradients = torch.autograd.grad(loss, self._network.tensors())
        torch._foreach_add_(self._sums, gradients)
        self._loss.add_(loss.detach())

    def _finish(self) -> None:
        found = torch.autograd.grad(self._lay_out().tensors(), self._parameters, self._sums)
        torch._foreach_copy_(self._gradients, found)
        torch._foreach_div_(self._gradients, self._n_tokens)

    def _lay_out(self) -> Network:
        return lay_out(self._model, n_read=self._n_read, n_written=self._samples.n_written)

    def _width(self, longest: int) -> int:
        wide = next(width for width in (*WIDTHS, longest) if width >= longest)
        return min(wide, self._n_read)


def put_samples(
    corpus: Corpus, samples: language.Samples, tasks: Sequence[Task], *, device: torch.device
) -> DeviceSamples:
    """Put the samples of an epoch on a device."""
    stream = language.make_stream(corpus, tasks)
    spans = language.find_spans(corpus, samples, stream)
    none = np.full((1, spans.shape[1]), -1)
    return DeviceSamples(
        stream=stream,
        tokens=torch.from_numpy(stream.tokens).to(device),
        spans=torch.from_numpy(np.concatenate([spans, none])).to(device),
        n_written=language.most_tokens(corpus, tasks)[1],
        pad=corpus.vocabulary.pad,
        eos=corpus.vocabulary.eos,
    )
