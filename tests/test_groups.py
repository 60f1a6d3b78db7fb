"""What becomes of `evaluation.ease_codes_weight`: groups of items, the teacher, stages to redo."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from mql4grec import baselines, codes, pipeline
from mql4grec.config import EvaluationSettings
from mql4grec.runtime import SILENT
from mql4grec.stages.combining import fit_on
from mql4grec.stages.context import Context, load_catalog, load_ids
from mql4grec.stages.groups import Groups, group_items
from mql4grec.stages.teaching import make_teacher
from tiny_training import Recorder

TAUGHT = ("recommender.backbone=causal", "recommender.finetune.teacher_share=0.5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a run up to its codes."""
    folder = tmp_path_factory.mktemp("run")
    pipeline.run(tiny.settings(folder), until="generate-codes", journal=SILENT)
    return folder


def context_of(folder: Path, *values: str) -> Context:
    return pipeline.context_of(tiny.settings(folder, *values), journal=Recorder())


def grouped(folder: Path, *values: str) -> tuple[Groups | None, list[tuple[str, dict[str, Any]]]]:
    """Give the groups of the shop, and what the journal was told."""
    context = context_of(folder, *values)
    journal = context.journal
    assert isinstance(journal, Recorder)
    return group_items(context, load_catalog(context, "Demo")), journal.events


def ones(folder: Path) -> np.ndarray:
    context = context_of(folder)
    ids = load_ids(context, context.settings.target)
    return codes.group_by_prefix(ids.values()).toarray()


def test_groups_are_of_all_modalities_and_have_the_weight_that_is_given(folder: Path) -> None:
    found, told = grouped(folder, "evaluation.ease_codes_weight=2")
    assert found is not None
    assert found.weight == 2
    assert found.rows.dtype == np.float32
    np.testing.assert_array_equal(found.rows.toarray(), 2 * ones(folder))
    assert told == []


def test_a_weight_that_is_not_given_is_chosen_on_training_events_and_told(folder: Path) -> None:
    found, told = grouped(folder)
    assert found is not None
    context = context_of(folder)
    shop = load_catalog(context, "Demo")
    ids = load_ids(context, context.settings.target)
    weight, ndcg = baselines.choose_weight(
        shop.histories.held_out(2),
        codes.group_by_prefix(ids.values()),
        n_items=shop.n_items,
        settings=EvaluationSettings(),
        seed=0,
    )
    assert found.weight == weight
    np.testing.assert_array_equal(found.rows.toarray(), np.float32(weight) * ones(folder))
    expected = {"step": None, "dataset": "Demo", "weight": weight, "ndcg": ndcg}
    assert told == [("baselines.codes", expected)]


def test_of_no_weight_there_are_no_groups_and_no_ranking(folder: Path) -> None:
    found, _ = grouped(folder, "evaluation.ease_codes_weight=0")
    assert found is None
    context = context_of(folder, "sasrec.enabled=false")
    shop = load_catalog(context, "Demo")
    for groups, names in ((None, ["ease"]), (group_items(context, shop), ["ease", "ease_codes"])):
        fitted = fit_on(context, shop, groups, n_held_out=2)
        assert list(fitted.rankers) == ["popular", "item_knn", *names]


def test_the_teacher_knows_codes_as_the_weight_says(folder: Path) -> None:
    lists = []
    for weight in (0, 1e-9, 2):
        context = context_of(folder, *TAUGHT, f"evaluation.ease_codes_weight={weight}")
        finetune = context.settings.recommender.finetune
        lists.append(make_teacher(context, finetune, names=["Demo"]).items)
    np.testing.assert_array_equal(lists[0], lists[1])
    assert (lists[0] != lists[2]).any()


def test_a_model_is_trained_anew_where_its_teacher_knows_other_codes(folder: Path) -> None:
    def marks(*values: str) -> list[str]:
        settings = [
            tiny.settings(folder, *values, f"evaluation.ease_codes_weight={weight}")
            for weight in (1, 2)
        ]
        states = [state for one in settings for state in pipeline.inspect(one)]
        return [state.mark for state in states if state.stage.name == "finetune"]

    first, second = marks(*TAUGHT)
    assert first != second
    first, second = marks()  # without a teacher
    assert first == second
