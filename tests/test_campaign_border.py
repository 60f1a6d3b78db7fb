"""A short part of the campaign of random calls, and that it sees what it looks for."""

from __future__ import annotations

import json
import mmap
import sys
from pathlib import Path
from typing import Any

import pytest

from campaign import border, border_calls

SEED = 21
N_CALLS = 40_000


def limits(n_calls: int = N_CALLS, n_rounds: int | None = None) -> border.Limits:
    return border.Limits(calls=n_calls, seconds=200, rounds=n_rounds)


def test_random_calls_end_as_they_should(capfd: pytest.CaptureFixture[str]) -> None:
    tally = border.run(seed=SEED, first=0, limits=limits())
    assert not tally.faults, capfd.readouterr().err
    assert tally.calls >= N_CALLS
    assert tally.compared > N_CALLS / 4


class PanicException(BaseException):
    """What PyO3 raises where Rust panicked."""


def panic() -> None:
    raise PanicException("called `Option::unwrap()`")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda calls: calls.equal("find", [0], [1]), ("wrong", "find: expected [1], got [0]")),
        (lambda calls: calls(panic), ("panic", "panic: PanicException(")),
        (lambda calls: calls([].__getitem__, 1), ("wrong", "list.__getitem__: IndexError(")),
        (lambda calls: calls(int, "x"), None),
    ],
)
def test_wrong_answers_and_panics_are_told(
    make: Any, told: tuple[str, str] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = border_calls.Calls(mmap.mmap(-1, border_calls.STATE.size))
    make(calls)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["kind"] for line in lines] == ([told[0]] if told else [])
    assert told is None or lines[0]["what"].startswith(told[1])


@pytest.mark.parametrize(
    ("answer", "kind"),
    [("os.abort()", "aborts"), ("time.sleep(99)", "hangs")],
)
def test_a_child_that_dies_or_hangs_is_seen_and_passed(
    answer: str,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # A `sitecustomize` of our own puts another function in the place of one of the core.
    (tmp_path / "sitecustomize.py").write_text(FALSE.format(answer=answer))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    tally = border.run(seed=SEED, first=FIRST, limits=limits(n_rounds=2), hang=2)
    assert dict(tally.faults) == {kind: 1}
    assert tally.calls > 1
    told = capfd.readouterr().err
    assert f"{kind}: " in told
    assert f"again: python -m campaign.border --seed {SEED} --round {FIRST}" in told


FIRST = 1
"""A round that counts prefixes, before one that does not."""
FALSE = """
import os, time
from mql4grec import _core

def count_prefixes(*arguments, **settings):
    {answer}

_core.count_prefixes = count_prefixes
"""
