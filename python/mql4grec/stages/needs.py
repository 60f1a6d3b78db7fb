"""What each stage takes of memory and disk, for N items, U users and E events.

Upper bounds in bytes, measured on shops of short texts, beside BASE, which Python, its libraries,
a small model and a batch take whatever the shop. Only what grows with the shop is here: a model
and its batches are as large as their settings make them. `docs/memory.md` shows the table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mql4grec.config import Settings
from mql4grec.stages.context import encoded, ways_of
from mql4grec.stages.limits import Sizes, left_out

BASE = 1 << 30
WIDEST = 4096  # of embeddings that are not made yet: LLaMA's
HASHED = 384  # the width of hashed texts
SYMBOLS = ("N", "U", "E", "N D", "N d", "U M", "N^2", "P", "1")
GROUPS = {  # cgroup's limit on memory, of version 2 and 1
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
}

Bytes = Mapping[str, int]  # by symbol, how many times


@dataclass(frozen=True)
class Row:
    """What one stage takes, or a part of it that settings ask for.

    Attributes:
        stage: Its name, and what of it.
        memory: Bytes by symbol, beside BASE.
        disk: The same, of what it writes, in one modality and one way to rank.
    """

    stage: str
    memory: Bytes
    disk: Bytes


TABLE = (
    Row("prepare", {"N": 4096, "U": 1024, "E": 400}, {"N": 512, "U": 64, "E": 16}),
    Row("embed", {"N D": 4, "N": 2048}, {"N D": 4, "N": 16}),
    Row("train-translator", {"N D": 8, "N": 4096}, {}),
    Row("generate-codes", {"N D": 4, "N": 4096, "1": 1 << 30}, {"N": 768}),
    Row("quality", {"N D": 4, "N": 8192, "E": 64, "1": 1 << 27}, {}),
    Row("finetune", {"N": 2048, "E": 256}, {}),
    Row("finetune: a teacher", {"N^2": 16, "E": 3072}, {}),
    Row("evaluate decoding", {"N": 2048, "U": 512, "U M": 128, "E": 100}, {"U M": 16}),
    Row("evaluate sasrec", {"N d": 16, "N": 1024, "E": 128, "1": 1 << 28}, {"N d": 16}),
    Row("evaluate metrics", {"N": 4096, "U": 4096, "U M": 128, "E": 200, "P": 8}, {"U M": 64}),
    Row("evaluate metrics: EASE^R", {"N^2": 16}, {}),
    Row("evaluate metrics: EASE^R with codes", {"N^2": 4}, {}),
    Row("evaluate metrics: refitted too", {"P": 8}, {}),
    Row("evaluate metrics: EASE^R refitted too", {"N^2": 8}, {}),
    Row("report", {"N": 4096, "U": 2048}, {}),
)
ROWS = {row.stage: row for row in TABLE}


@dataclass(frozen=True)
class Need:
    """What a stage of a run takes at most.

    Attributes:
        stage: Its command, and its key where several share one.
        memory: Bytes, BASE among them.
        disk: Bytes that it writes.
    """

    stage: str
    memory: int
    disk: int


def needs(settings: Settings, sizes: Mapping[str, Sizes]) -> list[Need]:
    """Tell what the stages of a run take at most.

    Args:
        settings: Of the run.
        sizes: Of its shops, the target among them, by name.
    """
    shops, own = list(sizes.values()), sizes[settings.target.name]
    whole, most = _together(shops, sum), _together(shops, max)
    n_made = len({modality for _, modality in encoded(settings)})
    n_ways = len(ways_of(settings))
    found = []
    for name, memory_of, disk_of, times in (
        ("prepare", most, whole, 1),
        ("embed", most, whole, n_made),
        ("train-translator", whole, whole, n_made),
        ("generate-codes", most, whole, 2),
        ("quality", most, whole, 1),
        ("finetune", whole if settings.recommender.pretrain.datasets else own, own, 1),
        ("evaluate decoding", own, own, 2 * n_ways),
        ("evaluate sasrec", own, own, 1),
        ("evaluate metrics", own, own, n_ways * (1 + settings.evaluation.compare_refit)),
        ("report", own, own, 1),
    ):
        parts = [ROWS[name], *(ROWS[part] for part in _parts(settings, name, own))]
        memory = sum(amount(part.memory, memory_of, settings) for part in parts)
        disk = times * sum(amount(part.disk, disk_of, settings) for part in parts)
        found.append(Need(name, BASE + memory, disk))
    return found


def amount(of: Bytes, sizes: Sizes, settings: Settings) -> int:
    """Give the bytes of a cell of the table for a shop."""
    from mql4grec.baselines.counting import MOST_PAIRS

    n_items, n_users = sizes.n_items, sizes.n_users
    kinds = {getattr(settings.embeddings, modality).kind for _, modality in encoded(settings)}
    values = {
        "N": n_items,
        "U": n_users,
        "E": sizes.n_events,
        "N D": n_items * (HASHED if kinds == {"hashing"} else WIDEST),
        "N d": n_items * settings.sasrec.d_model,
        "U M": n_users * settings.decoding.n_beams,
        "N^2": n_items**2,
        "P": min(n_items**2, MOST_PAIRS),
        "1": 1,
    }
    return sum(times * values[symbol] for symbol, times in of.items())


def explain(
    needed: Sequence[Need], *, memory: int | None, disk: int, settings: Settings
) -> Iterator[str]:
    """Say what the largest stage of a run takes, and whether this machine may lack it.

    Args:
        needed: From `needs`.
        memory: Bytes that this process may have, None if nobody knows.
        disk: Bytes that are free where the run is.
        settings: Of the run.
    """
    largest = max(needed, key=lambda need: need.memory)
    has = "" if memory is None else f"; this machine has {_gib(memory)}"
    yield f"memory: `{largest.stage}` takes the most, up to {_gib(largest.memory)}{has}"
    for need in needed:
        if memory is not None and need.memory > memory:
            limit = settings.evaluation.ease_max_items
            way = f"`evaluation.ease_max_items` below the shop's items, now {limit}, leaves out"
            mend = f" ({way} EASE^R)" if need.stage == "evaluate metrics" else ""
            yield (
                f"warning: `{need.stage}` may take {_gib(need.memory)}, more than the "
                f"{_gib(memory)} of memory here; use a larger machine or a smaller shop{mend}"
            )
    written = sum(need.disk for need in needed)
    yield f"disk: the run writes up to {_gib(written)}; {_gib(disk)} are free"
    if written > disk:
        yield "warning: the disk may become full; make room, or set `run_dir` to another one"


def memory_here() -> int | None:
    """Give the memory that this process may have: the machine's, or less by its control group."""
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):  # not on this system
        return None
    for path in GROUPS:
        told = path.read_text().strip() if path.exists() else "max"
        found += [int(told)] if told.isdecimal() else []
    return min(found)


