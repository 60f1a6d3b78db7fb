"""The stages from the shops' files to semantic IDs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mql4grec import artifacts, catalog, codes
from mql4grec.codes import SemanticIds
from mql4grec.config import CodesSettings, DatasetSettings, Modality
from mql4grec.errors import ConfigError
from mql4grec.runtime import Journal
from mql4grec.stages.context import (
    Context,
    before_path,
    encoded,
    given_index,
    index_path,
    load_catalog,
    load_embeddings,
    modalities,
    translator_folder,
)

Work = Callable[[Context, Path], None]


def prepare(shop: DatasetSettings) -> Work:
    """Give the work of preparing one shop."""

    def work(context: Context, folder: Path) -> None:
        rules, seed = context.settings.catalog, context.settings.seed_of_data
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
            runtime=dataclasses.replace(context.runtime, seed=context.settings.seed_of_data),
            journal=context.journal,
        )

    return work


def train_translator(modality: Modality) -> Work:
    """Give the work of training one modality's translator on all shops that need it."""

    def work(context: Context, folder: Path) -> None:
        from mql4grec import translator

        shops = [shop for shop, m in encoded(context.settings) if m == modality]
        translator.train(
            [load_embeddings(context, shop, modality) for shop in shops],
            context.settings.translator,
            folder=folder,
            runtime=context.runtime,
            journal=context.journal,
        )

    return work


def generate_codes(context: Context, folder: Path) -> None:
    """Write every shop's index files and what was done about collisions."""
    settings = context.settings
    _extensions(context)  # faults come first
    for shop in settings.catalog.datasets:
        item_ids = load_catalog(context, shop.name).item_ids
        for modality in modalities(settings, shop):
            work = folder / f"work-{shop.name}-{modality}"
            before, ids, report = _semantic_ids(
                context, shop, modality=modality, item_ids=item_ids, work=work
            )
            with artifacts.atomic_path(before_path(folder, shop.name, modality)) as temporary:
                np.save(temporary, before)
            write_codes(
                folder,
                ids,
                report=report,
                item_ids=item_ids,
                settings=settings.codes,
                journal=context.journal,
            )
            artifacts.remove(work)
        catalog.write_ids(folder / f"{shop.name}.item2id", item_ids)  # what the rows are


def write_codes(
    folder: Path,
    ids: SemanticIds,
    *,
    report: codes.CollisionReport,
    item_ids: Sequence[str] | None,
    settings: CodesSettings,
    journal: Journal,
) -> None:
    """Write a shop's index in one modality, as shards and if small as JSON, and its report."""
    path = index_path(folder, ids.dataset, ids.modality)
    codes.write_shards(path.with_suffix(".parquet"), ids, item_ids=item_ids, journal=journal)
    if len(ids.codes) <= settings.json_max_items:
        codes.write_index(path, ids)
    facts = {"n_codes": ids.n_codes, **dataclasses.asdict(report)}
    artifacts.write_json(folder / f"{ids.dataset}.{ids.modality}.json", facts)
    journal.log("codes.assigned", dataset=ids.dataset, modality=ids.modality, **facts)


def _semantic_ids(
    context: Context,
    shop: DatasetSettings,
    *,
    modality: Modality,
    item_ids: tuple[str, ...],
    work: Path,
) -> tuple[NDArray[np.uint16], SemanticIds, codes.CollisionReport]:
    """Give the codes before repair (N, L), semantic IDs, and what lies between the two."""
    given = given_index(shop, modality)
    if given is not None:
        by_row = shop.format == "authors"  # their files name items by row
        read = partial(
            codes.read_index,
            given,
            dataset=shop.name,
            modality=modality,
            n_items=len(item_ids) if by_row else None,
            item_ids=None if by_row else item_ids,
        )
        ids, report = read(shared=context.settings.codes.shared)
        return read(shared="keep")[0].codes, ids, report
    from mql4grec import translator

    translation = translator.translate(
        translator.load(translator_folder(context, modality)),
        load_embeddings(context, shop, modality),
        folder=work,
        runtime=context.runtime,
        journal=context.journal,
        precision=context.settings.codes.precision,
        max_memory=context.settings.codes.max_memory,
    )
    older = _extensions(context).get((shop.name, modality))
    existing = None
    if older is not None:
        existing = codes.read_existing(
            older, dataset=shop.name, n_items=len(item_ids), item_ids=item_ids
        )
    ids, report = codes.assign(
        translation, context.settings.codes, existing=existing, item_ids=item_ids
    )
    # Of an item without an embedding, what an older index says.
    return np.where(translation.present[:, None], translation.codes, ids.codes), ids, report


def _extensions(context: Context) -> dict[tuple[str, Modality], Path]:
    """Tell which older index each shop and modality extends: by its name, or as the only shop.

    Raises:
        ConfigError: If an index belongs to nothing that this run translates, or two to the same.
    """
    settings = context.settings
    made = [(shop.name, modality) for shop, modality in encoded(settings)]
    only = settings.target.name if len(settings.catalog.datasets) == 1 else None
    found: dict[tuple[str, Modality], Path] = {}
    for path in settings.codes.extend:
        key = (only or path.name.partition(".index_")[0], codes.modality_of(path))
        if key not in made or key in found:
            names = ", ".join(f"`{name}` {modality}" for name, modality in made)
            raise ConfigError(
                f"`codes.extend`: expected one index each of {names}, got `{path}` for `{key[0]}` "
                f"{key[1]}; name it NAME.index_... after its shop, or leave it out"
            )
        found[key] = path
    return found
