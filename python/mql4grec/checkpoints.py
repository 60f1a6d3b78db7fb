"""Checkpoints of trainings: one safetensors file each, so that its parts are of the same step.

This room knows files and tensors; what a training keeps, and which training it is, its room knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mql4grec.artifacts import atomic_path
from mql4grec.errors import ArtifactError


def write(path: Path, parts: Mapping[str, Mapping[str, Tensor]], header: Mapping[str, str]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: Of the file.
        parts: Tensors on any device, by the name of the part and their own; no part's name has a
            dot.
        header: Strings beside the tensors.
    """
    tensors = {
        f"{part}.{name}": tensor.contiguous()
        for part, named in parts.items()
        for name, tensor in named.items()
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, dict(header))


def read(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """Read what `write` wrote, on the CPU; a part without tensors is not there.

    Raises:
        ArtifactError: If it is no such file.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            for key in file.keys():  # noqa: SIM118 (no mapping)
                part, _, name = key.partition(".")
                parts.setdefault(part, {})[name] = file.get_tensor(key)
    except SafetensorError as err:
        raise ArtifactError(
            f"`{path}`: expected a checkpoint, got {err}; delete it to start anew"
        ) from err
    return parts, header


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Give all tensors of an optimizer, as NUMBER.NAME."""
    return {
        f"{number}.{name}": tensor
        for number, state in optimizer.state_dict()["state"].items()
        for name, tensor in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the tensors of `optimizer_state` back; its settings stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
