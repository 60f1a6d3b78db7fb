"""The translator: training, its files, exact resume, checkpoints of others."""

import argparse
import itertools
import json
import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from mql4grec import translator
from mql4grec.config import TranslatorSettings
from mql4grec.embeddings import Embeddings
from mql4grec.errors import ArtifactError, ConfigError, DataError
from mql4grec.runtime import Journal, Runtime
from mql4grec.translator.pickles import rewrite
from mql4grec.translator.quality import code_usage, collision_rate
from mql4grec.translator.state import Progress, Training

RUNTIME = Runtime(seed=11)
SMALL = TranslatorSettings(
    layers=(16, 8),
    e_dim=4,
    num_emb_list=(8, 8, 4),
    sk_epsilons=(0.0, 0.0, 0.003),
    lr=0.01,
    batch_size=32,
    epochs=6,
    eval_step=2,
    kmeans_iters=10,
    warmup_steps=0,
    kmeans_balance=0,
    refit_epochs=0,
    keep="collision_rate",
)


class Told(Journal):
    """A journal that remembers, and breaks at a given line."""

    def __init__(self, *, breaks_at: int = 0) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []
        self.breaks_at = breaks_at

    def log(self, event: str, /, *, step: int | None = None, **values: Any) -> None:
        self.lines.append({"event": event, "step": step, **values})
        if len(self.lines) == self.breaks_at:
            raise KeyboardInterrupt


def make_shop(
    dataset: str = "shop", *, n_items: int = 90, width: int = 12, seed: int = 0, missing: int = 5
) -> Embeddings:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(10, width))
    vectors = centres[rng.integers(0, 10, n_items)] + 0.3 * rng.normal(size=(n_items, width))
    present = np.ones(n_items, dtype=bool)
    present[rng.choice(n_items, missing, replace=False)] = False
    vectors[~present] = 0
    return Embeddings(dataset, "text", "encoder", vectors.astype(np.float32), present)


def with_changes(**changes: object) -> TranslatorSettings:
    return TranslatorSettings.model_validate({**SMALL.model_dump(), **changes})


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(tensor, states[1][name]) for name, tensor in states[0].items()
    )


def test_training_writes_the_best_model_and_the_history(tmp_path: Path) -> None:
    journal = Told()
    network = translator.train(
        [make_shop()], SMALL, folder=tmp_path, runtime=RUNTIME, journal=journal
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best_collision_model.json",
        "best_collision_model.safetensors",
        "best_loss_model.json",
        "best_loss_model.safetensors",
        "history.json",
        "last_model.json",
        "last_model.safetensors",
    ]
    history = json.loads((tmp_path / "history.json").read_text())
    assert [record["epoch"] for record in history] == [2, 4, 6]
    assert set(history[0]) == {
        "epoch", "loss", "reconstruction_loss", "quantization_loss", "collision_rate",
        "perplexity", "dead_codes",
    }  # fmt: skip
    assert [len(history[0][name]) for name in ("perplexity", "dead_codes")] == [3, 3]
    assert history[-1]["loss"] < history[0]["loss"]
    told = [{"epoch": line["step"], **{k: line[k] for k in history[0] if k != "epoch"}}
            for line in journal.lines]  # fmt: skip
    assert told == history
    assert {line["event"] for line in journal.lines} == {"translator.epoch"}
    best = json.loads((tmp_path / "best_collision_model.json").read_text())
    assert best["metrics"] == min(history, key=lambda each: (each["collision_rate"], each["loss"]))
    assert best["origin"]["datasets"] == ["shop"]
    assert best["origin"]["encoder"] == "encoder"
    assert best["origin"]["encoder_recipe"] is None
    assert same_weights(translator.load(tmp_path), network)
    assert not network.training


def test_best_model_is_the_one_of_its_epoch(tmp_path: Path) -> None:
    """Its codes have the collision rate and the dead codes that its record says."""
    shop = make_shop()
    network = translator.train([shop], SMALL, folder=tmp_path, runtime=RUNTIME)
    best = json.loads((tmp_path / "best_collision_model.json").read_text())["metrics"]
    codes = translator.translate(network, shop, runtime=RUNTIME).codes[shop.present]
    n_unique = len(np.unique(codes, axis=0))
    assert best["collision_rate"] == (len(codes) - n_unique) / len(codes)
    used = [len(np.unique(codes[:, level])) for level in range(3)]
    assert best["dead_codes"] == [8 - used[0], 8 - used[1], 4 - used[2]]


