"""A trained translator at work: latents and nearest codes of one shop's items."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mql4grec.artifacts import fingerprint
from mql4grec.config import Modality
from mql4grec.embeddings import Embeddings, GivenEmbeddings
from mql4grec.rqvae import RQVAE
from mql4grec.runtime import SILENT, Journal, Runtime
from mql4grec.translator import results
from mql4grec.translator.prefetch import prefetch
from mql4grec.translator.results import Done
from mql4grec.translator.rows import list_blocks, open_rows

Precision = Literal["fp32", "tf32", "bf16"]

# Sizes of matrices decide about the last bits of a product, so blocks depend on nothing but the
# network's width: never on the memory, nor on where an interrupted call stopped.
ROWS_AT_ONCE = 16_384
WIDE = 2048  # of a wider network a block has fewer rows, so that it takes no more memory
BLOCKS_PER_NOTE = 16  # 262,144 rows
N_READERS = 4


@dataclass(frozen=True)
class Translation:
    """What a translator makes of one shop's embeddings; collisions not yet resolved.

    Attributes:
        dataset: Name of the shop.
        modality: "text" or "image".
        codes: uint16 (N, L), nearest code of every level; rows not present are zero. May be a
            memory-mapped file, read-only.
        latents: float32 (N, E); rows not present are zero. The same.
        codebooks: One float32 (K_l, E) per level; levels may differ in K.
        present: bool (N,).
        quantisation_error: Mean over the present items of the squared error of their codes'
            vectors together; None if it was not computed.
    """

    dataset: str
    modality: Modality
    codes: NDArray[np.uint16]
    latents: NDArray[np.float32]
    codebooks: tuple[NDArray[np.float32], ...]
    present: NDArray[np.bool_]
    quantisation_error: float | None = None


def default_memory(n_items: int) -> int:
    """Give the most bytes that generating codes may take if nobody says: 1 GiB + 24 per item."""
    return (1 << 30) + 24 * n_items


def least_memory(n_items: int) -> int:
    """Give the bytes that generating codes takes at least: 512 MiB + 24 per item."""
    return (1 << 29) + 24 * n_items


def translate(
    network: RQVAE,
    embeddings: Embeddings | GivenEmbeddings,
    *,
    runtime: Runtime,
    folder: Path | None = None,
    journal: Journal = SILENT,
    precision: Precision = "fp32",
    max_memory: int | None = None,
) -> Translation:
    """Find the latent and the nearest code at every level of each item that is present.

    It runs in float32 whatever the precision of the training, so that codes do not depend on it.
    With a folder, a call that was cut off goes on where it last noted how far it was, and gives
    the very same result as one that was not.

    Args:
        network: A trained RQ-VAE of L levels; it is moved to the runtime's device.
        embeddings: Vectors of one modality, (N, D).
        runtime: Gives the device.
        folder: Where codes and latents are written, to be memory-mapped; None: they are in memory.
        journal: Gets a progress bar.
        precision: Of the encoder's products: "tf32" (on a GPU) and "bf16" are faster and give other
            codes to some items.
        max_memory: Bytes that this may take; fewer blocks are read ahead if there are few. None:
            1 GiB and 24 bytes per item.

    Raises:
        ValueError: If D is not the width that the network was trained on.
        DataError: If a row that is present is not finite.
        ArtifactError: If the disk has no room for the files.

    Source:
        MQL4GRec, section 3.2; as in the authors' code, no Sinkhorn when translating.
    """
    _require_width(network, embeddings)
    present = embeddings.present
    n_items, n_present = len(present), int(present.sum())
    network = network.to(runtime.torch_device).eval()
    mark = ""
    if folder is not None:
        mark = _mark(network, embeddings, device=runtime.device, precision=precision)
    opened, done = results.open_results(
        folder,
        mark=mark,
        n_items=n_items,
        n_levels=network.n_levels,
        e_dim=network.e_dim,
    )
    title = f"translate {embeddings.dataset} {embeddings.modality}"
    n_done = int(present[: done.next_row].sum())
    with journal.track(title, total=n_present, done=n_done) as advance:
        blocks = _read_ahead(
            network,
            embeddings,
            first=done.next_row,
            device=runtime.torch_device,
            max_memory=default_memory(n_items) if max_memory is None else max_memory,
        )
        for rows, block in blocks:
            codes, latents, error = _encode(network, block, precision=precision)
            opened.codes[rows], opened.latents[rows] = codes, latents
            done = Done(done.n_blocks + 1, int(rows[-1]) + 1, done.squared_error + error)
            advance(len(rows))
            if done.n_blocks % BLOCKS_PER_NOTE == 0:
                opened = results.note(opened, done)
    opened = results.close(opened, done)
    codebooks = tuple(codebook.detach().cpu().numpy().copy() for codebook in network.codebooks)
    return Translation(
        dataset=embeddings.dataset,
        modality=embeddings.modality,
        codes=opened.codes,
        latents=opened.latents,
        codebooks=codebooks,
        present=present,
        quantisation_error=done.squared_error / n_present if n_present else None,
    )


def _require_width(network: RQVAE, embeddings: Embeddings | GivenEmbeddings) -> None:
    if isinstance(embeddings, GivenEmbeddings):
        width = embeddings.width
    else:
        width = embeddings.vectors.shape[1]
    if width != network.in_dim:
        raise ValueError(
            f"`{embeddings.dataset}` {embeddings.modality} embeddings: expected width "
            f"{network.in_dim}, on which the translator was trained, got {width}"
        )


def _mark(
    network: RQVAE, embeddings: Embeddings | GivenEmbeddings, *, device: str, precision: Precision
) -> str:
    """Tell by a fingerprint all that codes and latents depend on, to the last bit."""
    weights = hashlib.blake2b()
    for name, tensor in sorted(network.state_dict().items()):
        if not name.startswith("decoder."):
            weights.update(name.encode() + tensor.cpu().numpy().tobytes())
    if isinstance(embeddings, GivenEmbeddings):
        source = embeddings.identity
    else:
        source = fingerprint(_identify(embeddings.vectors), _identify(embeddings.present))
    return fingerprint(weights.hexdigest(), source, device, precision, ROWS_AT_ONCE)


def _identify(values: NDArray[np.float32] | NDArray[np.bool_]) -> tuple[object, ...]:
    """Tell an array from a changed one: of a file by size and time, else by what is in it."""
    file = getattr(values, "filename", None)
    if file is not None:
        stat = Path(file).stat()
        return str(file), values.shape, stat.st_size, stat.st_mtime_ns
    return values.shape, hashlib.blake2b(np.ascontiguousarray(values).data).hexdigest()


def _read_ahead(
    network: RQVAE,
    embeddings: Embeddings | GivenEmbeddings,
    *,
    first: int,
    device: torch.device,
    max_memory: int,
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Read rows from the first on, in blocks that threads fetch, as they are stored (B, D)."""
    read = open_rows(embeddings)
    widest = max(network.in_dim, *network.layers, network.e_dim)
    rows_at_once = ROWS_AT_ONCE // -(-widest // WIDE) or 1

    def fetch(rows: NDArray[np.int64]) -> Tensor:
        block = torch.from_numpy(read(rows))
        return block.pin_memory() if device.type == "cuda" else block

    in_order = isinstance(embeddings, GivenEmbeddings) and embeddings.column is not None
    affordable = max_memory // 8 // (4 * rows_at_once * network.in_dim)
    return prefetch(
        fetch,
        list_blocks(embeddings.present, rows_at_once=rows_at_once, first=first),
        n_threads=1 if in_order else N_READERS,
        n_ahead=min(max(affordable, 1), 2 * N_READERS),
    )


@torch.inference_mode()
def _encode(
    network: RQVAE, block: Tensor, *, precision: Precision
) -> tuple[NDArray[np.uint16], NDArray[np.float32], float]:
    """Give codes (B, L) and latents (B, E) of vectors (B, D), and their squared error in all."""
    device = next(network.parameters()).device
    vectors = block.to(device, non_blocking=True).float()
    with (
        _products(precision),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        latents = network.encoder(vectors).float()  # (B, E)
    codes = network.nearest_codes(latents)
    residual = latents.double()
    for codebook, chosen in zip(network.codebooks, codes.T, strict=True):
        residual -= codebook[chosen]
    error = float(residual.square_().sum())
    return codes.cpu().numpy().astype(np.uint16), latents.cpu().numpy(), error


@contextmanager
def _products(precision: Precision) -> Iterator[None]:
    """Let products of float32 be exact, or TF32 if asked for, whatever holds outside."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
