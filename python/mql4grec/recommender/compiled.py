"""Optimizer steps of a T5 on a GPU: passes that are compiled, and launched together as CUDA graphs.

Short sequences are many small kernels that mostly move memory: launched one by one they take longer
than they run, and each reads what the one before has written. `torch.compile` makes few of them, a
graph launches all of a micro-batch at once. A graph has fixed shapes and addresses, so that
micro-batches are filled up to a few widths and to a multiple of rows. Batches are made on the
device as well: the host only says which samples they have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import T5ForConditionalGeneration

from mql4grec import language
from mql4grec.config import Task
from mql4grec.language import IGNORED, Corpus, Stream
from mql4grec.recommender.network import Network, lay_out
from mql4grec.recommender.padded import Pieces, RandomDropout, summed_loss

# Tokens of an input. Fewer widths would be more padding, more of them more launches. Of the samples
# of Instruments 63 % have 16 tokens at most, 12 % more than 40, and the longest 85.
WIDTHS = (16, 40, 100, 250, 625, 1562, 3906)
WIDTH_STEP, ROW_STEP = 8, 64  # what a micro-batch is filled up to

Work = Callable[[], None]
Record = Callable[[Work], Work]


def record_graph(work: Work) -> Work:
    """Record work on the current CUDA device, done twice before; gives what does it again.

    Args:
        work: Waits for the host nowhere; reads and writes the same tensors each time.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()  # compiles, and libraries take their memory
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


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


class GraphSteps:
    """The losses and gradients of optimizer steps.

    Attributes:
        seconds: That compiling and recording took so far.
    """

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        samples: Samples,
        *,
        n_read: int,
        dtype: torch.dtype,
        pieces: Pieces,
        rivals: Tensor | None = None,
        record: Record = record_graph,
    ) -> None:
        """Record nothing yet.

        Args:
            model: On its device, with the dropout of its config.
            samples: On the same.
            n_read: Tokens of the longest input.
            dtype: Of the matrix products.
            pieces: Of the pass, compiled or not.
            rivals: As in `network.summed_loss`.
            record: How work is recorded.
        """
        self._model, self._samples, self._pieces, self._rivals = model, samples, pieces, rivals
        rate = model.config.dropout_rate
        self._dropout = RandomDropout(rate) if rate else None
        self._n_read = -(-n_read // WIDTH_STEP) * WIDTH_STEP
        self._record = record
        self._parameters = list(model.parameters())
        self._network = self._lay_out().cast(dtype)
        self._sums = [
            torch.zeros_like(tensor, dtype=torch.float32) for tensor in self._network.tensors()
        ]
        self._gradients = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._loss = torch.zeros((), device=model.device)
        self._rows: dict[tuple[int, int], Tensor] = {}
        self._recorded: dict[Any, Work] = {}
        self.seconds = 0.0

    def draw(self, corpus: Corpus, samples: language.Samples) -> None:
        """Go on with the samples of another epoch, as many as before."""
        spans = language.find_spans(corpus, samples, self._samples.stream)
        self._samples.spans[:-1].copy_(torch.from_numpy(spans))

    def begin(self) -> None:
        """Begin an optimizer step."""
        self._do("begin", self._begin)

    def add(self, rows: NDArray[np.int64], *, longest: int, seed: int) -> None:
        """Add a micro-batch; waits for the host nowhere.

        Args:
            rows: int64 (B,), of the samples.
            longest: Tokens of the longest input among them.
            seed: Of dropout.
        """
        none = len(self._samples.spans) - 1
        filled = np.full(-(-len(rows) // ROW_STEP) * ROW_STEP, none)
        filled[: len(rows)] = rows
        shape = (len(filled), self._width(longest))
        if shape not in self._rows:
            self._rows[shape] = torch.full(shape[:1], none, device=self._loss.device)
            self._recorded[shape] = self._made(partial(self._pass, *shape))
        self._rows[shape].copy_(self._put(filled), non_blocking=True)
        torch.manual_seed(seed)
        self._recorded[shape]()

    def finish(self, *, n_tokens: int) -> Tensor:
        """Give every parameter its gradient, and the loss summed over target tokens.

        Args:
            n_tokens: By which gradients are divided.
        """
        self._do("finish", self._finish)
        torch._foreach_div_(self._gradients, n_tokens)
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._loss.clone()

    def _do(self, name: str, work: Work) -> None:
        if name not in self._recorded:
            self._recorded[name] = self._made(work)
        self._recorded[name]()

    def _made(self, work: Work) -> Work:
        began = time.monotonic()
        recorded = self._record(work)
        self.seconds += time.monotonic() - began
        return recorded

    def _begin(self) -> None:
        with torch.no_grad():
            for tensor, new in zip(self._network.tensors(), self._lay_out().tensors(), strict=True):
                tensor.copy_(new)
            torch._foreach_zero_(self._sums)
            self._loss.zero_()

    def _pass(self, n: int, width: int) -> None:
        """Add a micro-batch; one of no samples adds nothing."""
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

    def _lay_out(self) -> Network:
        return lay_out(self._model, n_read=self._n_read, n_written=self._samples.n_written)

    def _width(self, longest: int) -> int:
        wide = next(width for width in (*WIDTHS, longest) if width >= longest)
        return min(wide, self._n_read)

    def _put(self, rows: NDArray[np.int64]) -> Tensor:
        """Put rows where a GPU reads them without waiting."""
        tensor = torch.from_numpy(rows)
        return tensor.pin_memory() if self._loss.device.type == "cuda" else tensor


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
