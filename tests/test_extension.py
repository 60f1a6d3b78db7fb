"""Older semantic IDs that stay, index files of large catalogs, distances from elsewhere."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mql4grec import catalog, codes
from mql4grec._core import resolve_collisions
from mql4grec.codes import SemanticIds
from mql4grec.config import CodesSettings
from mql4grec.errors import ArtifactError, CollisionError, DataError
from mql4grec.translator import Translation


def semantic_ids(rows: list[list[int]], *, present: list[bool] | None = None) -> SemanticIds:
    return SemanticIds(
        dataset="shop",
        modality="text",
        codes=np.array(rows, np.uint16),
        n_codes=(4, 4),
        present=np.array(present or [True] * len(rows)),
    )


def translation(rows: list[list[int]], *, n_codes: int = 4) -> Translation:
    rng = np.random.default_rng(1)
    return Translation(
        dataset="shop",
        modality="text",
        codes=np.array(rows, np.uint16),
        latents=rng.normal(size=(len(rows), 3)).astype(np.float32),
        codebooks=tuple(rng.normal(size=(n_codes, 3)).astype(np.float32) for _ in rows[0]),
        present=np.ones(len(rows), np.bool_),
    )


@given(st.data())
def test_existing_codes_stay_and_new_items_get_free_ones(data: st.DataObject) -> None:
    codes_of = st.tuples(st.integers(0, 3), st.integers(0, 3)).map(list)
    old = data.draw(st.lists(codes_of, min_size=1, max_size=8, unique_by=tuple))
    nearest = data.draw(st.lists(codes_of, min_size=len(old), max_size=16))
    order = data.draw(st.permutations(range(len(nearest))))
    rows = np.zeros((len(nearest), 2), np.uint16)
    present = np.zeros(len(nearest), np.bool_)
    kept = np.array(order[: len(old)])
    rows[kept], present[kept] = old, True
    existing = SemanticIds("shop", "text", rows, (4, 4), present)
    policy: Any = data.draw(st.sampled_from(["paper", "nearest", "optimal"]))

    ids, report = codes.assign(
        translation(nearest), CodesSettings(policy=policy), existing=existing
    )

    assert ids.codes[present].tolist() == rows[present].tolist()
    assert len({tuple(row) for row in ids.codes.tolist()}) == len(nearest)
    assert report.rate_after == 0


def test_items_that_are_gone_free_their_codes() -> None:
    # The old catalog had (1, 1); its item is gone, so the new one at row 1 may have it.
    existing = semantic_ids([[1, 0], [0, 0]], present=[True, False])
    ids, report = codes.assign(translation([[1, 0], [1, 1]]), existing=existing)
    assert ids.codes.tolist() == [[1, 0], [1, 1]]
    assert report.n_moved == 0


def test_an_existing_item_without_an_embedding_keeps_its_codes() -> None:
    new = translation([[0, 0], [1, 1]])
    new = dataclasses.replace(new, present=np.array([False, True]))
    ids, _ = codes.assign(new, existing=semantic_ids([[1, 1], [0, 0]], present=[True, False]))
    assert ids.codes[0].tolist() == [1, 1]
    assert ids.codes[1].tolist() != [1, 1]
    assert ids.present.tolist() == [True, True]


def test_existing_codes_that_are_shared_are_refused() -> None:
    message = (
        "text codes of `shop`: expected existing codes that differ, got 2 items that share theirs, "
        "the first of them in rows [0, 2]; repair the old index first"
    )
    existing = semantic_ids([[1, 1], [0, 0], [1, 1]])
    with pytest.raises(CollisionError, match=f"^{re.escape(message)}$"):
        codes.assign(translation([[0, 0]] * 3), existing=existing)


def test_existing_codes_of_another_translator_are_refused() -> None:
    message = (
        "text codes of `shop`: expected existing codes of 2 levels below (3, 3), got 2 levels up "
        "to (3, 0); extend with the translator that made them"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        codes.assign(translation([[0, 0]], n_codes=3), existing=semantic_ids([[3, 0]]))


@pytest.mark.parametrize("item_ids", [None, [f"sku-{row}" for row in range(7)]])
def test_shards_come_back(tmp_path: Path, item_ids: list[str] | None) -> None:
    present = [True, False, True, True, True, True, False]
    ids = semantic_ids([[row % 4, row // 4] for row in range(7)], present=present)
    ids.codes[~ids.present] = 0

    codes.write_shards(tmp_path / "index", ids, item_ids=item_ids, rows_per_shard=3)
    found = codes.read_shards(tmp_path / "index")

    assert [path.name for path in sorted((tmp_path / "index").iterdir())] == [
        "index.json",
        "part-00000.parquet",
        "part-00001.parquet",
        "part-00002.parquet",
    ]
    assert found.ids.codes.tolist() == ids.codes.tolist()
    assert found.ids.present.tolist() == present
    assert (found.ids.n_codes, found.ids.modality) == ((4, 4), "text")
    if item_ids is None:
        assert found.item_ids is None
    else:
        expected = [name if there else "" for name, there in zip(item_ids, present, strict=True)]
        assert found.item_ids is not None
        assert found.item_ids.to_list() == expected
    first = pl.read_parquet(tmp_path / "index" / "part-00000.parquet")
    assert first.schema["codes"] == pl.Array(pl.UInt16, 2)


def test_shards_that_are_there_are_not_written_again(tmp_path: Path) -> None:
    ids = semantic_ids([[0, 0], [0, 1], [0, 2]])
    codes.write_shards(tmp_path, ids, rows_per_shard=1)
    (tmp_path / "part-00001.parquet").unlink()
    kept = (tmp_path / "part-00000.parquet").stat().st_mtime_ns
    codes.write_shards(tmp_path, ids, rows_per_shard=1)
    assert (tmp_path / "part-00000.parquet").stat().st_mtime_ns == kept
    assert codes.read_shards(tmp_path).ids.codes.tolist() == ids.codes.tolist()


def test_broken_shards_are_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"index.json`: no such file; `mql4grec generate-codes"):
        codes.read_shards(tmp_path)
    codes.write_shards(tmp_path, semantic_ids([[0, 0], [3, 1]]), rows_per_shard=1)
    path = tmp_path / "part-00001.parquet"
    again = f"delete `{tmp_path}` and run `mql4grec generate-codes` again"

    listing = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(listing | {"n_codes": [3, 3]}))
    message = f"`{path}`: expected codes below (3, 3), got others; {again}"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        codes.read_shards(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps(listing | {"n_rows": 1}))
    message = f"`{path}`: expected rows from 0 to 0, got 1 to 1; {again}"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        codes.read_shards(tmp_path)
    pl.DataFrame({"row": [1], "codes": [[1, 2]]}).write_parquet(path)
    with pytest.raises(DataError, match=r"expected columns `row` \(Int64\) and `codes` \(Array"):
        codes.read_shards(tmp_path)
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"part-00001.parquet`: expected a Parquet file, got "):
        codes.read_shards(tmp_path)


OLD = [[3, 0], [3, 1], [3, 2]]


def old_index(folder: Path, kind: str) -> Path:
    """Write the codes of the items a, b and c in one of the layouts."""
    path = folder / "shop.index_lemb.json"
    if kind == "parquet":
        codes.write_shards(folder / "index", semantic_ids(OLD), item_ids=["a", "b", "c"])
        return folder / "index"
    if kind == "rows":
        codes.write_index(path, semantic_ids(OLD))
        catalog.write_ids(folder / "shop.item2id", ["a", "b", "c"])
        return path
    tokens = {"a": ["<a_3>", "<b_0>"], "b": ["<a_3>", "<b_1>"], "c": ["<a_3>", "<b_2>"]}
    path.write_text(json.dumps(tokens))
    return path


@pytest.mark.parametrize("kind", ["parquet", "rows", "keys"])
def test_an_older_index_is_brought_to_the_new_rows(tmp_path: Path, kind: str) -> None:
    path = old_index(tmp_path, kind)
    ids = codes.read_existing(path, dataset="shop", n_items=4, item_ids=["c", "new", "a", "newer"])
    assert codes.modality_of(path) == "text"
    assert ids.codes.tolist() == [[3, 2], [0, 0], [3, 0], [0, 0]]
    assert ids.present.tolist() == [True, False, True, False]


def test_without_keys_the_rows_are_the_items(tmp_path: Path) -> None:
    codes.write_shards(tmp_path / "index", semantic_ids(OLD))
    codes.write_index(tmp_path / "x.json", semantic_ids(OLD))
    for name in ("index", "x.json"):
        ids = codes.read_existing(tmp_path / name, dataset="shop", n_items=2)
        assert ids.codes.tolist() == OLD[:2]
        more = codes.read_existing(tmp_path / name, dataset="shop", n_items=5)
        assert more.present.tolist() == [True, True, True, False, False]


def test_an_older_index_of_another_shop_is_refused(tmp_path: Path) -> None:
    path = old_index(tmp_path, "keys")
    message = (
        f"`{path}`: expected items of `shop` (2 of them), got none; give the index of an older "
        "catalog of this shop, with its `.item2id` beside it"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        codes.read_existing(path, dataset="shop", n_items=2, item_ids=["x", "y"])


def test_what_is_no_index_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(DataError, match=r"x.json`: expected \{\"item\": .* got no token"):
        codes.modality_of(tmp_path / "x.json")
    with pytest.raises(DataError, match=r"expected an index file or a folder with `index.json`"):
        codes.modality_of(tmp_path)
    with pytest.raises(DataError, match=r"y.json`: expected an index file, got "):
        codes.modality_of(tmp_path / "y.json")


def tensor(seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, (30, 3)).astype(np.uint16), rng.random((30, 3, 5), np.float32)


@pytest.mark.parametrize("policy", ["paper", "nearest", "optimal"])
def test_distances_may_come_from_anywhere(tmp_path: Path, policy: Any) -> None:
    table, distances = tensor()
    expected = resolve_collisions(table, distances, policy=policy)
    np.save(tmp_path / "d.npy", distances)
    mapped = np.load(tmp_path / "d.npy", mmap_mode="r")
    for given_as in (
        distances,
        mapped,
        torch.from_numpy(distances),
        torch.tensor(distances).double(),
    ):
        found = codes.resolve(table, given_as, CodesSettings(policy=policy))
        assert [part.tolist() for part in found] == [part.tolist() for part in expected]


def test_only_rows_that_share_and_may_move_are_read() -> None:
    table, distances = tensor()
    frozen = np.zeros(30, np.bool_)
    frozen[np.unique(table, axis=0, return_index=True)[1]] = True
    expected = resolve_collisions(table, distances, frozen=frozen)
    distances[frozen] = np.nan
    assert codes.resolve(table, distances, frozen=frozen)[0].tolist() == expected[0].tolist()


def test_a_tensor_of_another_table_is_told() -> None:
    table, distances = tensor()
    message = "`distances`: expected shape (30, 3, 5) to match `codes`, got (29, 3, 5)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        codes.resolve(table, distances[:29])
