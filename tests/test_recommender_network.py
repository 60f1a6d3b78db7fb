"""The T5's own forward pass for training, beside transformers' as its slow twin."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import T5Config, T5ForConditionalGeneration

import tiny_training as training
from mql4grec import language, recommender
from mql4grec.config import RecommenderSettings
from mql4grec.language import IGNORED, Batch, Corpus
from mql4grec.recommender.dropout import LEVELS, Dropout, make_dropout
from mql4grec.recommender.layout import lay_out, multiplying_pays
from mql4grec.recommender.model import group_by_level, set_weights, weights
from mql4grec.recommender.network import summed_loss
from mql4grec.recommender.packing import Group, pack
from mql4grec.runtime import Runtime

CPU = torch.device("cpu")


def samples(one: Corpus, n: int = 24, *, task: str = "fusionseqrec") -> Batch:
    """Give samples of many lengths whose targets have three codes or two."""
    found = language.training_samples(one, task, generator=np.random.default_rng(0))
    return language.encode(one, found, np.arange(n))


def network(one: Corpus, **values: object) -> T5ForConditionalGeneration:
    """Make a T5 of two layers; every norm and bias is something else."""
    sizes = {**training.SIZES, "num_layers": 2, "num_decoder_layers": 2, **values}
    model = recommender.build(one.vocabulary, RecommenderSettings(**sizes), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.linspace(-0.5, 0.5, len(parameter)))
            if "bias" in name:
                parameter.mul_(20)
    return model


def slow_open(one: Corpus, labels: np.ndarray) -> np.ndarray:
    """Tell what can follow in targets, by looking through all words that there are."""
    words = [
        [*word, one.vocabulary.eos]
        for modality, tokens in one.tokens.items()
        for word in tokens[one.present[modality]].tolist()
    ]
    is_open = np.zeros((*labels.shape, one.vocabulary.n_tokens), bool)
    for row, target in enumerate(labels.tolist()):
        for place, label in enumerate(target):
            if label == IGNORED:
                is_open[row, place] = True
                continue
            for word in words:
                if word[:place] == target[:place] and (place or same_modality(one, word, target)):
                    is_open[row, place, word[place]] = True
    return is_open


def same_modality(one: Corpus, word: list[int], target: list[int]) -> bool:
    """Tell whether both begin with a first code of the same modality."""
    return any(
        {word[0], target[0]} <= set(range(firsts[0], firsts[0] + one.vocabulary.n_codes[which][0]))
        for which, firsts in one.vocabulary.first_code.items()
    )


def slow_loss(
    model: T5ForConditionalGeneration,
    batch: Batch,
    rivals: torch.Tensor | None = None,
    is_open: np.ndarray | None = None,
) -> torch.Tensor:
    """Give the summed loss by transformers' forward pass."""
    inputs, mask, labels = map(torch.from_numpy, vars(batch).values())
    logits = model(input_ids=inputs, attention_mask=mask, labels=labels).logits
    if is_open is not None:
        logits = logits.masked_fill(~torch.from_numpy(is_open), -torch.inf)
    if rivals is not None:
        own = rivals[labels.clamp(min=0)]
        logits = logits.masked_fill(own[:, :, None] != rivals, -torch.inf)
    return functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def loss_and_gradients(
    model: T5ForConditionalGeneration,
    batch: Batch,
    *,
    rivals: torch.Tensor | None = None,
    is_open: np.ndarray | None = None,
    dropout: Dropout | None = None,
    keep_padding: bool = False,
    multiplied: bool = False,
) -> tuple[float, dict[str, torch.Tensor]]:
    """Give the summed loss by our own, and every parameter's gradient."""
    laid_out = lay_out(model, n_read=40, n_written=6, multiply_out=multiplied)  # too long
    assert laid_out.multiplied == multiplied
    own = laid_out.cast(torch.float32)
    packed = pack(batch, start=0, device=CPU, keep_padding=keep_padding, is_open=is_open)
    loss = summed_loss(own, packed, rivals=rivals, dropout=dropout)
    model.zero_grad()
    torch.autograd.backward(laid_out.tensors(), torch.autograd.grad(loss, own.tensors()))
    return loss.item(), gradients(model)


