"""Every fault of events and items, refused and dropped; k-core; order."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mql4grec.catalog import Catalog, prepare
from mql4grec.catalog.faults import parse_times
from mql4grec.catalog.filtering import k_core
from mql4grec.config import CatalogSettings, DatasetSettings
from mql4grec.errors import DataError
from reference_catalog import k_core as slow_k_core

ITEMS = ["item_id,title", "a,A", "b,B", "c,C", "d,D"]
GOOD = ["u1,a,1", "u1,b,2", "u1,c,3", "u2,a,1", "u2,b,2", "u2,c,3"]
Shop = Callable[..., tuple[Catalog, dict[str, Any]]]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Prepare a shop of CSV lines; gives the catalog and the counts."""
    monkeypatch.chdir(tmp_path)

    def make(
        events: list[str], items: list[str] | None = ITEMS, *, k: int = 0, **policies: str
    ) -> tuple[Catalog, dict[str, Any]]:
        Path("events.csv").write_text("\n".join(["user_id,item_id,timestamp", *events]) + "\n")
        if items is not None:
            Path("items.csv").write_text("\n".join(items) + "\n")
        dataset = DatasetSettings(
            name="shop",
            interactions=Path("events.csv"),
            items=None if items is None else Path("items.csv"),
        )
        settings = CatalogSettings.model_validate({"datasets": [dataset], "k_core": k, **policies})
        catalog = prepare(dataset, settings, folder=Path("out"), seed=0)
        return catalog, json.loads(Path("out/counts.json").read_text())

    return make


def named_histories(catalog: Catalog) -> dict[str, list[str]]:
    return {
        user: [catalog.item_ids[item] for item in catalog.histories.of(row)]
        for row, user in enumerate(catalog.user_ids)
    }


