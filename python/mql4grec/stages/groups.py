"""Items of a shop whose codes begin alike, for EASE^R with codes."""

from __future__ import annotations

from dataclasses import dataclass

from scipy import sparse

from mql4grec import baselines, codes
from mql4grec.catalog import Catalog
from mql4grec.stages.context import Context, load_ids

SEED = 0  # of who is ranked for: the weight is the shop's, not that of a run's seed


@dataclass(frozen=True)
class Groups:
    """Items that are alike.

    Attributes:
        rows: float32 (G, N), as `baselines.fit_ease` wants them.
        weight: Their value where an item is in a group.
    """

    rows: sparse.csr_array
    weight: float


def group_items(context: Context, shop: Catalog, *, weight: float | None = None) -> Groups | None:
    """Put items of a shop together whose codes begin alike.

    Args:
        context: Of a run whose semantic IDs are there; its journal is told the weight if it is
            chosen here.
        shop: One of its shops.
        weight: What was chosen before; None: as `evaluation.ease_codes_weight` says.

    Returns:
        None if `evaluation.ease_codes_weight` is 0, if no items begin alike, or if the shop is too
        large for EASE^R.
    """
    settings = context.settings.evaluation
    if settings.ease_codes_weight == 0 or shop.n_items > settings.ease_max_items:
        return None
    if weight is None:
        weight = settings.ease_codes_weight
    (one,) = (one for one in context.settings.catalog.datasets if one.name == shop.name)
    rows = codes.group_by_prefix(load_ids(context, one).values())
    if not rows.shape[0]:
        return None
    if weight is None:
        weight, ndcg = baselines.choose_weight(
            shop.histories.held_out(2),
            rows,
            n_items=shop.n_items,
            settings=settings,
            seed=SEED,
            journal=context.journal,
        )
        context.journal.log("baselines.codes", dataset=shop.name, weight=weight, ndcg=ndcg)
    return Groups(rows * weight, weight)
