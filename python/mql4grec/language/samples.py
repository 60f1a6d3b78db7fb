"""What each task reads and answers, and which samples of it a corpus has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from mql4grec.config import Modality, Task
from mql4grec.language.corpus import Corpus, Source

TASKS: tuple[Task, ...] = get_args(Task)
ITEM_TASKS: tuple[Task, ...] = ("item2image", "image2item")  # read one item, not a history

# What is read and what is answered. Where there are two, one is drawn for each sample.
DIRECTIONS: dict[Task, tuple[tuple[Source, Modality], ...]] = {
    "seqrec": (("text", "text"),),
    "seqimage": (("image", "image"),),
    "item2image": (("text", "image"),),
    "image2item": (("image", "text"),),
    "seqitem2image": (("text", "image"),),
    "seqimage2item": (("image", "text"),),
    "fusionseqrec": (("text", "image"), ("image", "text")),
    "fgfusionseqrec": (("both", "text"), ("both", "image")),
}


@dataclass(frozen=True)
class Samples:
    """S samples of any tasks of one corpus.

    Attributes:
        task: int8 (S,), index into `TASKS`.
        direction: int8 (S,), index into the task's `DIRECTIONS`.
        target: int64 (S,), the event to answer, a row of the corpus's `histories.items`; of a task
            that reads one item: that item.
        length: int32 (S,), number of items to read: those before the target that have a code in
            the modality that is read.
    """

    task: NDArray[np.int8]
    direction: NDArray[np.int8]
    target: NDArray[np.int64]
    length: NDArray[np.int32]

    def __len__(self) -> int:
        """Give S."""
        return len(self.task)

    def take(self, rows: NDArray[np.int64]) -> Samples:
        """Give the samples in these rows."""
        return Samples(self.task[rows], self.direction[rows], self.target[rows], self.length[rows])

    def kinds(self) -> list[tuple[Task, Source, Modality, NDArray[np.int64]]]:
        """Group by task and direction: (task, what is read, what is answered, rows)."""
        code = self.task.astype(np.int64) * 2 + self.direction
        groups = []
        for kind in np.unique(code).tolist():
            task = TASKS[kind // 2]
            source, target = DIRECTIONS[task][kind % 2]
            groups.append((task, source, target, np.flatnonzero(code == kind)))
        return groups


def concatenate(parts: list[Samples]) -> Samples:
    """Append samples of the same corpus."""
    return Samples(
        task=np.concatenate([part.task for part in parts]),
        direction=np.concatenate([part.direction for part in parts]),
        target=np.concatenate([part.target for part in parts]),
        length=np.concatenate([part.length for part in parts]),
    )


def training_samples(corpus: Corpus, task: Task, *, generator: np.random.Generator) -> Samples:
    """Give one epoch's samples of a task.

    The last two events of every user are held out. "prefixes" answers every event from those before
    it, "longest" the last one only, "windows" one event per user, drawn anew, from a drawn number
    of those before it. A sample whose target has no code, or that would read nothing, is not made.
    `item2image` and `image2item` have one sample for every item of the catalog with both codes:
    what an item looks like is knowledge of the catalog, not of the held-out events.

    The number of samples is the same whatever the generator says.
    """
    if task in ITEM_TASKS:
        return _item_samples(corpus, task)
    offsets = corpus.histories.offsets
    lengths = np.diff(offsets)
    users = np.repeat(np.arange(len(lengths)), lengths)  # (E,)
    position = np.arange(offsets[-1]) - offsets[users]
    events = np.flatnonzero((position > 0) & (position < lengths[users] - 2))
    events, possible, readable = _possible(corpus, task, events=events, users=users[events])
    if corpus.sampling != "prefixes":
        chosen = _one_per_user(users[events], generator if corpus.sampling == "windows" else None)
        events, possible, readable = events[chosen], possible[:, chosen], readable[:, chosen]
    samples = _draw_direction(task, events, possible, readable, generator=generator)
    if corpus.sampling != "windows":
        return samples
    share = generator.random(len(samples))
    length = 1 + (share * samples.length).astype(np.int32)
    return Samples(samples.task, samples.direction, samples.target, length)


def validation_samples(corpus: Corpus, task: Task, *, generator: np.random.Generator) -> Samples:
    """Give the samples that answer every user's last event but one from all before it.

    Tasks that read one item have none, since they know no held-out events.
    """
    offsets = corpus.histories.offsets
    users = np.flatnonzero(np.diff(offsets) >= 3)
    if task in ITEM_TASKS:
        users = users[:0]
    events, possible, readable = _possible(corpus, task, events=offsets[users + 1] - 2, users=users)
    return _draw_direction(task, events, possible, readable, generator=generator)


def _item_samples(corpus: Corpus, task: Task) -> Samples:
    items = np.flatnonzero(corpus.present["text"] & corpus.present["image"])
    return Samples(
        task=np.full(len(items), TASKS.index(task), dtype=np.int8),
        direction=np.zeros(len(items), dtype=np.int8),
        target=items,
        length=np.ones(len(items), dtype=np.int32),
    )


def _possible(
    corpus: Corpus, task: Task, *, events: NDArray[np.int64], users: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int32]]:
    """Keep the events that some direction of the task can answer.

    Returns:
        The events (C,), and per direction D whether it can (D, C) and how many items it reads
        (D, C).
    """
    possible, readable = [], []
    first = corpus.histories.offsets[users]
    for source, target in DIRECTIONS[task]:
        kept = corpus.view(source).kept
        available = kept[events] - kept[first]
        answerable = corpus.present[target][corpus.histories.items[events]]
        possible.append((available > 0) & answerable)
        readable.append(np.minimum(available, corpus.max_his_len).astype(np.int32))
    some = np.logical_or.reduce(possible)
    return events[some], np.stack(possible)[:, some], np.stack(readable)[:, some]


def _draw_direction(
    task: Task,
    events: NDArray[np.int64],
    possible: NDArray[np.bool_],
    readable: NDArray[np.int32],
    *,
    generator: np.random.Generator,
) -> Samples:
    """Draw one of the possible directions of each event, all alike."""
    rows = np.arange(len(events))
    chance = np.where(possible, generator.random(possible.shape), -1.0)  # (D, C)
    direction = chance.argmax(axis=0)
    return Samples(
        task=np.full(len(events), TASKS.index(task), dtype=np.int8),
        direction=direction.astype(np.int8),
        target=events,
        length=readable[direction, rows],
    )


def _one_per_user(
    users: NDArray[np.int64], generator: np.random.Generator | None
) -> NDArray[np.int64]:
    """Choose one row of each user, the last or a random one; `users` is sorted."""
    _, starts, counts = np.unique(users, return_index=True, return_counts=True)
    if generator is None:
        return starts + counts - 1
    return starts + (generator.random(len(starts)) * counts).astype(np.int64)