GOLDEN_LOSSES = [0.95807, 0.88926, 0.7985]


def test_golden_trace(tmp_path: Path) -> None:
    """A change of the recipe shows here; 0.5 % leaves room for other processors."""
    translator.train([make_shop()], SMALL, folder=tmp_path, runtime=RUNTIME)
    history = json.loads((tmp_path / "history.json").read_text())
    assert [record["loss"] for record in history] == pytest.approx(GOLDEN_LOSSES, rel=0.005)


@pytest.mark.parametrize(
    "changes", [{}, {"warmup_steps": 5, "dropout": 0.2}], ids=["paper", "ours"]
)
@pytest.mark.parametrize("seconds", [1e-9, 1e9], ids=["every step", "no checkpoint"])
@pytest.mark.parametrize("breaks_at", [1, 3])
def test_interrupted_training_ends_alike(
    tmp_path: Path, breaks_at: int, seconds: float, changes: dict[str, object]
) -> None:
    settings, shops = with_changes(**changes), [make_shop()]
    expected = translator.train(shops, settings, folder=tmp_path / "whole", runtime=RUNTIME)
    runtime = Runtime(seed=11, checkpoint_seconds=seconds)
    folder = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        translator.train(
            shops, settings, folder=folder, runtime=runtime, journal=Told(breaks_at=breaks_at)
        )
    assert (folder / "checkpoint.safetensors").exists() == (seconds < 1)
    journal = Told()
    resumed = translator.train(shops, settings, folder=folder, runtime=runtime, journal=journal)
    assert len(journal.lines) == (4 - breaks_at if seconds < 1 else 3)
    assert same_weights(resumed, expected)
    for name in ("history.json", "best_collision_model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_interrupted_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break after each step in turn, warm-up and middle of an epoch included, and go on."""
    settings, shops = with_changes(warmup_steps=4, epochs=2, dropout=0.1), [make_shop()]
    expected = translator.train(shops, settings, folder=tmp_path / "whole", runtime=RUNTIME)
    save = translator.state.save

    def save_and_stop(training: Training, progress: Progress) -> None:
        save(training, progress)
        raise KeyboardInterrupt

    monkeypatch.setattr(translator.state, "save", save_and_stop)
    runtime, n_breaks, network = Runtime(seed=11, checkpoint_seconds=1e-9), 0, None
    while network is None:
        try:
            network = translator.train(shops, settings, folder=tmp_path / "b", runtime=runtime)
        except KeyboardInterrupt:
            n_breaks += 1
    assert n_breaks == 4 + 2 * 3
    assert same_weights(network, expected)


def test_finished_training_is_read_again(tmp_path: Path) -> None:
    first = translator.train([make_shop()], SMALL, folder=tmp_path, runtime=RUNTIME)
    left = tmp_path / "checkpoint.safetensors"  # as by a kill at the very end
    left.write_bytes(b"")
    journal = Told()
    again = translator.train(
        [make_shop()], SMALL, folder=tmp_path, runtime=RUNTIME, journal=journal
    )
    assert journal.lines == []
    assert not left.exists()
    assert same_weights(again, first)


def test_training_leaves_torchs_seed_alone(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    translator.train([make_shop()], with_changes(dropout=0.5), folder=tmp_path, runtime=RUNTIME)
    assert torch.equal(torch.get_rng_state(), state)


def test_seed_matters(tmp_path: Path) -> None:
    one, two = (
        translator.train(
            [make_shop()], SMALL, folder=tmp_path / str(seed), runtime=Runtime(seed=seed)
        )
        for seed in (1, 2)
    )
    assert not same_weights(one, two)


@pytest.mark.parametrize("where", ["result", "checkpoint"])
def test_folder_of_another_training_is_refused(tmp_path: Path, where: str) -> None:
    runtime = Runtime(seed=11, checkpoint_seconds=1e-9 if where == "checkpoint" else 1e9)
    journal = Told(breaks_at=1 if where == "checkpoint" else 0)
    try:
        translator.train([make_shop()], SMALL, folder=tmp_path, runtime=runtime, journal=journal)
    except KeyboardInterrupt:
        (tmp_path / "best_collision_model.json").unlink(missing_ok=True)
    with pytest.raises(ArtifactError) as caught:
        translator.train([make_shop()], with_changes(lr=0.5), folder=tmp_path, runtime=RUNTIME)
    assert str(caught.value) == (
        f"`{tmp_path}`: expected a training with `lr` 0.5, got one with 0.01; delete the folder "
        "or choose another one"
    )


def test_several_shops_are_trained_together(tmp_path: Path) -> None:
    shops = [make_shop("a"), make_shop("b", n_items=50, seed=1, missing=0)]
    network = translator.train(shops, SMALL, folder=tmp_path, runtime=RUNTIME)
    alone = translator.train(shops[:1], SMALL, folder=tmp_path / "alone", runtime=RUNTIME)
    assert not same_weights(network, alone)
    origin = json.loads((tmp_path / "best_collision_model.json").read_text())["origin"]
    assert (origin["datasets"], origin["n_rows"]) == (["a", "b"], 85 + 50)


@pytest.mark.parametrize("n_items", [1, 3, 20])
@pytest.mark.parametrize("warmup_steps", [0, 3])
def test_catalogs_smaller_than_a_batch_or_a_codebook(
    tmp_path: Path, n_items: int, warmup_steps: int
) -> None:
    shop = make_shop(n_items=n_items, missing=0)
    settings = with_changes(warmup_steps=warmup_steps)
    network = translator.train([shop], settings, folder=tmp_path, runtime=RUNTIME)
    assert translator.translate(network, shop, runtime=RUNTIME).codes.shape == (n_items, 3)


def test_warmup_uses_more_codes(tmp_path: Path) -> None:
    """K-means on all rows of a trained autoencoder, against the paper's, in as many steps."""
    shop = make_shop(n_items=600, width=64, missing=0)
    sizes = {"layers": (64, 32), "e_dim": 16, "num_emb_list": (32, 32, 32), "lr": 0.001}
    last = {}
    for warmup_steps, epochs in ((0, 10), (50, 5)):
        changes = {"batch_size": 60, "epochs": epochs, "warmup_steps": warmup_steps}
        folder = tmp_path / str(warmup_steps)
        settings = with_changes(**sizes, **changes)
        translator.train([shop], settings, folder=folder, runtime=RUNTIME)
        last[warmup_steps] = json.loads((folder / "history.json").read_text())[-1]
    assert last[50]["collision_rate"] < 0.6 < 0.9 < last[0]["collision_rate"]
    assert sum(last[50]["dead_codes"]) < 10 < 50 < sum(last[0]["dead_codes"])


def test_bf16_trains_and_translates_in_float32(tmp_path: Path) -> None:
    runtime = Runtime(seed=11, precision="bf16")
    shop = make_shop()
    network = translator.train([shop], SMALL, folder=tmp_path, runtime=runtime)
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}
    in_bf16 = translator.translate(network, shop, runtime=runtime)
    in_fp32 = translator.translate(network, shop, runtime=RUNTIME)
    np.testing.assert_array_equal(in_bf16.latents, in_fp32.latents)
    history = json.loads((tmp_path / "history.json").read_text())
    assert history[-1]["loss"] < history[0]["loss"]


def test_translation_has_every_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = make_shop()
    network = translator.train([shop], SMALL, folder=tmp_path, runtime=RUNTIME)
    whole = translator.translate(network, shop, runtime=RUNTIME)
    assert (whole.codes.dtype, whole.codes.shape) == (np.uint16, (90, 3))
    assert (whole.latents.dtype, whole.latents.shape) == (np.float32, (90, 4))
    assert [table.shape for table in whole.codebooks] == [(8, 4), (8, 4), (4, 4)]
    assert not whole.codes[~shop.present].any()
    assert not whole.latents[~shop.present].any()
    residual = whole.latents[shop.present].astype(np.float64)
    for level, table in enumerate(whole.codebooks):
        distances = ((residual[:, None] - table) ** 2).sum(2)
        np.testing.assert_array_equal(whole.codes[shop.present, level], distances.argmin(1))
        residual = residual - table[whole.codes[shop.present, level]]
    monkeypatch.setattr("mql4grec.translator.translation.ROWS_AT_ONCE", 7)
    parts = translator.translate(network, shop, runtime=RUNTIME)
    np.testing.assert_array_equal(parts.codes, whole.codes)


def test_translation_of_another_width(tmp_path: Path) -> None:
    network = translator.train([make_shop()], SMALL, folder=tmp_path, runtime=RUNTIME)
    with pytest.raises(
        ValueError, match="expected width 12, on which the translator was trained, got 9"
    ):
        translator.translate(network, make_shop(width=9), runtime=RUNTIME)


def test_collision_rate_counts_items_to_move() -> None:
    codes = torch.tensor([[1, 2], [1, 2], [1, 2], [2, 1], [0, 0]])
    assert collision_rate(codes, n_codes=(3, 3)) == 2 / 5


def test_collision_rate_of_codes_longer_than_64_bits() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 65_536, (300, 8))
    codes[200:] = codes[:100]
    codes[150] = codes[0]
    codes[150, 7] ^= 1
    codes[151] = codes[0]
    codes[151, 0] ^= 1
    expected = (300 - len(np.unique(codes, axis=0))) / 300
    assert collision_rate(torch.from_numpy(codes), n_codes=(65_536,) * 8) == expected == 100 / 300


