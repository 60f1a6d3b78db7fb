"""Slow twins of the catalog's algorithms, in plain Python."""

from collections import Counter

Event = tuple[str, str]
Timed = tuple[str, str, int]


def k_core(events: list[Event], *, user_min: int, item_min: int) -> list[Event]:
    """Drop one user or item at a time until none is left to drop."""
    while True:
        users = Counter(user for user, _ in events)
        items = Counter(item for _, item in events)
        few_users = [user for user, n in users.items() if n < user_min]
        few_items = [item for item, n in items.items() if n < item_min]
        if few_users:
            events = [event for event in events if event[0] != few_users[0]]
        elif few_items:
            events = [event for event in events if event[1] != few_items[0]]
        else:
            return events


def hide(events: list[Timed], items: set[str]) -> list[Timed]:
    """Go through one user's events after the other, oldest first; the events that stay."""
    kept: list[Timed] = []
    for user in dict.fromkeys(user for user, *_ in events):
        own = sorted((event for event in events if event[0] == user), key=lambda event: event[2])
        left = [event for event in own[:-2] if event[1] not in items] + own[-2:]
        kept += left if len(left) >= 3 else []
    return kept
