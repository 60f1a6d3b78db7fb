"""Where a training stands: enough to go on from there with the same result to the last bit.

A checkpoint is one safetensors file: weights, optimizer moments, and the position as JSON in its
header. Dropout and permutations follow from the seed and the position; no generator is kept.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mql4grec import artifacts, checkpoints
from mql4grec.errors import ArtifactError
from mql4grec.recommender.model import Model, set_weights, weights

NAME = "checkpoint.safetensors"
HISTORY = "history.json"


@dataclass(frozen=True)
class Position:
    """Where a training stands.

    Attributes:
        epoch: Number of finished epochs.
        step: Optimizer steps done in the epoch under way.
        loss: Sum over the target tokens of these steps.
        n_tokens: Number of these target tokens.
        seconds: Of training so far, interruptions not counted.
        best_epoch: Finished epochs when validation was best; 0 before the first.
        best_loss: The validation loss per target token then.
        best_ndcg: NDCG@10 of validation users then, if that is what decides.
        epochs: What is known of every finished epoch, for `history.json`.
        out_of_time: Whether `max_minutes` have ended the training.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    n_tokens: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best_loss: float = float("inf")
    best_ndcg: float = -1.0
    epochs: tuple[dict[str, Any], ...] = ()
    out_of_time: bool = False


def save(
    folder: Path,
    position: Position,
    *,
    model: Model,
    optimizer: torch.optim.Optimizer,
    mark: str,
) -> None:
    """Write a checkpoint atomically; `mark` says which training it is of."""
    checkpoints.write(
        folder / NAME,
        {"model": weights(model), "optimizer": checkpoints.optimizer_state(optimizer)},
        {"mark": mark, "position": json.dumps(asdict(position))},
    )


def restore(
    folder: Path,
    *,
    model: Model,
    optimizer: torch.optim.Optimizer,
    mark: str,
) -> Position:
    """Read the checkpoint of a folder into model and optimizer; without one, start at the start.

    Raises:
        ArtifactError: If it cannot be read, or is of another training.
    """
    path = folder / NAME
    if not path.exists():
        return Position()
    parts, header = checkpoints.read(path, made_by="finetune")
    with artifacts.reading(path, made_by="finetune"):
        check_mark(path, found=header["mark"], mark=mark)
        set_weights(model, parts["model"])
        checkpoints.restore_optimizer(optimizer, parts.get("optimizer", {}))
        fields = json.loads(header["position"])
        return Position(**{**fields, "epochs": tuple(fields["epochs"])})


def check_mark(path: Path, *, found: str, mark: str) -> None:
    """Refuse to go on from the files of another training.

    Raises:
        ArtifactError: If the marks differ.
    """
    if found != mark:
        raise ArtifactError(
            f"`{path}`: expected the training {mark}, got {found}, with other settings, data, "
            "first weights or teacher; delete the folder to start anew"
        )
