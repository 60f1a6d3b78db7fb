"""The stages from a trained T5 to rankings, those of the baselines beside them, and figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
from mql4grec.stages.context import Context, before_path, load_catalog, load_ids, modalities

if TYPE_CHECKING:
    from mql4grec.evaluation import Lists


SEEN = {False: "seen_kept", True: "seen_removed"}
SHARED = ("n_users", "n_items", "settings")  # of `metrics.json`, told once


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
    inputs, _ = _combination_split(context.settings, ranker.shop)
    for modality in combined_modalities(context.settings):
        for removed in ways_of(context.settings):
            _decode(ranker, inputs, modality=modality, folder=folder, removed=removed)


def ways_of(settings: Settings) -> tuple[bool, ...]:
    """List whether seen items are removed: the main way, and if asked the other."""
    removed = settings.evaluation.remove_seen
    return (removed, not removed) if settings.evaluation.compare_seen else (removed,)


def _name(settings: Settings, modality: Modality, *, removed: bool) -> str:
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
    from mql4grec.decoding import Filters

    settings = ranker.context.settings
    name = _name(settings, modality, removed=removed)
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


def _combination_split(settings: Settings, shop: Catalog) -> tuple[Histories, NDArray[np.int64]]:
    """Draw the users on whose last but one events weights are chosen."""
    limit = settings.evaluation.combine_users
    return generated.validation_split(shop, limit=limit, seed=settings.seed)


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
    items = _items(context, shop)
    found: dict[str, Any] = {}
    for removed in ways_of(settings):
        rankings, told = _rank(context, shop, rankers, removed=removed)
        figures = evaluation.evaluate(
            rankings,
            shop.histories.target(1),
            items=items,
            settings=settings.evaluation,
            seed=settings.seed,
        )
        figures |= told
        is_main = removed == settings.evaluation.remove_seen
        place = folder / "rankings" if is_main else folder / "rankings" / SEEN[removed]
        for name, ranking in rankings.items():
            path = place / f"{name}.parquet"
            write_rankings(path, ranking, user_ids=shop.user_ids, item_ids=shop.item_ids)
        if is_main:
            found = figures
        else:
            found[SEEN[removed]] = {key: figures[key] for key in figures if key not in SHARED}
    artifacts.write_json(folder / "metrics.json", found)
    context.journal.log("evaluation.metrics", rankings=found["rankings"])


def _items(context: Context, shop: Catalog) -> evaluation.Items:
    """Tell what the figures need to know of the items.

    Codes before repair are left out where they were not kept, as by versions before.
    """
    codes: dict[Modality, NDArray[np.int32]] = {}
    for modality, ids in load_ids(context, context.settings.target).items():
        path = before_path(context.folder / "codes", shop.name, modality)
        if path.exists():
            codes[modality] = evaluation.number_codes(np.load(path), ids.present)
    training = shop.histories.held_out(2).items
    return evaluation.Items(np.bincount(training, minlength=shop.n_items), codes)


def _rank(
    context: Context, shop: Catalog, rankers: Mapping[str, Ranker], *, removed: bool
) -> tuple[dict[str, Rankings], dict[str, Any]]:
    """Collect all rankings of the test users, the generated ones first.

    Returns:
        Also how those that are made of others were learnt, for `metrics.json`.
    """
    ours = load_rankings(context, removed=removed)
    inputs = shop.histories.held_out(1)
    split = Split("test", inputs, np.arange(inputs.n_users), removed)
    rankings = {**ours, **_rank_others(context, shop, rankers, split=split)}
    names = context.settings.evaluation.combine
    if not names:
        return rankings, {}
    if missing := [name for name in names if name not in rankings]:
        raise ConfigError(
            f"`evaluation.combine`: expected rankings of this run, {sorted(rankings)}, "
            f"got {missing}; leave them out"
        )
    lists = evaluation.Lists({name: rankings[name] for name in names}, inputs)
    known = _rank_validation(context, shop, rankers, removed=removed)
    made, told = _make(context, shop, lists, known)
    return {**ours, **made, **rankings}, told


def _make(
    context: Context, shop: Catalog, lists: Lists, known: tuple[Lists, NDArray[np.int32]]
) -> tuple[dict[str, Rankings], dict[str, Any]]:
    """Make the rankings that are made of others.

    Args:
        context: Of the run.
        shop: The target shop.
        lists: Of the test users.
        known: Of validation users, and what each of them took next; learnt from.

    Returns:
        "combined" and, if asked for, "reranked"; how they were learnt.
    """
    top_k = max(one.items.shape[1] for one in lists.rankings.values())
    sample, targets = known
    combination = evaluation.fit(sample.rankings, targets, n_items=shop.n_items)
    combined = evaluation.combine(lists.rankings, combination, n_items=shop.n_items, top_k=top_k)
    made, told = {"combined": combined}, {"combination": dataclasses.asdict(combination)}
    settings = context.settings
    if settings.evaluation.rerank:
        training = evaluation.occurrences(shop.histories.held_out(2), n_items=shop.n_items)
        reranker = evaluation.learn(
            sample,
            targets,
            basis=evaluation.Basis(combination, training),
            seed=settings.seed,
            n_threads=settings.runtime.n_threads,
            journal=context.journal,
        )
        made["reranked"] = evaluation.rerank(lists, reranker, top_k=top_k)
        told["reranking"] = dataclasses.asdict(reranker.record)
    return made, told


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
    top_k = max(settings.decoding.n_beams, 10)  # the metrics look at ten
    found = {
        name: ranker(split.inputs, top_k=top_k, remove_seen=split.removed)
        for name, ranker in rankers.items()
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
    inputs, users = _combination_split(settings, shop)
    lists: dict[str, Rankings] = {}
    for modality in combined_modalities(settings):
        name = _name(settings, modality, removed=removed)
        lists[modality] = _load(context.folder / "validation" / f"{name}.npz")
    wanted = {name: ranker for name, ranker in rankers.items() if name in names}
    split = Split("validation", inputs, users, removed)
    lists |= _rank_others(context, shop, wanted, split=split)
    chosen = evaluation.Lists({name: lists[name] for name in names}, inputs)
    return chosen, shop.histories.target(2)[users]


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
        name = _name(settings, modality, removed=removed)
        found[modality] = _load(context.folder / "decoding" / f"{name}.npz")
    inputs = load_catalog(context, settings.target.name).histories.held_out(1)
    return generated.assemble(context, found, inputs, remove_seen=removed)


def _load(path: Path) -> Rankings:
    with np.load(artifacts.require(path, made_by="evaluate"), allow_pickle=False) as arrays:
        return Rankings(items=arrays["items"], scores=arrays["scores"])
