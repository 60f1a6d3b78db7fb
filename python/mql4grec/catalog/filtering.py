"""Which events stay, and in which order: k-core, short users, time."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

MIN_EVENTS = 3  # of a user: something to learn from, a validation target, a test target
N_TARGETS = 2  # of these three
COLD_STREAM = 1  # sets the draw of cold items apart from what else the seed is for


def k_core(
    users: NDArray[np.int64], items: NDArray[np.int64], *, user_min: int, item_min: int
) -> NDArray[np.bool_]:
    """Find the largest set of events in which all users and items have enough events.

    Dropping a user takes events from items and the other way round, so it is repeated until
    nothing changes. The result does not depend on the order of the steps.

    Args:
        users: Numbers from 0, int64 (E,).
        items: Likewise, int64 (E,).
        user_min: Fewest events of a user.
        item_min: Fewest events of an item.

    Returns:
        Which events stay, bool (E,).
    """
    rows = np.arange(len(users))
    while True:
        many_users = np.bincount(users[rows], minlength=1) >= user_min
        many_items = np.bincount(items[rows], minlength=1) >= item_min
        left = rows[many_users[users[rows]] & many_items[items[rows]]]
        if len(left) == len(rows):
            break
        rows = left
    kept = np.zeros(len(users), dtype=np.bool_)
    kept[rows] = True
    return kept


def draw_items(events: pl.DataFrame, share: float, *, seed: int) -> pl.Series:
    """Draw a share of the items that have events, rounded to whole items."""
    items = events["item"].unique(maintain_order=True)
    generator = np.random.default_rng([seed, COLD_STREAM])
    return items.gather(np.sort(generator.permutation(len(items))[: round(share * len(items))]))


def hide(events: pl.DataFrame, items: pl.Series) -> pl.DataFrame:
    """Leave out the events of some items, but for users' last two: what training does not know.

    Users who keep fewer than `MIN_EVENTS` events go.

    Args:
        events: In the order of the file; with "time" unless that is the order in time.
        items: Keys of the items.

    Source:
        The cold-start experiment of TIGER (Rajput and others, NeurIPS 2023), which leaves 5 % of
        the test items out of the training split; here they are drawn from all items with events.
    """
    users = number(events["user"], events["user"].unique(maintain_order=True))
    order = in_time_order(events, users)
    ends = np.cumsum(np.bincount(users, minlength=1))[users]  # (E,), where each user's events end
    before_end = np.empty(len(events), dtype=np.int64)  # 1: the last
    before_end[order] = ends[order] - np.arange(len(events))
    known = ~events["item"].is_in(items.implode()) | pl.Series(before_end <= N_TARGETS)
    return events.filter(known).filter(pl.len().over("user") >= MIN_EVENTS)


def number(values: pl.Series, keys: pl.Series) -> NDArray[np.int64]:
    """Give every value's place in `keys`, which are all different: int64 (E,)."""
    table = pl.DataFrame({"key": keys, "number": pl.int_range(len(keys), eager=True)})
    places = values.to_frame("key").join(table, on="key", how="left", maintain_order="left")
    return places["number"].to_numpy()


def in_time_order(events: pl.DataFrame, users: NDArray[np.int64]) -> NDArray[np.int64]:
    """Order events by user, then time, then their order in the file.

    Args:
        events: In the order of the file; with "time" unless that is the order in time.
        users: Number of each event's user, int64 (E,).

    Returns:
        Places in `events`, int64 (E,).
    """
    times = events["time"].to_numpy() if "time" in events.columns else np.arange(len(events))
    return np.lexsort((times, users))
