"""Checkpoints of trainings: one safetensors file each, so that its parts are of the same step.

This room knows files and tensors; what a training keeps, and which training it is, its room knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mql4grec.artifacts import atomic_path, reading, require

DIGEST = "xxh3"  # a checkpoint has no stamp that could tell of damage


def write(path: Path, parts: Mapping[str, Mapping[str, Tensor]], header: Mapping[str, str]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: Of the file.
        parts: Tensors on any device, by the name of the part and their own; no part's name has a
            dot.
        header: Strings beside the tensors.
    """
    write_tensors(
        path,
        {f"{part}.{name}": own for part, named in parts.items() for name, own in named.items()},
        header,
    )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write tensors of any device and strings atomically, with a hash of the tensors."""
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(own, temporary, {**header, DIGEST: _digest(own)})


def read(path: Path, *, made_by: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """Read what `write` wrote, on the CPU; a part without tensors is not there.

    Args:
        path: Of the file.
        made_by: The command that makes it, for messages.

    Raises:
        ArtifactError: If it is no such file, or a damaged one.
    """
    tensors, header = read_tensors(path, made_by=made_by)
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = tensor
    return parts, header


def read_tensors(path: Path, *, made_by: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file whole, on the CPU: tensors, and the strings beside them.

    Raises:
        ArtifactError: If it is missing, no such file, or a damaged one.
    """
    require(path, made_by=made_by)
    with reading(path, made_by=made_by):
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
                header = file.metadata() or {}
        except SafetensorError as err:
            raise ValueError(str(err)) from err
        if header.get(DIGEST, digest := _digest(tensors)) != digest:
            raise ValueError(f"tensors of hash {digest} instead of {header[DIGEST]}")
    return tensors, header


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Hash names and bytes of tensors on the CPU, whatever their order."""
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        digest.update(name.encode())
        content: Any = tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(content)
    return digest.hexdigest()


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
