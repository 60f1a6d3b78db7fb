"""Pictures and texts to vectors.

This room knows encoders, and which items have nothing that can be encoded. It writes, per modality,

- `NAME.emb-ENCODER.npy`: float32 (N, D), row i = item i, zero where an item has nothing;
- `NAME.mask-ENCODER.npy`: bool (N,), False for those items;
- `MODALITY.json`: both names, and each item that is left out, with the reason.

An item without a picture is never given another's: it is left out and marked, or refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from mql4grec.artifacts import atomic_path, load_array, read_json, reading, write_json
from mql4grec.catalog import Catalog
from mql4grec.config import (
    EmbeddingsSettings,
    ImageEncoderSettings,
    Modality,
    TextEncoderSettings,
)
from mql4grec.embeddings import image, text
from mql4grec.embeddings.given import GivenEmbeddings, open_given, reader
from mql4grec.embeddings.pictures import Pictures, open_batches, thumbnail
from mql4grec.embeddings.plan import plan, short_name
from mql4grec.embeddings.store import (
    Encoded,
    Job,
    fill,
    finish,
    forget_others,
    is_finished,
    resume,
)
from mql4grec.errors import ArtifactError, ConfigError, DataError
from mql4grec.runtime import SILENT, Journal, Runtime

__all__ = ["Embeddings", "GivenEmbeddings", "embed", "load", "open_given", "reader", "thumbnail"]

Rows = NDArray[np.int64]
CPU_SLICE = 4  # pictures of one forward pass: the activations of more fall out of a CPU's caches
N_SHOWN = 5  # bad items in a message; all of them are in the JSON file


@dataclass(frozen=True)
class Embeddings:
    """Vectors of one shop's items in one modality.

    Attributes:
        dataset: Name of the shop.
        modality: "text" or "image".
        encoder: Name of what made them.
        vectors: float32 (N, D), memory-mapped; rows without a picture or text are zero.
        present: bool (N,), False where the item has nothing in this modality.
        recipe: Settings that make the encoder and its preprocessing again, in JSON values; None: it
            is not known how the vectors were made.
    """

    dataset: str
    modality: Modality
    encoder: str
    vectors: NDArray[np.float32]
    present: NDArray[np.bool_]
    recipe: Mapping[str, Any] | None = None


def embed(
    catalog: Catalog,
    settings: EmbeddingsSettings,
    *,
    modality: Modality,
    folder: Path,
    runtime: Runtime,
    journal: Journal = SILENT,
) -> Embeddings | None:
    """Encode one modality of all items; goes on where an interrupted call stopped.

    Args:
        catalog: The shop, of N items.
        settings: Encoders, and the policy for items that have nothing to encode.
        modality: Which of the two.
        folder: Where the files go.
        runtime: The machine.
        journal: Where progress is told.

    Returns:
        The vectors, or None if the settings say that this modality is not encoded.

    Raises:
        ConfigError: If the encoder is unknown, or named like that of the other modality.
        ArtifactError: If its weights are not to be had.
        DataError: If items have nothing and the policy is "error", or if none has anything.
    """
    chosen = settings.text if modality == "text" else settings.image
    if chosen.kind == "none":
        write_json(folder / f"{modality}.json", {"encoder": None})
        return None
    _check_names(settings)
    job = plan(catalog, chosen, modality=modality, folder=folder, runtime=runtime)
    if not is_finished(job, complete=settings.missing == "error"):
        if settings.missing == "error":
            _check_all(catalog, job, runtime=runtime, journal=journal)
        forget_others(job)
        faults = _encode(catalog, chosen, job=job, runtime=runtime, journal=journal)
        if settings.missing == "error" and faults:  # a picture that broke since it was checked
            _refuse(catalog, faults, job=job)
        _close(catalog, faults, job=job, chosen=chosen)
    finish(job)
    return load(folder, dataset=catalog.name, modality=modality)


def load(folder: Path, *, dataset: str, modality: Modality) -> Embeddings | None:
    """Open what `embed` wrote, memory-mapped.

    Args:
        folder: Where the files are.
        dataset: Name of the shop.
        modality: Which of the two.

    Returns:
        The vectors, or None if this modality was not encoded by choice.

    Raises:
        ArtifactError: If `embed` has not been run, or a file is missing or of another shape.
    """
    place = folder / f"{modality}.json"
    listing: Mapping[str, Any] = read_json(place, made_by="embed")
    with reading(place, made_by="embed"):
        if listing["encoder"] is None:
            return None
        vectors = load_array(folder / listing["file"], made_by="embed", mmap_mode="r")
        present = load_array(folder / listing["mask"], made_by="embed")
    if vectors.ndim != 2 or vectors.dtype != np.float32 or present.shape != vectors.shape[:1]:
        raise ArtifactError(
            f"`{folder / listing['file']}`: expected float32 (N, D) with a mask (N,), got "
            f"{vectors.dtype} {vectors.shape} with {present.shape}; delete the folder and run "
            "`mql4grec embed` again"
        )
    recipe = listing.get("recipe")  # listings of earlier versions have none
    return Embeddings(dataset, modality, listing["encoder"], vectors, present, recipe)


def _check_names(settings: EmbeddingsSettings) -> None:
    """Refuse two encoders whose files would have the same name."""
    names = [short_name(chosen) for chosen in (settings.text, settings.image)]
    if "none" not in (settings.text.kind, settings.image.kind) and names[0] == names[1]:
        raise ConfigError(
            "`embeddings.image.encoder`: expected another file name than that of "
            f"`embeddings.text.encoder`, got {names[1]!r} for both; rename one folder"
        )


def _check_all(catalog: Catalog, job: Job, *, runtime: Runtime, journal: Journal) -> None:
    """Refuse before the long work begins, with all faults together."""
    faults = dict(job.bare)
    if job.modality == "image":
        pictures = Pictures(catalog.images, transform=None)
        n_given = job.n_items - len(job.bare)
        with journal.track("checking pictures", total=n_given) as advance:
            for opened in open_batches(pictures, job.batches, n_workers=runtime.n_workers):
                faults |= opened.faults
                advance(len(opened.rows) + len(opened.faults))
    if faults:
        _refuse(catalog, faults, job=job)


def _encode(
    catalog: Catalog,
    chosen: TextEncoderSettings | ImageEncoderSettings,
    *,
    job: Job,
    runtime: Runtime,
    journal: Journal,
) -> dict[int, str]:
    """Encode what is left to do; gives row and reason of each item that has no vector."""

    def encode(batches: Sequence[Rows]) -> Iterator[Encoded]:
        if isinstance(chosen, TextEncoderSettings):
            return _encode_texts(catalog.texts, batches, chosen=chosen, runtime=runtime)
        return _encode_images(catalog.images, batches, chosen=chosen, runtime=runtime)

    n_done = sum(len(batch) for batch in job.batches[: resume(job)[0]])
    n_given = job.n_items - len(job.bare)
    start = time.monotonic()
    with journal.track(f"encoding {job.modality}s", total=n_given, done=n_done) as advance:
        found = fill(job, encode, checkpoint_seconds=runtime.checkpoint_seconds, advance=advance)
    journal.log(
        f"embeddings.{job.modality}",
        encoder=short_name(chosen),
        n_encoded=n_given - n_done,
        n_missing=len(job.bare) + len(found),
        seconds=round(time.monotonic() - start, 1),
    )
    return dict(job.bare) | found


def _encode_texts(
    texts: Sequence[str],
    batches: Sequence[Rows],
    *,
    chosen: TextEncoderSettings,
    runtime: Runtime,
) -> Iterator[Encoded]:
    if chosen.kind == "hashing":
        encode = text.hashing_encoder(runtime.seed)
    else:
        encode = text.load_encoder(
            chosen.encoder,
            max_tokens=chosen.max_tokens,
            device=runtime.torch_device,
            bf16=runtime.precision == "bf16",
        )
    for rows in batches:
        yield Encoded(rows, encode([texts[row] for row in rows]), {})


def _encode_images(
    paths: Sequence[Path | None],
    batches: Sequence[Rows],
    *,
    chosen: ImageEncoderSettings,
    runtime: Runtime,
) -> Iterator[Encoded]:
    device = runtime.torch_device
    assert chosen.kind != "none"  # the front door has returned
    encoder = image.load_encoder(
        chosen.kind, chosen.encoder, weights=chosen.weights, seed=runtime.seed, device=device
    )
    pictures = Pictures(paths, encoder.transform)
    for opened in open_batches(pictures, batches, n_workers=runtime.n_workers):
        vectors = np.zeros((0, 0), np.float32)
        if opened.pixels is not None:
            pixels = opened.pixels.to(device)  # (B, 3, H, W)
            bf16 = torch.autocast(device.type, torch.bfloat16, enabled=runtime.precision == "bf16")
            with torch.inference_mode(), bf16:
                size = CPU_SLICE if device.type == "cpu" else len(pixels)
                slices = [pixels[start : start + size] for start in range(0, len(pixels), size)]
                encoded = torch.cat([encoder.encode(part) for part in slices])  # (B, D)
                vectors = encoded.float().cpu().numpy()
        yield Encoded(opened.rows, vectors, opened.faults)


def _close(
    catalog: Catalog,
    faults: Mapping[int, str],
    *,
    job: Job,
    chosen: TextEncoderSettings | ImageEncoderSettings,
) -> None:
    """Write the mask, and the file that names all others."""
    if len(faults) == catalog.n_items:
        raise DataError(
            f"`{catalog.name}`: expected at least one {job.modality} that can be encoded, got none "
            f"of {catalog.n_items}; the first: {next(iter(faults.values()), 'no items')}; without "
            f"any, set `embeddings.{job.modality}.kind: none`"
        )
    present = np.ones(catalog.n_items, dtype=np.bool_)  # (N,)
    present[list(faults)] = False
    with atomic_path(job.folder / job.mask) as temporary:
        np.save(temporary, present)
    listing = {
        "encoder": short_name(chosen),
        "recipe": chosen.model_dump(mode="json", exclude={"batch_size"}),
        "file": job.file,
        "mask": job.mask,
        "mark": job.mark,
    }
    missing = _list(catalog, faults)
    write_json(job.listing, listing | {"n_missing": len(missing), "missing": missing})
    _refusals(job).unlink(missing_ok=True)


def _refusals(job: Job) -> Path:
    return job.folder / f"{job.modality}.refused.json"


def _refuse(catalog: Catalog, faults: Mapping[int, str], *, job: Job) -> NoReturn:
    missing = _list(catalog, faults)
    place = _refusals(job)
    write_json(place, {"n_missing": len(missing), "missing": missing})
    shown = "; ".join(f"{fault['item_id']!r} {fault['reason']}" for fault in missing[:N_SHOWN])
    raise DataError(
        f"`{catalog.name}`: expected a readable {job.modality} for each of {catalog.n_items} "
        f"items, {len(missing)} have none: {shown}; all are listed in `{place}`; mend them, or set "
        "`embeddings.missing: mark` to leave them out of this modality"
    )


def _list(catalog: Catalog, faults: Mapping[int, str]) -> list[dict[str, str]]:
    return [{"item_id": catalog.item_ids[row], "reason": faults[row]} for row in sorted(faults)]
