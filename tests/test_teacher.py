"""What a decoder-only model learns of a teacher's lists."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_language as tiny
import tiny_training as training
from mql4grec import decoding, language, recommender
from mql4grec.config import MODALITIES, LanguageSettings
from mql4grec.errors import ArtifactError
from mql4grec.language import Corpus
from mql4grec.recommender.loop import Loop
from test_causal import N_ITEMS, ids_of, shop, trace, train


def teacher_of(one: Corpus, *, share: float = 0.5) -> recommender.Teacher:
    """Teach that after any event item 9 comes three times as often as 8, whatever was seen."""
    n = int(one.histories.held_out(2).offsets[-1])
    shares = np.tile(np.array([0.75, 0.25], np.float32), (n, 1))
    return recommender.Teacher(np.tile(np.array([9, 8], np.int32), (n, 1)), shares, share)


def test_shares_are_sharpened_probabilities() -> None:
    scores = np.array([[0.0, -1.0, -np.inf], [-np.inf] * 3], np.float32)
    shares = recommender.sharpen(scores, temperature=2.0)
    powers = np.exp(np.array([0.0, -1.0]) * 3 / 2)
    np.testing.assert_allclose(shares[0], [*powers / powers.sum(), 0], rtol=1e-6)
    assert shares[1].tolist() == [0, 0, 0]


def test_cold_items_get_a_part_by_their_ranks() -> None:
    shares = np.array([[0.75, 0.25], [0.75, 0.25], [0.75, 0.25], [0, 0]], np.float32)
    cold = np.array([[4, 5, 6], [4, -1, -1], [-1, -1, -1], [4, 5, -1]], np.int32)
    found = recommender.add_cold(shares, cold, share=0.1)
    assert found.dtype == np.float32
    expected = [
        [0.675, 0.225, 0.6 / 11, 0.3 / 11, 0.2 / 11],
        [0.75 * (1 - 0.6 / 11), 0.25 * (1 - 0.6 / 11), 0.6 / 11, 0, 0],
        [0.75, 0.25, 0, 0, 0],
        [0, 0, 0.6 / 11, 0.3 / 11, 0],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_teacher_draws_by_its_shares() -> None:
    teacher = recommender.Teacher(
        np.array([[4, 7, -1], [-1, -1, -1]], np.int32),
        np.array([[0.2, 0.8, 0], [0, 0, 0]], np.float32),
        share=0.5,
    )
    drawn = teacher.draw(np.repeat([0, 1], 4000), np.random.default_rng(0))
    assert set(drawn[4000:].tolist()) == {-1}
    assert set(drawn[:4000].tolist()) == {4, 7}
    assert (drawn[:4000] == 4).mean() == pytest.approx(0.2, abs=0.03)


def last_epoch() -> dict[str, Any]:
    """Give the settings with which the last epoch is kept: what came next is not what is taught."""
    numbers = itertools.count(1)
    return {"select_by": "ndcg", "ndcg": lambda _: float(next(numbers))}


def test_a_taught_model_recommends_what_the_teacher_would(tmp_path: Path) -> None:
    one = shop(n_users=90)
    found = []
    for name, values in (
        ("taught", {"teacher": teacher_of(one, share=1.0), "teacher_share": 1.0}),
        ("alone", {}),
    ):
        values |= last_epoch()
        model = train(tmp_path / name, corpora=[one], epochs=12, dropout=0.0, **values)
        inputs = language.encode_items(one, one.histories.held_out(1))
        ranked = decoding.recommend(
            model,
            decoding.build_trie(ids_of("text")),
            vocabulary=one.vocabulary,
            modality="text",
            inputs=inputs,
            n_beams=5,
        )
        found.append((ranked.items[:, 0] == 9).mean())
    assert found[0] > 0.95
    assert found[1] < 0.5


def test_a_teacher_alone_tells_what_follows_a_whole_history(tmp_path: Path) -> None:
    """Where the data answer all other places (almost), the end of a history is the teacher's."""
    one = shop(n_users=90)
    model = train(
        tmp_path,
        corpora=[one],
        epochs=12,
        dropout=0.0,
        teacher=teacher_of(one, share=1e-9),
        teacher_share=1e-9,
        **last_epoch(),
    )
    found = decoding.recommend(
        model,
        decoding.build_trie(ids_of("text")),
        vocabulary=one.vocabulary,
        modality="text",
        inputs=language.encode_items(one, one.histories.held_out(2)),
        n_beams=5,
    )
    by_chance = [found.items[:, :2] == item for item in range(N_ITEMS)]
    shares = [seen.any(axis=1).mean() for seen in by_chance]
    assert set(np.argsort(shares)[-2:]) == {8, 9}
    assert shares[9] > 0.5


def test_a_teacher_and_its_share_belong_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`teacher`: expected one with `teacher_share` above 0"):
        train(tmp_path, teacher_share=0.5)
    with pytest.raises(ValueError, match="`teacher`: expected one with `teacher_share` above 0"):
        train(tmp_path, teacher=teacher_of(shop(n_users=90)))


def test_a_taught_training_that_is_interrupted_ends_with_the_same_weights(tmp_path: Path) -> None:
    values = {"batch_size": 16, "teacher": teacher_of(shop(n_users=90)), "teacher_share": 0.5}
    undisturbed = train(tmp_path / "undisturbed", **values)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", journal=training.Recorder(stop_after=3), **values)
    resumed = train(tmp_path / "killed", **values)
    for name, tensor in training.weights(undisturbed).items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_training_by_another_teacher_is_not_gone_on_with(tmp_path: Path) -> None:
    one = shop(n_users=90)
    values = {"corpora": [one], "teacher_share": 0.5, "epochs": 1}
    train(tmp_path, teacher=teacher_of(one), **values)
    other = teacher_of(one)
    other.items[0] = 7
    with pytest.raises(ArtifactError, match="with other settings, data, first weights or teacher"):
        train(tmp_path, teacher=other, **values)


def test_steps_in_which_only_the_teacher_answers_leave_finite_weights(tmp_path: Path) -> None:
    """What came next has no codes in any modality, in one step of three."""
    ids = {modality: ids_of(modality) for modality in MODALITIES}
    for each in ids.values():
        each.present[3] = False
        each.codes[3] = 0
    users = [[3, 3, 3, 1, 2], [3, 3, 3, 3, 2, 4], [1, 2, 5, 6, 7, 8]]
    settings = LanguageSettings(max_his_len=5)
    vocabulary = language.build_vocabulary(settings, n_codes=tiny.N_CODES)
    one = language.build_corpus(vocabulary, tiny.histories(*users), ids, settings)
    values = {"teacher": teacher_of(one), "teacher_share": 0.5, "batch_size": 1}
    model = train(tmp_path, corpora=[one], **values)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_with_a_teacher_alone_padding_changes_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher is sure of one item, so that drawing it comes to the same."""
    n_events = len(shop(n_users=90).histories.held_out(2).items)
    sure = recommender.Teacher(
        np.full((n_events, 1), 9, np.int32), np.ones((n_events, 1), np.float32), share=1.0
    )
    given = {"teacher": sure, "teacher_share": 1.0, "dropout": 0.0, "epochs": 2}
    train(tmp_path / "without", **given)
    monkeypatch.setattr(Loop, "keeps_padding", True)
    train(tmp_path / "with", **given)
    assert trace(tmp_path / "with") == pytest.approx(trace(tmp_path / "without"), abs=1e-5)
