"""A T5's weights laid out for training, and its forward pass over tokens without padding.

The same numbers as transformers' own T5, whose parameters these are, without what costs time when
many short sequences are read: every product is over tokens alone, projections of one input are one
product, norms are folded into the products after them, and weights are laid out and cast once for
all forward passes of an optimizer step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import T5ForConditionalGeneration

from mql4grec.recommender import multiplied
from mql4grec.recommender.dropout import Dropout
from mql4grec.recommender.packing import Packed


@dataclass(frozen=True)
class Layer:
    """A layer of encoder or decoder; every matrix is (out, in), norms folded in.

    Attributes:
        qkv: Queries, keys and values of the tokens among themselves (3 * H * d_kv, D).
        out: (D, H * d_kv).
        inner: (F, D).
        outer: (D, F).
        cross: Queries to the input (H * d_kv, D), and back (D, H * d_kv); none in the encoder.

    In a network that is multiplied out, `qkv` and the first of `cross` are queries to the states
    themselves (H * D, D), `out` and the second of `cross` tell what was seen (D, H * D).
    """

    qkv: Tensor
    out: Tensor
    inner: Tensor
    outer: Tensor
    cross: tuple[Tensor, ...]

    def matrices(self) -> tuple[Tensor, ...]:
        """List all matrices."""
        return (self.qkv, self.out, self.inner, self.outer, *self.cross)

    def change(self, change: Callable[[Tensor], Tensor]) -> Layer:
        """Give the layer with every matrix changed."""
        qkv, out, inner, outer, *cross = map(change, self.matrices())
        return Layer(qkv, out, inner, outer, tuple(cross))


@dataclass(frozen=True)
class Network:
    """A T5 for training.

    Attributes:
        embedding: (V, D), always float32.
        encoder_bias: By position, always float32 (H, T, T) for the longest input.
        decoder_bias: Likewise (H, S, S) for the longest target, with minus infinity where a token
            would see later ones.
        encoder: Its layers.
        decoder: Its layers.
        cross_kv: Keys and values of all decoder layers (2 * layers * H * d_kv, D); without rows in
            a network that is multiplied out.
        head: (V, D), final norm and scale folded in.
        n_heads: H.
        d_kv: Numbers per head.
        eps: Of the norms.
    """

    embedding: Tensor
    encoder_bias: Tensor
    decoder_bias: Tensor
    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]
    cross_kv: Tensor
    head: Tensor
    n_heads: int
    d_kv: int
    eps: float

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the matrix products; sums between layers are float32."""
        return self.head.dtype

    @property
    def multiplied(self) -> bool:
        """Whether attention's projections are multiplied out, for a pass without padding."""
        return not len(self.cross_kv)

    def tensors(self) -> list[Tensor]:
        """List all tensors that a pass uses, always in the same order."""
        layers = [*self.encoder, *self.decoder]
        ends = [self.embedding, self.encoder_bias, self.decoder_bias, self.head]
        kv = [] if self.multiplied else [self.cross_kv]
        return [*ends, *kv, *(matrix for layer in layers for matrix in layer.matrices())]

    def cast(self, dtype: torch.dtype) -> Network:
        """Copy the matrices in a precision; the copies have gradients of their own."""

        def copy(tensor: Tensor, to: torch.dtype = dtype) -> Tensor:
            return tensor.detach().to(to).requires_grad_()

        return replace(
            self,
            embedding=copy(self.embedding, torch.float32),
            encoder_bias=copy(self.encoder_bias, torch.float32),
            decoder_bias=copy(self.decoder_bias, torch.float32),
            encoder=tuple(layer.change(copy) for layer in self.encoder),
            decoder=tuple(layer.change(copy) for layer in self.decoder),
            cross_kv=copy(self.cross_kv),
            head=copy(self.head),
        )


