"""A shop encoded into files: what has no vector, refusals, interruptions, changes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mql4grec.catalog import Catalog
from mql4grec.config import EmbeddingsSettings
from mql4grec.embeddings import embed, image, load, text
from mql4grec.embeddings.pictures import Pictures, open_batches
from mql4grec.errors import ArtifactError, ConfigError, DataError
from mql4grec.runtime import Runtime
from tiny_embeddings import CPU, TEXTS, TINY, make_catalog, run

HASHING = {"text": {"kind": "hashing", "batch_size": 2}}
RANDOM = {"image": {"kind": "timm", "encoder": TINY, "weights": "random", "batch_size": 2}}


@pytest.fixture
def pictured(tmp_path: Path) -> Catalog:
    """Seven items: four good pictures, one cut short, one missing, one never given."""
    generator = np.random.default_rng(0)
    paths: list[Path | None] = []
    for row in range(5):
        pixels = generator.integers(0, 256, size=(40, 30 + row, 3), dtype=np.uint8)
        path = tmp_path / f"{row}.png"
        Image.fromarray(pixels).save(path)
        paths.append(path)
    torn = tmp_path / "2.png"
    torn.write_bytes(torn.read_bytes()[:-2000])
    return make_catalog(["thing"] * 7, images=[*paths, tmp_path / "gone.png", None])


def test_texts_are_encoded_and_empty_ones_marked(tmp_path: Path) -> None:
    found = run(make_catalog(), tmp_path, **HASHING)
    assert found.vectors.shape == (5, 384)
    assert found.vectors.dtype == np.float32
    assert found.present.tolist() == [True, False, True, True, False]
    assert not found.vectors[~found.present].any()
    assert found.vectors[0] @ found.vectors[2] > 2 * abs(found.vectors[0] @ found.vectors[3])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"Tiny.emb-hashing.npy", "Tiny.mask-hashing.npy", "text.json"}
    listing = json.loads((tmp_path / "text.json").read_text())
    assert listing["encoder"] == "hashing"
    assert listing["file"] == "Tiny.emb-hashing.npy"
    assert listing["mask"] == "Tiny.mask-hashing.npy"
    assert listing["n_missing"] == 2
    assert listing["missing"] == [
        {"item_id": "item-1", "reason": "no text"},
        {"item_id": "item-4", "reason": "no text"},
    ]


def test_load_gives_what_embed_gave(tmp_path: Path) -> None:
    made = run(make_catalog(), tmp_path, **HASHING)
    found = load(tmp_path, dataset="Tiny", modality="text")
    assert found is not None
    assert found.encoder == "hashing"
    np.testing.assert_array_equal(found.vectors, made.vectors)
    np.testing.assert_array_equal(found.present, made.present)


def test_a_modality_that_is_not_wanted_is_none(tmp_path: Path) -> None:
    settings = EmbeddingsSettings.model_validate({"image": {"kind": "none"}})
    runtime = Runtime()
    done = embed(make_catalog(), settings, modality="image", folder=tmp_path, runtime=runtime)
    assert done is None
    assert load(tmp_path, dataset="Tiny", modality="image") is None


def test_loading_what_is_not_there_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file; `mql4grec embed` makes it"):
        load(tmp_path, dataset="Tiny", modality="image")
    run(make_catalog(), tmp_path, **HASHING)
    (tmp_path / "Tiny.emb-hashing.npy").unlink()
    with pytest.raises(ArtifactError, match="no such file; `mql4grec embed` makes it"):
        load(tmp_path, dataset="Tiny", modality="text")


def test_bad_pictures_are_marked_and_listed(tmp_path: Path, pictured: Catalog) -> None:
    found = run(pictured, tmp_path / "out", **RANDOM)
    assert found.present.tolist() == [True, True, False, True, True, False, False]
    assert not found.vectors[~found.present].any()
    assert found.vectors[found.present].any(axis=1).all()
    missing = json.loads((tmp_path / "out" / "image.json").read_text())["missing"]
    assert [fault["item_id"] for fault in missing] == ["item-2", "item-5", "item-6"]
    assert "cannot be read" in missing[0]["reason"]
    assert "truncated" in missing[0]["reason"]
    assert missing[1]["reason"] == f"no such file: {tmp_path / 'gone.png'}"
    assert missing[2]["reason"] == "no picture given"


def test_bad_pictures_are_refused_before_anything_is_encoded(
    tmp_path: Path, pictured: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "load_encoder", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(DataError) as refused:
        run(pictured, tmp_path / "out", missing="error", **RANDOM)
    message = str(refused.value)
    assert message.startswith(
        "`Tiny`: expected a readable image for each of 7 items, 3 have none: 'item-2' cannot be"
    )
    assert "'item-6' no picture given" in message
    assert "set `embeddings.missing: mark`" in message
    listed = json.loads((tmp_path / "out" / "image.refused.json").read_text())
    assert listed["n_missing"] == len(listed["missing"]) == 3


def test_marked_pictures_do_not_pass_once_they_are_to_be_refused(
    tmp_path: Path, pictured: Catalog
) -> None:
    run(pictured, tmp_path / "out", **RANDOM)
    with pytest.raises(DataError, match="3 have none"):
        run(pictured, tmp_path / "out", missing="error", **RANDOM)
    run(pictured, tmp_path / "out", **RANDOM)


def test_the_list_of_refusals_goes_when_all_is_well(tmp_path: Path, pictured: Catalog) -> None:
    with pytest.raises(DataError):
        run(pictured, tmp_path / "out", missing="error", **RANDOM)
    for name in ("2.png", "gone.png"):
        Image.new("RGB", (30, 30), "red").save(tmp_path / name)
    mended = replace(pictured, images=(*pictured.images[:6], tmp_path / "0.png"))
    assert run(mended, tmp_path / "out", missing="error", **RANDOM).present.all()
    assert not (tmp_path / "out" / "image.refused.json").exists()


def test_encoders_of_the_same_name_are_refused(tmp_path: Path) -> None:
    settings = {"text": {"encoder": "/a/model"}, "image": {"encoder": "local-dir:/b/model"}}
    with pytest.raises(ConfigError, match="got 'model' for both; rename one folder"):
        run(make_catalog(), tmp_path, **settings)


def test_empty_texts_are_refused(tmp_path: Path) -> None:
    expected = "expected a readable text for each of 5 items, 2 have none: 'item-1' no text; "
    with pytest.raises(DataError, match=expected):
        run(make_catalog(), tmp_path, missing="error", **HASHING)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_shop_with_nothing_to_encode_is_refused(tmp_path: Path, modality: str) -> None:
    catalog = make_catalog(["", ""], images=[tmp_path / "gone.png", None])
    expected = f"at least one {modality} that can be encoded, got none of 2; the first: no "
    with pytest.raises(DataError, match=expected):
        run(catalog, tmp_path / "out", **(HASHING if modality == "text" else RANDOM))


def test_batches_equal_one_by_one(tmp_path: Path, pictured: Catalog) -> None:
    alone = {"image": RANDOM["image"] | {"batch_size": 1}}
    batched = run(pictured, tmp_path / "a", **RANDOM)
    single = run(pictured, tmp_path / "b", **alone)
    np.testing.assert_allclose(batched.vectors, single.vectors, rtol=1e-4, atol=1e-5)


def test_loader_processes_change_nothing(pictured: Catalog) -> None:
    encoder = image.load_encoder("timm", TINY, weights="random", seed=1, device=CPU)
    pictures = Pictures(pictured.images, encoder.transform)
    batches = [np.array([0, 1, 2]), np.array([5, 4, 3])]
    here = list(open_batches(pictures, batches, n_workers=0))
    there = list(open_batches(pictures, batches, n_workers=2))
    for first, second in zip(here, there, strict=True):
        assert first.rows.tolist() == second.rows.tolist()
        assert first.faults == second.faults
        assert first.pixels is not None
        assert second.pixels is not None
        assert torch.equal(first.pixels, second.pixels)


@pytest.mark.parametrize("settings", [HASHING, RANDOM], ids=["text", "image"])
@pytest.mark.parametrize("stop", [1, 2])
def test_an_interrupted_call_goes_on_with_the_same_bytes(
    tmp_path: Path,
    pictured: Catalog,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    stop: int,
) -> None:
    texts = [*TEXTS, "a lamp", "a pot"]
    catalog = replace(pictured, texts=tuple(texts))
    whole = run(catalog, tmp_path / "whole", **settings)
    name = f"_encode_{whole.modality}s"
    genuine = getattr(__import__("mql4grec.embeddings", fromlist=[name]), name)
    n_batches: list[int] = []

    def torn(content: Any, batches: Any, **others: Any) -> Any:
        n_batches.append(len(batches))
        for n_done, batch in enumerate(genuine(content, batches, **others)):
            if n_done == stop:
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(f"mql4grec.embeddings.{name}", torn)
        with pytest.raises(KeyboardInterrupt):
            run(catalog, tmp_path / "torn", **settings)
        with pytest.raises(ArtifactError):
            load(tmp_path / "torn", dataset="Tiny", modality=whole.modality)
        stop = 99
        found = run(catalog, tmp_path / "torn", **settings)
    assert n_batches[1] < n_batches[0]
    assert found.present.tolist() == whole.present.tolist()
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "torn" / path.name).read_bytes()


def test_a_finished_modality_is_not_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(make_catalog(), tmp_path, **HASHING)
    monkeypatch.setattr(text, "hashing_encoder", lambda seed: 1 / 0)
    run(make_catalog(), tmp_path, **HASHING)
    with pytest.raises(ZeroDivisionError):
        run(make_catalog(["other"] * 5), tmp_path, **HASHING)
    with pytest.raises(ArtifactError):  # what was there is of other texts
        load(tmp_path, dataset="Tiny", modality="text")


def test_a_stop_before_the_renaming_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("mql4grec.embeddings.finish", lambda job: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(make_catalog(), tmp_path, **HASHING)
    monkeypatch.setattr(text, "hashing_encoder", lambda seed: 1 / 0)
    assert run(make_catalog(), tmp_path, **HASHING).present.sum() == 3


def test_a_mended_picture_is_encoded_anew(tmp_path: Path, pictured: Catalog) -> None:
    before = run(pictured, tmp_path / "out", **RANDOM)
    Image.new("RGB", (30, 30), "red").save(tmp_path / "gone.png")
    after = run(pictured, tmp_path / "out", **RANDOM)
    assert not before.present[5]
    assert after.present[5]


def test_vectors_that_are_not_finite_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = np.full((2, 3), np.nan, np.float32)
    monkeypatch.setattr(text, "hashing_encoder", lambda seed: lambda texts: broken[: len(texts)])
    with pytest.raises(DataError, match="row 3: expected a finite vector, got nan or infinity"):
        run(make_catalog(), tmp_path, **HASHING)
