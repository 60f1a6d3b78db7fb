"""The state of a training: records, and how they are kept so that it can go on exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mql4grec import checkpoints
from mql4grec.artifacts import read_json, write_json
from mql4grec.config import TranslatorSettings
from mql4grec.errors import ArtifactError
from mql4grec.rqvae import RQVAE
from mql4grec.rqvae.upkeep import Upkeep
from mql4grec.runtime import Journal, Runtime
from mql4grec.translator import files
from mql4grec.translator.processes import Processes
from mql4grec.translator.table import Table

CRITERIA: tuple[Literal["collision_rate", "loss", "last"], ...] = (
    "collision_rate",
    "loss",
    "last",
)


@dataclass(frozen=True)
class Training:
    """What stays the same from the first step of a training to its last.

    Attributes:
        network: Trained in place.
        optimizer: Of the network.
        upkeep: Of its codebooks.
        table: The rows.
        settings: Of the training.
        runtime: Device, precision, seed.
        folder: For the checkpoint and the results.
        origin: What the training is about, in JSON values.
        journal: Told after every evaluation.
        processes: Those that train together.
    """

    network: RQVAE
    optimizer: torch.optim.Optimizer
    upkeep: Upkeep
    table: Table
    settings: TranslatorSettings
    runtime: Runtime
    folder: Path
    origin: dict[str, Any]
    journal: Journal
    processes: Processes

    @property
    def n_batches(self) -> int:
        """Steps of one pass over the rows; the last batch may be smaller."""
        return -(-self.table.n_rows // self.settings.batch_size)

    @property
    def n_steps(self) -> int:
        """Steps in all, those of the warm-up included."""
        return self.settings.warmup_steps + self.settings.epochs * self.n_batches


@dataclass(frozen=True)
class Best:
    """The best network so far by some criterion; the latest one, by "last".

    Attributes:
        record: Its evaluation.
        weights: State dict of that moment.
    """

    record: dict[str, Any]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Progress:
    """Where a training stands; the rest is in its network and its optimizer.

    Attributes:
        step: Steps done, those of the warm-up included.
        sums: float32 (3,), of the losses of the epoch so far.
        history: One record per evaluation.
        best: By each of `CRITERIA`; none before the first evaluation.
    """

    step: int
    sums: Tensor
    history: tuple[dict[str, Any], ...] = ()
    best: Mapping[str, Best] = field(default_factory=dict)


def save(training: Training, progress: Progress) -> None:
    """Write a checkpoint, and the best network so far for whoever wants to look at it."""
    save_results(training, progress, complete=False)
    tensors = {"sums": progress.sums, "random.cpu": torch.get_rng_state()}
    if training.runtime.device == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    parts: dict[str, Mapping[str, Tensor]] = {
        "network": training.network.state_dict(),
        "upkeep": training.upkeep.tensors(),
    }
    parts |= {f"best_{name}": best.weights for name, best in progress.best.items()}
    parts["optimizer"] = checkpoints.optimizer_state(training.optimizer)
    for prefix, part in parts.items():
        tensors |= {f"{prefix}.{name}": tensor for name, tensor in part.items()}
    values = {
        "origin": training.origin,
        "step": progress.step,
        "history": progress.history,
        "best": {name: best.record for name, best in progress.best.items()},
    }
    files.save_checkpoint(training.folder, tensors, values)


def resume(training: Training) -> Progress:
    """Put the network and the optimizer where the checkpoint left them; a fresh start without one.

    Raises:
        ArtifactError: If the checkpoint is broken, or one of another training.
    """
    device = training.processes.device
    found = files.load_checkpoint(training.folder)
    if found is None:
        return Progress(step=0, sums=torch.zeros(3, device=device))
    tensors, values = found
    check_origin(training.folder, values["origin"], training.origin)
    training.network.load_state_dict(_part(tensors, "network."))
    for name, tensor in training.upkeep.tensors().items():
        tensor.copy_(tensors[f"upkeep.{name}"])
    checkpoints.restore_optimizer(training.optimizer, _part(tensors, "optimizer."))
    if training.processes.is_main:  # with dropout the others go on from their own seeds
        torch.set_rng_state(tensors["random.cpu"])
        if training.runtime.device == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"])
    best = {}
    for name, record in values["best"].items():
        weights = _part(tensors, f"best_{name}.")
        best[name] = Best(record, {key: tensor.to(device) for key, tensor in weights.items()})
    return Progress(
        step=values["step"],
        sums=tensors["sums"].to(device),
        history=tuple(values["history"]),
        best=best,
    )


def save_results(training: Training, progress: Progress, *, complete: bool) -> None:
    """Write the history, and the best networks once there has been an evaluation."""
    write_json(training.folder / files.HISTORY, list(progress.history))
    for name in reversed(CRITERIA):  # what tells that all is there comes last
        if name not in progress.best:
            continue
        record = {
            "arguments": training.network.arguments(),
            "metrics": progress.best[name].record,
            "complete": complete,
            "origin": training.origin,
        }
        files.save_best(training.folder, name, progress.best[name].weights, record)


def is_finished(folder: Path, origin: dict[str, Any]) -> bool:
    """Tell whether `folder` holds the finished result of this very training.

    Raises:
        ArtifactError: If it holds the result of another one.
    """
    path = folder / f"{files.name_of(CRITERIA[0])}.json"
    if not path.exists():
        return False
    record = read_json(path, made_by=files.COMMAND)
    check_origin(folder, record.get("origin", {}), origin)
    return bool(record["complete"])


def check_origin(folder: Path, found: dict[str, Any], origin: dict[str, Any]) -> None:
    """Refuse to go on with, or to overwrite, a training of other settings or data.

    Raises:
        ArtifactError: Naming the first thing that differs.
    """
    old, new = (_flat(each) for each in (found, origin))
    for name, value in new.items():
        if old.get(name) != value:
            raise ArtifactError(
                f"`{folder}`: expected a training with `{name}` {value!r}, got one with "
                f"{old.get(name)!r}; delete the folder or choose another one"
            )


def _flat(origin: dict[str, Any]) -> dict[str, Any]:
    return {**origin, **origin.get("settings", {}), "settings": None}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
