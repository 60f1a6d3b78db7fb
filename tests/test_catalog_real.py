"""The catalog on real data, where it is at hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from mql4grec.catalog import Catalog, load, prepare
from mql4grec.config import CatalogSettings, DatasetSettings

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA}")


def prepared(folder: Path, **settings: object) -> tuple[Catalog, dict[str, Any]]:
    dataset = DatasetSettings.model_validate(settings)
    catalog = prepare(dataset, CatalogSettings(datasets=(dataset,)), folder=folder, seed=0)
    again = load(folder, dataset.name)
    assert (again.texts, again.images, again.item_ids) == (
        catalog.texts,
        catalog.images,
        catalog.item_ids,
    )
    return catalog, json.loads((folder / "counts.json").read_text())


def test_instruments(tmp_path: Path) -> None:
    catalog, counts = prepared(tmp_path, name="Instruments", format="authors", root=DATA)
    assert (catalog.histories.n_users, catalog.n_items) == (17_112, 6_250)
    assert len(catalog.histories.items) == counts["rows_read"] == 136_226
    assert catalog.item_ids[:2] == ("B002SQJL9U", "B00D3QFHN8")
    assert catalog.user_ids[0] == "A3LXYBBLOOEOMQ"
    assert catalog.histories.of(0).tolist() == list(range(8))
    assert counts["items_without_text"] == 6_250
    given = json.loads((DATA / "Instruments" / "Instruments.inter.json").read_text())
    assert json.loads((tmp_path / "Instruments.inter.json").read_text()) == given


def test_office(tmp_path: Path) -> None:
    catalog, counts = prepared(tmp_path, name="Office", format="authors", root=DATA)
    assert (catalog.histories.n_users, catalog.n_items) == (3_231, 3_459)
    assert len(catalog.histories.items) == 21_802
    assert catalog.histories.of(0).tolist() == [0, 0, 1, 2, 3]  # the same item twice in a row
    written = json.loads((tmp_path / "Office.item.json").read_text()).values()
    without = sum(record["description"] == "" for record in written)
    assert 0.05 < without / catalog.n_items < 0.10
    assert counts["items_without_text"] == 0  # all have a title
    assert not [text for text in catalog.texts if "<br" in text or "['" in text or '["' in text]
    assert "headerM" not in "".join(catalog.texts)  # a style sheet in an HTML comment


def test_movielens_posters(tmp_path: Path) -> None:
    folder = DATA / "movielens-posters"
    catalog, counts = prepared(
        tmp_path,
        name="movielens-posters",
        interactions=folder / "interactions.csv",
        items=folder / "items.csv",
        user_column="userId",
        item_column="movieId",
        item_id_column="movieId",
        description_columns=("overview", "genres", "tags"),
        images=str(folder / "images" / "{item_id}.jpg"),
    )
    assert counts["rows_read"] == 62_172
    assert counts["after_k_core"] == {"users": 671, "items": 1_000, "events": 62_172}
    assert catalog.titles[0] == "Toy Story (1995)"
    assert catalog.texts[0].startswith("Toy Story (1995). Led by Woody")
    assert all(image is not None and image.exists() for image in catalog.images)
