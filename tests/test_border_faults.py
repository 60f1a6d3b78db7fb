"""The Rust border: too much memory, arrays that change, files that are none, a full disk."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import resource
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mql4grec._core import (
    CodeTrie,
    count_prefixes,
    find_collisions,
    resolve_collisions,
    resolve_collisions_from_latents,
)
from test_trie_files import sealed
from trie_cases import TRIE, codes, ints, same


def test_a_claim_of_four_billion_rows_takes_no_memory(tmp_path: Path) -> None:
    TRIE.save(tmp_path / "t")
    content = bytearray((tmp_path / "t").read_bytes())
    struct.pack_into("<Q", content, 16, 2**32 - 1)
    (tmp_path / "claim").write_bytes(sealed(content))
    trie = bounded(CodeTrie.load, tmp_path / "claim", verify=True)
    assert bounded(trie.restrict, ints(0, 2**32 - 2)).n_items == 1
    with pytest.raises(ValueError, match="expected shape"):
        trie.restrict(np.ones(3, np.bool_))


def bounded(call: Any, *arguments: Any, **settings: Any) -> Any:
    """Call with 256 MiB more of address space than there is, so that memory may run out."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, before[1]))
    try:
        return call(*arguments, **settings)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def many(number: int, dtype: Any, *shape: int) -> Any:
    """Make an array that takes no memory, however many entries it has."""
    return np.broadcast_to(np.array(number, dtype), shape)


@pytest.mark.parametrize(
    "call",
    [
        lambda: TRIE.mask(many(0, np.int64, 2**40)),
        lambda: TRIE.mask(many(0, np.int64, 2**24), 0),
        lambda: CodeTrie(codes([0, 0]), [2**16] * 2).mask(np.zeros(2**16, np.int64)),
        lambda: CodeTrie(codes([0, 0]), [2**16] * 2).mask_bits(np.zeros(2**16, np.int64)),
        lambda: TRIE.mask_bits(many(0, np.int64, 2**40)),
        lambda: TRIE.step(many(0, np.int64, 2**40), many(0, np.uint16, 2**40)),
        lambda: TRIE.allowed(many(0, np.uint16, 2**40, 1)),
        lambda: TRIE.allowed(many(0, np.uint16, 2**40, 0)),
        lambda: TRIE.find(many(0, np.uint16, 2**40, 2)),
        lambda: TRIE.restrict(many(0, np.int64, 2**40)),
        lambda: TRIE.restrict(many(1, np.bool_, 2**40)),
        lambda: CodeTrie(many(0, np.uint16, 2**27, 2), [2, 3]),
        lambda: CodeTrie(many(0, np.uint16, 2**25, 2), [2, 3]),
        lambda: find_collisions(many(0, np.uint16, 2**25, 2)),
        lambda: count_prefixes(many(0, np.uint16, 2**25, 2)),
        lambda: find_collisions(many(0, np.uint16, 2**40, 2)),
    ],
)
def test_answers_beyond_the_memory_are_refused(call: Any) -> None:
    with pytest.raises(MemoryError, match=r"^memory: expected \d+ free bytes, got fewer; give few"):
        bounded(call)


def test_another_thread_may_write_into_the_arrays() -> None:
    rng = np.random.default_rng(0)
    n_codes = [256, 256, 8]
    table = np.stack([a.ravel() for a in np.indices(n_codes)], axis=1).astype(np.uint16)[:200_000]
    batch = table.copy()
    noise = rng.integers(0, 2**16, (64, *batch.shape), np.uint16)
    stop = threading.Event()

    def write() -> None:
        for turn in itertools.cycle(noise):
            if stop.is_set():
                return
            batch[:] = turn
            batch[:] = table

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(30):
            with contextlib.suppress(ValueError):  # a panic is none
                CodeTrie(batch, n_codes, n_threads=2)
    finally:
        stop.set()
        writer.join()


def test_columns_of_records_are_read_where_they_lie() -> None:
    records = np.zeros(3, np.dtype([("odd", "u1"), ("nodes", "i8"), ("code", "u2")]))
    records["nodes"], records["code"] = [0, 0, 1], [0, 1, 2]
    assert TRIE.step(records["nodes"], records["code"]).tolist() == [1, 2, 3]
    assert TRIE.step(records["nodes"][::-1], records["code"][::-1]).tolist() == [3, 2, 1]


