"""Recommendations for histories of ids: filters, streams, files in and out, and what is refused."""

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner, Result

import tiny
from mql4grec import pipeline, serving
from mql4grec.catalog import Request
from mql4grec.cli import app
from mql4grec.errors import ArtifactError, DataError, Mql4grecError
from mql4grec.report import Recommendation, as_json
from mql4grec.runtime import SILENT
from mql4grec.serving import ItemFilters
from mql4grec.stages.ranking import Ranker

ALL_BEAMS = "decoding.n_beams=1000"  # more than the shop has items: nothing is lost in the search


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    pipeline.run(tiny.settings(folder), journal=SILENT)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Ranker:
    return serving.open_run(tiny.settings(folder))


@pytest.fixture(scope="module")
def exact(folder: Path) -> Ranker:
    return serving.open_run(tiny.settings(folder, ALL_BEAMS))


def call(folder: Path, *arguments: str, given: str | None = None) -> Result:
    options = tiny.as_options(tiny.overrides(folder))
    return CliRunner().invoke(app, ["recommend", *arguments, *options], input=given)


def one(run: Ranker, history: Any, **arguments: Any) -> Recommendation:
    (found,) = serving.recommend(run, [history], **arguments)
    return found


def pairs(found: Recommendation) -> list[tuple[str, Any]]:
    scores = [pytest.approx(score, abs=1e-4) for score in found.scores]
    return list(zip(found.item_ids, scores, strict=True))


