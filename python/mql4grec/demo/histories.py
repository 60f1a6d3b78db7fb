"""The demo shop's users: what each buys, one thing after the other, with a taste that drifts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mql4grec.demo.items import FAMILIES, Collection, Item

# What a user does next; the rest of the probability is a popular item from anywhere.
STAY = 0.66  # another item of the present collection
DRIFT = 0.14  # move on to a related collection
RETURN = 0.10  # back to a collection visited before
FOLLOWS = 6.0  # how much likelier the category that comes next in its family is
SHORTEST, LONGEST = 6, 15  # events of a user
START = 1_704_067_200  # 2024-01-01, UTC, in seconds
HOUR = 3600


@dataclass(frozen=True)
class Shelves:
    """The items as arrays, for drawing.

    Attributes:
        popularity: float64 (N), mildly skewed.
        collection: int64 (N).
        place: int64 (N), of the category in its family's order, 0 to 3.
        neighbours: Related collections of each collection.
    """

    popularity: NDArray[np.float64]
    collection: NDArray[np.int64]
    place: NDArray[np.int64]
    neighbours: list[list[int]]


def make_events(
    items: list[Item],
    collections: list[Collection],
    *,
    n_users: int,
    generator: np.random.Generator,
) -> list[tuple[str, str, int]]:
    """Draw all users' events.

    Returns:
        (user_id, item_id, timestamp in seconds), ordered by time, then user.
    """
    shelves = _fill_shelves(items, collections, generator=generator)
    width = max(4, len(str(n_users)))
    events = []
    for user in range(n_users):
        rows = _draw_history(shelves, generator=generator)
        gaps = generator.integers(HOUR, 20 * 24 * HOUR, size=len(rows))
        times = START + generator.integers(180 * 24 * HOUR) + np.cumsum(gaps)
        events += [
            (f"user-{user:0{width}d}", items[row].item_id, int(time))
            for row, time in zip(rows, times, strict=True)
        ]
    return sorted(events, key=lambda event: (event[2], event[0]))


def _fill_shelves(
    items: list[Item], collections: list[Collection], *, generator: np.random.Generator
) -> Shelves:
    return Shelves(
        popularity=generator.lognormal(0.0, 0.5, size=len(items)),
        collection=np.array([item.collection for item in items]),
        place=np.array(
            [FAMILIES[collections[i.collection].family].index(i.category) for i in items]
        ),
        neighbours=[_related(row, collections) for row in range(len(collections))],
    )


def _related(row: int, collections: list[Collection]) -> list[int]:
    """Find where taste moves on to: the same maker (told by texts) or look (told by pictures)."""
    own = collections[row]
    others = [place for place in range(len(collections)) if place != row]
    by_maker = [place for place in others if collections[place].brand == own.brand]
    by_look = [
        place
        for place in others
        if collections[place].pattern == own.pattern
        or collections[place].colours[0] == own.colours[0]
    ]
    return (by_maker[:2] + by_look[:2]) or others[:1] or [row]


def _draw_history(shelves: Shelves, *, generator: np.random.Generator) -> list[int]:
    n_items = len(shelves.popularity)
    free = shelves.popularity.copy()  # (N), 0 once taken: nobody buys the same thing twice
    taste = int(shelves.collection[_draw(free, generator)])
    tastes, place, rows = [taste], int(generator.integers(4)), []
    for _ in range(min(int(generator.integers(SHORTEST, LONGEST + 1)), n_items)):
        kind = generator.random()
        if STAY <= kind < STAY + DRIFT:
            taste = int(generator.choice(shelves.neighbours[taste]))
        elif STAY + DRIFT <= kind < STAY + DRIFT + RETURN:
            taste = int(generator.choice(tastes))
        tastes.append(taste)
        weights = free * (shelves.collection == taste)
        weights = weights * np.where(shelves.place == (place + 1) % 4, FOLLOWS, 1.0)
        if kind >= STAY + DRIFT + RETURN or not weights.any():
            weights = free**2  # a popular item, whatever the taste
        row = _draw(weights, generator)
        place = int(shelves.place[row])
        free[row] = 0.0
        rows.append(row)
    return rows


def _draw(weights: NDArray[np.float64], generator: np.random.Generator) -> int:
    total = np.cumsum(weights)
    return int(np.searchsorted(total, generator.random() * total[-1], side="right"))
