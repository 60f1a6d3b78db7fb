"""The stages from a trained T5 to rankings, those of the baselines beside them, and figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from mql4grec import artifacts, baselines, evaluation
from mql4grec.artifacts import atomic_path
from mql4grec.baselines import Ranker
from mql4grec.catalog import Catalog, Histories
from mql4grec.config import MODALITIES, Modality, Settings
from mql4grec.decoding import Rankings
from mql4grec.errors import ConfigError
from mql4grec.report import read_rankings, write_rankings
from mql4grec.stages import ranking as generated
from mql4grec.stages.context import Context, load_catalog, modalities

if TYPE_CHECKING:
    from mql4grec.evaluation import Combination


def decode(context: Context, folder: Path) -> None:
    """Rank for every test user in every modality."""
    ranker = generated.load_ranker(context)
    inputs = ranker.shop.histories.held_out(1)
    for modality in modalities(context.settings, context.settings.target):
        _decode(ranker, inputs, modality=modality, folder=folder)


def decode_validation(context: Context, folder: Path) -> None:
    """Rank for some users without their last two events, to choose weights on the last but one."""
    ranker = generated.load_ranker(context)
    inputs, _ = validation_split(context.settings, ranker.shop)
    for modality in combined_modalities(context.settings):
        _decode(ranker, inputs, modality=modality, folder=folder)


def _decode(
    ranker: generated.Ranker, inputs: Histories, *, modality: Modality, folder: Path
) -> None:
    """Rank and write, unless an earlier call of the stage was interrupted after it."""
    from mql4grec.decoding import Filters

    settings = ranker.context.settings
    path = folder / f"{modality}.npz"
    if path.exists():
        return
    rankings = generated.rank(
        ranker,
        inputs,
        modality=modality,
        n_beams=settings.decoding.n_beams,
        # During the search, so that lists are not short for what is removed from them afterwards.
        filters=Filters(without=inputs) if settings.evaluation.remove_seen else None,
        folder=folder / f"{modality}.parts",
    )
    with atomic_path(path) as temporary:
        np.savez(temporary, items=rankings.items, scores=rankings.scores)


def combined_modalities(settings: Settings) -> tuple[Modality, ...]:
    """List the modalities among the rankings to be combined, the only ones to decode for."""
    return tuple(m for m in MODALITIES if m in settings.evaluation.combine)


def validation_split(settings: Settings, shop: Catalog) -> tuple[Histories, NDArray[np.int64]]:
    """Draw the users on whose last but one events weights are chosen.

    Returns:
        Their histories without the last two events, and who they are, int64, ascending.
    """
    users = np.arange(shop.histories.n_users)
    limit = settings.evaluation.combine_users
    if len(users) > limit:
        generator = np.random.default_rng([settings.seed, limit])
        users = np.sort(generator.choice(users, limit, replace=False))
    return shop.histories.held_out(2).of_users(users), users


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
    rankers = fit_baselines(context, shop)
    rankings, combination = _rank(context, shop, rankers)
    found = evaluation.evaluate(
        rankings,
        shop.histories.target(1),
        n_items=shop.n_items,
        settings=settings.evaluation,
        seed=settings.seed,
    )
    if combination is not None:
        found["combination"] = dataclasses.asdict(combination)
    for name, ranking in rankings.items():
        path = folder / "rankings" / f"{name}.parquet"
        write_rankings(path, ranking, user_ids=shop.user_ids, item_ids=shop.item_ids)
    artifacts.write_json(folder / "metrics.json", found)
    context.journal.log("evaluation.metrics", rankings=found["rankings"])


def _rank(
    context: Context, shop: Catalog, rankers: Mapping[str, Ranker]
) -> tuple[dict[str, Rankings], Combination | None]:
    """Collect all rankings of the test users, the generated ones first."""
    rankings = load_rankings(context)
    inputs = shop.histories.held_out(1)
    everybody = np.arange(inputs.n_users)
    others = _rank_others(context, shop, rankers, inputs=inputs, users=everybody, split="test")
    names = context.settings.evaluation.combine
    if not names:
        return {**rankings, **others}, None
    if missing := [name for name in names if name not in {**rankings, **others}]:
        raise ConfigError(
            f"`evaluation.combine`: expected rankings of this run, {sorted({**rankings, **others})}"
            f", got {missing}; leave them out"
        )
    combination = _fit_combination(context, shop, rankers)
    lists = {name: {**rankings, **others}[name] for name in names}
    rankings["combined"] = evaluation.combine(
        lists,
        combination,
        n_items=shop.n_items,
        top_k=max(one.items.shape[1] for one in lists.values()),
    )
    return {**rankings, **others}, combination


def _rank_others(
    context: Context,
    shop: Catalog,
    rankers: Mapping[str, Ranker],
    *,
    inputs: Histories,
    users: NDArray[np.int64],
    split: Literal["test", "validation"],
) -> dict[str, Rankings]:
    """Rank for some users with the baselines, and read their rankings from elsewhere."""
    settings = context.settings
    remove_seen = settings.evaluation.remove_seen
    top_k = max(settings.decoding.n_beams, 10)  # the metrics look at ten
    found = {
        name: ranker(inputs, top_k=top_k, remove_seen=remove_seen)
        for name, ranker in rankers.items()
    }
    user_ids = [shop.user_ids[user] for user in users]
    for file in settings.evaluation.files:
        path = file.test if split == "test" else file.validation
        read = read_rankings(path, user_ids=user_ids, item_ids=shop.item_ids)
        found[file.name] = evaluation.remove_seen(read, inputs) if remove_seen else read
    return found


def _fit_combination(context: Context, shop: Catalog, rankers: Mapping[str, Ranker]) -> Combination:
    """Choose weights on the last but one events of some users."""
    settings = context.settings
    names = settings.evaluation.combine
    inputs, users = validation_split(settings, shop)
    lists: dict[str, Rankings] = {}
    for modality in combined_modalities(settings):
        lists[modality] = _load(context.folder / "validation" / f"{modality}.npz")
    wanted = {name: ranker for name, ranker in rankers.items() if name in names}
    lists |= _rank_others(context, shop, wanted, inputs=inputs, users=users, split="validation")
    return evaluation.fit(
        {name: lists[name] for name in names},
        shop.histories.target(2)[users],
        n_items=shop.n_items,
    )


def fit_baselines(context: Context, shop: Catalog) -> dict[str, Ranker]:
    """Fit every baseline that the shop's size and the settings allow; SASRec is trained already."""
    settings = context.settings
    rankers = baselines.fit(
        shop.histories.held_out(2),
        n_items=shop.n_items,
        settings=settings.evaluation,
        journal=context.journal,
    )
    if settings.sasrec.enabled and shop.n_items <= settings.sasrec.max_items:
        from mql4grec import sasrec

        network = sasrec.load(context.folder / "sasrec", runtime=context.runtime)

        def ranker(inputs: Histories, *, top_k: int, remove_seen: bool = False) -> Rankings:
            return sasrec.rank(network, inputs, top_k=top_k, remove_seen=remove_seen)

        rankers["sasrec"] = ranker
    return rankers


def load_rankings(context: Context) -> dict[str, Rankings]:
    """Read the generated rankings of the test users, seen items removed if asked, fused added."""
    target = context.settings.target
    found: dict[Modality, Rankings] = {
        modality: _load(context.folder / "decoding" / f"{modality}.npz")
        for modality in modalities(context.settings, target)
    }
    inputs = load_catalog(context, target.name).histories.held_out(1)
    return generated.assemble(context, found, inputs)


def _load(path: Path) -> Rankings:
    with np.load(artifacts.require(path, made_by="evaluate"), allow_pickle=False) as arrays:
        return Rankings(items=arrays["items"], scores=arrays["scores"])
