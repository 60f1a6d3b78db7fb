"""Catalogs of any size: embeddings as files, translated into files, within memory, after a kill."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from mql4grec import codes, embeddings, translator
from mql4grec.cli import app
from mql4grec.config import CodesSettings
from mql4grec.embeddings import Embeddings, GivenEmbeddings
from mql4grec.errors import ArtifactError, CollisionError, ConfigError, DataError
from mql4grec.rqvae import RQVAE
from mql4grec.runtime import SILENT, Runtime
from mql4grec.stages.large import Files, generate_from_files, read_lines
from mql4grec.translator import files as translator_files
from mql4grec.translator.prefetch import prefetch
from mql4grec.translator.rows import list_blocks

RUNTIME = Runtime()
WIDTH = 12
ARGUMENTS: dict[str, Any] = {
    "in_dim": WIDTH,
    "layers": (8,),
    "e_dim": 4,
    "num_emb_list": (8, 8, 16),
    "sk_epsilons": (0.0, 0.0, 0.0),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mql4grec.translator.translation.ROWS_AT_ONCE", 16)
    monkeypatch.setattr("mql4grec.translator.translation.BLOCKS_PER_NOTE", 3)


def make_vectors(n_items: int = 200, *, width: int = WIDTH, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n_items, width)).astype(np.float16).astype(np.float32)
    vectors[-1] = 0  # an item like any other
    return vectors


def make_network(*, seed: int = 0, **changes: Any) -> RQVAE:
    network = RQVAE(**{**ARGUMENTS, **changes}, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for codebook in network.codebooks:
        torch.nn.init.normal_(codebook, std=0.5, generator=generator)
    return network.eval()


def save_network(folder: Path, network: RQVAE) -> Path:
    record = {"arguments": network.arguments()}
    translator_files.save_best(folder, "collision_rate", network.state_dict(), record)
    return folder


def write_npy(path: Path, vectors: NDArray[Any]) -> Path:
    np.save(path, vectors)
    return path


def write_shards(
    folder: Path, vectors: NDArray[Any], *, ends: tuple[int, ...], column: str = "v"
) -> Path:
    folder.mkdir()
    for number, part in enumerate(np.split(vectors, ends)):
        ids = [f"item {row}" for row in range(len(part))]
        table = pl.DataFrame({"item_id": pl.Series(ids, dtype=pl.String), column: part})
        table.write_parquet(folder / f"{number:02d}.parquet", row_group_size=7)
    return folder


def open_text(path: Path) -> GivenEmbeddings:
    return embeddings.open_given(path, dataset="shop", modality="text")


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


def fault(make: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        make()
    return str(caught.value)


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


@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
def test_blocks_of_rows_are_those_present(
    rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mql4grec.translator.rows.ROWS_LOOKED_AT", 10)
    present = np.random.default_rng(0).random(97) < 0.6
    present[20:45] = False
    rows = np.flatnonzero(present)
    blocks = list(list_blocks(present, rows_at_once=rows_at_once))
    np.testing.assert_array_equal(np.concatenate(blocks), rows)
    assert {len(block) for block in blocks[:-1]} <= {rows_at_once}
    begin = len(rows) // 2
    part = list(list_blocks(present, rows_at_once=rows_at_once, first=int(rows[begin])))
    np.testing.assert_array_equal(np.concatenate(part), rows[begin:])
    assert list(list_blocks(np.zeros(30, np.bool_), rows_at_once=4)) == []


@pytest.mark.parametrize("n_ahead", [1, 3, 50])
def test_reading_ahead_keeps_the_order_and_the_bound(n_ahead: int) -> None:
    n_read = n_used = most = 0

    def read(rows: NDArray[np.int64]) -> torch.Tensor:
        nonlocal n_read, most
        n_read += 1
        most = max(most, n_read - n_used)
        return torch.from_numpy(rows)

    blocks = [np.array([row]) for row in range(20)]
    for number, (rows, block) in enumerate(prefetch(read, blocks, n_threads=1, n_ahead=n_ahead)):
        assert (int(rows[0]), int(block[0])) == (number, number)
        n_used += 1
    assert n_used == 20
    assert most <= n_ahead + 1


def same(one: translator.Translation, other: translator.Translation) -> bool:
    return (
        np.array_equal(one.codes, other.codes)
        and np.array_equal(one.latents, other.latents)
        and one.quantisation_error == other.quantisation_error
    )


@pytest.mark.parametrize("max_memory", [None, 1])
@pytest.mark.usefixtures("small_blocks")
def test_files_hold_what_memory_holds(tmp_path: Path, max_memory: int | None) -> None:
    vectors = make_vectors()
    network = make_network()
    present = np.ones(200, np.bool_)
    shop = Embeddings("shop", "text", "encoder", vectors, present)
    expected = translator.translate(network, shop, runtime=RUNTIME)
    error = expected.latents.astype(np.float64)
    for level, table in enumerate(expected.codebooks):
        error -= table[expected.codes[:, level]]
    assert expected.quantisation_error == pytest.approx((error**2).sum(1).mean(), rel=1e-12)
    sources: list[Embeddings | GivenEmbeddings] = [
        shop,
        open_text(write_npy(tmp_path / "x.npy", vectors.astype(np.float16))),
        open_text(write_shards(tmp_path / "x", vectors, ends=(50, 170))),
    ]
    for number, source in enumerate(sources):
        folder = tmp_path / str(number)
        found = translator.translate(
            network, source, runtime=RUNTIME, folder=folder, max_memory=max_memory
        )
        assert same(found, expected)
        assert isinstance(found.codes, np.memmap)
        assert not found.latents.flags.writeable
        assert found.present.all()
        again = translator.translate(network, source, runtime=RUNTIME, folder=folder)
        assert same(again, expected)


@pytest.mark.usefixtures("small_blocks")
def test_items_that_are_not_present(tmp_path: Path) -> None:
    present = np.random.default_rng(3).random(200) < 0.7
    shop = Embeddings("shop", "text", "encoder", make_vectors(), present)
    expected = translator.translate(make_network(), shop, runtime=RUNTIME)
    found = translator.translate(make_network(), shop, runtime=RUNTIME, folder=tmp_path)
    assert same(found, expected)
    assert not found.codes[~present].any()
    nobody = dataclasses.replace(shop, present=np.zeros(200, np.bool_))
    found = translator.translate(make_network(), nobody, runtime=RUNTIME, folder=tmp_path)
    assert found.quantisation_error is None
    assert not found.latents.any()


def break_at(monkeypatch: pytest.MonkeyPatch, n_blocks: int) -> list[int]:
    """Raise in place of the block of that number; gives the rows of every block that is encoded."""
    encode, seen = translator.translation._encode, []

    def encode_some(network: RQVAE, block: torch.Tensor, *, precision: Any) -> Any:
        if len(seen) == n_blocks:
            raise KeyboardInterrupt
        seen.append(len(block))
        return encode(network, block, precision=precision)

    monkeypatch.setattr(translator.translation, "_encode", encode_some)
    return seen


@pytest.mark.parametrize("n_blocks", [0, 2, 3, 4, 7, 12])
@pytest.mark.usefixtures("small_blocks")
def test_an_interrupted_translation_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_blocks: int
) -> None:
    given = open_text(write_npy(tmp_path / "x.npy", make_vectors()))
    network = make_network()
    expected = translator.translate(network, given, runtime=RUNTIME)
    with monkeypatch.context() as patch:
        break_at(patch, n_blocks)
        with pytest.raises(KeyboardInterrupt):
            translator.translate(network, given, runtime=RUNTIME, folder=tmp_path / "f")
    encoded = break_at(monkeypatch, -1)
    found = translator.translate(network, given, runtime=RUNTIME, folder=tmp_path / "f")
    assert len(encoded) == 13 - n_blocks // 3 * 3  # from the last note on
    assert same(found, expected)


@pytest.mark.parametrize("change", ["network", "source", "precision", "rows"])
@pytest.mark.usefixtures("small_blocks")
def test_nothing_of_another_translation_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path, folder = tmp_path / "x.npy", tmp_path / "f"
    given, network = open_text(write_npy(path, make_vectors())), make_network()
    with monkeypatch.context() as patch:
        break_at(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            translator.translate(network, given, runtime=RUNTIME, folder=folder)
    settings: dict[str, Any] = {}
    if change == "network":
        network = make_network(seed=1)
    elif change == "source":
        os.utime(path, ns=(1, 1))
        given = open_text(path)
    elif change == "rows":
        given = open_text(write_npy(path, make_vectors(150)))
    else:
        settings["precision"] = "bf16"
    expected = translator.translate(network, given, runtime=RUNTIME, **settings)
    encoded = break_at(monkeypatch, -1)
    found = translator.translate(network, given, runtime=RUNTIME, folder=folder, **settings)
    assert sum(encoded) == given.n_items
    assert same(found, expected)


def test_precision_is_asked_for(tmp_path: Path) -> None:
    given = open_text(write_npy(tmp_path / "x.npy", make_vectors()))
    torch.set_float32_matmul_precision("high")
    try:
        found = {
            precision: translator.translate(
                make_network(), given, runtime=RUNTIME, precision=precision
            )
            for precision in ("fp32", "tf32", "bf16")
        }
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    exact = translator.translate(make_network(), given, runtime=Runtime(precision="bf16"))
    assert same(found["fp32"], exact)
    error = np.abs(found["bf16"].latents - exact.latents).max()
    assert 0 < error < 0.1


def test_a_wide_network_takes_fewer_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = open_text(write_npy(tmp_path / "x.npy", make_vectors(40)))
    monkeypatch.setattr("mql4grec.translator.translation.ROWS_AT_ONCE", 30)
    monkeypatch.setattr("mql4grec.translator.translation.WIDE", 5)
    encoded = break_at(monkeypatch, -1)
    translator.translate(make_network(), given, runtime=RUNTIME)
    assert encoded == [10] * 4


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    given = open_text(write_npy(tmp_path / "x.npy", make_vectors(10)))
    with pytest.raises(ArtifactError) as caught:
        translator.translate(make_network(), given, runtime=RUNTIME, folder=tmp_path / "f")
    assert str(caught.value) == (
        f"`{tmp_path}/f/codes.npy`: expected room for 188 bytes, got 'No space left on device'; "
        "free some, or choose another disk"
    )


MEASURED = """
import sys, threading, time
from pathlib import Path
import torch
from mql4grec import embeddings, translator
from mql4grec.runtime import Runtime
from mql4grec.translator import translation

