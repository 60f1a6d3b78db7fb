"""Item-level HR@k and NDCG@k, late fusion of rankings, and how sure the figures are.

This room knows rankings, targets and the rules by which several rankings become one. It does not
know how a ranking was made, but can ask item-to-item models about any item. Every user counts: one
whose target is not listed is a miss. Its parts:

    figures       HR and NDCG
    lists         lists side by side, seen items removed
    fusion        text and image: the authors' rule, or a weighted mean of log-probabilities
    combination   any number of lists: calibrated probabilities, averaged
    contributions what the events of a history add to an item, by item-to-item models
    candidates    items of lists, described by what lists, training and such models tell of each
    reranking     their items ranked anew, by trees that are learnt from such descriptions
    learnt        what was learnt for both, as files
    intervals     bootstrap over users
    groups        codes instead of items; users by how often their target was seen in training
    summary       what `evaluation/metrics.json` holds
"""

from mql4grec.evaluation.candidates import Basis, Lists, Occurrences, occurrences
from mql4grec.evaluation.combination import Calibration, Combination, calibrate, combine, fit
from mql4grec.evaluation.figures import METRICS, gains, metrics
from mql4grec.evaluation.fusion import AUTHORS_N_TOKENS, assemble, fuse
from mql4grec.evaluation.groups import (
    Items,
    by_training_events,
    merge_twins,
    number_codes,
    twin_level,
)
from mql4grec.evaluation.intervals import bootstrap, bootstrap_difference
from mql4grec.evaluation.learnt import Learnt, read_learnt, write_learnt
from mql4grec.evaluation.lists import remove_seen
from mql4grec.evaluation.reranking import Reranker, Reranking, learn, rerank
from mql4grec.evaluation.summary import compare, evaluate

__all__ = [
    "AUTHORS_N_TOKENS",
    "METRICS",
    "Basis",
    "Calibration",
    "Combination",
    "Items",
    "Learnt",
    "Lists",
    "Occurrences",
    "Reranker",
    "Reranking",
    "assemble",
    "bootstrap",
    "bootstrap_difference",
    "by_training_events",
    "calibrate",
    "combine",
    "compare",
    "evaluate",
    "fit",
    "fuse",
    "gains",
    "learn",
    "merge_twins",
    "metrics",
    "number_codes",
    "occurrences",
    "read_learnt",
    "remove_seen",
    "rerank",
    "twin_level",
    "write_learnt",
]
