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
from mql4grec import artifacts, baselines, catalog, pipeline
from mql4grec.catalog.filtering import draw_items, hide
from mql4grec.config import CatalogSettings, DatasetSettings, Settings
from mql4grec.errors import DataError
from mql4grec.recommender import Teacher
from mql4grec.report import read_rankings
from mql4grec.runtime import SILENT
from mql4grec.stages.groups import group_items
from mql4grec.stages.plan import plan
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


def taught_by(run: Settings, *, weight: float, share: float) -> Teacher:
    values = (*TAUGHT, f"recommender.finetune.teacher_cold_share={share}")
    values = (*values, f"evaluation.ease_codes_weight={weight}")
    context = pipeline.context_of(tiny.settings(run.folder, SHARE, *values), journal=SILENT)
    return make_teacher(context, context.settings.recommender.finetune, names=["Demo"])


def test_a_teacher_tells_of_them_what_codes_tell(finished: Settings) -> None:
    shop = catalog.load(finished.folder / "catalog" / "Demo", "Demo")
    training = shop.histories.held_out(2)
    is_cold = np.bincount(training.items, minlength=shop.n_items) == 0
    before, taught = (taught_by(finished, weight=1, share=share) for share in (0, 0.2))
    n_listed = before.items.shape[1]
    warm, cold = np.split(taught.items, [n_listed], axis=1)
    assert is_cold[before.items].any()  # of the usual lists, some have them too
    assert not is_cold[warm].any()
    assert is_cold[cold].all()
    np.testing.assert_allclose(taught.shares[:, n_listed:].sum(axis=1), 0.2, rtol=1e-5)
    np.testing.assert_allclose(taught.shares.sum(axis=1), 1, rtol=1e-5)

    # as EASE^R with codes, fitted on the other users, ranks what is cold
    context = pipeline.context_of(tiny.settings(finished.folder, SHARE, *TAUGHT), journal=SILENT)
    groups = group_items(context, shop)
    assert groups is not None
    known = is_cold & (groups.rows.toarray() > 0).any(axis=0)
    ranked = baselines.rank_after_events(
        training,
        n_items=shop.n_items,
        settings=context.settings.evaluation,
        seed=context.settings.seed,
        groups=groups.rows,
        masks=[known],
        top_k=10,
    )
    np.testing.assert_array_equal(cold, ranked[0].items)
    assert known.sum() > 10


def test_items_without_codes_are_not_taught(finished: Settings, tmp_path: Path) -> None:
    settings = copy_of(finished, tmp_path / "run")
    shop = catalog.load(settings.folder / "catalog" / "Demo", "Demo")
    is_cold = np.bincount(shop.histories.held_out(2).items, minlength=shop.n_items) == 0
    lost = np.flatnonzero(is_cold)[:-3]
    (settings.folder / "codes" / artifacts.STAMP).unlink()  # it tells the files' hashes
    for path in (settings.folder / "codes").glob("Demo.index_*.json"):
        index = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in index.items() if int(k) not in lost}))
    items = taught_by(settings, weight=1, share=0.2).items
    assert set(items[:, -10:][items[:, -10:] >= 0]) <= set(np.flatnonzero(is_cold)[-3:])
    assert (items[:, -10:] >= 0).any()


def test_without_any_a_teacher_is_the_same(finished: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    plain = tiny.settings(folder, *TAUGHT)
    pipeline.run(plain, until="generate-codes", journal=SILENT)
    teachers = []
    for share in (0, 0.2):
        cold = f"recommender.finetune.teacher_cold_share={share}"
        context = pipeline.context_of(tiny.settings(folder, *TAUGHT, cold), journal=SILENT)
        teachers.append(
            make_teacher(context, context.settings.recommender.finetune, names=["Demo"])
        )
    np.testing.assert_array_equal(teachers[0].items, teachers[1].items)
    np.testing.assert_array_equal(teachers[0].shares, teachers[1].shares)


def test_shops_with_and_without_them_have_one_teacher(tmp_path: Path) -> None:
    shops = (
        "[{name: A, format: demo, n_items: 60, n_users: 60},"
        " {name: B, format: demo, n_items: 12, n_users: 60}]"
    )
    values = (f"catalog.datasets={shops}", "catalog.target=A", *TAUGHT)
    settings = tiny.settings(
        tmp_path / "run", SHARE, *values, "recommender.finetune.teacher_cold_share=0.2"
    )
    pipeline.run(settings, until="generate-codes", journal=SILENT)
    context = pipeline.context_of(settings, journal=SILENT)
    finetune = settings.recommender.finetune
    first, second, both = (
        make_teacher(context, finetune, names=names) for names in (["A"], ["B"], ["A", "B"])
    )
    n_first, width = len(first.items), second.items.shape[1]
    np.testing.assert_array_equal(both.items[:n_first, : first.items.shape[1]], first.items)
    n_items = catalog.load(settings.folder / "catalog" / "A", "A").n_items
    moved = np.where(second.items >= 0, second.items + n_items, -1)
    np.testing.assert_array_equal(both.items[n_first:, :width], moved)
    np.testing.assert_array_equal(both.shares[n_first:, :width], second.shares)


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

    assert mark() != mark("recommender.finetune.teacher_cold_share=0.1")
    settings = tiny.settings(finished.folder, *TAUGHT)
    covers = {stage.command: str(stage.covers) for stage in plan(settings)}
    assert "teacher_share" in covers["finetune"]
    assert "cold" not in covers["prepare"] + covers["finetune"]  # so that older stamps hold
