"""Which policy of moving items that share a semantic ID recommends better, on real data.

    python benches/policies.py configs/office.yaml --out /tmp/policies --seeds 1 2 \
        --set "translator.num_emb_list=[32, 32, 32]" "translator.sk_epsilons=[0, 0, 0.003]"

For every seed the chain runs once up to the translators; then, for every policy, on from the same
nearest codes. What is finished is not run again, so that the bench can be stopped and called again.
The table gives, for every ranking that the T5 makes, the mean over seeds and the difference to the
published rule with its 95 % interval by a bootstrap over users, their mean over seeds taken first.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mql4grec import catalog, config, evaluation, pipeline
from mql4grec.config import Settings
from mql4grec.runtime import Journal
from mql4grec.stages.training import load_rankings

POLICIES = {
    "paper": (),
    "nearest, max_loss": ("codes.policy=nearest", "codes.keep=max_loss"),
    "optimal, max_loss": ("codes.policy=optimal", "codes.keep=max_loss"),
    "paper, max_loss": ("codes.keep=max_loss",),
    "optimal, colliding": ("codes.policy=optimal", "codes.reassign=colliding"),
    "nearest, max_loss, 3 levels": (
        "codes.policy=nearest",
        "codes.keep=max_loss",
        "codes.open_levels=3",
    ),
}
TRANSLATED = ("prepare", "embed", "train-translator")
N_BOOTSTRAP = 2000


def main() -> None:
    """Run what is not finished, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--policies", nargs="*", default=list(POLICIES), choices=list(POLICIES))
    options = parser.parse_args()
    gains: dict[str, dict[str, list[NDArray[np.float64]]]] = {}
    for policy in options.policies:
        for seed in options.seeds:
            settings = _settings(options, seed=seed, policy=policy)
            _run(settings, _translated(options, seed=seed))
            for ranking, found in _gains(settings).items():
                gains.setdefault(ranking, {}).setdefault(policy, []).append(found)
            print(f"{policy}, seed {seed}: {_collisions(settings)}", flush=True)
    for ranking, found_by_policy in gains.items():
        _print_table(ranking, found_by_policy)


def _settings(options: argparse.Namespace, *, seed: int, policy: str | None) -> Settings:
    name = "translated" if policy is None else policy.replace(", ", "-").replace(" ", "_")
    folder = options.out / f"{options.config.stem}-{seed}" / name
    more = POLICIES[policy] if policy is not None else ()
    values = [*options.overrides, *more, f"seed={seed}", f"run_dir={folder}"]
    return config.load(options.config, overrides=values)


def _translated(options: argparse.Namespace, *, seed: int) -> Path:
    """Run a seed's chain up to the translators."""
    settings = _settings(options, seed=seed, policy=None)
    for command in TRANSLATED:
        pipeline.run(settings, journal=Journal(), only=command)
    return settings.folder


def _run(settings: Settings, translated: Path) -> None:
    """Run on from a copy of what a seed's policies have in common."""
    if not settings.folder.exists():
        half = settings.folder.with_suffix(".half")
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(translated, half)
        half.rename(settings.folder)
    pipeline.run(settings, journal=Journal())


def _gains(settings: Settings) -> dict[str, NDArray[np.float64]]:
    """Give every user's share in every metric (U, 5), by ranking."""
    context = pipeline.context_of(settings, journal=Journal())
    shop = catalog.load(settings.folder / "catalog" / settings.target.name, settings.target.name)
    targets = shop.histories.target(1)
    return {n: evaluation.gains(r, targets) for n, r in load_rankings(context).items()}


def _collisions(settings: Settings) -> str:
    parts = []
    for path in sorted((settings.folder / "codes").glob(f"{settings.target.name}.*.json")):
        facts = json.loads(path.read_text())
        if "n_moved" in facts:
            parts.append(
                f"{path.stem}: {facts['n_shared_before'] / facts['n_items']:.1%} share, "
                f"{facts['n_moved']} moved, added error {facts['added_error']:.4g}"
            )
    return "; ".join(parts)


def _print_table(ranking: str, gains: dict[str, list[NDArray[np.float64]]]) -> None:
    hit, ndcg = evaluation.METRICS.index("HR@10"), evaluation.METRICS.index("NDCG@10")
    paper = np.mean(gains["paper"], axis=0)  # (U, 5)
    print(f"\n{ranking}\n| policy | HR@10 | NDCG@10 | deviation | difference to paper, 95 % |")
    print("| --- | --- | --- | --- | --- |")
    for policy, runs in gains.items():
        means = np.mean(runs, axis=1)  # (seeds, 5)
        mean, deviation = means.mean(axis=0), means.std(axis=0, ddof=int(len(runs) > 1))
        low, high = _interval((np.mean(runs, axis=0) - paper)[:, ndcg])
        print(
            f"| {policy} | {mean[hit]:.4f} | {mean[ndcg]:.4f} | {deviation[ndcg]:.4f} | "
            f"{mean[ndcg] - paper[:, ndcg].mean():+.4f} ({low:+.4f} to {high:+.4f}) |"
        )


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Give the 95 % interval of a mean by a bootstrap over users (U,)."""
    rng = np.random.default_rng(2025)
    counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=N_BOOTSTRAP)
    low, high = np.percentile(counts @ values / len(values), (2.5, 97.5))
    return float(low), float(high)


if __name__ == "__main__":
    main()
