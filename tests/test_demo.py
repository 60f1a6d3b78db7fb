import csv
import hashlib
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mql4grec.demo import MARKER, make_shop

Scores = NDArray[np.float64]
N_ITEMS, N_USERS = 1000, 1000


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    make_shop(folder, n_items=N_ITEMS, n_users=N_USERS, seed=5)
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def histories(folder: Path) -> list[list[int]]:
    rows = {item["item_id"]: row for row, item in enumerate(read(folder / "items.csv"))}
    found: dict[str, list[int]] = {}
    for event in read(folder / "interactions.csv"):
        found.setdefault(event["user_id"], []).append(rows[event["item_id"]])
    return list(found.values())


def hit_rate(users: list[list[int]], scores: list[Scores]) -> float:
    """Part of the users whose last item is among the ten best that they do not have yet."""
    hits = 0
    for history, own in zip(users, scores, strict=True):
        open_scores = own.copy()
        open_scores[history[:-1]] = -np.inf
        hits += history[-1] in np.argsort(-open_scores)[:10]
    return hits / len(users)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_shop(tmp_path / name, n_items=60, n_users=40, seed=seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


def test_more_users_do_not_change_the_items(tmp_path: Path) -> None:
    make_shop(tmp_path / "a", n_items=40, n_users=5, seed=1)
    make_shop(tmp_path / "b", n_items=40, n_users=9, seed=1)
    first, second = digest(tmp_path / "a"), digest(tmp_path / "b")
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {"interactions.csv", MARKER}


def test_a_finished_shop_is_kept_and_another_one_replaced(tmp_path: Path) -> None:
    make_shop(tmp_path, n_items=40, n_users=5, seed=1)
    (tmp_path / "items.csv").write_text("touched")
    make_shop(tmp_path, n_items=40, n_users=5, seed=1)
    assert (tmp_path / "items.csv").read_text() == "touched"
    make_shop(tmp_path, n_items=20, n_users=5, seed=1)
    assert len(read(tmp_path / "items.csv")) == 20
    assert len(list((tmp_path / "images").iterdir())) == 20


def test_an_interrupted_shop_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shop(tmp_path / "whole", n_items=30, n_users=5, seed=3)
    with monkeypatch.context() as patch:
        patch.setattr("mql4grec.demo.make_events", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make_shop(tmp_path / "torn", n_items=30, n_users=5, seed=3)
    assert not (tmp_path / "torn" / MARKER).exists()
    make_shop(tmp_path / "torn", n_items=30, n_users=5, seed=3)
    assert digest(tmp_path / "torn") == digest(tmp_path / "whole")


@pytest.mark.parametrize(("n_items", "n_users"), [(1, 1), (3, 2), (7, 20)])
def test_tiny_shops(tmp_path: Path, n_items: int, n_users: int) -> None:
    make_shop(tmp_path, n_items=n_items, n_users=n_users, seed=0)
    assert len(read(tmp_path / "items.csv")) == n_items
    assert len(histories(tmp_path)) == n_users


def test_wrong_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`n_users`: expected a positive number, got 0"):
        make_shop(tmp_path, n_items=5, n_users=0, seed=0)


def test_tables(shop: Path) -> None:
    items = read(shop / "items.csv")
    assert list(items[0]) == ["item_id", "title", "description", "image"]
    assert [item["item_id"] for item in items] == [f"item-{row:04d}" for row in range(N_ITEMS)]
    assert sum(item["title"] == "" for item in items) == 5  # 0.5 %
    events = read(shop / "interactions.csv")
    assert list(events[0]) == ["user_id", "item_id", "timestamp"]
    times = [int(event["timestamp"]) for event in events]
    assert times == sorted(times)
    users = histories(shop)
    assert len(users) == N_USERS
    assert {len(history) for history in users} == set(range(6, 16))
    assert all(len(set(history)) == len(history) for history in users)


def test_a_few_pictures_are_missing_or_cut_short(shop: Path) -> None:
    faults: Counter[str] = Counter()
    for item in read(shop / "items.csv"):
        path = shop / item["image"]
        if not path.exists():
            faults["missing"] += 1
            continue
        try:
            with Image.open(path) as picture:
                picture.load()
                assert picture.size == (96, 96)
        except (OSError, SyntaxError):
            faults["broken"] += 1
    assert faults["missing"] == 10  # 1 %
    assert 1 <= faults["broken"] <= 10  # 1 %, less those that are missing anyway


def test_popularity_is_mildly_skewed(shop: Path) -> None:
    counts = np.zeros(N_ITEMS)
    for history in histories(shop):
        np.add.at(counts, history, 1)
    top = np.sort(counts)[::-1]
    assert top[:10].sum() / counts.sum() < 0.1
    assert top[0] < 12 * np.median(counts)


def test_histories_can_be_learnt_from_histories(shop: Path) -> None:
    users = histories(shop)
    popular, follows = np.zeros(N_ITEMS), np.zeros((N_ITEMS, N_ITEMS))
    for history in users:
        seen = history[:-1]  # the last item is what is asked for
        np.add.at(popular, seen, 1)
        for first, second in pairwise(seen):
            follows[first, second] += 1
            follows[first, seen] += 0.3
    by_popularity = hit_rate(users, [popular] * len(users))
    by_markov = hit_rate(users, [follows[history[-2]] for history in users])
    assert by_markov > 4 * by_popularity


def test_both_modalities_carry_signal_and_more_together(shop: Path) -> None:
    """What is like the last items, in words or looks, is a far better guess than the popular."""
    users, items = histories(shop), read(shop / "items.csv")
    popular = np.zeros(N_ITEMS)
    for history in users:
        np.add.at(popular, history[:-1], 1)
    by_popularity = hit_rate(users, [popular] * len(users))
    words, looks = word_vectors(items), look_vectors(items, shop)
    by_words = hit_rate(users, likest(users, words, n_last=4))
    by_looks = hit_rate(users, likest(users, looks, n_last=1))
    by_both = hit_rate(users, likest(users, np.hstack([words, looks]), n_last=4))
    assert by_words > 3 * by_popularity
    assert by_looks > 2 * by_popularity
    assert by_both > 1.1 * max(by_words, by_looks)


def likest(users: list[list[int]], vectors: Scores, *, n_last: int) -> list[Scores]:
    like = vectors @ vectors.T  # (N, N)
    return [like[history[-1 - n_last : -1]].sum(axis=0) for history in users]


def word_vectors(items: list[dict[str, str]]) -> Scores:
    texts = [set((item["title"] + " " + item["description"]).lower().split()) for item in items]
    counts = Counter(word for text in texts for word in text)
    column = {word: place for place, word in enumerate(counts)}
    vectors = np.zeros((len(items), len(column)))
    for row, text in enumerate(texts):
        for word in text:
            vectors[row, column[word]] = np.log(len(items) / counts[word])
    return normed(vectors)


def look_vectors(items: list[dict[str, str]], folder: Path) -> Scores:
    """Means of the colours and strengths of the edges: crude, but enough to tell looks apart."""
    vectors = np.zeros((len(items), 5))
    for row, item in enumerate(items):
        try:
            with Image.open(folder / item["image"]) as picture:
                pixels = np.asarray(picture.convert("RGB"), dtype=np.float64)[24:72, 24:72] / 255
        except (OSError, SyntaxError):
            continue
        edges = [np.abs(np.diff(pixels, axis=axis)).mean() * 4 for axis in (0, 1)]
        vectors[row] = [*pixels.min(axis=(0, 1)), *edges]
    return normed(vectors - vectors.mean(axis=0))


def normed(vectors: Scores) -> Scores:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Scores = vectors / np.maximum(lengths, 1e-9)
    return scaled
