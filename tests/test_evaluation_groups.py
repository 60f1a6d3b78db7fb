"""Figures by codes before repair and by events in training: by hand, and against slow twins."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mql4grec import evaluation
from mql4grec.config import EvaluationSettings
from mql4grec.decoding import Rankings
from mql4grec.evaluation import Items


def ranking(*items: list[int]) -> Rankings:
    rows = np.array(items, np.int32)
    scores = np.tile(-np.arange(rows.shape[1], dtype=np.float32), (len(rows), 1))
    return Rankings(rows, np.where(rows < 0, -np.inf, scores).astype(np.float32))


def test_items_of_the_same_codes_have_the_same_number() -> None:
    codes = np.array([[1, 2], [0, 0], [1, 2], [1, 3], [0, 0], [1, 2]], np.uint16)
    present = np.array([True, False, True, True, False, True])
    assert evaluation.number_codes(codes, present).tolist() == [0, 1, 0, 3, 4, 0]
    nobody = evaluation.number_codes(codes, np.zeros(6, bool))
    assert nobody.tolist() == [0, 1, 2, 3, 4, 5]
    assert nobody.dtype == np.int32


def test_a_twin_is_a_hit_and_ranks_count_codes() -> None:
    numbers = np.array([0, 0, 2, 2, 4], np.int32)  # items 0 and 1 share their codes, and 2 and 3
    ranked = ranking([2, 3, 1, 4, -1])
    items = Items(np.ones(5, np.int64), {"text": numbers})
    merged = evaluation.merge_twins(ranked, numbers)
    assert merged.items.tolist() == [[2, 0, 4, -1, -1]]
    assert merged.scores.tolist() == [[0.0, -2.0, -3.0, -np.inf, -np.inf]]
    told = evaluation.twin_level({"text": ranked}, np.array([0], np.int32), items)
    assert evaluation.metrics(ranked, np.array([0], np.int32))["HR@10"] == 0
    assert told["rankings"]["text"] == pytest.approx(
        {"HR@1": 0, "HR@5": 1, "HR@10": 1, "NDCG@5": 1 / np.log2(3), "NDCG@10": 1 / np.log2(3)}
    )


@given(
    seed=st.integers(0, 10_000),
    n_codes=st.sampled_from([1, 3, 9, 40]),
    width=st.sampled_from([1, 2, 12, 20]),
)
def test_twin_level_figures_equal_a_slow_twin(seed: int, n_codes: int, width: int) -> None:
    generator = np.random.default_rng(seed)
    n_users, n_items = 8, 20
    items = np.stack([generator.permutation(n_items)[:width] for _ in range(n_users)])
    lengths = generator.integers(0, width + 1, n_users)
    ranked = ranking(*np.where(np.arange(width) < lengths[:, None], items, -1).tolist())
    codes = generator.integers(0, n_codes, (n_items, 1)).astype(np.uint16)
    targets = generator.integers(0, n_items, n_users).astype(np.int32)
    numbers = evaluation.number_codes(codes, np.ones(n_items, bool))
    told = evaluation.twin_level(
        {"fused": ranked}, targets, Items(np.ones(n_items, np.int64), {"text": numbers})
    )
    gain, hits = 0.0, 0
    for user in range(n_users):
        distinct = list(dict.fromkeys(int(codes[i, 0]) for i in ranked.items[user] if i >= 0))
        wanted = int(codes[targets[user], 0])
        if wanted in distinct[:10]:
            hits += 1
            gain += 1 / np.log2(distinct.index(wanted) + 2)
    assert told["rankings"]["fused"]["HR@10"] == pytest.approx(hits / n_users)
    assert told["rankings"]["fused"]["NDCG@10"] == pytest.approx(gain / n_users)
    sharing = [(codes == codes[target]).sum() > 1 for target in targets]
    assert told["n_users"] == {"text": sum(sharing)}


def test_text_and_image_go_by_their_own_codes_and_all_others_by_those_of_texts() -> None:
    text, image = np.array([0, 0, 2], np.int32), np.array([0, 1, 1], np.int32)
    names = ("text", "image", "fused", "combined", "ease")
    ranked = dict.fromkeys(names, ranking([0]))
    target = np.array([1], np.int32)
    both = evaluation.twin_level(
        ranked, target, Items(np.ones(3, np.int64), {"text": text, "image": image})
    )
    assert both["codes"] == {name: "image" if name == "image" else "text" for name in names}
    hits = {name: found["HR@1"] for name, found in both["rankings"].items()}
    assert hits == {name: 0 if name == "image" else 1 for name in names}
    assert both["n_users"] == {"text": 1, "image": 1}
    alone = evaluation.twin_level(ranked, target, Items(np.ones(3, np.int64), {"image": image}))
    assert set(alone["codes"].values()) == {"image"}


def test_figures_by_events_of_the_target_in_training() -> None:
    n_events = np.array([0, 1, 5, 6, 900])
    ranked = ranking([0, 1], [2, 1], [2, 3], [0, 1])
    targets = np.array([0, 1, 2, 3], np.int32)
    told: dict[str, Any] = evaluation.by_training_events({"a": ranked}, targets, Items(n_events))
    assert told["n_users"] == {"0": 1, "1-5": 2, "6+": 1}
    second = 1 / np.log2(3)
    assert told["rankings"]["a"] == {
        "0": {"HR@10": 1.0, "NDCG@10": 1.0},
        "1-5": {"HR@10": 1.0, "NDCG@10": pytest.approx((1 + second) / 2)},
        "6+": {"HR@10": 0.0, "NDCG@10": 0.0},
    }


def test_a_group_of_nobody_has_no_figures() -> None:
    told = evaluation.by_training_events(
        {"a": ranking([0])}, np.array([0], np.int32), Items(np.array([3]))
    )
    assert told["n_users"] == {"0": 0, "1-5": 1, "6+": 0}
    assert told["rankings"]["a"]["0"] == {"HR@10": None, "NDCG@10": None}


def test_both_are_part_of_the_metrics() -> None:
    items = Items(np.array([0, 1, 2]), {"text": np.array([0, 0, 2], np.int32)})
    content = evaluation.evaluate(
        {"text": ranking([0, 1, 2])},
        np.array([1], np.int32),
        items=items,
        settings=EvaluationSettings(n_bootstrap=5),
        seed=0,
    )
    assert content["n_items"] == 3
    assert content["twin_level"]["rankings"]["text"]["HR@1"] == 1
    assert content["rankings"]["text"]["HR@1"] == 0
    assert content["by_training_events"]["n_users"] == {"0": 0, "1-5": 1, "6+": 0}
