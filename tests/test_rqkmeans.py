"""The translator without a network: principal components, then k-means level by level."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import tiny
from mql4grec import pipeline, rqvae, translator
from mql4grec.config import TranslatorSettings
from mql4grec.embeddings import Embeddings
from mql4grec.errors import ArtifactError
from mql4grec.runtime import SILENT, Journal, Runtime
from test_translator import make_shop, same_weights

RUNTIME = Runtime(seed=3)


def settings(**changes: object) -> TranslatorSettings:
    base = {"kind": "rqkmeans", "e_dim": 4, "num_emb_list": (8, 8, 4), "sk_epsilons": (0, 0, 0)}
    base |= {"kmeans_balance": 0}
    return TranslatorSettings.model_validate(base | changes)


def train(shop: Embeddings, folder: Path, **changes: object) -> rqvae.RQVAE:
    return translator.train([shop], settings(**changes), folder=folder, runtime=RUNTIME)


def test_components_are_those_of_scikit_learn() -> None:
    rows = torch.from_numpy(make_shop(n_items=400).vectors) + 3
    mean, components = rqvae.principal_components(lambda: rows.split(150), n_components=5)
    expected = PCA(5, svd_solver="full").fit(rows.double().numpy())
    np.testing.assert_allclose(mean, expected.mean_, rtol=1e-5)
    signs = np.sign((components.numpy() * expected.components_).sum(1))
    np.testing.assert_allclose(components, expected.components_ * signs[:, None], atol=1e-4)
    assert (components.gather(1, components.abs().argmax(1, keepdim=True)) > 0).all()


def test_encoder_and_decoder_are_the_components(tmp_path: Path) -> None:
    shop = make_shop(n_items=300, missing=7)
    network = train(shop, tmp_path)
    rows = torch.from_numpy(shop.vectors[shop.present])
    expected = PCA(4, svd_solver="full").fit(rows.double().numpy())
    with torch.no_grad():
        latents = network.encoder(rows)
        decoded = network.decoder(latents)
    found = expected.inverse_transform(expected.transform(rows.double().numpy()))
    np.testing.assert_allclose(decoded, found, atol=1e-4)
    assert latents.mean(0).abs().max() < 1e-5


def test_each_codebook_is_k_means_of_what_is_left(tmp_path: Path) -> None:
    """The mean of the rows of each code is its vector, level after level."""
    shop = make_shop(n_items=500)
    network = train(shop, tmp_path, kmeans_iters=300)
    with torch.no_grad():
        residual = network.encoder(torch.from_numpy(shop.vectors[shop.present]))
        for level, codebook in enumerate(network.codebooks):
            codes = network.choose(residual, level=level)
            for code in codes.unique():
                mean = residual[codes == code].mean(0)
                torch.testing.assert_close(mean, codebook[code], atol=0.05, rtol=0)
            residual = residual - codebook[codes]


def test_no_component_is_left_out_where_there_are_as_many(tmp_path: Path) -> None:
    shop = make_shop()
    network = train(shop, tmp_path, e_dim=64)
    assert network.e_dim == network.in_dim == 12
    rows = torch.from_numpy(shop.vectors)
    with torch.no_grad():
        assert torch.equal(network.encoder(rows), rows)
        assert torch.equal(network.decoder(rows), rows)


def test_it_is_kept_and_found_again(tmp_path: Path) -> None:
    shop = make_shop()
    network = train(shop, tmp_path / "a")
    assert same_weights(network, translator.load(tmp_path / "a"))
    assert same_weights(network, train(shop, tmp_path / "b"))
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == [
        "best_collision_model.json", "best_collision_model.safetensors",
        "best_loss_model.json", "best_loss_model.safetensors", "history.json",
        "last_model.json", "last_model.safetensors",
    ]  # fmt: skip
    before = (tmp_path / "a" / "history.json").stat().st_mtime_ns
    train(shop, tmp_path / "a")
    assert (tmp_path / "a" / "history.json").stat().st_mtime_ns == before
    with pytest.raises(ArtifactError, match="`kind` 'rqvae'"):
        train(shop, tmp_path / "a", kind="rqvae")
    (record,) = json.loads((tmp_path / "a" / "history.json").read_text())
    codes = translator.translate(network, shop, runtime=RUNTIME).codes[shop.present]
    assert record["collision_rate"] == 1 - len(np.unique(codes, axis=0)) / len(codes)
    with torch.no_grad():
        losses = network(torch.from_numpy(shop.vectors[shop.present]))
    assert record["reconstruction_loss"] == pytest.approx(losses.reconstruction.item(), rel=1e-4)
    assert record["loss"] == pytest.approx(losses.total.item(), rel=1e-4)


def test_k_means_looks_at_a_sample(tmp_path: Path) -> None:
    shop = make_shop(n_items=300)
    few = train(shop, tmp_path / "few", kmeans_rows=40)
    again = train(shop, tmp_path / "again", kmeans_rows=40)
    all_rows = train(shop, tmp_path / "all")
    assert same_weights(few, again)
    assert torch.equal(few.encoder[-1].weight, all_rows.encoder[-1].weight)
    assert not same_weights(few, all_rows)


def test_progress_is_told_level_by_level(tmp_path: Path) -> None:
    made: list[tuple[str, int]] = []
    advanced: list[int] = []

    class Bars(Journal):
        @contextmanager
        def track(
            self, description: str, *, total: int, done: int = 0
        ) -> Iterator[Callable[[int], None]]:
            made.append((description, total - done))
            yield advanced.append

    translator.train([make_shop()], settings(), folder=tmp_path, runtime=RUNTIME, journal=Bars())
    assert made == [("fit translator text", 3)]
    assert advanced == [1, 1, 1]


def test_components_need_a_network_without_hidden_layers() -> None:
    network = rqvae.RQVAE(in_dim=6, layers=(5,), e_dim=2, num_emb_list=(2, 2), sk_epsilons=(0, 0))
    with pytest.raises(ValueError, match=r"expected none for principal components, got \(5,\)"):
        network.set_components(torch.zeros(6), torch.eye(6)[:2])


def test_it_loses_less_and_collides_less_than_a_short_training(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(40, 64))
    vectors = centres[generator.integers(40, size=2000)] + 0.4 * generator.normal(size=(2000, 64))
    shop = Embeddings("shop", "text", "encoder", vectors.astype(np.float32), np.ones(2000, bool))
    sizes = {"e_dim": 16, "num_emb_list": (32, 32, 32), "sk_epsilons": (0, 0, 0.003)}
    records = []
    for kind in ("rqkmeans", "rqvae"):
        changes = sizes | {"kind": kind, "layers": (32,), "epochs": 20, "eval_step": 20}
        train(shop, tmp_path / kind, **changes)
        records.append(json.loads((tmp_path / kind / "history.json").read_text())[-1])
    assert records[0]["reconstruction_loss"] < records[1]["reconstruction_loss"]
    assert records[0]["collision_rate"] < records[1]["collision_rate"]
    assert sum(records[0]["dead_codes"]) == 0


def test_a_whole_run_with_it(tmp_path: Path) -> None:
    pipeline.run(tiny.settings(tmp_path / "run", "translator.kind=rqkmeans"), journal=SILENT)
    for modality in ("text", "image"):
        network = translator.load(tmp_path / "run" / "translator" / modality)
        assert network.layers == ()
    assert (tmp_path / "run" / "report" / "index.html").stat().st_size > 0
