"""Recipes beside the paper's: each setting does what it says, resumes exactly, and is global."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from launching import launch_two
from mql4grec import rqvae, translator
from mql4grec.errors import ArtifactError, ConfigError
from mql4grec.rqvae import upkeep
from mql4grec.translator.order import draw_pass
from mql4grec.translator.quality import code_usage
from mql4grec.translator.state import Training
from mql4grec.translator.steps import Recording, Steps
from mql4grec.translator.table import open_table
from test_rqvae import seeded, tiny_network
from test_translator import RUNTIME, SMALL, Told, make_shop, same_weights, with_changes

RECIPES = {
    "refit": {"refit_epochs": 2},
    "balanced k-means": {"kmeans_balance": 0.003, "num_emb_list": (16, 16, 16)},
    "restart": {"restart_after": 1, "num_emb_list": (24, 24, 24)},
    "average": {"codebooks": "average", "average_decay": 0.9},
    "average, restart": {"codebooks": "average", "restart_after": 1},
    "rotation": {"estimator": "rotation"},
    "unit latents": {"unit_latents": True},
    "Sinkhorn everywhere": {"sk_epsilons": (0.003, 0.003, 0.003)},
    "balance": {"balance": 0.5},
}


def history(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "history.json").read_text())
    return found


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
def test_each_recipe_learns_and_resumes_exactly(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shops = [make_shop("a"), make_shop("b", n_items=30, seed=1)]
    settings = with_changes(warmup_steps=3, **changes)
    whole = translator.train(shops, settings, folder=tmp_path / "whole", runtime=RUNTIME)
    sizes = {"num_emb_list": settings.num_emb_list}
    translator.train(
        shops, with_changes(warmup_steps=3, **sizes), folder=tmp_path / "plain", runtime=RUNTIME
    )
    assert history(tmp_path / "whole") != history(tmp_path / "plain")  # it does something
    records = history(tmp_path / "whole")
    assert records[-1]["reconstruction_loss"] < 1.1 * records[0]["reconstruction_loss"]
    save, n_saved = translator.state.save, 0

    def save_and_stop(training: Training, progress: translator.state.Progress) -> None:
        nonlocal n_saved
        save(training, progress)
        n_saved += 1
        if n_saved % 5 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(translator.state, "save", save_and_stop)
    runtime = translator.state.Runtime(seed=11, checkpoint_seconds=1e-9)
    network = None
    while network is None:
        with suppress(KeyboardInterrupt):
            network = translator.train(shops, settings, folder=tmp_path / "b", runtime=runtime)
    assert n_saved > 5
    assert same_weights(network, whole)


def test_refit_sets_the_codebooks_by_k_means_on_all_rows(tmp_path: Path) -> None:
    """With a learning rate of nearly nothing the codebooks are those of the last k-means."""
    shop = make_shop(missing=0)
    changes = {"lr": 1e-12, "weight_decay": 0, "kmeans_iters": 100, "keep": "loss"}
    settings = with_changes(refit_epochs=5, num_emb_list=(8, 8, 8), **changes)
    network = translator.train([shop], settings, folder=tmp_path, runtime=RUNTIME)
    first, last = history(tmp_path)[0], history(tmp_path)[-1]
    assert last["quantization_loss"] < 0.9 * first["quantization_loss"]  # 32 rows against 90
    latents = network.encoder(torch.from_numpy(shop.vectors)).detach()
    codes = network.nearest_codes(latents)[:, 0]
    for code in codes.unique():
        mean = latents[codes == code].mean(0)
        torch.testing.assert_close(network.codebooks[0][code], mean, atol=0.02, rtol=0)


def test_balanced_k_means_uses_codes_evenly() -> None:
    """Two clusters hold nine rows of ten; plain k-means spends codes on the rest."""
    generator = seeded()
    centres = 5 * torch.randn(2, 8, generator=generator)
    crowd = centres[torch.randint(2, (900,), generator=generator)]
    rows = crowd + 0.3 * torch.randn(900, 8, generator=generator)
    rows = torch.cat([rows, 5 * torch.randn(100, 8, generator=generator)])
    used = {}
    for balance in (0.0, 0.003):
        found, labels = rqvae.kmeans(
            rows, n_clusters=32, n_iters=50, generator=seeded(1), balance=balance
        )
        assert torch.equal(labels, rqvae.nearest(rows, found)[1])
        (used[balance],), _ = code_usage(labels[:, None], n_codes=[32])
    assert used[0.0] < 16 < 24 < used[0.003]


def test_balanced_k_means_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(1000, 4, generator=seeded())
    monkeypatch.setattr(sys.modules["mql4grec.rqvae.kmeans"], "BALANCED_ROWS", 300)
    found, labels = rqvae.kmeans(
        rows, n_clusters=16, n_iters=50, generator=seeded(1), balance=0.003
    )
    assert torch.equal(labels, rqvae.nearest(rows, found)[1])
    assert labels.bincount(minlength=16).min() > 20  # of 62


def test_averages_by_hand() -> None:
    """A slow twin: every code by itself."""
    network = tiny_network()
    books = [book.data for book in network.codebooks]
    state = upkeep.begin(books)
    counts = [torch.ones(len(book)) for book in books]
    sums = [book.clone() for book in books]
    for number in range(3):
        latents = torch.randn(40, 4, generator=seeded(number))
        codes = network.nearest_codes(latents)
        expected, residual = [], latents
        for level, book in enumerate(books):
            for code in range(len(book)):
                mine = residual[codes[:, level] == code]
                share = 0.2 * len(book) / 40
                counts[level][code] = 0.8 * counts[level][code] + share * len(mine)
                sums[level][code] = 0.8 * sums[level][code] + share * mine.sum(0)
            expected.append(sums[level] / counts[level][:, None])
            residual = residual - book[codes[:, level]]
        upkeep.keep_up(state, books, latents, codes, decay=0.8, restart_after=0)
        for book, one in zip(books, expected, strict=True):
            torch.testing.assert_close(book, one, rtol=1e-4, atol=1e-5)


def test_dead_codes_become_rows_of_the_batch() -> None:
    books = [torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]]), torch.zeros(2, 2)]
    state = upkeep.begin(books)
    latents = torch.tensor([[1.0, 1.0], [2.0, 2.0], [-3.0, 1.0]])
    codes = torch.zeros(3, 2, dtype=torch.int64)
    upkeep.keep_up(state, books, latents, codes, decay=None, restart_after=2)
    assert books[0][1].tolist() == [100.0, 0.0]  # idle for one step only
    assert [idle.tolist() for idle in state.idle] == [[0, 1, 1], [0, 1]]
    upkeep.keep_up(state, books, latents, codes, decay=None, restart_after=2)
    assert books[0].tolist() == [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]
    assert books[1].tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert [idle.tolist() for idle in state.idle] == [[0, 0, 0], [0, 0]]


def test_restarts_revive_codes(tmp_path: Path) -> None:
    """The paper's k-means on one batch, of few rows here, leaves codes dead."""
    shop = make_shop(n_items=900, width=64, missing=0)
    sizes = {"layers": (64, 32), "e_dim": 16, "num_emb_list": (32, 32, 32), "lr": 0.001}
    dead = {}
    for restart_after in (0, 3):
        settings = with_changes(**sizes, batch_size=60, epochs=10, restart_after=restart_after)
        folder = tmp_path / str(restart_after)
        translator.train([shop], settings, folder=folder, runtime=RUNTIME)
        dead[restart_after] = sum(history(folder)[-1]["dead_codes"])
    assert dead[3] < dead[0] / 2


