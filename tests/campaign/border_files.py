"""Rounds that damage the files of tries, and name files that are none."""

from __future__ import annotations

import contextlib
import os
import random
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from campaign.border_inputs import OTHER_OBJECTS
from campaign.border_trie import Known, exercise
from mql4grec._core import CodeTrie

if TYPE_CHECKING:
    from campaign.border_calls import Calls

HEADER = 192
N_DAMAGED = 40
NUMBERS = (0, 1, 2, 3, 8, 9, 255, 2**16, 2**16 + 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1)


def damaged(calls: Calls, rng: random.Random) -> None:
    """Save a trie, and load what is left of its file; in the folder that one is in."""
    known = Known(calls, rng)
    path = Path("t")
    calls.valid(known.trie.save, path)
    content = path.read_bytes()
    loaded = calls.valid(CodeTrie.load, path, verify=rng.random() < 0.5)
    found = calls.valid(loaded.find, known.codes).tolist()
    calls.equal("load", found, list(range(len(known.rows))))
    for _ in range(N_DAMAGED):
        broken = rng.choice(DAMAGES)(rng, content)
        path.unlink()  # other tries may be mapped
        path.write_bytes(broken)
        trie = calls(CodeTrie.load, path, verify=(verify := rng.random() < 0.5))
        if isinstance(trie, CodeTrie):
            _check(calls, trie, verify=verify)
            exercise(calls, rng, trie)
    _name_others(calls, rng, known.trie)


def _flip(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _word(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    place = rng.randrange(HEADER, len(changed) - 3) if len(changed) > HEADER + 4 else 0
    struct.pack_into("<I", changed, place // 4 * 4, rng.choice(NUMBERS) % 2**32)
    return bytes(changed)


def _number(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    struct.pack_into("<Q", changed, 8 * rng.randrange(1, 24), rng.choice(NUMBERS))
    return bytes(changed)


def _noise(rng: random.Random, content: bytes) -> bytes:
    return content[:HEADER] + rng.randbytes(len(content) - HEADER)


def _sealed(content: bytes) -> bytes:
    """Make both checksums right: of the arrays, then of the header."""
    if len(content) < HEADER:
        return content
    own = struct.pack("<Q", xxhash.xxh3_64_intdigest(content[HEADER:]))
    content = content[:176] + own + content[184:]
    own = struct.pack("<Q", xxhash.xxh3_64_intdigest(content[:184]))
    return content[:184] + own + content[HEADER:]


DAMAGES = (
    lambda rng, content: content[: rng.randrange(len(content))],
    lambda rng, content: content + bytes(rng.randint(1, 200)),
    _flip,
    lambda rng, content: _sealed(_flip(rng, content)),
    lambda rng, content: _sealed(_word(rng, content)),
    lambda rng, content: _sealed(_word(rng, _word(rng, content))),
    lambda rng, content: _sealed(_number(rng, content)),
    lambda rng, content: _sealed(_number(rng, _word(rng, content))),
    lambda rng, content: _sealed(_noise(rng, content)),
    lambda rng, content: rng.randbytes(rng.randint(0, 300)),
)


def _check(calls: Calls, trie: Any, *, verify: bool) -> None:
    """A trie that was verified is one: each item is found at its row."""
    if not verify or trie.n_items == 0:
        return
    offsets, codes, rows = calls.valid(trie.arrays)
    paths: list[list[int]] = [[]]
    for node in range(trie.levels[-2]):
        for edge in range(offsets[node], offsets[node + 1]):
            paths.append([*paths[node], int(codes[edge])])
    items = np.array(paths[trie.levels[-2] :], np.uint16)
    calls.equal("a verified file", calls.valid(trie.find, items).tolist(), rows.tolist())


def _name_others(calls: Calls, rng: random.Random, trie: Any) -> None:
    """Save to, and load, names of what is no file; every name is below the working folder."""
    Path("folder").mkdir(exist_ok=True)
    for name, make in (("pipe", os.mkfifo), ("link", lambda name: os.symlink("t", name))):
        with contextlib.suppress(FileExistsError):
            make(name)
    names: tuple[Any, ...] = (
        *("folder", "pipe", "link", "none/t", "t/t", "", ".", "folder/..", "x" * 256),
        *("\0", "n" * 250, "é" * 100, "\ud800", b"t", Path("t"), *OTHER_OBJECTS),
    )
    for ask in (trie.save, CodeTrie.load):
        calls(ask, rng.choice(names))
