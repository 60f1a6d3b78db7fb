"""A T5's weights laid out for training: matrices of one input side by side, norms folded in.

Laid out and cast once for all forward passes of an optimizer step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration

from mql4grec.recommender import multiplied


class Change(Protocol):
    """Makes another tensor of one, in the precision of the products or not."""

    def __call__(self, tensor: Tensor, *, is_rounded: bool) -> Tensor:
        """Change."""


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
        cross_kv: Keys and values of all decoder layers (2 * layers * H * d_kv, D); without rows
            where attention is multiplied out.
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
        """Whether attention's projections are multiplied out, as in `multiplied`."""
        return not len(self.cross_kv)

    def tensors(self) -> list[Tensor]:
        """List all tensors that a pass uses, always in the same order."""
        found: list[Tensor] = []

        def take(tensor: Tensor, *, is_rounded: bool) -> Tensor:
            found.append(tensor)
            return tensor

        self.change(take)
        return found

    def cast(self, dtype: torch.dtype) -> Network:
        """Copy the matrices in a precision; the copies have gradients of their own."""

        def copy(tensor: Tensor, *, is_rounded: bool) -> Tensor:
            return tensor.detach().to(dtype if is_rounded else torch.float32).requires_grad_()

        return self.change(copy)

    def change(self, change: Change) -> Network:
        """Give the network with every tensor that a pass uses changed, always in the same order.

        Args:
            change: Told of each whether it is of the precision of the products.
        """
        product = partial(change, is_rounded=True)
        return replace(
            self,
            embedding=change(self.embedding, is_rounded=False),
            encoder_bias=change(self.encoder_bias, is_rounded=False),
            decoder_bias=change(self.decoder_bias, is_rounded=False),
            head=product(self.head),
            cross_kv=self.cross_kv if self.multiplied else product(self.cross_kv),
            encoder=tuple(layer.change(product) for layer in self.encoder),
            decoder=tuple(layer.change(product) for layer in self.decoder),
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
    make_layers = partial(_multiplied, model) if multiply_out else _layers
    return Network(
        embedding=parts.shared.weight,
        encoder_bias=encoder[0].layer[0].SelfAttention.compute_bias(n_read, n_read)[0],
        decoder_bias=bias.masked_fill(later, -torch.inf),
        encoder=make_layers(encoder),
        decoder=make_layers(decoder),
        cross_kv=parts.shared.weight.new_empty(0) if multiply_out else fold_cross_kv(model),
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


def _layers(blocks: Sequence[Any]) -> tuple[Layer, ...]:
    layers = []
    for block in blocks:
        qkv, out, cross = fold_attention(block)
        norm, dense = block.layer[-1].layer_norm, block.layer[-1].DenseReluDense
        layers.append(
            Layer(
                qkv=qkv,
                out=out,
                inner=dense.wi.weight * norm.weight,
                outer=dense.wo.weight,
                cross=cross,
            )
        )
    return tuple(layers)


def _multiplied(model: Any, blocks: Sequence[Any]) -> tuple[Layer, ...]:
    """Lay layers out with attention multiplied out, all together: few and larger operations."""
    own, *between, last = zip(*(block.layer for block in blocks), strict=True)
    norms = torch.stack([part.layer_norm.weight for part in own])
    attentions = [part.SelfAttention for part in own]
    asks, tells = multiplied.multiply_out(attentions, asking=norms, asked=norms)
    crosses: list[Tensor] = []
    for parts in between:  # of the decoder one
        norms = torch.stack([part.layer_norm.weight for part in parts])
        attentions, read = [part.EncDecAttention for part in parts], model.encoder.final_layer_norm
        crosses += multiplied.multiply_out(attentions, asking=norms, asked=read.weight[None])
    norms = torch.stack([part.layer_norm.weight for part in last])
    inner = torch.stack([part.DenseReluDense.wi.weight for part in last]) * norms[:, None]
    outer = [part.DenseReluDense.wo.weight for part in last]
    columns = (asks, tells, inner, outer, *crosses)
    return tuple(
        Layer(qkv, out, inner, outer, tuple(cross))
        for qkv, out, inner, outer, *cross in zip(*columns, strict=True)
    )
