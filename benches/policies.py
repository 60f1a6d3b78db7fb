"""Which policy of moving items that share a semantic ID recommends better, on real data.

    python benches/policies.py configs/office.yaml --out runs/policies --seeds 1 2 \
        --set "translator.num_emb_list=[32, 32, 32]" "translator.sk_epsilons=[0, 0, 0.003]"

For every seed the chain runs once up to the translators (embeddings, which no seed changes, once);
then, for every policy, on from the same nearest codes. What is finished is not run again: the bench
can be stopped and called again, with other seeds and policies too, and the tables tell of all runs
that are finished under the present settings. The interval of a difference is by a bootstrap over
users, whose values are averaged over seeds first: it knows users, not how far two trainings of the
same codes lie apart. For that there is the difference of each seed.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mql4grec import artifacts, catalog, config, evaluation, pipeline
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
COMPARED = ("generate-codes", "finetune", "evaluate")
HIT, NDCG = evaluation.METRICS.index("HR@10"), evaluation.METRICS.index("NDCG@10")
N_BOOTSTRAP = 2000


@dataclass(frozen=True)
class Run:
    """What a finished run found: facts of its codes by modality, shares (U, 5) by ranking."""

    codes: dict[str, dict[str, Any]]
    gains: dict[str, NDArray[np.float64]]
    popular: float


Runs = dict[str, dict[int, Run]]  # by policy and seed


def main() -> None:
    """Run what is not finished, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2], help="none: tables alone")
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--policies", nargs="*", default=list(POLICIES), choices=list(POLICIES))
    options = parser.parse_args()
    for seed in options.seeds:
        for policy in options.policies:
            settings = _settings(options, seed=seed, policy=policy)
            _run(settings, _translated(options, seed=seed))
            means = {name: gains.mean(axis=0) for name, gains in _read(settings).gains.items()}
            told = ", ".join(f"{name} {mean[NDCG]:.4f}" for name, mean in means.items())
            print(f"{policy}, seed {seed}: NDCG@10 {told}", flush=True)
    _print_tables(_finished(options))


def _settings(options: argparse.Namespace, *, seed: int, policy: str | None) -> Settings:
    name = "translated" if policy is None else policy.replace(", ", "-").replace(" ", "_")
    folder = options.out / f"{options.config.stem}-{seed}" / name
    more = POLICIES[policy] if policy is not None else ()
    values = [*options.overrides, *more, f"seed={seed}", f"run_dir={folder}"]
    return config.load(options.config, overrides=values)


def _translated(options: argparse.Namespace, *, seed: int) -> Path:
    """Run a seed's chain up to the translators."""
    settings = _settings(options, seed=seed, policy=None)
    pipeline.run(settings, journal=Journal(), only="prepare")
    for item in pipeline.inspect(settings):
        if item.stage.command == "embed" and item.state == "to do":
            _take_embeddings(options, settings.folder / item.stage.place, item.mark)
    for command in TRANSLATED:
        pipeline.run(settings, journal=Journal(), only=command)
    return settings.folder


def _take_embeddings(options: argparse.Namespace, folder: Path, mark: str) -> None:
    """Copy another seed's embeddings, if there are any, and sign them as this seed's."""
    place = Path("translated") / folder.relative_to(folder.parents[2])
    for other in sorted(options.out.glob(f"{options.config.stem}-*/{place}")):
        if (artifacts.read_stamp(other) or {}).get("done"):
            _copy(other, folder)
            artifacts.close_stage(folder, mark, seconds=0)
            return


def _run(settings: Settings, translated: Path) -> None:
    """Run on from a copy of what a seed's policies have in common."""
    if not settings.folder.exists():
        _copy(translated, settings.folder)
    for command in COMPARED:
        pipeline.run(settings, journal=Journal(), only=command)


def _copy(source: Path, target: Path) -> None:
    half = target.with_name(f"half-{target.name}")
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(source, half)
    half.rename(target)


