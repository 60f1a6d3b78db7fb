"""Kill runs at random moments and at each rename, unlink and mkdir; go on; compare every byte.

    python tests/campaign/kill.py [--kills N] [--seed S] [--case K] [--launched N]

A case kills a command once or twice (SIGKILL around a call that changes a name, or SIGKILL, SIGTERM
or SIGINT at any moment), lets the same command go on, and compares what there is at the end with
what an undisturbed call left. `--case K` does again the one that was told as `case K` of a seed.
Ends with exit code 1 if anything ended otherwise, was told in a traceback, or hung.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import tiny
from forked_cli import Ended, ForkedCli, Kill

FAST = (  # texts alone, one epoch of everything
    "catalog.datasets.0.n_items=40",
    "catalog.datasets.0.n_users=40",
    "embeddings.image.kind=none",
    "recommender.finetune.tasks=[seqrec]",
    "recommender.finetune.epochs=1",
    "recommender.finetune.samples_per_epoch=64",
    "translator.epochs=1",
    "translator.refit_epochs=1",
    "sasrec.epochs=1",
    "evaluation.n_bootstrap=10",
    "runtime.checkpoint_seconds=0.001",
)
LEFT_OUT = {  # with the reason why it may differ
    "log.jsonl": "only ever appended to, with times",
    ".mql4grec.lock": "a kill before its removal leaves it; a finished run writes nothing",
}
TIMES = {  # what is taken out of a file before it is compared: times, and what is made of them
    "history.json": re.compile(rb'"(seconds|samples_per_second)": [0-9.e+-]+'),
    "index.html": re.compile(
        rb"[0-9.]+\xc2\xa0(s|min|h)\b|<[^<>]*meter[^<>]*>|[0-9.,]+ samples per second"
    ),
}
HANG = 120.0  # seconds
QUIET = {"SIGINT": 130, "SIGTERM": 143}


@dataclass(frozen=True)
class Scenario:
    """A command that is killed.

    Attributes:
        args: The command, for a run in the folder that is given.
        place: Folder below it whose files are compared.
        before: Commands that have been done before, undisturbed.
        weight: How often it is chosen.
    """

    args: Callable[[Path], list[str]]
    place: str = "run"
    before: Callable[[Path], list[list[str]]] = lambda _: []
    weight: int = 1


def _run(folder: Path, *values: str, more: tuple[str, ...] = ()) -> list[str]:
    overrides = tiny.overrides(folder / "run", *FAST, *values)
    return ["run", "--quiet", *more, *tiny.as_options(overrides)]


def _codes(folder: Path) -> list[str]:
    given = ("--embeddings", folder / "Shop.npy", "--out", folder / "out")
    trained = ("--translator", folder / "run" / "translator" / "text")
    return ["generate-codes", "--quiet", *map(str, (*given, *trained))]


SCENARIOS = {
    "fresh": Scenario(_run, weight=8),
    "changed": Scenario(
        lambda folder: _run(folder, "translator.lr=0.002"),
        before=lambda folder: [_run(folder)],
        weight=5,
    ),
    "seeds": Scenario(lambda folder: _run(folder, more=("--seeds", "2")), weight=1),
    "codes": Scenario(_codes, place="out", before=lambda folder: [_run(folder)], weight=4),
}


@dataclass
class Tally:
    """What was counted."""

    kills: Counter[str] = field(default_factory=Counter)  # by scenario and kind
    faults: list[str] = field(default_factory=list)
    otherwise: int = 0
    tracebacks: int = 0
    hangs: int = 0
    unlike: int = 0  # pairs of processes of which not exactly one worked

    def told(self, seconds: float) -> str:
        """Say it in a line."""
        kills = ", ".join(f"{count} {name}" for name, count in sorted(self.kills.items()))
        return (
            f"{sum(self.kills.values())} kills ({kills}); {self.otherwise} ended otherwise, "
            f"{self.tracebacks} tracebacks, {self.hangs} hangs, {self.unlike} pairs not told "
            f"apart; {seconds:.0f} s"
        )


def content_of(folder: Path) -> dict[str, bytes]:
    """Read every file, times apart; nothing of a killed call may be left either."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.name not in LEFT_OUT:
            found[name] = _timeless(path)
        elif path.is_dir():
            found[f"{name}/"] = b""
    return found


def _timeless(path: Path) -> bytes:
    """Read a file without times; a stamp also without the hashes of files that tell times."""
    content = path.read_bytes()
    if path.name == "stamp.json":
        stamp = json.loads(content)
        stamp["files"] = {
            name: told
            for name, told in stamp.get("files", {}).items()
            if Path(name).name not in {*TIMES, *LEFT_OUT}
        }
        return json.dumps({**stamp, "seconds": 0}).encode()
    return TIMES[path.name].sub(b"", content) if path.name in TIMES else content


