"""Several rankings as one: calibration and weights by hand, and against slow twins."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mql4grec import evaluation, report
from mql4grec.config import EvaluationSettings
from mql4grec.decoding import Rankings
from mql4grec.errors import DataError
from mql4grec.evaluation import Calibration, Combination

N_ITEMS = 14


def lists(items: list[list[int]], scores: list[list[float]]) -> Rankings:
    rows = np.array(items, np.int32)
    values = np.where(rows < 0, -np.inf, np.array(scores)).astype(np.float32)
    return Rankings(items=rows, scores=values)


def random_lists(seed: int, *, n_users: int = 25, width: int = 6) -> Rankings:
    """Lists of all lengths, empty ones too, with ties."""
    generator = np.random.default_rng(seed)
    items = np.stack([generator.permutation(N_ITEMS)[:width] for _ in range(n_users)])
    scores = -np.sort(-generator.integers(-3, 4, (n_users, width)).astype(float))
    lengths = generator.integers(0, width + 1, n_users)
    return lists(np.where(np.arange(width) < lengths[:, None], items, -1).tolist(), scores.tolist())


def slow_probabilities(ranking: Rankings, how: Calibration, *, user: int) -> list[float]:
    """Give every item's probability in one user's list, with a dictionary."""
    found = {
        int(item): float(score) / how.temperature
        for item, score in zip(ranking.items[user], ranking.scores[user], strict=True)
        if item >= 0
    }
    if not found:
        return [1 / N_ITEMS] * N_ITEMS
    total = sum(np.exp(score) for score in found.values())
    own = {item: (1 - how.absent) * np.exp(score) / total for item, score in found.items()}
    left = how.absent / (N_ITEMS - len(found)) if len(found) < N_ITEMS else 1.0
    floor = min(left, *own.values())
    return [own.get(item, floor) for item in range(N_ITEMS)]


def slow_combination(
    rankings: dict[str, Rankings], how: Combination, *, top_k: int
) -> list[list[int]]:
    combined = []
    for user in range(len(next(iter(rankings.values())).items)):
        each = {
            name: slow_probabilities(one, how.calibrations[name], user=user)
            for name, one in rankings.items()
        }
        listed = {int(i) for one in rankings.values() for i in one.items[user] if i >= 0}
        mean = {
            item: sum(how.weights[name] * each[name][item] for name in rankings) for item in listed
        }
        combined.append(sorted(listed, key=lambda item: (-round(mean[item], 12), item))[:top_k])
    return combined


def as_lists(ranking: Rankings) -> list[list[int]]:
    return [[int(item) for item in row if item >= 0] for row in ranking.items]


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    parts=st.sampled_from([(10, 0, 0), (2, 3, 5), (0, 5, 5), (7, 2, 1)]),
    temperature=st.sampled_from([0.37, 1.3, 11.0]),
    absent=st.sampled_from([0.03, 0.52, 0.97]),
)
def test_combining_equals_a_slow_twin(
    seed: int, parts: tuple[int, ...], temperature: float, absent: float
) -> None:
    found = {"a": random_lists(seed), "b": random_lists(seed + 1, width=4)}
    found["c"] = random_lists(seed + 2, width=N_ITEMS)
    how = Combination(
        calibrations={
            "a": Calibration(temperature, absent),
            "b": Calibration(0.7 * temperature, 0.31),
            "c": Calibration(1.0, absent),
        },
        weights={name: part / 10 for name, part in zip("abc", parts, strict=True)},
        ndcg=0.0,
        n_users=0,
    )
    combined = evaluation.combine(found, how, n_items=N_ITEMS, top_k=8)
    expected = slow_combination(found, how, top_k=8)
    for user, (ours, theirs) in enumerate(zip(as_lists(combined), expected, strict=True)):
        if ours != theirs:  # only where rounding decides between equals
            each = [slow_probabilities(found[n], how.calibrations[n], user=user) for n in "abc"]
            mean = np.tensordot(np.array(parts) / 10, each, axes=1)
            np.testing.assert_allclose(mean[ours], mean[theirs], rtol=1e-9)
    assert combined.items.dtype == np.int32
    assert (np.isneginf(combined.scores) == (combined.items < 0)).all()


def test_the_order_of_the_lists_changes_no_digit() -> None:
    found = {name: random_lists(seed) for seed, name in enumerate("abcde")}
    how = Combination(
        calibrations={name: Calibration(1 + seed, 0.3) for seed, name in enumerate("abcde")},
        weights={"a": 0.1, "b": 0.3, "c": 0.1, "d": 0.2, "e": 0.3},
        ndcg=0.0,
        n_users=0,
    )
    one, other = (
        evaluation.combine(dict(order), how, n_items=N_ITEMS, top_k=8)
        for order in (found.items(), reversed(found.items()))
    )
    np.testing.assert_array_equal(one.items, other.items)
    np.testing.assert_array_equal(one.scores, other.scores)


def test_combining_by_hand() -> None:
    found = {"a": lists([[3, 1]], [[0.0, 0.0]]), "b": lists([[1, 2]], [[np.log(3.0), 0.0]])}
    how = Combination(
        calibrations={"a": Calibration(1.0, 0.2), "b": Calibration(1.0, 0.6)},
        weights={"a": 0.5, "b": 0.5},
        ndcg=0.0,
        n_users=0,
    )
    combined = evaluation.combine(found, how, n_items=N_ITEMS, top_k=4)
    # a: .4 each, .2 / 12 for each of the twelve others; b: .3 and .1, .6 / 12 for each other
    assert combined.items.tolist() == [[1, 3, 2, -1]]
    expected = [(0.4 + 0.3) / 2, (0.4 + 0.05) / 2, (0.2 / 12 + 0.1) / 2]
    np.testing.assert_allclose(np.exp(combined.scores[0, :3]), expected, rtol=1e-6)


def test_an_absent_item_is_never_above_a_listed_one() -> None:
    found = {"a": lists([[0, 1]], [[5.0, -5.0]]), "b": lists([[2, 1]], [[0.0, 0.0]])}
    how = Combination(
        calibrations={"a": Calibration(1.0, 0.5), "b": Calibration(1.0, 0.5)},
        weights={"a": 1.0, "b": 0.0},
        ndcg=0.0,
        n_users=0,
    )
    combined = evaluation.combine(found, how, n_items=3, top_k=3)
    assert combined.items.tolist() == [[0, 1, 2]]  # .5 is left for item 2, item 1 has .00002


def slow_likelihood(ranking: Rankings, targets: np.ndarray, *, temperature: float) -> float:
    total = 0.0
    for items, scores, target in zip(ranking.items, ranking.scores, targets, strict=True):
        if target in items:
            real = scores[items >= 0].astype(float) / temperature
            total += float(real[items.tolist().index(target)] - np.log(np.exp(real).sum()))
    return total


def test_a_temperature_is_the_most_likely_one() -> None:
    generator = np.random.default_rng(0)
    n_users, width = 3000, 8
    items = np.stack([generator.permutation(N_ITEMS)[:width] for _ in range(n_users)])
    scores = -np.sort(-generator.normal(size=(n_users, width)), axis=1).astype(np.float32)
    powers = np.exp(scores / 0.6)
    drawn = (powers.cumsum(axis=1) / powers.sum(axis=1, keepdims=True)) > generator.random(
        (n_users, 1)
    )
    targets = items[np.arange(n_users), drawn.argmax(axis=1)]
    targets[:600] = [next(i for i in range(N_ITEMS) if i not in row) for row in items[:600]]
    ranking = Rankings(items=items.astype(np.int32), scores=scores)
    how = evaluation.calibrate(ranking, targets.astype(np.int32))
    assert how.temperature == pytest.approx(0.6, rel=0.06)
    assert how.absent == 601 / 3002
    best = slow_likelihood(ranking, targets, temperature=how.temperature)
    for factor in (0.98, 1.02):
        other = slow_likelihood(ranking, targets, temperature=factor * how.temperature)
        assert best > other


def test_scores_on_another_scale_are_calibrated_away() -> None:
    targets = np.arange(25, dtype=np.int32) % N_ITEMS
    first, second = random_lists(1), random_lists(2)
    scaled = Rankings(second.items, second.scores * np.float32(64) + np.float32(1024))
    plain = evaluation.fit({"a": first, "b": second}, targets, n_items=N_ITEMS)
    other = evaluation.fit({"a": first, "b": scaled}, targets, n_items=N_ITEMS)
    assert other.weights == plain.weights
    assert other.calibrations["b"].temperature == pytest.approx(
        64 * plain.calibrations["b"].temperature, rel=1e-3
    )


@pytest.mark.parametrize("targets", [[9], [0]])
def test_scores_that_say_nothing(targets: list[int]) -> None:
    equal = lists([[0, 1]], [[2.0, 2.0]])
    how = evaluation.calibrate(equal, np.array(targets, np.int32))
    assert how == Calibration(1.0, 2 / 3 if targets == [9] else 1 / 3)


def every_ndcg(
    found: dict[str, Rankings], how: Combination, targets: np.ndarray
) -> dict[tuple[int, ...], np.ndarray]:
    """Give each user's NDCG@10 under all weights of three lists."""
    every = {}
    for a in range(11):
        for b in range(11 - a):
            parts = (a, b, 10 - a - b)
            weights = {name: part / 10 for name, part in zip(found, parts, strict=True)}
            tried = Combination(how.calibrations, weights, 0.0, 0)
            ranked = evaluation.combine(found, tried, n_items=N_ITEMS, top_k=20)
            every[parts] = evaluation.gains(ranked, targets)[:, -1]
    assert len(every) == 66
    return every


