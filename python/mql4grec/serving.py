"""Recommendations from a trained run, for histories of item ids.

    run = serving.open_run(config.load(Path("myshop.yaml")))
    for found in serving.recommend(run, [["sku-7", "sku-42"]], top_k=5):
        print(found.item_ids, found.scores)

Filters close items during the search, so that a list is short only where no more items fit, and it
is never filled up with others.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mql4grec import evaluation, pipeline
from mql4grec.catalog import Catalog, Histories, Request
from mql4grec.config import FaultPolicy, Modality, Settings
from mql4grec.decoding import Filters, Rankings
from mql4grec.errors import DataError, short
from mql4grec.report import Recommendation
from mql4grec.runtime import SILENT, Journal
from mql4grec.stages.combining import MADE, way_of
from mql4grec.stages.ranking import Ranker, load_ranker, modalities_of, rank

CHUNK = 1024  # histories that are in memory together


@dataclass(frozen=True)
class ItemFilters:
    """Which items may be recommended, for all histories alike; each may have lists of its own.

    Attributes:
        unseen: Leave out the items of the history; None: as `evaluation.remove_seen` says.
        only: Item ids, such as those in stock; no others. None: all items of the shop.
        without: Item ids that nobody gets.
        unknown_items: Ids that the shop does not have, in histories and in lists: "error" refuses
            them, "drop" leaves them out, and answers tell which were in the history. A history of
            which nothing is left gets an empty list.
    """

    unseen: bool | None = None
    only: Collection[str] | None = None
    without: Collection[str] = ()
    unknown_items: FaultPolicy = "error"


NO_FILTERS = ItemFilters()


def open_run(settings: Settings, *, journal: Journal = SILENT) -> Ranker:
    """Read a trained run, once for any number of calls of `recommend`.

    Args:
        settings: Of the run.
        journal: Shows the progress of the search.

    Raises:
        ArtifactError: If the fine-tuning is not done, or a file is missing.
    """
    pipeline.require_done(pipeline.inspect(settings), "evaluate")
    return load_ranker(pipeline.context_of(settings, journal=journal))


def recommend(
    run: Ranker,
    histories: Iterable[Request | Sequence[str]],
    *,
    ranking: str = "fused",
    top_k: int = 10,
    filters: ItemFilters = NO_FILTERS,
) -> Iterator[Recommendation]:
    """Recommend the next items.

    The search has as many beams as `decoding.n_beams` says, or `top_k` if that is more.

    Args:
        run: From `open_run`.
        histories: Item ids each, oldest first, or a `catalog.Request`, which may have lists of its
            own. They are taken a thousand at a time, so that an iterator of any length does.
        ranking: "text", "image" or "fused" (both; where the shop has one modality, that one); and
            as `evaluation.combine` and `rerank` say, "combined" and "reranked", of an evaluated
            run. For the first of these baselines are fitted anew, once for all calls.
        top_k: Most items per history.
        filters: Which items may be recommended.

    Returns:
        An iterator of one answer per history, in their order; scores are log-probabilities, summed
        over the codes of an item, fused ones as `evaluation.fuse` makes them, combined and
        reranked ones as `evaluation.combine` and `rerank` do. `certified` tells which lists are
        provably those of exact scoring; with `decoding.exact` all are. Combined and reranked ones
        never are: they rank what is on the lists that they are made of, which are as long as for
        the run's figures, unless `top_k` is more.

    Raises:
        ArtifactError: If the run has no such ranking, or is not evaluated under these settings and
            the ranking is learnt there.
        ConfigError: If "combined" or "reranked" may have seen items, and that was not learnt.
        DataError: For an empty history, ids that the shop does not have, or filters that leave
            nothing to anybody. Those of a history are raised when its turn comes.
        TypeError: If a history is a string.
        ValueError: If `top_k` is not positive.
    """
    if top_k < 1:
        raise ValueError(f"`top_k`: expected at least 1, got {top_k}; ask for more")
    settings = run.context.settings
    modalities = modalities_of(run.context, ranking)
    unseen = settings.evaluation.remove_seen if filters.unseen is None else filters.unseen
    way = None
    if ranking in MADE:
        way = way_of(settings, ranking, unseen=unseen)
        pipeline.require_stage(pipeline.inspect(settings), "evaluate metrics", command="recommend")
    is_all_coded = ranking not in MADE or set(settings.evaluation.combine) <= set(modalities)
    coded = modalities if is_all_coded else ()
    ids = ItemIds(run.shop, unknown_items=filters.unknown_items)
    plan = Plan(
        run=run,
        ids=ids,
        ranking=ranking,
        modalities=modalities,
        way=way,
        top_k=min(top_k, run.shop.n_items),
        unseen=unseen,
        mask=_mask(run, filters, ids=ids, modalities=coded),
    )
    return _answers(plan, histories)


class ItemIds:
    """The shop's item ids, to be turned into item rows."""

    def __init__(self, shop: Catalog, *, unknown_items: FaultPolicy) -> None:
        """Number the ids of a shop; what is none of them is an error, or dropped."""
        self._name = shop.name
        self._row_of = {item_id: row for row, item_id in enumerate(shop.item_ids)}
        self._drop = unknown_items == "drop"

    def unknown(self, item_ids: Iterable[str]) -> tuple[str, ...]:
        """List the ids that the shop does not have."""
        return tuple(item_id for item_id in item_ids if item_id not in self._row_of)

    def rows(self, item_ids: Collection[str], *, place: str) -> list[int]:
        """Turn ids into rows.

        Raises:
            DataError: If the shop does not have one, unless such are dropped.
        """
        unknown = self.unknown(item_ids)
        if unknown and not self._drop:
            raise DataError(
                f"{place}: expected item ids of `{self._name}`, got {len(unknown)} unknown, the "
                f"first {list(unknown[:5])}; ids are those of `{self._name}.item2id` (preparation "
                "drops rare items); `--drop-unknown` leaves out what is none"
            )
        return [self._row_of[item_id] for item_id in item_ids if item_id in self._row_of]


