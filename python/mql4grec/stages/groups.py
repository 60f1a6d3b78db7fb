"""Items of a shop whose codes begin alike, for EASE^R with codes."""

from __future__ import annotations

from scipy import sparse

from mql4grec import baselines, codes
from mql4grec.stages.context import Context, load_catalog, load_ids

SEED = 0  # of who is ranked for: the weight is the shop's, not that of a run's seed


def load_groups(context: Context, name: str) -> sparse.csr_array | None:
    """Put items of a shop together whose codes begin alike, and weigh these groups.

    Args:
        context: Of a run whose semantic IDs are there; its journal is told the weight if it is
            chosen here.
        name: Of one of its shops.

    Returns:
        float32 (G, N), as `baselines.fit_ease` wants them; None if they weigh nothing, if there are
        none, or if the shop is too large for EASE^R.
    """
    settings = context.settings.evaluation
    shop = load_catalog(context, name)
    if settings.ease_codes_weight == 0 or shop.n_items > settings.ease_max_items:
        return None
    (one,) = (one for one in context.settings.catalog.datasets if one.name == name)
    groups = codes.group_by_prefix(load_ids(context, one).values())
    if not groups.shape[0]:
        return None
    weight = settings.ease_codes_weight
    if weight is None:
        training = shop.histories.held_out(2)
        weight, ndcg = baselines.choose_weight(
            training, groups, n_items=shop.n_items, settings=settings, seed=SEED
        )
        context.journal.log("baselines.codes_weight", dataset=name, weight=weight, ndcg=ndcg)
    return groups * weight