def test_code_usage_by_hand() -> None:
    codes = torch.tensor([[0, 1], [0, 2], [1, 3], [1, 0]])
    assert code_usage(codes, n_codes=(4, 4)) == ([2.0, 4.0], [2, 0])


def test_widths_must_agree(tmp_path: Path) -> None:
    shops = [make_shop("a"), make_shop("b", width=9)]
    with pytest.raises(DataError) as caught:
        translator.train(shops, SMALL, folder=tmp_path, runtime=RUNTIME)
    assert str(caught.value) == (
        "`b` text embeddings: expected width 12 by 'encoder' like those of `a`, got width 9 by "
        "'encoder'; make both with the same encoder"
    )


def test_rows_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="text embeddings of `shop`: expected at least one item"):
        translator.train([make_shop(n_items=5, missing=5)], SMALL, folder=tmp_path, runtime=RUNTIME)
    with pytest.raises(ValueError, match="`embeddings`: expected those of at least one shop"):
        translator.train([], SMALL, folder=tmp_path, runtime=RUNTIME)


@pytest.mark.parametrize(("value", "name"), [(np.nan, "nan"), (-np.inf, "-inf")])
def test_rows_must_be_finite(tmp_path: Path, value: float, name: str) -> None:
    shop = make_shop(missing=0)
    shop.vectors[[17, 30], 3] = value
    with pytest.raises(DataError) as caught:
        translator.train([shop], SMALL, folder=tmp_path, runtime=RUNTIME)
    assert str(caught.value) == (
        f"`shop` text embeddings: expected finite numbers, got {name} in row 17; make the "
        "embeddings again (`mql4grec embed`), or leave the item out by the mask"
    )
    shop.present[[17, 30]] = False
    translator.train([shop], SMALL, folder=tmp_path, runtime=RUNTIME)


