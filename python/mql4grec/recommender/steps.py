"""One optimizer step, the same result for any number of processes and any size of forward pass.

Every process adds the gradients of its share of the micro-batches, each divided by the number of
target tokens of the whole step, and one sum over processes gives exactly the mean over these
tokens. The model is not wrapped in DistributedDataParallel, which would average over processes and
needs a micro-batch in each of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from numpy.typing import NDArray
from torch import Tensor

from mql4grec import language
from mql4grec.config import Modality, Task, TrainingSettings
from mql4grec.errors import ConfigError
from mql4grec.language import Branches, Corpus, Samples, Windows
from mql4grec.recommender import causal
from mql4grec.recommender.causal import CausalModel
from mql4grec.recommender.causal_steps import CausalSteps, put_lookups
from mql4grec.recommender.choices import list_choices
from mql4grec.recommender.dropout import Dropout, make_dropout
from mql4grec.recommender.epochs import Epoch, Stage, cut, draw_epoch, dropout_seed
from mql4grec.recommender.graphs import Recordings
from mql4grec.recommender.model import Model
from mql4grec.recommender.network import Network, lay_out, multiplying_pays, summed_loss
from mql4grec.recommender.packing import pack
from mql4grec.recommender.padded import Pieces, compile_pieces
from mql4grec.recommender.t5_steps import WIDTHS, T5Steps, put_samples
from mql4grec.recommender.teacher import Teacher
from mql4grec.runtime import Journal, Runtime

UNSETTLED = 16  # steps between two looks at the loss, the clock and what to save
VALIDATED = 1024  # samples that a GPU validates together
MAX_GRAD_NORM = 1.0  # the default of the Trainer that the authors use


class GraphSteps(Protocol):
    """Optimizer steps of a GPU; nothing in them waits for the host."""

    def draw(self, corpus: Corpus, epoch: Epoch) -> None:
        """Go on with another epoch."""

    def begin(self) -> None:
        """Begin a step."""

    def add(self, rows: NDArray[np.int64], *, longest: int, seed: int) -> None:
        """Add a micro-batch.

        Args:
            rows: int64 (B,), of the epoch's samples.
            longest: Tokens, or items, of the longest input among them.
            seed: Of dropout.
        """

    def finish(self, *, n_tokens: int) -> Tensor:
        """Give every parameter its gradient, of the loss by the token; gives their sum."""


@dataclass(frozen=True)
class Loop:
    """What one training does not change.

    Attributes:
        model: On its device.
        optimizer: Over all its parameters.
        corpus: All shops joined.
        tasks: Those that it has samples of.
        validation: The validation samples.
        settings: Of this training.
        stage: "pretrain" or "finetune".
        folder: Where best model, checkpoint and history go.
        runtime: The machine.
        journal: Silent on all processes but the main one.
        processes: What accelerate knows of the launch.
        mark: Which training this is; a checkpoint must have the same.
        n_samples: Of one epoch, the same in all of them.
        rivals: Among which tokens a target token has its probability, as in `summed_loss`.
        words: Of all items, as `language.spell_items` gives them, for a decoder-only model.
        branches: What can follow each prefix, by modality and level, for a decoder-only model.
        teacher: Has a share in a decoder-only model's answers.
        graphs: Steps on a GPU whose kernels are launched together; None: one by one.
        recordings: Of such steps.
    """

    model: Model
    optimizer: torch.optim.AdamW
    corpus: Corpus
    tasks: tuple[Task, ...]
    validation: Epoch
    settings: TrainingSettings
    stage: Stage
    folder: Path
    runtime: Runtime
    journal: Journal
    processes: PartialState
    mark: str
    n_samples: int
    rivals: Tensor | None
    words: NDArray[np.int64]
    branches: dict[Modality, list[Branches]]
    teacher: Teacher | None
    graphs: GraphSteps | None = None
    recordings: Recordings | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the matrix products."""
        return torch.bfloat16 if self.runtime.precision == "bf16" else torch.float32

    @property
    def keeps_padding(self) -> bool:
        """On a GPU a little padding takes less time than attention's kernels for every length."""
        return self.model.device.type != "cpu"

    @property
    def n_unsettled(self) -> int:
        """Optimizer steps that a device may be behind; a CPU is not, and its steps can be long."""
        return 1 if self.model.device.type == "cpu" else UNSETTLED

    @property
    def n_steps(self) -> int:
        """Optimizer steps of one epoch; the last one may have fewer samples."""
        return -(-self.n_samples // self.settings.batch_size)

    def draw(self, number: int) -> Epoch:
        """Draw the samples of epoch `number`."""
        return draw_epoch(
            self.corpus,
            self.tasks,
            seed=self.runtime.seed,
            stage=self.stage,
            number=number,
            limit=self.settings.samples_per_epoch,
            whole=isinstance(self.model, CausalModel),
        )

    def cut(
        self, epoch: Epoch, rows: NDArray[np.int64], *, at_least: int = 1
    ) -> list[NDArray[np.int64]]:
        """Cut rows of an epoch into micro-batches, of `at_least` so many."""
        return cut(
            epoch,
            rows,
            micro_batch_size=max(self.settings.micro_batch_size, at_least),
            n_processes=self.processes.num_processes,
            widths=WIDTHS if self.graphs and self.tasks else (),
        )


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
            n_read=int(first.input_lengths.max()),
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
    n_tokens = int(epoch.target_lengths[rows].sum())
    micro_batches = loop.cut(epoch, rows)
    add = _add_gradients if loop.graphs is None else _add_by_graphs
    summed = add(loop, epoch, micro_batches, number=number, n_tokens=n_tokens)
    parameters = list(loop.model.parameters())
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
    total, n_expired = _sum_over_processes(loop, summed.item(), float(expired))
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
    laid_out = _lay_out(loop, epoch)
    sums = [torch.zeros_like(tensor) for tensor in laid_out.tensors()] if laid_out else []
    network = laid_out and laid_out.cast(loop.dtype)
    summed = torch.zeros((), device=loop.model.device)
    for rows, seed in _own(loop, micro_batches, number=number):
        loss = _loss(loop, network, epoch, rows, seed=seed)
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
    epoch: Epoch,
    micro_batches: list[NDArray[np.int64]],
    *,
    number: int,
    n_tokens: int,
) -> Tensor:
    """Do what `_add_gradients` does, by graphs."""
    assert loop.graphs is not None
    loop.graphs.begin()
    for rows, seed in _own(loop, micro_batches, number=number):
        loop.graphs.add(rows, longest=int(epoch.input_lengths[rows[0]]), seed=seed)
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