@pytest.mark.parametrize("ranking", ["text", "image", "fused"])
def test_filters_equal_filtering_the_whole_catalog_afterwards(exact: Ranker, ranking: str) -> None:
    ids = exact.shop.item_ids
    history = ids[3:8]
    everything = pairs(one(exact, history, ranking=ranking, top_k=1000))
    assert len(everything) >= 55  # a few have no picture
    only, without, own = ids[::2], ids[::3], ids[: len(ids) // 2]
    request = Request(history, only=own, without=ids[10:12])
    filters = ItemFilters(unseen=True, only=only, without=without)
    found = one(exact, request, ranking=ranking, top_k=1000, filters=filters)
    wanted = set(only) - set(without) - set(history)
    wanted = wanted & set(own) - set(request.without)
    assert len(wanted) > 3
    assert pairs(found) == [pair for pair in everything if pair[0] in wanted]
    assert [exact.shop.titles[ids.index(item)] for item in found.item_ids] == list(found.titles)


@pytest.mark.parametrize("ranking", ["text", "fused"])
def test_a_list_is_not_short_for_having_been_filtered(
    run: Ranker, exact: Ranker, ranking: str
) -> None:
    history = run.shop.item_ids[:4]
    worst = one(exact, history, ranking=ranking, top_k=1000).item_ids[-8:]
    found = one(run, history, ranking=ranking, top_k=8, filters=ItemFilters(only=worst))
    assert found.item_ids == worst  # of 10 beams none would have led there
    short = one(run, history, ranking=ranking, top_k=20, filters=ItemFilters(only=worst))
    assert short.item_ids == worst
    assert len(short.titles) == len(short.scores) == 8


def test_seen_items_are_left_out_as_asked_or_as_the_settings_say(folder: Path) -> None:
    plain = serving.open_run(tiny.settings(folder))
    strict = serving.open_run(tiny.settings(folder, "evaluation.remove_seen=true"))
    history = one(plain, plain.shop.item_ids[:1]).item_ids[:5]
    for ranking in ("text", "fused"):
        common = {"ranking": ranking, "top_k": 60}
        for run, filters, seen in (
            (plain, ItemFilters(), True),
            (plain, ItemFilters(unseen=True), False),
            (strict, ItemFilters(), False),
            (strict, ItemFilters(unseen=False), True),
        ):
            found = one(run, history, filters=filters, **common)
            assert set(history) <= set(found.item_ids) if seen else True
            assert seen or not set(history) & set(found.item_ids)


def test_a_run_without_seen_items_has_whole_lists(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    settings = tiny.settings(tmp_path, "evaluation.remove_seen=true")
    done = pipeline.run(settings, journal=SILENT)
    assert done == ["evaluate decoding", "evaluate metrics", "report"]
    shop = serving.open_run(settings).shop
    for name in ("text", "image", "fused"):
        table = pl.read_parquet(tmp_path / "evaluation" / "rankings" / f"{name}.parquet")
        lists = table.group_by("user_id").agg("item_id").rows()
        assert len(lists) == len(shop.user_ids)
        for user_id, items in lists:
            history = shop.histories.held_out(1).of(shop.user_ids.index(user_id))
            assert not {shop.item_ids[item] for item in history} & set(items)
            assert len(items) == 10


def test_requests_keep_their_order_and_their_lists_in_any_chunks(
    run: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = run.shop.item_ids
    requests = [
        Request(ids[:3], user_id="first"),
        Request(ids[5:6], only=ids[20:30]),
        Request(ids[7:20], without=ids[:30]),
        Request(ids[1:3], only=()),
        Request(ids[40:45], only=ids[:2], user_id="last"),
    ]
    alone = [one(run, request, top_k=4) for request in requests]
    assert alone[3].item_ids == ()
    assert set(alone[4].item_ids) == set(ids[:2])
    for size in (1, 2, 1024):
        monkeypatch.setattr("mql4grec.serving.CHUNK", size)
        found = list(serving.recommend(run, requests, top_k=4))
        assert [f.history for f in found] == [r.history for r in requests]
        assert [f.user_id for f in found] == ["first", None, None, None, "last"]
        assert [f.item_ids for f in found] == [f.item_ids for f in alone]


def test_certified_lists_are_those_of_exact_scoring(folder: Path, exact: Ranker) -> None:
    histories = [exact.shop.item_ids[start:][:4] for start in range(40)]
    common = {"ranking": "image", "top_k": 1}
    whole = list(serving.recommend(exact, histories, **common))
    assert all(found.certified for found in whole)
    few = serving.open_run(tiny.settings(folder, "decoding.n_beams=40"))
    found = list(serving.recommend(few, histories, **common))
    assert 0 < sum(one.certified for one in found) < len(found)
    for one_of_few, right in zip(found, whole, strict=True):
        assert one_of_few.item_ids == right.item_ids or not one_of_few.certified


@pytest.mark.parametrize("ranking", ["text", "fused"])
def test_each_list_has_its_own_certificate(run: Ranker, ranking: str) -> None:
    ids = run.shop.item_ids
    drop = ItemFilters(unknown_items="drop")
    requests = [Request(ids[:3]), Request(ids[:3], only=ids[:5]), Request(("gone",))]
    found = serving.recommend(run, requests, ranking=ranking, filters=drop)
    # Ten beams: enough for five items, not for sixty; nothing was searched for the last.
    assert [one.certified for one in found] == [False, True, False]


def test_endless_histories_are_answered_while_they_come(
    run: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mql4grec.serving.CHUNK", 2)
    asked = 0

    def histories() -> Iterator[tuple[str, ...]]:
        nonlocal asked
        for asked in itertools.count(1):
            yield run.shop.item_ids[asked % 50 :][:3]

    answers = serving.recommend(run, histories(), ranking="text", top_k=1)
    assert len(list(itertools.islice(answers, 5))) == 5
    assert asked == 6


def test_unknown_ids_can_be_left_out(run: Ranker) -> None:
    ids = run.shop.item_ids
    drop = ItemFilters(unknown_items="drop", only=[*ids[:20], "gone"], without=["gone"])
    request = Request(("gone", *ids[:2], "new"), without=("lost",), only=("lost", *ids[:9]))
    found = one(run, request, filters=drop)
    assert found.unknown == ("gone", "new")
    known = Request(ids[:2], only=ids[:9])
    assert found.item_ids == one(run, known, filters=ItemFilters(only=ids[:20])).item_ids
    assert one(run, ["gone"], filters=drop).item_ids == ()


@pytest.mark.parametrize(
    ("request_", "arguments", "message"),
    [
        (
            Request(("item-0001", "a", "b"), place="`h.jsonl`, line 7"),
            {},
            "`h.jsonl`, line 7: expected item ids of `Demo`, got 2 unknown, the first ['a', 'b']; "
            "ids are those of `Demo.item2id` (preparation drops rare items); `--drop-unknown` "
            "leaves out what is none",
        ),
        (
            Request(("item-0001",), only=("x",), place="`h.jsonl`, line 7"),
            {},
            "`h.jsonl`, line 7, `only`: expected item ids of `Demo`, got 1 unknown, the first "
            "['x']; ids are those of `Demo.item2id` (preparation drops rare items); "
            "`--drop-unknown` leaves out what is none",
        ),
        (
            Request(()),
            {},
            "histories: expected at least one item id, got an empty history; leave it out",
        ),
        (
            Request(("item-0001",)),
            {"filters": ItemFilters(only=["item-0001"], without=["item-0001"])},
            "filters: expected to leave items that have text or image codes, got none (`only`: 1, "
            "`without`: 1); give other lists",
        ),
        (
            Request(("item-0001",)),
            {"filters": ItemFilters(only=["y"], unknown_items="drop"), "ranking": "image"},
            "filters: expected to leave items that have image codes, got none (`only`: 1, "
            "`without`: 0); give other lists",
        ),
    ],
)
def test_what_cannot_be_recommended_for(
    run: Ranker, request_: Request, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        one(run, request_, **arguments)
    assert str(caught.value) == message


def test_other_misuse(run: Ranker, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`top_k`: expected at least 1, got 0"):
        serving.recommend(run, [], top_k=0)
    with pytest.raises(TypeError, match="expected lists of item ids, got 'item-0001'; put one"):
        one(run, "item-0001")
    with pytest.raises(ArtifactError, match=r"expected one of .*'fused'.*, got 'best'"):
        serving.recommend(run, [], ranking="best")
    with pytest.raises(ArtifactError, match="expected stage `finetune` to be done"):
        serving.open_run(tiny.settings(tmp_path))


def test_the_command_does_what_the_function_does(folder: Path, run: Ranker, tmp_path: Path) -> None:
    ids = run.shop.item_ids
    (tmp_path / "stock.txt").write_text("\n".join(ids[:40]))
    (tmp_path / "ads.txt").write_text("\n".join(ids[:5]))
    requests = [Request(ids[:3], user_id="u"), Request(ids[4:9], only=ids[:30])]
    (tmp_path / "h.jsonl").write_text(
        "\n".join(
            json.dumps({"history": r.history, "only": r.only, "user_id": r.user_id})
            for r in requests
        )
    )
    filters = ItemFilters(unseen=True, only=ids[:40], without=ids[:5])
    expected = list(serving.recommend(run, requests, ranking="image", top_k=4, filters=filters))
    options = ["--unseen", "--only", f"{tmp_path}/stock.txt", "--without", f"{tmp_path}/ads.txt"]
    options += ["--histories", f"{tmp_path}/h.jsonl", "--ranking", "image", "--top-k", "4"]
    lines = call(folder, *options, "--json").output.splitlines()
    assert lines == [as_json(found) for found in expected]
    for name in ("r.jsonl", "r.parquet"):
        result = call(folder, *options, "--out", f"{tmp_path}/{name}")
        assert result.output == f"2 histories: {tmp_path}/{name}\n"
    assert (tmp_path / "r.jsonl").read_text().splitlines() == lines
    table = pl.read_parquet(tmp_path / "r.parquet")
    assert table["item_id"].to_list() == [item for found in expected for item in found.item_ids]
    assert table["user_id"].to_list() == ["u"] * 4 + [None] * 4


def test_a_history_of_arguments_comes_before_those_of_standard_input(
    folder: Path, run: Ranker
) -> None:
    ids = run.shop.item_ids
    given = json.dumps(ids[:2]) + "\n" + json.dumps({"history": ids[:1], "only": []}) + "\n"
    result = call(folder, ids[7], "--histories", "-", "--json", given=given)
    histories = [json.loads(line)["history"] for line in result.output.splitlines()]
    assert histories == [[ids[7]], list(ids[:2]), [ids[0]]]
    table = call(folder, "--histories", "-", given=given).output
    assert "no item is left: the filters close all of them" in table


def test_lists_are_exact_on_request(folder: Path, exact: Ranker) -> None:
    history = exact.shop.item_ids[:4]
    few = [*history, "--json", "--top-k", "20", "--set", "decoding.n_beams=1"]
    for ranking in ("text", "image"):
        whole = list(one(exact, history, ranking=ranking, top_k=20).item_ids)
        plain, certain = (
            call(folder, *few, "--ranking", ranking, *options).output
            for options in ([], ["--exact"])
        )
        assert [item["item_id"] for item in json.loads(certain)["items"]] == whole
        assert [item["item_id"] for item in json.loads(plain)["items"]] != whole


def test_tables_end_with_the_number_of_certified_lists(folder: Path, run: Ranker) -> None:
    ids = run.shop.item_ids
    own = json.dumps({"history": ids[:2], "only": ids[:5]})
    given = f"{own}\n{json.dumps(ids[:2])}\n"
    for arguments, line in (
        ([], "1 of 2 lists are provably what scoring every item would give; `--exact` searches "),
        (["--exact"], "2 of 2 lists are provably what scoring every item would give"),
    ):
        result = call(folder, "--histories", "-", *arguments, given=given)
        assert result.stdout.splitlines()[-1].startswith(line)


def test_what_was_left_out_is_told_on_standard_error(
    folder: Path, run: Ranker, tmp_path: Path
) -> None:
    ids = run.shop.item_ids
    (tmp_path / "stock.txt").write_text("\n".join([*ids[:9], "gone"]))
    result = call(
        folder, ids[0], "x", "y", "--drop-unknown", "--only", f"{tmp_path}/stock.txt", "--json"
    )
    assert len(json.loads(result.stdout)["items"]) == 9
    assert result.stderr.splitlines() == [
        "--only: left out 1 ids that `Demo` does not have, the first ['gone']",
        "histories: left out 2 ids that `Demo` does not have, the first ['x', 'y']",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["item-0001", "--out", "r.txt"], "`r.txt`: expected a name ending in .jsonl, .ndjson, "),
        (["item-0001", "--out", "r.jsonl", "--json"], "`--json`, `--out`: expected one of them, "),
        (["item-0001", "--only", "none.txt"], "`none.txt`: expected a text file, an item id in "),
        (["--histories", "h.csv"], "`h.csv`: expected a name ending in .jsonl, .ndjson or .json"),
        (["--histories", "h.parquet"], "`h.parquet`: expected a Parquet file, got No such file"),
        ([], "histories: expected item ids or a file, got none; see `recommend --help`"),
    ],
)
def test_the_command_refuses_before_it_reads_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(tmp_path / "no run", *arguments)
    assert result.exit_code == 1
    assert isinstance(result.exception, Mql4grecError)
    assert str(result.exception).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_line_leaves_no_file(folder: Path, run: Ranker, tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text(json.dumps(run.shop.item_ids[:2]) + '\n["nobody"]\n')
    for name in ("r.jsonl", "r.parquet"):
        out = ["--histories", f"{tmp_path}/h.jsonl", "--out", f"{tmp_path}/{name}"]
        result = call(folder, *out)
        assert result.exit_code == 1
        assert "line 2: expected item ids of `Demo`, got 1 unknown" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["h.jsonl"]
