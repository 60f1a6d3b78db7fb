"""What the number of beams costs and gains, on a trained run.

    OMP_NUM_THREADS=1 python benches/beams.py --config configs/office.yaml --users 1000

For some test users, every modality and the fused ranking: the share of the ten (twenty) best items
that are among the ten (twenty) best of the whole catalog; the share of users whose ten (twenty)
best are certified; item-level metrics; and users ranked per CPU second. The run must be trained.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mql4grec import config, evaluation, serving
from mql4grec.catalog import Histories
from mql4grec.config import Modality
from mql4grec.decoding import Rankings
from mql4grec.stages.ranking import Ranker, rank

TOP = (10, 20)


def main() -> None:
    """Rank the same users with every number of beams and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, default=config.demo_config())
    parser.add_argument("--set", nargs="*", default=[], help="room.key=value, as for the run")
    parser.add_argument("--beams", nargs="*", default=["10", "20", "50", "100"])
    parser.add_argument("--users", type=int, default=1000, help="drawn from the test users")
    options = parser.parse_args()
    run = serving.open_run(config.load(options.config, overrides=options.set))
    histories, targets = test_users(run, options.users)
    print(
        f"{run.shop.name}: {histories.n_users:,} users, {run.shop.n_items:,} items, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    counts: list[Any] = [*map(int, options.beams), "all"]
    found = {modality: dict(ranked(run, histories, modality, counts)) for modality in run.tries}
    print(
        "| ranking | beams | top 10 | top 20 | certified 10 | certified 20 | HR@10 | NDCG@10 | "
        "users/CPU s |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for modality, rankings in found.items():
        for n_beams, (ranking, certified, seconds) in rankings.items():
            exact = rankings["all"][0]
            rate = f"{histories.n_users / seconds:.0f}"
            print_row(modality, n_beams, ranking, exact, [*certified, rate], targets)
    if len(found) == 2:
        fused = {n: fuse(run, histories, {m: r[n][0] for m, r in found.items()}) for n in counts}
        for n_beams, ranking in fused.items():
            seconds = sum(rankings[n_beams][2] for rankings in found.values())
            rate = f"{histories.n_users / seconds:.0f}"
            print_row("fused", n_beams, ranking, fused["all"], ["-", "-", rate], targets)


def test_users(run: Ranker, n_users: int) -> tuple[Histories, NDArray[np.int32]]:
    """Draw test users: their histories without the last item, and that item."""
    everyone = run.shop.histories.held_out(1)
    chosen = np.random.default_rng(0).permutation(everyone.n_users)[:n_users]
    lists = [everyone.of(user) for user in chosen]
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    return Histories(offsets, np.concatenate(lists)), run.shop.histories.target(1)[chosen]


def ranked(
    run: Ranker, histories: Histories, modality: Modality, counts: list[Any]
) -> Iterator[tuple[Any, tuple[Rankings, list[str], float]]]:
    """Rank with every number of beams: ranking, share of certified users, CPU seconds."""
    few = Histories(histories.offsets[:3], histories.items[: histories.offsets[2]])
    rank(run, few, modality=modality, n_beams=10)  # warm up
    for n_beams in counts:
        began = time.process_time()
        ranking = rank(run, histories, modality=modality, n_beams=n_beams)
        seconds = time.process_time() - began
        certified = [certified_share(run, histories, modality, n_beams, top_k=k) for k in TOP]
        yield n_beams, (ranking, certified, seconds)


def certified_share(
    run: Ranker, histories: Histories, modality: Modality, n_beams: Any, *, top_k: int
) -> str:
    """Tell for how many users the list is certainly exact."""
    if n_beams == "all":
        return "1.000"
    if n_beams < top_k:
        return "-"
    found = rank(run, histories, modality=modality, n_beams=n_beams, top_k=top_k).certified
    return "-" if found is None else f"{found.mean():.3f}"


def fuse(run: Ranker, histories: Histories, generated: dict[Modality, Rankings]) -> Rankings:
    """Fuse as the run does."""
    settings = run.context.settings.evaluation.model_copy(update={"remove_seen": False})
    n_tokens = 1 + max(len(trie.n_codes) for trie in run.tries.values())
    found = evaluation.assemble(generated, histories, settings=settings, n_tokens=n_tokens)
    return found["fused"]


def print_row(
    name: str,
    n_beams: Any,
    ranking: Rankings,
    exact: Rankings,
    rest: list[str],
    targets: NDArray[np.int32],
) -> None:
    """Print a line of the table."""
    figures = evaluation.metrics(ranking, targets)
    shares = [
        f"{share(ranking.items[:, :k], exact.items[:, :k]):.3f}"
        if ranking.items.shape[1] >= k
        else "-"
        for k in TOP
    ]
    metrics = [f"{figures[metric]:.4f}" for metric in ("HR@10", "NDCG@10")]
    cells = [name, str(n_beams), *shares, *rest[:2], *metrics, rest[2]]
    print(f"| {' | '.join(cells)} |", flush=True)


def share(items: NDArray[np.int32], exact: NDArray[np.int32]) -> float:
    """Give the share of exact items that were found, over all users."""
    pairs = zip(items.tolist(), exact.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))


if __name__ == "__main__":
    main()
