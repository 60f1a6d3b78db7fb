"""Recommendations for histories of ids: filters, streams, files in and out, and what is refused."""

import gzip
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
from mql4grec.catalog import Request, read_item_ids, read_requests
from mql4grec.cli import app
from mql4grec.errors import ArtifactError, ConfigError, DataError, Mql4grecError
from mql4grec.report import Recommendation, as_json, write_recommendations
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


LINES = """["a", 7]

{"history": ["b"], "only": ["a", "c"], "without": [3], "user_id": 12}
{"history": ["c"], "only": null, "without": null, "user_id": null}
{"only": [], "history": ["c"]}
"""
READ = [
    Request(("a", "7")),
    Request(("b",), ("a", "c"), ("3",), "12"),
    Request(("c",)),
    Request(("c",), ()),
]


def without_place(requests: list[Request]) -> list[Request]:
    return [Request(r.history, r.only, r.without, r.user_id) for r in requests]


@pytest.mark.parametrize("name", ["h.jsonl", "h.json", "h.ndjson.gz", "pipe"])
def test_histories_from_json_lines(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = LINES.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    found = list(read_requests(path))
    assert without_place(found) == READ
    assert found[1].place == f"`{path}`, line 3"


def test_lines_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text('["a"]\n' * 1000 + "[\n")
    requests = read_requests(path)
    assert len(list(itertools.islice(requests, 1000))) == 1000
    with pytest.raises(DataError, match="line 1001: expected JSON, got"):
        next(requests)


def test_histories_from_parquet(tmp_path: Path) -> None:
    path = tmp_path / "h.parquet"
    table = pl.DataFrame(
        {
            "history": [["a", "7"], ["b"], ["c"], ["c"]],
            "only": [None, ["a", "c"], None, []],
            "without": [None, [3], None, []],
            "user_id": [None, 12, None, None],
            "anything": [1.5] * 4,
        }
    )
    table.write_parquet(path)
    found = list(read_requests(path))
    assert without_place(found) == READ
    assert found[3].place == f"`{path}`, row 4"
    pl.DataFrame({"history": pl.Series([[1, 2]], dtype=pl.Array(pl.Int64, 2))}).write_parquet(path)
    assert without_place(list(read_requests(path))) == [Request(("1", "2"))]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "h.jsonl",
            b"",
            "`h.jsonl`: expected at least one history, got none; give one per line",
        ),
        (
            "h.jsonl",
            b"[1\n",
            "`h.jsonl`, line 1: expected JSON, got '[1\\n'; correct or delete the line",
        ),
        (
            "h.jsonl",
            b'"a"\n',
            "`h.jsonl`, line 1: expected a list of item ids or an object, got '\"a\"\\n'; "
            'write ["ID", "ID"] or {"history": ["ID", "ID"]}',
        ),
        (
            "h.jsonl",
            b"[1]\n[true]\n",
            "`h.jsonl`, line 2, `history`: expected a list of item ids, strings or whole numbers, "
            "got [true]; correct it",
        ),
        (
            "h.jsonl",
            b'{"only": ["a"]}',
            "`h.jsonl`, line 1, `history`: expected a list of item ids, strings or whole numbers, "
            "got null; correct it",
        ),
        (
            "h.jsonl",
            b'{"history": ["a"], "without": "b"}',
            "`h.jsonl`, line 1, `without`: expected a list of item ids, strings or whole numbers, "
            'got "b"; correct it',
        ),
        (
            "h.jsonl",
            b'{"history": ["a"], "exclude": ["b"]}',
            "`h.jsonl`, line 1: expected the fields user_id, history, only, without, got "
            "'exclude'; rename or remove it",
        ),
        (
            "h.jsonl",
            b'{"history": ["a"], "user_id": [1]}',
            "`h.jsonl`, line 1, `user_id`: expected a string or a whole number, got [1]; change it",
        ),
        (
            "h.jsonl",
            b'["a"]\n["\xff"]\n',
            "`h.jsonl`: expected a file of JSON lines in UTF-8, got 'utf-8' codec can't decode "
            "byte 0xff in position 8: invalid start byte; check the file",
        ),
        (
            "h.jsonl.gz",
            b"[1]",
            "`h.jsonl.gz`: expected a file of JSON lines in UTF-8, got Not a gzipped file "
            "(b'[1'); check the file",
        ),
        (
            "h.csv",
            b"a",
            "`h.csv`: expected a name ending in .jsonl, .ndjson or .json (JSON lines, possibly "
            ".gz) or .parquet, got 'h.csv'; rename or convert the file",
        ),
    ],
)
def test_broken_histories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_requests(Path(name)))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"items": [["a"]]},
            "`h.parquet`: expected a column 'history' with lists of item ids, got the columns "
            "['items']; rename one",
        ),
        (
            {"history": ["a"]},
            "`h.parquet`, column 'history': expected lists of item ids, strings or whole numbers, "
            "got String; convert the column",
        ),
        (
            {"history": [[1.5]]},
            "`h.parquet`, column 'history': expected lists of item ids, strings or whole numbers, "
            "got List(Float64); convert the column",
        ),
        (
            {"history": [["a"]], "user_id": [1.5]},
            "`h.parquet`, column 'user_id': expected ids, strings or whole numbers, got Float64; "
            "convert the column",
        ),
        (
            {"history": [["a"], ["b", None]]},
            "`h.parquet`, row 2, `history`: expected a list of item ids, strings or whole numbers, "
            'got ["b", null]; correct it',
        ),
    ],
)
def test_broken_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    pl.DataFrame(columns).write_parquet("h.parquet")
    with pytest.raises(DataError) as caught:
        list(read_requests(Path("h.parquet")))
    assert str(caught.value) == message