def _lay_out(loop: Loop, epoch: Epoch) -> Network | None:
    """Lay a T5's weights out for all samples of an epoch."""
    if isinstance(loop.model, CausalModel):
        return None
    longest = int(epoch.input_lengths.max()), int(epoch.target_lengths.max())
    return lay_out(
        loop.model,
        n_read=longest[0],
        n_written=longest[1],
        multiply_out=not loop.keeps_padding and multiplying_pays(loop.model),
    )


def _loss(
    loop: Loop,
    network: Network | None,
    epoch: Epoch,
    rows: NDArray[np.int64],
    *,
    seed: int | None = None,
) -> Tensor:
    """Give the summed loss of one micro-batch.

    Args:
        loop: The training.
        network: The T5, laid out.
        epoch: That the rows are of.
        rows: int64 (B,), of its samples.
        seed: Of dropout; None: nothing is dropped.
    """
    device, config = loop.model.device, loop.model.config
    dropout = None
    if seed is not None:
        dropout = make_dropout(config.dropout_rate, seed=seed, device=device)
    if isinstance(loop.model, CausalModel):
        return _causal_loss(loop, loop.model, epoch, rows, dropout=dropout, seed=seed)
    assert network is not None
    assert isinstance(epoch.samples, Samples)
    return summed_loss(
        network,
        pack(
            language.encode(loop.corpus, epoch.samples, rows),
            start=loop.model.config.decoder_start_token_id,
            device=device,
            keep_padding=loop.keeps_padding,
        ),
        dropout=dropout,
        rivals=loop.rivals,
    )


