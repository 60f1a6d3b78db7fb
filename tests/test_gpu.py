"""What must hold on a GPU as on a CPU."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import test_translator
import tiny_language
import tiny_training
from mql4grec import decoding, language, quality, recommender, rqvae, translator
from mql4grec.catalog import Histories
from mql4grec.config import QualitySettings
from mql4grec.embeddings import Embeddings
from mql4grec.runtime import Runtime

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # Of torch's own code, when it compiles.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:\nOnline softmax:UserWarning"),
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
]
GPU = Runtime(device="cuda", seed=3)


def test_the_translator_gives_the_same_codes() -> None:
    network = rqvae.RQVAE(
        in_dim=16, layers=(32,), e_dim=8, num_emb_list=(16, 16), sk_epsilons=(0, 0), seed=1
    )
    vectors = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network.nearest_codes(network.encoder(vectors))
        found = network.to("cuda").nearest_codes(network.encoder(vectors.to("cuda")))
    assert (expected == found.cpu()).float().mean() > 0.99  # near ties may fall either way


def test_codes_are_found_as_good() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(300, 16)).astype(np.float32)
    codes = np.stack(np.unravel_index(generator.permutation(16**3)[:300], (16,) * 3), axis=1)
    ids = replace(
        tiny_language.semantic_ids("text", 300), codes=codes.astype(np.uint16), n_codes=(16,) * 3
    )
    found = []
    for runtime in (replace(GPU, device="cpu"), GPU):
        network = rqvae.RQVAE(
            in_dim=16, layers=(32,), e_dim=8, num_emb_list=(16,) * 3, sk_epsilons=(0,) * 3, seed=1
        )
        with torch.no_grad():
            for level, codebook in enumerate(network.codebooks):
                codebook.normal_(generator=torch.Generator().manual_seed(level))
        embedded = Embeddings("shop", "text", "none", vectors, np.ones(300, np.bool_))
        found.append(
            quality.measure(
                ids,
                Histories(np.array([0]), np.zeros(0, np.int32)),
                source=quality.Source(embedded, network.eval()),
                settings=QualitySettings(n_items=100),
                runtime=runtime,
            )
        )
    (cpu, gpu) = found
    assert cpu.neighbours is not None
    assert gpu.neighbours is not None
    # Near ties may fall either way.
    np.testing.assert_allclose(cpu.neighbours.before, gpu.neighbours.before, atol=0.02)
    np.testing.assert_allclose(cpu.neighbours.after, gpu.neighbours.after, atol=0.02)
    assert cpu.reconstruction is not None
    assert gpu.reconstruction is not None
    assert gpu.reconstruction.before == pytest.approx(cpu.reconstruction.before, rel=0.01)


def losses_of(
    folder: Path, runtime: Runtime, backbone: str, *, dropout: float = 0.0, **values: Any
) -> list[float]:
    """Train on a tiny shop; gives the losses of its epochs."""
    shop = tiny_training.shop()
    recommender.train(
        tiny_training.network(shop, dropout=dropout, backbone=backbone),
        [shop],
        tiny_training.settings(**values),
        stage="finetune",
        folder=folder,
        runtime=runtime,
    )
    epochs = json.loads((folder / "history.json").read_text())["epochs"]
    return [epoch[name] for epoch in epochs for name in ("train_loss", "valid_loss")]


@pytest.mark.parametrize(
    ("backbone", "values"),
    [
        ("t5", {}),
        ("t5", {"graphs": True}),
        ("t5", {"graphs": True, "loss_over": "level"}),
        ("causal", {}),
        ("causal", {"graphs": True}),
    ],
)
def test_training_follows_the_same_losses(
    tmp_path: Path, backbone: str, values: dict[str, Any]
) -> None:
    expected, found = (
        losses_of(tmp_path / runtime.device, runtime, backbone, **values)
        for runtime in (replace(GPU, device="cpu"), GPU)
    )
    np.testing.assert_allclose(expected, found, rtol=1e-3)


@pytest.mark.parametrize("backbone", ["t5", "causal"])
def test_recorded_steps_draw_dropout_by_their_seed(tmp_path: Path, backbone: str) -> None:
    """Twice the same training, but for sums whose order a GPU is free to choose."""
    first, second, other = (
        losses_of(tmp_path / name, replace(GPU, seed=seed), backbone, dropout=0.3, graphs=True)
        for name, seed in (("first", 3), ("second", 3), ("other", 4))
    )
    assert first == pytest.approx(second, rel=1e-4)
    assert first != pytest.approx(other, rel=1e-3)


def rank(runtime: Runtime, **arguments: Any) -> decoding.Rankings:
    """Rank the items of a tiny shop for its users."""
    shop = tiny_training.shop()
    codes = np.stack(np.unravel_index(np.arange(12), (4, 5, 6)), axis=1).astype(np.uint16)
    ids = replace(tiny_language.semantic_ids("text", 12), codes=codes)
    inputs = language.encode_histories(
        shop, shop.histories, task="seqrec", users=np.arange(shop.histories.n_users)
    )
    return decoding.recommend(
        tiny_training.network(shop),
        decoding.build_trie(ids),
        vocabulary=shop.vocabulary,
        modality="text",
        inputs=inputs,
        n_beams=5,
        runtime=runtime,
        **arguments,
    )


def test_beam_search_recommends_the_same_items() -> None:
    expected, found = rank(replace(GPU, device="cpu")), rank(GPU)
    np.testing.assert_array_equal(expected.items, found.items)
    np.testing.assert_allclose(expected.scores, found.scores, atol=1e-3)


def test_graphs_recommend_the_same_items() -> None:
    expected, found = (
        rank(GPU, batch_size=2, search=decoding.Search(graphs=graphs))  # so that shapes come again
        for graphs in (False, True)
    )
    np.testing.assert_array_equal(expected.items, found.items)
    np.testing.assert_allclose(expected.scores, found.scores, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"codebooks": "average", "restart_after": 3}])
def test_recorded_steps_of_the_translator_follow_the_same_losses(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """The same training without graphs, on the same device; sums on a GPU may differ in order."""
    losses = []
    for graphs in (False, True):
        folder = tmp_path / str(graphs)
        settings = test_translator.with_changes(graphs=graphs, warmup_steps=8, **changes)
        translator.train([test_translator.make_shop()], settings, folder=folder, runtime=GPU)
        records = json.loads((folder / "history.json").read_text())
        losses.append([record["loss"] for record in records])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_the_translator_is_trained_from_files_as_from_memory(tmp_path: Path) -> None:
    losses = []
    for limit in (None, 1e-7):
        folder = tmp_path / str(limit)
        settings = test_translator.with_changes(max_memory_gib=limit)
        translator.train([test_translator.make_shop()], settings, folder=folder, runtime=GPU)
        records = json.loads((folder / "history.json").read_text())
        losses.append([record["loss"] for record in records])
    # Sums on a GPU differ in order, and what one step makes of that the next ones grow: .027 once.
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