@pytest.mark.parametrize("chance", [-9.0, 0.2, 1.645])
def test_weights_are_the_best_of_all_tenths_of_lists_that_add_something(
    monkeypatch: pytest.MonkeyPatch, chance: float
) -> None:
    monkeypatch.setattr("mql4grec.evaluation.combination.CHANCE", chance)
    targets = np.random.default_rng(5).integers(0, N_ITEMS, 25).astype(np.int32)
    found = {"a": random_lists(1), "b": random_lists(2), "c": random_lists(3)}
    how = evaluation.fit(found, targets, n_items=N_ITEMS)
    every = every_ndcg(found, how, targets)

    def best(without: set[int]) -> np.ndarray:
        allowed = [own for parts, own in every.items() if not any(parts[i] for i in without)]
        return max(allowed, key=lambda own: own.mean())

    without: set[int] = set()
    while len(without) < 2:
        scores = {}
        for one in {0, 1, 2} - without:
            added = best(without) - best(without | {one})
            scores[one] = added.mean() / max(added.std() / 5, 1e-12)
        worst = min(scores, key=lambda one: scores[one])
        if scores[worst] > chance:
            break
        without.add(worst)
    assert {name for name, weight in how.weights.items() if weight == 0} >= {
        "abc"[one] for one in without
    }
    assert how.ndcg == pytest.approx(best(without).mean())
    chosen = tuple(round(10 * how.weights[name]) for name in "abc")
    assert every[chosen].mean() == pytest.approx(how.ndcg)
    assert how.n_users == 25


