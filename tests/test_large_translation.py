"""Embeddings of any size translated into files: within memory, after an interruption."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from large_catalogs import (
    RUNTIME,
    make_network,
    make_vectors,
    one_thread,
    open_text,
    save_network,
    write_npy,
    write_shards,
)
from mql4grec import translator
from mql4grec.embeddings import Embeddings, GivenEmbeddings
from mql4grec.errors import ArtifactError
from mql4grec.rqvae import RQVAE
from mql4grec.runtime import Runtime
from mql4grec.translator.prefetch import prefetch
from mql4grec.translator.rows import list_blocks


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mql4grec.translator.translation.ROWS_AT_ONCE", 16)
    monkeypatch.setattr("mql4grec.translator.translation.BLOCKS_PER_NOTE", 3)


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
    text = str(caught.value)
    assert text.startswith(
        f"`{tmp_path}/f/codes.npy`: expected room for 188 bytes on the disk, got "
    )
    assert text.endswith("free some and run the same command again, or choose another disk")
    assert not (tmp_path / "f" / "codes.npy").exists()


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
