"""The figures of one shop and modality, as one record."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mql4grec.catalog import Histories
from mql4grec.codes import SemanticIds
from mql4grec.config import QualitySettings
from mql4grec.embeddings import Embeddings
from mql4grec.quality.neighbours import nearest_by_codes, nearest_items
from mql4grec.quality.prefixes import chance_shares, pairs_in_a_row, prefix_shares
from mql4grec.quality.reconstruction import Reconstruction, reconstruct
from mql4grec.rqvae import RQVAE
from mql4grec.runtime import SILENT, Journal, Runtime
from mql4grec.translator import translate

Shares = tuple[float, ...]


@dataclass(frozen=True)
class Source:
    """What codes were made from; given codes have none.

    Attributes:
        embeddings: Of the shop's N items.
        network: The translator.
        precision: In which it found the codes.
    """

    embeddings: Embeddings
    network: RQVAE
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"


@dataclass(frozen=True)
class Neighbours:
    """How many of an item's nearest items, by embedding, have a common prefix with it.

    Attributes:
        n_items: Items that were asked; their nearest were looked for among all.
        k: Nearest items of each.
        before: Share of all nearest with at least 1, 2, ..., L codes in common, by nearest codes.
        after: The same after collisions were resolved.
    """

    n_items: int
    k: int
    before: Shares
    after: Shares


@dataclass(frozen=True)
class Cobought:
    """How many pairs of items that users had one right after the other have a common prefix.

    Attributes:
        n_pairs: Of different items, in training histories, as often as it happened.
        after: Share with at least 1, 2, ..., L codes in common, after collisions were resolved.
        chance: The same for two different items drawn each as often as it is in such pairs, since
            popular items have codes of their own; None if only one item is.
    """

    n_pairs: int
    after: Shares
    chance: Shares | None


@dataclass(frozen=True)
class Quality:
    """How good the codes of one shop and modality are.

    Attributes:
        n_items: Items that have codes.
        chance: Share of all pairs of different items with at least 1, 2, ..., L codes in common;
            None if there are no two.
        neighbours: None for given codes, and if there are no two items.
        cobought: None if there is no such pair.
        reconstruction: None for given codes, and if the embeddings do not vary.
    """

    n_items: int
    chance: Shares | None
    neighbours: Neighbours | None
    cobought: Cobought | None
    reconstruction: Reconstruction | None


def measure(
    ids: SemanticIds,
    histories: Histories,
    *,
    source: Source | None,
    settings: QualitySettings,
    runtime: Runtime,
    journal: Journal = SILENT,
) -> Quality:
    """Measure what codes keep of their embeddings and of what users do.

    Neighbours and reconstruction are measured on a random sample where there are more items than
    `settings.n_items`; the nearest are always looked for among all items, and all other figures are
    over all of them.

    Args:
        ids: Codes of N items, collisions resolved.
        histories: All events; the two held out of each user are left alone.
        source: What the codes were made from; None: they were given.
        settings: How closely to look.
        runtime: Gives the device, and the seed of the sample.
        journal: Gets a progress bar.
    """
    neighbours = reconstruction = None
    if source is not None:
        neighbours, reconstruction = _compare(
            ids, source, settings=settings, runtime=runtime, journal=journal
        )
    return Quality(
        n_items=int(ids.present.sum()),
        chance=chance_shares(ids.codes[ids.present], n_codes=ids.n_codes),
        neighbours=neighbours,
        cobought=measure_cobought(ids, histories.held_out(2)),
        reconstruction=reconstruction,
    )


def measure_cobought(ids: SemanticIds, training: Histories) -> Cobought | None:
    """Compare the codes of items that users had one right after the other.

    Args:
        ids: Codes of N items.
        training: Histories without the held-out events.

    Returns:
        The shares, None if there is no such pair.
    """
    firsts, seconds = pairs_in_a_row(training, present=ids.present)
    if not len(firsts):
        return None
    counts = np.bincount(np.concatenate([firsts, seconds]), minlength=len(ids.codes))
    bought = np.flatnonzero(counts)
    return Cobought(
        n_pairs=len(firsts),
        after=prefix_shares(ids.codes, firsts, seconds),
        chance=chance_shares(ids.codes[bought], n_codes=ids.n_codes, weights=counts[bought]),
    )


def _compare(
    ids: SemanticIds,
    source: Source,
    *,
    settings: QualitySettings,
    runtime: Runtime,
    journal: Journal,
) -> tuple[Neighbours | None, Reconstruction | None]:
    """Compare codes with embeddings, on a sample of items."""
    embeddings, among = source.embeddings, source.embeddings.present & ids.present
    rows = draw_rows(among, n=settings.n_items, seed=runtime.seed)
    if not len(rows):
        return None, None
    title = f"nearest {ids.dataset} {ids.modality}"
    with journal.track(title, total=int(among.sum())) as advance:
        nearest = nearest_items(
            embeddings.vectors,
            rows,
            among=among,
            k=settings.n_neighbours,
            device=runtime.torch_device,
            advance=advance,
        )
    needed = np.zeros(len(among), np.bool_)
    needed[rows] = needed[nearest.ravel()] = True
    translation = translate(
        source.network,
        dataclasses.replace(embeddings, present=needed),
        runtime=runtime,
        journal=journal,
        precision=source.precision,
    )
    reconstruction = reconstruct(
        source.network,
        embeddings.vectors[rows],
        latents=translation.latents[rows],
        before=translation.codes[rows],
        after=ids.codes[rows],
    )
    if not nearest.size:
        return None, reconstruction
    pairs = np.repeat(rows, nearest.shape[1]), nearest.ravel()
    neighbours = Neighbours(
        n_items=len(rows),
        k=nearest.shape[1],
        before=prefix_shares(translation.codes, *pairs),
        after=prefix_shares(ids.codes, *pairs),
    )
    return neighbours, reconstruction


def draw_rows(among: NDArray[np.bool_], *, n: int, seed: int) -> NDArray[np.int64]:
    """Draw n of the rows that are true in bool (N,), all if there are not more; ascending."""
    rows = np.flatnonzero(among)
    if len(rows) <= n:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, n, replace=False))


def find_examples(
    ids: SemanticIds,
    items: NDArray[np.int64],
    *,
    source: Source | None,
    k: int,
    runtime: Runtime,
) -> list[dict[str, Any]]:
    """Find the nearest items of a few, by embedding and by codes.

    Args:
        ids: Codes of N items.
        items: Rows, int64 (Q), that have codes.
        source: What the codes were made from; None: they were given.
        k: How many.
        runtime: Gives the device.

    Returns:
        For each item "item", its row, and the rows of the nearest ones: "by_codes", and with a
        source "by_embedding".
    """
    if not len(items):
        return []
    codebooks = []
    found: list[dict[str, Any]] = [{} for _ in items]
    if source is not None:
        codebooks = [codebook.detach().cpu().numpy() for codebook in source.network.codebooks]
        among = source.embeddings.present & ids.present
        nearest = nearest_items(
            source.embeddings.vectors, items, among=among, k=k, device=runtime.torch_device
        )
        found = [{"by_embedding": rows} for rows in nearest.tolist()]
    by_codes = nearest_by_codes(ids, items, k=k, codebooks=codebooks)
    return [
        {"item": item, **one, "by_codes": rows}
        for item, one, rows in zip(items.tolist(), found, by_codes.tolist(), strict=True)
    ]