def gradients(model: T5ForConditionalGeneration) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same_gradients(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        difference = (found[name] - gradient).norm() / gradient.norm()
        assert difference.item() < 2e-5, name


@pytest.mark.parametrize("way", ["plain", "keep_padding", "multiplied"])
@pytest.mark.parametrize("loss_over", ["vocabulary", "level", "children"])
def test_loss_and_all_gradients_are_those_of_transformers(way: str, loss_over: str) -> None:
    one = training.shop()
    model, batch = network(one).eval(), samples(one)
    rivals = group_by_level(one.vocabulary) if loss_over == "level" else None
    is_open = slow_open(one, batch.labels) if loss_over == "children" else None
    expected = slow_loss(model, batch, rivals, is_open)
    expected.backward()
    slow = gradients(model)
    options = {} if way == "plain" else {way: True}
    loss, own = loss_and_gradients(model, batch, rivals=rivals, is_open=is_open, **options)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(own, slow)


@pytest.mark.parametrize("multiplied", [False, True])
def test_with_the_same_masks_dropout_is_that_of_transformers(
    monkeypatch: pytest.MonkeyPatch, multiplied: bool
) -> None:
    """Samples of one length, so that both draw masks of the same shapes, in the same order."""
    one = training.shop()
    model = network(one, dropout=0.25).train()
    for part in (model.encoder, model.decoder):
        part.config._attn_implementation = "eager"  # which drops by `functional.dropout`
    batch = samples(one, 8, task="item2image")
    assert batch.attention_mask.all()
    masks = make_dropout(0.25, seed=4, device=CPU)

    def drop(tensor: torch.Tensor, p: float, training: bool, inplace: bool = False) -> torch.Tensor:
        assert (p, training, inplace) == (0.25, True, False)
        return tensor * masks.mask(tensor) * masks.scale

    monkeypatch.setattr(functional, "dropout", drop)
    expected = slow_loss(model, batch)
    expected.backward()
    slow = gradients(model)
    again = make_dropout(0.25, seed=4, device=CPU)
    loss, own = loss_and_gradients(model, batch, dropout=again, multiplied=multiplied)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(own, slow)
    other = make_dropout(0.25, seed=5, device=CPU)
    assert loss_and_gradients(model, batch, dropout=other)[0] != pytest.approx(loss, rel=1e-3)


def test_the_loss_over_levels_is_that_of_decoding() -> None:
    """A code's probability is among those of its level; the end is certain, so it costs nothing."""
    one = training.shop()
    model, batch = training.network(one).eval(), samples(one, 10, task="seqrec")
    batch.labels[3, 1:] = IGNORED
    inputs, mask, labels = map(torch.from_numpy, vars(batch).values())
    logits = model(input_ids=inputs, attention_mask=mask, labels=labels).logits
    expected = 0.0
    levels = zip(one.vocabulary.first_code["text"], one.vocabulary.n_codes["text"], strict=True)
    for level, (first, n_codes) in enumerate(levels):
        codes = labels[:, level] - first
        normed = logits[:, level, first : first + n_codes].log_softmax(dim=1)
        users = torch.arange(10) if level == 0 else torch.arange(10)[torch.arange(10) != 3]
        expected -= normed[users, codes[users]].sum().item()
    loss, own = loss_and_gradients(model, batch, rivals=group_by_level(one.vocabulary))
    assert loss == pytest.approx(expected, rel=1e-5)
    assert all(bool(gradient.isfinite().all()) for gradient in own.values())


@pytest.mark.parametrize("task", ["seqrec", "fusionseqrec", "item2image", "seqitem2image"])
def test_open_tokens_equal_a_look_through_all_words(task: str) -> None:
    one = training.shop()
    found = language.training_samples(one, task, generator=np.random.default_rng(0))
    rows = np.arange(0, len(found), 2)
    batch = language.encode(one, found, rows)
    branches = {modality: language.list_branches(one, modality) for modality in one.tokens}
    is_open = language.open_tokens(one, found, rows, branches, width=batch.labels.shape[1])
    np.testing.assert_array_equal(is_open, slow_open(one, batch.labels))
    labels = np.where(batch.labels == IGNORED, 0, batch.labels)
    assert np.take_along_axis(is_open, labels[:, :, None], axis=2).all()


@pytest.mark.parametrize("multiply_out", [False, True])
def test_bf16_has_nearly_the_loss_of_fp32(multiply_out: bool) -> None:
    one = training.shop()
    laid_out = lay_out(network(one), n_read=40, n_written=6, multiply_out=multiply_out)
    packed = pack(samples(one), start=0, device=CPU, keep_padding=False)
    fine, rough = (
        summed_loss(laid_out.cast(dtype), packed).item()
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert rough != fine
    assert rough == pytest.approx(fine, rel=0.02)


def test_nothing_is_multiplied_out_where_that_is_more_work() -> None:
    model = network(training.shop(), d_model=24)  # d_kv is 8
    assert not multiplying_pays(model)


@pytest.mark.parametrize("kind", ["gated-gelu", "gelu"])
def test_another_kind_of_t5_is_refused(kind: str) -> None:
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_heads": 2, "num_layers": 1}
    model = T5ForConditionalGeneration(T5Config(vocab_size=9, feed_forward_proj=kind, **sizes))
    message = f"`model`: expected a T5 with `feed_forward_proj` 'relu', got {kind!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        lay_out(model, n_read=4, n_written=4)


# Batches


def test_a_packed_batch_has_every_token_once_and_no_padding() -> None:
    batch = Batch(
        input_ids=np.array([[5, 6, 1, 0], [7, 6, 5, 1], [8, 6, 1, 0], [9, 6, 1, 0]]),
        attention_mask=np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]]),
        labels=np.array([[3, 4, 1], [2, 3, 1], [4, 1, IGNORED], [2, 2, 1]]),
    )
    packed = pack(batch, start=0, device=CPU, keep_padding=False)
    assert packed.inputs.tolist() == [7, 6, 5, 1, 8, 6, 1, 5, 6, 1, 9, 6, 1]
    assert packed.labels.tolist() == [2, 3, 1, 4, 1, 3, 4, 1, 2, 2, 1]
    assert packed.before.tolist() == [0, 2, 3, 0, 4, 0, 3, 4, 0, 2, 2]
    assert packed.groups == (Group(1, 4, 3), Group(1, 3, 2), Group(2, 3, 3))
    assert packed.written == ((1, 3), (1, 2), (2, 3))
    assert packed.padding is None


# Dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_dropped_and_the_scale(rate: float) -> None:
    dropout = make_dropout(rate, seed=1, device=CPU)
    assert dropout.n_dropped / LEVELS == pytest.approx(rate, abs=1 / LEVELS)
    n = 999_999  # no multiple of what one draw is enough for
    mask = dropout.mask(torch.empty(n))
    assert set(mask.tolist()) == {0.0, 1.0}
    deviation = (rate * (1 - rate) / n) ** 0.5
    assert mask.mean().item() == pytest.approx(1 - rate, abs=4 * deviation)
    assert (mask.mean() * dropout.scale).item() == pytest.approx(1, abs=5 * deviation / (1 - rate))
    lanes = mask[: n // 4 * 4].view(-1, 4)  # of one draw of 64 bits
    assert torch.corrcoef(lanes.T).fill_diagonal_(0).abs().max().item() < 0.01
    assert lanes.mean(dim=0).tolist() == pytest.approx([1 - rate] * 4, abs=8 * deviation)


def test_masks_follow_from_the_seed_on_every_machine() -> None:
    dropout = make_dropout(0.5, seed=7, device=CPU)
    drawn = [dropout.mask(torch.empty(4, 6, dtype=dtype)) for dtype in (torch.bfloat16,) * 2]
    assert drawn[0].dtype == torch.bfloat16
    assert not torch.equal(*drawn)
    assert drawn[0].flatten().int().tolist() == [*map(int, "010111000001111001001100")]


def test_all_or_nothing_can_be_dropped() -> None:
    assert make_dropout(0.0, seed=1, device=CPU) is None
    everything = make_dropout(1.0, seed=1, device=CPU)
    assert not everything.mask(torch.empty(1000)).any()
    assert everything.scale == 0


# Training


def train_golden(folder: Path, *, dropout: float, **values: object) -> list[float]:
    """Train for 18 optimizer steps from weights that numpy draws; gives the losses."""
    one = training.shop()
    model = network(one, dropout=dropout)
    generator = np.random.default_rng(11)
    drawn = {}
    for name, parameter in sorted(weights(model).items()):
        std = 1.0 if name == "shared.weight" else parameter.shape[-1] ** -0.5
        noise = generator.normal(scale=std, size=tuple(parameter.shape))
        tensor = 1 + 0.1 * noise if parameter.ndim == 1 else noise
        drawn[name] = torch.from_numpy(tensor).float()
    set_weights(model, drawn)
    recommender.train(
        model,
        [one],
        training.settings(samples_per_epoch=90, batch_size=16, lr=3e-3, **values),
        stage="finetune",
        folder=folder,
        runtime=Runtime(seed=3),
    )
    epochs = json.loads((folder / "history.json").read_text())["epochs"]
    return [epoch[name] for epoch in epochs for name in ("train_loss", "valid_loss")]


GOLDEN = {  # by dropout
    0.0: [4.186256, 3.763346, 3.610739, 3.564659, 3.497832, 3.53374],
    0.1: [4.385056, 3.884716, 3.87903, 3.667813, 3.78841, 3.634589],
}


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_loss_trace_is_golden(tmp_path: Path, dropout: float) -> None:
    """Pins samples and their order, network, masks, loss, clipping, schedule and AdamW.

    Training and validation loss of three epochs of six steps, in float32. First weights come from
    numpy and the forward pass is our own, so that no version of transformers changes them; masks
    are integers of torch's Mersenne twister. A change of these figures is a change of the training;
    say so where it is made.
    """
    assert train_golden(tmp_path, dropout=dropout) == pytest.approx(GOLDEN[dropout], abs=1e-4)


def test_the_golden_trace_depends_on_no_micro_batch_size(tmp_path: Path) -> None:
    found = train_golden(tmp_path, dropout=0.0, micro_batch_size=3)
    assert found == pytest.approx(GOLDEN[0.0], abs=1e-4)
