"""One optimizer step, the same result for any number of processes and any size of forward pass.

Every process adds the gradients of its share of the micro-batches, each divided by the number of
target tokens of the whole step, and one sum over processes gives exactly the mean over these
tokens. The model is not wrapped in DistributedDataParallel, which would average over processes and
needs a micro-batch in each of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from numpy.typing import NDArray
from torch import Tensor
from transformers import T5ForConditionalGeneration

from mql4grec import language
from mql4grec.config import Task, TrainingSettings
from mql4grec.errors import ConfigError
from mql4grec.language import Corpus, Samples
from mql4grec.recommender.epochs import Epoch, Stage, cut, draw_epoch, dropout_seed
from mql4grec.recommender.model import summed_loss
from mql4grec.runtime import Journal, Runtime

MAX_GRAD_NORM = 1.0  # the default of the Trainer that the authors use


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
    """

    model: T5ForConditionalGeneration
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
        )

    def cut(self, epoch: Epoch, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Cut rows of an epoch into micro-batches."""
        return cut(
            epoch,
            rows,
            micro_batch_size=self.settings.micro_batch_size,
            n_processes=self.processes.num_processes,
        )


def take_step(
    loop: Loop, epoch: Epoch, rows: NDArray[np.int64], *, number: int, seconds: float
) -> tuple[float, bool]:
    """Do one optimizer step.

    Returns:
        The loss summed over the target tokens of all processes, and whether time is up.
    """
    n_tokens = int(epoch.target_lengths[rows].sum())
    rank, n_processes = loop.processes.process_index, loop.processes.num_processes
    micro_batches = loop.cut(epoch, rows)
    summed = torch.zeros((), device=loop.model.device)
    loop.optimizer.zero_grad(set_to_none=True)
    for index in range(rank, len(micro_batches), n_processes):
        torch.manual_seed(
            dropout_seed(seed=loop.runtime.seed, stage=loop.stage, step=number, micro_batch=index)
        )
        loss = _loss(loop, epoch.samples, micro_batches[index])
        (loss / n_tokens).backward()
        summed += loss.detach()
    parameters = list(loop.model.parameters())
    _sum_gradients(parameters, n_processes=n_processes)
    torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
    for group in loop.optimizer.param_groups:
        group["lr"] = learning_rate(number, loop)
    loop.optimizer.step()
    limit = loop.settings.max_minutes
    expired = limit is not None and seconds >= 60 * limit
    total, n_expired = _sum_over_processes(loop, summed.item(), float(expired))
    if not math.isfinite(total):
        raise ConfigError(
            f"`recommender.{loop.stage}.lr`: expected a loss that is a number, got {total} at "
            f"optimizer step {number}; lower it, or set `runtime.precision` to fp32"
        )
    return total, n_expired > 0


def _loss(loop: Loop, samples: Samples, rows: NDArray[np.int64]) -> Tensor:
    """Give the summed loss of one micro-batch."""
    batch = language.encode(loop.corpus, samples, rows)
    device = loop.model.device
    with torch.autocast(device.type, torch.bfloat16, enabled=loop.runtime.precision == "bf16"):
        return summed_loss(
            loop.model,
            input_ids=torch.from_numpy(batch.input_ids).to(device),
            attention_mask=torch.from_numpy(batch.attention_mask).to(device),
            labels=torch.from_numpy(batch.labels).to(device),
            rivals=loop.rivals,
        )


@torch.no_grad()
def validation_loss(loop: Loop) -> float:
    """Give the mean loss per target token of the validation samples."""
    loop.model.eval()
    rank, n_processes = loop.processes.process_index, loop.processes.num_processes
    micro_batches = loop.cut(loop.validation, loop.validation.order)
    summed = torch.zeros((), dtype=torch.float64, device=loop.model.device)
    for rows in micro_batches[rank::n_processes]:
        summed += _loss(loop, loop.validation.samples, rows)
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
    model: T5ForConditionalGeneration, *, lr: float, weight_decay: float
) -> torch.optim.AdamW:
    """Make AdamW; as in the authors' Trainer, layer norms are not decayed."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr)


def _sum_gradients(parameters: list[torch.nn.Parameter], *, n_processes: int) -> None:
    """Add the gradients of all processes, in one message."""
    if n_processes == 1:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat: Tensor = reduce(torch.cat([g.flatten() for g in gradients]), reduction="sum")
    parts = torch.split(flat, [p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)


def _sum_over_processes(loop: Loop, *values: float) -> tuple[float, ...]:
    """Add numbers of all processes; every process gets the same sums."""
    if loop.processes.num_processes == 1:
        return values
    own = torch.tensor(values, dtype=torch.float64, device=loop.model.device)
    return tuple(reduce(own, reduction="sum").tolist())