def _causal_loss(
    loop: Loop,
    model: CausalModel,
    epoch: Epoch,
    rows: NDArray[np.int64],
    *,
    dropout: Dropout | None,
    seed: int | None,
) -> Tensor:
    """Give the summed loss of some windows.

    In training a teacher has a share in every answer but those to a user's first item, and all of
    what could follow each window's end.
    """
    assert isinstance(epoch.samples, Windows)
    assert epoch.n_answered is not None
    windows, teacher = epoch.samples, None if seed is None else loop.teacher
    n_open = 0 if teacher is None else 1
    lengths = windows.lengths[rows] + n_open
    read = np.full_like(lengths, lengths.max()) if loop.keeps_padding else lengths
    events = windows.events(rows, n_beyond=read - windows.lengths[rows])
    ends = np.cumsum(read) - read + lengths
    left = np.repeat(ends, read) - np.arange(len(events))  # 1 of the last place, less of padding
    items = windows.items[np.minimum(events, len(windows.items) - 1)]
    items = targets = np.where(left > n_open, items, -1)  # an open place has padding
    asked = (left > 0) & (left <= np.repeat(epoch.n_answered[rows] + n_open, read))
    answers, shares = items[:, None], asked[:, None].astype(np.float32)
    if teacher is not None:
        assert seed is not None
        before = np.clip(events - 1, 0, len(teacher.items) - 1)
        generator = np.random.default_rng(seed)
        drawn = teacher.draw(before, generator)
        taught = np.where(left == 1, 1.0, teacher.share)
        taught *= (drawn >= 0) & (left < np.repeat(lengths, read))  # a first item follows none
        targets = np.where(generator.random(len(drawn)) < taught, drawn, items)
        answers = np.hstack([answers, teacher.items[before]])
        taught = taught[:, None].astype(np.float32)
        shares = shares * np.hstack([1 - taught, taught * teacher.shares[before]])
    choices = list_choices(
        model.config, loop.words, loop.branches, targets=targets, answers=answers, shares=shares
    )
    with torch.autocast(
        model.device.type, torch.bfloat16, enabled=loop.runtime.precision == "bf16"
    ):
        return causal.summed_loss(
            model,
            torch.from_numpy(loop.words[items]).to(model.device),
            read.tolist(),
            torch.from_numpy(loop.words[targets]).to(model.device),
            choices,
            dropout=dropout,
        )


@torch.no_grad()
def validation_loss(loop: Loop) -> float:
    """Give the mean loss per target token of the validation samples."""
    network = _lay_out(loop, loop.validation)
    network = network and network.cast(loop.dtype)
    rank, n_processes = loop.processes.process_index, loop.processes.num_processes
    at_least = VALIDATED if loop.keeps_padding else 1
    micro_batches = loop.cut(loop.validation, loop.validation.order, at_least=at_least)
    summed = torch.zeros((), dtype=torch.float64, device=loop.model.device)
    for rows in micro_batches[rank::n_processes]:
        summed += _loss(loop, network, loop.validation, rows)
    (total,) = _sum_over_processes(loop, summed.item())
    return total / int(loop.validation.target_lengths[loop.validation.order].sum())


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


def _sum_over_processes(loop: Loop, *values: float) -> tuple[float, ...]:
    """Add numbers of all processes; every process gets the same sums."""
    if loop.processes.num_processes == 1:
        return values
    own = torch.tensor(values, dtype=torch.float64, device=loop.model.device)
    return tuple(reduce(own, reduction="sum").tolist())
