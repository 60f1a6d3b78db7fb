"""Our beam search against `generate`, against scoring every item, and against the known traps."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mql4grec import decoding, language
from mql4grec.codes import SemanticIds
from mql4grec.config import LanguageSettings
from mql4grec.decoding import t5
from mql4grec.decoding.progress import PARTIAL
from mql4grec.runtime import Runtime
from tiny_decoding import (
    SHAPES,
    Stop,
    StoppingJournal,
    World,
    assert_same,
    generate,
    items_of,
    make_inputs,
    make_world,
    processor,
    recommend_by_generate,
    score_all,
)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000), n_codes=st.sampled_from(SHAPES), n_beams=st.sampled_from([2, 7, 20])
)
def test_same_items_and_scores_as_generate(
    seed: int, n_codes: tuple[int, ...], n_beams: int
) -> None:
    world = make_world(seed, n_codes=n_codes)
    inputs = make_inputs(world, seed=seed)
    assert_same(
        world.recommend(inputs, n_beams=n_beams, batch_size=3),
        recommend_by_generate(world, inputs, n_beams=n_beams),
    )


@pytest.mark.parametrize(
    "config",
    [
        {"feed_forward_proj": "gated-gelu"},
        {"tie_word_embeddings": False},
        {"num_decoder_layers": 1, "num_heads": 3, "relative_attention_num_buckets": 4},
    ],
)
def test_same_as_generate_for_other_kinds_of_t5(config: dict[str, Any]) -> None:
    world = make_world(3, **config)
    inputs = make_inputs(world)
    expected = recommend_by_generate(world, inputs, n_beams=6)
    assert_same(world.recommend(inputs, n_beams=6), expected)


@pytest.mark.parametrize("seed", range(4))
def test_one_beam_is_greedy(seed: int) -> None:
    world = make_world(seed)
    inputs = make_inputs(world, seed=seed)
    out = generate(world, inputs, num_beams=1, logits_processor=[processor(world)])
    greedy = items_of(world, out.sequences.numpy())
    assert (greedy >= 0).all()
    np.testing.assert_array_equal(world.recommend(inputs, n_beams=1).items[:, 0], greedy)


@pytest.mark.parametrize("n_codes", SHAPES)
def test_a_catalog_smaller_than_the_beam_comes_back_whole(n_codes: tuple[int, ...]) -> None:
    world = make_world(1, n_codes=n_codes)
    inputs = make_inputs(world)
    n_items = len(world.items)
    ranking = world.recommend(inputs, n_beams=n_items + 9)
    assert ranking.items.shape == (5, n_items + 9)
    for row in ranking.items.tolist():
        assert set(row[:n_items]) == world.items
        assert row[n_items:] == [-1] * 9
    assert (np.isneginf(ranking.scores) == (ranking.items < 0)).all()
    assert ranking.items.dtype == np.int32
    assert ranking.scores.dtype == np.float32


def test_scores_are_log_probabilities_of_codes_and_eos_over_the_whole_vocabulary() -> None:
    world = make_world(2)
    inputs = make_inputs(world)
    expected = score_all(world, inputs)  # (U, n_items)
    order = np.argsort(-expected, axis=1)
    ranking = world.recommend(inputs, n_beams=expected.shape[1])
    rows = np.flatnonzero(world.ids.present)
    np.testing.assert_array_equal(ranking.items, rows[order])
    best = np.take_along_axis(expected, order, axis=1)
    np.testing.assert_allclose(ranking.scores, best, atol=1e-4)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), n_beams=st.integers(1, 12))
def test_only_items_come_out_each_once(seed: int, n_beams: int) -> None:
    world = make_world(seed, n_codes=(4, 5, 3))
    ranking = world.recommend(make_inputs(world, seed=seed), n_beams=n_beams)
    for row in ranking.items.tolist():
        found = [item for item in row if item >= 0]
        assert len(set(found)) == len(found)
        assert set(found) <= world.items
    assert (np.diff(ranking.scores, axis=1)[ranking.items[:, 1:] >= 0] <= 0).all()


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_change_nothing_and_users_keep_their_order(batch_size: int) -> None:
    world = make_world(4)
    inputs = make_inputs(world, n_users=7)
    whole = world.recommend(inputs, n_beams=8)
    assert_same(world.recommend(inputs, n_beams=8, batch_size=batch_size), whole)
    tokens, mask = inputs
    for user in range(7):
        alone = world.recommend((tokens[user, None], mask[user, None]), n_beams=8)
        np.testing.assert_array_equal(alone.items[0], whole.items[user])


def test_padding_does_not_matter() -> None:
    world = make_world(5)
    inputs = make_inputs(world)
    wide = tuple(np.pad(part, ((0, 0), (0, 4))) for part in inputs)
    assert_same(
        world.recommend(wide, n_beams=5),
        world.recommend(inputs, n_beams=5),
    )


def test_nobody_to_rank_for() -> None:
    world = make_world(5)
    nobody = (np.zeros((0, 3), np.int64), np.zeros((0, 3), np.int64))
    assert world.recommend(nobody, n_beams=5).items.shape == (0, 5)


def test_dropout_is_off_whatever_the_mode() -> None:
    world = make_world(6)
    inputs = make_inputs(world)
    expected = world.recommend(inputs, n_beams=5)
    world.model.train()
    assert_same(world.recommend(inputs, n_beams=5), expected)


def test_bfloat16_ranks_items_too() -> None:
    world = make_world(7)
    inputs = make_inputs(world)
    expected = world.recommend(inputs, n_beams=10)
    half = world.recommend(inputs, n_beams=10, runtime=Runtime(precision="bf16"))
    assert set(half.items.ravel().tolist()) <= world.items
    np.testing.assert_allclose(half.scores, expected.scores, atol=0.3)


def test_bfloat16_sums_over_the_vocabulary_where_that_is_fast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert t5.rough(torch.empty(2083, 8), dtype=torch.bfloat16).dtype == torch.bfloat16
    for n, dtype in ((2083, torch.float32), (2088, torch.bfloat16)):
        assert t5.rough(torch.empty(n, 8, device="meta"), dtype=torch.bfloat16).dtype == dtype
    world = make_world(7)
    inputs = make_inputs(world)
    expected = world.recommend(inputs, n_beams=10)
    monkeypatch.setattr(t5, "rough", lambda head, dtype: head)
    half = world.recommend(inputs, n_beams=10, runtime=Runtime(precision="bf16"))
    np.testing.assert_allclose(half.scores, expected.scores, atol=0.3)


def test_a_restricted_trie_gives_only_those_items() -> None:
    world = make_world(8)
    wanted = np.zeros(len(world.ids.present), bool)
    wanted[sorted(world.items)[::3]] = True
    part = World(world.ids, world.vocabulary, world.model, world.trie.restrict(wanted))
    ranking = part.recommend(make_inputs(world), n_beams=40)
    for row in ranking.items.tolist():
        assert set(row) - {-1} == set(np.flatnonzero(wanted).tolist())


def test_an_interrupted_call_goes_on_where_it_stopped(tmp_path: Path) -> None:
    world = make_world(9)
    inputs = make_inputs(world, n_users=7)
    expected = world.recommend(inputs, n_beams=6, batch_size=2)
    runtime = Runtime(checkpoint_seconds=0.0)
    common = {"n_beams": 6, "batch_size": 2, "folder": tmp_path, "runtime": runtime}
    with pytest.raises(Stop):
        world.recommend(inputs, journal=StoppingJournal(2), **common)
    assert (tmp_path / PARTIAL).exists()
    journal = StoppingJournal(None)
    found = world.recommend(inputs, journal=journal, **common)
    assert journal.done == [4]
    assert_same(found, expected)
    assert list(tmp_path.iterdir()) == []


def test_what_another_call_left_is_not_used(tmp_path: Path) -> None:
    world = make_world(9)
    runtime = Runtime(checkpoint_seconds=0.0)
    inputs = make_inputs(world, n_users=7)
    other = (np.where(inputs[1] > 0, world.vocabulary.eos, world.vocabulary.pad), inputs[1])
    with pytest.raises(Stop):
        world.recommend(
            other,
            n_beams=6,
            batch_size=2,
            folder=tmp_path,
            runtime=runtime,
            journal=StoppingJournal(2),
        )
    assert (tmp_path / PARTIAL).exists()
    found = world.recommend(inputs, n_beams=6, folder=tmp_path, runtime=runtime)
    assert_same(found, world.recommend(inputs, n_beams=6))


def test_items_without_codes_are_not_in_the_trie() -> None:
    world = make_world(13)
    expected = np.where(world.ids.present, np.arange(len(world.ids.present)), -1)
    np.testing.assert_array_equal(world.trie.find(world.ids.codes), expected)
    assert world.trie.n_codes == world.ids.n_codes


def test_no_item_has_codes() -> None:
    nothing = SemanticIds("Shop", "image", np.zeros((2, 2), np.uint16), (4, 4), np.zeros(2, bool))
    with pytest.raises(ValueError, match="ids") as caught:
        decoding.build_trie(nothing)
    assert str(caught.value) == (
        "`ids`: expected at least one item of `Shop` with image codes, got none; "
        "decode in the other modality"
    )


def test_shared_codes_make_no_trie() -> None:
    shared = SemanticIds("Shop", "text", np.zeros((2, 2), np.uint16), (4, 4), np.ones(2, bool))
    with pytest.raises(ValueError, match="codes"):
        decoding.build_trie(shared)


def test_a_vocabulary_of_other_levels() -> None:
    world = make_world(14)
    other = language.build_vocabulary(LanguageSettings(), n_codes={"text": (5, 4, 8)})
    with pytest.raises(ValueError, match="trie") as caught:
        decoding.spell(world.trie, other, modality="text")
    assert str(caught.value) == (
        "`trie`: expected levels (5, 4, 8) as the vocabulary has for 'text', got (5, 4, 7); "
        "use the vocabulary that the model was trained with"
    )


@pytest.mark.parametrize("arguments", [{"n_beams": 0}, {"n_beams": 2, "batch_size": 0}])
def test_beams_and_batches_of_nothing(arguments: dict[str, int]) -> None:
    world = make_world(15)
    with pytest.raises(ValueError, match="`n_beams`, `batch_size`: expected at least 1"):
        world.recommend(make_inputs(world), **arguments)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'beam'"):
        decoding.beam  # noqa: B018


def test_rankings_need_no_torch() -> None:
    code = "import sys, mql4grec.evaluation, mql4grec.baselines; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
