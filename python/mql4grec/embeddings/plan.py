"""What there is to encode, in which order, and how an earlier result is known to be the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mql4grec.artifacts import fingerprint
from mql4grec.catalog import Catalog
from mql4grec.config import ImageEncoderSettings, Modality, TextEncoderSettings
from mql4grec.embeddings.store import Job
from mql4grec.runtime import Runtime

Rows = NDArray[np.int64]
Chosen = TextEncoderSettings | ImageEncoderSettings


def plan(
    catalog: Catalog, chosen: Chosen, *, modality: Modality, folder: Path, runtime: Runtime
) -> Job:
    """Cut the items that have something to encode into batches.

    Texts are batched by length, the longest first: little padding is computed that way, and a batch
    that is too large for the memory fails at once.
    """
    if modality == "text":
        bare = {row: "no text" for row, words in enumerate(catalog.texts) if not words.strip()}
        lengths = [len(words) for words in catalog.texts]
    else:
        bare = {row: "no picture given" for row, path in enumerate(catalog.images) if path is None}
        lengths = [0] * catalog.n_items
    order = np.argsort(-np.array(lengths, np.int64), kind="stable")  # (N,)
    given = order[~np.isin(order, list(bare))]
    encoder = short_name(chosen)
    return Job(
        folder=folder,
        modality=modality,
        file=f"{catalog.name}.emb-{encoder}.npy",
        mask=f"{catalog.name}.mask-{encoder}.npy",
        mark=_fingerprint(catalog, chosen, modality=modality, runtime=runtime),
        n_items=catalog.n_items,
        batches=[
            given[start : start + chosen.batch_size]
            for start in range(0, len(given), chosen.batch_size)
        ],
        bare=bare,
    )


def short_name(chosen: Chosen) -> str:
    """Name an encoder in a file name: the last part of a path or of a hub's name."""
    if chosen.kind == "hashing":
        return "hashing"
    last = re.split(r"[/:]", chosen.encoder.rstrip("/"))[-1]
    return re.sub(r"[^A-Za-z0-9._\-]", "-", last)


def _fingerprint(catalog: Catalog, chosen: Chosen, *, modality: Modality, runtime: Runtime) -> str:
    """Hash all that the vectors depend on, so that other inputs are never taken for done."""
    content: Sequence[Any] = catalog.texts
    if modality == "image":
        content = [_file_state(path) for path in catalog.images]
    places = [chosen.encoder]
    if isinstance(chosen, ImageEncoderSettings):
        places.append(chosen.weights)
    return fingerprint(
        chosen.model_dump(),
        [_file_state(Path(place)) for place in places if place],  # "" would be this folder
        catalog.item_ids,
        content,
        runtime.precision,
        runtime.seed,
    )


def _file_state(path: Path | None) -> list[Any]:
    """Tell a file, or a folder's files, from changed ones without reading them."""
    try:
        if path is None or not path.exists():
            return [str(path)]
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    except OSError as err:  # such as a name that is too long
        return [str(path), str(err.errno)]
