"""The stages from semantic IDs to recommendations, figures and the page that shows them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mql4grec import artifacts, baselines, evaluation
from mql4grec.artifacts import atomic_path
from mql4grec.catalog import Catalog
from mql4grec.config import Modality
from mql4grec.decoding import Rankings
from mql4grec.report import write_rankings
from mql4grec.stages.context import (
    Context,
    load_catalog,
    load_corpus,
    load_vocabulary,
    modalities,
)
from mql4grec.stages.ranking import assemble, load_ranker, rank

if TYPE_CHECKING:
    from transformers import T5ForConditionalGeneration


def pretrain(context: Context, folder: Path) -> None:
    """Train the T5 on several shops."""
    from mql4grec import recommender

    settings = context.settings.recommender
    recommender.train(
        _new_model(context),
        [load_corpus(context, name) for name in settings.pretrain.datasets],
        settings.pretrain,
        stage="pretrain",
        folder=folder,
        runtime=context.runtime,
        journal=context.journal,
    )


def finetune(context: Context, folder: Path) -> None:
    """Train the T5 on the target shop, from the pre-trained one if there is one."""
    from mql4grec import recommender

    settings = context.settings.recommender
    if settings.pretrain.datasets:
        model = recommender.load(context.folder / "recommender" / "pretrain")
    else:
        model = _new_model(context)
    recommender.train(
        model,
        [load_corpus(context, context.settings.target.name)],
        settings.finetune,
        stage="finetune",
        folder=folder,
        runtime=context.runtime,
        journal=context.journal,
    )


def _new_model(context: Context) -> T5ForConditionalGeneration:
    from mql4grec import recommender

    settings = context.settings
    return recommender.build(load_vocabulary(context), settings.recommender, seed=settings.seed)


def decode(context: Context, folder: Path) -> None:
    """Rank for every test user in every modality."""
    from mql4grec.decoding import Filters

    shop = context.settings.target
    ranker = load_ranker(context)
    inputs = ranker.shop.histories.held_out(1)
    # During the search, so that lists are not short for what is removed from them afterwards.
    filters = Filters(without=inputs) if context.settings.evaluation.remove_seen else None
    for modality in modalities(context.settings, shop):
        path = folder / f"{modality}.npz"
        if path.exists():
            continue  # an earlier call of this stage was interrupted after it
        rankings = rank(
            ranker,
            inputs,
            modality=modality,
            n_beams=context.settings.decoding.n_beams,
            filters=filters,
            folder=folder / f"{modality}.parts",
        )
        with atomic_path(path) as temporary:
            np.savez(temporary, items=rankings.items, scores=rankings.scores)


def train_sasrec(context: Context, folder: Path) -> None:
    """Train SASRec on the target shop, unless the shop is too large for it."""
    from mql4grec import sasrec

    settings = context.settings
    shop = load_catalog(context, settings.target.name)
    if shop.n_items > settings.sasrec.max_items:
        limit = settings.sasrec.max_items
        context.journal.log("sasrec.skipped", n_items=shop.n_items, limit=limit)
        return
    sasrec.train(
        shop.histories,
        settings.sasrec,
        n_items=shop.n_items,
        folder=folder,
        runtime=context.runtime,
        journal=context.journal,
    )


def evaluate(context: Context, folder: Path) -> None:
    """Write the metrics of all rankings, and the rankings as tables."""
    settings = context.settings
    shop = load_catalog(context, settings.target.name)
    rankings = load_rankings(context)
    simple = rank_baselines(context, shop)
    found = evaluation.evaluate(
        {**rankings, **simple},
        shop.histories.target(1),
        n_items=shop.n_items,
        settings=settings.evaluation,
        seed=settings.seed,
    )
    for name, ranking in {**rankings, **simple}.items():
        path = folder / "rankings" / f"{name}.parquet"
        write_rankings(path, ranking, user_ids=shop.user_ids, item_ids=shop.item_ids)
    artifacts.write_json(folder / "metrics.json", found)
    context.journal.log("evaluation.metrics", rankings=found["rankings"])


def rank_baselines(context: Context, shop: Catalog) -> dict[str, Rankings]:
    """Rank for the test users with every baseline that the shop's size and the settings allow."""
    settings = context.settings
    top_k = max(settings.decoding.n_beams, 10)  # the metrics look at ten
    found = baselines.rank(
        shop.histories,
        n_items=shop.n_items,
        settings=settings.evaluation,
        top_k=top_k,
        journal=context.journal,
    )
    if settings.sasrec.enabled and shop.n_items <= settings.sasrec.max_items:
        from mql4grec import sasrec

        network = sasrec.load(context.folder / "sasrec", runtime=context.runtime)
        found["sasrec"] = sasrec.rank(
            network,
            shop.histories.held_out(1),
            top_k=top_k,
            remove_seen=settings.evaluation.remove_seen,
        )
    return found


def load_rankings(context: Context) -> dict[str, Rankings]:
    """Read the generated rankings of the test users, seen items removed if asked, fused added."""
    target = context.settings.target
    generated: dict[Modality, Rankings] = {}
    for modality in modalities(context.settings, target):
        path = context.folder / "decoding" / f"{modality}.npz"
        with np.load(artifacts.require(path, made_by="evaluate"), allow_pickle=False) as arrays:
            generated[modality] = Rankings(items=arrays["items"], scores=arrays["scores"])
    inputs = load_catalog(context, target.name).histories.held_out(1)
    return assemble(context, generated, inputs)
