"""The stages from the shops' files to semantic IDs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mql4grec import artifacts, catalog, codes
from mql4grec.codes import SemanticIds
from mql4grec.config import DatasetSettings, Modality
from mql4grec.errors import ArtifactError
from mql4grec.stages.context import (
    INDEX_SUFFIX,
    Context,
    encoded,
    given_index,
    load_catalog,
    modalities,
)

if TYPE_CHECKING:
    from mql4grec.embeddings import Embeddings

Work = Callable[[Context, Path], None]


def prepare(shop: DatasetSettings) -> Work:
    """Give the work of preparing one shop."""

    def work(context: Context, folder: Path) -> None:
        rules, seed = context.settings.catalog, context.settings.seed
        catalog.prepare(shop, rules, folder=folder, seed=seed, journal=context.journal)

    return work


def embed(shop: DatasetSettings, modality: Modality) -> Work:
    """Give the work of embedding one shop in one modality."""

    def work(context: Context, folder: Path) -> None:
        from mql4grec import embeddings

        embeddings.embed(
            load_catalog(context, shop.name),
            context.settings.embeddings,
            modality=modality,
            folder=folder,
            runtime=context.runtime,
            journal=context.journal,
        )

    return work


def train_translator(modality: Modality) -> Work:
    """Give the work of training one modality's translator on all shops that need it."""

    def work(context: Context, folder: Path) -> None:
        from mql4grec import translator

        shops = [shop for shop, m in encoded(context.settings) if m == modality]
        translator.train(
            [_load_embeddings(context, shop, modality) for shop in shops],
            context.settings.translator,
            folder=folder,
            runtime=context.runtime,
            journal=context.journal,
        )

    return work


def _load_embeddings(context: Context, shop: DatasetSettings, modality: Modality) -> Embeddings:
    from mql4grec import embeddings

    folder = context.folder / "embeddings" / shop.name / modality
    found = embeddings.load(folder, dataset=shop.name, modality=modality)
    if found is None:
        raise ArtifactError(f"`{folder}`: no {modality} embeddings; `mql4grec embed` makes them")
    return found


def generate_codes(context: Context, folder: Path) -> None:
    """Write every shop's index files and what was done about collisions."""
    for shop in context.settings.catalog.datasets:
        n_items = load_catalog(context, shop.name).n_items
        for modality in modalities(context.settings, shop):
            ids, report = _semantic_ids(context, shop, modality=modality, n_items=n_items)
            path = folder / f"{shop.name}.index_{INDEX_SUFFIX[modality]}.json"
            codes.write_index(path, ids)
            facts = {"n_codes": ids.n_codes, **dataclasses.asdict(report)}
            artifacts.write_json(folder / f"{shop.name}.{modality}.json", facts)
            context.journal.log("codes.assigned", dataset=shop.name, modality=modality, **facts)


def _semantic_ids(
    context: Context, shop: DatasetSettings, *, modality: Modality, n_items: int
) -> tuple[SemanticIds, codes.CollisionReport]:
    given = given_index(shop, modality)
    if given is not None:
        shared = context.settings.codes.shared
        by_row = shop.format == "authors"  # their files name items by row
        return codes.read_index(
            given,
            dataset=shop.name,
            modality=modality,
            n_items=n_items if by_row else None,
            item_ids=None if by_row else load_catalog(context, shop.name).item_ids,
            shared=shared,
        )
    from mql4grec import translator

    translation = translator.translate(
        translator.load(context.folder / "translator" / modality),
        _load_embeddings(context, shop, modality),
        runtime=context.runtime,
        journal=context.journal,
    )
    return codes.assign(
        translation,
        context.settings.codes,
        item_ids=load_catalog(context, shop.name).item_ids,
    )
