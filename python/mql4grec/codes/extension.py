"""Semantic IDs of an older catalog, brought to the rows of the present one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mql4grec.catalog import read_ids
from mql4grec.codes.index import read_index
from mql4grec.codes.records import SemanticIds
from mql4grec.codes.shards import LISTING, read_shards
from mql4grec.config import Modality
from mql4grec.errors import DataError


def modality_of(path: Path) -> Modality:
    """Tell of which modality an index is: a JSON file, or a folder of Parquet shards.

    Raises:
        DataError: If it is neither.
    """
    if path.is_dir():
        if not (path / LISTING).exists():
            raise DataError(
                f"`{path}`: expected an index file or a folder with `{LISTING}`, got neither; give "
                "an index that `mql4grec generate-codes` wrote"
            )
        listing = json.loads((path / LISTING).read_text(encoding="utf-8"))
        found: Modality = listing["modality"]
        return found
    try:
        with path.open(encoding="utf-8") as file:
            token = file.read(4096).partition("<")[2][:1]
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"`{path}`: expected an index file, got {err}") from err
    if not token.isascii() or not token.isalpha():
        raise DataError(
            f'`{path}`: expected {{"item": ["<a_1>", ...]}}, got no token; give an index file'
        )
    return "image" if token.isupper() else "text"


def read_existing(
    path: Path,
    *,
    dataset: str,
    n_items: int,
    item_ids: Sequence[str] | None = None,
) -> SemanticIds:
    """Read the semantic IDs that items of the present catalog had in an older one.

    Items are the same if their source keys are: those beside a JSON index in `NAME.item2id`, or its
    own keys where there is no such file; the column `item_id` of Parquet shards, or their rows.

    Args:
        path: JSON index or folder of Parquet shards.
        dataset: Name of the shop.
        n_items: N, rows of the present catalog.
        item_ids: Source keys of the present catalog (N); None: the rows are the keys.

    Returns:
        Semantic IDs of N rows; not present are items that the older catalog lacks. Items that are
        gone are left out, so that their codes are free.

    Raises:
        DataError: If a file is missing or broken, or no item is in both catalogs.
    """
    modality = modality_of(path)
    old, old_keys = _read_json(path, modality) if path.is_file() else _read_parquet(path)
    if old_keys is None and item_ids is None:
        old_rows = new_rows = np.flatnonzero(old.present[:n_items])
    else:
        keys = map(str, range(n_items)) if item_ids is None else item_ids
        old_rows, new_rows = _common(old, old_keys, keys)
    if len(new_rows) == 0:
        raise DataError(
            f"`{path}`: expected items of `{dataset}` ({n_items} of them), got none; give the "
            "index of an older catalog of this shop, with its `.item2id` beside it"
        )
    codes = np.zeros((n_items, old.n_levels), np.uint16)
    present = np.zeros(n_items, np.bool_)
    codes[new_rows], present[new_rows] = old.codes[old_rows], True
    return dataclasses.replace(old, dataset=dataset, codes=codes, present=present)


def _common(
    old: SemanticIds, old_keys: Iterable[str] | None, keys: Iterable[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Match items by their keys; gives their old and their new rows, of those that had codes."""
    import polars as pl  # joins a hundred million keys in their own memory, unlike a dict

    rows = range(len(old.codes))
    before = pl.DataFrame({"key": pl.Series(map(str, rows) if old_keys is None else old_keys)})
    before = before.with_row_index("old").filter(pl.Series(old.present))
    now = pl.DataFrame({"key": pl.Series(keys)}).with_row_index("new")
    joined = now.join(before, on="key").sort("new")
    return joined["old"].cast(pl.Int64).to_numpy(), joined["new"].cast(pl.Int64).to_numpy()


def _read_json(path: Path, modality: Modality) -> tuple[SemanticIds, Sequence[str]]:
    beside = path.with_name(f"{path.name.partition('.index_')[0]}.item2id")
    if beside.exists():
        keys = read_ids(beside)
        ids, _ = read_index(
            path, dataset="old", modality=modality, n_items=len(keys), shared="keep"
        )
        return ids, keys
    try:
        keys = list(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as err:
        raise DataError(f"`{path}`: expected JSON, got {err}; give an index file") from err
    ids, _ = read_index(path, dataset="old", modality=modality, item_ids=keys, shared="keep")
    return ids, keys


def _read_parquet(path: Path) -> tuple[SemanticIds, Iterable[str] | None]:
    found = read_shards(path)
    return found.ids, found.item_ids