@pytest.mark.parametrize("kind", ["random", "opposite", "parallel"])
def test_rotation_passes_the_gradient_turned(kind: str) -> None:
    """The value is the codes' sum; the gradient turns with the rotation and keeps its angle."""
    network = tiny_network(rotation=True).eval()
    latents = torch.randn(1, 4, generator=seeded())
    codes = network.nearest_codes(latents)
    total = sum(book.data[codes[:, level]] for level, book in enumerate(network.codebooks))
    assert isinstance(total, Tensor)
    if kind != "random":
        latents = total * (-2 if kind == "opposite" else 2)
    latents.requires_grad_()
    quantized, _ = network.quantize(latents, codes, n_rows=1)
    torch.testing.assert_close(quantized, total)
    upstream = torch.randn(1, 4, generator=seeded(1))
    (quantized * upstream).sum().backward()
    assert latents.grad is not None
    assert torch.isfinite(latents.grad).all()
    if kind == "parallel":  # no rotation, half the length
        torch.testing.assert_close(latents.grad, upstream / 2)
    if kind == "random":
        scale = total.norm() / latents.norm()
        torch.testing.assert_close(latents.grad.norm(), upstream.norm() * scale)
        cosine = torch.nn.functional.cosine_similarity
        torch.testing.assert_close(cosine(latents.grad, latents), cosine(upstream, total))


