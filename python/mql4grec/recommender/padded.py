"""The T5's forward pass over padded samples, for a GPU.

The same numbers as `network`'s pass over tokens without padding, in pieces that `torch.compile`
turns into few kernels: every layer of a kind is the same piece, compiled once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from mql4grec.language import IGNORED
from mql4grec.recommender.dropout import RandomDropout
from mql4grec.recommender.layout import Layer, Network


@dataclass(frozen=True)
class Constants:
    """What all pieces know.

    Attributes:
        n_heads: H.
        d_kv: Numbers per head.
        eps: Of the norms.
        dropout: None: nothing is dropped.
    """

    n_heads: int
    d_kv: int
    eps: float
    dropout: RandomDropout | None

    def norm(self, hidden: Tensor, dtype: torch.dtype) -> Tensor:
        """Divide by the root of the mean of squares, in float32."""
        return functional.rms_norm(hidden, hidden.shape[-1:], None, self.eps).to(dtype)

    def drop(self, tensor: Tensor) -> Tensor:
        """Drop some and scale the others."""
        if self.dropout is None:
            return tensor
        return tensor * (self.dropout.mask(tensor) * self.dropout.scale)

    def add(self, hidden: Tensor, change: Tensor) -> Tensor:
        """Add what a layer has found, of which dropout took twice: inside the layer, and now."""
        if self.dropout is None:
            return hidden + change
        return hidden + change.float() * (self.dropout.mask(hidden) * self.dropout.scale**2)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, *, bias: Tensor) -> Tensor:
        """Attend.

        Args:
            queries: (B, S, H, d_kv).
            keys: (B, T, H, d_kv).
            values: (B, T, H, d_kv).
            bias: What is added to the scores, to be spread to (B, H, S, T).

        Returns:
            (B, S, H * d_kv).
        """
        scores = queries.transpose(1, 2) @ keys.permute(0, 2, 3, 1)  # T5 does not scale
        shares = (scores.float() + bias).softmax(dim=3)
        if self.dropout is not None:
            shares = shares * self.dropout.mask(shares)  # the scale comes with the residual
        seen = shares.to(values.dtype) @ values.transpose(1, 2)
        return seen.transpose(1, 2).flatten(2)

    def heads(self, rows: Tensor, n: int) -> list[Tensor]:
        """Take n projections apart: (B, T, n * H * d_kv) to n of (B, T, H, d_kv)."""
        return [*rows.unflatten(2, (n, self.n_heads, self.d_kv)).unbind(2)]


class Piece(Protocol):
    """A function of tensors, compiled or not."""

    def __call__(self, *arguments: Any) -> Tensor:
        """Compute."""


@dataclass(frozen=True)
class Pieces:
    """The pass in pieces."""

    embed: Piece
    encoder_layer: Piece
    decoder_layer: Piece
    close: Piece
    loss: Piece


def embed(constants: Constants, tokens: Tensor, table: Tensor) -> Tensor:
    """Give what tokens become, float32 (B, T, D)."""
    return constants.drop(functional.embedding(tokens, table))


def encoder_layer(
    constants: Constants, layer: Layer, hidden: Tensor, bias: Tensor, pad: Tensor
) -> Tensor:
    """Pass a layer of the encoder, float32 (B, T, D)."""
    qkv = functional.linear(constants.norm(hidden, layer.qkv.dtype), layer.qkv)
    seen = constants.attend(*constants.heads(qkv, 3), bias=bias + pad)
    hidden = constants.add(hidden, functional.linear(seen, layer.out))
    return _feed_forward(constants, layer, hidden)


def decoder_layer(
    constants: Constants,
    layer: Layer,
    kv: Tensor,
    hidden: Tensor,
    bias: Tensor,
    read: Tensor,
    pad: Tensor,
) -> Tensor:
    """Pass a layer of the decoder, float32 (B, S, D); `kv` reads the input (2 * H * d_kv, D)."""
    dtype = layer.qkv.dtype
    qkv = functional.linear(constants.norm(hidden, dtype), layer.qkv)
    seen = constants.attend(*constants.heads(qkv, 3), bias=bias)
    hidden = constants.add(hidden, functional.linear(seen, layer.out))
    cross_q, cross_out = layer.cross
    (queries,) = constants.heads(functional.linear(constants.norm(hidden, dtype), cross_q), 1)
    seen = constants.attend(queries, *constants.heads(functional.linear(read, kv), 2), bias=pad)
    hidden = constants.add(hidden, functional.linear(seen, cross_out))
    return _feed_forward(constants, layer, hidden)


def close(constants: Constants, hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """Norm what encoder or decoder end with, for products with norms folded in."""
    return constants.drop(constants.norm(hidden, torch.float32)).to(dtype)


def loss(
    constants: Constants, hidden: Tensor, head: Tensor, labels: Tensor, rivals: Tensor | None
) -> Tensor:
    """Give the summed cross entropy of the target tokens."""
    logits = functional.linear(close(constants, hidden, head.dtype), head).flatten(0, 1)
    labels = labels.flatten()
    if rivals is not None:
        own = rivals[labels.clamp(min=0)]  # any group where a position does not count
        logits = logits.masked_fill(own[:, None] != rivals, -torch.inf)
    return functional.cross_entropy(logits.float(), labels, reduction="sum")


def _feed_forward(constants: Constants, layer: Layer, hidden: Tensor) -> Tensor:
    inner = functional.linear(constants.norm(hidden, layer.inner.dtype), layer.inner).relu()
    if constants.dropout is not None:
        inner = inner * constants.dropout.mask(inner)
    return constants.add(hidden, functional.linear(inner, layer.outer))


PIECES = Pieces(embed, encoder_layer, decoder_layer, close, loss)


@cache
def compile_pieces(*, backend: str = "inductor") -> Pieces:
    """Compile every piece when it is first called: for each length of inputs, for any batch.

    What is compiled serves all trainings of a process.
    """
    compiled = {name: torch.compile(piece, backend=backend) for name, piece in vars(PIECES).items()}
    return Pieces(**compiled)


def summed_loss(
    network: Network,
    input_ids: Tensor,
    labels: Tensor,
    *,
    start: int,
    dropout: RandomDropout | None = None,
    rivals: Tensor | None = None,
    pieces: Pieces = PIECES,
) -> Tensor:
    """Give the cross entropy of a batch, summed over all target tokens in float32.

    Args:
        network: The T5.
        input_ids: int64 (B, T).
        labels: int64 (B, S), `IGNORED` where nothing counts.
        start: The token that every target starts from, which is also the padding.
        dropout: None: nothing is dropped.
        rivals: As in `network.summed_loss`.
        pieces: Compiled or not.
    """
    constants = Constants(network.n_heads, network.d_kv, network.eps, dropout)
    (n_read, n_written) = input_ids.shape[1], labels.shape[1]
    pad = torch.where(input_ids == start, torch.finfo(torch.float32).min, 0.0)
    pad = _any_batch(pad[:, None, None])
    hidden = _any_batch(pieces.embed(constants, _any_batch(input_ids), network.embedding))
    bias = _one_shape(network.encoder_bias[:, :n_read, :n_read].contiguous())
    for layer in network.encoder:
        hidden = _any_batch(pieces.encoder_layer(constants, layer, hidden, bias, pad))
    read = _any_batch(pieces.close(constants, hidden, network.dtype))
    before = functional.pad(labels[:, :-1], (1, 0), value=start)
    before = _any_batch(torch.where(before == IGNORED, start, before))
    hidden = _any_batch(pieces.embed(constants, before, network.embedding))
    bias = _one_shape(network.decoder_bias[:, :n_written, :n_written].contiguous())
    readers = network.cross_kv.chunk(len(network.decoder))
    for layer, kv in zip(network.decoder, readers, strict=True):
        hidden = _any_batch(pieces.decoder_layer(constants, layer, kv, hidden, bias, read, pad))
    return pieces.loss(constants, hidden, network.head, _any_batch(labels), rivals)


def _any_batch(tensor: Tensor) -> Tensor:
    """Let what is compiled for a tensor do for others of another first size, but of no other."""
    torch._dynamo.maybe_mark_dynamic(tensor, 0)
    torch._dynamo.mark_static(tensor, list(range(1, tensor.ndim)))
    return tensor


def _one_shape(tensor: Tensor) -> Tensor:
    torch._dynamo.mark_static(tensor)
    return tensor
