"""A T5's forward and backward pass on a GPU, compiled, and launched together as a CUDA graph.

Short sequences are many small kernels that mostly move memory: launched one by one they take longer
than they run, and each reads what the one before has written. `torch.compile` makes few of them, a
graph launches all of a micro-batch at once. A graph has fixed shapes and addresses, so that
micro-batches are filled up to a few widths and to a multiple of rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import T5ForConditionalGeneration

from mql4grec.language import IGNORED, Batch
from mql4grec.recommender.network import Network, lay_out, summed_loss
from mql4grec.recommender.packing import Group, Packed

# Tokens of an input. Fewer widths would be more padding, more of them more launches. Of the samples
# of Instruments 63 % have 16 tokens at most, 12 % more than 40, and the longest 85.
WIDTHS = (16, 40, 100, 250, 625, 1562, 3906)
WIDTH_STEP, ROW_STEP = 8, 64  # what a micro-batch is filled up to

Pass = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class Recording:
    """A forward and a backward pass of one shape.

    Attributes:
        input_ids: Where it reads, int64 (B, T).
        labels: Likewise, int64 (B, S).
        replay: Do both again, with what stands there.
    """

    input_ids: Tensor
    labels: Tensor
    replay: Callable[[], None]


Record = Callable[[Pass, Tensor, Tensor], Recording]


@dataclass(frozen=True)
class RandomDropout:
    """Masks from the device's own generator, which a compiler writes into the kernels around them.

    Attributes:
        rate: Of what is dropped, below 1.
    """

    rate: float

    @property
    def scale(self) -> float:
        """What the kept are multiplied by, so that the mean stays."""
        return 1 / (1 - self.rate)

    def mask(self, like: Tensor) -> Tensor:
        """Draw ones and zeros of a tensor's shape and type."""
        return (torch.rand_like(like, dtype=torch.float32) >= self.rate).to(like.dtype)