@dataclass(frozen=True)
class Plan:
    """How to search, the same for all histories.

    Attributes:
        run: The trained run.
        ids: Of the shop.
        ranking: As asked for.
        modalities: That are searched; to be fused, combined, or one to be left as it is.
        way: How they are combined, as `Combiner` has it; None: they are not.
        top_k: Most items per history, at most N.
        unseen: Whether items of the history are left out.
        mask: bool (1, N), the items that may be recommended to anybody; None: all.
    """

    run: Ranker
    ids: ItemIds
    ranking: str
    modalities: Sequence[Modality]
    way: bool | None
    top_k: int
    unseen: bool
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Rows:
    """A request as item rows; `only` is None for all items."""

    history: list[int]
    only: list[int] | None
    without: list[int]


def _mask(
    run: Ranker, filters: ItemFilters, *, ids: ItemIds, modalities: Sequence[Modality]
) -> NDArray[np.bool_] | None:
    """Mark the items that the filters leave to everybody: bool (1, N), None if all.

    Raises:
        DataError: If nothing is left, of what has codes in one of the modalities, if there are any.
    """
    if filters.only is None and not filters.without:
        return None
    mask = np.full((1, run.shop.n_items), filters.only is None)
    if filters.only is not None:
        mask[0, ids.rows(filters.only, place="`only`")] = True
    mask[0, ids.rows(filters.without, place="`without`")] = False
    left = [mask[0, run.tries[modality].rows] for modality in modalities] or [mask[0]]
    if not any(marks.any() for marks in left):
        what = f"items that have {' or '.join(modalities)} codes" if modalities else "items"
        n_only = "all" if filters.only is None else len(filters.only)
        raise DataError(
            f"filters: expected to leave {what}, got none "
            f"(`only`: {n_only}, `without`: {len(filters.without)}); give other lists"
        )
    return mask