def test_marks_may_be_any_byte_but_zero() -> None:
    marks = np.array([0, 2, 254], np.uint8).view(np.bool_)
    assert TRIE.restrict(marks).find(codes([1, 2], [0, 2], [1, 0])).tolist() == [-1, 1, 2]


def test_what_is_no_file_is_neither_replaced_nor_read(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    for name, got in (("link", "a link"), ("dangling", "a link"), ("pipe", "a device or pipe")):
        path = tmp_path / name
        message = f"`{path}`: expected a regular file, got {got}; choose another path"
        with pytest.raises(OSError, match=f"^{re.escape(message)}$"):
            TRIE.save(path)
    with pytest.raises(OSError, match="/dev/null`: expected a regular file, got a device"):
        TRIE.save("/dev/null")
    with pytest.raises(OSError, match="got a device or pipe"):
        CodeTrie.load(tmp_path / "pipe")  # would wait for a writer for ever
    with pytest.raises(IsADirectoryError, match="got a folder"):
        CodeTrie.load(tmp_path)
    with pytest.raises(IsADirectoryError, match="got a folder"):
        TRIE.save("/")
    assert target.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["dangling", "link", "pipe", "target"]
    TRIE.save(target)
    assert same(CodeTrie.load(tmp_path / "link"), TRIE)


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    TRIE.save(tmp_path / "t")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        with pytest.raises(
            OSError, match=r"t`: expected room for 384 bytes, got less \(.*\); free"
        ):
            TRIE.save(tmp_path / "t")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == ["t"]
    assert same(CodeTrie.load(tmp_path / "t", verify=True), TRIE)


def test_the_unfinished_file_has_a_name_that_a_run_knows(tmp_path: Path) -> None:
    name = "é" * 127  # 254 bytes: a name may have one more
    table = np.arange(2**21, dtype=np.uint32).view(np.uint16).reshape(-1, 2)
    trie = CodeTrie(table, [2**16] * 2)
    seen: set[str] = set()
    for _ in range(20):  # a file of 12 MB is seen at the first turn, as a rule
        writer = threading.Thread(target=trie.save, args=(tmp_path / name,))
        writer.start()
        while writer.is_alive():
            seen.update(os.listdir(tmp_path))
        writer.join()
        if len(seen) > 1:
            break
    assert seen - {name}
    assert all(re.fullmatch(rf"\.mql4grec\.{os.getpid()}\..+", part) for part in seen - {name})
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("n", [2**40, 2**60])
def test_a_list_that_claims_to_be_long_is_not_read(n: int) -> None:
    for what, call in (
        ("n_codes", lambda: CodeTrie(codes([0, 0]), range(n))),
        ("n_codes", lambda: resolve_collisions(codes([0, 0]), FAR, n_codes=range(n))),
        ("codebooks", lambda: resolve_collisions_from_latents(codes([0, 0]), FAR[0], range(n))),
    ):
        with pytest.raises(ValueError, match=f"^`{what}`: expected 2 to 8 levels, got {n}$"):
            call()
    message = "^`n_codes`: expected a list with an entry per level, TypeError: "
    with pytest.raises(TypeError, match=message):
        CodeTrie(codes([0, 0]), ["2", "2"])


def test_codebooks_of_no_numbers_take_no_time() -> None:
    latents, book = np.zeros((2, 0), np.float32), np.zeros((2**50, 0), np.float32)
    message = f"^`n_codes`: expected 1 to 65536 codes at level 1, got {2**50}$"
    with pytest.raises(ValueError, match=message):
        resolve_collisions_from_latents(codes([0, 0], [0, 0]), latents, [book[:2], book])


def test_frozen_rows_may_be_marked_by_any_byte_but_zero() -> None:
    frozen = np.array([0, 2], np.uint8).view(np.bool_)
    table, distances = codes([0, 0], [0, 0]), np.zeros((2, 2, 3), np.float32)
    assert resolve_collisions(table, distances, frozen=frozen)[1].tolist() == [0]


FAR = np.zeros((1, 2, 3), np.float32)
