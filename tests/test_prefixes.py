"""Items whose codes begin alike, against sets of tuples."""

import numpy as np

from mql4grec import codes
from mql4grec.codes import SemanticIds


def ids_of(*, n_items: int, n_codes: tuple[int, ...], seed: int) -> SemanticIds:
    generator = np.random.default_rng(seed)
    drawn = np.stack([generator.integers(0, n, n_items) for n in n_codes], axis=1)
    present = generator.random(n_items) < 0.8
    drawn[~present] = 0
    return SemanticIds("shop", "text", drawn.astype(np.uint16), n_codes, present)


def slow(ids: SemanticIds) -> list[list[int]]:
    """List the items of every prefix that several have."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for item in np.flatnonzero(ids.present).tolist():
        for length in range(1, ids.n_levels):
            groups.setdefault(tuple(ids.codes[item, :length].tolist()), []).append(item)
    return [items for items in groups.values() if len(items) > 1]


def test_groups_are_the_items_of_every_prefix_that_several_have() -> None:
    text = ids_of(n_items=40, n_codes=(3, 4, 5, 2), seed=1)
    image = ids_of(n_items=40, n_codes=(2, 9, 2), seed=2)
    expected = [*slow(text), *slow(image)]
    found = codes.group_by_prefix([text, image])
    assert found.dtype == np.float32
    assert found.shape == (len(expected), 40)
    assert set(found.data.tolist()) == {1.0}
    rows = [np.flatnonzero(row).tolist() for row in found.toarray()]
    assert sorted(rows) == sorted(expected)


def test_items_that_begin_alike_in_nothing_are_in_no_group() -> None:
    rows = np.array([[0, 1], [1, 1], [2, 1]], np.uint16)
    ids = SemanticIds("shop", "text", rows, (3, 2), np.ones(3, np.bool_))
    assert codes.group_by_prefix([ids]).shape == (0, 3)


def test_prefixes_have_equal_numbers_if_they_are_equal() -> None:
    ids = ids_of(n_items=60, n_codes=(3, 4, 5), seed=3)
    for level, numbers in enumerate(codes.number_prefixes(ids.codes, n_codes=ids.n_codes)):
        prefixes = [tuple(row) for row in ids.codes[:, : level + 1].tolist()]
        pairs = set(zip(prefixes, numbers.tolist(), strict=True))
        assert len(pairs) == len(set(prefixes)) == len(set(numbers.tolist()))
