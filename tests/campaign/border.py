"""Random calls of everything in `mql4grec._core`, in child processes that may die.

Valid and hostile arguments; a good share of the valid calls is compared with `reference`. A failure
is printed with the call that makes it again. From the folder `tests`:

    python -m campaign.border --calls 10000000
    python -m campaign.border --seed 7 --round 123
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from campaign.border_calls import STATE

CALLS_PER_CHILD = 500_000
HANG_SECONDS = 60.0
"""A call that takes longer hangs; the longest takes two seconds on an idle machine."""
START_SECONDS = 60.0
"""A child that has not called anything by then hangs."""
KINDS = ("panics", "aborts", "hangs", "wrong")
SHOWN = 20


@dataclass
class Tally:
    """What happened so far."""

    calls: int = 0
    compared: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def tell(self, seed: int, kind: str, round_: int, what: str) -> None:
        """Count a fault, and print how to make it again."""
        self.faults[kind] += 1
        if sum(self.faults.values()) <= SHOWN:
            again = f"python -m campaign.border --seed {seed} --round {round_}"
            print(f"{kind}: {what}\n  again: {again}", file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """The summary."""
        faults = ", ".join(f"{kind} {self.faults[kind]}" for kind in KINDS)
        return f"calls {self.calls}, compared {self.compared}, {faults}, seconds {seconds:.0f}"


@dataclass(frozen=True)
class Limits:
    """When to stop: after so many calls, seconds and rounds."""

    calls: int
    seconds: float
    rounds: int | None = None


def run(*, seed: int, first: int, limits: Limits, hang: float = HANG_SECONDS) -> Tally:
    """Start children, one after the other, until a limit is reached."""
    tally, end = Tally(), time.monotonic() + limits.seconds
    shared = Path("/dev/shm")  # files are written here by the thousand, and synced
    place = str(shared) if os.access(shared, os.W_OK) else None
    next_round = first
    while tally.calls < limits.calls and time.monotonic() < end:
        n_rounds = None if limits.rounds is None else first + limits.rounds - next_round
        if n_rounds is not None and n_rounds <= 0:
            break
        n_calls = min(CALLS_PER_CHILD, limits.calls - tally.calls)
        with tempfile.TemporaryDirectory(prefix="mql4grec-border-", dir=place) as folder:
            child = Child(Path(folder), seed=seed, first=next_round)
            child.start(n_calls=n_calls, n_rounds=n_rounds)
            next_round = child.watch(tally, end=end, hang=hang)
    return tally


class Child:
    """A process that makes calls, its folder, and what it says there."""

    def __init__(self, folder: Path, *, seed: int, first: int) -> None:
        self.folder, self.seed, self.first = folder, seed, first
        self.state = folder / "state"
        self.fresh = STATE.pack(0, 0, first)
        self.state.write_bytes(self.fresh)

    def start(self, *, n_calls: int, n_rounds: int | None) -> None:
        """Start the process."""
        command = [sys.executable, "-m", "campaign.border_calls", "--state", str(self.state)]
        command += ["--seed", str(self.seed), "--first", str(self.first), "--calls", str(n_calls)]
        if n_rounds is not None:
            command += ["--rounds", str(n_rounds)]
        # One thread: OpenBLAS reserves address space for each.
        one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
        paths = [str(Path(__file__).parents[1]), *(path for path in sys.path if path)]
        environment = os.environ | one | {"PYTHONPATH": os.pathsep.join(paths)}
        with (self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)

    def watch(self, tally: Tally, *, end: float, hang: float) -> int:
        """Wait for the end, of the process or of the time: the number of the next round."""
        last, since, fault = b"", time.monotonic(), None
        try:
            while (code := self.process.poll()) is None and time.monotonic() < end:
                time.sleep(0.1)
                if (now := self.state.read_bytes()) != last:
                    last, since = now, time.monotonic()
                limit = max(hang, START_SECONDS) if last == self.fresh else hang
                if time.monotonic() - since > limit:
                    fault = ("hangs", f"no call ended for {limit:.0f} s")
                    break
        finally:
            self.process.kill()
            self.process.wait()
        if code:
            fault = ("aborts", f"ended with {code}")
        return self._count(tally, fault)

    def _count(self, tally: Tally, fault: tuple[str, str] | None) -> int:
        calls, compared, round_ = STATE.unpack(self.state.read_bytes())
        tally.calls += calls
        tally.compared += compared
        told = Counter[str]()
        for line in (self.folder / "out").read_text().splitlines():
            event = json.loads(line)
            kind = {"panic": "panics"}.get(event["kind"], event["kind"])
            told[kind] += 1
            tally.tell(self.seed, kind, event["round"], event["what"])
        err = (self.folder / "err").read_text(errors="replace")
        for _ in range(err.count("panicked at") - told["panics"]):
            tally.tell(self.seed, "panics", round_, "in a thread: " + err[-500:])
        if fault is not None:
            tally.tell(self.seed, fault[0], round_, f"{fault[1]}; {err[-500:].strip()}")
            return int(round_) + 1
        return int(round_)


def main() -> None:
    """Run the campaign that the arguments describe."""
    parser = argparse.ArgumentParser(description="Random calls of the Rust border.")
    parser.add_argument("--calls", type=int, default=2**62, help="stop after so many")
    parser.add_argument("--minutes", type=float, default=10**6, help="stop after so long")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--round", type=int, help="only this round of the seed")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    rounds = None if given.round is None else 1
    limits = Limits(calls=given.calls, seconds=given.minutes * 60, rounds=rounds)
    started = time.monotonic()
    tally = run(seed=given.seed, first=given.round or 0, limits=limits)
    print(tally.line(time.monotonic() - started))
    sys.exit(bool(tally.faults))


if __name__ == "__main__":
    main()