def as_markdown() -> str:
    """Write the table as `docs/memory.md` shows it."""
    lines = ["| stage | memory, bytes | disk, bytes |", "| --- | --- | --- |"]
    lines += [f"| {row.stage} | {_spell(row.memory)} | {_spell(row.disk)} |" for row in TABLE]
    return "\n".join(lines)


def _parts(settings: Settings, name: str, own: Sizes) -> Iterator[str]:
    """List what the settings add to a stage."""
    fits, absent = settings.evaluation, left_out(settings, own)
    teaches = settings.recommender.finetune.teacher_share or (
        settings.recommender.pretrain.datasets and settings.recommender.pretrain.teacher_share
    )
    if name == "finetune" and teaches:
        yield "finetune: a teacher"
    if name == "evaluate metrics":
        refitted = fits.refit or fits.compare_refit
        if refitted:
            yield "evaluate metrics: refitted too"
        if "ease" not in absent:
            yield "evaluate metrics: EASE^R"
            if fits.ease_codes_weight != 0:
                yield "evaluate metrics: EASE^R with codes"
            if refitted:
                yield "evaluate metrics: EASE^R refitted too"


def _together(shops: Sequence[Sizes], how: Callable[[list[int]], int]) -> Sizes:
    """Give the sizes of shops one by one, added or the largest."""
    return Sizes(
        how([one.n_items for one in shops]),
        how([one.n_users for one in shops]),
        how([one.n_events for one in shops]),
    )


def _spell(of: Bytes) -> str:
    """Spell a cell, e.g. `4,096 N + 400 E`."""
    terms = [
        f"{times:,}" if symbol == "1" else f"{times:,} {symbol}" for symbol, times in of.items()
    ]
    return " + ".join(terms) or "little"


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.1f} GiB"
