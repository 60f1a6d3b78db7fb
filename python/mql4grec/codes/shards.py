"""Index files of large catalogs: a folder of Parquet shards, written one by one.

`part-00000.parquet` holds the first items, and so on; `index.json`, written last, names the rest.
A call that was cut off goes on with the first shard that is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mql4grec import artifacts
from mql4grec.codes.records import SemanticIds
from mql4grec.errors import DataError
from mql4grec.runtime import SILENT, Journal

if TYPE_CHECKING:
    import polars as pl

MADE_BY = "generate-codes"
LISTING = "index.json"
ROWS_PER_SHARD = 1 << 22


@dataclass(frozen=True)
class Shards:
    """An index that was read back.

    Attributes:
        ids: Semantic IDs of N rows; rows that the index lacks are not present.
        item_ids: Source key of each row (N), "" for rows not present; None if rows are the keys.
    """

    ids: SemanticIds
    item_ids: pl.Series | None


def write_shards(
    folder: Path,
    ids: SemanticIds,
    *,
    item_ids: Sequence[str] | None = None,
    rows_per_shard: int = ROWS_PER_SHARD,
    journal: Journal = SILENT,
) -> None:
    """Write semantic IDs as Parquet: `row` int64, `item_id` if given, `codes` uint16 (L).

    Args:
        folder: Of the shards; those that are there already are left as they are.
        ids: Semantic IDs; rows not present are left out.
        item_ids: Source key of each row (N).
        rows_per_shard: N rows, present or not, that go into one file.
        journal: Gets a progress bar.
    """
    n_rows = len(ids.codes)
    with journal.track(f"write {folder.name}", total=n_rows) as advance:
        for start in range(0, n_rows, rows_per_shard):
            stop = min(start + rows_per_shard, n_rows)
            path = folder / f"part-{start // rows_per_shard:05d}.parquet"
            if not path.exists():
                _write_shard(path, ids, rows=range(start, stop), item_ids=item_ids)
            advance(stop - start)
    facts = {"dataset": ids.dataset, "modality": ids.modality, "n_codes": ids.n_codes}
    n_shards = -(-n_rows // rows_per_shard)
    artifacts.write_json(folder / LISTING, {**facts, "n_rows": n_rows, "n_shards": n_shards})


def _write_shard(
    path: Path, ids: SemanticIds, *, rows: range, item_ids: Sequence[str] | None
) -> None:
    import polars as pl

    part = slice(rows.start, rows.stop)
    present = ids.present[part]
    kept = np.flatnonzero(present) + rows.start
    columns: dict[str, Any] = {"row": kept}
    if item_ids is not None:
        columns["item_id"] = pl.Series([item_ids[row] for row in kept.tolist()], dtype=pl.String)
    codes = np.ascontiguousarray(ids.codes[part][present])
    columns["codes"] = pl.Series(codes, dtype=pl.Array(pl.UInt16, ids.n_levels))
    with artifacts.atomic_path(path) as temporary:
        pl.DataFrame(columns).write_parquet(temporary)


def read_shards(folder: Path) -> Shards:
    """Read what `write_shards` wrote.

    Raises:
        ArtifactError: If the listing or a shard is missing.
        DataError: If a shard is not as it was written.
    """
    import polars as pl

    facts = artifacts.read_json(folder / LISTING, made_by=MADE_BY)
    with artifacts.reading(folder / LISTING, made_by=MADE_BY):
        n_rows, n_codes = int(facts["n_rows"]), tuple(map(int, facts["n_codes"]))
        numbers = range(int(facts["n_shards"]))
        dataset, modality = str(facts["dataset"]), facts["modality"]
    paths = [
        artifacts.require(folder / f"part-{number:05d}.parquet", made_by=MADE_BY)
        for number in numbers
    ]
    if artifacts.told_of(folder / LISTING) is None:
        artifacts.vet_parquet(paths)
    codes = np.zeros((n_rows, len(n_codes)), np.uint16)
    present = np.zeros(n_rows, np.bool_)
    names: list[pl.DataFrame] = []
    for path in paths:
        table = _read_shard(path, n_codes=n_codes, n_rows=n_rows)
        rows = table["row"].to_numpy()
        codes[rows] = table["codes"].to_numpy()
        present[rows] = True
        if "item_id" in table.columns:
            names.append(table.select("row", "item_id"))
    ids = SemanticIds(
        dataset=dataset,
        modality=modality,
        codes=codes,
        n_codes=n_codes,
        present=present,
    )
    if not names:
        return Shards(ids, None)
    every = pl.DataFrame({"row": np.arange(n_rows)})
    joined = every.join(pl.concat(names), on="row", how="left", maintain_order="left")
    return Shards(ids, joined["item_id"].fill_null(""))


def _read_shard(path: Path, *, n_codes: tuple[int, ...], n_rows: int) -> pl.DataFrame:
    import polars as pl

    again = f"delete `{path.parent}` and run `mql4grec {MADE_BY}` again"
    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as err:
        raise DataError(f"`{path}`: expected a Parquet file, got {err}; {again}") from err
    expected = pl.Array(pl.UInt16, len(n_codes))
    if table.schema.get("row") != pl.Int64 or table.schema.get("codes") != expected:
        raise DataError(
            f"`{path}`: expected columns `row` (Int64) and `codes` ({expected}), got "
            f"{dict(table.schema)}; {again}"
        )
    rows: NDArray[np.int64] = table["row"].to_numpy()
    codes: NDArray[np.uint16] = table["codes"].to_numpy()
    if len(rows) and (rows.min() < 0 or rows.max() >= n_rows):
        raise DataError(
            f"`{path}`: expected rows from 0 to {n_rows - 1}, got {rows.min()} to {rows.max()}; "
            f"{again}"
        )
    if (codes >= np.array(n_codes)).any():
        raise DataError(f"`{path}`: expected codes below {n_codes}, got others; {again}")
    return table
