"""Files of a translator: the best networks, and the checkpoint of a training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from mql4grec.artifacts import atomic_path, read_json, reading, write_json
from mql4grec.checkpoints import read_tensors, write_tensors
from mql4grec.errors import ArtifactError
from mql4grec.rqvae import RQVAE

CHECKPOINT = "checkpoint.safetensors"
HISTORY = "history.json"
COMMAND = "train-translator"


def name_of(criterion: str) -> str:
    """Name the files of the network that is best by a criterion; by "last", of the last one."""
    names = {"collision_rate": "best_collision_model", "loss": "best_loss_model"}
    return names.get(criterion, "last_model")


def save_best(
    folder: Path, criterion: str, weights: Mapping[str, Tensor], record: Mapping[str, Any]
) -> None:
    """Write a network as safetensors, and beside it as JSON all that rebuilds it.

    Both together are what another machine needs.

    Args:
        folder: Of the training.
        criterion: What it is the best by.
        weights: State dict of the network.
        record: `arguments` of the network, `metrics`, and where it comes from; the weights' hash is
            added.
    """
    path = folder / f"{name_of(criterion)}.safetensors"
    with atomic_path(path) as temporary:
        save_file(dict(weights), temporary)
    write_json(path.with_suffix(".json"), {**record, "sha256": _hash(path)})


def load(folder: Path) -> RQVAE:
    """Read the network that a training kept, on the CPU, ready to translate.

    Raises:
        ArtifactError: If a file is missing or broken, or the weights are not those that the record
            beside them is of.
    """
    usual = folder / f"{name_of('collision_rate')}.json"
    first = next(iter(sorted(folder.glob("*_model.json"))), usual)  # all say which one is kept
    with reading(first, made_by=COMMAND):
        origin = read_json(first, made_by=COMMAND).get("origin", {})
        kept = origin.get("settings", {}).get("keep", "collision_rate")
    path = folder / f"{name_of(kept)}.safetensors"
    record = read_json(path.with_suffix(".json"), made_by=COMMAND)
    weights, _ = read_tensors(path, made_by=COMMAND)
    found = _hash(path)
    if record.get("sha256", found) != found:
        raise ArtifactError(
            f"`{path}`: expected the weights of `{path.stem}.json` beside it, got others, by their "
            f"hash; copy both files again, or run `mql4grec {COMMAND}` again"
        )
    try:
        network = RQVAE(**record["arguments"])
        network.load_state_dict(weights)
    except (LookupError, TypeError, ValueError, RuntimeError) as err:
        raise ArtifactError(
            f"`{path}`: expected the weights that `{path.stem}.json` beside it describes, got "
            f"{err}; delete `{folder}` and run `mql4grec {COMMAND}` again"
        ) from err
    return network.eval()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and JSON values as one file, so that they can never belong to different steps.

    Args:
        folder: Of the training.
        tensors: On any device.
        state: What JSON can hold.
    """
    write_tensors(folder / CHECKPOINT, tensors, {"state": json.dumps(state)})


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read what `save_checkpoint` wrote; None if there is no checkpoint."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    tensors, header = read_tensors(path, made_by=COMMAND)
    with reading(path, made_by=COMMAND):
        return tensors, json.loads(header["state"])


def drop_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a training that has ended."""
    (folder / CHECKPOINT).unlink(missing_ok=True)
