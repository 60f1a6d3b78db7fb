"""What a shop is too large for: left out in words, or refused before anything is trained."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tiny
from mql4grec import catalog, pipeline
from mql4grec.baselines import counting
from mql4grec.cli.commands import app
from mql4grec.cli.tables import print_results
from mql4grec.errors import ConfigError
from mql4grec.runtime import SILENT
from mql4grec.stages.limits import Sizes, left_out, read_sizes

SMALL = ("evaluation.ease_max_items=50", "sasrec.max_items=40")
TEXT_ONLY = ("embeddings.image.kind=none", "recommender.finetune.tasks=[seqrec]")
EASE = "60 items are more than `evaluation.ease_max_items`, 50; a matrix of EASE^R takes 0.0 GiB"
SASREC = "60 items are more than `sasrec.max_items`, 40; each of its steps scores all items"
TEACHER = (
    "`teacher_share`: expected 0, or shops of at most 50 items (`evaluation.ease_max_items`), "
    "got 60 in 'Demo'; set it to 0"
)
COMBINED = (
    f"`evaluation.combine`: expected rankings that this run makes, got ['ease'] (ease: {EASE}); "
    "leave them out, or raise the limit"
)
CODES = (
    "`translator.num_emb_list`: expected semantic IDs for the 60 items of 'Demo' that have a text, "
    "got 8 of [2, 2, 2] codes; add a level or codes"
)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "MOST_PAIRS", 300)
        pipeline.run(tiny.settings(folder, *TEXT_ONLY, *SMALL), journal=SILENT)
    return folder


def test_left_out_baselines_are_told_in_the_metrics(large: Path) -> None:
    told = json.loads((large / "evaluation" / "metrics.json").read_text())
    assert list(told["rankings"]) == ["text", "popular", "item_knn"]
    assert told["left_out"] == {"ease": EASE, "ease_codes": EASE, "sasrec": SASREC}
    assert told["item_knn_neighbours"] == 5


def test_left_out_baselines_are_told_on_the_page_and_the_terminal(
    large: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = (
        f"Left out: EASE\u1d3f, EASE\u1d3f with codes ({EASE}). Left out: SASRec ({SASREC}). "
        "Item-kNN knows of each item the 5 nearest only: all pairs are too many."
    )
    assert said in (large / "report" / "index.html").read_text()
    print_results(tiny.settings(large, *TEXT_ONLY, *SMALL))
    assert said in capsys.readouterr().out


def test_a_shop_that_all_fit_says_nothing(tmp_path: Path) -> None:
    settings = tiny.settings(tmp_path, *TEXT_ONLY)
    assert left_out(settings, Sizes(n_items=20_000, n_users=5, n_events=16)) == {}
    none = tiny.settings(tmp_path, "sasrec.enabled=false", "evaluation.ease_codes_weight=0")
    assert set(left_out(none, Sizes(20_001, 5, 15))) == {"ease"}


def test_sasrec_is_left_out_where_no_history_teaches_it(tmp_path: Path) -> None:
    found = left_out(tiny.settings(tmp_path), Sizes(n_items=9, n_users=5, n_events=15))
    expected = "no user has more than three events, so that it has nothing to learn"
    assert found == {"sasrec": expected}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("recommender.backbone=causal", "recommender.finetune.teacher_share=0.5"), TEACHER),
        (("evaluation.combine=[text, ease]",), COMBINED),
        (("translator.num_emb_list=[2, 2, 2]",), CODES),
    ],
)
def test_what_a_large_shop_cannot_have_is_refused_before_anything_is_trained(
    tmp_path: Path, values: tuple[str, ...], message: str
) -> None:
    settings = tiny.settings(tmp_path / "run", *TEXT_ONLY, *SMALL, *values)
    for _ in range(2):  # also where the shop is prepared already
        with pytest.raises(ConfigError) as caught:
            pipeline.run(settings, journal=SILENT)
        assert str(caught.value) == message
        assert [i.stage.name for i in pipeline.inspect(settings) if i.state != "to do"] == [
            "prepare Demo"
        ]
    options = tiny.as_options(tiny.overrides(tmp_path / "run", *TEXT_ONLY, *SMALL, *values))
    checked = CliRunner().invoke(app, ["check", *options])
    assert checked.exit_code == 1
    assert f"fault: {message}\n" in checked.output


def test_what_is_done_already_is_not_refused(large: Path) -> None:
    later = tiny.settings(large, *TEXT_ONLY, *SMALL, "evaluation.ease_max_items=5")
    assert pipeline.run(later, journal=SILENT) == ["evaluate metrics", "report"]


def test_check_says_what_is_left_out(large: Path) -> None:
    options = tiny.as_options(tiny.overrides(large, *TEXT_ONLY, *SMALL))
    checked = CliRunner().invoke(app, ["check", *options])
    assert checked.exit_code == 0
    assert f"left out: ease, {EASE}\n" in checked.output
    assert f"left out: sasrec, {SASREC}\n" in checked.output


def test_check_does_not_go_by_a_shop_of_other_settings(large: Path) -> None:
    options = tiny.as_options(tiny.overrides(large, *TEXT_ONLY, *SMALL, "catalog.k_core=3"))
    checked = CliRunner().invoke(app, ["check", *options])
    assert "left out" not in checked.output


def test_sizes_are_those_of_the_prepared_shop(large: Path, tmp_path: Path) -> None:
    cold = tiny.settings(tmp_path / "cold", "catalog.cold_items=0.1")
    pipeline.run(cold, journal=SILENT, only="prepare")
    for settings in (tiny.settings(large), cold):
        shop = catalog.load(settings.folder / "catalog" / "Demo", "Demo")
        assert read_sizes(settings) == {"Demo": Sizes.of(shop)}
