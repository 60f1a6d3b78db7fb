"""What item-to-item models say of candidates: of every one, not only of those on their lists.

The score of such a model is a sum of what each event of the history adds to the item. So it is
known for any item at the price of a few look-ups, and so is which events it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mql4grec.baselines import ItemToItem
from mql4grec.catalog import Histories

CONTRIBUTIONS = ("score", "score behind best", "largest part", "part of last item")


@dataclass(frozen=True)
class Candidates:
    """Items that are looked at for some users.

    Attributes:
        items: int32 (R,).
        users: int64 (R,), whose candidates they are.
        inputs: Histories of the users.
    """

    items: NDArray[np.int32]
    users: NDArray[np.int64]
    inputs: Histories


def contributions(
    candidates: Candidates, models: Mapping[str, ItemToItem]
) -> list[NDArray[np.float32]]:
    """Describe candidates by what each model says of them.

    Args:
        candidates: R of them.
        models: Fitted on training histories, by name.

    Returns:
        (R,) for each model and each of CONTRIBUTIONS: its score, decay included; the score less
        that of the user's best candidate; the most that one event adds, without decay, and at least
        0; what the last event adds. All are 0 where the history is empty.
    """
    columns: list[NDArray[np.float32]] = []
    for model in models.values():
        score, largest, last = _add_up(candidates, model)
        best = np.full(candidates.inputs.n_users, -np.inf, np.float32)
        np.maximum.at(best, candidates.users, score)
        columns += [score, score - best[candidates.users], largest, last]
    return columns


def contribution_names(models: tuple[str, ...]) -> list[str]:
    """Name what `contributions` gives for models of these names."""
    return [f"{name} {what}" for name in models for what in CONTRIBUTIONS]


def _add_up(candidates: Candidates, model: ItemToItem) -> tuple[NDArray[np.float32], ...]:
    """Give scores, largest parts and those of the last events, (R,) each, from the last event on.

    One event of every history at a time, so that memory does not grow with their length.
    """
    inputs, users, items = candidates.inputs, candidates.users, candidates.items
    lengths, ends = inputs.lengths()[users], inputs.offsets[1:][users]  # (R,)
    score, largest, last = np.zeros((3, len(items)), np.float32)
    for age in range(int(lengths.max(initial=0))):
        rows = np.flatnonzero(lengths > age)
        part = model.added(inputs.items[ends[rows] - 1 - age], items[rows])
        score[rows] += np.float32(model.decay**age) * part
        largest[rows] = np.maximum(largest[rows], part)
        if age == 0:
            last[rows] = part
    return score, largest, last
