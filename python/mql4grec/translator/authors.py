"""RQ-VAE checkpoints of others: `.pth` files of the authors' code and of its relatives."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mql4grec.errors import ArtifactError
from mql4grec.rqvae import RQVAE
from mql4grec.translator.pickles import as_protocol_2

LINEAR = re.compile(r"(encoder|decoder)\.mlp_layers\.(\d+)\.(weight|bias)")
CODEBOOK = re.compile(r"rq\.vq_layers\.(\d+)\.embedding\.weight")


def load_authors(path: Path) -> RQVAE:
    """Read an RQ-VAE that the authors' code has trained; LC-Rec, LETTER and TIGER share its names.

    Sizes come from the shapes of the weights. Nothing in the file is run: besides tensors and plain
    values only the `argparse.Namespace` is let in that such files hold.

    Args:
        path: `best_collision_model.pth` or a sibling: a dict with `state_dict` and `args`.

    Returns:
        The network on the CPU, ready to translate.

    Raises:
        ArtifactError: If the file is missing, asks for code to be run, or holds another network.
    """
    content = _read(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        raise ArtifactError(
            f"`{path}`: expected a dict with `state_dict`, got {type(content).__name__}; give the "
            "file that the authors' code saved as `best_collision_model.pth`"
        )
    try:
        weights = _rename(content["state_dict"])
        network = RQVAE(**_sizes(weights), **_training_values(content.get("args"), weights))
        network.load_state_dict(weights)
    except (KeyError, RuntimeError) as err:
        raise ArtifactError(
            f"`{path}`: expected the weights of an RQ-VAE, named `encoder.mlp_layers.*`, "
            f"`decoder.mlp_layers.*` and `rq.vq_layers.*.embedding.weight`, got {err}"
        ) from err
    return network.eval()


def _read(path: Path) -> object:
    if not path.is_file():
        raise ArtifactError(f"`{path}`: no such file; correct the path")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(as_protocol_2(path), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, ValueError) as err:
        message = str(err)
        asked = re.search(r"GLOBAL (\S+)", message) or re.search(r"error:\s+(.+)", message)
        raise ArtifactError(
            f"`{path}`: expected tensors and plain values only, got "
            f"`{asked[1] if asked else message}`; nothing of it was run. If you trust the file, "
            "open it yourself and save `{'state_dict': ...}` alone"
        ) from err


def _rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the authors' weights our names; the numbers of their modules count dropouts too."""
    linears: dict[str, list[int]] = {"encoder": [], "decoder": []}
    for name in state:
        if found := LINEAR.fullmatch(name):
            linears[found[1]].append(int(found[2]))
        elif not CODEBOOK.fullmatch(name):
            raise KeyError(f"the unknown weight `{name}`")
    places = {side: sorted(set(numbers)) for side, numbers in linears.items()}
    weights = {}
    for name, tensor in state.items():
        if found := LINEAR.fullmatch(name):
            place = 2 * places[found[1]].index(int(found[2]))  # ours: a ReLU after every layer
            weights[f"{found[1]}.{place}.{found[3]}"] = tensor.float()
        elif found := CODEBOOK.fullmatch(name):
            weights[f"codebooks.{found[1]}"] = tensor.float()
    return weights


def _sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    encoder = [name for name in weights if re.fullmatch(r"encoder\.\d+\.weight", name)]
    widths = [len(weights[f"encoder.{2 * place}.weight"]) for place in range(len(encoder))]
    levels = [name for name in weights if name.startswith("codebooks.")]
    return {
        "in_dim": weights["encoder.0.weight"].shape[1],
        "layers": widths[:-1],
        "e_dim": widths[-1],
        "num_emb_list": [len(weights[f"codebooks.{level}"]) for level in range(len(levels))],
    }


def _training_values(args: object, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Take from `args` what only a further training needs; what is not there has our default."""
    given = dict(args) if isinstance(args, Mapping) else vars(args or argparse.Namespace())
    n_levels = sum(name.startswith("codebooks.") for name in weights)
    epsilons = given.get("sk_epsilons")
    fits = isinstance(epsilons, list | tuple) and len(epsilons) == n_levels
    values = {
        name: given[name] for name in ("sk_iters", "beta", "quant_loss_weight") if name in given
    }
    return {"sk_epsilons": epsilons if fits else [0.0] * n_levels, **values}
