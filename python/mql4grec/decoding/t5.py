"""A T5's weights laid out for decoding, and its encoder and one step of its decoder over them.

The same numbers as transformers' own T5, without what costs time when a million short sequences
are read: projections of one input are one product, norms are folded into the products after them,
bfloat16 weights are cast once and not at every call, and the keys and values of earlier steps stay
where they are, read through each beam's ancestors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

from mql4grec.decoding.network import Past
from mql4grec.recommender.layout import fold_attention, fold_cross_kv, fold_head


@dataclass(frozen=True)
class Block:
    """A layer of encoder or decoder; every matrix is (out, in), norms folded in.

    Attributes:
        qkv: Queries, keys and values of the tokens among themselves (3 * H * d_kv, D).
        out: (D, H * d_kv).
        cross: Queries to the input (H * d_kv, D), and back (D, H * d_kv); none in the encoder.
        inner: (F, D), two where gated.
        outer: (D, F).
    """

    qkv: Tensor
    out: Tensor
    cross: tuple[Tensor, ...]
    inner: tuple[Tensor, ...]
    outer: Tensor


@dataclass(frozen=True)
class T5Network:
    """A T5 for decoding: a `Network`.

    Attributes:
        embedding: float32 (V, D).
        encoder: Its layers.
        decoder: Its layers.
        first_qkv: `qkv` of the decoder's first layer for every token (V, 3 * H * d_kv): there, a
            token's embedding is all that it depends on.
        cross_kv: Keys and values of all decoder layers (2 * layers * H * d_kv, D).
        head: float32 (V, D), final norm and scale folded in.
        rough_head: The same as `rough` gives it.
        encoder_positions: Knows the encoder's bias by position.
        decoder_positions: Likewise.
        activation: Of the feed-forward layers.
        n_heads: H.
        d_kv: Numbers per head.
        eps: Of the norms.
    """

    embedding: Tensor
    encoder: tuple[Block, ...]
    decoder: tuple[Block, ...]
    first_qkv: Tensor
    cross_kv: Tensor
    head: Tensor
    rough_head: Tensor
    encoder_positions: T5Attention
    decoder_positions: T5Attention
    activation: Callable[[Tensor], Tensor]
    n_heads: int
    d_kv: int
    eps: float

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the matrix products; sums between layers are float32."""
        return self.cross_kv.dtype

    @property
    def n_kept(self) -> int:
        """Numbers that a beam's step takes, what is computed on the way included."""
        return 3 * self.n_heads * self.d_kv * len(self.decoder)

    def read(self, input_ids: Tensor, attention_mask: Tensor, *, n_steps: int) -> T5Memory:
        """Run the encoder, and what every step of the decoder shares; see `Network`."""
        return _read(self, input_ids, attention_mask, n_steps=n_steps)

    def step(self, tokens: Tensor, memory: T5Memory, *, past: Past) -> tuple[Tensor, Past]:
        """Run the decoder on one token of every beam; see `Network`."""
        return _step(self, tokens, memory, past=past)


@dataclass(frozen=True)
class T5Memory:
    """What the decoder reads of a batch of B users with T input tokens.

    Attributes:
        layers: Keys and values of each decoder layer, (B, H, T, d_kv) each.
        mask: 0 for a token, the least number for padding, (B, 1, 1, T).
        bias: Of the decoder's own positions, float32 (H, S, S) for S steps.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor
    bias: Tensor


@torch.inference_mode()
def lay_out_t5(model: T5ForConditionalGeneration, *, dtype: torch.dtype) -> T5Network:
    """Lay a T5's weights out for decoding, on its device.

    Args:
        model: Any T5, gated or not, with tied or untied tables.
        dtype: Of the matrix products, float32 or bfloat16.
    """
    parts: Any = model  # whose containers lose their types
    encoder, decoder = parts.encoder.block, parts.decoder.block
    config, head = model.config, fold_head(model).float()
    blocks = tuple(_block(block, dtype) for block in decoder)
    embedding = parts.decoder.embed_tokens.weight.float()
    return T5Network(
        embedding=embedding,
        encoder=tuple(_block(block, dtype) for block in encoder),
        decoder=blocks,
        first_qkv=functional.linear(
            _norm(embedding, config.layer_norm_epsilon).to(dtype), blocks[0].qkv
        ),
        cross_kv=fold_cross_kv(model).to(dtype),
        head=head,
        rough_head=rough(head, dtype=dtype),
        encoder_positions=encoder[0].layer[0].SelfAttention,
        decoder_positions=decoder[0].layer[0].SelfAttention,
        activation=decoder[0].layer[-1].DenseReluDense.act,
        n_heads=config.num_heads,
        d_kv=config.d_kv,
        eps=config.layer_norm_epsilon,
    )


def rough(head: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Give a head (V, D) in the precision in which sums over the vocabulary are fast.

    In bfloat16 an H200 takes 81 us a user for the sums over 2,083 tokens, in float32 11
    (`benches/RESULTS.md`): it reads rows of other lengths than multiples of eight piece by piece.
    """
    is_odd = head.device.type != "cpu" and len(head) % 8
    return head if is_odd else head.to(dtype)


def _block(block: Any, dtype: torch.dtype) -> Block:
    qkv, out, cross = fold_attention(block)
    last = block.layer[-1]
    dense = last.DenseReluDense
    inner = [dense.wi] if hasattr(dense, "wi") else [dense.wi_0, dense.wi_1]
    return Block(
        qkv=qkv.to(dtype),
        out=out.to(dtype),
        cross=tuple(matrix.to(dtype) for matrix in cross),
        inner=tuple((matrix.weight * last.layer_norm.weight).to(dtype) for matrix in inner),
        outer=dense.wo.weight.to(dtype),
    )