def test_no_table_at_all(tmp_path: Path) -> None:
    path = tmp_path / "h.parquet"
    path.write_bytes(b"no table, although long")
    with pytest.raises(DataError, match=r"expected a Parquet file, got .*; check the file"):
        list(read_requests(path))


def test_lists_of_item_ids(tmp_path: Path) -> None:
    path = tmp_path / "stock.txt"
    path.write_bytes("\ufeffa\r\n\r\n b b \n".encode())
    assert read_item_ids(path) == ["a", "b b"]
    path.write_text("\n")
    with pytest.raises(DataError, match="expected at least one item id, got none; leave the opt"):
        read_item_ids(path)
    path.write_bytes(b"\xff")
    with pytest.raises(DataError, match="expected a text file, an item id in each line, got 'utf"):
        read_item_ids(path)
    with pytest.raises(DataError, match="expected a text file, an item id in each line, got"):
        read_item_ids(tmp_path / "none.txt")


FOUND = [
    Recommendation(("a",), ("b", "c"), ("Bee", ""), (-1.0, -2.5), user_id="u"),
    Recommendation(("x",), (), (), ()),
    Recommendation(("é", "b"), ("a",), ("A",), (-0.25,)),
]


def test_json_lines_come_out(tmp_path: Path) -> None:
    path = tmp_path / "new" / "r.jsonl"
    assert write_recommendations(path, iter(FOUND)) == 3
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines == [as_json(found) for found in FOUND]
    assert json.loads(lines[0]) == {
        "user_id": "u",
        "history": ["a"],
        "items": [
            {"item_id": "b", "title": "Bee", "score": -1.0},
            {"item_id": "c", "title": "", "score": -2.5},
        ],
    }
    assert json.loads(lines[1]) == {"history": ["x"], "items": []}
    assert lines[2].startswith('{"history": ["é", "b"]')


@pytest.mark.parametrize("part", [1, 2, 1000])
def test_parquet_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    monkeypatch.setattr("mql4grec.report.recommendations.PART", part)
    path = tmp_path / "r.parquet"
    assert write_recommendations(path, iter(FOUND)) == 3
    table = pl.read_parquet(path)
    assert dict(table.schema) == {
        "request": pl.Int64,
        "user_id": pl.String,
        "rank": pl.Int32,
        "item_id": pl.String,
        "title": pl.String,
        "score": pl.Float32,
    }
    assert table.rows() == [
        (0, "u", 1, "b", "Bee", -1.0),
        (0, "u", 2, "c", "", -2.5),
        (2, None, 1, "a", "A", -0.25),
    ]
    assert write_recommendations(path, FOUND[1:2]) == 1
    assert pl.read_parquet(path).schema == table.schema
    assert [p.name for p in tmp_path.iterdir()] == ["r.parquet"]


@pytest.mark.parametrize("name", ["r.jsonl", "r.parquet"])
def test_nothing_half_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("mql4grec.report.recommendations.PART", 1)

    def failing() -> Iterator[Recommendation]:
        yield from FOUND
        raise DataError("line 4")

    path = tmp_path / name
    with pytest.raises(DataError, match="line 4"):
        write_recommendations(path, failing())
    assert list(tmp_path.iterdir()) == []
    write_recommendations(path, FOUND)
    before = path.read_bytes()
    with pytest.raises(DataError, match="line 4"):
        write_recommendations(path, failing())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("d.parquet").mkdir()
    Path("file").write_text("")
    for name, error, message in (
        (
            "r.txt",
            ConfigError,
            "`r.txt`: expected a name ending in .jsonl, .ndjson, .json (JSON lines) or .parquet, "
            "got 'r.txt'; rename it",
        ),
        (
            "d.parquet",
            ConfigError,
            "`d.parquet`: expected the name of a file, got a folder; add a name",
        ),
        (
            "file/r.jsonl",
            DataError,
            "`file/r.jsonl`: expected a place to write to, got [Errno 17] File exists: 'file'; "
            "choose another",
        ),
    ):
        with pytest.raises(error) as caught:
            write_recommendations(Path(name), FOUND)
        assert str(caught.value) == message


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