def test_divergence_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`translator.lr`: expected a training that converges"):
        translator.train([make_shop()], with_changes(lr=1e30), folder=tmp_path, runtime=RUNTIME)


def test_epsilons_must_fit_the_levels() -> None:
    with pytest.raises(ValidationError, match="`sk_epsilons`: expected 3 values, one per level of"):
        with_changes(sk_epsilons=(0.0, 0.003))


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file; `mql4grec train-translator` makes it"):
        translator.load(tmp_path)
    translator.train([make_shop()], SMALL, folder=tmp_path, runtime=RUNTIME)
    path = tmp_path / "best_collision_model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:100])
    with pytest.raises(
        ArtifactError, match="expected a file that `mql4grec train-translator` wrote"
    ):
        translator.load(tmp_path)
    path.write_bytes(content)
    record = tmp_path / "best_collision_model.json"
    record.write_text(record.read_text().replace('"e_dim": 4', '"e_dim": 5'))
    with pytest.raises(
        ArtifactError, match=r"expected the weights that `best_collision_model.json`"
    ):
        translator.load(tmp_path)


def test_best_model_opens_without_us(tmp_path: Path) -> None:
    translator.train([make_shop()], SMALL, folder=tmp_path, runtime=RUNTIME)
    weights = load_file(tmp_path / "best_collision_model.safetensors")
    assert weights["codebooks.2"].shape == (4, 4)
    assert weights["encoder.0.weight"].shape == (16, 12)


