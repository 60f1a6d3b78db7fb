"""Which items users get: what rankers that score a whole catalog go by, beside a slow twin."""

import numpy as np
import pytest

from mql4grec.catalog import Histories
from mql4grec.decoding import Filters


def slow_closed(filters: Filters, user: int, item: int) -> bool:
    if filters.masks is not None:
        mask = filters.masks[0 if filters.mask_of is None else filters.mask_of[user]]
        if not mask[item]:
            return True
    if filters.only is not None and item not in filters.only.of(user):
        return True
    return filters.without is not None and item in filters.without.of(user)


@pytest.mark.parametrize("seed", range(8))
def test_closed_items_equal_a_slow_twin(seed: int) -> None:
    generator = np.random.default_rng(seed)
    n_users, n_items = 9, 12

    def lists() -> Histories:
        sizes = generator.integers(0, 8, n_users)
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        items = generator.integers(0, n_items, offsets[-1]).astype(np.int32)
        return Histories(offsets, items)

    filters = Filters(
        masks=generator.random((1 + seed % 3, n_items)) < 0.7 if seed % 2 else None,
        mask_of=generator.integers(0, 1 + seed % 3, n_users) if seed % 2 else None,
        only=lists() if seed & 2 else None,
        without=lists() if seed & 4 else None,
    )
    filters.check(n_users=n_users, n_items=n_items)
    items = np.flatnonzero(generator.random(n_items) < 0.7).astype(np.int32)
    closed = filters.closed(2, 7, items=items)
    expected = [[slow_closed(filters, user, item) for item in items] for user in range(2, 7)]
    assert closed.tolist() == expected