translation.ROWS_AT_ONCE = 4096  # half a megabyte of vectors

def own():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

def translate(path):
    given = embeddings.open_given(Path(path), dataset="shop", modality="text")
    return translator.translate(network, given, folder=Path(path + ".f"), runtime=Runtime())

torch.set_num_threads(1)
network = translator.load(Path(sys.argv[1]))
translate(sys.argv[2])  # all that comes but once
before, most, over = own(), 0, threading.Event()

def watch():
    global most
    while not over.is_set():
        most = max(most, own())
        time.sleep(0.002)

thread = threading.Thread(target=watch)
thread.start()
found = translate(sys.argv[3])
over.set()
thread.join()
print(most - before, found.codes.nbytes + found.latents.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_catalog(tmp_path: Path) -> None:
    network = make_network(in_dim=64, layers=(), e_dim=32, num_emb_list=(4, 4, 4))
    save_network(tmp_path / "network", network)
    part = np.random.default_rng(0).standard_normal((160_000, 64), np.float32).astype(np.float16)
    write_npy(tmp_path / "small.npy", part)
    write_npy(tmp_path / "large.npy", np.tile(part, (3, 1)))  # 61 MB
    paths = [str(tmp_path / name) for name in ("network", "small.npy", "large.npy")]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *paths], capture_output=True, text=True, check=True
    )
    grown, results = map(int, done.stdout.split())
    assert results > 60e6
    assert grown < 30e6  # blocks read ahead, and what the network makes of one


