"""Items that training is not to know: which events go, what stays, and that figures are of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import tiny
from mql4grec import artifacts, catalog, pipeline
from mql4grec.catalog.filtering import draw_items, hide
from mql4grec.config import CatalogSettings, DatasetSettings, Settings, TrainingSettings
from mql4grec.errors import DataError
from mql4grec.report import read_rankings
from mql4grec.runtime import SILENT
from mql4grec.stages.teaching import make_teacher
from reference_catalog import hide as slow_hide

SHARE = "catalog.cold_items=0.2"
TAUGHT = (
    "recommender.backbone=causal",
    "recommender.finetune.teacher_share=1",
    "recommender.finetune.epochs=12",
    "recommender.finetune.samples_per_epoch=1000",
    "evaluation.ease_codes_weight=1",
    "sasrec.enabled=false",
)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 5)), min_size=1),
    st.sets(st.integers(0, 9)),
)
def test_training_alone_loses_them(events: list[tuple[int, int, int]], cold: set[int]) -> None:
    named = [(f"u{user}", f"i{item}", time) for user, item, time in events]
    items = {f"i{item}" for item in cold}
    table = pl.DataFrame(named, schema=["user", "item", "time"], orient="row")
    left = hide(table, pl.Series(sorted(items), dtype=pl.String)).rows()
    assert sorted(left) == sorted(slow_hide(named, items))
    places = iter(named)
    assert all(event in places for event in left)  # in the order of the file


def test_they_are_drawn_by_the_seed() -> None:
    table = pl.DataFrame({"item": [*"abcdefghij"] * 2})
    drawn = [draw_items(table, 0.3, seed=seed).to_list() for seed in range(20)]
    assert drawn[0] == draw_items(table, 0.3, seed=0).to_list()
    assert len({*map(tuple, drawn)}) > 10
    assert {len(set(items)) for items in drawn} == {3}
    assert {item for items in drawn for item in items} == {*"abcdefghij"}
    assert draw_items(table, 0.04, seed=0).to_list() == []


def test_nobody_left_is_refused(tmp_path: Path) -> None:
    lines = ["user_id,item_id,timestamp", "u,a,1", "u,b,2", "u,c,3"]
    (tmp_path / "events.csv").write_text("\n".join(lines) + "\n")
    shop = DatasetSettings(name="shop", interactions=tmp_path / "events.csv")
    settings = CatalogSettings(datasets=(shop,), k_core=0, cold_items=0.9)
    with pytest.raises(DataError) as refusal:
        catalog.prepare(shop, settings, folder=tmp_path / "out", seed=0)
    assert str(refusal.value) == (
        f"`{tmp_path / 'events.csv'}`: expected users with 3 events without those of cold items, "
        "got none of 1; lower `catalog.cold_items`"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [-0.1, 1, "few"])
def test_a_share_is_below_one(value: object) -> None:
    with pytest.raises(ValidationError, match="cold_items"):
        CatalogSettings.model_validate({"datasets": [{"name": "a"}], "cold_items": value})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = tiny.settings(tmp_path_factory.mktemp("run"), SHARE)
    pipeline.run(settings, journal=SILENT)
    return settings


def test_figures_tell_of_them_apart(finished: Settings) -> None:
    shop = catalog.load(finished.folder / "catalog" / "Demo", "Demo")
    counts = json.loads((finished.folder / "catalog" / "Demo" / "counts.json").read_text())
    trained = np.bincount(shop.histories.held_out(2).items, minlength=shop.n_items)
    targets = shop.histories.target(1)
    never = int((trained[targets] == 0).sum())
    assert counts["cold"]["items"] == round(0.2 * counts["after_k_core"]["items"])
    assert counts["cold"]["users"] == counts["after_k_core"]["users"] - shop.histories.n_users
    assert counts["cold"]["events"] == counts["after_k_core"]["events"] - len(shop.histories.items)
    assert counts["cold"]["items"] <= (trained == 0).sum()
    assert shop.n_items == counts["items"]
    assert never > 5
    found = artifacts.read_json(finished.folder / "evaluation" / "metrics.json", made_by="evaluate")
    assert found["by_training_events"]["n_users"]["0"] == never
    for name in ("popular", "item_knn", "ease"):
        assert found["by_training_events"]["rankings"][name]["0"]["HR@10"] == 0


def test_a_run_is_done_again_without_them(finished: Settings) -> None:
    assert pipeline.run(finished, journal=SILENT) == []
    states = {one.state for one in pipeline.inspect(tiny.settings(finished.folder))}
    assert states == {"stale"}


def copy_of(run: Settings, folder: Path, *values: str) -> Settings:
    shutil.copytree(run.folder, folder)
    return tiny.settings(folder, SHARE, *values)


def test_a_teacher_tells_of_them_what_codes_tell(finished: Settings, tmp_path: Path) -> None:
    shop = catalog.load(finished.folder / "catalog" / "Demo", "Demo")
    training = shop.histories.held_out(2)
    is_cold = np.bincount(training.items, minlength=shop.n_items) == 0
    found = {}
    for weight, share in (1, 0), (1, 0.2), (1e-9, 0.2):
        values = (*TAUGHT, f"recommender.finetune.teacher_cold_share={share}")
        settings = tiny.settings(
            finished.folder, SHARE, *values, f"evaluation.ease_codes_weight={weight}"
        )
        context = pipeline.context_of(settings, journal=SILENT)
        found[weight, share] = make_teacher(context, settings.recommender.finetune, names=["Demo"])
    before, taught = found[1, 0], found[1, 0.2]
    n_listed = before.items.shape[1]
    np.testing.assert_array_equal(taught.items[:, :n_listed], before.items)
    cold = taught.items[:, n_listed:]
    assert cold.shape == (len(training.items), 10)
    assert is_cold[cold[cold >= 0]].all()
    assert ((cold >= 0).sum(axis=1) >= min(10, is_cold.sum() - 1)).all()
    np.testing.assert_allclose(taught.shares[:, n_listed:].sum(axis=1), 0.2, rtol=1e-5)
    np.testing.assert_allclose(taught.shares.sum(axis=1), 1, rtol=1e-5)
    assert (cold != found[1e-9, 0.2].items[:, n_listed:]).any()


def test_a_model_learns_to_recommend_them(finished: Settings, tmp_path: Path) -> None:
    """From a teacher that gives them half of everything; without, hardly any of them comes out."""
    shop = catalog.load(finished.folder / "catalog" / "Demo", "Demo")
    is_cold = np.bincount(shop.histories.held_out(2).items, minlength=shop.n_items) == 0
    shares = []
    for share in (0, 0.5):
        cold = f"recommender.finetune.teacher_cold_share={share}"
        settings = copy_of(finished, tmp_path / str(share), *TAUGHT, cold)
        assert "finetune" in pipeline.run(settings, journal=SILENT)
        path = settings.folder / "evaluation" / "rankings" / "text.parquet"
        ranking = read_rankings(path, user_ids=shop.user_ids, item_ids=shop.item_ids)
        shares.append(is_cold[ranking.items[:, :10]].mean())
    assert shares[1] > shares[0] + 0.1


def test_a_share_of_nothing_changes_no_training(finished: Settings) -> None:
    def mark(*values: str) -> str:
        states = pipeline.inspect(tiny.settings(finished.folder, SHARE, *TAUGHT, *values))
        return next(state.mark for state in states if state.stage.name == "finetune")

    cold = "recommender.finetune.teacher_cold_share"
    assert mark() == mark(f"{cold}=0") != mark(f"{cold}=0.1")
    assert "teacher_cold_share" in TrainingSettings().unused
