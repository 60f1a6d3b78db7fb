"""One optimizer step of a translator; on a GPU, if asked for, launched together as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mql4grec.rqvae import upkeep
from mql4grec.translator.state import Training

N_WARM = 3  # steps of each kind before a recording: libraries take their memory at first use


@dataclass(frozen=True)
class Recording:
    """A step that was recorded.

    Attributes:
        batch: Where it reads, float32 (B, D).
        losses: What it writes, float32 (3,), the same tensor each time.
        replay: Do it again, on what lies in `batch`.
    """

    batch: Tensor
    losses: Tensor
    replay: Callable[[], None]


Record = Callable[[Callable[[Tensor], Tensor], Tensor], Recording]


def record_graph(step: Callable[[Tensor], Tensor], batch: Tensor) -> Recording:
    """Record a step on the current CUDA device; nothing is computed yet.

    Args:
        step: Gives the losses (3,) of a batch (B, D), and waits for the host nowhere.
        batch: May be written over later.
    """
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        losses = step(batch)
    return Recording(batch, losses, graph.replay)


class Steps:
    """The steps of one training."""

    def __init__(self, training: Training, *, graphs: bool, record: Record = record_graph) -> None:
        """Begin with nothing recorded.

        Args:
            training: Its network, optimizer and upkeep are changed by each step.
            graphs: Record whole batches after a few steps of each kind.
            record: How that is done.
        """
        self._training = training
        self._record = record if graphs else None
        self._n_taken = {True: 0, False: 0}
        self._recordings: dict[bool, Recording] = {}

    def take(self, batch: Tensor, *, n_rows: int, quantize: bool) -> Tensor:
        """Take a step; waits for the host nowhere.

        Args:
            batch: This process's rows, float32 (R, D).
            n_rows: B, the rows of all processes.
            quantize: False in the warm-up: a plain autoencoder.

        Returns:
            Losses of the whole batch (3,); they stay until the next call.
        """
        step = partial(take_step, self._training, n_rows=n_rows, quantize=quantize)
        if self._record is None or n_rows < self._training.settings.batch_size:
            return step(batch)
        self._n_taken[quantize] += 1
        if self._n_taken[quantize] <= N_WARM:
            return self._aside(step, batch)
        if quantize not in self._recordings:
            self._recordings[quantize] = self._record(step, batch.clone())
        recording = self._recordings[quantize]
        recording.batch.copy_(batch)
        recording.replay()
        return recording.losses

    def _aside(self, step: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        """Take a step on a stream of its own, as a recording does."""
        if batch.device.type != "cuda":
            return step(batch)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            losses = step(batch)
        torch.cuda.current_stream().wait_stream(stream)
        return losses


def take_step(training: Training, batch: Tensor, *, n_rows: int, quantize: bool) -> Tensor:
    """Take one optimizer step; gives the losses (3,) of the whole batch.

    Args:
        training: Is changed.
        batch: This process's rows, float32 (R, D).
        n_rows: B, the rows of all processes.
        quantize: False: a plain autoencoder.
    """
    network, settings = training.network.train(), training.settings
    bf16 = training.runtime.precision == "bf16"
    training.optimizer.zero_grad()
    with torch.autocast(batch.device.type, dtype=torch.bfloat16, enabled=bf16):
        latents = network.encoder(batch).float()  # (R, E)
        own = everyone = codes = None
        if quantize:
            everyone = training.processes.put_together(latents.detach(), n_rows=n_rows)
            with torch.autocast(batch.device.type, enabled=False):
                codes = network.assign(everyone)  # (B, L)
            own = codes[training.processes.share(n_rows)]
        losses = network.losses(batch, latents, own, n_rows=n_rows)
    losses.total.backward()
    summed = training.processes.add_gradients(
        list(network.parameters()), torch.stack(losses).detach()
    )
    training.optimizer.step()
    averaged = settings.codebooks == "average"
    if everyone is not None and codes is not None and (averaged or settings.restart_after):
        upkeep.keep_up(
            training.upkeep,
            list(network.codebooks),
            everyone,
            codes,
            decay=settings.average_decay if averaged else None,
            restart_after=settings.restart_after,
        )
    return summed