ABC = ["a", "b", "c"]
FAULTS = {
    "missing user": (
        [*GOOD[:1], ",b,7", *GOOD[1:]],
        "missing_values",
        "`events.csv`, data row 2, column `user_id`: expected a value, got None; "
        'correct it or set `catalog.missing_values` to "drop"',
    ),
    "missing item, twice": (
        [*GOOD, "u2,,7", "u2, ,8"],
        "missing_values",
        "`events.csv`, data row 7, column `item_id`: expected a value, got None (and 1 more); "
        'correct it or set `catalog.missing_values` to "drop"',
    ),
    "missing time": (
        [*GOOD, "u2,d,"],
        "missing_values",
        "`events.csv`, data row 7, column `timestamp`: expected a value, got None; "
        'correct it or set `catalog.missing_values` to "drop"',
    ),
    "bad timestamp": (
        [*GOOD, "u2,d,soon"],
        "bad_timestamps",
        "`events.csv`, data row 7, column `timestamp`: expected a number or an ISO date, "
        "got 'soon'; correct it or set `catalog.bad_timestamps` to \"drop\"",
    ),
    "infinite timestamp": (
        [*GOOD, "u2,d,inf"],
        "bad_timestamps",
        "`events.csv`, data row 7, column `timestamp`: expected a number or an ISO date, "
        "got 'inf'; correct it or set `catalog.bad_timestamps` to \"drop\"",
    ),
    "duplicate row": (
        [*GOOD, "u2,c,3"],
        "duplicate_rows",
        "`events.csv`, data row 7: expected each user, item and time once, got ('u2', 'c', 3); "
        'correct it or set `catalog.duplicate_rows` to "drop"',
    ),
    "unknown item": (
        [*GOOD, "u2,x,4"],
        "unknown_items",
        "`events.csv`, data row 7, column `item_id`: expected an item of `items.csv`, got 'x'; "
        'correct it or set `catalog.unknown_items` to "drop"',
    ),
    "short user": (
        ["u0,a,1", "u0,b,1", *GOOD],
        "short_users",
        "`events.csv`, data row 1, column `user_id`: expected a user with at least 3 events, "
        "got 'u0'; correct it or set `catalog.short_users` to \"drop\"",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_refused(shop: Shop, name: str) -> None:
    events, policy, message = FAULTS[name]
    with pytest.raises(DataError) as refusal:
        shop(events, **{policy: "error"})
    assert str(refusal.value) == message


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_dropped_with_a_count(shop: Shop, name: str) -> None:
    events, policy, message = FAULTS[name]
    catalog, counts = shop(events)
    assert named_histories(catalog) == {"u1": ABC, "u2": ABC}
    assert {k: n for k, n in counts["faults"].items() if n} == {policy: 1 + ("1 more" in message)}


ITEM_FAULTS = {
    "no id": (
        [*ITEMS, ",E"],
        "missing_values",
        "items_without_id",
        "`items.csv`, data row 5, column `item_id`: expected the item's id, got None; "
        'correct it or set `catalog.missing_values` to "drop"',
    ),
    "again": (
        [*ITEMS, "a,Z"],
        "duplicate_rows",
        "duplicate_items",
        "`items.csv`, data row 5, column `item_id`: expected each item once, got 'a'; "
        'correct it or set `catalog.duplicate_rows` to "drop"',
    ),
}


@pytest.mark.parametrize("name", ITEM_FAULTS)
def test_a_faulty_item_is_refused_or_dropped(shop: Shop, name: str) -> None:
    items, policy, count, message = ITEM_FAULTS[name]
    with pytest.raises(DataError) as refusal:
        shop(GOOD, items, **{policy: "error"})
    assert str(refusal.value) == message
    catalog, counts = shop(GOOD, items)
    assert catalog.titles == ("A", "B", "C", "D")
    assert counts["faults"][count] == 1


def test_counts_tell_what_was_read_and_kept(shop: Shop) -> None:
    _, counts = shop([*GOOD, "u3,d,1", "u3,d,1"], k=2)
    assert counts == {
        "rows_read": 8,
        "items_read": 4,
        "faults": {
            "missing_values": 0,
            "bad_timestamps": 0,
            "duplicate_rows": 1,
            "unknown_items": 0,
            "items_without_id": 0,
            "duplicate_items": 0,
            "short_users": 0,
        },
        "before_k_core": {"users": 3, "items": 4, "events": 7},
        "after_k_core": {"users": 2, "items": 3, "events": 6},
        "items": 3,
        "items_without_text": 0,
        "items_without_picture": 3,
        "pictures_outside": 0,
    }


def test_items_without_events_stay_without_k_core(shop: Shop) -> None:
    assert shop(GOOD)[0].item_ids == ("a", "b", "c", "d")
    assert shop(GOOD, k=1)[0].item_ids == ("a", "b", "c")


def test_dropping_short_users_keeps_the_core(shop: Shop) -> None:
    # without u0, item d has one event; without d, u1 is as short as u0
    events = ["u0,d,1", "u0,a,2", "u1,d,1", "u1,a,2", "u1,b,3", *(f"u2,{i},1" for i in "abc"),
              *(f"u3,{i},1" for i in "abc")]  # fmt: skip
    catalog, counts = shop(events, k=2)
    assert named_histories(catalog) == {"u2": ABC, "u3": ABC}
    assert counts["faults"]["short_users"] == 2


def test_nothing_left_is_refused(shop: Shop) -> None:
    with pytest.raises(DataError) as refusal:
        shop([*GOOD, "u1,x,9"], k=5)
    assert str(refusal.value) == (
        "`events.csv`: expected histories, got none: 7 rows read, dropped: unknown_items 1, "
        "6 events before the 5-core and the users with fewer than 3 events; "
        "check the columns or lower `catalog.k_core`"
    )
    with pytest.raises(DataError, match="got none: 0 rows read, dropped: none"):
        shop([])


def test_rows_keep_the_order_of_the_files(shop: Shop) -> None:
    events = ["u2,c,30", "u1,b,5", "u2,a,10", "u1,a,5", "u2,b,20", "u1,c,-1.5"]
    expected = {"u2": ["a", "b", "c"], "u1": ["c", "b", "a"]}  # ties: as in the file
    with_table, _ = shop(events)
    assert with_table.item_ids == ("a", "b", "c", "d")
    assert with_table.user_ids == ("u2", "u1")
    assert named_histories(with_table) == expected
    without_table, _ = shop(events, None)
    assert without_table.item_ids == ("c", "b", "a")
    assert named_histories(without_table) == expected


def test_ids_lose_surrounding_spaces(shop: Shop) -> None:
    catalog, _ = shop([" u1 ,a,1", "u1, b,2", "u1,c ,3"])
    assert named_histories(catalog) == {"u1": ABC}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", " 2", "x"], [1, 2, None]),
        (["1.5", "2", "1e3"], [1.5, 2.0, 1000.0]),
        (
            ["1700000000000000001", "1700000000000000002"],
            [1700000000000000001, 1700000000000000002],
        ),
        (["nan", "1"], [None, 1]),
        (["1970-01-01", "1970-01-02", "7"], [0, 86_400_000_000, None]),
        (["1970-01-01 00:00:01", "1970-01-01T00:01"], [1_000_000, 60_000_000]),
        (["1970-01-01T00:00:01.5Z", "1970-01-01T01:00:00+01:00"], [1_500_000, 0]),
        (["1970-13-01", "1970-01-01"], [None, 0]),
        ([], []),
    ],
)
def test_times_are_numbers_or_iso_dates(values: list[str], expected: list[Any]) -> None:
    assert parse_times(pl.Series(values, dtype=pl.String)).to_list() == expected


def test_times_of_parquet_keep_their_types() -> None:
    dates = pl.Series(["1970-01-02"]).str.to_date()
    assert parse_times(dates).to_list() == [86_400_000_000]
    zoned = pl.Series(["1970-01-01T01:00:00+01:00"]).str.to_datetime()
    assert parse_times(zoned).to_list() == [0]
    assert parse_times(pl.Series([3, None], dtype=pl.UInt32)).to_list() == [3, None]
    assert parse_times(pl.Series([1.5, float("inf")])).to_list() == [1.5, None]


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=40),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_k_core_agrees_with_the_slow_one(
    events: list[tuple[int, int]], user_min: int, item_min: int
) -> None:
    users, items = np.array(events, dtype=np.int64).reshape(-1, 2).T
    kept = k_core(users, items, user_min=user_min, item_min=item_min)
    named = [(f"u{user}", f"i{item}") for user, item in events]
    expected = slow_k_core(named, user_min=user_min, item_min=item_min)
    assert [event for event, keep in zip(named, kept, strict=True) if keep] == expected
