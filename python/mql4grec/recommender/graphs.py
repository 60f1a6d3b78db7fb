"""Work on a GPU that is recorded as CUDA graphs, so that its kernels are launched together.

Small models are thousands of small kernels a step, and launching them one by one takes a host
longer than they run.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mql4grec.language import Corpus
from mql4grec.recommender.epochs import Epoch

Work = Callable[[], None]
Record = Callable[[Work, bool], Work]


class GraphRecorder:
    """Records work on the current CUDA device."""

    def __init__(self) -> None:
        """Share no memory yet."""
        self._pool: Any = None

    def __call__(self, work: Work, keeps: bool) -> Work:
        """Record; gives what does the work.

        Args:
            work: Waits for the host nowhere, and reads and writes the same tensors each time.
            keeps: Whether anything that it makes is needed later; otherwise it has its memory
                together with all others that keep nothing.
        """
        graph = torch.cuda.CUDAGraph()
        if not keeps:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=None if keeps else self._pool):
            work()
        return graph.replay


class Recordings:
    """Work that is recorded when it is done for the second time.

    The first time, kernels are compiled and libraries take their memory.

    Attributes:
        seconds: That first and second times took so far.
    """

    def __init__(self, record: Record | None = None) -> None:
        """Begin with nothing recorded; `record` says how that is done, None: by CUDA graphs."""
        self._record = record or GraphRecorder()
        self._done: set[Hashable] = set()
        self._recorded: dict[Hashable, Work] = {}
        self._stream: torch.cuda.Stream | None = None
        self.seconds = 0.0

    def do(self, name: Hashable, work: Work, *, keeps: bool = True) -> None:
        """Do the work of this name; `keeps` as for `GraphRecorder`."""
        if name in self._recorded:
            self._recorded[name]()
            return
        began = time.monotonic()
        if name in self._done:
            self._recorded[name] = self._record(work, keeps)
            self._recorded[name]()
        else:
            self._done.add(name)
            self._do_aside(work)
        self.seconds += time.monotonic() - began

    def _do_aside(self, work: Work) -> None:
        """Do work on a stream of its own, as a recording does: one for all, as autograd wants."""
        if not torch.cuda.is_available():
            work()
            return
        self._stream = self._stream or torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            work()
        torch.cuda.current_stream().wait_stream(self._stream)


class GraphSteps(ABC):
    """The losses and gradients of a model's optimizer steps; nothing in them waits for the host.

    Attributes:
        sorts: Whether samples of similar length should share a micro-batch.
    """

    sorts = True

    def __init__(self, model: nn.Module, recordings: Recordings) -> None:
        """Record nothing yet.

        Args:
            model: On its device.
            recordings: Where work goes.
        """
        self._recordings = recordings
        self._parameters = list(model.parameters())
        self._gradients = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._loss = torch.zeros((), device=self._parameters[0].device)
        self._n_tokens = torch.ones_like(self._loss)
        self._rows: dict[tuple[int, int], Tensor] = {}

    @abstractmethod
    def draw(self, corpus: Corpus, epoch: Epoch) -> None:
        """Go on with another epoch."""

    @abstractmethod
    def begin(self) -> None:
        """Begin an optimizer step."""

    @abstractmethod
    def add(self, rows: NDArray[np.int64], *, seed: int) -> None:
        """Add a micro-batch.

        Args:
            rows: int64 (B,), of the epoch's samples.
            seed: Of what is drawn.
        """

    def finish(self, *, n_tokens: int) -> Tensor:
        """Give every parameter its gradient, and the loss summed over target tokens.

        Args:
            n_tokens: By which gradients are divided.
        """
        self._n_tokens.fill_(n_tokens)
        self._gather()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._loss.clone()

    def _do_pass(self, rows: Tensor, width: int, *, seed: int) -> None:
        """Do the pass of some samples, which reads them where the last ones of its shape were.

        Args:
            rows: int64, as many samples or bins of samples as its first size.
            width: Of their inputs.
            seed: Of what is drawn.
        """
        shape, device = (len(rows), width), self._loss.device
        own = self._rows.setdefault(shape, torch.empty_like(rows, device=device))
        pinned = rows.pin_memory() if device.type == "cuda" else rows  # read without waiting
        own.copy_(pinned, non_blocking=True)
        torch.manual_seed(seed)
        self._recordings.do(shape, partial(self._pass, *shape), keeps=False)

    @abstractmethod
    def _pass(self, n: int, width: int) -> None:
        """Add loss and gradients of the `n` samples or bins that lie in `_rows`; keep nothing."""

    @abstractmethod
    def _gather(self) -> None:
        """Let `_gradients` be those of all passes, divided by `_n_tokens`."""