def generate(
    tmp_path: Path, source: Path, *, settings: CodesSettings | None = None, **changes: Any
) -> bool:
    files = Files(source, tmp_path / "network", tmp_path / "out", **changes)
    return generate_from_files(files, settings or CodesSettings(), runtime=RUNTIME, journal=SILENT)


def test_codes_of_a_numpy_file_and_of_shards(tmp_path: Path) -> None:
    network = make_network()
    save_network(tmp_path / "network", network)
    vectors = make_vectors(300)
    vectors[100:160] = vectors[:60]
    source = write_npy(tmp_path / "shop.npy", vectors)
    assert generate(tmp_path, source)
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "shop.index_lemb.json", "shop.index_lemb.parquet", "shop.text.json", "source.json",
        "stamp.json",
    ]  # fmt: skip
    shop = Embeddings("shop", "text", "encoder", vectors, np.ones(300, np.bool_))
    ids, report = codes.assign(translator.translate(network, shop, runtime=RUNTIME))
    found = codes.read_shards(out / "shop.index_lemb.parquet").ids
    np.testing.assert_array_equal(found.codes, ids.codes)
    assert len(np.unique(found.codes, axis=0)) == 300
    facts = json.loads((out / "shop.text.json").read_text())
    assert facts["n_moved"] == report.n_moved > 0
    assert facts["quantisation_error"] == report.quantisation_error
    assert not generate(tmp_path, source)
    shards = write_shards(tmp_path / "shop", vectors, ends=(100, 200))
    assert generate(tmp_path, shards)
    again = codes.read_shards(out / "shop.index_lemb.parquet").ids
    np.testing.assert_array_equal(again.codes, ids.codes)


