"""All baselines of a shop, as its settings say."""

from __future__ import annotations

from scipy import sparse

from mql4grec.baselines.counting import fit_item_knn, fit_most_popular
from mql4grec.baselines.ease import fit_ease
from mql4grec.baselines.ranker import ItemToItem, Ranker
from mql4grec.catalog import Histories
from mql4grec.config import EvaluationSettings
from mql4grec.runtime import SILENT, Journal


def fit(
    training: Histories,
    *,
    n_items: int,
    settings: EvaluationSettings,
    groups: sparse.csr_array | None = None,
    journal: Journal = SILENT,
) -> dict[str, Ranker]:
    """Fit every baseline that the catalog's size allows.

    Args:
        training: Histories without the events held out.
        n_items: N.
        settings: Of the room `evaluation`.
        groups: Of items whose codes begin alike, as `fit_ease` has them; None: without them.
        journal: Told what is done, and if EASE^R is left out.

    Returns:
        "popular", "item_knn" and, up to `settings.ease_max_items` items, "ease" and, where there
        are groups, "ease_codes".
    """
    rankers: dict[str, Ranker] = {}
    with journal.track("baselines", total=4) as advance:
        rankers["popular"] = fit_most_popular(training, n_items=n_items)
        advance(1)
        rankers["item_knn"] = fit_item_knn(
            training, n_items=n_items, shrink=settings.item_knn_shrink, decay=settings.decay
        )
        advance(1)
        if n_items > settings.ease_max_items:
            journal.log("baselines.ease_skipped", n_items=n_items, limit=settings.ease_max_items)
            advance(2)
            return rankers
        rankers["ease"] = ease_of(training, n_items=n_items, settings=settings)
        advance(1)
        if groups is not None:
            rankers["ease_codes"] = ease_of(
                training, n_items=n_items, settings=settings, groups=groups
            )
        advance(1)
    return rankers


def ease_of(
    training: Histories,
    *,
    n_items: int,
    settings: EvaluationSettings,
    groups: sparse.csr_array | None = None,
) -> ItemToItem:
    """Fit EASE^R as a shop's settings say; arguments as of `fit_ease`."""
    return fit_ease(
        training,
        n_items=n_items,
        regularization=settings.ease_lambda,
        decay=settings.decay,
        max_items=settings.ease_max_items,
        groups=groups,
    )
