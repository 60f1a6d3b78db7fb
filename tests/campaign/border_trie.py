"""Rounds that ask the trie: valid questions beside the slow twin's answers, and hostile ones."""

from __future__ import annotations

import itertools
import math
import random
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

import reference
from campaign.border_inputs import (
    Array,
    hostile,
    hostile_number,
    hostile_sizes,
    octets,
    relaid,
)
from mql4grec._core import CodeTrie

if TYPE_CHECKING:
    from campaign.border_calls import Calls

N_VALID, N_HOSTILE = 120, 80
THREADS = (None, 1, 1, 1, 1, 2, 3, 64)  # none asks the system, which takes longer than the call


class Known:
    """Distinct semantic IDs in a small space, the trie of them, and what the slow twin knows."""

    def __init__(self, calls: Calls, rng: random.Random) -> None:
        wide = rng.random() < 0.1
        n_levels = rng.randint(2, 8) if rng.random() < 0.2 else rng.randint(2, 3)
        self.n_codes = tuple(rng.choice((1, 2, 3, 4, 5, 7)) for _ in range(n_levels))
        if wide:
            self.n_codes = (*self.n_codes[:-1], rng.choice((64, 256, 257, 300, 2**16)))
        n_items = rng.randint(0, 20)
        drawn = [tuple(rng.randrange(k) for k in self.n_codes) for _ in range(n_items)]
        self.rows: list[reference.Codes] = list(dict.fromkeys(drawn))
        self.places = {codes: row for row, codes in enumerate(self.rows)}
        self.codes = np.array(self.rows, np.uint16).reshape(len(self.rows), n_levels)
        self.nodes = reference.nodes(self.rows, n_levels)
        self.prefixes = list(self.nodes)
        self.follow: dict[reference.Codes, list[int]] = {prefix: [] for prefix in self.nodes}
        for prefix in sorted(self.nodes):
            if prefix:
                self.follow[prefix[:-1]].append(prefix[-1])
        table = relaid(rng, self.codes) if rng.random() < 0.3 else self.codes
        self.trie = calls.valid(CodeTrie, table, self.n_codes, n_threads=rng.choice(THREADS))

    def prefix(self, rng: random.Random, depth: int) -> reference.Codes:
        """Draw a prefix of `depth` codes, one that exists more often than not."""
        if self.rows and rng.random() < 0.7:
            return rng.choice(self.rows)[:depth]
        return tuple(rng.randrange(k + 1) % 2**16 for k in self.n_codes[:depth])

    def of_level(self, rng: random.Random, level: int) -> list[reference.Codes | None]:
        """Draw prefixes of one length that exist, or None for no node."""
        own = [prefix for prefix in self.prefixes if len(prefix) == level]
        return [rng.choice((*own, None)) for _ in range(rng.randint(0, 6))]

    def numbers(self, prefixes: list[reference.Codes | None]) -> Array:
        """Number prefixes as the trie does."""
        return np.array([-1 if p is None else self.nodes[p] for p in prefixes], np.int64)


def small(calls: Calls, rng: random.Random) -> None:
    """Ask a small trie everything."""
    known = Known(calls, rng)
    _properties(calls, known)
    for _ in range(N_VALID):
        rng.choice(QUESTIONS)(calls, rng, known)
    for _ in range(N_HOSTILE):
        _hostile_call(calls, rng, known)


def _laid(rng: random.Random, array: Array) -> Array:
    return relaid(rng, array) if rng.random() < 0.2 else array


def _properties(calls: Calls, known: Known) -> None:
    n_levels, trie = len(known.n_codes), known.trie
    depths = [sum(len(p) < depth for p in known.prefixes) for depth in range(n_levels + 2)]
    expected = {
        "root": 0,
        "n_items": len(known.rows),
        "n_levels": n_levels,
        "n_nodes": len(known.nodes),
        "n_codes": list(known.n_codes),
        "levels": depths,
    }
    for name, value in expected.items():
        calls.equal(name, calls(getattr, trie, name), value)
    arrays = calls.valid(trie.arrays)
    layout = reference.layout(known.rows, n_levels)
    calls.equal("arrays", [array.tolist() for array in arrays], list(layout))
    calls(getattr, trie, "nbytes")
    calls.equal("repr", calls(repr, trie).startswith("CodeTrie("), True)
    table = calls(trie.table)
    if table is not None and table.size < 100:
        depth = table.ndim
        every = reference.every_prefix(known.n_codes, depth)
        found = [known.nodes.get(prefix, 0) for prefix in every]
        calls.equal("table", table.ravel().tolist(), found)