def test_precision_is_a_setting(tmp_path: Path) -> None:
    network = make_network()
    save_network(tmp_path / "network", network)
    vectors = make_vectors(300)
    source = write_npy(tmp_path / "shop.npy", vectors)
    shop = Embeddings("shop", "text", "encoder", vectors, np.ones(300, np.bool_))
    errors = set()
    for precision in ("fp32", "bf16"):
        settings = CodesSettings.model_validate({"precision": precision})
        assert generate(tmp_path, source, settings=settings)  # nothing of the other is used
        expected = translator.translate(network, shop, runtime=RUNTIME, precision=precision)
        found = codes.read_shards(tmp_path / "out" / "shop.index_lemb.parquet").ids
        np.testing.assert_array_equal(found.codes, codes.assign(expected)[0].codes)
        facts = json.loads((tmp_path / "out" / "shop.text.json").read_text())
        errors.add(facts["quantisation_error"])
    assert len(errors) == 2


def test_large_catalogs_get_no_json(tmp_path: Path) -> None:
    save_network(tmp_path / "network", make_network())
    source = write_npy(tmp_path / "shop.npy", make_vectors(30))
    settings = CodesSettings(json_max_items=29)
    assert generate(tmp_path, source, settings=settings, modality="image")
    assert (tmp_path / "out" / "shop.index_vitemb.parquet").is_dir()
    assert not list((tmp_path / "out").glob("*.index_*.json"))
    assert not generate(
        tmp_path,
        source,
        settings=settings.model_copy(update={"max_memory_gib": 2.0}),  # makes no difference
        modality="image",
    )


def test_item_ids_are_written_beside_the_codes(tmp_path: Path) -> None:
    save_network(tmp_path / "network", make_network())
    vectors = make_vectors(30)
    source = write_npy(tmp_path / "shop.npy", vectors)
    names = [f"item é {number}" for number in range(30)]
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(names), encoding="utf-8")
    assert generate(tmp_path, source, item_ids=ids)
    found = codes.read_shards(tmp_path / "out" / "shop.index_lemb.parquet")
    assert found.item_ids is not None
    assert found.item_ids.to_list() == names