def test_unit_latents(tmp_path: Path) -> None:
    shop = make_shop(missing=0)
    network = translator.train(
        [shop], with_changes(unit_latents=True), folder=tmp_path, runtime=RUNTIME
    )
    loaded = translator.load(tmp_path)
    translation = translator.translate(loaded, shop, runtime=RUNTIME)
    np.testing.assert_allclose(np.linalg.norm(translation.latents, axis=1), 1, rtol=1e-5)
    assert same_weights(network, loaded)


@pytest.mark.parametrize("keep", ["loss", "last"])
def test_kept_network(tmp_path: Path, keep: str) -> None:
    shop = make_shop()
    settings = with_changes(keep=keep, lr=0.1, epochs=12)  # the loss goes up again
    network = translator.train([shop], settings, folder=tmp_path, runtime=RUNTIME)
    name = "best_loss_model" if keep == "loss" else "last_model"
    record = json.loads((tmp_path / f"{name}.json").read_text())
    best = min(history(tmp_path), key=lambda each: each["loss"])
    assert record["metrics"] == (best if keep == "loss" else history(tmp_path)[-1])
    assert best != history(tmp_path)[-1]
    assert same_weights(translator.load(tmp_path), network)
    other = translator.train([shop], SMALL, folder=tmp_path / "other", runtime=RUNTIME)
    assert not same_weights(other, network)


@pytest.mark.parametrize("keep", ["collision_rate", "loss", "last"])
def test_two_copied_files_give_the_same_codes(tmp_path: Path, keep: str) -> None:
    shop = make_shop()
    there, here = tmp_path / "there", tmp_path / "here"
    network = translator.train([shop], with_changes(keep=keep), folder=there, runtime=RUNTIME)
    here.mkdir()
    names = {"collision_rate": "best_collision_model", "loss": "best_loss_model"}
    for path in there.glob(f"{names.get(keep, 'last_model')}.*"):
        (here / path.name).write_bytes(path.read_bytes())
    expected, found = (
        translator.translate(each, shop, runtime=RUNTIME)
        for each in (network, translator.load(here))
    )
    np.testing.assert_array_equal(found.codes, expected.codes)


def test_weights_of_another_training_are_noticed(tmp_path: Path) -> None:
    for seed in (1, 2):
        runtime = translator.state.Runtime(seed=seed)
        translator.train([make_shop()], SMALL, folder=tmp_path / str(seed), runtime=runtime)
    path = tmp_path / "1" / "best_collision_model.safetensors"
    path.write_bytes((tmp_path / "2" / path.name).read_bytes())
    with pytest.raises(ArtifactError) as caught:
        translator.load(tmp_path / "1")
    assert str(caught.value) == (
        f"`{path}`: expected the weights of `best_collision_model.json` beside it, got others, by "
        "their hash; copy both files again, or run `mql4grec train-translator` again"
    )


def test_a_pass_has_every_row_once() -> None:
    order = draw_pass((5, 0, 7), balance=0, generator=seeded())
    assert sorted(order.tolist()) == list(range(12))


@pytest.mark.parametrize(("balance", "parts"), [(0.5, (20, 100)), (1.0, (60, 60))])
def test_a_balanced_pass(balance: float, parts: tuple[int, int]) -> None:
    """Shops of 4 and 116 rows; the square root of their ratio is 5.4."""
    order = draw_pass((4, 0, 116), balance=balance, generator=seeded())
    assert len(order) == 120
    counts = order.bincount(minlength=120)
    assert abs(int(counts[:4].sum()) - parts[0]) <= 1
    assert counts[:4].max() - counts[:4].min() <= 1  # every row of a small shop as often
    assert counts[4:].max() == 1
    assert not torch.equal(order.sort().values, order)


@pytest.mark.parametrize("storage", ["fp32", "fp16", "bf16"])
def test_rows_from_files_are_those_on_the_device(storage: Any) -> None:
    shops = [make_shop("a"), make_shop("b", n_items=40, seed=2, missing=9)]
    here, there = (
        open_table(shops, device=torch.device("cpu"), storage=storage, max_memory=limit)
        for limit in (None, 100)
    )
    assert here.resident is not None
    assert there.resident is None
    parts = list(torch.randint(116, (37,), generator=seeded()).split(5))
    assert here.n_rows == there.n_rows == 85 + 31
    for one, other in zip(here.batches(parts), there.batches(parts), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)
    exact = np.concatenate([shop.vectors[shop.present] for shop in shops])
    tolerance = {"fp32": 0.0, "fp16": 1e-3, "bf16": 1e-2}[storage]
    np.testing.assert_allclose(torch.cat(list(here.blocks())), exact, rtol=tolerance)