def lay_out(
    model: T5ForConditionalGeneration, *, n_read: int, n_written: int, multiply_out: bool = False
) -> Network:
    """Lay a T5's weights out, in float32 and so that gradients find their way back.

    Args:
        model: One that `build` made.
        n_read: Tokens of the longest input.
        n_written: Tokens of the longest target.
        multiply_out: Multiply attention's projections out.

    Raises:
        ValueError: If the T5 is one of another kind: gated, or without ReLU.
    """
    parts: Any = model  # whose containers lose their types
    config = model.config
    if config.is_gated_act or config.dense_act_fn != "relu":
        raise ValueError(
            "`model`: expected a T5 with `feed_forward_proj` 'relu', "
            f"got {config.feed_forward_proj!r}; build it by `recommender.build`"
        )
    encoder, decoder = parts.encoder.block, parts.decoder.block
    later = torch.ones(n_written, n_written, dtype=torch.bool, device=model.device).triu(1)
    bias = decoder[0].layer[0].SelfAttention.compute_bias(n_written, n_written)[0]
    make_layer, cross_kv = _layer, fold_cross_kv(model)
    if multiply_out:
        make_layer, cross_kv = partial(_multiplied, model), cross_kv[:0]
    return Network(
        embedding=parts.shared.weight,
        encoder_bias=encoder[0].layer[0].SelfAttention.compute_bias(n_read, n_read)[0],
        decoder_bias=bias.masked_fill(later, -torch.inf),
        encoder=tuple(make_layer(block) for block in encoder),
        decoder=tuple(make_layer(block) for block in decoder),
        cross_kv=cross_kv,
        head=fold_head(model),
        n_heads=config.num_heads,
        d_kv=config.d_kv,
        eps=config.layer_norm_epsilon,
    )


def multiplying_pays(model: T5ForConditionalGeneration) -> bool:
    """Tell whether attention's projections, multiplied out, are no more work than one by one."""
    found: bool = model.config.d_model <= 2 * model.config.d_kv
    return found


def fold_head(model: T5ForConditionalGeneration) -> Tensor:
    """Give what turns normed states into logits, (V, D): final norm and scale folded in."""
    parts: Any = model
    config = model.config
    head: Tensor = parts.lm_head.weight * parts.decoder.final_layer_norm.weight
    # Versions of transformers before 5 know no `scale_decoder_outputs`: tied weights were the sign.
    scaled = getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
    return head * config.d_model**-0.5 if scaled else head


def fold_cross_kv(model: T5ForConditionalGeneration) -> Tensor:
    """Give keys and values of all decoder layers, the encoder's final norm folded in."""
    parts: Any = model
    ends = parts.encoder.final_layer_norm.weight
    crosses = [block.layer[1].EncDecAttention for block in parts.decoder.block]
    return torch.cat([m.weight * ends for cross in crosses for m in (cross.k, cross.v)])


def fold_attention(block: Any) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Give a layer's attention, norms folded in: `qkv`, `out` and `cross` of a `Layer`."""
    own, attention = block.layer[0], block.layer[0].SelfAttention
    qkv = torch.cat([attention.q.weight, attention.k.weight, attention.v.weight])
    cross: tuple[Tensor, ...] = ()
    if len(block.layer) == 3:
        norm, reader = block.layer[1].layer_norm, block.layer[1].EncDecAttention
        cross = (reader.q.weight * norm.weight, reader.o.weight)
    return qkv * own.layer_norm.weight, attention.o.weight, cross


def _layer(block: Any) -> Layer:
    qkv, out, cross = fold_attention(block)
    last = block.layer[-1]
    dense = last.DenseReluDense
    return Layer(
        qkv=qkv,
        out=out,
        inner=dense.wi.weight * last.layer_norm.weight,
        outer=dense.wo.weight,
        cross=cross,
    )


