"""One optimizer step, the same result for any number of processes and any size of forward pass.

Every process adds the gradients of its share of the micro-batches, each divided by the number of
target tokens of the whole step, and one sum over processes gives exactly the mean over these
tokens. The model is not wrapped in DistributedDataParallel, which would average over processes and
needs a micro-batch in each of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from accelerate.utils import reduce
from numpy.typing import NDArray
from torch import Tensor

from mql4grec import language
from mql4grec.errors import ConfigError
from mql4grec.language import Samples
from mql4grec.recommender.binned import Pieces, compile_pieces
from mql4grec.recommender.bins import put_samples
from mql4grec.recommender.causal import CausalModel
from mql4grec.recommender.causal_steps import CausalSteps, put_lookups
from mql4grec.recommender.epochs import Epoch, dropout_seed
from mql4grec.recommender.graphs import GraphSteps, Recordings
from mql4grec.recommender.loop import Loop
from mql4grec.recommender.losses import lay_out_for, loss_of
from mql4grec.recommender.model import Model
from mql4grec.recommender.t5_steps import T5Steps

MAX_GRAD_NORM = 1.0  # the default of the Trainer that the authors use


def with_graphs(
    loop: Loop, first: Epoch, recordings: Recordings, *, pieces: Pieces | None = None
) -> Loop:
    """Let a training's steps be graphs.

    Args:
        loop: A training without.
        first: Its first epoch.
        recordings: Where work goes.
        pieces: Of a T5's pass; None: to be compiled.
    """
    graphs: GraphSteps
    if isinstance(loop.model, CausalModel):
        lookups = put_lookups(
            first, loop.words, loop.branches, loop.teacher, device=loop.model.device
        )
        bf16 = loop.runtime.precision == "bf16"
        graphs = CausalSteps(loop.model, lookups, bf16=bf16, recordings=recordings)
    else:
        assert isinstance(first.samples, Samples)
        graphs = T5Steps(
            loop.model,
            put_samples(loop.corpus, first.samples, loop.tasks, device=loop.model.device),
            n_read=language.most_tokens(loop.corpus, loop.tasks)[0],
            dtype=loop.dtype,
            pieces=pieces or compile_pieces(),
            recordings=recordings,
            rivals=loop.rivals,
        )
    settings = loop.settings
    optimizer = make_optimizer(
        loop.model, lr=settings.lr, weight_decay=settings.weight_decay, capturable=True
    )
    return replace(loop, optimizer=optimizer, graphs=graphs, recordings=recordings)


def take_step(loop: Loop, epoch: Epoch, rows: NDArray[np.int64], *, number: int) -> Tensor:
    """Do one optimizer step; nothing in it waits for the device.

    Returns:
        This process's part of the loss, summed over target tokens, float64 on the device.
    """
    n_tokens = max(int(epoch.target_lengths[rows].sum()), 1)  # their items may all lack codes
    micro_batches = loop.cut(epoch, rows, is_sorted=loop.graphs is None or loop.graphs.sorts)
    add = _add_gradients if loop.graphs is None else _add_by_graphs
    summed = add(loop, epoch, micro_batches, number=number, n_tokens=n_tokens)
    # The optimizer has them all; the model looks for them in all its parts, which takes longer.
    parameters = [each for group in loop.optimizer.param_groups for each in group["params"]]
    _sum_gradients(parameters, n_processes=loop.processes.num_processes)
    _update(loop, parameters, lr=learning_rate(number, loop))
    return summed.double()


def _update(loop: Loop, parameters: list[torch.nn.Parameter], *, lr: float) -> None:
    """Clip the gradients and change the weights."""

    def work() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        loop.optimizer.step()

    if loop.recordings is None:
        for group in loop.optimizer.param_groups:
            group["lr"] = lr
        work()
        return
    for group in loop.optimizer.param_groups:
        group["lr"].fill_(lr)
    loop.recordings.do("update", work)


def settle(loop: Loop, summed: Tensor, *, number: int, seconds: float) -> tuple[float, bool]:
    """Wait for the steps so far.

    Args:
        loop: The training.
        summed: Their losses, of this process.
        number: Of the last of them.
        seconds: Of training so far.

    Returns:
        The loss of all processes, and whether time is up.

    Raises:
        ConfigError: If the loss is no number.
    """
    limit = loop.settings.max_minutes
    expired = limit is not None and seconds >= 60 * limit
    total, n_expired = loop.total(summed.item(), float(expired))
    if not math.isfinite(total):
        raise ConfigError(
            f"`recommender.{loop.stage}.lr`: expected a loss that is a number, got {total} at "
            f"optimizer step {number}; lower it, or set `runtime.precision` to fp32"
        )
    return total, n_expired > 0


def _add_gradients(
    loop: Loop,
    epoch: Epoch,
    micro_batches: list[NDArray[np.int64]],
    *,
    number: int,
    n_tokens: int,
) -> Tensor:
    """Give every parameter the gradient of this process's micro-batches, a part of the step's.

    A T5's weights are laid out and cast once for all of them. Their gradients are added up in
    float32, and go back to the parameters by way of that layout.

    Returns:
        The summed loss of these micro-batches.
    """
    loop.optimizer.zero_grad(set_to_none=True)
    laid_out = lay_out_for(loop, epoch)
    sums = [torch.zeros_like(tensor) for tensor in laid_out.tensors()] if laid_out else []
    network = laid_out and laid_out.cast(loop.dtype)
    summed = torch.zeros((), device=loop.model.device)
    for rows, seed in _own(loop, micro_batches, number=number):
        loss = loss_of(loop, network, epoch, rows, seed=seed)
        if network is None:
            (loss / n_tokens).backward()
        else:
            gradients = torch.autograd.grad(loss / n_tokens, network.tensors())
            for total, gradient in zip(sums, gradients, strict=True):
                total.add_(gradient)
        summed += loss.detach()
    if laid_out is not None:
        torch.autograd.backward(laid_out.tensors(), sums)
    return summed


def _add_by_graphs(
    loop: Loop,
    _: Epoch,
    micro_batches: list[NDArray[np.int64]],
    *,
    number: int,
    n_tokens: int,
) -> Tensor:
    """Do what `_add_gradients` does, by graphs."""
    assert loop.graphs is not None
    loop.graphs.begin()
    for rows, seed in _own(loop, micro_batches, number=number):
        loop.graphs.add(rows, seed=seed)
    return loop.graphs.finish(n_tokens=n_tokens)


def _own(
    loop: Loop, micro_batches: list[NDArray[np.int64]], *, number: int
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Give the micro-batches of this process, each with its seed of dropout."""
    rank, n_processes = loop.processes.process_index, loop.processes.num_processes
    for index in range(rank, len(micro_batches), n_processes):
        yield (
            micro_batches[index],
            dropout_seed(seed=loop.runtime.seed, stage=loop.stage, step=number, micro_batch=index),
        )


