"""Rankings from a trained run: for its test split, and for any other histories of its shop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mql4grec import evaluation
from mql4grec.catalog import Catalog, Histories
from mql4grec.config import DatasetSettings, Modality
from mql4grec.decoding import Filters, Rankings
from mql4grec.errors import ArtifactError
from mql4grec.stages.combining import MADE, Combiner, load_combiner, made_of
from mql4grec.stages.context import (
    SEQUENCE_TASK,
    Context,
    load_catalog,
    load_corpus,
    load_ids,
    load_spelt_ids,
    load_vocabulary,
    modalities,
)

if TYPE_CHECKING:
    from mql4grec.decoding import ItemTrie
    from mql4grec.decoding.batches import BeamCount
    from mql4grec.language import Corpus
    from mql4grec.recommender import Model


@dataclass(frozen=True)
class Ranker:
    """What ranks the items of a shop, read once for many calls.

    Attributes:
        context: Of the run.
        shop: The target shop; during a training, any of its shops.
        corpus: The shop's items as tokens.
        model: The recommender.
        tries: Of the items, by modality; those in which the shop has codes.
    """

    context: Context
    shop: Catalog
    corpus: Corpus
    model: Model
    tries: dict[Modality, ItemTrie]

    @cached_property
    def combiner(self) -> Combiner:
        """What makes rankings of others, read and fitted when first asked for."""
        return load_combiner(self.context, self.shop)


def load_ranker(context: Context) -> Ranker:
    """Read what a run has left.

    Args:
        context: Of a run whose fine-tuning is done.

    Raises:
        ArtifactError: If a file is missing.
    """
    from mql4grec import recommender

    model = recommender.load(context.folder / "recommender" / "finetune")
    return make_ranker(context, context.settings.target, model)


def make_ranker(context: Context, shop: DatasetSettings, model: Model) -> Ranker:
    """Put a model, trained or in training, before the items of a shop."""
    from mql4grec import decoding

    ids = load_spelt_ids(context, shop, vocabulary=load_vocabulary(context))
    return Ranker(
        context=context,
        shop=load_catalog(context, shop.name),
        corpus=load_corpus(context, shop.name),
        model=model,
        tries={modality: decoding.build_trie(found) for modality, found in ids.items()},
    )


def rank(
    ranker: Ranker,
    histories: Histories,
    *,
    modality: Modality,
    n_beams: BeamCount,
    top_k: int | None = None,
    filters: Filters | None = None,
    folder: Path | None = None,
) -> Rankings:
    """Rank the shop's items for every history, by beam search in one modality.

    Args:
        ranker: Of the run.
        histories: Of U users, item rows of the shop.
        modality: Whose codes are read and written.
        n_beams: M; "all" scores every item.
        top_k: Items per user; None: as many as beams.
        filters: Which items each user may get; all if None.
        folder: Where finished parts are kept, so that an interrupted call goes on; None: nowhere.
    """
    from mql4grec import decoding, recommender

    settings, corpus = ranker.context.settings.decoding, ranker.corpus
    task = SEQUENCE_TASK[modality]
    inputs = recommender.read_histories(ranker.model, corpus, histories, task=task)
    return decoding.recommend(
        ranker.model,
        ranker.tries[modality],
        vocabulary=corpus.vocabulary,
        modality=modality,
        inputs=inputs,
        n_beams=n_beams,
        batch_size=settings.batch_size,
        search=decoding.Search(
            normalise=settings.normalise,
            top_k=top_k,
            exact=settings.exact,
            graphs=settings.graphs,
        ),
        filters=filters,
        folder=folder,
        runtime=ranker.context.runtime,
        journal=ranker.context.journal,
    )


def assemble(
    context: Context,
    generated: Mapping[Modality, Rankings],
    histories: Histories,
    *,
    remove_seen: bool,
) -> dict[str, Rankings]:
    """Remove seen items if asked, and add "fused" where both modalities are."""
    ids = load_ids(context, context.settings.target)
    return evaluation.assemble(
        generated,
        histories,
        settings=context.settings.evaluation.model_copy(update={"remove_seen": remove_seen}),
        n_tokens=1 + max(found.n_levels for found in ids.values()),  # codes and eos
    )


def validation_split(
    shop: Catalog, *, limit: int, seed: int
) -> tuple[Histories, NDArray[np.int64]]:
    """Draw users for whom something is chosen on their last but one events.

    Returns:
        Their histories without the last two events, and who they are, int64, ascending.
    """
    users = np.arange(shop.histories.n_users)
    if len(users) > limit:
        generator = np.random.default_rng([seed, limit])
        users = np.sort(generator.choice(users, limit, replace=False))
    return shop.histories.held_out(2).of_users(users), users


def modalities_of(context: Context, ranking: str) -> Sequence[Modality]:
    """List the modalities that a ranking is made of.

    Returns:
        One; for "fused" all that the shop has; for those of `MADE` the ones that are combined.

    Raises:
        ArtifactError: If the run has no such ranking for histories of any kind.
    """
    settings = context.settings
    available = modalities(settings, settings.target)
    wanted: dict[str, Sequence[Modality]] = {one: (one,) for one in available}
    wanted["fused"] = available
    for name in MADE:
        made_from = made_of(settings, name)
        if made_from is not None:
            wanted[name] = made_from
    if ranking not in wanted:
        raise ArtifactError(
            f"`--ranking`: expected one of {list(wanted)}, got {ranking!r}; choose another "
            "(`combined` needs `evaluation.combine`, `reranked` also `evaluation.rerank`, both no "
            "list of `evaluation.files`)"
        )
    return wanted[ranking]
