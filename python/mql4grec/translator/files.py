"""Files of a translator: the best network, and the checkpoint of a training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mql4grec.artifacts import atomic_path, read_json, require, write_json
from mql4grec.errors import ArtifactError
from mql4grec.rqvae import RQVAE

BEST = "best_collision_model"
CHECKPOINT = "checkpoint.safetensors"
HISTORY = "history.json"
COMMAND = "train-translator"


def save_best(folder: Path, weights: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write `best_collision_model.safetensors`, and beside it all that rebuilds the network.

    Args:
        folder: Of the training.
        weights: State dict of the network.
        record: `arguments` of the network, `metrics`, and where it comes from.
    """
    with atomic_path(folder / f"{BEST}.safetensors") as temporary:
        save_file(dict(weights), temporary)
    write_json(folder / f"{BEST}.json", record)


def load(folder: Path) -> RQVAE:
    """Read the best network of a training, on the CPU, ready to translate.

    Raises:
        ArtifactError: If a file is missing or broken.
    """
    path = require(folder / f"{BEST}.safetensors", made_by=COMMAND)
    record = read_json(folder / f"{BEST}.json", made_by=COMMAND)
    weights, _ = read_tensors(path)
    try:
        network = RQVAE(**record["arguments"])
        network.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as err:
        raise ArtifactError(
            f"`{path}`: expected the weights that `{BEST}.json` beside it describes, got {err}; "
            f"delete `{folder}` and run `mql4grec {COMMAND}` again"
        ) from err
    return network.eval()


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and JSON values as one file, so that they can never belong to different steps.

    Args:
        folder: Of the training.
        tensors: On any device.
        state: What JSON can hold.
    """
    with atomic_path(folder / CHECKPOINT) as temporary:
        save_file(dict(tensors), temporary, metadata={"state": json.dumps(state)})


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read what `save_checkpoint` wrote; None if there is no checkpoint."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    tensors, metadata = read_tensors(path)
    return tensors, json.loads(metadata["state"])


def drop_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a training that has ended."""
    (folder / CHECKPOINT).unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file whole, on the CPU.

    Returns:
        Tensors and metadata.

    Raises:
        ArtifactError: If it is not such a file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no mapping)
    except SafetensorError as err:
        raise ArtifactError(
            f"`{path}`: expected a safetensors file, got {err}; delete it and run "
            f"`mql4grec {COMMAND}` again"
        ) from err
