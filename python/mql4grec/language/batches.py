"""Samples as padded arrays of token ids.

An input is `soft prompt, codes of the items oldest first, </s>`; a target `L codes, </s>`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mql4grec.catalog import Histories
from mql4grec.config import Modality, Task
from mql4grec.language.corpus import Corpus, View, read_events
from mql4grec.language.samples import DIRECTIONS, ITEM_TASKS, Samples

IGNORED = -100  # label of a position that does not count, as torch's cross entropy has it


@dataclass(frozen=True)
class Batch:
    """B samples for T5.

    Attributes:
        input_ids: int64 (B, T), padded on the right to the longest.
        attention_mask: int64 (B, T), 1 on tokens, 0 on padding.
        labels: int64 (B, L+1), target codes and end; `IGNORED` after a target with fewer levels.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    labels: NDArray[np.int64]


def encode(corpus: Corpus, samples: Samples, rows: NDArray[np.int64]) -> Batch:
    """Make a batch of the samples in `rows`, which may be of different tasks.

    Args:
        corpus: That the samples are of.
        samples: S samples.
        rows: int64 (B,), which of them, in this order.
    """
    part = samples.take(rows)
    lengths = input_lengths(corpus, part)
    input_ids, attention_mask = _blank_inputs(corpus, lengths)
    width = int(target_lengths(corpus, part).max(initial=0))
    labels = np.full((len(part), width), IGNORED, dtype=np.int64)
    for task, source, target, chosen in part.kinds():
        items: NDArray[np.integer]
        prompt = corpus.vocabulary.prompts.get(task, ())
        input_ids[chosen, : len(prompt)] = prompt
        events = part.target[chosen]
        if task in ITEM_TASKS:
            items = events
            assert source != "both"
            codes = corpus.tokens[source][items]
            input_ids[chosen, len(prompt) : len(prompt) + codes.shape[1]] = codes
        else:
            items = corpus.histories.items[events]
            view = corpus.view(source)
            begin, end = _slices(view, view.kept[events], part.length[chosen])
            _write(input_ids, view.tokens, rows=chosen, column=len(prompt), begin=begin, end=end)
        codes = corpus.tokens[target][items]
        labels[chosen, : codes.shape[1]] = codes
        labels[chosen, codes.shape[1]] = corpus.vocabulary.eos
    return Batch(input_ids, attention_mask, labels)


def encode_histories(
    corpus: Corpus,
    histories: Histories,
    *,
    task: Task,
    users: NDArray[np.int64],
    target: Modality | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Make the inputs from which a task recommends a next item.

    Args:
        corpus: Gives the codes of the items; its own histories are not read.
        histories: What is known of each user, such as all events but the last.
        task: One that reads a history.
        users: int64 (B,), rows of `histories`.
        target: Modality of the answer; needed by "fusionseqrec" only, which reads the other one.

    Returns:
        `input_ids` and `attention_mask`, int64 (B, T). A user with nothing to read gets the prompt
        and the end only.

    Raises:
        ValueError: If the task reads no history, or does not answer in `target`.
    """
    sources = {source for source, answer in DIRECTIONS[task] if target in (None, answer)}
    if task in ITEM_TASKS or len(sources) != 1:
        raise ValueError(
            f"`task`: expected one that reads a history and answers in one modality, got {task!r} "
            f"with target {target!r}; 'fusionseqrec' needs a target, item tasks have no history"
        )
    starts, stops = histories.offsets[users], histories.offsets[np.asarray(users) + 1]
    counts = stops - starts
    events = np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    view = read_events(corpus, histories.items[events], source=sources.pop())
    last = view.kept[np.cumsum(counts)]
    length = np.minimum(last - view.kept[np.cumsum(counts) - counts], corpus.max_his_len)
    begin, end = _slices(view, last, length)
    prompt = corpus.vocabulary.prompts.get(task, ())
    input_ids, attention_mask = _blank_inputs(corpus, len(prompt) + end - begin + 1)
    input_ids[:, : len(prompt)] = prompt
    rows = np.arange(len(counts))
    _write(input_ids, view.tokens, rows=rows, column=len(prompt), begin=begin, end=end)
    return input_ids, attention_mask


def input_lengths(corpus: Corpus, samples: Samples) -> NDArray[np.int64]:
    """Count the tokens of every sample's input, without making it; int64 (S,)."""
    lengths = np.ones(len(samples), dtype=np.int64)  # the end
    for task, source, _, rows in samples.kinds():
        lengths[rows] += len(corpus.vocabulary.prompts.get(task, ()))
        if task in ITEM_TASKS:
            assert source != "both"
            lengths[rows] += corpus.tokens[source].shape[1]
        else:
            view = corpus.view(source)
            begin, end = _slices(view, view.kept[samples.target[rows]], samples.length[rows])
            lengths[rows] += end - begin
    return lengths


def target_lengths(corpus: Corpus, samples: Samples) -> NDArray[np.int64]:
    """Count the tokens of every sample's target, the end included; int64 (S,)."""
    lengths = np.ones(len(samples), dtype=np.int64)
    for _, _, target, rows in samples.kinds():
        lengths[rows] += corpus.tokens[target].shape[1]
    return lengths


def _blank_inputs(
    corpus: Corpus, lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give `input_ids` with nothing but the end of each row, and the mask of all its tokens."""
    width = int(lengths.max(initial=0))
    input_ids = np.full((len(lengths), width), corpus.vocabulary.pad, dtype=np.int64)
    input_ids[np.arange(len(lengths)), lengths - 1] = corpus.vocabulary.eos
    return input_ids, (np.arange(width) < lengths[:, None]).astype(np.int64)


def _slices(
    view: View, last: NDArray[np.int64], length: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give where the `length` kept events before kept event `last` begin and end in the stream."""
    return view.starts[last - length], view.starts[last]


def _write(
    input_ids: NDArray[np.int64],
    tokens: NDArray[np.int32],
    *,
    rows: NDArray[np.int64],
    column: int,
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
) -> None:
    """Copy `tokens[begin:end]` of each row into `input_ids` from `column` on."""
    counts = end - begin
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    input_ids[np.repeat(rows, counts), column + within] = tokens[np.repeat(begin, counts) + within]
