"""The stages from rankings to figures: baselines beside them, and rankings made of others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mql4grec import artifacts, evaluation
from mql4grec.baselines import ItemToItem, Ranker
from mql4grec.catalog import Catalog, Histories
from mql4grec.config import Modality, Settings
from mql4grec.decoding import EVERYTHING, Filters, Rankings
from mql4grec.errors import ConfigError
from mql4grec.report import read_rankings, write_rankings
from mql4grec.stages.combining import LISTED, Fitted, fit_on, made_by, make, tell, write_learnt
from mql4grec.stages.context import (
    Context,
    before_path,
    fits_of,
    load_catalog,
    load_ids,
    part_of,
    parts_of,
    ways_of,
)
from mql4grec.stages.decoding import (
    combination_split,
    combined_modalities,
    load,
    load_rankings,
    name_of,
)
from mql4grec.stages.groups import group_items
from mql4grec.stages.limits import Sizes, left_out

if TYPE_CHECKING:
    from mql4grec.evaluation import Learnt, Lists


SHARED = ("n_users", "n_items", "settings")  # of `metrics.json`, told once


def train_sasrec(context: Context, folder: Path) -> None:
    """Train SASRec on the target shop, unless the shop is too large for it."""
    from mql4grec import sasrec

    settings = context.settings
    shop = load_catalog(context, settings.target.name)
    if why := left_out(settings, Sizes.of(shop)).get("sasrec"):
        context.journal.log("sasrec.skipped", n_items=shop.n_items, why=why)
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
    groups = group_items(context, shop)
    fitted = fit_on(context, shop, groups, n_held_out=2)
    learnt = {
        removed: _learn(context, shop, fitted, removed=removed) for removed in _made(settings)
    }
    write_learnt(folder, learnt)
    found: dict[str, Any] = {}
    if groups is not None:
        found["ease_codes_weight"] = groups.weight
    found |= _limited(settings, shop, fitted)
    for refitted in sorted(fits_of(settings)):
        if refitted:  # after what was learnt, from lists that do not know what they rank for
            fitted = fit_on(context, shop, groups, n_held_out=1)
        for removed in ways_of(settings):
            part = part_of(settings, removed=removed, refitted=refitted)
            rankings, told = _rank(
                context, shop, fitted, learnt=learnt.get(removed), removed=removed
            )
            figures = _measure(context, shop, rankings, place=folder / "rankings" / part) | told
            if refitted:
                figures["refitted"] = [name for name in fitted.rankers if name != "sasrec"]
            if part:
                found[part] = {key: figures[key] for key in figures if key not in SHARED}
            else:
                found = figures | found
    found |= {part: found.pop(part) for part in parts_of(settings)[1:]}  # in their order
    artifacts.write_json(folder / "metrics.json", found)
    context.journal.log("evaluation.metrics", rankings=found["rankings"])


def _limited(settings: Settings, shop: Catalog, fitted: Fitted) -> dict[str, Any]:
    """Tell what a large shop does not get: baselines, and of item-kNN all neighbours."""
    told: dict[str, Any] = {}
    if absent := left_out(settings, Sizes.of(shop)):
        told["left_out"] = absent
    knn = fitted.rankers["item_knn"]
    if isinstance(knn, ItemToItem) and knn.n_neighbours is not None:
        told["item_knn_neighbours"] = knn.n_neighbours
    return told


def _measure(
    context: Context, shop: Catalog, rankings: Mapping[str, Rankings], *, place: Path
) -> dict[str, Any]:
    """Give the figures of rankings of the test users, and write these as tables."""
    for name, ranking in rankings.items():
        path = place / f"{name}.parquet"
        write_rankings(path, ranking, user_ids=shop.user_ids, item_ids=shop.item_ids)
    return evaluation.evaluate(
        rankings,
        shop.histories.target(1),
        items=_items(context, shop),
        settings=context.settings.evaluation,
        seed=context.settings.seed,
    )


def _made(settings: Settings) -> tuple[bool, ...]:
    """List the ways in which rankings are made of others."""
    return ways_of(settings) if settings.evaluation.combine else ()


def _items(context: Context, shop: Catalog) -> evaluation.Items:
    """Tell what the figures need to know of the items.

    Codes before repair are left out where they were not kept, as by versions before.
    """
    codes: dict[Modality, NDArray[np.int32]] = {}
    for modality, ids in load_ids(context, context.settings.target).items():
        path = before_path(context.folder / "codes", shop.name, modality)
        if path.exists() or artifacts.told_of(path):
            codes[modality] = evaluation.number_codes(
                artifacts.load_array(path, made_by="generate-codes"), ids.present
            )
    training = shop.histories.held_out(2).items
    return evaluation.Items(np.bincount(training, minlength=shop.n_items), codes)


def _rank(
    context: Context,
    shop: Catalog,
    fitted: Fitted,
    *,
    learnt: Learnt | None,
    removed: bool,
) -> tuple[dict[str, Rankings], dict[str, Any]]:
    """Collect all rankings of the test users, the generated ones first.

    Returns:
        Also how those that are made of others were learnt, for `metrics.json`.
    """
    ours = load_rankings(context, removed=removed)
    inputs = shop.histories.held_out(1)
    split = Split("test", inputs, np.arange(inputs.n_users), removed)
    rankings = {**ours, **_rank_others(context, shop, fitted.rankers, split=split)}
    if learnt is None:
        return rankings, {}
    names = context.settings.evaluation.combine
    lists = evaluation.Lists({name: rankings[name] for name in names}, inputs)
    top_k = max(one.items.shape[1] for one in lists.rankings.values())
    made = {name: make(name, lists, learnt, fitted, top_k=top_k) for name in made_by(learnt)}
    return {**ours, **made, **rankings}, tell(learnt)


def _learn(context: Context, shop: Catalog, fitted: Fitted, *, removed: bool) -> Learnt:
    """Learn from validation users how to make a ranking of others.

    Args:
        context: Of the run.
        shop: The target shop.
        fitted: Without the last two events.
        removed: Whether seen items are left out.

    Raises:
        ConfigError: If a list to be combined is none of this run.
    """
    settings = context.settings
    sample, targets = _rank_validation(context, shop, fitted.rankers, removed=removed)
    combination = evaluation.fit(sample.rankings, targets, n_items=shop.n_items)
    if not settings.evaluation.rerank:
        return evaluation.Learnt(combination, None)
    reranker = evaluation.learn(
        sample,
        targets,
        basis=fitted.describes(combination),
        seed=settings.seed,
        n_threads=settings.runtime.n_threads,
        journal=context.journal,
    )
    return evaluation.Learnt(combination, reranker)


@dataclass(frozen=True)
class Split:
    """Whom to rank for, and how.

    Attributes:
        name: "test" or "validation".
        inputs: Histories of the users, without the events held out.
        users: int64, who they are.
        removed: Whether the items of their histories are left out.
    """

    name: Literal["test", "validation"]
    inputs: Histories
    users: NDArray[np.int64]
    removed: bool


def _rank_others(
    context: Context, shop: Catalog, rankers: Mapping[str, Ranker], *, split: Split
) -> dict[str, Rankings]:
    """Rank with the baselines, and read rankings from elsewhere."""
    settings = context.settings
    top_k = max(settings.decoding.n_beams, LISTED)
    filters = Filters(without=split.inputs) if split.removed else EVERYTHING
    found = {
        name: ranker(split.inputs, top_k=top_k, filters=filters) for name, ranker in rankers.items()
    }
    user_ids = [shop.user_ids[user] for user in split.users]
    for file in settings.evaluation.files:
        path = file.test if split.name == "test" else file.validation
        read = read_rankings(path, user_ids=user_ids, item_ids=shop.item_ids)
        found[file.name] = evaluation.remove_seen(read, split.inputs) if split.removed else read
    return found


def _rank_validation(
    context: Context, shop: Catalog, rankers: Mapping[str, Ranker], *, removed: bool
) -> tuple[Lists, NDArray[np.int32]]:
    """Collect the lists to be combined of some users, and their last but one events."""
    settings = context.settings
    names = settings.evaluation.combine
    known = {*combined_modalities(settings), *rankers}
    known |= {file.name for file in settings.evaluation.files}
    if missing := [name for name in names if name not in known]:
        raise ConfigError(
            f"`evaluation.combine`: expected rankings of this run, {sorted(known)}, "
            f"got {missing}; leave them out"
        )
    inputs, users = combination_split(settings, shop)
    lists: dict[str, Rankings] = {}
    for modality in combined_modalities(settings):
        name = name_of(settings, modality, removed=removed)
        lists[modality] = load(context.folder / "validation" / f"{name}.npz")
    wanted = {name: ranker for name, ranker in rankers.items() if name in names}
    split = Split("validation", inputs, users, removed)
    lists |= _rank_others(context, shop, wanted, split=split)
    chosen = evaluation.Lists({name: lists[name] for name in names}, inputs)
    return chosen, shop.histories.target(2)[users]