def _multiplied(model: Any, block: Any) -> Layer:
    own, *between, _ = block.layer
    weight, read = own.layer_norm.weight, model.encoder.final_layer_norm.weight
    asks, tells = multiplied.multiply_out(own.SelfAttention, asking=weight, asked=weight)
    cross = [
        multiplied.multiply_out(each.EncDecAttention, asking=each.layer_norm.weight, asked=read)
        for each in between
    ]
    return replace(_layer(block), qkv=asks, out=tells, cross=tuple(chain(*cross)))


def summed_loss(
    network: Network,
    packed: Packed,
    *,
    dropout: Dropout | None = None,
    rivals: Tensor | None = None,
) -> Tensor:
    """Give the cross entropy of a batch, summed over all target tokens in float32.

    Args:
        network: The T5.
        packed: B samples.
        dropout: None: nothing is dropped.
        rivals: Which group each token belongs to, int64 (V), as `group_by_level` gives it: a target
            token has its probability among those of its group. None: among all tokens.
    """
    hidden = _decode(network, packed, _encode(network, packed, dropout), dropout)
    logits = functional.linear(hidden, network.head)  # (S, V)
    if rivals is not None:
        own = rivals[packed.labels.clamp(min=0)]  # any group where a position does not count
        logits = logits.masked_fill(own[:, None] != rivals, -torch.inf)
    return functional.cross_entropy(logits.float(), packed.labels, reduction="sum")


def _encode(network: Network, packed: Packed, dropout: Dropout | None) -> Tensor:
    """Read the inputs; gives (T, D) in the precision of the products."""
    assert not network.multiplied or packed.padding is None
    groups = [(group.n, group.n_read) for group in packed.groups]
    bias = [network.encoder_bias[:, :length, :length] for _, length in groups]
    if packed.padding is not None:
        bias = [each + packed.padding for each in bias]
    hidden = _embed(network, packed.inputs, dropout)
    for layer in network.encoder:
        seen = _see_own(network, layer, hidden, groups, bias, dropout)
        hidden = _add(hidden, functional.linear(seen, layer.out), dropout)
        hidden = _feed_forward(network, layer, hidden, dropout)
    return _close(network, hidden, dropout)


def _decode(network: Network, packed: Packed, read: Tensor, dropout: Dropout | None) -> Tensor:
    """Read what precedes each target token, beside inputs (T, D); gives (S, D)."""
    groups = [(group.n, group.n_written) for group in packed.groups]
    readers = [(group.n, group.n_read) for group in packed.groups]
    memory = None
    if not network.multiplied:
        memory = _heads(network, functional.linear(read, network.cross_kv), readers)
    bias = [network.decoder_bias[:, :length, :length] for _, length in packed.written]
    padding = [packed.padding] * len(groups)
    hidden = _embed(network, packed.before, dropout)
    for index, layer in enumerate(network.decoder):
        seen = _see_own(network, layer, hidden, packed.written, bias, dropout)
        hidden = _add(hidden, functional.linear(seen, layer.out), dropout)
        cross_q, cross_out = layer.cross
        asks = _product(network, hidden, cross_q)
        if memory is None:
            seen = multiplied.attend(
                asks, read, padding, asking=groups, asked=readers, dropout=dropout
            )
        else:
            pairs = [each[2 * index : 2 * index + 2] for each in memory]
            queries = _heads(network, asks, groups)
            seen = _attend(
                [(*q, *pair) for q, pair in zip(queries, pairs, strict=True)], padding, dropout
            )
        hidden = _add(hidden, functional.linear(seen, cross_out), dropout)
        hidden = _feed_forward(network, layer, hidden, dropout)
    return _close(network, hidden, dropout)


def _see_own(
    network: Network,
    layer: Layer,
    hidden: Tensor,
    groups: Sequence[tuple[int, int]],
    biases: Sequence[Tensor],
    dropout: Dropout | None,
) -> Tensor:
    """Attend to the own sequence, for `out`."""
    states = _states(network, hidden)
    found = functional.linear(states, layer.qkv)
    if network.multiplied:
        return multiplied.attend(
            found, states, biases, asking=groups, asked=groups, dropout=dropout
        )
    return _attend(_heads(network, found, groups), biases, dropout)