@pytest.mark.parametrize("content", ["a\nb\nc\n", "a\nb\nc", "a\r\nb\r\nc\r\n"])
@pytest.mark.parametrize("bytes_at_once", [1, 2, 100])
def test_lines_are_read_without_holding_them(
    tmp_path: Path, content: str, bytes_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mql4grec.stages.large.BYTES_AT_ONCE", bytes_at_once)
    path = tmp_path / "ids.txt"
    path.write_bytes(content.encode())
    lines = read_lines(path, n_rows=3)
    assert (len(lines), [lines[row] for row in range(3)]) == (3, ["a", "b", "c"])


def test_faults_of_item_ids(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    assert fault(lambda: read_lines(path, n_rows=3)) == (
        f"`{path}`: expected item ids, got no such file; correct the path"
    )
    for content, n_lines in ((b"a\nb", 2), (b"", 0), (b"a\n\n\nb\n", 4)):
        path.write_bytes(content)
        assert fault(lambda: read_lines(path, n_rows=3)) == (
            f"`{path}`: expected 3 lines, an item id for every row of the embeddings, got {n_lines}"
        )
    path.write_bytes(b"a\n\xff\nc")
    assert fault(lambda: read_lines(path, n_rows=3)[1]) == (
        "item ids, line 2: expected UTF-8, got b'\\xff'; convert the file"
    )


def test_vectors_of_another_width(tmp_path: Path) -> None:
    save_network(tmp_path / "network", make_network())
    source = write_npy(tmp_path / "shop.npy", make_vectors(30, width=5))
    assert fault(lambda: generate(tmp_path, source)) == (
        f"`{source}`: expected vectors of width 12, on which `{tmp_path}/network` was trained, got "
        "5; use embeddings of the same encoder"
    )
    assert not (tmp_path / "out").exists()


def test_more_items_than_semantic_ids_are_told_before_anything_is_done(tmp_path: Path) -> None:
    network = make_network(num_emb_list=(2, 4), sk_epsilons=(0.0, 0.0))
    save_network(tmp_path / "network", network)
    source = write_npy(tmp_path / "shop.npy", make_vectors(9))
    message = (
        f"`{source}`: expected at most 8 items for 2 levels of (2, 4) codes, got 9, 1 too many; "
        "add a level or codes to `translator.num_emb_list`"
    )
    with pytest.raises(CollisionError, match=f"^{re.escape(message)}$"):
        generate(tmp_path, source)
    assert not (tmp_path / "out").exists()


def test_too_little_memory_is_told_before_anything_is_done(tmp_path: Path) -> None:
    save_network(tmp_path / "network", make_network())
    source = write_npy(tmp_path / "shop.npy", make_vectors(30))
    message = (
        "`codes.max_memory_gib`: expected at least 0.50 for 30 items, got 0.4; raise it, or leave "
        "it out for 1 GiB and 24 bytes per item"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        generate(tmp_path, source, settings=CodesSettings(max_memory_gib=0.4))
    assert not (tmp_path / "out").exists()
    assert generate(tmp_path, source, settings=CodesSettings(max_memory_gib=0.6))


def test_a_folder_of_the_users_is_left_alone(tmp_path: Path) -> None:
    save_network(tmp_path / "network", make_network())
    source = write_npy(tmp_path / "shop.npy", make_vectors(30))
    out = tmp_path / "out"
    out.mkdir()
    (out / ".hidden").write_text("mine")
    expected = (
        f"`{out}`: expected an empty folder or one that `generate-codes --embeddings` made, got 1 "
        "other files, the first '.hidden'; choose another `--out`"
    )
    for stamp in (None, '{"fingerprint": "a stage of a run", "done": true, "seconds": 0}'):
        if stamp is not None:
            (out / "stamp.json").write_text(stamp)
        with pytest.raises(ArtifactError, match=re.escape(expected)):
            generate(tmp_path, source)
        assert (out / ".hidden").read_text() == "mine"
    source.rename(tmp_path / "other.npy")
    (out / ".hidden").unlink()
    (out / "stamp.json").unlink()
    assert generate(tmp_path, tmp_path / "other.npy")
    (tmp_path / "other.npy").rename(source)
    assert generate(tmp_path, source)  # its own folder is made anew
    assert not list(out.glob("other*"))
    (tmp_path / "network" / "file").write_text("")
    with pytest.raises(ArtifactError, match="expected a folder, got a file; choose another"):
        generate_from_files(
            Files(source, tmp_path / "network", tmp_path / "network" / "file"),
            CodesSettings(),
            runtime=RUNTIME,
            journal=SILENT,
        )


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["generate-codes", *map(str, arguments)])


def options(tmp_path: Path, source: Path) -> list[object]:
    return ["--embeddings", source, "--translator", tmp_path / "network", "--out", tmp_path / "out"]


def test_command_line(tmp_path: Path) -> None:
    save_network(tmp_path / "network", make_network())
    source = write_npy(tmp_path / "shop.npy", make_vectors(100))
    chosen = ("--set", "runtime.n_threads=1", "--set", "codes.policy=nearest")
    result = call(*options(tmp_path, source), *chosen)
    assert result.exit_code == 0, result.exception
    assert "collisions, before and after" in result.output
    assert "fill of the tree" in result.output
    assert "\u2026" not in result.output  # at 80 columns nothing is cut off
    assert "done now: nothing" not in result.output
    events = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    assert [json.loads(event)["event"] for event in events] == ["codes.assigned"]
    assert (
        "done now: nothing, all codes were there"
        in call(*options(tmp_path, source), *chosen).output
    )


def test_command_line_extends_an_index(tmp_path: Path) -> None:
    save_network(tmp_path / "network", make_network())
    vectors = make_vectors(120)
    source = write_npy(tmp_path / "shop.npy", vectors[:80])
    assert generate(tmp_path, source)
    old = (tmp_path / "out").rename(tmp_path / "old") / "shop.index_lemb.parquet"
    write_npy(source, vectors)
    result = call(*options(tmp_path, source), "--extend", old, "-s", "runtime.n_threads=1")
    assert result.exit_code == 0, result.exception
    found = codes.read_shards(tmp_path / "out" / "shop.index_lemb.parquet").ids.codes
    np.testing.assert_array_equal(found[:80], codes.read_shards(old).ids.codes)
    assert len(np.unique(found, axis=0)) == 120
    result = call(*options(tmp_path, source), "--extend", old, "--modality", "image")
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == (
        "`codes.extend`: expected at most one index of image codes with `--embeddings`, got "
        f"['{old}']"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--embeddings", "x.npy"],
            "`generate-codes`: expected `--embeddings`, `--translator` and `--out` together, got "
            "no `--translator` and no `--out`; give all three, or none for the codes of a run",
        ),
        (
            ["--item-ids", "x.txt", "--out", "x", "--translator", "y"],
            "`generate-codes`: expected `--embeddings`, `--translator` and `--out` together, got "
            "no `--embeddings`; give all three, or none for the codes of a run",
        ),
        (
            ["--embeddings", "x", "--out", "x", "--translator", "y", "--modality", "sound"],
            "`--modality`: expected one of ['text', 'image'], got 'sound'",
        ),
    ],
)
def test_command_line_refuses(arguments: list[str], message: str) -> None:
    result = call(*arguments)
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == message


