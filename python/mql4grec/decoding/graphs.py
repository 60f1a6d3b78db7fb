"""Beam search whose kernels are launched together, as a CUDA graph.

A small batch is a thousand small kernels, and launching them one by one takes longer than they run.
A graph has fixed shapes and addresses: inputs are filled up to a few lengths, and written to where
the graph reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from mql4grec.decoding.beams import Found

LENGTH_STEP = 16  # tokens; there are as many graphs as lengths


class BatchSearch(Protocol):
    """Beam search for a batch, all else being laid down."""

    def __call__(self, *, input_ids: Tensor, attention_mask: Tensor) -> Found:
        """Search for B users with T tokens, int64 (B, T) each, on the device."""


@dataclass(frozen=True)
class Recording:
    """A search that was recorded.

    Attributes:
        input_ids: Where it reads, int64 (B, T).
        attention_mask: The same.
        found: What it writes, the same tensors each time.
        replay: Do it again.
    """

    input_ids: Tensor
    attention_mask: Tensor
    found: Found
    replay: Callable[[], None]


Record = Callable[[BatchSearch, Tensor, Tensor], Recording]


def record_graph(search: BatchSearch, input_ids: Tensor, attention_mask: Tensor) -> Recording:
    """Record a search on the current CUDA device.

    Args:
        search: Waits for the host nowhere.
        input_ids: int64 (B, T), a batch that may be written over later.
        attention_mask: The same.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        search(
            input_ids=input_ids, attention_mask=attention_mask
        )  # libraries take their memory at the first use
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = search(input_ids=input_ids, attention_mask=attention_mask)
    return Recording(input_ids, attention_mask, found, graph.replay)


class Graphs:
    """A search that is recorded for each shape which comes a second time."""

    def __init__(self, search: BatchSearch, *, record: Record = record_graph) -> None:
        """Begin with nothing recorded.

        Args:
            search: Waits for the host nowhere.
            record: How it is recorded.
        """
        self._search = search
        self._record = record
        self._seen: set[torch.Size] = set()
        self._recordings: dict[torch.Size, Recording] = {}

    def __call__(self, *, input_ids: Tensor, attention_mask: Tensor) -> Found:
        """Search for a batch; what is found stays until the next call.

        Args:
            input_ids: int64 (B, T), on the device.
            attention_mask: The same.
        """
        missing = -input_ids.shape[1] % LENGTH_STEP
        input_ids = functional.pad(input_ids, (0, missing))
        attention_mask = functional.pad(attention_mask, (0, missing))
        shape = input_ids.shape
        if shape not in self._seen:
            self._seen.add(shape)
            return self._search(input_ids=input_ids, attention_mask=attention_mask)
        if shape not in self._recordings:
            inputs = (input_ids.clone(), attention_mask.clone())
            self._recordings[shape] = self._record(self._search, *inputs)
        recording = self._recordings[shape]
        recording.input_ids.copy_(input_ids)
        recording.attention_mask.copy_(attention_mask)
        recording.replay()
        return recording.found
