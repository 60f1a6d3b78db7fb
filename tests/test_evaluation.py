"""Metrics and fusion by hand and against slow twins; intervals that cover."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mql4grec import evaluation
from mql4grec.catalog import Histories
from mql4grec.config import EvaluationSettings
from mql4grec.decoding import Rankings

N_ITEMS = 12
ITEMS = evaluation.Items(n_events=np.arange(N_ITEMS) % 7)


def rankings(
    items: Sequence[Sequence[int]], scores: Sequence[Sequence[float]] | None = None
) -> Rankings:
    rows = np.array(items, np.int32)
    if scores is None:
        values = np.tile(-np.arange(1, rows.shape[1] + 1, dtype=np.float32), (len(rows), 1))
    else:
        values = np.array(scores, np.float32)
    return Rankings(items=rows, scores=np.where(rows < 0, -np.inf, values).astype(np.float32))


def random_rankings(seed: int, *, n_users: int = 30, width: int = 6) -> Rankings:
    generator = np.random.default_rng(seed)
    items = np.stack([generator.permutation(N_ITEMS)[:width] for _ in range(n_users)])
    scores = -np.sort(generator.integers(1, 6, (n_users, width)).astype(float))
    lengths = generator.integers(0, width + 1, n_users)
    return rankings(
        np.where(np.arange(width) < lengths[:, None], items, -1).tolist(), scores.tolist()
    )


def histories(*items: Sequence[int]) -> Histories:
    offsets = np.cumsum([0, *(len(history) for history in items)]).astype(np.int64)
    return Histories(offsets=offsets, items=np.concatenate(items).astype(np.int32))


def as_lists(ranking: Rankings) -> list[list[int]]:
    return [[int(item) for item in row if item >= 0] for row in ranking.items]


def test_metrics_by_hand() -> None:
    ranked = rankings([list(range(12)), list(range(12)), list(range(12)), list(range(12))])
    got = evaluation.metrics(ranked, np.array([0, 3, 9, 11], np.int32))
    assert list(got) == ["HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10"]
    second, tenth = 1 / np.log2(5), 1 / np.log2(11)
    assert got == pytest.approx(
        {
            "HR@1": 1 / 4,
            "HR@5": 2 / 4,
            "HR@10": 3 / 4,
            "NDCG@5": (1 + second) / 4,
            "NDCG@10": (1 + second + tenth) / 4,
        }
    )


def test_a_user_without_a_list_is_a_miss_and_counts() -> None:
    ranked = rankings([[4, 5], [-1, -1]])
    assert evaluation.metrics(ranked, np.array([4, 4], np.int32))["HR@1"] == 0.5


def test_a_list_shorter_than_ten_is_no_fault() -> None:
    assert evaluation.metrics(rankings([[7]]), np.array([7], np.int32))["NDCG@10"] == 1.0


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            [1],
            "`targets`: expected shape (2,) to match `rankings`, got (1,); "
            "give one target per ranked user",
        ),
        ([1, -1], "`targets`: expected item rows >= 0, got -1; leave out users without a target"),
    ],
)
def test_faulty_targets(targets: list[int], message: str) -> None:
    with pytest.raises(ValueError, match="targets") as caught:
        evaluation.metrics(rankings([[1], [2]]), np.array(targets, np.int32))
    assert str(caught.value) == message


def test_no_users() -> None:
    nobody = Rankings(items=np.empty((0, 3), np.int32), scores=np.empty((0, 3), np.float32))
    with pytest.raises(ValueError, match="expected at least one user, got 0"):
        evaluation.metrics(nobody, np.empty(0, np.int32))


def slow_alpha(text: Rankings, image: Rankings, *, alpha: float, top_k: int) -> list[list[int]]:
    """Fuse one user at a time with dictionaries."""
    fused = []
    for user in range(len(text.items)):
        lists = [
            {int(i): float(s) for i, s in zip(r.items[user], r.scores[user], strict=True) if i >= 0}
            for r in (text, image)
        ]
        weights = [alpha, 1 - alpha]
        if not lists[0] or not lists[1]:
            weights = [float(bool(lists[0])), float(bool(lists[1]))]
        floors = [min(one.values(), default=0.0) - np.log(2) for one in lists]
        scores = {
            item: sum(
                weight * one.get(item, floor)
                for weight, one, floor in zip(weights, lists, floors, strict=True)
            )
            for item in lists[0].keys() | lists[1].keys()
        }
        best = sorted(scores, key=lambda item: (-np.round(scores[item], 9), item))
        fused.append(best[:top_k])
    return fused


@given(seed=st.integers(0, 10_000), alpha=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_alpha_fusion_equals_a_slow_twin(seed: int, alpha: float) -> None:
    text, image = random_rankings(seed), random_rankings(seed + 1, width=4)
    fused = evaluation.fuse(text, image, alpha=alpha, top_k=7)
    assert as_lists(fused) == slow_alpha(text, image, alpha=alpha, top_k=7)
    assert fused.items.shape == fused.scores.shape == (30, 7)
    assert fused.items.dtype == np.int32
    assert fused.scores.dtype == np.float32
    assert (np.isneginf(fused.scores) == (fused.items < 0)).all()


def test_alpha_fusion_by_hand() -> None:
    text = rankings([[3, 1]], [[-1.0, -2.0]])
    image = rankings([[1, 2]], [[-1.5, -4.0]])
    fused = evaluation.fuse(text, image, alpha=0.5, top_k=3)
    half = np.log(2)
    assert as_lists(fused) == [[1, 3, 2]]
    np.testing.assert_allclose(
        fused.scores[0], [-1.75, (-1 - 4 - half) / 2, (-2 - half - 4) / 2], rtol=1e-6
    )


def test_a_user_without_one_modality_keeps_the_other_list() -> None:
    text, image = rankings([[-1, -1]]), rankings([[5, 2]], [[-1.0, -3.0]])
    for alpha in (0.0, 0.5, 1.0):
        fused = evaluation.fuse(text, image, alpha=alpha, top_k=2)
        assert as_lists(fused) == [[5, 2]]
        np.testing.assert_allclose(fused.scores, image.scores)


def test_normalising_a_list_first_would_change_no_fused_ranking() -> None:
    text, image = random_rankings(5), random_rankings(6)
    shift = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    plain = Rankings(items=text.items, scores=text.scores - shift[:, :1] * np.arange(6))
    shifted = Rankings(items=plain.items, scores=plain.scores - shift[:, 1:])
    expected = evaluation.fuse(plain, image, alpha=0.3)
    np.testing.assert_array_equal(evaluation.fuse(shifted, image, alpha=0.3).items, expected.items)


def test_authors_rule_by_hand() -> None:
    text = rankings([[3, 1]], [[-5.0, -10.0]])
    image = rankings([[1, 2]], [[-20.0, -25.0]])
    fused = evaluation.fuse(text, image, rule="authors", top_k=4, n_tokens=5)
    # Per token: item 1 (-2 - 4) / 2 + 1 = -2, item 3 -1, item 2 -5.
    assert fused.items.tolist() == [[3, 1, 2, -1]]
    np.testing.assert_allclose(fused.scores[0, :3], [-1, -2, -5])


@pytest.mark.parametrize("rule", ["alpha", "authors"])
def test_ties_go_to_the_lower_row(rule: Literal["alpha", "authors"]) -> None:
    text = rankings([[9, 4]], [[-1.0, -1.0]])
    image = rankings([[7, 2]], [[-1.0, -1.0]])
    fused = evaluation.fuse(text, image, rule=rule, top_k=4)
    assert as_lists(fused) == [[2, 4, 7, 9]]


def test_fusing_a_ranking_with_itself_keeps_it() -> None:
    ranked = rankings([[4, 2, 8]])
    np.testing.assert_array_equal(evaluation.fuse(ranked, ranked, top_k=3).items, ranked.items)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 1.5}, "`alpha`: expected a weight from 0 to 1, got 1.5; change it"),
        ({"top_k": 0}, "`top_k`: expected at least 1, got 0; change it"),
        ({"rule": "best"}, "`rule`: expected 'alpha' or 'authors', got 'best'; choose one"),
    ],
)
def test_faulty_fusion(arguments: dict[str, Any], message: str) -> None:
    ranked = rankings([[1, 2]])
    with pytest.raises(ValueError, match="expected") as caught:
        evaluation.fuse(ranked, ranked, **arguments)
    assert str(caught.value) == message


def test_fusion_of_different_users() -> None:
    with pytest.raises(ValueError, match="`image`: expected 1 users to match `text`, got 2"):
        evaluation.fuse(rankings([[1]]), rankings([[1], [2]]))


def test_seen_items_go_and_the_rest_moves_up() -> None:
    ranked = rankings([[3, 1, 2], [1, 3, -1], [0, 1, 2]])
    left = evaluation.remove_seen(ranked, histories([1, 9], [], [0, 1, 2]))
    assert left.items.tolist() == [[3, 2, -1], [1, 3, -1], [-1, -1, -1]]
    assert left.scores[0].tolist() == [-1.0, -3.0, -np.inf]
    assert left.items.dtype == np.int32
    assert left.scores.dtype == np.float32


def test_seen_items_of_other_users() -> None:
    with pytest.raises(
        ValueError, match="`histories`: expected 1 users to match `rankings`, got 2"
    ):
        evaluation.remove_seen(rankings([[1]]), histories([1], [2]))


def test_what_is_made_of_exact_lists_is_exact() -> None:
    unknown = rankings([[1, 2]] * 4)
    text = replace(unknown, certified=np.array([True, True, False, False]))
    image = replace(unknown, certified=np.array([True, False, True, False]))
    fused = evaluation.fuse(text, image).certified
    assert fused is not None
    assert fused.tolist() == [True, False, False, False]
    for pair in ((unknown, image), (text, unknown)):
        assert evaluation.fuse(*pair).certified is None
    left = evaluation.remove_seen(text, histories([1], [2], [3], [4])).certified
    assert left is not None
    assert left.tolist() == [True, True, False, False]


def test_assembled_rankings() -> None:
    text, image = random_rankings(1, n_users=2), random_rankings(2, n_users=2)
    seen = histories(as_lists(text)[0][:1] or [0], [11])
    both = evaluation.assemble({"text": text, "image": image}, seen, settings=EvaluationSettings())
    assert list(both) == ["text", "image", "fused"]
    assert both["text"] is text
    removed = evaluation.assemble(
        {"text": text}, seen, settings=EvaluationSettings(remove_seen=True)
    )
    assert list(removed) == ["text"]
    assert not set(seen.of(0)) & set(as_lists(removed["text"])[0])


def test_intervals_cover_the_figure_and_are_seeded() -> None:
    generator = np.random.default_rng(0)
    ranked = rankings(np.tile(np.arange(10), (400, 1)).tolist())
    targets = generator.integers(0, 20, 400).astype(np.int32)
    intervals = evaluation.bootstrap(ranked, targets, n_bootstrap=300, seed=1)
    again = evaluation.bootstrap(ranked, targets, n_bootstrap=300, seed=1)
    other = evaluation.bootstrap(ranked, targets, n_bootstrap=300, seed=2)
    assert intervals == again != other
    for name, value in evaluation.metrics(ranked, targets).items():
        low, high = intervals[name]
        assert low < value < high
    share = evaluation.metrics(ranked, targets)["HR@10"]
    expected = 1.96 * np.sqrt(share * (1 - share) / 400)
    low, high = intervals["HR@10"]
    assert (high - low) / 2 == pytest.approx(expected, rel=0.2)


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 20, 400).astype(np.int32)
    first = rankings(np.tile(np.arange(10), (400, 1)).tolist())
    second = rankings(np.tile([*range(9), 19], (400, 1)).tolist())
    low, high = evaluation.bootstrap_difference(first, second, targets, seed=0)["HR@10"]
    single = evaluation.bootstrap(first, targets, seed=0)["HR@10"]
    assert high - low < single[1] - single[0]
    same = evaluation.bootstrap_difference(first, first, targets, seed=0)
    assert set(same.values()) == {(0.0, 0.0)}


def test_evaluate_builds_what_metrics_json_holds() -> None:
    found = {"text": random_rankings(1), "fused": random_rankings(2), "popular": random_rankings(3)}
    targets = np.arange(30, dtype=np.int32) % N_ITEMS
    content = evaluation.evaluate(
        found, targets, items=ITEMS, settings=EvaluationSettings(n_bootstrap=50), seed=3
    )
    content = json.loads(json.dumps(content))
    assert list(content) == [
        "n_users",
        "n_items",
        "rankings",
        "intervals",
        "differences",
        "significance",
        "by_training_events",
        "settings",
    ]
    assert (content["n_users"], content["n_items"]) == (30, N_ITEMS)
    assert content["rankings"]["text"] == evaluation.metrics(found["text"], targets)
    alone = evaluation.bootstrap(found["text"], targets, n_bootstrap=50, seed=3)
    assert content["intervals"]["text"] == {name: list(pair) for name, pair in alone.items()}
    assert list(content["differences"]) == ["fused - text", "fused - popular"]
    paired = evaluation.bootstrap_difference(
        found["fused"], found["text"], targets, n_bootstrap=50, seed=3
    )
    for name, pair in paired.items():
        assert content["differences"]["fused - text"][name] == pytest.approx(pair)
    assert content["settings"]["n_bootstrap"] == 50


def test_significance_equals_a_plain_loop() -> None:
    found = {"text": random_rankings(1), "popular": random_rankings(3), "ease": random_rankings(4)}
    targets = np.arange(30, dtype=np.int32) % N_ITEMS
    content = evaluation.evaluate(
        found, targets, items=ITEMS, settings=EvaluationSettings(n_bootstrap=200), seed=3
    )
    assert list(content["significance"]) == ["text"]
    for metric in ("NDCG@10", "HR@10"):
        told = content["significance"]["text"][metric]
        figures = {name: evaluation.metrics(found[name], targets)[metric] for name in found}
        best = max(("popular", "ease"), key=lambda name: figures[name])
        assert told["baseline"] == best
        assert told["difference"] == pytest.approx(figures["text"] - figures[best])
        column = evaluation.METRICS.index(metric)
        ours = evaluation.gains(found["text"], targets)[:, column]
        theirs = evaluation.gains(found[best], targets)[:, column]
        generator = np.random.default_rng(3)
        draws, below, above = [], 1, 1
        for _ in range(200):
            total = 0.0
            for user in generator.integers(30, size=30):
                total += ours[user] - theirs[user]
            draws.append(total / 30)
        for draw in draws:
            below += draw <= 1e-12
            above += draw >= -1e-12
        assert told["interval"] == pytest.approx(np.quantile(draws, [0.025, 0.975]).tolist())
        assert told["p_value"] == pytest.approx(min(1.0, 2 * min(below, above) / 201), abs=0.02)


def test_p_values() -> None:
    ranked = rankings(np.tile(np.arange(10), (400, 1)).tolist())
    worse = rankings(np.tile([*range(5), *range(15, 20)], (400, 1)).tolist())
    targets = np.random.default_rng(0).integers(0, 20, 400).astype(np.int32)
    settings = EvaluationSettings(n_bootstrap=99)

    def told(ours: Rankings, theirs: Rankings) -> dict[str, Any]:
        content = evaluation.evaluate(
            {"fused": ours, "ease": theirs},
            targets,
            items=evaluation.Items(np.ones(20, np.int64)),
            settings=settings,
            seed=0,
        )
        found: dict[str, Any] = content["significance"]["fused"]["HR@10"]
        return found

    assert told(ranked, ranked)["p_value"] == 1.0
    clear = told(rankings(targets[:, None].tolist()), worse)
    assert clear["p_value"] == 2 / 100
    assert clear["interval"][0] > 0
    assert told(worse, rankings(targets[:, None].tolist()))["p_value"] == 2 / 100


def test_rankings_without_baselines_or_baselines_alone_have_no_significance() -> None:
    targets = np.arange(30, dtype=np.int32) % N_ITEMS
    settings = EvaluationSettings(n_bootstrap=5)
    for name in ("text", "ease"):
        content = evaluation.evaluate(
            {name: random_rankings(1)}, targets, items=ITEMS, settings=settings, seed=0
        )
        assert content["significance"] == {}


def test_evaluate_nothing() -> None:
    with pytest.raises(ValueError, match="`rankings`: expected at least one, got none"):
        evaluation.evaluate(
            {}, np.array([1], np.int32), items=ITEMS, settings=EvaluationSettings(), seed=0
        )
