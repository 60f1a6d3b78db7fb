"""Items as words of all modalities at once, for a model that reads whole histories.

The word of an item is `text codes, picture codes`, W tokens; padding stands where it has none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mql4grec.catalog import Histories
from mql4grec.language.corpus import MODALITIES, Corpus
from mql4grec.language.windows import last_windows


def spell_items(corpus: Corpus) -> NDArray[np.int64]:
    """Give the word of every item, int64 (N, W), with a row of padding after the last."""
    words = np.hstack([corpus.tokens[modality] for modality in MODALITIES])
    return np.pad(words, ((0, 1), (0, 0)), constant_values=corpus.vocabulary.pad).astype(np.int64)


def count_codes(corpus: Corpus) -> NDArray[np.int64]:
    """Count the codes of every item in all modalities, int64 (N,)."""
    counts = np.zeros(corpus.n_items, np.int64)
    for modality in MODALITIES:
        counts += corpus.tokens[modality].shape[1] * corpus.present[modality]
    return counts


def encode_items(
    corpus: Corpus, histories: Histories
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Make the inputs from which a model that reads words recommends a next item.

    Args:
        corpus: Gives the codes of the items; its own histories are not read.
        histories: Of U users.

    Returns:
        `input_ids` and `attention_mask`, int64 (U, n * W): the words of the last `max_his_len`
        items side by side; the mask has ones on all of an item, padding within it included.
    """
    windows = last_windows(histories, max_his_len=corpus.max_his_len)
    items, lengths = windows.rows(np.arange(histories.n_users))
    inside = np.arange(items.shape[1]) < lengths[:, None]
    words = spell_items(corpus)[np.where(inside, items, -1)]  # (U, n, W)
    mask = np.repeat(inside, words.shape[2], axis=1).astype(np.int64)
    return words.reshape(len(words), -1), mask