@dataclass(frozen=True)
class Known:
    """How a scenario goes undisturbed: what it leaves, its seconds and calls that change names."""

    content: dict[str, bytes]
    seconds: float
    n_calls: int


class Campaign:
    """The cases in one folder; a run knows its place, so all of them are in the same."""

    def __init__(self, folder: Path, cli: ForkedCli, seed: int) -> None:
        self.folder, self.cli, self.seed = folder, cli, seed
        self.place = folder / "place"
        self.tally = Tally()
        self._known: dict[str, Known] = {}

    def case(self, number: int) -> None:
        """Do the case of that number: a scenario, killed once or twice, and continued."""
        chance = random.Random(f"{self.seed}.{number}")
        weights = [scenario.weight for scenario in SCENARIOS.values()]
        (name,) = chance.choices(list(SCENARIOS), weights)
        known = self._undisturbed(name)
        kills = [_draw(chance, known) for _ in range(chance.choice((1, 1, 2)))]
        case = f"case {number} of seed {self.seed}: {name}, {kills}"
        self._make_ready(name)
        args = SCENARIOS[name].args(self.place)
        for kill in kills:
            ended = self.cli(*args, folder=self.folder / "said", timeout=HANG, kill=kill)
            self._judge(case, ended, name, kill)
        ended = self.cli(*args, folder=self.folder / "said", timeout=HANG)
        self._judge_end(case, ended, known.content, SCENARIOS[name].place)

    def pair(self, number: int, other: ForkedCli) -> None:
        """Start two processes at once: one works; the other says who does, or has nothing to do."""
        known = self._undisturbed("fresh")
        self._make_ready("fresh")
        args = _run(self.place)
        ends: list[Ended] = []

        def call(cli: ForkedCli, said: str) -> None:
            ends.append(cli(*args, folder=self.folder / said, timeout=HANG))

        calls = [(self.cli, "said"), (other, "said2")]
        threads = [threading.Thread(target=call, args=given) for given in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.tally.kills["pair"] += 1
        case = f"pair {number}"
        refused = [ended for ended in ends if ended.code == 1]
        is_told = all(re.search(r"process \d+ on '.*' since 20", end.err) for end in refused)
        if sorted(end.code or 0 for end in ends) not in ([0, 0], [0, 1]) or not is_told:
            self.tally.unlike += 1
            self.tally.faults.append(f"{case}: {[(end.code, end.err[-500:]) for end in ends]}")
        self._judge_end(case, next(e for e in ends if e not in refused), known.content, "run")

    def _undisturbed(self, name: str) -> Known:
        if name not in self._known:
            self._make_ready(name)
            said = self.folder / "said"
            ended = self.cli(*SCENARIOS[name].args(self.place), folder=said, timeout=600)
            assert ended.code == 0, ended.err
            content = content_of(self.place / SCENARIOS[name].place)
            self._known[name] = Known(content, ended.seconds, ended.n_calls)
        return self._known[name]

    def _make_ready(self, name: str) -> None:
        """Put in place what a scenario begins with; it is made once."""
        kept = self.folder / f"before {name}"
        if not kept.exists():
            shutil.rmtree(self.place, ignore_errors=True)
            self.place.mkdir()
            vectors = np.random.default_rng(1).normal(size=(300, 384))
            np.save(self.place / "Shop.npy", vectors.astype(np.float32))
            for args in SCENARIOS[name].before(self.place):
                ended = self.cli(*args, folder=self.folder / "said", timeout=600)
                assert ended.code == 0, ended.err
            self.place.rename(kept)
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(kept, self.place)

    def _judge(self, case: str, ended: Ended, name: str, kill: Kill) -> None:
        """Count a killed call, which may have ended before its time."""
        is_killed = ended.code == -signal.SIGKILL or ended.code == QUIET.get(kill.signal)
        if is_killed:
            kind = f"at a {'call' if kill.call else 'moment'}, {kill.signal}"
            self.tally.kills[f"{name} {kind}"] += 1
        self._count_noise(case, ended)
        if not is_killed and ended.code not in (0, None):
            self.tally.otherwise += 1
            self.tally.faults.append(f"{case}: killed, {ended.code} {ended.err[-1500:]}")

    def _count_noise(self, case: str, ended: Ended) -> None:
        if "Traceback" in ended.err or "Exception ignored" in ended.err:
            self.tally.tracebacks += 1
            self.tally.faults.append(f"{case}: {ended.code} {ended.err[-2500:]}")
        if ended.code is None:
            self.tally.hangs += 1
            self.tally.faults.append(f"{case}: hung")

    def _judge_end(self, case: str, ended: Ended, known: dict[str, bytes], place: str) -> None:
        self._count_noise(case, ended)
        found = content_of(self.place / place)
        if ended.code == 0 and found == known:
            return
        self.tally.otherwise += 1
        names = sorted(n for n in found.keys() | known.keys() if found.get(n) != known.get(n))
        self.tally.faults.append(f"{case}: {ended.code} {ended.err[-1500:]} differs: {names[:20]}")


def _draw(chance: random.Random, known: Known) -> Kill:
    if chance.random() < 0.6:
        return Kill(call=chance.randint(1, known.n_calls), is_after=chance.random() < 0.5)
    kind = chance.choice(("SIGKILL", "SIGTERM", "SIGINT"))
    return Kill(kind, seconds=round(0.05 + chance.random() * known.seconds, 3))


@contextmanager
def campaign(folder: Path, seed: int) -> Iterator[Campaign]:
    """Open a campaign in an empty folder."""
    with ForkedCli() as cli:
        yield Campaign(folder, cli, seed)


def launched(folder: Path, tally: Tally, *, n_kills: int, seed: int) -> None:
    """Kill the launcher of two processes; none of them goes on writing, and the run goes on.

    Two continued processes end as two undisturbed ones.
    """
    run, known = folder / "place", None
    for number in range(n_kills + 1):
        shutil.rmtree(run, ignore_errors=True)
        if known is None:
            began = time.monotonic()
            _launch(run, after=None)
            known, seconds = content_of(run / "run"), time.monotonic() - began
            continue
        after = seconds * random.Random(f"{seed}.launched.{number}").uniform(0.3, 1)
        _launch(run, after=after)
        tally.kills["launched by torchrun, SIGKILL"] += 1
        case = f"launcher killed after {after:.2f} s"
        deadline = time.monotonic() + 30
        while _workers_of(run) and time.monotonic() < deadline:
            time.sleep(0.1)
        if left := _workers_of(run):
            tally.hangs += 1
            tally.faults.append(f"{case}: workers {left} go on")
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        ended = _launch(run, after=None)
        found = content_of(run / "run")
        names = [name for name in found.keys() | known.keys() if found.get(name) != known.get(name)]
        if names or "Traceback" in ended:
            tally.otherwise += 1
            tally.faults.append(f"{case}: {ended[-1500:]} differs: {sorted(names)[:20]}")


def _launch(folder: Path, *, after: float | None) -> str:
    """Start a run in two processes, and kill their launcher; give what they said."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc-per-node", "2", "-m", "mql4grec", *_run(folder)]
    paths = os.pathsep.join(path for path in sys.path if path)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, env=env, stdout=said, stderr=said) as process,
    ):
        try:
            process.wait(after or 300)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        said.seek(0)
        return said.read()


def _workers_of(folder: Path) -> list[int]:
    """List the processes that run in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            is_one = f"run_dir={folder}/run".encode() in path.read_bytes()
        except OSError:  # it has ended
            continue
        if is_one:
            found.append(int(path.parent.name))
    return found


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=600, help="most time for them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="this case alone")
    parser.add_argument("--pairs", type=int, default=10, help="of processes on one folder")
    parser.add_argument("--launched", type=int, default=3, help="kills of a torchrun")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    began, n_told = time.monotonic(), 0
    # The same folder for the same seed: a run's settings hold its place.
    with tempfile.TemporaryDirectory() as folder, campaign(Path(folder), given.seed) as found:
        tally = found.tally
        if given.case is not None:
            found.case(given.case)
        else:
            with ForkedCli() as other:
                for number in range(given.pairs):
                    found.pair(number, other)
            if given.launched:
                place = Path(folder) / "launched"
                launched(place, tally, n_kills=given.launched, seed=given.seed)
        number = 0
        while given.case is None and sum(tally.kills.values()) < given.kills:
            if time.monotonic() - began > 60 * given.minutes:
                break
            found.case(number)
            number += 1
            for fault in tally.faults[n_told:]:
                print(f"\n{fault}", flush=True)
            n_told = len(tally.faults)
            if number % 10 == 0:
                print(json.dumps({"cases": number, "kills": tally.kills.total()}), flush=True)
        for fault in tally.faults[n_told:]:
            print(f"\n{fault}", flush=True)
    print(tally.told(time.monotonic() - began))
    sys.exit(bool(tally.faults))


if __name__ == "__main__":
    main()
