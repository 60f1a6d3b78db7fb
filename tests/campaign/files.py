"""Damage each file of a finished run in each way, and ask the run for answers.

    python tests/campaign/files.py [--minutes M] [--seed S] [--commands 1]

Counts what must not be: tracebacks, ends by a signal, hangs, answers that differ from those of the
undamaged run, messages without a remedy. Ends with exit code 1 if there was one.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tiny
from forked_cli import Ended, ForkedCli

VALUES = (
    "recommender.finetune.tasks=[seqrec, seqimage]",
    "recommender.finetune.epochs=1",
    "translator.epochs=2",
    "sasrec.epochs=1",
)
LEFT_OUT = {"log.jsonl"}  # only ever appended to


def _flip(content: bytes, chance: random.Random) -> bytes:
    if not content:
        return b"\0"
    place = chance.randrange(len(content))
    return (
        content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]
    )


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "empty": lambda content, _: b"",
    "half": lambda content, _: content[: len(content) // 2],
    "one byte": lambda content, _: content[:1],
    "a bit": _flip,
    "{}": lambda content, _: b"{}",
    "longer": lambda content, _: content + b"\0",
    "zeros": lambda content, _: bytes(len(content)),
}  # fmt: skip
PLACES: dict[str, Callable[[Path], object]] = {  # what is in the place of the file
    "gone": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a loop": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
}


@dataclass
class Tally:
    """What was counted."""

    ends: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0
    longest: int = 0

    def add(self, case: str, ended: Ended, *, answer: object, expected: object) -> None:
        """Count one call."""
        self.slowest = max(self.slowest, ended.seconds)
        self.longest = max(self.longest, len(ended.err) if ended.code == 1 else 0)
        if not ended.is_told:
            self.faults.append(f"{case}: {ended.code} {ended.err[-1500:]}")
            self.ends["fault"] += 1
        elif ended.code == 1:
            self.ends["message"] += 1
        elif answer != expected:
            self.faults.append(f"{case}: another answer")
            self.ends["other answer"] += 1
        else:
            self.ends["same answer"] += 1


@dataclass(frozen=True)
class Command:
    """A call, and what of the run's folder is its answer besides what it prints."""

    args: tuple[str, ...]
    results: tuple[str, ...] = ()

    def options(self, folder: Path) -> list[str]:
        """Give its arguments for a run in `folder`."""
        name, *others = self.args
        values = (*tiny.overrides(folder, *VALUES), *others)
        return [name, *tiny.as_options(values)]


def commands(item_ids: list[str]) -> dict[str, tuple[list[str], Command]]:
    """Give the calls by name: options besides those of the run, and the rest."""
    quiet = ["--quiet"]
    return {
        "recommend": (["--json", *item_ids], Command(("recommend",))),
        "report": (quiet, Command(("run", "report.n_users=1"), ("evaluation/metrics.json",))),
        "evaluate": (quiet, Command(("run", "evaluation.alpha=0.4"), ("evaluation/metrics.json",))),
        "decode": (quiet, Command(("run", "decoding.n_beams=12"), ("evaluation/metrics.json",))),
    }


def answer_of(folder: Path, command: Command, ended: Ended) -> object:
    """Give what a call has answered, times apart."""
    if ended.code != 0:
        return None
    found = [json.loads((folder / name).read_text()) for name in command.results]
    return (ended.out if not command.results else None, found)


def cases(run: Path, seed: int) -> Iterator[tuple[str, str]]:
    """List every file with every damage, in an order that the seed gives."""
    files = sorted(
        str(path.relative_to(run))
        for path in run.rglob("*")
        if path.is_file() and path.suffix not in {".png", ".jpg"} and path.name not in LEFT_OUT
    )
    found = [(name, damage) for name in files for damage in (*DAMAGES, *PLACES)]
    random.Random(seed).shuffle(found)
    yield from found


def damage_file(path: Path, damage: str, chance: random.Random) -> None:
    """Put something else in the place of a file."""
    if damage in DAMAGES:
        path.write_bytes(DAMAGES[damage](path.read_bytes(), chance))
        return
    path.unlink()
    PLACES[damage](path)


def campaign(
    folder: Path, *, seed: int, minutes: float, per_case: int = 1, limit: int | None = None
) -> Tally:
    """Run the campaign in an empty folder.

    Args:
        folder: For the runs.
        seed: Of order, bits and commands.
        minutes: After which it ends.
        per_case: Commands for each file and damage.
        limit: Most cases; None: all.
    """
    run, tally, chance = folder / "run", Tally(), random.Random(seed)
    ends_at = time.monotonic() + 60 * minutes
    with ForkedCli() as cli:
        options = tiny.as_options(tiny.overrides(run, *VALUES))
        whole = cli("run", "--quiet", *options, folder=folder / "said", timeout=600)
        assert whole.code == 0, whole.err
        lines = (run / "catalog" / "Demo" / "Demo.item2id").read_text().splitlines()
        known = commands([line.split("\t")[0] for line in lines[:3]])
        expected = {name: _ask(cli, folder, name, known)[0] for name in known}
        for number, (name, damage) in enumerate(cases(run, seed)):
            if time.monotonic() > ends_at or number == limit:
                break
            for asked in chance.sample(sorted(known), per_case):
                bits = chance.randrange(2**32)
                answer, ended = _ask(cli, folder, asked, known, (name, damage, bits))
                case = f"{name}, {damage} (bits {bits}), {asked}"
                tally.add(case, ended, answer=answer, expected=expected[asked])
    return tally


def _ask(
    cli: ForkedCli,
    folder: Path,
    name: str,
    known: dict[str, tuple[list[str], Command]],
    damaged: tuple[str, str, int] | None = None,
) -> tuple[object, Ended]:
    """Call a command on a copy of the run that is damaged or not: its answer, and how it ended."""
    more, command = known[name]
    run = folder / "run"
    run.rename(folder / "kept")  # a run knows its place, so the copy stands there
    try:
        shutil.copytree(folder / "kept", run)
        if damaged is not None:
            damage_file(run / damaged[0], damaged[1], random.Random(damaged[2]))
        ended = cli(*command.options(run), *more, folder=folder / "said", timeout=60)
        return answer_of(run, command, ended), ended
    finally:
        shutil.rmtree(run, ignore_errors=True)
        (folder / "kept").rename(run)


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--commands", type=int, default=1, help="calls for each file and damage")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = campaign(
            Path(folder), seed=given.seed, minutes=given.minutes, per_case=given.commands
        )
    for fault in tally.faults:
        print(f"\n{fault}")
    told = ", ".join(f"{count} {end}" for end, count in sorted(tally.ends.items()))
    print(
        f"{sum(tally.ends.values())} calls: {told}; slowest {tally.slowest:.1f} s, "
        f"longest message {tally.longest} characters, {time.monotonic() - began:.0f} s in all"
    )
    sys.exit(bool(tally.faults))


if __name__ == "__main__":
    main()
