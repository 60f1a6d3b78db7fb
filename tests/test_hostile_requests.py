"""Requests are not to be trusted: each odd file ends in one short message with its line."""

import contextlib
import gzip
import json
import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mql4grec import artifacts
from mql4grec.catalog import read_requests
from mql4grec.catalog import requests as room
from mql4grec.errors import DataError

LINES = {
    "deep": "[" * 20_000,
    "deep objects": '{"history":' * 20_000,
    "digits": "[" + "7" * 5000 + "]",
    "field twice": '{"history": ["a"], "history": ["b"]}',
    "unknown field of 50 MB": json.dumps({"x" * 50_000_000: 1}),
    "user of a list": '{"history": ["a"], "user_id": [1]}',
    "a number": "7",
    "nothing of a kind": "\0\0\0",
    "a list of lists": json.dumps([[["a"] * 1000] * 1000]),
    "true": "[true]",
    "infinite": "[Infinity]",
}


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_requests(path))
    assert str(caught.value).startswith("`")
    assert len(str(caught.value)) < 700
    return str(caught.value)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", LINES)
def test_odd_lines_are_told_short(tmp_path: Path, name: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('["fine"]\n' + LINES[name] + "\n")
    assert "line 2" in refused(path)


def test_ids_of_half_a_pair_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('["\\ud800", "\\ud801"]\n')
    (found,) = read_requests(path)
    assert found.history == ("\ud800", "\ud801")


def test_a_line_longer_than_memory_allows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LONGEST_LINE", 1000)
    path = tmp_path / "r.jsonl.gz"
    path.write_bytes(gzip.compress(b'["a"]\n' + b" " * 10_000_000))
    assert "line 2: expected at most 1,000 characters" in refused(path)
    assert "line 1: expected at most" in refused_of(Path("/dev/zero"), monkeypatch)


def refused_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Read a device as if it had a name that is read."""
    monkeypatch.setattr(room, "LINES", ("", ".jsonl"))
    return refused(path)


def test_cut_archives_and_folders_are_told(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl.gz"
    path.write_bytes(gzip.compress(b'["a"]\n' * 100_000)[:-20])
    assert "expected a file of JSON lines" in refused(path)
    for name in ("a.jsonl", "a.parquet"):
        (tmp_path / name).mkdir()
        refused(tmp_path / name)
        refused(tmp_path / f"none-{name}")


def test_damaged_parquet_never_ends_the_process(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    pl.DataFrame({"history": [["a", "b"]] * 50, "user_id": ["u"] * 50}).write_parquet(path)
    assert len(list(read_requests(path))) == 50
    whole, chance = path.read_bytes(), random.Random(5)
    for _ in range(4):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[chance.randrange(len(whole) // 2, len(whole))] = chance.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(DataError):
            list(read_requests(path))


def test_parquet_that_needs_more_memory_than_its_bound_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.parquet"
    pl.DataFrame({"x": np.zeros(200_000_000, np.int64)}).write_parquet(path)  # 1.6 GB of the same
    assert path.stat().st_size < 10_000_000
    monkeypatch.setattr(artifacts.vetting, "BASE", 1 << 30)
    with pytest.raises(DataError, match=r"bomb\.parquet`: expected a Parquet file, got"):
        artifacts.vet_parquet([path])
