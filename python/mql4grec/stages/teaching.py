"""What EASE^R with codes teaches a model: lists of items that could come next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mql4grec import baselines, evaluation
from mql4grec.catalog import Catalog
from mql4grec.config import TrainingSettings
from mql4grec.decoding import Rankings
from mql4grec.errors import ConfigError
from mql4grec.stages.context import Context, load_catalog
from mql4grec.stages.groups import Groups, group_items
from mql4grec.stages.limits import Sizes, teacher_fault

if TYPE_CHECKING:
    from mql4grec.recommender import Teacher

N_COLD = 10  # items without training events that are taught after an event


def make_teacher(context: Context, settings: TrainingSettings, *, names: Sequence[str]) -> Teacher:
    """Rank with EASE^R with codes after every training event of some shops.

    The lists of a shop are calibrated on what did come next, so that their shares are about as
    sure as they are right.

    Raises:
        ConfigError: If a shop has too many items for EASE^R.
    """
    from mql4grec import recommender

    items, shares, n_before = [], [], 0
    for name in names:
        shop = load_catalog(context, name)
        listed, own = _teach(context, settings, shop)
        items.append(np.where(listed >= 0, listed + n_before, -1))
        shares.append(own)
        n_before += shop.n_items
    return recommender.Teacher(
        items=_stack(items, -1), shares=_stack(shares, 0.0), share=settings.teacher_share
    )


def _teach(
    context: Context, settings: TrainingSettings, shop: Catalog
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Give items (E, M) that could come after each of a shop's training events, and their shares.

    Raises:
        ConfigError: If it has too many items for EASE^R.
    """
    from mql4grec import recommender

    run = context.settings
    if fault := teacher_fault(run, settings, shop.name, Sizes.of(shop)):
        raise ConfigError(fault)
    groups = group_items(context, shop)
    training = shop.histories.held_out(2)
    masks: tuple[NDArray[np.bool_] | None, ...] = (None,)
    if settings.teacher_cold_share:
        is_cold = np.bincount(training.items, minlength=shop.n_items) == 0
        taught = is_cold & _known(groups, n_items=shop.n_items)
        context.journal.log("teacher.cold", dataset=shop.name, n_items=int(taught.sum()))
        masks = (~is_cold, taught) if taught.any() else masks
    found, *cold = baselines.rank_after_events(
        training,
        n_items=shop.n_items,
        settings=run.evaluation,
        seed=run.seed,
        groups=groups.rows if groups is not None else None,
        masks=masks,
    )
    followed = np.delete(np.arange(len(training.items)), training.offsets[1:] - 1)
    calibration = evaluation.calibrate(
        Rankings(items=found.items[followed], scores=found.scores[followed]),
        training.items[followed + 1],
    )
    items = found.items
    shares = recommender.sharpen(found.scores, temperature=calibration.temperature)
    for ranking in cold:
        best = ranking.items[:, :N_COLD]
        items = np.hstack([items, best])
        shares = recommender.add_cold(shares, best, share=settings.teacher_cold_share)
    return items, shares


def _known(groups: Groups | None, *, n_items: int) -> NDArray[np.bool_]:
    """Tell of which items codes tell anything, bool (N,): they begin like those of others."""
    if groups is None or not groups.weight:
        return np.zeros(n_items, bool)
    known: NDArray[np.bool_] = np.diff(groups.rows.tocsc().indptr) > 0
    return known


def _stack(parts: Sequence[NDArray[Any]], fill: float) -> NDArray[Any]:
    """Put the lists of shops below one another, filled up to the longest."""
    width = max(part.shape[1] for part in parts)
    filled = [np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=fill) for p in parts]
    return np.concatenate(filled)
