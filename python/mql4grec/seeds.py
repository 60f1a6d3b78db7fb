"""One run per seed, and what the seeds say together: means, how far they spread, significance.

Every seed's run is a whole one, in `RUN/seeds/SEED`. Its data, and what else is drawn before any
training, are those of the first seed; what is done already for another of the runs, or in RUN, is
copied.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mql4grec import artifacts, catalog, evaluation, pipeline, runtime
from mql4grec.catalog import Catalog
from mql4grec.config import Settings
from mql4grec.evaluation import METRICS
from mql4grec.report import read_rankings
from mql4grec.runtime import Journal
from mql4grec.stages import folder
from mql4grec.stages.context import parts_of

RESULT = "seeds.json"


def settings_of(settings: Settings, *, n_seeds: int) -> list[Settings]:
    """Give the settings of each seed's run: `seed`, `seed` + 1, ..."""
    return [
        settings.model_copy(
            update={
                "seed": seed,
                "data_seed": settings.seed_of_data,
                "run_dir": settings.folder / "seeds" / str(seed),
            }
        )
        for seed in range(settings.seed, settings.seed + n_seeds)
    ]


def run(
    settings: Settings, *, n_seeds: int, journal_of: Callable[[Settings], Journal]
) -> list[str]:
    """Do what is not done of every seed's run, and write `seeds.json`.

    Args:
        settings: Of the run.
        n_seeds: How many runs there are.
        journal_of: Opens the journal of a seed's run.

    Returns:
        The stages that were done now, "SEED: NAME" each.
    """
    runs = settings_of(settings, n_seeds=n_seeds)
    for one in (settings, *runs):
        pipeline.require_own(one)
    told = _read_result(settings.folder / RESULT)
    is_done = all(item.state == "done" for one in runs for item in pipeline.inspect(one))
    if is_done and told is not None and told["seeds"] == [one.seed for one in runs]:
        return []  # nothing is written: the folder may be read-only
    with folder.sole_writer(settings):
        done = _do(runs, donor=settings.folder, journal_of=journal_of)
        if runtime.is_main_process():
            artifacts.write_json(settings.folder / RESULT, summarise(runs))
    return done


def _do(
    runs: Sequence[Settings], *, donor: Path, journal_of: Callable[[Settings], Journal]
) -> list[str]:
    """Do what is not done of runs, each with what is done already in those before it."""
    donors = [donor]
    done: list[str] = []
    for one in runs:
        names = pipeline.run(one, journal=journal_of(one), donors=donors)
        done += [f"{one.seed}: {name}" for name in names]
        donors.append(one.folder)
    return done


def _read_result(path: Path) -> dict[str, Any] | None:
    """Read an earlier `seeds.json`, None if there is none.

    Raises:
        ArtifactError: If the file of that name is not of this command.
    """
    if not path.exists():
        return None
    with artifacts.reading(path, made_by="run --seeds"):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not {"seeds", "rankings"} <= found.keys():
            raise ValueError("another file")
    return dict(found)


def summarise(runs: Sequence[Settings]) -> dict[str, Any]:
    """Build what `seeds.json` holds, from finished runs.

    Returns:
        "seeds", "n_users", "n_items", "rankings" (by name and metric the mean over seeds, and the
        standard deviation with n - 1), and as in `metrics.json`, with each user's share in a metric
        averaged over seeds, "intervals", "differences" and "significance": these know how users
        differ; the standard deviation, how seeds do. With refitted baselines, "refitted" names
        them. What a run compares, seen items removed (or kept), refitted (or not), has the same
        figures in parts of their own, as in `metrics.json`.
    """
    first = runs[0]
    shop = catalog.load(first.folder / "catalog" / first.target.name, first.target.name)
    targets = shop.histories.target(1)
    found: dict[str, Any] = {
        "seeds": [one.seed for one in runs],
        "n_users": len(targets),
        "n_items": shop.n_items,
    }
    told = artifacts.read_json(first.folder / "evaluation" / "metrics.json", made_by="run --seeds")
    found |= {key: told[key] for key in ("left_out", "item_knn_neighbours") if key in told}
    for part in parts_of(first):
        of_first = told[part] if part else told
        figures = _compare_rankings(runs, shop, list(of_first["rankings"]), part=part)
        if "refitted" in of_first:
            figures["refitted"] = of_first["refitted"]
        found |= {part: figures} if part else figures
    return found


def _compare_rankings(
    runs: Sequence[Settings], shop: Catalog, names: Sequence[str], *, part: str
) -> dict[str, Any]:
    """Give the figures of some rankings over the runs; `part` is their folder."""
    first = runs[0]
    gains: dict[str, NDArray[np.float64]] = {}  # (S, U, 5) each
    for name in names:
        rankings = [
            read_rankings(
                one.folder / "evaluation" / "rankings" / part / f"{name}.parquet",
                user_ids=shop.user_ids,
                item_ids=shop.item_ids,
            )
            for one in runs
        ]
        targets = shop.histories.target(1)
        gains[name] = np.stack([evaluation.gains(ranking, targets) for ranking in rankings])
    return {
        "rankings": {name: _spread(values.mean(axis=1)) for name, values in gains.items()},
        **evaluation.compare(
            {name: values.mean(axis=0) for name, values in gains.items()},
            n_bootstrap=first.evaluation.n_bootstrap,
            seed=first.seed,
        ),
    }


def _spread(figures: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """Give mean and standard deviation of each metric over seeds (S, 5)."""
    means, deviations = figures.mean(axis=0).tolist(), figures.std(axis=0, ddof=1).tolist()
    return {
        metric: {"mean": mean, "std": deviation}
        for metric, mean, deviation in zip(METRICS, means, deviations, strict=True)
    }