def learning_rate(number: int, loop: Loop) -> float:
    """Give the learning rate of an optimizer step: a linear warm-up, then cosine or constant."""
    settings, total = loop.settings, loop.n_steps * loop.settings.epochs
    warmup = math.ceil(settings.warmup * total)
    if number < warmup:
        return settings.lr * (number + 1) / warmup
    if settings.schedule == "constant":
        return settings.lr
    done = (number - warmup) / max(total - warmup, 1)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(
    model: Model, *, lr: float, weight_decay: float, capturable: bool = False
) -> torch.optim.AdamW:
    """Make AdamW; as in the authors' Trainer, layer norms are not decayed.

    Args:
        model: What it changes.
        lr: Learning rate.
        weight_decay: Of matrices.
        capturable: So that a graph can have it, which reads the learning rate from a tensor.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    if capturable:
        rate = torch.tensor(lr, device=model.device)
        return torch.optim.AdamW(groups, lr=rate, fused=True, capturable=True)
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def _sum_gradients(parameters: list[torch.nn.Parameter], *, n_processes: int) -> None:
    """Add the gradients of all processes, in one message."""
    if n_processes == 1:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat: Tensor = reduce(torch.cat([g.flatten() for g in gradients]), reduction="sum")
    parts = torch.split(flat, [p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        if parameter.grad is None:
            parameter.grad = part.view_as(parameter)
        else:
            parameter.grad.copy_(part.view_as(parameter))  # where a graph looks for it
