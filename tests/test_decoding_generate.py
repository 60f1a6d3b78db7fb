"""The trie behind `generate`: as brute force, on device tensors, behind a decoder-only model."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import GPT2Config, GPT2LMHeadModel

from mql4grec import decoding
from mql4grec.decoding.beams import Target, beam_search
from mql4grec.decoding.device_trie import lay_out
from mql4grec.decoding.filters import Filters
from mql4grec.decoding.gates import lay_out_filters
from mql4grec.decoding.t5 import lay_out_t5
from tiny_decoding import (
    SHAPES,
    World,
    generate,
    items_of,
    make_inputs,
    make_world,
    processor,
    spelling,
)
from tiny_language import histories

CPU = torch.device("cpu")


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


def sequences(world: World, length: int, *, n_start: int, seed: int = 0) -> torch.Tensor:
    """Give sequences of `length` tokens after the start: items' codes, and things that are none."""
    generator = np.random.default_rng(seed)
    levels, first = world.ids.n_codes, world.vocabulary.first_code["text"]
    spelt = world.ids.codes[generator.integers(0, len(world.ids.codes), 40)].astype(np.int64)
    spelt = np.pad(spelt + np.array(first), ((0, 0), (0, 2)), constant_values=world.vocabulary.eos)
    wrong = generator.random(spelt.shape) < 0.1
    spelt[wrong] = generator.integers(0, world.vocabulary.n_tokens, wrong.sum())
    start = generator.integers(0, world.vocabulary.n_tokens, (40, n_start))
    assert length <= len(levels) + 2
    return torch.as_tensor(np.concatenate([start, spelt[:, :length]], axis=1))


@pytest.mark.parametrize("n_codes", SHAPES)
@pytest.mark.parametrize("n_start", [1, 3])
def test_device_tensors_mask_as_rust_does(n_codes: tuple[int, ...], n_start: int) -> None:
    world = make_world(3, n_codes=n_codes)
    mask = processor(world, n_start=n_start)
    for length in range(len(n_codes) + 3):
        ids = sequences(world, length, n_start=n_start)
        scores = torch.randn(len(ids), world.vocabulary.n_tokens)
        assert torch.equal(mask.on_device(ids, scores), mask(ids, scores))


@pytest.mark.parametrize("on_device", [False, True])
def test_left_padded_prompts_of_a_decoder_only_model(on_device: bool) -> None:
    world = make_world(4)
    torch.manual_seed(0)
    pad, eos = world.vocabulary.pad, world.vocabulary.eos
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=world.vocabulary.n_tokens,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=40,
            bos_token_id=None,
            eos_token_id=eos,
            pad_token_id=pad,
        )
    ).eval()
    tokens, mask = (torch.as_tensor(part) for part in make_inputs(world))
    tokens, mask = tokens.flip(1), mask.flip(1)  # padded at the left

    def items(ids: torch.Tensor, attention: torch.Tensor) -> np.ndarray:
        inner = processor(world, n_start=ids.shape[1])
        constraint: Callable[..., torch.Tensor] = inner.on_device if on_device else inner
        out = model.generate(
            input_ids=ids,
            attention_mask=attention,
            num_beams=4,
            num_return_sequences=3,
            max_new_tokens=len(world.ids.n_codes) + 1,
            length_penalty=0.0,
            do_sample=False,
            logits_processor=[constraint],
        )
        return items_of(world, out[:, ids.shape[1] - 1 :].numpy()).reshape(-1, 3)

    together = items(tokens, mask)
    assert (together >= 0).all()
    for user, (ids, attention) in enumerate(zip(tokens, mask, strict=True)):
        used = attention > 0
        alone = items(ids[None, used], attention[None, used])
        np.testing.assert_array_equal(alone[0], together[user])


