"""Samples as places in one array of tokens, from which a GPU makes batches by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mql4grec.config import Modality, Task
from mql4grec.language.corpus import MODALITIES, Corpus, Source
from mql4grec.language.samples import DIRECTIONS, ITEM_TASKS, Samples


@dataclass(frozen=True)
class Stream:
    """All tokens of a corpus that samples read or answer.

    Attributes:
        tokens: int32 (N,): prompts, then histories by what is read of them, then all items by
            modality.
        prompts: Where each task's prompt begins.
        histories: Where the histories begin.
        items: Where the items' codes begin.
    """

    tokens: NDArray[np.int32]
    prompts: dict[Task, int]
    histories: dict[Source, int]
    items: dict[Modality, int]


def make_stream(corpus: Corpus, tasks: Sequence[Task]) -> Stream:
    """Gather what tasks read and answer."""
    prompts = {task: corpus.vocabulary.prompts.get(task, ()) for task in tasks}
    sources = sorted({s for task in tasks if task not in ITEM_TASKS for s, _ in DIRECTIONS[task]})
    parts = [np.array(prompt, np.int32) for prompt in prompts.values()]
    parts += [corpus.view(source).tokens for source in sources]
    parts += [corpus.tokens[modality].ravel() for modality in MODALITIES]
    begins = iter(np.cumsum([0, *map(len, parts)]).tolist())
    return Stream(
        tokens=np.concatenate(parts),
        prompts={task: next(begins) for task in prompts},
        histories={source: next(begins) for source in sources},
        items={modality: next(begins) for modality in MODALITIES},
    )


def most_tokens(corpus: Corpus, tasks: Sequence[Task]) -> tuple[int, int]:
    """Give how many tokens an input and a target of tasks can have at most, whatever is drawn."""
    n_items = int(corpus.histories.lengths().max(initial=0)) - 1
    n_items = max(min(n_items, corpus.max_his_len), 1)
    prompts = corpus.vocabulary.prompts
    widths: dict[Source, int] = {m: corpus.tokens[m].shape[1] for m in MODALITIES}
    widths["both"] = sum(
        widths[m] + len(prompts.get(f"fgfusionseqrec.{m}", ())) for m in MODALITIES
    )
    read, written = 0, 0
    for task in tasks:
        for source, target in DIRECTIONS[task]:
            n = widths[source] * (1 if task in ITEM_TASKS else n_items)
            read = max(read, len(prompts.get(task, ())) + n + 1)
            written = max(written, widths[target] + 1)
    return read, written


def find_spans(corpus: Corpus, samples: Samples, stream: Stream) -> NDArray[np.int64]:
    """Find the tokens of samples in the stream.

    Returns:
        int64 (S, 6): where prompt, what is read and what is answered begin, each followed by how
        many tokens it has.
    """
    spans = np.zeros((len(samples), 6), np.int64)
    for task, source, target, rows in samples.kinds():
        events, items = samples.target[rows], samples.target[rows]
        if task in ITEM_TASKS:
            assert source != "both"
            n_read = np.full(len(rows), corpus.tokens[source].shape[1])
            read = stream.items[source] + items * n_read
        else:
            items = corpus.histories.items[events].astype(np.int64)
            view = corpus.view(source)
            last = view.kept[events]
            begin = view.starts[last - samples.length[rows]]
            read, n_read = stream.histories[source] + begin, view.starts[last] - begin
        n_codes = corpus.tokens[target].shape[1]
        spans[rows, 0] = stream.prompts[task]
        spans[rows, 1] = len(corpus.vocabulary.prompts.get(task, ()))
        spans[rows, 2], spans[rows, 3] = read, n_read
        spans[rows, 4], spans[rows, 5] = stream.items[target] + items * n_codes, n_codes
    return spans
