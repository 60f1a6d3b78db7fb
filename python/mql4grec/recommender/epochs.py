"""Which samples an epoch has, and how they become optimizer steps and forward passes.

Everything here follows from the seed, so a resumed training draws the same epoch again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mql4grec import language
from mql4grec.config import Task
from mql4grec.errors import ConfigError, DataError
from mql4grec.language import (
    Corpus,
    Samples,
    Windows,
    last_windows,
    shorten,
    training_windows,
)
from mql4grec.language.samples import concatenate
from mql4grec.runtime import Journal

Stage = Literal["pretrain", "finetune"]
STAGES: tuple[Stage, ...] = ("pretrain", "finetune")
EPOCH, VALIDATION, DROPOUT = range(3)  # what a seed is for


@dataclass(frozen=True)
class Epoch:
    """The samples of one epoch, in the order of training.

    Attributes:
        samples: All S samples that there are: of tasks, or windows of whole histories.
        order: int64 (S',), rows of `samples` to use; consecutive slices are optimizer steps.
        input_lengths: int64 (S,), tokens, or items of a window.
        target_lengths: int64 (S,), tokens that count in the loss.
        n_answered: int64 (S,), of windows how many of the last items are targets.
    """

    samples: Samples | Windows
    order: NDArray[np.int64]
    input_lengths: NDArray[np.int64]
    target_lengths: NDArray[np.int64]
    n_answered: NDArray[np.int64] | None = None


def usable_tasks(
    corpora: Sequence[Corpus], tasks: Sequence[Task], *, stage: Stage, journal: Journal
) -> tuple[Task, ...]:
    """Give the tasks that at least one shop has samples of; those that a shop lacks are logged.

    Raises:
        ConfigError: If none is left.
    """
    generator = np.random.default_rng(0)  # how many samples there are does not depend on it
    left = []
    for task in dict.fromkeys(tasks):
        lacking = [
            corpus.name
            for corpus in corpora
            if not len(language.training_samples(corpus, task, generator=generator))
        ]
        for name in lacking:
            journal.log(f"recommender.{stage}.skipped", task=task, dataset=name)
        if len(lacking) < len(corpora):
            left.append(task)
    if not left:
        raise ConfigError(
            f"`recommender.{stage}.tasks`: expected one that the data have samples of, "
            f"got {list(tasks)}; the shops lack the modalities that they read or answer, "
            "or all histories are shorter than four items"
        )
    return tuple(left)


def draw_epoch(
    corpus: Corpus,
    tasks: Sequence[Task],
    *,
    seed: int,
    stage: Stage,
    number: int,
    limit: int | None = None,
    whole: bool = False,
) -> Epoch:
    """Draw and shuffle the samples of epoch `number`; `limit` keeps a random part of them.

    With `whole` they are not those of the tasks but windows of whole histories. Of "prefixes" every
    item is a target once, but the last two of a user; of "longest" the last one before these; of
    "windows" every second window is shortened, by chance, and what it leaves out is no target.
    A user of a single item before the last two has no window.

    Raises:
        DataError: If there are no windows.
    """
    generator = np.random.default_rng([seed, STAGES.index(stage), EPOCH, number])
    if whole:
        return _training_windows(corpus, stage, limit=limit, generator=generator)
    samples = concatenate(
        [language.training_samples(corpus, task, generator=generator) for task in tasks]
    )
    return _epoch(corpus, samples, order=generator.permutation(len(samples))[:limit])


def validation_epoch(
    corpus: Corpus,
    tasks: Sequence[Task],
    *,
    seed: int,
    stage: Stage,
    limit: int | None = None,
    whole: bool = False,
) -> Epoch:
    """Give the validation samples; `limit` keeps a random part of them.

    Directions and part are drawn once, so that epochs can be compared. With `whole` they are the
    windows that end with a user's last event but one, which alone is the target.

    Raises:
        DataError: If there are none.
    """
    generator = np.random.default_rng([seed, STAGES.index(stage), VALIDATION])
    if whole:
        return _validation_windows(corpus, stage, limit=limit, generator=generator)
    samples = concatenate(
        [language.validation_samples(corpus, task, generator=generator) for task in tasks]
    )
    if not len(samples):
        raise DataError(
            f"`recommender.{stage}.tasks`: expected samples to validate on, got none for "
            f"{list(tasks)} in {corpus.name!r}; add a task that reads histories, such as 'seqrec'"
        )
    rows = np.arange(len(samples)) if limit is None else generator.permutation(len(samples))
    return _epoch(corpus, samples, order=rows[:limit])


def cut(
    epoch: Epoch,
    rows: NDArray[np.int64],
    *,
    micro_batch_size: int,
    n_processes: int,
    is_sorted: bool = True,
) -> list[NDArray[np.int64]]:
    """Cut the samples of one optimizer step into micro-batches.

    The gradient of the step is a sum over its samples, so their order is free: sorted they are of
    similar length, longest first, which leaves little padding. Process r takes the micro-batches
    r, r + n_processes, ...
    """
    if is_sorted:
        rows = rows[np.argsort(-epoch.input_lengths[rows], kind="stable")]
    size = min(micro_batch_size, -(-len(rows) // n_processes))
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def dropout_seed(*, seed: int, stage: Stage, step: int, micro_batch: int) -> int:
    """Give the seed of one forward pass.

    A seed of its own for each makes dropout the same whatever the number of processes, and leaves a
    checkpoint without generator states to keep.
    """
    entropy = [seed, STAGES.index(stage), DROPOUT, step, micro_batch]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _epoch(corpus: Corpus, samples: Samples, *, order: NDArray[np.int64]) -> Epoch:
    return Epoch(
        samples=samples,
        order=order,
        input_lengths=language.input_lengths(corpus, samples),
        target_lengths=language.target_lengths(corpus, samples),
    )


def _training_windows(
    corpus: Corpus, stage: Stage, *, limit: int | None, generator: np.random.Generator
) -> Epoch:
    histories = corpus.histories.held_out(2)
    windows = training_windows(histories, max_his_len=corpus.max_his_len)
    if not len(windows.starts):
        raise DataError(
            f"`recommender.{stage}`: expected histories of four items and more to train on, "
            f"got none in {corpus.name!r}; give longer ones"
        )
    order = generator.permutation(len(windows.starts))
    if corpus.sampling == "longest":
        is_last = np.isin(windows.starts + windows.lengths, histories.offsets[1:])
        order = order[is_last[order]]
        return _windows(corpus, windows, np.ones_like(windows.lengths), order=order[:limit])
    if corpus.sampling == "windows":
        windows = shorten(windows, generator=generator)
    is_first = np.isin(windows.starts, histories.offsets[:-1])
    return _windows(corpus, windows, windows.lengths - ~is_first, order=order[:limit])


def _windows(
    corpus: Corpus,
    windows: Windows,
    n_answered: NDArray[np.int64],
    *,
    order: NDArray[np.int64],
) -> Epoch:
    counts = language.count_codes(corpus)[windows.items]
    sums = np.concatenate([[0], np.cumsum(counts)])  # tokens of all before
    ends = windows.starts + windows.lengths
    return Epoch(
        samples=windows,
        order=order,
        input_lengths=windows.lengths,
        target_lengths=sums[ends] - sums[ends - n_answered],
        n_answered=n_answered,
    )


def _validation_windows(
    corpus: Corpus, stage: Stage, *, limit: int | None, generator: np.random.Generator
) -> Epoch:
    users = np.flatnonzero(corpus.histories.lengths() >= 3)
    if not len(users):
        raise DataError(
            f"`recommender.{stage}`: expected histories of three items and more to validate on, "
            f"got none in {corpus.name!r}; give longer ones"
        )
    histories = corpus.histories.held_out(1).of_users(users)
    windows = last_windows(histories, max_his_len=corpus.max_his_len + 1)
    rows = np.arange(len(users)) if limit is None else generator.permutation(len(users))
    return _windows(corpus, windows, np.ones_like(windows.lengths), order=rows[:limit])