def made_up(
    generator: np.random.Generator, targets: np.ndarray, *, known: np.ndarray, n_items: int
) -> Rankings:
    """Make lists that have the target first for the users who are known, and are noise else."""
    items = np.stack([generator.permutation(n_items)[:20] for _ in targets]).astype(np.int32)
    for user in np.flatnonzero(known):
        row = [item for item in items[user] if item != targets[user]]
        items[user] = [targets[user], *row][:20]
    sure = 3.0 * known[:, None] * (np.arange(20) == 0)
    return Rankings(items, (sure - 0.1 * np.arange(20)).astype(np.float32))


def test_noise_has_hardly_ever_weight_and_a_complementary_list_always() -> None:
    n_users, n_items, n_noise = 600, 300, 0
    for seed in range(20):
        generator = np.random.default_rng(seed)
        targets = generator.integers(0, n_items, n_users).astype(np.int32)
        draw = generator.random(n_users)
        known = {"main": draw < 0.2, "noise": draw < 0, "other": (draw > 0.15) & (draw < 0.35)}
        found = {
            name: made_up(generator, targets, known=who, n_items=n_items)
            for name, who in known.items()
        }
        how = evaluation.fit(found, targets, n_items=n_items)
        assert min(how.weights["main"], how.weights["other"]) > 0
        gain, error = how.gains["other"]
        assert gain > 1.645 * error > 0
        gain, error = how.gains["noise"]
        assert (how.weights["noise"] > 0) == (gain > 1.645 * error)
        n_noise += how.weights["noise"] > 0
    assert n_noise <= 2  # of 20: a chance of 5 % each


