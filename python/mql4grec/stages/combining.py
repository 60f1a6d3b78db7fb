"""Rankings made of others: those of a run's figures, and the same for any histories of its shop."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mql4grec import artifacts, baselines, evaluation
from mql4grec.baselines import Ranker
from mql4grec.catalog import Catalog, Histories
from mql4grec.config import MODALITIES, Modality, Settings
from mql4grec.decoding import Filters, Rankings
from mql4grec.errors import ConfigError
from mql4grec.stages.context import SEEN, Context, ways_of
from mql4grec.stages.groups import Groups, group_items
from mql4grec.stages.limits import Sizes, left_out

if TYPE_CHECKING:
    from mql4grec.evaluation import Basis, Combination, Learnt, Lists, Occurrences

MADE = ("combined", "reranked")
LISTED = 10  # items that lists have at least: the metrics look at so many
FOLDER = "learnt"  # of what was learnt, in that of the figures


@dataclass(frozen=True)
class Fitted:
    """What is known of a shop's training events.

    Attributes:
        rankers: Baselines by name; SASRec, trained already, is one.
        occurrences: Of the items.
    """

    rankers: Mapping[str, Ranker]
    occurrences: Occurrences

    def describes(self, combination: Combination) -> Basis:
        """Give what candidates of combined lists are described by."""
        models = {
            name: ranker
            for name, ranker in self.rankers.items()
            if isinstance(ranker, baselines.ItemToItem)
        }
        return evaluation.Basis(combination, self.occurrences, models)


def fit_on(context: Context, shop: Catalog, groups: Groups | None, *, n_held_out: int) -> Fitted:
    """Fit every baseline that the shop's size and the settings allow; SASRec is trained already.

    Args:
        context: Of a run whose SASRec is trained, if asked for.
        shop: The target shop.
        groups: Of its items, from `group_items`.
        n_held_out: How many of the users' last events are not looked at, but by SASRec, which was
            trained without the last two.
    """
    settings = context.settings
    training = shop.histories.held_out(n_held_out)
    rankers = baselines.fit(
        training,
        n_items=shop.n_items,
        settings=settings.evaluation,
        groups=groups.rows if groups is not None else None,
        journal=context.journal,
    )
    if settings.sasrec.enabled and "sasrec" not in left_out(settings, Sizes.of(shop)):
        from mql4grec import sasrec

        network = sasrec.load(context.folder / "sasrec", runtime=context.runtime)
        rankers["sasrec"] = partial(sasrec.rank, network)
    return Fitted(rankers, evaluation.occurrences(training, n_items=shop.n_items))


def make(ranking: str, lists: Lists, learnt: Learnt, fitted: Fitted, *, top_k: int) -> Rankings:
    """Make a ranking of others.

    Args:
        ranking: One of MADE.
        lists: Of users to rank for.
        learnt: From validation users.
        fitted: What candidates are described by.
        top_k: Length of the new lists.
    """
    combination = learnt.combination
    if ranking == "combined":
        n_items = fitted.occurrences.n_items
        return evaluation.combine(lists.rankings, combination, n_items=n_items, top_k=top_k)
    assert learnt.reranker is not None
    reranker = dataclasses.replace(learnt.reranker, basis=fitted.describes(combination))
    return evaluation.rerank(lists, reranker, top_k=top_k)


def made_by(learnt: Learnt) -> tuple[str, ...]:
    """List the rankings that can be made by what was learnt."""
    return MADE if learnt.reranker is not None else MADE[:1]


def tell(learnt: Learnt) -> dict[str, Any]:
    """Tell how rankings are made of others, for `metrics.json`."""
    told = {"combination": dataclasses.asdict(learnt.combination)}
    if learnt.reranker is not None:
        told["reranking"] = dataclasses.asdict(learnt.reranker.record)
    return told


@dataclass(frozen=True)
class Combiner:
    """What makes rankings of others for any histories of a shop.

    Attributes:
        fitted: The run's baselines.
        learnt: What the run's figures go by; by whether seen items were left out.
        n_beams: Of the run's figures.
    """

    fitted: Fitted
    learnt: Mapping[bool, Learnt]
    n_beams: int

    def lengths(self, way: bool, *, top_k: int) -> tuple[int, int]:
        """Give the length of generated lists, and of the others.

        They are those of the figures, for which it was learnt how to combine, unless more is asked
        for than lists of these lengths are sure to have.
        """
        listed = max(self.n_beams, LISTED)
        have_others = any(name not in MODALITIES for name in self.learnt[way].combination.weights)
        if top_k <= (listed if have_others else self.n_beams):
            return self.n_beams, listed
        return max(top_k, self.n_beams), max(top_k, listed)

    def rank(
        self,
        ranking: str,
        histories: Histories,
        generated: Mapping[Modality, Rankings],
        *,
        way: bool,
        top_k: int,
        filters: Filters,
    ) -> Rankings:
        """Rank for some histories.

        Args:
            ranking: One of MADE.
            histories: Of U users.
            generated: Their lists by the recommender, by modality, of one of the `lengths`.
            way: Which of `learnt` to go by, from `way_of`.
            top_k: Length of the new lists.
            filters: Which items each user may get; `generated` followed them.
        """
        learnt = self.learnt[way]
        _, length = self.lengths(way, top_k=top_k)
        rankings: dict[str, Rankings] = dict(generated.items())
        for name, ranker in self.fitted.rankers.items():
            if name in learnt.combination.calibrations:
                rankings[name] = ranker(histories, top_k=length, filters=filters)
        lists = evaluation.Lists(rankings, histories)
        return make(ranking, lists, learnt, self.fitted, top_k=top_k)


def way_of(settings: Settings, ranking: str, *, unseen: bool) -> bool:
    """Tell by what a ranking of MADE is made: learnt with seen items left out (True), or kept.

    Where they are to be left out and that was not learnt, the other does: lists lose items.

    Raises:
        ConfigError: If seen items are wanted, and nothing was learnt of them.
    """
    ways = ways_of(settings)
    if not unseen and False not in ways:
        raise ConfigError(
            f"`--ranking {ranking}`: expected seen items to be left out, as they were when it "
            "was learnt how to rank, got that they are kept; set "
            "`evaluation.compare_seen: true` and run `mql4grec evaluate`, or leave them out"
        )
    return unseen and True in ways


def load_combiner(context: Context, shop: Catalog) -> Combiner:
    """Make ready what a run's rankings of others are made by.

    Baselines are fitted anew, on the events that they were fitted on for the run's figures.

    Args:
        context: Of a run that is evaluated.
        shop: Its target shop.

    Raises:
        ArtifactError: If a file is missing.
    """
    settings = context.settings
    folder = context.folder / "evaluation"
    told = artifacts.read_json(folder / "metrics.json", made_by="evaluate")
    groups = group_items(context, shop, weight=told.get("ease_codes_weight"))
    n_held_out = 1 if settings.evaluation.refit else 2
    fitted = fit_on(context, shop, groups, n_held_out=n_held_out)
    learnt = {
        removed: evaluation.read_learnt(
            folder / FOLDER,
            SEEN[removed],
            describes=fitted.describes,
            n_threads=settings.runtime.n_threads,
        )
        for removed in ways_of(settings)
    }
    return Combiner(fitted, learnt, n_beams=settings.decoding.n_beams)


def write_learnt(folder: Path, learnt: Mapping[bool, Learnt]) -> None:
    """Keep what was learnt for `load_combiner`, in the folder of the figures."""
    for removed, one in learnt.items():
        evaluation.write_learnt(folder / FOLDER, SEEN[removed], one)


def made_of(settings: Settings, ranking: str) -> tuple[Modality, ...] | None:
    """List the modalities that a ranking of MADE is made of; None if it cannot be made.

    Rankings from elsewhere are of the run's users only, so that what they are part of cannot be
    made for any history.
    """
    names = set(settings.evaluation.combine)
    given = {file.name for file in settings.evaluation.files}
    asked = ranking == "combined" or (ranking == "reranked" and settings.evaluation.rerank)
    if not names or not asked or names & given:
        return None
    return tuple(modality for modality in MODALITIES if modality in names)
