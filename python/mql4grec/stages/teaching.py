"""What EASE^R with codes teaches a model: lists of items that could come next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mql4grec import baselines, evaluation
from mql4grec.config import TrainingSettings
from mql4grec.decoding import Rankings
from mql4grec.errors import ConfigError
from mql4grec.stages.context import Context, load_catalog
from mql4grec.stages.groups import group_items

if TYPE_CHECKING:
    from mql4grec.recommender import Teacher


def make_teacher(context: Context, settings: TrainingSettings, *, names: Sequence[str]) -> Teacher:
    """Rank with EASE^R with codes after every training event of some shops.

    The lists of a shop are calibrated on what did come next, so that their shares are about as
    sure as they are right.

    Raises:
        ConfigError: If a shop has too many items for EASE^R.
    """
    from mql4grec import recommender

    run = context.settings
    items, shares, n_before = [], [], 0
    for name in names:
        shop = load_catalog(context, name)
        limit = run.evaluation.ease_max_items
        if shop.n_items > limit:
            raise ConfigError(
                f"`teacher_share`: expected 0, or shops of at most {limit} items "
                f"(`evaluation.ease_max_items`), got {shop.n_items} in {name!r}; set it to 0"
            )
        groups = group_items(context, shop)
        training = shop.histories.held_out(2)
        found = baselines.rank_after_events(
            training,
            n_items=shop.n_items,
            settings=run.evaluation,
            seed=run.seed,
            groups=groups.rows if groups is not None else None,
        )
        followed = np.delete(np.arange(len(training.items)), training.offsets[1:] - 1)
        calibration = evaluation.calibrate(
            Rankings(items=found.items[followed], scores=found.scores[followed]),
            training.items[followed + 1],
        )
        items.append(np.where(found.items >= 0, found.items + n_before, -1))
        shares.append(recommender.sharpen(found.scores, temperature=calibration.temperature))
        n_before += shop.n_items
    return recommender.Teacher(
        items=np.concatenate(items).astype(np.int32),
        shares=np.concatenate(shares),
        share=settings.teacher_share,
    )
