"""The stages from semantic IDs to a trained model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from mql4grec import evaluation
from mql4grec.config import Modality, Settings, TrainingSettings
from mql4grec.decoding import Filters
from mql4grec.errors import ConfigError
from mql4grec.runtime import SILENT
from mql4grec.stages import ranking
from mql4grec.stages.context import (
    SEQUENCE_TASK,
    Context,
    learns_to_rank,
    load_corpus,
    load_vocabulary,
)
from mql4grec.stages.teaching import make_teacher

if TYPE_CHECKING:
    from mql4grec.recommender import Model
    from mql4grec.recommender.epochs import Stage
    from mql4grec.stages.ranking import Ranker

RANKING_TASKS = list(SEQUENCE_TASK.values())
MAX_BEAMS = 20  # of the search after each epoch: ten items are looked at


def pretrain(context: Context, folder: Path) -> None:
    """Train the model on several shops."""
    names = context.settings.recommender.pretrain.datasets
    _train(context, _new_model(context), "pretrain", names=names, folder=folder)


def finetune(context: Context, folder: Path) -> None:
    """Train the model on the target shop, from the pre-trained one if there is one."""
    from mql4grec import recommender

    if context.settings.recommender.pretrain.datasets:
        model = recommender.load(context.folder / "recommender" / "pretrain")
    else:
        model = _new_model(context)
    names = [context.settings.target.name]
    _train(context, model, "finetune", names=names, folder=folder)


def _new_model(context: Context) -> Model:
    from mql4grec import recommender

    settings = context.settings
    return recommender.build(
        load_vocabulary(context),
        settings.recommender,
        seed=settings.seed,
        max_his_len=settings.language.max_his_len,
    )


def _train(
    context: Context,
    model: Model,
    stage: Stage,
    *,
    names: Sequence[str],
    folder: Path,
) -> None:
    """Train on some shops."""
    from mql4grec import recommender

    settings: TrainingSettings = getattr(context.settings.recommender, stage)
    by_ndcg = settings.select_by == "ndcg"
    recommender.train(
        model,
        [load_corpus(context, name) for name in names],
        settings,
        stage=stage,
        folder=folder,
        runtime=context.runtime,
        journal=context.journal,
        ndcg=_ndcg(context, model, settings, names=names) if by_ndcg else None,
        teacher=make_teacher(context, settings, names=names) if settings.teacher_share else None,
    )


def selection_beams(settings: Settings) -> int:
    """Tell how many beams validation users are decoded with after an epoch."""
    return min(settings.decoding.n_beams, MAX_BEAMS)


def _ndcg(
    context: Context,
    model: Model,
    settings: TrainingSettings,
    *,
    names: Sequence[str],
) -> Callable[[Model], float]:
    """Make what gives a model's NDCG@10, averaged over shops and their modalities.

    Raises:
        ConfigError: If the training has no task by which items are ranked.
    """
    run = context.settings
    # Never exact: that is asked of single lists, and must not change what was trained.
    decoding = run.decoding.model_copy(update={"exact": False})
    quiet = dataclasses.replace(  # the training has a progress bar already
        context, journal=SILENT, settings=run.model_copy(update={"decoding": decoding})
    )
    shops = [shop for shop in run.catalog.datasets if shop.name in names]
    rankers = [ranking.make_ranker(quiet, shop, model) for shop in shops]
    if not any(_ranked(ranker, settings) for ranker in rankers):
        raise ConfigError(
            f"`select_by`: expected, with 'ndcg', a task that ranks items, {RANKING_TASKS}, and a "
            f"shop that has its codes, got {list(settings.tasks)}; add one, or select by loss"
        )

    def measure(model: Model) -> float:
        return mean(
            figure
            for ranker in rankers
            for figure in _figures(dataclasses.replace(ranker, model=model), settings)
        )

    return measure


def _ranked(ranker: Ranker, settings: TrainingSettings) -> list[Modality]:
    """List the modalities in which a training learns to rank the items of a shop."""
    run = ranker.context.settings
    return [modality for modality in ranker.tries if learns_to_rank(run, settings, modality)]


def _figures(ranker: Ranker, settings: TrainingSettings) -> Iterator[float]:
    """Give NDCG@10 of a shop's validation users, always the same, in each modality."""
    run, shop = ranker.context.settings, ranker.shop
    inputs, users = ranking.validation_split(shop, limit=settings.select_users, seed=run.seed)
    targets = shop.histories.target(2)[users]
    for modality in _ranked(ranker, settings):
        found = ranking.rank(
            ranker,
            inputs,
            modality=modality,
            n_beams=selection_beams(run),
            filters=Filters(without=inputs) if run.evaluation.remove_seen else None,
        )
        yield evaluation.metrics(found, targets)["NDCG@10"]
