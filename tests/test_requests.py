"""Histories and item ids as users give them: JSON lines, Parquet, text; and what is refused."""

import gzip
import itertools
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mql4grec.catalog import Request, read_item_ids, read_requests
from mql4grec.errors import DataError

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


@pytest.mark.parametrize("group", [3, 1000])
def test_tables_are_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int
) -> None:
    monkeypatch.setattr("mql4grec.catalog.requests.PART", 4)
    path = tmp_path / "h[1].parquet"  # no pattern
    table = pl.DataFrame({"user_id": range(11), "history": [[str(row)] for row in range(11)]})
    table.write_parquet(path, row_group_size=group)
    found = list(read_requests(path))
    assert [request.history for request in found] == [(str(row),) for row in range(11)]
    assert [request.user_id for request in found] == [str(row) for row in range(11)]
    assert [request.place for request in found] == [f"`{path}`, row {n}" for n in range(1, 12)]
    table[:0].write_parquet(path)
    with pytest.raises(DataError, match="expected at least one history, got none"):
        list(read_requests(path))


def test_a_table_that_breaks_off_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mql4grec.catalog.requests.PART", 2)
    path = tmp_path / "h.parquet"
    pl.DataFrame({"history": [["a"]] * 6}).write_parquet(path)
    requests = read_requests(path)
    assert len(list(itertools.islice(requests, 2))) == 2
    path.unlink()
    with pytest.raises(DataError, match=r"expected a Parquet file, got .*; check the file"):
        next(requests)


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
    with pytest.raises(DataError, match=r"expected a Parquet file, got .*; write it again"):
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