def test_no_step_waits_for_the_host() -> None:
    """A tensor without values cannot be read: whatever asks for one raises."""
    world = make_world(5)
    network = lay_out_t5(world.model, dtype=torch.float32)
    first = world.vocabulary.first_code["text"]
    target = Target(trie=lay_out(world.trie, device=CPU), first_code=first, start=0, eos=1)
    masks = np.ones((1, len(world.ids.present)), bool)
    filters = Filters(masks=masks, without=histories(*[[1, 2]] * 5))
    gate = lay_out_filters(filters, world.trie, n_users=5, device=CPU).of(np.arange(5))
    inputs = [torch.as_tensor(part) for part in make_inputs(world)]
    mask = processor(world)
    mask.on_device(torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, world.vocabulary.n_tokens))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        ids, attention = (mode.from_tensor(part) for part in inputs)
        found = beam_search(
            network, target, input_ids=ids, attention_mask=attention, n_beams=4, open_leaves=gate
        )
        assert found.items.shape == (5, 4)
        for length in range(6):
            scores = torch.zeros(3, world.vocabulary.n_tokens)
            masked = mask.on_device(torch.zeros(3, 1 + length, dtype=torch.int64), scores)
            assert masked.shape == scores.shape


def foreign(world: World, *, seed: int = 0) -> tuple[decoding.Spelling, np.ndarray]:
    """Spell a world's items by tokens in no order, some of them codes of several levels."""
    generator = np.random.default_rng(seed)
    table = [2 + generator.permutation(90)[:k] for k in world.ids.n_codes]
    codes = world.ids.codes[world.ids.present]
    tokens = np.stack([table[level][codes[:, level]] for level in range(len(table))], axis=1)
    return decoding.spell_tokens(tokens, pad=0, eos=1), tokens


@pytest.mark.parametrize("n_codes", SHAPES)
def test_tokens_of_any_tokenizer(n_codes: tuple[int, ...]) -> None:
    spelling, tokens = foreign(make_world(6, n_codes=n_codes))
    mask = decoding.TrieLogitsProcessor(spelling, n_start=2)
    prefix_function = decoding.prefix_allowed_tokens_fn(spelling, n_start=2)
    generator = np.random.default_rng(0)
    for length in range(len(n_codes) + 2):
        prefixes = np.concatenate([tokens, np.ones((len(tokens), 1), np.int64)], axis=1)
        prefixes = prefixes[:, :length]
        prefixes = np.where(generator.random(prefixes.shape) < 0.1, 91, prefixes)
        ids = torch.as_tensor(np.pad(prefixes, ((0, 0), (2, 0)), constant_values=7))
        scores = torch.randn(len(ids), 92)
        masked = mask(ids, scores)
        assert torch.equal(mask.on_device(ids, scores), masked)
        for prefix, sequence, row in zip(prefixes.tolist(), ids, masked, strict=True):
            items = [item for item in tokens.tolist() if item[:length] == prefix]
            expected = {item[length] for item in items if length < len(item)} or {1}
            expected = {0} if length > len(n_codes) else expected
            assert set(row.isfinite().nonzero().ravel().tolist()) == expected
            assert set(prefix_function(0, sequence)) == expected


def test_sequences_of_any_tokenizer_are_found() -> None:
    spelling, tokens = foreign(make_world(7))
    ended = np.pad(tokens, ((0, 0), (0, 2)), constant_values=1)
    np.testing.assert_array_equal(spelling.find(torch.as_tensor(ended)), np.arange(len(tokens)))
    wrong = tokens.copy()
    wrong[:, 1] = 95
    np.testing.assert_array_equal(spelling.find(wrong), -1)
    np.testing.assert_array_equal(spelling.find(tokens[:, :2]), -1)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.ones((2, 3)), "`tokens`: expected integers (N, L), got float64 (2, 3); give as many"),
        (np.ones(3, int), "`tokens`: expected integers (N, L), got int64 (3,); give as many"),
        (np.ones((0, 3), int), "`tokens`: expected integers (N, L), got int64 (0, 3); give as "),
        (
            np.stack([np.zeros(65537, int), np.arange(65537)], axis=1),
            "`tokens`: expected at most 65536 different ones in a column, got 65537 in column 1; ",
        ),
        (np.ones((2, 3), int), "`codes`"),
    ],
)
def test_tokens_that_spell_no_items(tokens: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=r"tokens|codes") as caught:
        decoding.spell_tokens(tokens, pad=0, eos=1)
    assert str(caught.value).startswith(message)