def test_training_from_files_ends_alike(tmp_path: Path) -> None:
    """One from memory, one from files, one that changes between them on the way."""
    networks = []
    for name, limits in {"memory": (None,), "files": (1e-7,), "both": (None, 1e-7)}.items():
        for number, limit in enumerate(limits, start=1):
            settings = with_changes(max_memory_gib=limit, warmup_steps=2, storage="fp16")
            with suppress(KeyboardInterrupt):
                network = translator.train(
                    [make_shop()],
                    settings,
                    folder=tmp_path / name,
                    runtime=translator.state.Runtime(seed=11, checkpoint_seconds=1e-9),
                    journal=Told(breaks_at=1 if number < len(limits) else 0),
                )
        networks.append(network)
    assert same_weights(networks[0], networks[1])
    assert same_weights(networks[0], networks[2])


def test_numbers_too_large_for_half_precision(tmp_path: Path) -> None:
    shop = make_shop(missing=0)
    shop.vectors[3, 2] = -70_000
    with pytest.raises(ConfigError) as caught:
        translator.train([shop], with_changes(storage="fp16"), folder=tmp_path, runtime=RUNTIME)
    assert str(caught.value) == (
        "`translator.storage`: expected numbers up to 65,504 for 'fp16', got 70000 in the text "
        "embeddings of `shop`; use 'bf16' or 'fp32'"
    )


def test_recorded_steps_equal_plain_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording that is done again by calling the step stands for a CUDA graph."""
    recorded = []

    def record(step: Any, batch: Tensor) -> Recording:
        losses = torch.zeros(3)  # nothing is computed while a graph is recorded
        recorded.append(batch.shape)
        return Recording(batch, losses, lambda: losses.copy_(step(batch)))

    settings = with_changes(warmup_steps=7, restart_after=1, codebooks="average")
    plain = translator.train([make_shop()], settings, folder=tmp_path / "a", runtime=RUNTIME)
    init = Steps.__init__

    def with_recording(steps: Steps, training: Training, *, graphs: bool) -> None:
        init(steps, training, graphs=True, record=record)

    monkeypatch.setattr(Steps, "__init__", with_recording)
    fast = translator.train([make_shop()], settings, folder=tmp_path / "b", runtime=RUNTIME)
    assert recorded == [(32, 12), (32, 12)]  # the warm-up's step and the training's
    assert same_weights(plain, fast)
    assert history(tmp_path / "a") == history(tmp_path / "b")


def train_in_two(tmp_path: Path, **changes: Any) -> list[dict[str, Any]]:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, json\nfrom pathlib import Path\n"
        "from test_translator import RUNTIME, make_shop, with_changes\n"
        "from mql4grec import translator, runtime\n"
        "shops = [make_shop('a'), make_shop('b', n_items=50, seed=1)]\n"
        "translator.train(shops, with_changes(**json.loads(sys.argv[2])),\n"
        "                 folder=Path(sys.argv[1]), runtime=RUNTIME)\n"
        "assert runtime.n_processes() == 2\n"
        "runtime.leave_everyone()\n"
    )
    launch_two(script, str(tmp_path / "two"), json.dumps(changes))
    return history(tmp_path / "two")


@pytest.mark.parametrize(
    "changes",
    [
        {"sk_epsilons": (0.003, 0.003, 0.003)},
        {"warmup_steps": 4, "refit_epochs": 2, "restart_after": 2, "codebooks": "average"},
    ],
    ids=["paper", "ours"],
)
def test_two_processes_train_as_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Sinkhorn, k-means, averages, restarts and metrics are global; a batch of 67 rows is not even.

    Local Sinkhorn would give other codes to four rows in ten.
    """
    changes = {**changes, "batch_size": 67, "epochs": 4, "lr": 0.002}
    found = train_in_two(tmp_path, **changes)
    shops = [make_shop("a"), make_shop("b", n_items=50, seed=1)]
    translator.train(shops, with_changes(**changes), folder=tmp_path / "one", runtime=RUNTIME)
    expected = history(tmp_path / "one")
    for one, two in zip(expected, found, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert two["collision_rate"] == pytest.approx(one["collision_rate"], abs=0.02)
        assert two["perplexity"] == pytest.approx(one["perplexity"], rel=0.02)
    names = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "one").iterdir())