def _find(calls: Calls, rng: random.Random, known: Known) -> None:
    depth = len(known.n_codes)
    sought = [known.prefix(rng, depth) for _ in range(rng.randint(0, 6))]
    batch = _laid(rng, np.array(sought, np.uint16).reshape(len(sought), depth))
    found = calls.valid(known.trie.find, batch, n_threads=rng.choice(THREADS))
    calls.equal("find", found.tolist(), [known.places.get(codes, -1) for codes in sought])


def _allowed(calls: Calls, rng: random.Random, known: Known) -> None:
    depth = rng.randint(0, len(known.n_codes))
    prefixes = [known.prefix(rng, depth) for _ in range(rng.randint(0, 6))]
    batch = _laid(rng, np.array(prefixes, np.uint16).reshape(len(prefixes), depth))
    offsets, codes = calls.valid(known.trie.allowed, batch)
    found = [codes[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    calls.equal("allowed", found, [known.follow.get(prefix, []) for prefix in prefixes])


def _mask(calls: Calls, rng: random.Random, known: Known) -> None:
    level = rng.randrange(len(known.n_codes))
    prefixes = known.of_level(rng, level)
    nodes = _laid(rng, known.numbers(prefixes))
    told = level if all(p is None for p in prefixes) or rng.random() < 0.5 else None
    follow = [[] if p is None else known.follow[p] for p in prefixes]
    if rng.random() < 0.5:
        mask = calls.valid(known.trie.mask, nodes, told)
        found = [np.flatnonzero(marks).tolist() for marks in mask]
        calls.equal("mask", (found, mask.shape[1]), (follow, known.n_codes[level]))
        return
    bits = calls.valid(known.trie.mask_bits, nodes, told)
    marks = np.unpackbits(bits, axis=1, bitorder="little")
    calls.equal("mask_bits", [np.flatnonzero(own).tolist() for own in marks], follow)


def _step(calls: Calls, rng: random.Random, known: Known) -> None:
    prefixes = [rng.choice((*known.prefixes, None)) for _ in range(rng.randint(0, 6))]
    codes = [rng.randrange(6) for _ in prefixes]
    nodes, chosen = known.numbers(prefixes), np.array(codes, np.uint16)
    found = calls.valid(known.trie.step, _laid(rng, nodes), _laid(rng, chosen))
    pairs = zip(prefixes, codes, strict=True)
    expected = [-1 if p is None else known.nodes.get((*p, code), -1) for p, code in pairs]
    calls.equal("step", found.tolist(), expected)


def _restrict(calls: Calls, rng: random.Random, known: Known) -> None:
    keep = [rng.random() < 0.5 for _ in known.rows]
    rows: Array = np.array(keep, np.bool_)
    if rng.random() < 0.5:
        rows = np.array([row for row, own in enumerate(keep) if own], np.int64)
    part = calls.valid(known.trie.restrict, _laid(rng, rows), n_threads=rng.choice(THREADS))
    found = calls.valid(part.find, known.codes)
    calls.equal("restrict", found.tolist(), [row if own else -1 for row, own in enumerate(keep)])


QUESTIONS = (_find, _find, _allowed, _allowed, _mask, _mask, _mask, _step, _step, _restrict)


def _hostile_call(calls: Calls, rng: random.Random, known: Known) -> None:
    """Ask with one argument, or all, replaced by something else."""
    trie, depth = known.trie, rng.randint(0, len(known.n_codes))
    nodes = np.array([known.nodes[rng.choice(known.prefixes)] for _ in range(3)], np.int64)
    batch = octets(rng, 3, depth).astype(np.uint16) % 6
    whole = known.codes[:4]
    match rng.randrange(7):
        case 0:
            sizes = known.n_codes if rng.random() < 0.5 else hostile_sizes(rng, known.n_codes)
            table = hostile(rng, known.codes) if rng.random() < 0.7 else known.codes
            calls(CodeTrie, table, sizes, n_threads=_threads(rng))
        case 1:
            calls(trie.allowed, hostile(rng, batch))
        case 2:
            ask = rng.choice((trie.mask, trie.mask_bits))
            level = rng.choice((None, 0, depth, hostile_number(rng)))
            calls(ask, hostile(rng, nodes) if rng.random() < 0.7 else nodes, level)
        case 3:
            codes = batch[:, :1].ravel()
            calls(trie.step, hostile(rng, nodes), hostile(rng, codes))
        case 4:
            calls(trie.step, nodes, hostile(rng, np.zeros(3, np.uint16)))
        case 5:
            calls(trie.find, hostile(rng, whole), n_threads=_threads(rng))
        case _:
            marks = np.ones(len(known.rows), np.bool_)
            rows = rng.choice((marks, np.arange(len(known.rows))))
            calls(trie.restrict, hostile(rng, rows), n_threads=_threads(rng))


def _threads(rng: random.Random) -> Any:
    return rng.choice(THREADS) if rng.random() < 0.7 else hostile_number(rng)


def exercise(calls: Calls, rng: random.Random, trie: Any) -> None:
    """Ask a trie that may be damaged: anything but a panic or a read outside will do."""
    nodes = np.array([0, 1, rng.randrange(trie.n_nodes), -1], np.int64)
    codes = octets(rng, 4).astype(np.uint16) % 5
    batch = octets(rng, 5, trie.n_levels).astype(np.uint16) % 6
    calls(trie.find, batch)
    calls(trie.allowed, batch[:, : rng.randint(0, trie.n_levels)])
    calls(trie.step, nodes, codes)
    level = rng.randrange(trie.n_levels)
    first, end = trie.levels[level : level + 2]
    own = np.array([min(first, end - 1), -1], np.int64)
    calls(trie.mask, own, level)
    calls(trie.mask_bits, own, level)
    calls(trie.restrict, np.arange(rng.randint(0, 4)))
    calls(trie.arrays)


def raced(calls: Calls, rng: random.Random) -> None:
    """Ask while another thread writes into the arguments."""
    n_codes = (16, 16, 32)
    every = np.stack([axis.ravel() for axis in np.indices(n_codes)], axis=1).astype(np.uint16)
    table, nodes = every[rng.sample(range(len(every)), 4000)], np.arange(4000)
    trie = calls.valid(CodeTrie, table, n_codes)
    keep = np.ones(len(table), np.bool_)
    noise = [octets(rng, array.nbytes) for array in (table, nodes, keep)]
    with Writer(list(zip((table, nodes, keep), noise, strict=True))):
        for _ in range(5):
            calls(CodeTrie, table, n_codes, n_threads=rng.choice(THREADS))
            calls(trie.find, table)
            calls(trie.allowed, table[:, :2])
            calls(trie.step, nodes, table[:, 0])
            calls(trie.mask, nodes[:17], 1)
            calls(trie.restrict, keep)
            calls(trie.restrict, nodes)


class Writer:
    """A thread that writes noise into arrays, and back what was there, again and again."""

    def __init__(self, pairs: list[tuple[Array, Array]]) -> None:
        self.pairs = [(array, array.copy(), noise) for array, noise in pairs]
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        while not self.stop.is_set():
            for array, own, noise in self.pairs:
                array[...] = noise.view(array.dtype).reshape(array.shape)
                array[...] = own

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


def heavy(calls: Calls, rng: random.Random) -> None:
    """Ask for answers near and beyond the bound of memory."""
    n_codes = (2**16, 2**16)
    codes = np.frombuffer(rng.randbytes(4 * 50_000), np.uint16).reshape(-1, 2)
    codes = np.unique(codes, axis=0)
    trie = calls.valid(CodeTrie, codes, n_codes)
    calls.equal("find", calls.valid(trie.find, codes).tolist(), list(range(len(codes))))
    n = 2 ** rng.randint(10, 27)
    zeros = np.broadcast_to(np.zeros(1, np.int64), n)
    calls(rng.choice((trie.mask, trie.mask_bits)), zeros, 0)
    calls(trie.step, zeros, np.broadcast_to(np.uint16(3), n))
    calls(trie.allowed, np.broadcast_to(codes[0, :1], (n, 1)))
    calls(trie.find, np.broadcast_to(codes[0], (n // 2, 2)))
    calls(trie.restrict, zeros)
    calls(CodeTrie, np.broadcast_to(codes[0], (math.ceil(n / 4), 2)), n_codes)