def test_a_list_beside_noise_is_left_alone() -> None:
    generator = np.random.default_rng(1)
    targets = generator.integers(0, 300, 600).astype(np.int32)
    draw = generator.random(600)
    found = {
        "noise": made_up(generator, targets, known=draw < 0, n_items=300),
        "main": made_up(generator, targets, known=draw < 0.2, n_items=300),
    }
    how = evaluation.fit(found, targets, n_items=300)
    assert how.weights == {"noise": 0.0, "main": 1.0}
    assert list(how.gains) == ["noise"]
    combined = evaluation.combine(found, how, n_items=300, top_k=20)
    np.testing.assert_array_equal(combined.items[:, :10], found["main"].items[:, :10])


def test_a_list_that_knows_beats_one_that_does_not() -> None:
    targets = np.arange(25, dtype=np.int32) % N_ITEMS
    others = (targets[:, None] + 1 + np.arange(4)) % N_ITEMS
    right = np.concatenate([targets[:, None], others], axis=1)
    scores = np.tile([3.0, 1.0, 0.5, 0.2, 0.1], (25, 1)).tolist()
    found = {"wrong": lists(others.tolist(), [[4.0, 3.0, 2.0, 1.0]] * 25)}
    found["right"] = lists(right.tolist(), scores)
    how = evaluation.fit(found, targets, n_items=N_ITEMS)
    assert how.weights["right"] >= 0.5
    assert how.ndcg == 1.0


def test_of_a_list_and_its_copy_the_first_is_left() -> None:
    ranking = random_lists(3)
    targets = np.zeros(25, np.int32)
    how = evaluation.fit({"a": ranking, "b": ranking}, targets, n_items=N_ITEMS)
    assert how.weights == {"a": 1.0, "b": 0.0}
    assert how.gains == {"b": (0.0, 0.0)}


def test_equally_good_weights_are_those_nearest_to_equal() -> None:
    """Each list knows half of the users and lacks the others, so that all weights do as well."""
    targets = np.full(40, 13, np.int32)
    rows, nothing = np.array([[13, 1, 2, 3]]), np.full((1, 4), -1)
    first = np.concatenate([rows, nothing])
    found = {
        name: lists(np.tile(half, (20, 1)).tolist(), [[4.0, 3.0, 2.0, 1.0]] * 40)
        for name, half in (("a", first), ("b", first[::-1]))
    }
    how = evaluation.fit(found, targets, n_items=N_ITEMS)
    assert how.weights == {"a": 0.5, "b": 0.5}
    assert how.ndcg == 1
    lost = (1 - 1 / np.log2(5)) / 2  # of half of the users, who have the lower rows first
    assert how.gains == {
        name: (pytest.approx(lost), pytest.approx(lost / np.sqrt(40))) for name in ("a", "b")
    }


def table(path: Path, **columns: list[Any]) -> Path:
    rows: dict[str, list[Any]] = {
        "user_id": ["u2", "u2", "u9", "u1"],
        "rank": [2, 1, 1, 7],
        "item_id": ["a", "c", "a", "b"],
        "score": [1.0, 2.0, 0.0, -3.0],
    }
    pl.DataFrame({**rows, **columns}).write_parquet(path)
    return path


def test_a_ranking_from_elsewhere(tmp_path: Path) -> None:
    path = table(tmp_path / "mine.parquet")
    found = report.read_rankings(path, user_ids=["u1", "u2", "u3"], item_ids=["a", "b", "c"])
    assert found.items.tolist() == [[1, -1], [2, 0], [-1, -1]]
    assert found.scores.tolist() == [[-3.0, -np.inf], [2.0, 1.0], [-np.inf, -np.inf]]
    assert (found.items.dtype, found.scores.dtype) == (np.int32, np.float32)


def test_rankings_are_read_as_they_were_written(tmp_path: Path) -> None:
    users, items = [f"u{n}" for n in range(25)], [f"i{n}" for n in range(N_ITEMS)]
    ranking = random_lists(1)
    report.write_rankings(tmp_path / "a.parquet", ranking, user_ids=users, item_ids=items)
    found = report.read_rankings(tmp_path / "a.parquet", user_ids=users, item_ids=items)
    width = found.items.shape[1]
    np.testing.assert_array_equal(found.items, ranking.items[:, :width])
    np.testing.assert_array_equal(found.scores, ranking.scores[:, :width])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"item_id": ["a", "x", "a", "b"]},
            "expected items of the shop, got item 'x' with score 2.0 for user 'u2'; mend the file",
        ),
        (
            {"score": [1.0, 2.0, 0.0, float("nan")]},
            "expected scores that are numbers, got item 'b' with score nan for user 'u1'; "
            "mend the file",
        ),
        (
            {"item_id": ["a", "a", "a", "b"]},
            "expected each item once per user, got item 'a' with score 1.0 for user 'u2'; "
            "mend the file",
        ),
    ],
)
def test_faulty_rows_of_a_ranking(
    tmp_path: Path, columns: dict[str, list[Any]], message: str
) -> None:
    path = table(tmp_path / "mine.parquet", **columns)
    with pytest.raises(DataError) as caught:
        report.read_rankings(path, user_ids=["u1", "u2"], item_ids=["a", "b", "c"])
    assert str(caught.value) == f"`{path}`: {message}"


