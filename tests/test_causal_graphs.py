"""A decoder-only model's steps on a GPU, whose graphs are, on a CPU, the work done again."""

from pathlib import Path

import numpy as np
import pytest
import torch

import test_causal as causal
import test_teacher as teachers
from mql4grec import language, recommender
from mql4grec.config import MODALITIES
from mql4grec.language import Corpus
from mql4grec.recommender import causal_steps, choices
from mql4grec.recommender.causal_steps import CausalSteps, put_lookups
from mql4grec.recommender.epochs import draw_epoch
from test_recommender_graphs import CPU, recordings, with_graphs_of_all


def teacher_of(one: Corpus, name: str) -> recommender.Teacher | None:
    """Give no teacher, or one that is sure of an item that has no picture, or has none to tell."""
    n = len(one.histories.held_out(2).items)
    if name == "none":
        return None
    items = np.where(np.arange(n) % 3 == 0, -1, 3 if name == "no picture" else 9)[:, None]
    shares = (items >= 0).astype(np.float32)
    return recommender.Teacher(items.astype(np.int32), shares, share=1.0)


@pytest.mark.parametrize(
    ("teacher", "samples"),
    [("none", "prefixes"), ("no picture", "prefixes"), ("sure", "prefixes"), ("sure", "windows")],
)
def test_a_decoder_only_model_follows_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: str, samples: str
) -> None:
    """Nothing is drawn but windows, so that both ways learn the same."""
    one = causal.shop(n_users=90, samples=samples)
    taught = teacher_of(one, teacher)
    given = {"corpora": [one], "teacher": taught, "dropout": 0.0, "epochs": 2}
    given |= {"teacher_share": 1.0} if taught else {}
    causal.train(tmp_path / "one by one", **given)
    with_graphs_of_all(monkeypatch)
    causal.train(tmp_path / "graphs", **given)
    found, expected = (causal.trace(tmp_path / name) for name in ("graphs", "one by one"))
    assert found == pytest.approx(expected, abs=1e-5)


def causal_steps_of(one: Corpus, teacher: recommender.Teacher | None) -> CausalSteps:
    epoch = draw_epoch(one, (), seed=0, stage="finetune", number=0, whole=True)
    branches = {m: language.list_branches(one, m) for m in MODALITIES}
    lookups = put_lookups(epoch, language.spell_items(one), branches, teacher, device=CPU)
    return CausalSteps(causal.model_of(one), lookups, bf16=False, recordings=recordings())


def test_what_is_asked_and_can_be_chosen_is_what_the_host_would_list() -> None:
    one = causal.shop(n_users=90)
    steps = causal_steps_of(one, teachers.teacher_of(one))
    torch.manual_seed(0)
    asked = steps._ask(torch.arange(30), length=6)
    shares = asked.shares.numpy()
    listed = choices.list_choices(
        steps._model.config,
        language.spell_items(one),
        {m: language.list_branches(one, m) for m in MODALITIES},
        targets=asked.targets.numpy(),
        answers=asked.answers.numpy(),
        shares=shares,
    )
    n_found = 0
    for modality, level, is_open, codes, weights in steps._choices(asked):
        choice = listed[modality][level]
        rows = np.flatnonzero(weights.numpy().any(axis=1))
        np.testing.assert_array_equal(rows, choice.rows)
        np.testing.assert_array_equal(is_open.numpy()[rows], choice.open)
        np.testing.assert_array_equal(codes.numpy()[rows], choice.codes)
        np.testing.assert_allclose(weights.numpy()[rows], choice.shares, rtol=1e-5)
        n_found += len(rows)
    assert n_found > 100


def test_a_teacher_is_drawn_from_by_its_shares() -> None:
    one = causal.shop()
    n = len(one.histories.held_out(2).items)
    items = np.tile(np.array([[4, 7, -1], [-1, -1, -1]], np.int32), (n, 1))[:n]
    shares = np.tile(np.array([[0.2, 0.8, 0], [0, 0, 0]], np.float32), (n, 1))[:n]
    steps = causal_steps_of(one, recommender.Teacher(items, shares, share=0.5))
    torch.manual_seed(0)
    drawn = steps._draw(torch.tensor([0, 1]).repeat_interleave(4000))
    assert set(drawn[4000:].tolist()) == {-1}
    assert set(drawn[:4000].tolist()) == {4, 7}
    assert (drawn[:4000] == 4).float().mean().item() == pytest.approx(0.2, abs=0.03)


def test_half_of_the_targets_are_the_teachers() -> None:
    one = causal.shop(n_users=90)
    n = len(one.histories.held_out(2).items)
    teacher = recommender.Teacher(
        np.full((n, 1), 9, np.int32), np.ones((n, 1), np.float32), share=0.5
    )
    torch.manual_seed(0)
    steps = causal_steps_of(one, teacher)
    lengths = steps._lookups.lengths
    rows = torch.arange(len(lengths))
    asked = steps._ask(rows, length=7)
    place = torch.arange(7).repeat(len(rows))
    inner = (place > 0) & (place < lengths.repeat_interleave(7))
    others = inner & (asked.items != 9)
    assert (asked.targets[others] == 9).float().mean().item() == pytest.approx(0.5, abs=0.1)
    last = place == lengths.repeat_interleave(7)
    assert (asked.targets[last] == 9).all()
    assert (asked.shares[last] == torch.tensor([0.0, 1.0])).all()
    assert (asked.shares[inner] == 0.5).all()
    assert not asked.shares[place > lengths.repeat_interleave(7)].any()


def test_windows_are_filled_up_to_few_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal_steps, "LENGTHS", (2, 4, 8))
    steps = causal_steps_of(causal.shop(n_users=90), None)
    steps.begin()
    for longest in (2, 3, 5, 6):
        last = np.flatnonzero(steps._lengths == longest)[0]
        steps.add(np.array([last, *np.flatnonzero(steps._lengths <= longest)[:2]]), seed=0)
    assert set(steps._rows) == {(3, 2), (3, 4), (3, 6)}  # six items are the most
