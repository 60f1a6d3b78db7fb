"""Our own beam search over a T5 and a trie.

The same search as `generate` with the trie as constraint, without what makes that slow: the encoder
and its keys and values run once per user and not per beam, the first step runs on one beam,
candidates are the K codes of one level and not the vocabulary, and the trie is walked by node, with
two calls to Rust per level for the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import (
    T5Attention,
    T5LayerCrossAttention,
    T5LayerFF,
    T5LayerSelfAttention,
)

from mql4grec.decoding.trie import ItemTrie

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Target:
    """How an item is spelt.

    Attributes:
        trie: Of the items that may come out.
        first_code: Token id of code 0 of each level (L).
        start: Token id that the decoder starts from.
        eos: Token id of the end.
    """

    trie: ItemTrie
    first_code: tuple[int, ...]
    start: int
    eos: int


@dataclass(frozen=True)
class Memory:
    """What the decoder reads of a batch of B users with T input tokens.

    Attributes:
        layers: Keys and values of each decoder layer's cross-attention, (B, H, T, d_kv).
        mask: Which input tokens there are, bool (B, 1, 1, T).
        bias: Of the decoder's own positions, (1, H, L+1, L+1).
    """

    layers: tuple[KeysValues, ...]
    mask: Tensor
    bias: Tensor


@torch.inference_mode()
def beam_search(
    model: T5ForConditionalGeneration,
    target: Target,
    *,
    input_ids: Tensor,
    attention_mask: Tensor,
    n_beams: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Find the `n_beams` most probable items of every user.

    Args:
        model: T5ForConditionalGeneration in evaluation mode.
        target: How an item is spelt.
        input_ids: int64 (B, T).
        attention_mask: (B, T).
        n_beams: M.

    Returns:
        Item rows int32 (B, m) and scores float32 (B, m), m <= M, best first; -1 and -inf where
        the trie has fewer items. A score is the log-probability of codes and eos, normalised over
        the whole vocabulary before the trie masks.
    """
    trie, levels = target.trie.core, target.trie.n_codes
    memory = _read(model, input_ids, attention_mask, n_steps=len(levels) + 1)
    batch = len(input_ids)
    tokens = torch.full((batch, 1), target.start, device=input_ids.device)
    scores = torch.zeros((batch, 1), device=input_ids.device)
    codes = torch.empty((batch, 1, 0), dtype=torch.int64, device=input_ids.device)
    nodes: NDArray[np.int64] = np.full((batch, 1), trie.root, dtype=np.int64)
    past: list[KeysValues] = []
    for first, n_codes in zip(target.first_code, levels, strict=True):
        hidden, past = _step(model, tokens, memory, past=past)
        level = slice(first, first + n_codes)
        candidates = scores[:, :, None] + _log_probabilities(model, hidden)[:, :, level]
        allowed = trie.mask(nodes.ravel(), codes.shape[2])  # (B * m, K)
        mask = torch.from_numpy(allowed).to(scores.device).view_as(candidates)
        candidates = candidates.masked_fill(~mask, -torch.inf).flatten(1)  # (B, m * K)
        scores, best = candidates.topk(min(n_beams, candidates.shape[1]))
        parents, chosen = best // n_codes, best % n_codes  # (B, m')
        tokens = first + chosen
        codes = torch.cat([_pick(codes, parents), chosen[:, :, None]], dim=2)
        past = [(_pick(keys, parents), _pick(values, parents)) for keys, values in past]
        nodes = np.take_along_axis(nodes, parents.cpu().numpy(), axis=1)
        walked = chosen.cpu().numpy().astype(np.uint16)
        nodes = trie.step(nodes.ravel(), walked.ravel()).reshape(walked.shape)
    hidden, _ = _step(model, tokens, memory, past=past)
    scores = scores + _log_probabilities(model, hidden)[:, :, target.eos]
    return _as_items(target.trie, codes, scores)


