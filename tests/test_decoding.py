"""Our beam search against `generate`, against scoring every item, and against the known traps."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import T5Config, T5ForConditionalGeneration

from mql4grec import decoding, language
from mql4grec.codes import SemanticIds
from mql4grec.config import LanguageSettings
from mql4grec.decoding import Rankings, t5
from mql4grec.decoding.progress import PARTIAL
from mql4grec.runtime import Journal, Runtime

SHAPES = [(5, 4, 7), (3, 3), (2, 9, 1, 4, 2), (64, 2, 2, 2)]
Inputs = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class World:
    """A random shop with a random tiny T5."""

    ids: SemanticIds
    vocabulary: language.Vocabulary
    model: T5ForConditionalGeneration
    trie: decoding.ItemTrie

    @property
    def items(self) -> set[int]:
        return set(np.flatnonzero(self.ids.present).tolist())

    def recommend(
        self,
        inputs: Inputs,
        *,
        n_beams: Any,
        batch_size: int = 64,
        search: decoding.Search | None = None,
        filters: decoding.Filters | None = None,
        folder: Path | None = None,
        runtime: Runtime | None = None,
        journal: Journal | None = None,
    ) -> Rankings:
        return decoding.recommend(
            self.model,
            self.trie,
            vocabulary=self.vocabulary,
            modality="text",
            inputs=inputs,
            n_beams=n_beams,
            batch_size=batch_size,
            search=search,
            filters=filters,
            folder=folder,
            runtime=runtime,
            journal=journal or Journal(),
        )


def make_world(seed: int, *, n_codes: tuple[int, ...] = (5, 4, 7), **config: Any) -> World:
    generator = np.random.default_rng(seed)
    space = int(np.prod(n_codes))
    rows = generator.permutation(space)[: min(30, max(2, space // 2))]
    ids = SemanticIds(
        dataset="Shop",
        modality="text",
        codes=np.stack(np.unravel_index(rows, n_codes), axis=1).astype(np.uint16),
        n_codes=n_codes,
        present=generator.random(len(rows)) < 0.8,
    )
    ids.present[0] = True
    vocabulary = language.build_vocabulary(LanguageSettings(), n_codes={"text": n_codes})
    torch.manual_seed(seed)
    sizes = {
        "d_model": 16,
        "d_ff": 24,
        "d_kv": 8,
        "num_heads": 2,
        "num_layers": 2,
        "decoder_start_token_id": vocabulary.pad,
        "pad_token_id": vocabulary.pad,
        "eos_token_id": vocabulary.eos,
    }
    model = T5ForConditionalGeneration(T5Config(vocab_size=vocabulary.n_tokens, **(sizes | config)))
    return World(ids, vocabulary, model.eval(), decoding.build_trie(ids))


def make_inputs(world: World, *, seed: int = 0, n_users: int = 5, width: int = 9) -> Inputs:
    generator = np.random.default_rng(seed)
    tokens = generator.integers(3, world.vocabulary.n_tokens, (n_users, width))
    mask = (np.arange(width) < generator.integers(1, width + 1, (n_users, 1))).astype(np.int64)
    return np.where(mask > 0, tokens, world.vocabulary.pad), mask


def processor(world: World, *, n_start: int = 1) -> decoding.TrieLogitsProcessor:
    return decoding.TrieLogitsProcessor(spelling(world), n_start=n_start)


def spelling(world: World) -> decoding.Spelling:
    return decoding.spell(world.trie, world.vocabulary, modality="text")


def generate(world: World, inputs: Inputs, **arguments: Any) -> Any:
    input_ids, attention_mask = (torch.as_tensor(part) for part in inputs)
    return world.model.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        max_new_tokens=len(world.ids.n_codes) + 1,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
        **{"do_sample": False, **arguments},
    )


def items_of(world: World, sequences: NDArray[np.int64]) -> NDArray[np.int32]:
    """Look up sequences that begin with the decoder start; -1 for what spells no item."""
    codes = sequences[:, 1 : 1 + len(world.ids.n_codes)] - world.vocabulary.first_code["text"]
    spelt = ((codes >= 0) & (codes < world.ids.n_codes)).all(axis=1)
    found = world.trie.find(np.where(spelt[:, None], codes, 0).astype(np.uint16))
    return np.where(spelt, found, np.int32(-1))


def recommend_by_generate(world: World, inputs: Inputs, *, n_beams: int) -> Rankings:
    """Rank as `recommend`, by `generate` with at least two beams."""
    out = generate(
        world,
        inputs,
        num_beams=n_beams,
        num_return_sequences=n_beams,
        logits_processor=[processor(world)],
    )
    scores = out.sequences_scores.numpy()
    items = items_of(world, out.sequences.numpy())
    # Where there are fewer items than beams, it returns duplicates with scores near -1e9.
    items = np.where(scores < -1e8, np.int32(-1), items).reshape(-1, n_beams)
    return Rankings(items=items, scores=np.where(items < 0, -np.inf, scores.reshape(items.shape)))


def score_all(world: World, inputs: Inputs) -> NDArray[np.float32]:
    """Score every item of the trie for every user by teacher forcing: (U, n_items)."""
    codes = world.ids.codes[world.ids.present].astype(np.int64)
    tokens = codes + np.array(world.vocabulary.first_code["text"])
    labels = torch.as_tensor(np.pad(tokens, ((0, 0), (0, 1)), constant_values=world.vocabulary.eos))
    scores = []
    for input_ids, mask in zip(*(torch.as_tensor(part) for part in inputs), strict=True):
        with torch.inference_mode():
            logits = world.model(
                input_ids=input_ids.expand(len(labels), -1),
                attention_mask=mask.expand(len(labels), -1),
                labels=labels,
            ).logits
        chosen = logits.log_softmax(dim=-1).gather(2, labels[:, :, None])
        scores.append(chosen.sum(dim=(1, 2)).numpy())
    return np.stack(scores)


def assert_same(found: Rankings, expected: Rankings) -> None:
    np.testing.assert_array_equal(found.items, expected.items)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


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


class Stop(Exception):
    """An interruption."""


class StoppingJournal(Journal):
    """Stops after some batches; remembers where it started."""

    def __init__(self, n_batches: int | None) -> None:
        super().__init__()
        self.left = n_batches
        self.done: list[int] = []

    @contextmanager
    def track(
        self, description: str, *, total: int, done: int = 0
    ) -> Iterator[Callable[[int], None]]:
        self.done.append(done)

        def advance(n: int) -> None:
            if self.left is not None:
                self.left -= 1
                if self.left == 0:
                    raise Stop

        yield advance


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


def brute_force(world: World, prefix: tuple[int, ...]) -> set[int]:
    """List the tokens that may follow a prefix of codes; eos where nothing may."""
    level = len(prefix)
    codes = [tuple(row) for row in world.ids.codes[world.ids.present].tolist()]
    following = {c[level] for c in codes if level < len(c) and c[:level] == prefix}
    first = world.vocabulary.first_code["text"]
    return {first[level] + code for code in following} or {world.vocabulary.eos}


def test_allowed_tokens_equal_brute_force_for_every_prefix() -> None:
    world = make_world(0, n_codes=(3, 4, 2))
    mask = processor(world, n_start=2)
    prefix_function = decoding.prefix_allowed_tokens_fn(spelling(world), n_start=2)
    for level in range(4):
        prefixes = list(itertools.product(*(range(k) for k in world.ids.n_codes[:level])))
        tokens = [
            [0, 1, *np.add(prefix, world.vocabulary.first_code["text"][:level]).astype(int)]
            for prefix in prefixes
        ]
        sequences = torch.tensor(tokens, dtype=torch.int64)
        scores = torch.randn(len(prefixes), world.vocabulary.n_tokens)
        masked = mask(sequences, scores)
        for prefix, sequence, before, after in zip(
            prefixes, sequences, scores, masked, strict=True
        ):
            expected = brute_force(world, prefix)
            assert set(after.isfinite().nonzero().ravel().tolist()) == expected
            assert torch.equal(after[after.isfinite()], before[after.isfinite()])
            assert sorted(prefix_function(0, sequence)) == sorted(expected)


def test_after_eos_only_padding_is_allowed() -> None:
    world = make_world(0, n_codes=(3, 4, 2))
    tokens = torch.tensor([[0, 9, 9, 9, world.vocabulary.eos]])
    masked = processor(world)(tokens, torch.zeros(1, world.vocabulary.n_tokens))
    assert masked.isfinite().nonzero().tolist() == [[0, world.vocabulary.pad]]


def test_tokens_that_are_no_codes_of_their_level_may_only_end() -> None:
    world = make_world(0, n_codes=(3, 4, 2))
    first = world.vocabulary.first_code["text"]
    for token in (world.vocabulary.eos, first[1], first[0] - 1, world.vocabulary.n_tokens - 1):
        masked = processor(world)(
            torch.tensor([[0, token]]), torch.zeros(1, world.vocabulary.n_tokens)
        )
        assert masked.isfinite().nonzero().tolist() == [[0, world.vocabulary.eos]]


def test_the_prefix_function_generates_what_the_processor_does() -> None:
    world = make_world(10)
    inputs = make_inputs(world)
    prefix_function = decoding.prefix_allowed_tokens_fn(spelling(world))
    beams = {"num_beams": 5, "num_return_sequences": 5}
    ours = generate(world, inputs, logits_processor=[processor(world)], **beams)
    theirs = generate(world, inputs, prefix_allowed_tokens_fn=prefix_function, **beams)
    assert torch.equal(ours.sequences, theirs.sequences)


def test_sampling_with_the_processor_gives_items_only() -> None:
    world = make_world(11)
    torch.manual_seed(0)
    out = generate(
        world,
        make_inputs(world),
        do_sample=True,
        num_return_sequences=40,
        logits_processor=[processor(world)],
    )
    found = items_of(world, out.sequences.numpy())
    assert (found >= 0).all()
    assert len(set(found.tolist())) > 1


def test_looking_up_the_last_token_alone_would_admit_what_is_no_item() -> None:
    world = make_world(12, n_codes=(8, 8, 8))
    codes = [tuple(row) for row in world.ids.codes[world.ids.present].tolist()]
    pairs = {(level, c[level - 1], c[level]) for c in codes for level in (1, 2)}
    starts = {c[0] for c in codes}
    admitted = [
        path
        for path in itertools.product(range(8), repeat=3)
        if path[0] in starts and all((i, path[i - 1], path[i]) in pairs for i in (1, 2))
    ]
    assert set(codes) < set(admitted)
    found = world.trie.find(np.array(admitted, np.uint16))
    assert (found >= 0).sum() == len(codes) == world.trie.n_items
    inputs = make_inputs(world, n_users=1)
    distinct = world.recommend(inputs, n_beams=len(admitted)).items[0]
    assert set(distinct.tolist()) - {-1} == world.items


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
