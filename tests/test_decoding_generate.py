"""The trie behind `generate`: on device tensors as in Rust, and behind a decoder-only model."""

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
from test_decoding import SHAPES, World, items_of, make_inputs, make_world, processor
from tiny_language import histories

CPU = torch.device("cpu")


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
