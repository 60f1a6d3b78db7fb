"""What a user would pick instead: most popular, item-kNN, EASE^R with and without groups of items.

This room knows item rows, histories and groups of items that are alike, no codes and no T5. All fit
on one set of histories and rank from another: for the test, fit on the histories without their last
two items (the part that T5 trains on), rank from those without the last one; `evaluation.refit`
then fits them again, on the latter. They rank the whole catalog.
"""

from mql4grec.baselines.counting import fit_item_knn, fit_most_popular
from mql4grec.baselines.ease import fit_ease
from mql4grec.baselines.fitting import fit
from mql4grec.baselines.others import N_PARTS, WEIGHTS, choose_weight, rank_after_events
from mql4grec.baselines.ranker import ItemToItem, Ranker, best_columns

__all__ = [
    "N_PARTS",
    "WEIGHTS",
    "ItemToItem",
    "Ranker",
    "best_columns",
    "choose_weight",
    "fit",
    "fit_ease",
    "fit_item_knn",
    "fit_most_popular",
    "rank_after_events",
]