def test_faulty_ranking_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    pl.DataFrame({"user_id": ["u"], "item_id": ["a"], "place": [1]}).write_parquet(path)
    with pytest.raises(DataError) as caught:
        report.read_rankings(path, user_ids=["u"], item_ids=["a"])
    assert str(caught.value) == (
        f"`{path}`: expected the columns ['user_id', 'rank', 'item_id', 'score'], ['rank', 'score']"
        " missing; write it as `evaluation/rankings/*.parquet` of a run are"
    )
    with pytest.raises(DataError, match=r"none.parquet`: expected a Parquet file, got "):
        report.read_rankings(tmp_path / "none.parquet", user_ids=["u"], item_ids=["a"])


KNOWN = "['text', 'image', 'popular', 'item_knn', 'ease', 'ease_codes', 'sasrec'"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"combine": ["ease"]},
            f"`combine`: expected none, or two or more of {KNOWN}], each once, got ['ease']",
        ),
        (
            {"combine": ["ease", "fused"]},
            f"`combine`: expected none, or two or more of {KNOWN}], each once, "
            "got ['ease', 'fused']",
        ),
        (
            {
                "combine": ["mine", "mine"],
                "files": [{"name": "mine", "test": "a.parquet", "validation": "b.parquet"}],
            },
            f"`combine`: expected none, or two or more of {KNOWN}, 'mine'], each once, "
            "got ['mine', 'mine']",
        ),
        (
            {"files": [{"name": "ease", "test": "a.parquet", "validation": "b.parquet"}]},
            "`files`: expected distinct names, none of ['text', 'image', 'fused', 'combined', "
            "'reranked', 'popular', 'item_knn', 'ease', 'ease_codes', 'sasrec'], got ['ease']",
        ),
    ],
)
def test_faulty_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        EvaluationSettings(**values)
    assert message in str(caught.value)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"a": random_lists(1), "b": random_lists(2)}
    how = evaluation.fit(found, np.zeros(25, np.int32), n_items=N_ITEMS)
    whole = evaluation.combine(found, how, n_items=N_ITEMS, top_k=9)
    monkeypatch.setattr("mql4grec.evaluation.combination.CHUNK", 4)
    parts = evaluation.combine(found, how, n_items=N_ITEMS, top_k=9)
    np.testing.assert_array_equal(parts.items, whole.items)
    np.testing.assert_array_equal(parts.scores, whole.scores)


@pytest.mark.parametrize(
    ("found", "n_targets", "message"),
    [
        (
            {"a": random_lists(1)},
            25,
            "`rankings`: expected two or more, got ['a']; name what is to be combined",
        ),
        (
            {"a": random_lists(1), "b": random_lists(1, n_users=3)},
            25,
            "`rankings`: expected the same users in all, got {'a': 25, 'b': 3}; rank them all",
        ),
        (
            {"a": random_lists(1), "b": random_lists(2)},
            4,
            "`targets`: expected shape (25,) to match `rankings`, got (4,); give one target per "
            "ranked user",
        ),
    ],
)
def test_faulty_lists(found: dict[str, Rankings], n_targets: int, message: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        evaluation.fit(found, np.zeros(n_targets, np.int32), n_items=N_ITEMS)
    assert str(caught.value) == message


def test_lists_that_were_not_fitted() -> None:
    found: dict[str, Any] = {"a": random_lists(1), "b": random_lists(2)}
    how = evaluation.fit(found, np.zeros(25, np.int32), n_items=N_ITEMS)
    with pytest.raises(ValueError, match="as fitted") as caught:
        evaluation.combine({"a": found["a"]}, how, n_items=N_ITEMS, top_k=2)
    assert str(caught.value) == (
        "`rankings`: expected ['a', 'b'] as fitted, got ['a']; give the same lists"
    )
