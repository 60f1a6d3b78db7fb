"""The T5: built with its final vocabulary, saved and opened as a plain transformers folder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import T5Config, T5ForConditionalGeneration

from mql4grec import language
from mql4grec.artifacts import require
from mql4grec.config import RecommenderSettings
from mql4grec.errors import ArtifactError
from mql4grec.language import Vocabulary

WEIGHTS = "model.safetensors"


def build(
    vocabulary: Vocabulary, settings: RecommenderSettings, *, seed: int
) -> T5ForConditionalGeneration:
    """Make an untrained T5 with its final vocabulary.

    The embedding table is never resized: rows that transformers adds later start near one point,
    with a scale that slows training down (see the source).

    Args:
        vocabulary: Gives the number of tokens and the special ones.
        settings: Room `recommender`.
        seed: Of the weights.

    Source:
        MQL4GRec's sizes and T5 version 1.0 (ReLU, one table for input, decoder and output, rows
        drawn from N(0, 1)). The authors resize a 32,100-row T5 vocabulary instead, so that their
        result depends on the version of transformers.
    """
    config = T5Config(  # type: ignore[call-arg]  # fields made by a decorator
        vocab_size=vocabulary.n_tokens,
        d_model=settings.d_model,
        d_kv=settings.d_kv,
        d_ff=settings.d_ff,
        num_layers=settings.num_layers,
        num_decoder_layers=settings.num_decoder_layers,
        num_heads=settings.num_heads,
        dropout_rate=settings.dropout,
        feed_forward_proj="relu",
        tie_word_embeddings=True,
        pad_token_id=vocabulary.pad,
        eos_token_id=vocabulary.eos,
        decoder_start_token_id=vocabulary.pad,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return T5ForConditionalGeneration(config)


def load(folder: Path) -> T5ForConditionalGeneration:
    """Open a trained T5, on the CPU and ready to recommend.

    Args:
        folder: That `train` wrote; `T5ForConditionalGeneration.from_pretrained` opens it as well.

    Raises:
        ArtifactError: If there is none, or its weights do not fit its configuration.
    """
    config = T5Config.from_pretrained(require(folder / "config.json", made_by="finetune").parent)
    path = require(folder / WEIGHTS, made_by="finetune")
    with torch.random.fork_rng(devices=[]):
        model = T5ForConditionalGeneration(config)
    try:
        set_weights(model, load_file(path))
    except (SafetensorError, ValueError) as err:
        raise ArtifactError(
            f"`{path}`: expected weights that fit config.json, got {err}; "
            "delete the folder and run `mql4grec finetune` again"
        ) from err
    model.eval()
    return model


def save(model: T5ForConditionalGeneration, folder: Path, *, vocabulary: Vocabulary) -> None:
    """Write model and tokenizer; a reader sees the old weights or the new ones, never half of them.

    Only the weights change from call to call, and one rename replaces them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".best-", dir=folder))
    try:
        # As `model.save_pretrained` does, without its progress bar.
        model.config.save_pretrained(temporary)
        model.generation_config.save_pretrained(temporary)
        save_file(weights(model), temporary / WEIGHTS, {"format": "pt"})
        language.save_tokenizer(vocabulary, temporary)
        for path in sorted(temporary.iterdir()):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(temporary)


def weights(model: T5ForConditionalGeneration) -> dict[str, Tensor]:
    """Give every parameter once, by name; the table that T5 uses three times is `shared.weight`."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def set_weights(model: T5ForConditionalGeneration, tensors: dict[str, Tensor]) -> None:
    """Copy every parameter into the model.

    Raises:
        ValueError: If names or shapes differ.
    """
    own = weights(model)
    if own.keys() != tensors.keys():
        raise ValueError(f"other parameters: {sorted(own.keys() ^ tensors.keys())[:5]}")
    with torch.no_grad():
        for name, parameter in own.items():
            if parameter.shape != tensors[name].shape:
                raise ValueError(
                    f"{name} of shape {tuple(tensors[name].shape)} instead of "
                    f"{tuple(parameter.shape)}"
                )
            parameter.copy_(tensors[name])


def summed_loss(
    model: T5ForConditionalGeneration,
    *,
    input_ids: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    rivals: Tensor | None = None,
) -> Tensor:
    """Give the cross entropy of a batch, summed over all target tokens in float32.

    Computed here and not by transformers, whose versions differ in what they average over.

    Args:
        model: A T5.
        input_ids: int64 (B, T).
        attention_mask: int64 (B, T).
        labels: int64 (B, L+1), `language.IGNORED` where a position does not count.
        rivals: Which group each token belongs to, int64 (V), as `group_by_level` gives it: a target
            token has its probability among those of its group. None: among all tokens.
    """
    pad = int(model.config.decoder_start_token_id)  # which is what T5 pads with
    start = torch.full_like(labels[:, :1], pad)
    decoder_input_ids = torch.cat([start, labels[:, :-1]], dim=1)
    logits = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        decoder_input_ids=decoder_input_ids.masked_fill(decoder_input_ids == language.IGNORED, pad),
        use_cache=False,
    ).logits  # (B, L+1, V)
    if rivals is not None:
        own = rivals[labels.clamp(min=0)]  # any group where a position does not count
        logits = logits.masked_fill(own[:, :, None] != rivals, -torch.inf)
    return functional.cross_entropy(
        logits.float().flatten(0, 1),
        labels.flatten(),
        ignore_index=language.IGNORED,
        reduction="sum",
    )


def group_by_level(vocabulary: Vocabulary) -> Tensor:
    """Group the codes of each level of a modality; every other token is a group of its own.

    Returns:
        Group of each token, int64 (V): the first token id of the group.
    """
    groups = torch.arange(vocabulary.n_tokens)
    for modality, firsts in vocabulary.first_code.items():
        for first, n_codes in zip(firsts, vocabulary.n_codes[modality], strict=True):
            groups[first : first + n_codes] = first
    return groups
