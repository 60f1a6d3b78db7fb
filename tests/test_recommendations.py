"""Recommendations as files: JSON lines and Parquet, whole or not there."""

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from mql4grec.errors import ConfigError, DataError
from mql4grec.report import Recommendation, as_json, write_recommendations

FOUND = [
    Recommendation(("a",), ("b", "c"), ("Bee", ""), (-1.0, -2.5), user_id="u", certified=True),
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
        "certified": True,
        "items": [
            {"item_id": "b", "title": "Bee", "score": -1.0},
            {"item_id": "c", "title": "", "score": -2.5},
        ],
    }
    assert json.loads(lines[1]) == {"history": ["x"], "certified": False, "items": []}
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
        "certified": pl.Boolean,
    }
    assert table.rows() == [
        (0, "u", 1, "b", "Bee", -1.0, True),
        (0, "u", 2, "c", "", -2.5, True),
        (2, None, 1, "a", "A", -0.25, False),
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