def _as_items(
    trie: ItemTrie, codes: Tensor, scores: Tensor
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Sort by score and look the codes up; beams without an item, at -inf, come last."""
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    spelt = _pick(codes, order).cpu().numpy().astype(np.uint16)  # (B, m, L)
    items = trie.find(spelt.reshape(-1, spelt.shape[2])).reshape(spelt.shape[:2])
    values = scores.float().cpu().numpy()
    return np.where(np.isneginf(values), np.int32(-1), items), values


def _pick(values: Tensor, beams: Tensor) -> Tensor:
    """Reorder the beams of `values` (B, m, ...) by `beams` (B, m')."""
    offsets = torch.arange(len(beams), device=beams.device)[:, None] * values.shape[1]
    # On flat rows: on a CPU this is a third of the time of indexing by two tensors.
    rows = (beams + offsets).flatten()
    return values.flatten(0, 1).index_select(0, rows).view(*beams.shape, *values.shape[2:])


def _read(
    model: T5ForConditionalGeneration, input_ids: Tensor, attention_mask: Tensor, *, n_steps: int
) -> Memory:
    """Run the encoder, and what every step of the decoder shares."""
    hidden = model.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    layers = []
    for _, cross, _ in _layers(model):
        attention = cross.EncDecAttention
        layers.append(
            (_heads(attention, attention.k(hidden)), _heads(attention, attention.v(hidden)))
        )
    positions = _layers(model)[0][0].SelfAttention
    bias = positions.compute_bias(n_steps, n_steps)
    return Memory(
        layers=tuple(layers),
        mask=attention_mask[:, None, None, :] > 0,
        bias=bias,
    )


def _layers(
    model: T5ForConditionalGeneration,
) -> list[tuple[T5LayerSelfAttention, T5LayerCrossAttention, T5LayerFF]]:
    """List the three parts of each decoder layer, with the types that torch's containers lose."""
    blocks = cast(Any, model.decoder.block)
    return [tuple(block.layer) for block in blocks]


def _step(
    model: T5ForConditionalGeneration, tokens: Tensor, memory: Memory, *, past: list[KeysValues]
) -> tuple[Tensor, list[KeysValues]]:
    """Run the decoder on one token of every beam.

    Args:
        model: The T5.
        tokens: int64 (B, m).
        memory: Of the batch.
        past: Per layer, keys and values (B, m, t, H, d_kv) of each beam's own earlier tokens;
            empty at the first step.

    Returns:
        The decoder's output (B, m, d_model), and `past` with this token.
    """
    hidden = model.decoder.embed_tokens(tokens)
    now = []
    for index, (own, cross, feed_forward) in enumerate(_layers(model)):
        change, pair = _attend_own(own, hidden, memory.bias, past=past[index] if past else None)
        now.append(pair)
        hidden = hidden + change
        hidden = hidden + _attend_input(cross, hidden, memory.layers[index], mask=memory.mask)
        hidden = feed_forward(hidden)
    return model.decoder.final_layer_norm(hidden), now


def _attend_own(
    layer: T5LayerSelfAttention, hidden: Tensor, bias: Tensor, *, past: KeysValues | None
) -> tuple[Tensor, KeysValues]:
    """Let every beam attend to its own tokens so far."""
    attention, normed = layer.SelfAttention, layer.layer_norm(hidden)
    heads = (attention.n_heads, attention.key_value_proj_dim)
    queries = attention.q(normed).unflatten(2, heads)[:, :, None]  # (B, m, 1, H, d_kv)
    keys = attention.k(normed).unflatten(2, heads)[:, :, None]
    values = attention.v(normed).unflatten(2, heads)[:, :, None]
    if past is not None:
        keys = torch.cat([past[0], keys], dim=2)  # (B, m, t, H, d_kv)
        values = torch.cat([past[1], values], dim=2)
    length = keys.shape[2]
    # One query on at most L + 1 keys per beam and head: sums of products take half the time that
    # attention kernels take for so many so small problems. T5 does not scale.
    scores = (queries * keys).sum(dim=4) + bias[0, :, length - 1, :length].T  # (B, m, t, H)
    read = (scores.softmax(dim=2)[..., None] * values).sum(dim=2)  # (B, m, H, d_kv)
    return attention.o(read.flatten(2)), (keys, values)


def _attend_input(
    layer: T5LayerCrossAttention, hidden: Tensor, pair: KeysValues, *, mask: Tensor
) -> Tensor:
    """Let the beams attend to the user's input, as queries of one sequence."""
    attention = layer.EncDecAttention
    queries = _heads(attention, attention.q(layer.layer_norm(hidden)))  # (B, H, m, d_kv)
    out = functional.scaled_dot_product_attention(queries, *pair, attn_mask=mask, scale=1.0)
    change: Tensor = attention.o(out.transpose(1, 2).flatten(2))
    return change


def _heads(attention: T5Attention, values: Tensor) -> Tensor:
    """Split (B, T, H * d_kv) into (B, H, T, d_kv)."""
    shape = (*values.shape[:2], attention.n_heads, attention.key_value_proj_dim)
    return values.view(shape).transpose(1, 2)


def _log_probabilities(model: T5ForConditionalGeneration, hidden: Tensor) -> Tensor:
    """Give log-probabilities over the whole vocabulary, float32 (B, m, V)."""
    # Versions of transformers before 5 know no `scale_decoder_outputs`: tied weights were the sign.
    config = model.config
    if getattr(config, "scale_decoder_outputs", config.tie_word_embeddings):
        hidden = hidden * config.d_model**-0.5
    # In the weights' own precision: probabilities of near items differ by less than bfloat16 tells.
    with torch.autocast(hidden.device.type, enabled=False):
        logits: Tensor = model.lm_head(hidden.to(model.lm_head.weight.dtype))
    return logits.float().log_softmax(dim=-1)