def record_graph(run: Pass, input_ids: Tensor, labels: Tensor) -> Recording:
    """Record a pass on the current CUDA device.

    Args:
        run: Waits for the host nowhere.
        input_ids: int64 (B, T), written over later.
        labels: int64 (B, S), the same.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run(input_ids, labels)  # compiles, and libraries take their memory
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(input_ids, labels)
    return Recording(input_ids, labels, graph.replay)


class CompiledPasses:
    """Adds up the loss of micro-batches, and its gradients.

    Attributes:
        loss: Summed over target tokens since `clear`, float32 on the device.
        gradients: Of it, float32, by parameter.
        seconds: That compiling and recording took so far.
    """

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        *,
        dtype: torch.dtype,
        n_read: int,
        rivals: Tensor | None = None,
        record: Record = record_graph,
        backend: str = "inductor",
        dynamic_width: bool = True,
    ) -> None:
        """Compile nothing yet.

        Args:
            model: On its device, with the dropout of its config.
            dtype: Of the matrix products.
            n_read: Tokens of the longest input.
            rivals: As in `network.summed_loss`.
            record: How a pass is recorded.
            backend: Of `torch.compile`.
            dynamic_width: Compile once for all widths.
        """
        self._dynamic_width = dynamic_width
        self._model, self._dtype, self._rivals = model, dtype, rivals
        rate = model.config.dropout_rate
        self._dropout = RandomDropout(rate) if rate else None
        self._longest = _up(n_read, WIDTH_STEP)
        self._record = record
        self._parameters = list(model.parameters())
        self._compiled = torch.compile(self._forward, backend=backend)
        self._recordings: dict[tuple[int, ...], Recording] = {}
        self.gradients = [torch.zeros_like(parameter) for parameter in self._parameters]
        self.loss = torch.zeros((), device=model.device)
        self.seconds = 0.0

    def clear(self) -> None:
        """Begin an optimizer step."""
        torch._foreach_zero_(self.gradients)
        self.loss.zero_()

    def add(self, batch: Batch, *, seed: int) -> None:
        """Add the loss of a micro-batch and its gradients; waits for the host nowhere.

        Args:
            batch: Of samples.
            seed: Of dropout.
        """
        input_ids, labels = self._fill(batch)
        shape = (*input_ids.shape, labels.shape[1])
        if shape not in self._recordings:
            began = time.monotonic()
            self._recordings[shape] = self._record(self._run, *self._blank(*shape))
            self.seconds += time.monotonic() - began
        recording = self._recordings[shape]
        recording.input_ids.copy_(input_ids, non_blocking=True)
        recording.labels.copy_(labels, non_blocking=True)
        torch.manual_seed(seed)
        recording.replay()

    def _fill(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Fill a batch up, in memory that a GPU reads without waiting."""
        n, length = batch.input_ids.shape
        rows = _up(n, ROW_STEP) - n
        columns = self._width(length) - length
        pad = self._model.config.decoder_start_token_id
        on_gpu = self.loss.device.type == "cuda"

        def put(ids: NDArray[np.int64], columns: int, value: int) -> Tensor:
            filled = functional.pad(torch.from_numpy(ids), (0, columns, 0, rows), value=value)
            return filled.pin_memory() if on_gpu else filled

        return put(batch.input_ids, columns, pad), put(batch.labels, 0, IGNORED)

    def _width(self, length: int) -> int:
        wide = next(width for width in (*WIDTHS, length) if width >= length)
        return max(min(wide, self._longest), length)

    def _blank(self, n: int, n_read: int, n_written: int) -> tuple[Tensor, Tensor]:
        """Give a micro-batch without any sample: its loss and gradients are 0."""
        pad, device = self._model.config.decoder_start_token_id, self.loss.device
        input_ids = torch.full((n, n_read), pad, device=device)
        labels = torch.full((n, n_written), IGNORED, device=device)
        torch._dynamo.mark_dynamic(input_ids, 0)
        torch._dynamo.mark_dynamic(labels, 0)
        torch._dynamo.mark_static(labels, 1)
        mark = torch._dynamo.mark_dynamic if self._dynamic_width else torch._dynamo.mark_static
        mark(input_ids, 1)
        return input_ids, labels

    def _run(self, input_ids: Tensor, labels: Tensor) -> None:
        loss = self._compiled(input_ids, labels)
        torch._foreach_add_(self.gradients, torch.autograd.grad(loss, self._parameters))
        self.loss += loss.detach()

    def _forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        network = lay_out(self._model, n_read=input_ids.shape[1], n_written=labels.shape[1])
        start = self._model.config.decoder_start_token_id
        return summed_loss(
            _in_precision(network, self._dtype),
            side_by_side(input_ids, labels, start=start),
            dropout=self._dropout,  # type: ignore[arg-type]
            rivals=self._rivals,
        )


def side_by_side(input_ids: Tensor, labels: Tensor, *, start: int) -> Packed:
    """Take padded samples as one group, without a look at them.

    Args:
        input_ids: int64 (B, T).
        labels: int64 (B, S).
        start: The token that every target starts from, which is also the padding.
    """
    padding = torch.where(input_ids == start, torch.finfo(torch.float32).min, 0.0)
    before = functional.pad(labels[:, :-1], (1, 0), value=start)
    (n, n_read), n_written = input_ids.shape, labels.shape[1]
    return Packed(
        inputs=input_ids.flatten(),
        before=torch.where(before == IGNORED, start, before).flatten(),
        labels=labels.flatten(),
        groups=(Group(n, n_read, n_written),),
        written=((n, n_written),),
        padding=padding[:, None, None, :],
    )


def _in_precision(network: Network, dtype: torch.dtype) -> Network:
    """Cast the matrices in a way that gradients find back."""

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype)

    return replace(
        network,
        encoder=tuple(layer.change(cast) for layer in network.encoder),
        decoder=tuple(layer.change(cast) for layer in network.decoder),
        cross_kv=cast(network.cross_kv),
        head=cast(network.head),
    )


def _up(n: int, step: int) -> int:
    """Round up to a multiple."""
    return -(-n // step) * step