def _read(
    network: T5Network, input_ids: Tensor, attention_mask: Tensor, *, n_steps: int
) -> T5Memory:
    """Run the encoder, and what every step of the decoder shares.

    Args:
        network: The T5.
        input_ids: int64 (B, T).
        attention_mask: (B, T).
        n_steps: S, of the decoder.
    """
    length = input_ids.shape[1]
    least = torch.finfo(network.dtype).min
    mask = ((attention_mask[:, None, None, :] == 0) * least).to(network.dtype)  # (B, 1, 1, T)
    bias = network.encoder_positions.compute_bias(length, length).to(network.dtype)
    everywhere = (bias + mask).clamp(min=least)  # (B, H, T, T)
    hidden = network.embedding[input_ids]
    for block in network.encoder:
        qkv = _product(network, hidden, block.qkv).unflatten(2, (3, network.n_heads, network.d_kv))
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, d_kv) each
        seen = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=everywhere, scale=1.0
        )
        hidden = hidden + functional.linear(seen.transpose(1, 2).flatten(2), block.out)
        hidden = hidden + _feed_forward(network, block, hidden)
    kv = _product(network, hidden, network.cross_kv)
    kv = kv.unflatten(2, (-1, network.n_heads, network.d_kv)).permute(2, 0, 3, 1, 4).contiguous()
    return T5Memory(
        layers=tuple((kv[2 * i], kv[2 * i + 1]) for i in range(len(network.decoder))),
        mask=mask,
        bias=network.decoder_positions.compute_bias(n_steps, n_steps)[0].float(),
    )


def _step(
    network: T5Network, tokens: Tensor, memory: T5Memory, *, past: Past
) -> tuple[Tensor, Past]:
    """Run the decoder on one token of every beam.

    Args:
        network: The T5.
        tokens: int64 (B, m).
        memory: Of the batch.
        past: The steps before, followed to these beams.

    Returns:
        The decoder's normed output float32 (B, m, D), and `past` with this step.
    """
    hidden = network.embedding[tokens]  # (B, m, D)
    now = []
    for index, block in enumerate(network.decoder):
        if index == 0:
            qkv = network.first_qkv.index_select(0, tokens.flatten()).view(*tokens.shape, -1)
        else:
            qkv = _product(network, hidden, block.qkv)
        qkv = qkv.unflatten(2, (3, network.n_heads, network.d_kv))  # (B, m, 3, H, d_kv)
        seen = _own(qkv[:, :, 0], [*past.of_layer(index, tokens.shape), qkv[:, :, 1:]], memory.bias)
        hidden = hidden + functional.linear(seen.flatten(2), block.out)
        cross_q, cross_out = block.cross
        queries = _product(network, hidden, cross_q).unflatten(2, qkv.shape[3:])
        seen = _cross(queries.transpose(1, 2), memory.layers[index], mask=memory.mask)
        hidden = hidden + functional.linear(seen.transpose(1, 2).flatten(2), cross_out)
        hidden = hidden + _feed_forward(network, block, hidden)
        now.append(qkv[:, :, 1:])
    return _norm(hidden, network.eps), Past((*past.steps, tuple(now)), past.ancestors)


def _own(queries: Tensor, pairs: Sequence[Tensor], bias: Tensor) -> Tensor:
    """Let every beam attend to its own tokens so far.

    Args:
        queries: (B, m, H, d_kv).
        pairs: Keys and values of each token so far, (B, m or 1, 2, H, d_kv).
        bias: By position (H, S, S).

    Returns:
        (B, m, H, d_kv).
    """
    length = len(pairs)
    # One query on at most L + 1 keys per beam and head: sums of products take half the time that
    # attention kernels take for so many so small problems. T5 does not scale.
    products = [(queries * pair[:, :, 0]).sum(dim=3) for pair in pairs]  # (B, m, H) each
    scores = torch.stack(products) + bias[:, length - 1, :length].T[:, None, None]  # (t, B, m, H)
    shares = scores.softmax(dim=0).to(queries.dtype)[..., None]
    read = shares[0] * pairs[0][:, :, 1]
    for share, pair in zip(shares[1:], pairs[1:], strict=True):
        read = torch.addcmul(read, share, pair[:, :, 1])
    return read


def _cross(queries: Tensor, pair: tuple[Tensor, Tensor], *, mask: Tensor) -> Tensor:
    """Let the beams attend to the user's input, as queries (B, H, m, d_kv) of one sequence."""
    if queries.dtype == torch.bfloat16 and queries.device.type == "cpu":
        # Twice as fast there as the attention kernel.
        scores = torch.matmul(queries, pair[0].transpose(2, 3)) + mask
        return torch.matmul(scores.softmax(dim=3), pair[1])
    return functional.scaled_dot_product_attention(queries, *pair, attn_mask=mask, scale=1.0)


def _feed_forward(network: T5Network, block: Block, hidden: Tensor) -> Tensor:
    normed = _norm(hidden, network.eps).to(network.dtype)
    inner = functional.linear(normed, block.inner[0])
    if isinstance(network.activation, torch.nn.ReLU):
        inner = inner.relu_()  # in place: T5's own copies
    else:
        inner = network.activation(inner)
    if len(block.inner) == 2:
        inner = inner * functional.linear(normed, block.inner[1])
    return functional.linear(inner, block.outer)


def _product(network: T5Network, hidden: Tensor, matrix: Tensor) -> Tensor:
    """Norm float32 (..., D) and multiply by (out, D), whose norm is folded in."""
    return functional.linear(_norm(hidden, network.eps).to(network.dtype), matrix)


def _norm(hidden: Tensor, eps: float) -> Tensor:
    """Divide by the root of the mean of squares, in float32."""
    return functional.rms_norm(hidden, hidden.shape[-1:], None, eps)
