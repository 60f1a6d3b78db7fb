"""Baselines fitted on last but one events too: what changes by it, what does not, what is told."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

import tiny
from mql4grec import artifacts, baselines, catalog, pipeline, report, seeds
from mql4grec.catalog import Catalog, Histories
from mql4grec.cli.tables import print_results, print_seeds
from mql4grec.config import EvaluationSettings, Settings
from mql4grec.decoding import Rankings
from mql4grec.errors import ConfigError
from mql4grec.evaluation import Calibration, Combination, Lists
from mql4grec.evaluation.candidates import describe
from mql4grec.report import read_rankings
from mql4grec.runtime import SILENT
from mql4grec.stages.combining import fit_on
from mql4grec.stages.context import Context, parts_of
from mql4grec.stages.evaluation import evaluate
from mql4grec.stages.groups import group_items
from mql4grec.stages.plan import plan

VALUES = ("evaluation.combine=[item_knn, text, ease]", *tiny.RERANKED)
NOTE = (
    "Most popular, Item-kNN, EASE\u1d3f, EASE\u1d3f with codes are fitted on the users' last but "
    "one events too, and what is combined or reranked knows these; papers leave them out. No last "
    "event was used."
)
REFITTED = ["popular", "item_knn", "ease", "ease_codes"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    pipeline.run(tiny.settings(folder, *VALUES), journal=SILENT)
    return folder


@pytest.fixture(scope="module")
def refitted(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refitted") / "run"
    shutil.copytree(finished, folder)
    settings = settings_of(folder)
    assert pipeline.run(settings, journal=SILENT) == ["evaluate metrics", "report"]
    assert pipeline.run(settings, journal=SILENT) == []
    return folder


def settings_of(folder: Path, *more: str) -> Settings:
    return tiny.settings(folder, *VALUES, "evaluation.refit=true", *more)


def context_of(folder: Path, *more: str) -> Context:
    return pipeline.context_of(settings_of(folder, *more), journal=SILENT)


def shop_of(folder: Path) -> Catalog:
    return catalog.load(folder / "catalog" / "Demo", "Demo")


def ranking_of(folder: Path, name: str) -> Rankings:
    shop = shop_of(folder)
    path = folder / "evaluation" / "rankings" / f"{name}.parquet"
    return read_rankings(path, user_ids=shop.user_ids, item_ids=shop.item_ids)


def test_baselines_rank_as_if_fitted_by_hand(finished: Path, refitted: Path) -> None:
    shop = shop_of(refitted)
    settings = settings_of(refitted).evaluation
    known = shop.histories.held_out(1)  # that they are ranked from, too
    groups = group_items(context_of(refitted), shop)
    assert groups is not None
    rankers = baselines.fit(known, n_items=shop.n_items, settings=settings, groups=groups.rows)
    for name in REFITTED:
        expected = rankers[name](known, top_k=10)
        found = ranking_of(refitted, name)
        np.testing.assert_array_equal(found.items, expected.items)
        assert (found.items != ranking_of(finished, name).items).any()


def test_what_is_trained_or_learnt_stays_as_it_is(finished: Path, refitted: Path) -> None:
    before, after = (
        artifacts.read_json(folder / "evaluation" / "metrics.json", made_by="evaluate")
        for folder in (finished, refitted)
    )
    for old, new in ((before, after), (before["seen_removed"], after["seen_removed"])):
        assert "refitted" not in old
        assert new["refitted"] == REFITTED
        assert set(old) == set(new) - {"refitted"}
        for part in ("combination", "reranking"):
            assert new[part] == old[part]
        for name in ("text", "sasrec"):
            assert new["rankings"][name] == old["rankings"][name]
        assert new["rankings"]["popular"] != old["rankings"]["popular"]


def test_no_last_event_is_used(refitted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(refitted, folder)
    path = folder / "catalog" / "Demo" / "Demo.inter.json"
    events = json.loads(path.read_text())
    n_items = shop_of(folder).n_items
    path.write_text(
        json.dumps({user: [*row[:-1], (row[-1] + 1) % n_items] for user, row in events.items()})
    )
    stamp = artifacts.read_stamp(path.parent)
    assert stamp is not None
    artifacts.close_stage(path.parent, stamp["fingerprint"], seconds=1)  # it is as it should be
    targets = [shop_of(run).histories.target(1) for run in (refitted, folder)]
    assert (targets[0] != targets[1]).all()
    shutil.rmtree(folder / "evaluation")
    evaluate(context_of(folder), folder / "evaluation")
    tables = sorted((refitted / "evaluation").rglob("*.parquet"))
    assert len(tables) == 2 * 8  # text, combined, reranked and five baselines, both ways
    for table in tables:
        again = pl.read_parquet(folder / table.relative_to(refitted))
        assert again.equals(pl.read_parquet(table)), table.name


def shorter(shop: Catalog) -> Catalog:
    """Give the shop as it was one event per user before."""
    return dataclasses.replace(shop, histories=shop.histories.held_out(1))


def test_candidates_of_the_test_are_described_as_those_of_validation_were(refitted: Path) -> None:
    """By the same code, with histories one event longer: of a shop one event shorter, the same."""
    context, shop = context_of(refitted), shop_of(refitted)
    groups = group_items(context, shop)
    how = Combination({"a": Calibration(1.0, 0.3)}, {"a": 1.0}, 0.0, 0)
    generator = np.random.default_rng(0)

    def features(shop: Catalog, inputs: Histories, *, n_held_out: int) -> np.ndarray:
        basis = fit_on(context, shop, groups, n_held_out=n_held_out).describes(how)
        assert list(basis.models) == ["item_knn", "ease", "ease_codes"]
        return describe(Lists({"a": ranking}, inputs), basis)[1]

    items = np.stack(
        [generator.permutation(shop.n_items)[:9] for _ in range(shop.histories.n_users)]
    ).astype(np.int32)
    ranking = Rankings(items, -np.sort(generator.random(items.shape)).astype(np.float32))
    validation = features(shop, shop.histories.held_out(2), n_held_out=2)
    before = shorter(shop)
    test = features(before, before.histories.held_out(1), n_held_out=1)
    np.testing.assert_array_equal(test, validation)
    later = features(shop, shop.histories.held_out(1), n_held_out=1)
    assert (later != validation).any()


def test_without_ease_only_item_knn_describes_candidates(refitted: Path) -> None:
    context = context_of(refitted, "evaluation.ease_max_items=5", "sasrec.enabled=false")
    assert group_items(context, shop_of(refitted)) is None
    fitted = fit_on(context, shop_of(refitted), None, n_held_out=1)
    assert list(fitted.rankers) == ["popular", "item_knn"]
    how = Combination({}, {}, 0.0, 0)
    assert list(fitted.describes(how).models) == ["item_knn"]


def test_figures_are_told_to_be_refitted(
    finished: Path, refitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, told in ((finished, False), (refitted, True)):
        print_results(settings_of(folder))
        assert (NOTE in capsys.readouterr().out.replace("\n", " ")) == told
        page = (folder / "report" / "index.html").read_text()
        assert ("last but one events too" in page) == told
    assert report.refit_note({"rankings": {}}) == ""
    for folder, expected in ((finished, None), (refitted, REFITTED)):
        assert seeds.summarise([settings_of(folder)] * 2).get("refitted") == expected


def figures_of(folder: Path, part: str = "") -> dict[str, Any]:
    """Read the figures of a part, and the rankings that they are of."""
    found = artifacts.read_json(folder / "evaluation" / "metrics.json", made_by="evaluate")
    whole = found[part] if part else found
    figures = {name: whole[name] for name in ("rankings", "significance", "by_training_events")}
    figures["refitted"] = whole.get("refitted")
    for path in sorted((folder / "evaluation" / "rankings" / part).glob("*.parquet")):
        figures[path.stem] = pl.read_parquet(path).rows()
    return figures


@pytest.mark.parametrize("is_main", [False, True])
def test_both_are_compared_in_one_run(
    finished: Path,
    refitted: Path,
    is_main: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    folder = tmp_path / "run"
    values = (f"evaluation.refit={is_main}", "evaluation.compare_refit=true")
    settings = tiny.settings(folder, *VALUES, *values)
    assert pipeline.run(settings, journal=SILENT) == ["evaluate metrics", "report"]
    mains, others = (refitted, finished) if is_main else (finished, refitted)
    other = "without_refit" if is_main else "with_refit"
    parts = ["", "seen_removed", other, f"seen_removed.{other}"]
    assert parts_of(settings) == parts
    for part, run in zip(parts, [mains, mains, others, others], strict=True):
        removed = "seen_removed" if part.startswith("seen_removed") else ""
        assert figures_of(folder, part) == figures_of(run, removed)
    assert figures_of(folder)["rankings"] != figures_of(folder, other)["rankings"]
    found = artifacts.read_json(folder / "evaluation" / "metrics.json", made_by="evaluate")
    assert [name for name in found if name in parts] == parts[1:]

    print_results(settings)
    printed = capsys.readouterr().out.replace("\n", " ")
    assert printed.count(NOTE) == 2
    page = (folder / "report" / "index.html").read_text()
    assert page.count("last but one events too") == 2
    how = "baselines not refitted" if is_main else "baselines refitted"
    assert f"Rankings on the test items, without the items of the history, {how}" in page

    over_seeds = seeds.summarise([settings] * 2)
    for part in parts:
        told, expected = over_seeds[part] if part else over_seeds, figures_of(folder, part)
        assert told.get("refitted") == expected["refitted"]
        for name, values_of in told["rankings"].items():
            means = {metric: one["mean"] for metric, one in values_of.items()}
            assert means == pytest.approx(expected["rankings"][name])
    artifacts.write_json(folder / seeds.RESULT, over_seeds)
    print_seeds(settings)
    printed = capsys.readouterr().out.replace("\n", " ")
    assert printed.count(NOTE) == 2


def test_it_is_off_by_default_and_true_or_false() -> None:
    assert not EvaluationSettings().refit
    assert not EvaluationSettings().compare_refit


def test_a_run_of_before_both_could_be_compared_is_not_evaluated_again(finished: Path) -> None:
    (stage,) = (
        one for one in plan(tiny.settings(finished, *VALUES)) if one.name == "evaluate metrics"
    )
    assert "refit" in str(stage.covers)
    assert "compare_refit" not in str(stage.covers)


def test_where_seen_items_go_the_other_ways_keep_them() -> None:
    values = ("remove_seen", "compare_seen", "refit", "compare_refit")
    evaluation = EvaluationSettings.model_validate(dict.fromkeys(values, True))
    settings = tiny.settings(Path("run")).model_copy(update={"evaluation": evaluation})
    assert parts_of(settings) == ["", "seen_kept", "without_refit", "seen_kept.without_refit"]


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValidationError, match="refit"):
        EvaluationSettings.model_validate({"refit": "sometimes"})


def test_a_list_that_the_shop_is_too_large_for_is_named(refitted: Path, tmp_path: Path) -> None:
    context = context_of(refitted, "evaluation.ease_max_items=5")
    with pytest.raises(ConfigError) as caught:
        evaluate(context, tmp_path)
    assert str(caught.value) == (
        "`evaluation.combine`: expected rankings of this run, ['item_knn', 'popular', 'sasrec', "
        "'text'], got ['ease']; leave them out"
    )
    assert list(tmp_path.iterdir()) == []