def _heads(
    network: Network, rows: Tensor, groups: Sequence[tuple[int, int]]
) -> list[tuple[Tensor, ...]]:
    """Take a projection apart.

    Args:
        network: Knows the heads.
        rows: (T, P * H * d_kv), of P matrices.
        groups: Number and length of the sequences of each group.

    Returns:
        For each group its P parts (n, H, length, d_kv).
    """
    parts = rows.split([n * length for n, length in groups])
    return [
        part.view(n, length, -1, network.n_heads, network.d_kv)
        .permute(2, 0, 3, 1, 4)
        .contiguous()
        .unbind()
        for part, (n, length) in zip(parts, groups, strict=True)
    ]


def _attend(
    groups: Sequence[tuple[Tensor, ...]],
    biases: Sequence[Tensor | None],
    dropout: Dropout | None,
) -> Tensor:
    """Attend within each sequence.

    Args:
        groups: Queries (n, H, s, d_kv), keys and values (n, H, t, d_kv).
        biases: What is added to the scores of each group, float32, to be spread to (n, H, s, t).
        dropout: Of the shares.

    Returns:
        The rows of all groups, (T, H * d_kv).
    """
    found = []
    for (queries, keys, values), bias in zip(groups, biases, strict=True):
        scores = torch.matmul(queries, keys.transpose(2, 3)).float()  # T5 does not scale
        shares = (scores if bias is None else scores + bias).softmax(dim=3)
        if dropout is not None:
            shares = shares * dropout.mask(shares)  # the scale comes with the residual
        seen = torch.matmul(shares.to(values.dtype), values)  # (n, H, s, d_kv)
        found.append(seen.transpose(1, 2).flatten(2).flatten(0, 1))
    return torch.cat(found)


def _feed_forward(
    network: Network, layer: Layer, hidden: Tensor, dropout: Dropout | None
) -> Tensor:
    if network.multiplied:
        states = _states(network, hidden)
        change = multiplied.feed_forward(states, layer.inner, layer.outer, dropout=dropout)
        return _add(hidden, change, dropout)
    inner = _product(network, hidden, layer.inner).relu()
    if dropout is not None:
        inner = inner * dropout.mask(inner)
    return _add(hidden, functional.linear(inner, layer.outer), dropout)


def _embed(network: Network, tokens: Tensor, dropout: Dropout | None) -> Tensor:
    hidden = functional.embedding(tokens, network.embedding)
    return hidden if dropout is None else hidden * dropout.mask(hidden).mul_(dropout.scale)


def _add(hidden: Tensor, change: Tensor, dropout: Dropout | None) -> Tensor:
    """Add what a layer has found, of which dropout took twice: inside the layer, and now."""
    if dropout is None:
        return hidden + change
    return torch.add(hidden, change * dropout.mask(change), alpha=dropout.scale**2)


def _product(network: Network, hidden: Tensor, matrix: Tensor) -> Tensor:
    """Norm float32 (T, D) and multiply by (out, D), whose norm is folded in."""
    return functional.linear(_states(network, hidden), matrix)


def _states(network: Network, hidden: Tensor) -> Tensor:
    """Norm float32 (T, D) for products."""
    if network.multiplied:
        return multiplied.norm(hidden, eps=network.eps, dtype=network.dtype)
    return _norm(network, hidden).to(network.dtype)


def _close(network: Network, hidden: Tensor, dropout: Dropout | None) -> Tensor:
    """Norm what encoder or decoder end with, for products with norms folded in."""
    normed = _norm(network, hidden)
    if dropout is not None:
        normed = normed * dropout.mask(normed).mul_(dropout.scale)
    return normed.to(network.dtype)


def _norm(network: Network, hidden: Tensor) -> Tensor:
    """Divide by the root of the mean of squares, in float32."""
    return functional.rms_norm(hidden, hidden.shape[-1:], None, network.eps)
