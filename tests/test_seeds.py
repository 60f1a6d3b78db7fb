"""Several seeds: whole runs on the same data, what they share, and what they say together."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import tiny
from mql4grec import artifacts, config, evaluation, pipeline, report, seeds, serving
from mql4grec.cli import app
from mql4grec.config import Settings
from mql4grec.runtime import SILENT, Journal

VALUES = (
    "embeddings.image.kind=none",
    "recommender.finetune.tasks=[seqrec]",
    "recommender.finetune.epochs=1",
    "translator.epochs=2",
    "sasrec.epochs=1",
    "evaluation.compare_seen=true",
)
SHARED = ("prepare Demo", "embed Demo text")


def silent(settings: Settings) -> Journal:
    return SILENT


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the run of the first seed alone, then two seeds."""
    folder = tmp_path_factory.mktemp("run")
    settings = tiny.settings(folder, *VALUES)
    pipeline.run(settings, journal=SILENT)
    done = seeds.run(settings, n_seeds=2, journal_of=silent)
    own = [item.stage.name for item in pipeline.inspect(settings) if item.stage.name not in SHARED]
    assert done == [f"2026: {name}" for name in own]  # the first is copied, and the data
    return folder


def metrics_of(folder: Path, *, part: str = "") -> dict[str, dict[str, float]]:
    told = json.loads((folder / "evaluation" / "metrics.json").read_text())
    found: dict[str, dict[str, float]] = (told[part] if part else told)["rankings"]
    return found


def test_the_data_are_the_same_and_what_is_trained_is_not(finished: Path) -> None:
    first, second = (finished / "seeds" / seed for seed in ("2025", "2026"))
    for name in ("catalog/Demo/Demo.inter.json", "embeddings/Demo/text/Demo.emb-hashing.npy"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    weights = "translator/text/last_model.safetensors"
    assert (first / weights).read_bytes() != (second / weights).read_bytes()
    weights = "recommender/finetune/model.safetensors"
    assert (finished / weights).read_bytes() == (first / weights).read_bytes()
    assert (first / weights).read_bytes() != (second / weights).read_bytes()


@pytest.mark.parametrize("part", ["", "seen_removed"])
def test_means_and_deviations_are_those_of_the_runs(finished: Path, part: str) -> None:
    found = json.loads((finished / "seeds.json").read_text())
    assert found["seeds"] == [2025, 2026]
    found = found[part] if part else found
    runs = [metrics_of(finished / "seeds" / seed, part=part) for seed in ("2025", "2026")]
    assert list(found["rankings"]) == list(runs[0])
    for name, values in found["rankings"].items():
        for metric, spread in values.items():
            figures = [one[name][metric] for one in runs]
            assert spread["mean"] == pytest.approx(np.mean(figures))
            assert spread["std"] == pytest.approx(np.std(figures, ddof=1))
    assert any(spread["std"] > 0 for spread in found["rankings"]["text"].values())
    assert all(spread["std"] == 0 for spread in found["rankings"]["ease"].values())


def test_significance_goes_by_gains_averaged_over_seeds(finished: Path) -> None:
    found = json.loads((finished / "seeds.json").read_text())
    shop = serving.open_run(config.load(finished / "seeds/2026/config.yaml")).shop
    means = {}
    for name in found["rankings"]:
        each = [
            evaluation.gains(
                report.read_rankings(
                    finished / "seeds" / seed / "evaluation" / "rankings" / f"{name}.parquet",
                    user_ids=shop.user_ids,
                    item_ids=shop.item_ids,
                ),
                shop.histories.target(1),
            )
            for seed in ("2025", "2026")
        ]
        means[name] = (each[0] + each[1]) / 2
    told = found["significance"]["text"]["NDCG@10"]
    theirs = {name: own[:, -1].mean() for name, own in means.items() if name != "text"}
    assert told["baseline"] == max(theirs, key=lambda name: theirs[name])
    assert told["difference"] == pytest.approx(
        means["text"][:, -1].mean() - theirs[told["baseline"]]
    )
    again = evaluation.compare(means, n_bootstrap=50, seed=2025)
    assert told["interval"] == pytest.approx(again["significance"]["text"]["NDCG@10"]["interval"])


def test_a_second_call_does_nothing_and_an_unfinished_one_goes_on(finished: Path) -> None:
    settings = tiny.settings(finished, *VALUES)
    before = (finished / "seeds.json").read_bytes()
    assert seeds.run(settings, n_seeds=2, journal_of=silent) == []
    stamp = finished / "seeds" / "2026" / "evaluation" / artifacts.STAMP
    found = json.loads(stamp.read_text())
    artifacts.write_json(stamp, {**found, "done": False})
    assert seeds.run(settings, n_seeds=2, journal_of=silent) == ["2026: evaluate metrics"]
    assert (finished / "seeds.json").read_bytes() == before


def test_every_run_can_recommend(finished: Path) -> None:
    settings = config.load(finished / "seeds" / "2026" / "config.yaml")
    assert (settings.seed, settings.data_seed) == (2026, 2025)
    assert {item.state for item in pipeline.inspect(settings)} == {"done"}
    run = serving.open_run(settings)
    (found,) = serving.recommend(run, [list(run.shop.item_ids[:3])], top_k=4)
    assert len(found.item_ids) == 4


def test_the_command_prints_one_table(finished: Path) -> None:
    options = tiny.as_options(tiny.overrides(finished, *VALUES))
    result = CliRunner().invoke(app, ["run", "--quiet", "--seeds", "2", *options])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "mean and standard deviation of seeds 2025, 2026" in said
    assert "seen items removed; mean and standard deviation of seeds 2025, 2026" in said
    found = json.loads((finished / "seeds.json").read_text())["rankings"]
    for name in ("text", "ease", "sasrec"):
        assert f"{found[name]['NDCG@10']['mean']:.4f}" in said
        assert f"\u00b1{found[name]['NDCG@10']['std']:.4f}" in said
    assert "text, beside the best baseline: NDCG@10" in said


def test_one_seed_is_no_several() -> None:
    result = CliRunner().invoke(app, ["run", "--seeds", "1"])
    assert result.exit_code == 2
    assert "'--seeds'" in result.output


def test_a_stage_that_is_half_copied_is_copied_again(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "folder"
    artifacts.open_stage(source, "a")
    (source / "inner").mkdir()
    (source / "inner" / "file").write_text("whole")
    artifacts.close_stage(source, "a", seconds=3.5)
    artifacts.open_stage(folder, "a")
    (folder / "inner").mkdir()
    (folder / "inner" / "file").write_text("half")
    artifacts.copy_stage(source, folder, "a")
    assert (folder / "inner" / "file").read_text() == "whole"
    assert artifacts.read_stamp(folder) == artifacts.read_stamp(source)
