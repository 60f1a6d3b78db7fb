"""The stage that measures semantic IDs before any T5 learns them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from mql4grec import artifacts
from mql4grec.artifacts import atomic_path
from mql4grec.catalog import Catalog
from mql4grec.codes import SemanticIds
from mql4grec.config import DatasetSettings, Modality
from mql4grec.stages.context import (
    Context,
    encoded,
    load_catalog,
    load_embeddings,
    load_ids,
    translator_folder,
)
from mql4grec.stages.page import write_quality_page

if TYPE_CHECKING:
    from mql4grec.quality import Source


def measure_quality(context: Context, folder: Path) -> None:
    """Write the figures of every shop and modality, and a page that shows those of the target."""
    for shop in context.settings.catalog.datasets:
        catalog, ids = load_catalog(context, shop.name), load_ids(context, shop)
        sources = {modality: _source(context, shop, modality) for modality in ids}
        items = _choose_examples(context, catalog, ids=ids, sources=sources)
        for modality, found in ids.items():
            path = folder / f"{shop.name}.{modality}.json"
            if path.exists():
                continue  # an earlier call of this stage was interrupted after it
            source = sources[modality]
            if source is not None:
                _write_maps(context, source, path=path.with_suffix(".maps.npz"), ids=found)
            figures = _measure(context, catalog, ids=found, source=source, items=items)
            artifacts.write_json(path, figures)
    write_quality_page(context, folder)


def _source(context: Context, shop: DatasetSettings, modality: Modality) -> Source | None:
    """Open what a shop's codes were made from, None if they were given."""
    from mql4grec import translator
    from mql4grec.quality import Source

    if (shop, modality) not in set(encoded(context.settings)):
        return None
    return Source(
        embeddings=load_embeddings(context, shop, modality),
        network=translator.load(translator_folder(context, modality)),
        precision=context.settings.codes.precision,
    )


def _measure(
    context: Context,
    catalog: Catalog,
    *,
    ids: SemanticIds,
    source: Source | None,
    items: NDArray[np.int64],
) -> dict[str, Any]:
    """Give the figures as JSON can hold them, with the collisions before and after."""
    from mql4grec import quality

    settings = context.settings.quality
    found = quality.measure(
        ids,
        catalog.histories,
        source=source,
        settings=settings,
        runtime=context.runtime,
        journal=context.journal,
    )
    examples = quality.find_examples(
        ids, items, source=source, k=settings.n_neighbours, runtime=context.runtime
    )
    figures = dataclasses.asdict(found)
    context.journal.log("quality.measured", dataset=ids.dataset, modality=ids.modality, **figures)
    collisions = context.folder / "codes" / f"{ids.dataset}.{ids.modality}.json"
    return {
        "collisions": artifacts.read_json(collisions, made_by="generate-codes"),
        **figures,
        "examples": examples,
    }


def _write_maps(context: Context, source: Source, *, path: Path, ids: SemanticIds) -> None:
    from mql4grec import quality

    among = source.embeddings.present & ids.present
    n_points, seed = context.settings.report.n_points, context.settings.seed
    maps = quality.draw_maps(
        [codebook.detach().cpu().numpy() for codebook in source.network.codebooks],
        source.embeddings.vectors,
        rows=quality.draw_rows(among, n=n_points, seed=seed),
    )
    with atomic_path(path) as temporary:
        np.savez(temporary, **cast("dict[str, Any]", maps.arrays()))


def _choose_examples(
    context: Context,
    catalog: Catalog,
    *,
    ids: dict[Modality, SemanticIds],
    sources: dict[Modality, Source | None],
) -> NDArray[np.int64]:
    """Draw items that every modality has; with pictures, if any item has one."""
    usable = np.ones(catalog.n_items, np.bool_)
    for modality, found in ids.items():
        source = sources[modality]
        usable &= found.present if source is None else found.present & source.embeddings.present
    pictured = np.array([path is not None for path in catalog.images], np.bool_)
    if (usable & pictured).any():
        usable &= pictured
    generator = np.random.default_rng(context.settings.seed)
    drawn = generator.permutation(np.flatnonzero(usable))
    return drawn[: context.settings.quality.n_examples]