def _finished(options: argparse.Namespace) -> Runs:
    """Read all runs that are finished under the present settings."""
    runs: Runs = {}
    for policy in POLICIES:
        for folder in sorted(options.out.glob(f"{options.config.stem}-*")):
            seed = int(folder.name.rpartition("-")[2])
            settings = _settings(options, seed=seed, policy=policy)
            states = {item.stage.name: item.state for item in pipeline.inspect(settings)}
            if states["evaluate metrics"] == "done":
                runs.setdefault(policy, {})[seed] = _read(settings)
    return runs


def _read(settings: Settings) -> Run:
    context = pipeline.context_of(settings, journal=Journal())
    name = settings.target.name
    targets = catalog.load(settings.folder / "catalog" / name, name).histories.target(1)
    gains = {n: evaluation.gains(r, targets) for n, r in load_rankings(context).items()}
    paths = {m: settings.folder / "codes" / f"{name}.{m}.json" for m in gains if m != "fused"}
    metrics = json.loads((settings.folder / "evaluation" / "metrics.json").read_text())
    return Run(
        codes={modality: json.loads(path.read_text()) for modality, path in paths.items()},
        gains=gains,
        popular=metrics["rankings"]["popular"]["NDCG@10"],
    )


def _print_tables(runs: Runs) -> None:
    if "paper" not in runs:
        return
    first = next(iter(runs["paper"].values()))
    for modality in first.codes:
        print(f"\n{modality} codes\n| policy | seeds | share | move | added error |")
        print("| --- | --- | --- | --- | --- |")
        for policy, by_seed in runs.items():
            print(_row_of_codes(policy, modality, by_seed, runs["paper"]))
    for ranking in first.gains:
        print(f"\n{ranking} ranking (most popular: NDCG@10 {first.popular:.4f})")
        print("| policy | seeds | HR@10 | NDCG@10 | NDCG@10 minus paper, 95 % | by seed |")
        print("| --- | --- | --- | --- | --- | --- |")
        for policy, by_seed in runs.items():
            print(_row_of_gains(policy, ranking, by_seed, runs["paper"]))


def _row_of_codes(policy: str, modality: str, mine: dict[int, Run], paper: dict[int, Run]) -> str:
    """Tell what share of the items collide and move, and the added error of all in paper's."""
    facts = {seed: run.codes[modality] for seed, run in mine.items()}
    share = np.mean([f["n_shared_before"] / f["n_items"] for f in facts.values()])
    moved = np.mean([f["n_moved"] / f["n_items"] for f in facts.values()])
    ratios = [_added(facts[s]) / _added(paper[s].codes[modality]) for s in facts if s in paper]
    return f"| {policy} | {len(mine)} | {share:.1%} | {moved:.1%} | {np.mean(ratios):.3f} |"


def _added(facts: dict[str, Any]) -> float:
    return float(facts["added_error"]) * facts["n_moved"]


def _row_of_gains(policy: str, ranking: str, mine: dict[int, Run], paper: dict[int, Run]) -> str:
    """Tell means over seeds, their deviation, and differences on the seeds that paper has too."""
    means = np.array([run.gains[ranking].mean(axis=0) for run in mine.values()])  # (seeds, 5)
    mean, deviation = means.mean(axis=0), means.std(axis=0, ddof=int(len(means) > 1))
    figures = [f"{mean[column]:.4f} ± {deviation[column]:.4f}" for column in (HIT, NDCG)]
    both = [seed for seed in mine if seed in paper]
    if policy != "paper" and both:
        values = np.array([(mine[s].gains[ranking] - paper[s].gains[ranking]) for s in both])
        values = values[:, :, NDCG]  # (seeds, U)
        low, high = _interval(values.mean(axis=0))
        figures.append(f"{values.mean():+.4f} ({low:+.4f} to {high:+.4f})")
        figures.append(", ".join(f"{value:+.4f}" for value in values.mean(axis=1)))
    else:
        figures += ["", ""]
    return f"| {policy} | {len(mine)} | {' | '.join(figures)} |"


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Give the 95 % interval of a mean by a bootstrap over users (U,)."""
    rng = np.random.default_rng(2025)
    counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=N_BOOTSTRAP)
    low, high = np.percentile(counts @ values / len(values), (2.5, 97.5))
    return float(low), float(high)


if __name__ == "__main__":
    main()