def _answers(plan: Plan, histories: Iterable[Request | Sequence[str]]) -> Iterator[Recommendation]:
    requests = map(_request, histories)
    while chunk := list(itertools.islice(requests, CHUNK)):
        yield from _answer(plan, chunk)


def _request(given: Request | Sequence[str]) -> Request:
    if isinstance(given, str):  # whose letters would pass for ids
        raise TypeError(
            f"`histories`: expected lists of item ids, got {short(given)}; put one history in a "
            "list"
        )
    return given if isinstance(given, Request) else Request(history=tuple(given))


def _answer(plan: Plan, requests: Sequence[Request]) -> Iterator[Recommendation]:
    """Answer some requests together: first find all, then tell them in their order."""
    rows = [_read(plan, request) for request in requests]
    best: dict[int, list[tuple[int, float]]] = {}
    certified: set[int] = set()
    for own_list in (False, True):  # a search has lists of open items for all users or for none
        users = [
            user
            for user, row in enumerate(rows)
            if row.history and (row.only is not None) == own_list
        ]
        if users:
            found = _search(plan, [rows[user] for user in users])
            for user, items, scores in zip(users, found.items, found.scores, strict=True):
                pairs = zip(items.tolist(), scores.tolist(), strict=True)
                best[user] = [(item, score) for item, score in pairs if item >= 0][: plan.top_k]
            if found.certified is not None:
                certified.update(itertools.compress(users, found.certified.tolist()))
    shop = plan.run.shop
    for user, request in enumerate(requests):
        items = best.get(user, [])
        yield Recommendation(
            history=request.history,
            item_ids=tuple(shop.item_ids[item] for item, _ in items),
            titles=tuple(shop.titles[item] for item, _ in items),
            scores=tuple(score for _, score in items),
            user_id=request.user_id,
            unknown=plan.ids.unknown(request.history),
            certified=user in certified,
        )


def _read(plan: Plan, request: Request) -> Rows:
    """Turn the ids of a request into rows, seen items into items that are not wanted."""
    if not request.history:
        raise DataError(
            f"{request.place}: expected at least one item id, got an empty history; leave it out"
        )
    history = plan.ids.rows(request.history, place=request.place)
    without = plan.ids.rows(request.without, place=f"{request.place}, `without`")
    only = None
    if request.only is not None:
        only = plan.ids.rows(request.only, place=f"{request.place}, `only`")
    return Rows(history, only, without + history if plan.unseen else without)


def _search(plan: Plan, rows: Sequence[Rows]) -> Rankings:
    """Rank for some histories, of which all or none have lists of items of their own."""
    settings = plan.run.context.settings
    histories = _lists([row.history for row in rows])
    filters = Filters(
        masks=plan.mask,
        only=None if rows[0].only is None else _lists([row.only or [] for row in rows]),
        without=_lists([row.without for row in rows]) if any(row.without for row in rows) else None,
    )
    n_beams = max(settings.decoding.n_beams, plan.top_k)
    if plan.way is not None:
        n_beams, _ = plan.run.combiner.lengths(plan.way, top_k=plan.top_k)
    is_alone = len(plan.modalities) == 1 and plan.way is None
    generated = {
        modality: rank(
            plan.run,
            histories,
            modality=modality,
            n_beams=n_beams,
            # Lists of which others are made have to be longer than what comes out.
            top_k=plan.top_k if is_alone else None,
            filters=filters,
        )
        for modality in plan.modalities
    }
    if plan.way is not None:
        return plan.run.combiner.rank(
            plan.ranking,
            histories,
            generated,
            way=plan.way,
            top_k=plan.top_k,
            filters=filters,
        )
    rankings = evaluation.assemble(
        generated,
        histories,
        settings=settings.evaluation.model_copy(update={"remove_seen": False}),  # the filters did
        n_tokens=1 + max(len(trie.n_codes) for trie in plan.run.tries.values()),
    )
    return rankings.get("fused") or rankings[plan.modalities[0]]


def _lists(lists: Sequence[Sequence[int]]) -> Histories:
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    return Histories(offsets, np.array([*itertools.chain(*lists)], dtype=np.int32))
