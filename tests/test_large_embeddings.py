"""Embeddings of any size: read from files in ranges, and what is wrong with files is told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from large_catalogs import (
    RUNTIME,
    WIDTH,
    fault,
    make_network,
    make_vectors,
    one_thread,
    open_text,
    write_npy,
    write_shards,
)
from mql4grec import embeddings, translator


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_numpy_file_is_read_in_ranges(tmp_path: Path, dtype: type) -> None:
    vectors = make_vectors(50)
    given = open_text(write_npy(tmp_path / "x.npy", vectors.astype(dtype)))
    assert (given.n_items, given.width, given.dtype) == (50, WIDTH, dtype)
    assert given.present.all()
    read = embeddings.reader(given)
    for start, stop in ((0, 1), (3, 20), (20, 50), (0, 50)):
        np.testing.assert_array_equal(read(start, stop), vectors[start:stop].astype(dtype))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("chunk_rows", [1, 4, 1000])
def test_parquet_shards_are_one_table(
    tmp_path: Path, dtype: type, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = make_vectors(50).astype(dtype)
    monkeypatch.setattr("mql4grec.embeddings.given.CHUNK_BYTES", chunk_rows * 4 * WIDTH)
    given = open_text(write_shards(tmp_path / "x", vectors, ends=(10, 10, 31)))  # one is empty
    assert (given.n_items, given.width, given.dtype, given.ends) == (
        50,
        WIDTH,
        dtype,
        (10, 10, 31, 50),
    )
    assert [given.place(row) for row in (0, 9, 10, 49)] == [
        (tmp_path / "x" / f"{file}.parquet", row)
        for file, row in (("00", 0), ("00", 9), ("02", 0), ("03", 18))
    ]  # fmt: skip
    read = embeddings.reader(given)
    for start, stop in ((0, 50), (0, 7), (7, 13), (13, 50), (5, 6)):
        np.testing.assert_array_equal(read(start, stop), vectors[start:stop])
    alone = open_text(tmp_path / "x" / "03.parquet")
    np.testing.assert_array_equal(embeddings.reader(alone)(0, 19), vectors[31:])


def test_faults_of_numpy_files(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    assert fault(lambda: open_text(path)) == (
        f"`{path}`: expected embeddings, got no such file; correct the path"
    )
    assert fault(lambda: open_text(tmp_path / "x.csv")) == (
        f"`{tmp_path}/x.csv`: expected a `.npy` file, a `.parquet` file, or a folder of them, got "
        "'.csv'"
    )
    wrong = f"`{path}`: expected float16 or float32 (N, D) in C order, got "
    for values, told in (
        (np.zeros((4, 3)), "float64 (4, 3)"),
        (np.zeros(4, np.float32), "float32 (4,)"),
        (np.asfortranarray(np.zeros((4, 3), np.float32)), "float32 (4, 3) in Fortran order"),
    ):
        write_npy(path, values)
        assert fault(lambda: open_text(path)) == f"{wrong}{told}; write it again"
    write_npy(path, np.zeros((0, 3), np.float16))
    assert fault(lambda: open_text(path)) == (
        f"`{path}`: expected at least one row and column, got (0, 3)"
    )
    write_npy(path, np.zeros((9, 3), np.float16))
    path.write_bytes(path.read_bytes()[:-1])
    assert fault(lambda: open_text(path)).startswith(f"`{path}`: expected a `.npy` file, got ")
    write_npy(path, np.zeros((9, 3), np.float16))
    given = open_text(path)
    os.truncate(path, path.stat().st_size - 6)
    assert fault(lambda: embeddings.reader(given)(5, 9)) == (
        f"`{path}`: expected 9 rows, but it became shorter"
    )


def test_faults_of_shards(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    assert fault(lambda: open_text(folder)) == (
        f"`{folder}`: expected a folder of `.parquet` files, got none"
    )
    (folder / "0.parquet").write_bytes(b"no Parquet")
    assert fault(lambda: open_text(folder)).startswith(
        f"`{folder}/0.parquet`: expected a Parquet file, got "
    )
    pl.DataFrame({"a": [[1.0]], "b": [1]}).write_parquet(folder / "0.parquet")
    assert fault(lambda: open_text(folder)) == (
        f"`{folder}/0.parquet`: expected one column of fixed-size lists of float16 or float32, got "
        "columns `a` List(Float64), `b` Int64; cast it, in polars to `pl.Array(pl.Float32, D)`"
    )
    for name, width, dtype in (("0", 3, np.float32), ("1", 4, np.float16)):
        pl.DataFrame({"v": np.zeros((2, width), dtype)}).write_parquet(folder / f"{name}.parquet")
    assert fault(lambda: open_text(folder)) == (
        f"`{folder}/1.parquet`: expected a column `v` of float32 (3) as in `0.parquet`, got `v` of "
        "float16 (4); write all shards alike"
    )


@pytest.mark.parametrize(("value", "name"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_that_are_not_finite(tmp_path: Path, value: float, name: str, dtype: type) -> None:
    vectors = make_vectors(50).astype(dtype)
    vectors[[37, 40], 2] = value
    path = write_npy(tmp_path / "x.npy", vectors)
    told = f"expected finite numbers, got {name} in row"
    make = "make the embeddings again"
    network = make_network()
    assert fault(lambda: translator.translate(network, open_text(path), runtime=RUNTIME)) == (
        f"`{path}`: {told} 37; {make}"
    )
    folder = write_shards(tmp_path / "x", vectors, ends=(30,))
    assert fault(lambda: translator.translate(network, open_text(folder), runtime=RUNTIME)) == (
        f"`{folder}/01.parquet`: {told} 7; {make}"
    )


def test_greatest_numbers_of_float16_are_finite(tmp_path: Path) -> None:
    vectors = np.full((2, WIDTH), 65504, np.float16) * np.array([[1], [-1]], np.float16)
    given = open_text(write_npy(tmp_path / "x.npy", vectors))
    assert np.isfinite(translator.translate(make_network(), given, runtime=RUNTIME).latents).all()
