"""Where a training stands: enough to go on from there with the same result to the last bit.

A checkpoint is one safetensors file: weights, the best weights, optimizer moments, and the position
as JSON in its header. Dropout and order follow from the seed and the position.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mql4grec import artifacts, checkpoints
from mql4grec.errors import ArtifactError
from mql4grec.sasrec.network import SASRec

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Position:
    """Where a training stands.

    Attributes:
        epoch: Number of finished epochs.
        step: Optimizer steps done in the epoch under way.
        loss: Sum over the targets of these steps.
        n_targets: Number of these targets.
        seconds: Of training so far, interruptions not counted.
        best_epoch: Finished epochs when NDCG@10 of validation was highest; 0 before the first.
        best_ndcg: That NDCG@10.
        epochs: What is known of every finished epoch, for `history.json`.
        out_of_time: Whether `max_minutes` have ended the training.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    n_targets: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best_ndcg: float = -1.0
    epochs: tuple[dict[str, Any], ...] = ()
    out_of_time: bool = False


def weights(network: SASRec) -> dict[str, torch.Tensor]:
    """Copy the weights to the CPU."""
    return {
        name: tensor.detach().to("cpu", copy=True) for name, tensor in network.state_dict().items()
    }


def save(
    folder: Path,
    position: Position,
    *,
    network: SASRec,
    best: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    mark: str,
) -> None:
    """Write a checkpoint atomically; `mark` says which training it is of."""
    checkpoints.write(
        folder / CHECKPOINT,
        {
            "network": weights(network),
            "best": best,
            "optimizer": checkpoints.optimizer_state(optimizer),
        },
        {"mark": mark, "position": json.dumps(asdict(position))},
    )


def restore(
    folder: Path, *, network: SASRec, optimizer: torch.optim.Optimizer, mark: str
) -> tuple[Position, dict[str, torch.Tensor]]:
    """Read the checkpoint of a folder into network and optimizer; without one, start at the start.

    Returns:
        The position, and the best weights so far, {} before the first epoch's end.

    Raises:
        ArtifactError: If it cannot be read, or is of another training.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return Position(), {}
    parts, header = checkpoints.read(path, made_by="evaluate")
    with artifacts.reading(path, made_by="evaluate"):
        check_mark(path, found=header["mark"], mark=mark)
        network.load_state_dict(parts["network"])
        checkpoints.restore_optimizer(optimizer, parts.get("optimizer", {}))
        fields = json.loads(header["position"])
        return Position(**{**fields, "epochs": tuple(fields["epochs"])}), parts.get("best", {})


def check_mark(path: Path, *, found: str, mark: str) -> None:
    """Refuse to go on from the files of another training.

    Raises:
        ArtifactError: If the marks differ.
    """
    if found != mark:
        raise ArtifactError(
            f"`{path}`: expected the training {mark}, got {found}, with other settings or data; "
            "delete the folder to start anew"
        )
