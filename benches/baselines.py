"""Most popular, item-kNN, EASE^R and SASRec on a shop in the authors' layout: quality and time.

    OMP_NUM_THREADS=1 python benches/baselines.py ../shared/data/Instruments/Instruments.inter.json

Trains with the default settings, or others (`--set dropout=0.5 d_model=128`), on all events but
the last two of each user; HR and NDCG of the last one, over all users, with seen items kept and
removed, and NDCG@10 of the last but one, by which settings are chosen. Seconds are of the
processor.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mql4grec import baselines, evaluation, sasrec
from mql4grec.baselines import Ranker
from mql4grec.catalog import Histories
from mql4grec.config import EvaluationSettings, SasrecSettings
from mql4grec.decoding import EVERYTHING, Filters
from mql4grec.runtime import Journal, Runtime


class Told(Journal):
    """Prints every epoch."""

    def log(self, event: str, /, *, step: int | None = None, **values: Any) -> None:
        """Print what a journal would keep."""
        print(f"  {event} {step}: {values}", flush=True)


def main() -> None:
    """Fit all, rank, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("histories", type=Path, help="NAME.inter.json")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="of SASRec")
    parser.add_argument("--seed", type=int, default=2025)
    arguments = parser.parse_args()
    events, n_items = read(arguments.histories)
    given = dict(value.split("=", 1) for value in arguments.set)
    settings = SasrecSettings(**{name: json.loads(value) for name, value in given.items()})
    print(f"{arguments.histories.stem}: {events.n_users:,} users, {n_items:,} items, {settings}")
    with tempfile.TemporaryDirectory() as folder:
        for name, (ranker, seconds) in fit(
            events, settings, n_items=n_items, seed=arguments.seed, folder=Path(folder)
        ).items():
            tell(name, ranker, events, seconds=seconds)


def read(path: Path) -> tuple[Histories, int]:
    """Read the authors' file of histories: events, and how many items there are."""
    users = json.loads(path.read_text())
    lists = [users[user] for user in sorted(users, key=int)]
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    events = Histories(offsets, np.concatenate(lists).astype(np.int32))
    return events, int(events.items.max()) + 1


def fit(
    events: Histories, settings: SasrecSettings, *, n_items: int, seed: int, folder: Path
) -> Mapping[str, tuple[Ranker, float]]:
    """Fit every baseline, with its processor seconds."""
    training = events.held_out(2)
    plain = EvaluationSettings()

    def self_attention() -> Ranker:
        network = sasrec.train(
            events,
            settings,
            n_items=n_items,
            folder=folder,
            runtime=Runtime(seed=seed),
            journal=Told(),
        )

        return partial(sasrec.rank, network)

    ways: dict[str, Callable[[], Ranker]] = {
        "popular": lambda: baselines.fit_most_popular(training, n_items=n_items),
        "item_knn": lambda: baselines.fit_item_knn(
            training, n_items=n_items, shrink=plain.item_knn_shrink, decay=plain.decay
        ),
        "ease": lambda: baselines.fit_ease(
            training, n_items=n_items, regularization=plain.ease_lambda, decay=plain.decay
        ),
        "sasrec": self_attention,
    }
    found = {}
    for name, way in ways.items():
        began = time.process_time()
        ranker = way()
        found[name] = ranker, time.process_time() - began
    return found


def tell(name: str, ranker: Ranker, events: Histories, *, seconds: float) -> None:
    """Print one line of figures for seen items kept, one for removed."""
    for removed in (False, True):
        validation, test = (_metrics(ranker, events, n_held_out=n, removed=removed) for n in (2, 1))
        figures = "  ".join(f"{metric} {value:.4f}" for metric, value in test.items())
        way = "removed" if removed else "kept"
        chosen_by = f"validation NDCG@10 {validation['NDCG@10']:.4f}"
        print(f"{name:9} seen {way:8} {figures}  {chosen_by}  {seconds:.1f} s", flush=True)


def _metrics(
    ranker: Ranker, events: Histories, *, n_held_out: int, removed: bool
) -> dict[str, float]:
    """Give the metrics of the events that come after the histories without the held out."""
    inputs = events.held_out(n_held_out)
    filters = Filters(without=inputs) if removed else EVERYTHING
    return evaluation.metrics(ranker(inputs, top_k=10, filters=filters), events.target(n_held_out))


if __name__ == "__main__":
    main()
