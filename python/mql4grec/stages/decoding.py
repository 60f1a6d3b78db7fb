"""The stages that rank with a trained recommender: for the test, and to learn how to combine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mql4grec import artifacts
from mql4grec.artifacts import atomic_path
from mql4grec.catalog import Catalog, Histories
from mql4grec.config import MODALITIES, Modality, Settings
from mql4grec.decoding import Filters, Rankings
from mql4grec.stages import ranking as generated
from mql4grec.stages.context import SEEN, Context, load_catalog, modalities, ways_of


def decode(context: Context, folder: Path) -> None:
    """Rank for every test user in every modality."""
    ranker = generated.load_ranker(context)
    inputs = ranker.shop.histories.held_out(1)
    for modality in modalities(context.settings, context.settings.target):
        for removed in ways_of(context.settings):
            _decode(ranker, inputs, modality=modality, folder=folder, removed=removed)


def decode_validation(context: Context, folder: Path) -> None:
    """Rank for some users without their last two events, to choose weights on the last but one."""
    ranker = generated.load_ranker(context)
    inputs, _ = combination_split(context.settings, ranker.shop)
    for modality in combined_modalities(context.settings):
        for removed in ways_of(context.settings):
            _decode(ranker, inputs, modality=modality, folder=folder, removed=removed)


def name_of(settings: Settings, modality: Modality, *, removed: bool) -> str:
    """Name the files of a decoded ranking; those of the other way say which it is."""
    if removed == settings.evaluation.remove_seen:
        return modality
    return f"{modality}.{SEEN[removed]}"


def _decode(
    ranker: generated.Ranker,
    inputs: Histories,
    *,
    modality: Modality,
    folder: Path,
    removed: bool,
) -> None:
    """Rank and write, unless an earlier call of the stage was interrupted after it."""
    settings = ranker.context.settings
    name = name_of(settings, modality, removed=removed)
    path = folder / f"{name}.npz"
    if path.exists():
        return
    rankings = generated.rank(
        ranker,
        inputs,
        modality=modality,
        n_beams=settings.decoding.n_beams,
        # During the search, so that lists are not short for what is removed from them afterwards.
        filters=Filters(without=inputs) if removed else None,
        folder=folder / f"{name}.parts",
    )
    with atomic_path(path) as temporary:
        np.savez(temporary, items=rankings.items, scores=rankings.scores)


def combined_modalities(settings: Settings) -> tuple[Modality, ...]:
    """List the modalities among the rankings to be combined, the only ones to decode for."""
    return tuple(m for m in MODALITIES if m in settings.evaluation.combine)


def combination_split(settings: Settings, shop: Catalog) -> tuple[Histories, NDArray[np.int64]]:
    """Draw the users on whose last but one events weights are chosen."""
    limit = settings.evaluation.combine_users
    return generated.validation_split(shop, limit=limit, seed=settings.seed)


def load_rankings(context: Context, *, removed: bool | None = None) -> dict[str, Rankings]:
    """Read the generated rankings of the test users, "fused" added.

    Args:
        context: Of a run whose decoding is done.
        removed: Whether those without seen items are wanted; None: the main ones.
    """
    settings = context.settings
    if removed is None:
        removed = settings.evaluation.remove_seen
    found: dict[Modality, Rankings] = {}
    for modality in modalities(settings, settings.target):
        name = name_of(settings, modality, removed=removed)
        found[modality] = load(context.folder / "decoding" / f"{name}.npz")
    inputs = load_catalog(context, settings.target.name).histories.held_out(1)
    return generated.assemble(context, found, inputs, remove_seen=removed)


def load(path: Path) -> Rankings:
    """Read what `decode` or `decode_validation` has written."""
    return Rankings(**artifacts.load_arrays(path, "items", "scores", made_by="evaluate"))
