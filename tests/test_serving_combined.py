"""Combined and reranked recommendations for any histories: those of the run's own figures."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

import tiny
from mql4grec import artifacts, evaluation, pipeline, serving
from mql4grec.catalog import Request
from mql4grec.cli import app
from mql4grec.config import Settings
from mql4grec.decoding import Filters, Rankings
from mql4grec.errors import ArtifactError, ConfigError, DataError
from mql4grec.evaluation import Basis, Calibration, Combination, Learnt, Occurrences
from mql4grec.evaluation.learnt import read_learnt, write_learnt
from mql4grec.evaluation.reranking import Reranker, Reranking
from mql4grec.runtime import SILENT
from mql4grec.serving import ItemFilters
from mql4grec.stages.ranking import Ranker

VALUES = ("evaluation.combine=[item_knn, text, ease_codes, sasrec]", *tiny.RERANKED)
PLACES = {False: "rankings", True: "rankings/seen_removed"}


@pytest.fixture(scope="module", autouse=True)
def trees_are_always_used() -> Iterator[None]:
    """So that of few users there is something to keep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mql4grec.evaluation.reranking.MOST_ROUNDS", 25)
        patch.setattr("mql4grec.evaluation.reranking.CHANCE", -1e9)
        yield


@pytest.fixture(scope="module")
def folder(trees_are_always_used: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    pipeline.run(settings_of(folder), journal=SILENT)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Ranker:
    return serving.open_run(settings_of(folder))


def settings_of(folder: Path, *more: str) -> Settings:
    return tiny.settings(folder, *VALUES, *more)


def one(run: Ranker, history: Any, **arguments: Any) -> tuple[str, ...]:
    (found,) = serving.recommend(run, [history], **arguments)
    assert not found.certified
    return found.item_ids


def check_against_figures(run: Ranker, folder: Path, ranking: str, *, removed: bool) -> None:
    """Ask for every test user, and compare with what the figures were made of."""
    shop, inputs = run.shop, run.shop.histories.held_out(1)
    histories = [
        [shop.item_ids[item] for item in inputs.of(user)] for user in range(inputs.n_users)
    ]
    filters = ItemFilters(unseen=removed)
    found = list(serving.recommend(run, histories, ranking=ranking, filters=filters))
    table = pl.read_parquet(folder / "evaluation" / PLACES[removed] / f"{ranking}.parquet")
    assert table["user_id"].n_unique() == len(shop.user_ids)
    for user_id, answer in zip(shop.user_ids, found, strict=True):
        rows = table.filter(pl.col("user_id") == user_id).sort("rank").head(10)
        assert list(answer.item_ids) == rows["item_id"].to_list()
        np.testing.assert_allclose(answer.scores, rows["score"].to_numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("ranking", ["combined", "reranked"])
def test_test_users_get_the_lists_of_the_figures(
    run: Ranker, folder: Path, ranking: str, removed: bool
) -> None:
    check_against_figures(run, folder, ranking, removed=removed)


def test_reranked_is_not_combined(run: Ranker) -> None:
    histories = [[item] for item in run.shop.item_ids[:20]]
    lists = [
        [found.item_ids for found in serving.recommend(run, histories, ranking=ranking)]
        for ranking in ("combined", "reranked")
    ]
    assert lists[0] != lists[1]


@pytest.mark.parametrize("refit", [False, True])
def test_a_run_answers_by_what_its_main_figures_were_fitted_on(
    folder: Path, tmp_path: Path, refit: bool
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    settings = settings_of(tmp_path, f"evaluation.refit={refit}", "evaluation.compare_refit=true")
    pipeline.run(settings, journal=SILENT)
    check_against_figures(serving.open_run(settings), tmp_path, "reranked", removed=True)
    before, after = (
        pl.read_parquet(where / "evaluation" / "rankings" / "reranked.parquet")
        for where in (folder, tmp_path)
    )
    assert before.equals(after) == (not refit)


@pytest.mark.parametrize("ranking", ["combined", "reranked"])
def test_only_what_the_filters_leave_and_all_of_it(run: Ranker, ranking: str) -> None:
    ids = run.shop.item_ids
    history = ids[3:6]
    request = Request(history, only=ids[:14], without=ids[8:9])
    filters = ItemFilters(unseen=True, only=ids[1:], without=ids[10:11])
    found = one(run, request, ranking=ranking, top_k=30, filters=filters)
    assert sorted(found) == sorted(set(ids[1:14]) - set(history) - {ids[8], ids[10]})
    few = one(run, request, ranking=ranking, top_k=4, filters=filters)
    assert len(few) == 4
    whole = one(run, history, ranking=ranking, top_k=1000)
    assert sorted(whole) == sorted(ids)


def test_baselines_of_a_run_know_its_filters(run: Ranker) -> None:
    shop = run.shop
    histories = shop.histories.held_out(1)
    generator = np.random.default_rng(0)
    filters = Filters(masks=generator.random((1, shop.n_items)) < 0.5, without=histories)
    assert filters.masks is not None
    for name, ranker in run.combiner.fitted.rankers.items():
        whole = ranker(histories, top_k=shop.n_items)
        found = ranker(histories, top_k=7, filters=filters)
        for user in range(histories.n_users):
            gone = set(np.flatnonzero(~filters.masks[0])) | set(histories.of(user).tolist())
            left = [item for item in whole.items[user].tolist() if item not in gone][:7]
            assert found.items[user].tolist() == left + [-1] * (7 - len(left)), name


def test_the_command_line_tells_no_certainty(folder: Path) -> None:
    ids = serving.open_run(settings_of(folder)).shop.item_ids
    options = tiny.as_options(tiny.overrides(folder, *VALUES))
    asked = ["recommend", ids[3], "--ranking", "reranked", "--top-k", "5", *options]
    told = CliRunner().invoke(app, asked)
    assert told.exit_code == 0, told.output
    assert "provably" not in told.output
    told = CliRunner().invoke(app, [*asked, "--json"])
    answer = json.loads(told.output)
    assert len(answer["items"]) == 5
    assert answer["certified"] is False


def test_a_run_without_such_rankings(folder: Path, run: Ranker, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ArtifactError, match="choose another") as caught:
        one(run, run.shop.item_ids[:1], ranking="image")
    assert str(caught.value) == (
        "`--ranking`: expected one of ['text', 'fused', 'combined', 'reranked'], got 'image'; "
        "choose another (`combined` needs `evaluation.combine`, `reranked` also "
        "`evaluation.rerank`, both no list of `evaluation.files`)"
    )
    plain = settings_of(tmp_path, "evaluation.rerank=false")
    with pytest.raises(ArtifactError, match="'combined'\\], got 'reranked'"):
        one(serving.open_run(plain), run.shop.item_ids[:1], ranking="reranked")
    given = "[{name: mine, test: t.parquet, validation: v.parquet}]"
    mixed = "evaluation.combine=[text, mine]"
    files = settings_of(tmp_path, f"evaluation.files={given}", mixed)
    with pytest.raises(ArtifactError, match="'fused'\\], got 'combined'"):
        one(serving.open_run(files), run.shop.item_ids[:1], ranking="combined")


def test_certainty_is_asked_of_the_model_alone(folder: Path) -> None:
    options = tiny.as_options(tiny.overrides(folder, *VALUES))
    told = CliRunner().invoke(app, ["recommend", "x", "--ranking", "reranked", "--exact", *options])
    assert isinstance(told.exception, SystemExit) or told.exit_code != 0
    assert "leave one of them out" in " ".join(f"{told.output} {told.exception}".split())


def test_lists_are_as_long_as_for_the_figures(run: Ranker) -> None:
    """What `top_k` asks for changes no item, as long as such lists are sure to have as many."""
    histories = [[item] for item in run.shop.item_ids[:30]]
    for ranking in ("combined", "reranked"):
        ten, five = (
            [
                found.item_ids
                for found in serving.recommend(run, histories, ranking=ranking, top_k=k)
            ]
            for k in (10, 5)
        )
        assert [found[:5] for found in ten] == five
    assert run.combiner.lengths(True, top_k=10) == (10, 10)
    assert run.combiner.lengths(True, top_k=11) == (11, 11)
    few = dataclasses.replace(run.combiner, n_beams=4)
    assert few.lengths(True, top_k=10) == (4, 10)
    assert few.lengths(True, top_k=12) == (12, 12)
    alone = {True: Learnt(Combination({}, {"text": 0.5, "image": 0.5}, 0.0, 0), None)}
    few = dataclasses.replace(few, learnt=alone)
    assert few.lengths(True, top_k=4) == (4, 10)
    assert few.lengths(True, top_k=5) == (5, 10)


def test_fewer_beams_than_items_asked_for(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    settings = settings_of(tmp_path, "decoding.n_beams=4")
    pipeline.run(settings, journal=SILENT)
    check_against_figures(serving.open_run(settings), tmp_path, "reranked", removed=False)


def test_baselines_alone_and_codes_that_do_not_count(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No list of the model's; and of all weights of codes the best is found to be none."""

    def choose(*_: Any, **__: Any) -> tuple[float, dict[float, float]]:
        return 0.0, {0.0: 1.0}

    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("mql4grec.baselines.choose_weight", choose)
    settings = settings_of(tmp_path, "evaluation.combine=[popular, ease_codes, ease]")
    pipeline.run(settings, journal=SILENT)
    monkeypatch.undo()
    run = serving.open_run(settings)
    for removed in (False, True):
        check_against_figures(run, tmp_path, "reranked", removed=removed)


def test_requests_with_lists_of_their_own_and_without(run: Ranker) -> None:
    ids = run.shop.item_ids
    requests = [
        Request(ids[:3]),
        Request(ids[5:6], only=ids[20:26]),
        Request(ids[1:3], only=()),
        Request(ids[7:20], without=ids[:50]),
    ]
    alone = [one(run, request, ranking="reranked", top_k=6) for request in requests]
    found = serving.recommend(run, requests, ranking="reranked", top_k=6)
    assert [answer.item_ids for answer in found] == alone
    assert sorted(alone[1]) == sorted(ids[20:26])
    assert alone[2] == ()
    assert set(alone[3]) <= set(ids[50:])


def test_runs_of_before_are_evaluated_again(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    settings = settings_of(tmp_path)
    (state,) = (s for s in pipeline.inspect(settings) if s.stage.name == "evaluate metrics")
    *covers, kept = state.stage.covers
    assert kept == "learnt"
    needs = [s.mark for s in pipeline.inspect(settings) if s.stage.name in state.stage.needs]
    before = artifacts.fingerprint(state.stage.name, tuple(covers), needs)
    shutil.rmtree(tmp_path / "evaluation" / "learnt")
    artifacts.close_stage(tmp_path / "evaluation", before, seconds=1)
    with pytest.raises(ArtifactError, match="it is 'stale'"):
        one(serving.open_run(settings), ["x"], ranking="combined")
    assert pipeline.run(settings, journal=SILENT)[0] == "evaluate metrics"
    check_against_figures(serving.open_run(settings), tmp_path, "combined", removed=False)


def test_a_run_that_was_evaluated_otherwise(folder: Path, run: Ranker) -> None:
    other = serving.open_run(settings_of(folder, "decoding.n_beams=12"))
    with pytest.raises(ArtifactError, match="evaluate metrics") as caught:
        one(other, run.shop.item_ids[:1], ranking="combined")
    assert str(caught.value) == (
        "`recommend`: expected stage `evaluate metrics` to be done, it is 'stale'; run `mql4grec "
        "evaluate` with the same settings first"
    )
    assert len(one(run, run.shop.item_ids[:1], ranking="combined")) == 10


def test_seen_items_where_nothing_was_learnt_of_them(folder: Path, tmp_path: Path) -> None:
    """What was learnt with them kept serves both; without them, only lists without them."""
    for main in ("false", "true"):
        where = tmp_path / main
        shutil.copytree(folder, where)
        settings = settings_of(
            where, "evaluation.compare_seen=false", f"evaluation.remove_seen={main}"
        )
        pipeline.run(settings, journal=SILENT)
        run = serving.open_run(settings)
        history = run.shop.item_ids[:3]
        unseen = one(run, history, ranking="reranked", filters=ItemFilters(unseen=True))
        assert len(unseen) == 10
        assert not set(unseen) & set(history)
        kept = ItemFilters(unseen=False)
        if main == "false":
            assert len(one(run, history, ranking="reranked", filters=kept)) == 10
            continue
        with pytest.raises(ConfigError, match="compare_seen") as caught:
            one(run, history, ranking="reranked", filters=kept)
        assert str(caught.value) == (
            "`--ranking reranked`: expected seen items to be left out, as they were when it was "
            "learnt how to rank, got that they are kept; set `evaluation.compare_seen: true` and "
            "run `mql4grec evaluate`, or leave them out"
        )


def test_filters_that_leave_nothing(run: Ranker) -> None:
    nothing = ItemFilters(only=[])
    with pytest.raises(DataError, match="expected to leave items, got none"):
        one(run, run.shop.item_ids[:1], ranking="combined", filters=nothing)


def nowhere(combination: Combination) -> Basis:
    none = np.zeros(0, np.int64)
    return Basis(combination, Occurrences(none, none * 0.1, none * 0.1, none, none))


def test_what_is_learnt_is_the_same_when_read(folder: Path, run: Ranker, tmp_path: Path) -> None:
    told = artifacts.read_json(folder / "evaluation" / "metrics.json", made_by="evaluate")
    told = told["seen_removed"]
    learnt = run.combiner.learnt[True]
    combination = dataclasses.asdict(learnt.combination)
    assert json.loads(json.dumps(combination)) == told["combination"]
    assert all(isinstance(gain, tuple) for gain in combination["gains"].values())
    assert learnt.reranker is not None
    assert isinstance(learnt.reranker.record.gain, tuple)
    assert json.loads(json.dumps(dataclasses.asdict(learnt.reranker.record))) == told["reranking"]
    write_learnt(tmp_path, "here", learnt)
    again = read_learnt(tmp_path, "here", describes=run.combiner.fitted.describes)
    assert again.combination == learnt.combination
    assert list(again.combination.calibrations) == list(learnt.combination.calibrations)
    assert again.reranker is not None
    assert again.reranker.record == learnt.reranker.record
    histories = run.shop.histories.held_out(1)
    names = learnt.combination.calibrations
    rankers = run.combiner.fitted.rankers
    lists = {name: rankers[name](histories, top_k=10) for name in names if name in rankers}
    lists["text"] = lists["sasrec"]
    found = [
        evaluation.rerank(evaluation.Lists(lists, histories), each.reranker, top_k=10)
        for each in (learnt, again)
        if each.reranker is not None
    ]
    np.testing.assert_array_equal(found[0].items, found[1].items)
    np.testing.assert_array_equal(found[0].scores, found[1].scores)


def test_learnt_without_trees(tmp_path: Path) -> None:
    combination = Combination(
        {"a": Calibration(1.5, 0.25), "b": Calibration(0.5, 0.5)},
        {"a": 0.3, "b": 0.7},
        0.125,
        9,
        {"b": (0.5, 0.25)},
    )
    write_learnt(tmp_path, "x", Learnt(combination, None))
    assert read_learnt(tmp_path, "x", describes=nowhere) == Learnt(combination, None)
    record = Reranking(9, 5, 25, 0.1, 0.2, (-0.1, 0.3), False, {})
    write_learnt(tmp_path, "x", Learnt(combination, Reranker(nowhere(combination), None, record)))
    again = read_learnt(tmp_path, "x", describes=nowhere)
    assert again.reranker is not None
    assert again.reranker.trees is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json"]


@pytest.mark.parametrize("told", ["{}", "[]", '{"combination": {"weights": 3}}'])
def test_a_file_of_something_else(tmp_path: Path, told: str) -> None:
    path = tmp_path / "learnt" / "x.json"
    artifacts.write_text(path, told)
    with pytest.raises(ArtifactError, match="expected what `mql4grec evaluate` writes") as caught:
        read_learnt(path.parent, "x", describes=nowhere)
    assert f"delete `{tmp_path}` and run the command again" in str(caught.value)


def test_trees_that_are_gone_or_broken(run: Ranker, tmp_path: Path) -> None:
    write_learnt(tmp_path, "x", run.combiner.learnt[True])
    path = tmp_path / "x.trees.txt"
    path.write_text("tree\nsomething else\n")
    with pytest.raises(ArtifactError, match="LightGBM's text of trees"):
        read_learnt(tmp_path, "x", describes=nowhere)
    path.unlink()
    with pytest.raises(ArtifactError, match="no such file"):
        read_learnt(tmp_path, "x", describes=nowhere)


def test_where_nothing_is_left_lists_are_empty(run: Ranker) -> None:
    histories = run.shop.histories.held_out(1)
    nothing = Filters(masks=np.zeros((1, run.shop.n_items), bool))
    for ranker in run.combiner.fitted.rankers.values():
        found: Rankings = ranker(histories, top_k=3, filters=nothing)
        assert (found.items == -1).all()
