"""A model of either kind: built with its final vocabulary, saved and opened.

A T5's folder is a plain transformers folder; that of a decoder-only model looks alike.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from mql4grec import checkpoints, language
from mql4grec.artifacts import read_json, reading, scratch_folder, sync, write_json
from mql4grec.catalog import Histories
from mql4grec.config import RecommenderSettings, Task
from mql4grec.language import Corpus, Vocabulary
from mql4grec.recommender import causal
from mql4grec.recommender.causal import CausalConfig, CausalModel

Model = T5ForConditionalGeneration | CausalModel
WEIGHTS, CONFIG = "model.safetensors", "config.json"
KIND, CAUSAL = "model_type", "mql4grec-causal"  # "t5" is transformers' own


def build(
    vocabulary: Vocabulary, settings: RecommenderSettings, *, seed: int, max_his_len: int = 20
) -> Model:
    """Make an untrained model of the settings' kind.

    Args:
        vocabulary: Gives the number of tokens and the special ones.
        settings: Room `recommender`.
        seed: Of the weights.
        max_his_len: Items that a decoder-only model reads; a T5's number is not limited.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if settings.backbone == "causal":
            return CausalModel(causal.sizes(vocabulary, settings, max_his_len=max_his_len))
        return T5ForConditionalGeneration(_t5_config(vocabulary, settings))


def _t5_config(vocabulary: Vocabulary, settings: RecommenderSettings) -> T5Config:
    """Give the sizes of a T5 with its final vocabulary.

    The embedding table is never resized: rows that transformers adds later start near one point,
    with a scale that slows training down (see the source).

    Source:
        MQL4GRec's sizes and T5 version 1.0 (ReLU, one table for input, decoder and output, rows
        drawn from N(0, 1)). The authors resize a 32,100-row T5 vocabulary instead, so that their
        result depends on the version of transformers.
    """
    return T5Config(  # type: ignore[call-arg]  # fields made by a decorator
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


def load(folder: Path) -> Model:
    """Open a trained model, on the CPU and ready to recommend.

    Args:
        folder: That `train` wrote; `T5ForConditionalGeneration.from_pretrained` opens a T5's.

    Raises:
        ArtifactError: If there is none, or its weights do not fit its configuration.
    """
    tensors, _ = checkpoints.read_tensors(folder / WEIGHTS, made_by="finetune")
    model = _untrained(folder / CONFIG)
    with reading(folder / WEIGHTS, made_by="finetune"):
        set_weights(model, tensors)
    model.eval()
    return model


def _untrained(config: Path) -> Model:
    """Make a model of the sizes that a file tells."""
    sizes = read_json(config, made_by="finetune")
    with reading(config, made_by="finetune"), torch.random.fork_rng(devices=[]):
        if sizes.pop(KIND) == CAUSAL:
            return CausalModel(CausalConfig.from_json(sizes))
        return T5ForConditionalGeneration(T5Config.from_pretrained(config.parent))


def save(model: Model, folder: Path, *, vocabulary: Vocabulary) -> None:
    """Write model and tokenizer; a reader sees the old weights or the new ones, never half of them.

    Only the weights change from call to call, and one rename replaces them.
    """
    with scratch_folder(folder) as temporary:
        if isinstance(model, CausalModel):
            write_json(temporary / CONFIG, {KIND: CAUSAL, **asdict(model.config)})
        else:
            # As `model.save_pretrained` does, without its progress bar.
            model.config.save_pretrained(temporary)
            model.generation_config.save_pretrained(temporary)
        save_file(weights(model), temporary / WEIGHTS, {"format": "pt"})
        language.save_tokenizer(vocabulary, temporary)
        for path in sorted(temporary.iterdir()):
            sync(path)
            path.replace(folder / path.name)
    sync(folder)


def read_histories(
    model: Model, corpus: Corpus, histories: Histories, *, task: Task
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Make the inputs from which a model recommends.

    Args:
        model: Of either kind.
        corpus: Gives the codes of the items.
        histories: Of U users.
        task: By which a T5 recommends; a decoder-only model reads items whole.

    Returns:
        `input_ids` and `attention_mask`, int64 (U, T).
    """
    if isinstance(model, CausalModel):
        return language.encode_items(corpus, histories)
    users = np.arange(histories.n_users)
    return language.encode_histories(corpus, histories, task=task, users=users)


def weights(model: Model) -> dict[str, Tensor]:
    """Give every parameter once, by name; the table that T5 uses three times is `shared.weight`."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def set_weights(model: Model, tensors: dict[str, Tensor]) -> None:
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