def make_authors_state(*, widths: tuple[int, ...], n_codes: tuple[int, ...]) -> dict[str, Any]:
    """Make weights as that code names them: dropout, linear, ReLU are three modules a layer."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for side, sizes in (("encoder", widths), ("decoder", widths[::-1])):
        for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            name = f"{side}.mlp_layers.{3 * layer + 1}"
            state[f"{name}.weight"] = torch.randn(n_out, n_in, generator=generator) / n_in**0.5
            state[f"{name}.bias"] = 0.1 * torch.randn(n_out, generator=generator)
    for level, size in enumerate(n_codes):
        shape = size, widths[-1]
        state[f"rq.vq_layers.{level}.embedding.weight"] = torch.randn(shape, generator=generator)
    return state


def authors_file(path: Path, state: dict[str, Any], *, protocol: int = 4, **args: object) -> Path:
    optimizer = torch.optim.AdamW(list(state.values()))
    content = {
        "args": argparse.Namespace(data_path="x.npy", device="cuda:0", bn=False, **args),
        "epoch": 3,
        "best_loss": 0.5,
        "best_collision_rate": 0.1,
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, path, pickle_protocol=protocol)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_authors_checkpoint_gives_their_codes(tmp_path: Path, protocol: int) -> None:
    widths, n_codes = (12, 16, 8, 7, 6, 5, 4, 3), (9, 6, 7)
    state = make_authors_state(widths=widths, n_codes=n_codes)
    path = authors_file(
        tmp_path / "best.pth", state, protocol=protocol, sk_epsilons=[0.0, 0.0, 0.01], beta=0.5
    )
    network = translator.load_authors(path)
    shop = make_shop()
    translation = translator.translate(network, shop, runtime=RUNTIME)
    hidden = shop.vectors[shop.present].astype(np.float64)
    for layer in range(7):
        name = f"encoder.mlp_layers.{3 * layer + 1}"
        hidden = hidden @ state[f"{name}.weight"].numpy().T + state[f"{name}.bias"].numpy()
        hidden = np.maximum(hidden, 0) if layer < 6 else hidden
    for level in range(3):
        table = state[f"rq.vq_layers.{level}.embedding.weight"].numpy()
        codes = ((hidden[:, None] - table) ** 2).sum(2).argmin(1)
        np.testing.assert_array_equal(translation.codes[shop.present, level], codes)
        hidden = hidden - table[codes]
    assert (network.sk_epsilons, network.beta, network.sk_iters) == ((0.0, 0.0, 0.01), 0.5, 50)
    decoded = network.decoder(torch.zeros(1, 3))
    assert decoded.shape == (1, 12)


def test_authors_checkpoint_that_runs_code_is_refused(tmp_path: Path) -> None:
    state = make_authors_state(widths=(12, 8, 4), n_codes=(5, 5))
    touched = tmp_path / "touched"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (touched,)

    path = authors_file(tmp_path / "evil.pth", state, sk_epsilons=Evil())
    with pytest.raises(ArtifactError) as caught:
        translator.load_authors(path)
    assert str(caught.value).startswith(f"`{path}`: expected tensors and plain values only, got `")
    assert "Path" in str(caught.value) or "getattr" in str(caught.value)
    assert not touched.exists()


def test_pickles_mean_the_same_in_protocol_2() -> None:
    value = {
        "same": ["same", "same", "", "\u00e9\ud800"],
        "ordered": OrderedDict(a=1, b=-2.5),
        "args": argparse.Namespace(name="same", none=None, flags=(True, False), big=2**70),
        "long": "x" * 300,
    }
    value["shared"] = value["ordered"]
    for protocol in (2, 3, 4):
        rewritten = rewrite(pickle.dumps(value, protocol))
        assert {code.name for code, _, _ in pickletools.genops(rewritten)}.isdisjoint(
            {"FRAME", "MEMOIZE", "STACK_GLOBAL", "SHORT_BINUNICODE"}
        )
        again = pickle.loads(rewritten)
        assert again == value
        assert again["shared"] is again["ordered"]


def test_authors_checkpoint_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no.pth`: no such file; correct the path"):
        translator.load_authors(tmp_path / "no.pth")
    path = tmp_path / "model.pth"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ArtifactError, match="expected tensors and plain values only"):
        translator.load_authors(path)
    torch.save([1, 2], path)
    with pytest.raises(ArtifactError, match="expected a dict with `state_dict`, got list"):
        translator.load_authors(path)
    state = make_authors_state(widths=(12, 8, 4), n_codes=(5, 5))
    authors_file(path, {**state, "encoder.mlp_layers.2.running_mean": torch.zeros(8)})
    with pytest.raises(ArtifactError, match=r"unknown weight `encoder.mlp_layers.2.running_mean`"):
        translator.load_authors(path)
    del state["decoder.mlp_layers.1.bias"]
    authors_file(path, state)
    with pytest.raises(ArtifactError, match="expected the weights of an RQ-VAE"):
        translator.load_authors(path)
