"""The figures again: codes count, not items; and users apart by how often their target was seen.

Papers count a hit when the semantic ID that a model writes is the target's, so that an item which
shares its codes with the target counts as well. Here every item has codes of its own, so what is
shared is told by the codes before repair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mql4grec.config import MODALITIES, Modality
from mql4grec.decoding import Rankings
from mql4grec.evaluation.figures import METRICS, gains
from mql4grec.evaluation.lists import without

EVENT_GROUPS = {"0": (0, 0), "1-5": (1, 5), "6+": (6, np.inf)}  # events of training, both included
GROUP_METRICS = ("HR@10", "NDCG@10")


@dataclass(frozen=True)
class Items:
    """What is known of the items that rankings choose from.

    Attributes:
        n_events: Events of each item in training histories, those held out left out, int64 (N,).
        codes: By modality, a number for each item's codes before repair, int32 (N,), as
            `number_codes` gives it; may be empty.
    """

    n_events: NDArray[np.int64]
    codes: Mapping[Modality, NDArray[np.int32]] = field(default_factory=dict)


def number_codes(codes: NDArray[np.uint16], present: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number the codes of items, so that two have the same number if they share all codes.

    Args:
        codes: uint16 (N, L), possibly shared.
        present: bool (N,), False for an item without codes, which shares with nobody.

    Returns:
        int32 (N,).
    """
    numbers = np.arange(len(codes), dtype=np.int32)
    _, first, group = np.unique(codes[present], axis=0, return_index=True, return_inverse=True)
    numbers[present] = np.flatnonzero(present)[first][group.reshape(-1)]
    return numbers


def merge_twins(rankings: Rankings, numbers: NDArray[np.int32]) -> Rankings:
    """Put codes for items: each at the best place that an item of it has; what follows moves up.

    Args:
        rankings: Items (U, M).
        numbers: int32 (N,), from `number_codes`.

    Returns:
        Numbers of codes (U, M), padded at the end by -1.
    """
    codes = np.where(rankings.items < 0, np.int32(-1), numbers[rankings.items])  # (U, M)
    order = np.argsort(codes, axis=1, kind="stable")
    ascending = np.take_along_axis(codes, order, axis=1)
    again = np.zeros(codes.shape, bool)
    np.put_along_axis(again, order[:, 1:], ascending[:, 1:] == ascending[:, :-1], axis=1)
    merged = Rankings(items=codes, scores=rankings.scores)
    return without(merged, again | (codes < 0))


def twin_level(
    rankings: Mapping[str, Rankings], targets: NDArray[np.int32], items: Items
) -> dict[str, Any]:
    """Count a hit where an item has the target's codes before repair; a rank counts codes.

    "text" and "image" go by their own codes, all others by those of the texts, or where there are
    none by those of the images.

    Returns:
        "codes" (modality by ranking), "n_users" (by modality, those whose target shares its codes),
        "rankings" (metrics by name).

    Source:
        The metrics of the authors' code, which compares code strings; its ensemble of both lists
        names items by the index of the texts.
    """
    main = next(modality for modality in MODALITIES if modality in items.codes)
    used: dict[str, Modality] = {
        name: next((m for m in MODALITIES if m == name and m in items.codes), main)
        for name in rankings
    }
    figures = {}
    for name, modality in used.items():
        numbers = items.codes[modality]
        own = gains(merge_twins(rankings[name], numbers), numbers[targets]).mean(axis=0)
        figures[name] = dict(zip(METRICS, own.tolist(), strict=True))
    n_users = {}
    for modality, numbers in items.codes.items():
        n_items = np.bincount(numbers)  # of each number
        n_users[modality] = int(np.count_nonzero(n_items[numbers[targets]] > 1))
    return {"codes": used, "n_users": n_users, "rankings": figures}


def by_training_events(
    rankings: Mapping[str, Rankings], targets: NDArray[np.int32], items: Items
) -> dict[str, Any]:
    """Average over users whose target has 0, 1 to 5, or more events in training histories.

    Returns:
        "n_users" (by group), "rankings" (by name and group: HR@10 and NDCG@10, None for a group of
        nobody).
    """
    seen = items.n_events[targets]
    groups = {key: (seen >= low) & (seen <= high) for key, (low, high) in EVENT_GROUPS.items()}
    columns = [METRICS.index(metric) for metric in GROUP_METRICS]
    figures: dict[str, Any] = {}
    for name, ranking in rankings.items():
        values = gains(ranking, targets)[:, columns]
        figures[name] = {
            key: dict(zip(GROUP_METRICS, values[users].mean(axis=0).tolist(), strict=True))
            if users.any()
            else dict.fromkeys(GROUP_METRICS)
            for key, users in groups.items()
        }
    n_users = {key: int(users.sum()) for key, users in groups.items()}
    return {"n_users": n_users, "rankings": figures}
