"""Runs of other settings: the stages they ask for, what is refused, whole runs of other kinds."""

from pathlib import Path

import pytest

import tiny
from mql4grec import pipeline, serving
from mql4grec.errors import ArtifactError, ConfigError
from mql4grec.runtime import SILENT
from mql4grec.stages import plan
from tiny import metrics_of


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("embeddings.text.kind=none", ""),
        ("recommender.finetune.tasks=[seqimage]", "expected 'seqrec' among them to rank by text"),
    ],
)
def test_a_ranking_needs_its_task(tmp_path: Path, override: str, message: str) -> None:
    only_image = ("recommender.finetune.tasks=[seqimage]", override)
    if not message:
        assert "embed Demo text" not in [s.name for s in plan(tiny.settings(tmp_path, *only_image))]
        return
    with pytest.raises(ConfigError) as caught:
        plan(tiny.settings(tmp_path, *only_image))
    assert message in str(caught.value)


def test_a_command_that_the_settings_do_not_ask_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        pipeline.run(tiny.settings(tmp_path), journal=SILENT, only="pretrain")
    assert str(caught.value) == (
        "`pretrain`: expected settings that ask for it, got none; "
        "`mql4grec check` lists the stages of a run"
    )


def test_a_shop_may_lack_a_modality_that_another_has(tmp_path: Path) -> None:
    shops = (
        "[{name: A, format: demo, n_items: 60, n_users: 60},"
        " {name: B, format: demo, n_items: 50, n_users: 60, modalities: [text]}]"
    )
    names = [s.name for s in plan(tiny.settings(tmp_path, f"catalog.datasets={shops}"))]
    assert "embed A image" in names
    assert "embed B text" in names
    assert "embed B image" not in names


def test_a_training_without_a_task_that_ranks_cannot_go_by_ndcg(tmp_path: Path) -> None:
    values = ("recommender.pretrain={datasets: [Demo], tasks: [fusionseqrec], select_by: ndcg}",)
    with pytest.raises(ConfigError) as caught:
        pipeline.run(tiny.settings(tmp_path, *values), journal=SILENT, until="pretrain")
    assert str(caught.value) == (
        "`select_by`: expected, with 'ndcg', a task that ranks items, ['seqrec', 'seqimage'], and "
        "a shop that has its codes, got ['fusionseqrec']; add one, or select by loss"
    )


@pytest.mark.parametrize(
    ("values", "absent"),
    [
        (("embeddings.image.kind=none", "recommender.finetune.tasks=[seqrec]"), "image"),
        (("sasrec.enabled=false",), "sasrec"),
        (("evaluation.ease_codes_weight=0",), "ease_codes"),
    ],
)
def test_only_rankings_that_are_made_can_be_combined(
    tmp_path: Path, values: tuple[str, ...], absent: str
) -> None:
    combined = "evaluation.combine=[text, image, ease_codes, sasrec]"
    settings = tiny.settings(tmp_path, *values, combined)
    with pytest.raises(ConfigError) as caught:
        plan(settings)
    assert str(caught.value) == (
        f"`evaluation.combine`: expected rankings that this run makes, got ['{absent}']; leave "
        "them out, or turn on what makes them"
    )


def test_a_command_alone_needs_the_stages_before_it(tmp_path: Path) -> None:
    settings = tiny.settings(tmp_path / "run")
    assert pipeline.run(settings, journal=SILENT, only="prepare") == ["prepare Demo"]
    with pytest.raises(ArtifactError) as caught:
        pipeline.run(settings, journal=SILENT, only="finetune")
    assert str(caught.value) == (
        "`finetune`: expected stage `generate-codes` to be done, it is 'to do'; "
        "run `mql4grec generate-codes` with the same settings first"
    )


def test_a_run_without_any_modality_is_refused(tmp_path: Path) -> None:
    none = ("embeddings.text.kind=none", "embeddings.image.kind=none")
    with pytest.raises(ConfigError, match="expected a modality"):
        pipeline.run(tiny.settings(tmp_path, *none), journal=SILENT)


def test_one_modality_alone_is_a_whole_run(tmp_path: Path) -> None:
    settings = tiny.settings(
        tmp_path / "run",
        "embeddings.image.kind=none",
        "recommender.finetune.tasks=[seqrec]",
        "sasrec.enabled=false",
    )
    assert "evaluate sasrec" not in pipeline.run(settings, journal=SILENT)
    expected = {"text", "popular", "item_knn", "ease", "ease_codes"}
    assert set(metrics_of(tmp_path / "run")) == expected


def test_a_decoder_only_model_is_a_whole_run(tmp_path: Path) -> None:
    settings = tiny.settings(
        tmp_path / "run",
        "recommender.backbone=causal",
        "recommender.finetune.tasks=[item2image]",  # is not asked
        "recommender.finetune.teacher_share=0.5",
        "recommender.finetune.select_by=ndcg",
        "sasrec.enabled=false",
    )
    pipeline.run(settings, journal=SILENT)
    assert {"text", "image", "fused"} < set(metrics_of(tmp_path / "run"))
    run = serving.open_run(settings)
    shop = run.shop.item_ids
    (found,) = serving.recommend(run, [[shop[0], shop[1]]], top_k=3)
    assert len(set(found.item_ids)) == 3


def test_a_teacher_is_for_shops_that_ease_can_do(tmp_path: Path) -> None:
    settings = tiny.settings(
        tmp_path / "run",
        "recommender.backbone=causal",
        "recommender.finetune.teacher_share=0.5",
        "evaluation.ease_max_items=5",
    )
    with pytest.raises(ConfigError, match="`teacher_share`: expected 0, or shops of at most 5"):
        pipeline.run(settings, journal=SILENT)


def test_pretraining_on_another_shop_comes_first(tmp_path: Path) -> None:
    shops = (
        "[{name: A, format: demo, n_items: 60, n_users: 60},"
        " {name: B, format: demo, n_items: 50, n_users: 60}]"
    )
    settings = tiny.settings(
        tmp_path / "run",
        f"catalog.datasets={shops}",
        "catalog.target=B",
        "recommender.pretrain.datasets=[A, B]",
        "recommender.pretrain.epochs=1",
        "recommender.pretrain.batch_size=64",
        "recommender.pretrain.samples_per_epoch=200",
    )
    done = pipeline.run(settings, journal=SILENT)
    assert done.index("pretrain") < done.index("finetune")
    assert (tmp_path / "run" / "codes" / "A.index_lemb.json").exists()
    assert "fused" in metrics_of(tmp_path / "run")
