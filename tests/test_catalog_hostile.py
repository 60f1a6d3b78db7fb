"""Ids and rows that nobody has: told in words, and never echoed whole."""

import json
from pathlib import Path

import pytest

from mql4grec.catalog import Catalog, prepare, read_ids
from mql4grec.catalog.text import clean_text
from mql4grec.config import CatalogSettings, DatasetSettings
from mql4grec.errors import ConfigError, DataError

LONG = "x" * 1_000_000
HISTORY = '{"0": [0, 1, 2, 3]}'
DIGITS = "7" * 5000


def prepared(folder: Path, dataset: dict[str, object], **policies: str) -> Catalog:
    settings = DatasetSettings.model_validate({"name": "Shop", **dataset})
    rules = CatalogSettings.model_validate({"datasets": [settings], "k_core": 0, **policies})
    return prepare(settings, rules, folder=folder / "run", seed=1)


def tables(folder: Path, *rows: str) -> dict[str, object]:
    good = [f"u,i{number},{number}" for number in range(4)]
    (folder / "events.csv").write_text("\n".join(("user_id,item_id,timestamp", *good, *rows)))
    items = "\n".join(f"i{number},t" for number in range(4))
    (folder / "items.csv").write_text(f"item_id,title\n{items}\n")
    return {"interactions": folder / "events.csv", "items": folder / "items.csv"}


def authors(folder: Path, **files: str) -> dict[str, object]:
    (folder / "Shop").mkdir()
    for part, content in files.items():
        (folder / "Shop" / f"Shop.{part.replace('_', '.')}").write_text(content)
    return {"format": "authors", "root": folder}


@pytest.mark.parametrize(
    ("policy", "rows"),
    [
        ("unknown_items", [f"u,{LONG},9"]),
        ("bad_timestamps", [f"u,i1,{LONG}"]),
        ("duplicate_rows", [f"{LONG},i1,1", f"{LONG},i1,1"]),
        ("short_users", [f"{LONG},i1,1"]),
    ],
)
def test_long_values_are_cut_in_messages(tmp_path: Path, policy: str, rows: list[str]) -> None:
    with pytest.raises(DataError, match=r"got .*xxx\.\.\.xxx") as told:
        prepared(tmp_path, tables(tmp_path, *rows), **{policy: "error"})
    assert len(str(told.value)) < 1000


@pytest.mark.parametrize("content", [LONG, f"{LONG}\t0\n{LONG}\t1\n", f"a\t{DIGITS}\n"])
def test_long_lines_of_ids_are_cut_in_messages(tmp_path: Path, content: str) -> None:
    (tmp_path / "S.item2id").write_text(content)
    with pytest.raises(DataError) as told:
        read_ids(tmp_path / "S.item2id")
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(
    "files",
    [
        {"inter_json": json.dumps({DIGITS: [0, 1, 2]})},
        {"inter_json": HISTORY, "item_json": json.dumps({DIGITS: {"title": "a"}})},
        {"inter_json": HISTORY, "item_json": json.dumps({"1000000000000": {"title": "a"}})},
        {"inter_json": '{"0": [0, 1, 2147483647]}'},
    ],
)
def test_rows_that_no_shop_has_are_refused(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"expected (a row|at most 10,000,000 items)"):
        prepared(tmp_path, authors(tmp_path, **files))


def test_halves_of_pairs_in_the_authors_titles(tmp_path: Path) -> None:
    records = '{"0": {"title": "a\\ud800b"}, "1": {}, "2": {}, "3": {}}'
    found = prepared(tmp_path, authors(tmp_path, inter_json=HISTORY, item_json=records))
    assert found.titles[0] == "a\\ud800b"


def test_control_characters_leave_texts() -> None:
    assert clean_text("a\x9b31mb\0c\x85d\x80") == "a31mbc d"


def test_a_pattern_with_nul_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="take the character NUL out"):
        prepared(tmp_path, {**tables(tmp_path), "images": "a\0/{item_id}.jpg"})
