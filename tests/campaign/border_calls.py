"""A child of the campaign: makes rounds of calls, and says what is wrong, one JSON object per line.

A round is drawn from the seed and its number alone. What a call may answer: its result, or one of
the exceptions that `_core.pyi` promises. The memory of the process is bounded, so that requests
beyond it are refused as they are on a small machine.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import resource
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from campaign import border_files, border_resolver, border_trie

STATE = struct.Struct("<3Q")
"""What the parent reads of a child: calls, compared answers, number of the round."""
PROMISED = (ValueError, TypeError, OverflowError, MemoryError, OSError)
MORE_MEMORY = 2**30
"""Bytes of address space beyond what the modules take."""


class Calls:
    """Makes calls, counts them where the parent looks, and reports what must not be."""

    def __init__(self, state: mmap.mmap) -> None:
        self.state = state
        self.n_calls = 0
        self.n_compared = 0
        self.round = 0
        self.sync()

    def sync(self) -> None:
        """Say that something went on."""
        STATE.pack_into(self.state, 0, self.n_calls, self.n_compared, self.round)

    def __call__(self, function: Any, *arguments: Any, **settings: Any) -> Any:
        """Call with anything: the result, or the exception if it is a promised one, else None."""
        self.n_calls += 1
        self.sync()
        try:
            return function(*arguments, **settings)
        except PROMISED as error:
            return error
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            kind = "panic" if type(error).__name__ == "PanicException" else "wrong"
            self.report(kind, f"{_name(function)}: {error!r}")
            return None

    def valid(self, function: Any, *arguments: Any, **settings: Any) -> Any:
        """Call with what is valid: an exception is a wrong answer, and ends the round."""
        result = self(function, *arguments, **settings)
        if result is None and function.__name__ != "save":
            raise Wrong(f"{_name(function)}: no answer")
        if isinstance(result, BaseException):
            raise Wrong(f"{_name(function)}: refused what is valid: {result!r}")
        return result

    def equal(self, what: str, found: Any, expected: Any) -> None:
        """Compare an answer with the one of the slow twin."""
        self.n_compared += 1
        if found != expected:
            self.report("wrong", f"{what}: expected {expected}, got {found}")

    def report(self, kind: str, what: str) -> None:
        """Print what must not be."""
        print(json.dumps({"kind": kind, "round": self.round, "what": what[:500]}), flush=True)


class Wrong(Exception):
    """An answer that no later call of the round can be made with."""


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", function))


ROUNDS: tuple[tuple[int, Callable[[Calls, random.Random], None]], ...] = (
    (1000, border_resolver.small),
    (1500, border_trie.small),
    (400, border_files.damaged),
    (4, border_resolver.raced),
    (4, border_trie.raced),
    (1, border_resolver.heavy),
    (1, border_resolver.ties),
    (1, border_trie.heavy),
)


def make_round(calls: Calls, seed: int) -> None:
    """Make the calls of one round."""
    rng = random.Random(f"{seed}/{calls.round}")
    (choose,) = rng.choices([make for _, make in ROUNDS], [weight for weight, _ in ROUNDS])
    try:
        choose(calls, rng)
    except Wrong as wrong:
        calls.report("wrong", str(wrong))


def run(calls: Calls, *, seed: int, first: int, n_rounds: int | None, n_calls: int) -> None:
    """Make rounds until so many are made, or so many calls."""
    calls.round = first
    while calls.n_calls < n_calls and (n_rounds is None or calls.round < first + n_rounds):
        make_round(calls, seed)
        calls.round += 1
        calls.sync()


def bound_memory() -> None:
    """Let this process have `MORE_MEMORY` beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> NoReturn:
    """Make the calls that the parent asked for, in the folder that it made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--calls", type=int, default=2**62)
    parser.add_argument("--state", type=Path, required=True)
    given = parser.parse_args()
    with given.state.open("r+b") as file:
        calls = Calls(mmap.mmap(file.fileno(), STATE.size))
    os.chdir(given.state.parent)
    bound_memory()
    run(calls, seed=given.seed, first=given.first, n_rounds=given.rounds, n_calls=given.calls)
    sys.exit()


if __name__ == "__main__":
    main()