NOTING = """
from mql4grec import cli
from mql4grec.translator import translation
translation.BLOCKS_PER_NOTE = 1
cli.main()
"""


def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    """Killed after its first note it leaves no index; called again it ends like any other."""
    network = make_network(in_dim=4, layers=(), num_emb_list=(64, 256, 256))
    save_network(tmp_path / "network", network)
    rng = np.random.default_rng(0)
    source = write_npy(tmp_path / "shop.npy", rng.standard_normal((150_000, 4), np.float32))
    command = [sys.executable, "-c", NOTING, "generate-codes", "-q", "-s", "runtime.n_threads=1"]
    command += ["-s", "codes.json_max_items=0", *map(str, options(tmp_path, source))]
    out = tmp_path / "out"
    note = out / "work" / "progress.json"
    process = subprocess.Popen(command)
    while not note.exists() or not json.loads(note.read_text())["done"]["n_blocks"]:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert note.exists()
    assert not json.loads((out / "stamp.json").read_text())["done"]
    assert not (out / "shop.text.json").exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert not note.parent.exists()
    found = codes.read_shards(out / "shop.index_lemb.parquet").ids
    given = embeddings.open_given(source, dataset="shop", modality="text")
    ids, _ = codes.assign(translator.translate(network, given, runtime=RUNTIME))
    np.testing.assert_array_equal(found.codes, ids.codes)
