"""Work on a GPU that is recorded as CUDA graphs, so that its kernels are launched together.

Small models are thousands of small kernels a step, and launching them one by one takes a host
longer than they run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

Work = Callable[[], None]
Record = Callable[[Work], Work]


def record_graph(work: Work) -> Work:
    """Record work on the current CUDA device; gives what does it.

    Args:
        work: Waits for the host nowhere, and reads and writes the same tensors each time.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


class Recordings:
    """Work that is recorded when it is done for the second time.

    The first time, kernels are compiled and libraries take their memory.

    Attributes:
        seconds: That first and second times took so far.
    """

    def __init__(self, record: Record = record_graph) -> None:
        """Begin with nothing recorded; `record` says how that is done."""
        self._record = record
        self._done: set[Hashable] = set()
        self._recorded: dict[Hashable, Work] = {}
        self.seconds = 0.0

    def do(self, name: Hashable, work: Work) -> None:
        """Do the work of this name."""
        if name in self._recorded:
            self._recorded[name]()
            return
        began = time.monotonic()
        if name in self._done:
            self._recorded[name] = self._record(work)
            self._recorded[name]()
        else:
            self._done.add(name)
            _aside(work)
        self.seconds += time.monotonic() - began


def _aside(work: Work) -> None:
    """Do work on a stream of its own, as a recording does."""
    if not torch.cuda.is_available():
        work()
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Put a tensor where a GPU reads it without waiting."""
    return tensor.pin_memory() if device.type == "cuda" else tensor
