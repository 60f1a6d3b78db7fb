"""The T5's forward pass over samples in bins, for a GPU.

The same numbers as `network`'s pass over tokens without padding, in pieces that `torch.compile`
turns into few kernels: every layer of a kind is the same piece, compiled once. Each of R bins has W
tokens of inputs and S of targets; what is in one slot of a bin sees nothing of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from mql4grec.recommender.bins import Binned, any_batch, place_samples
from mql4grec.recommender.dropout import HashedDropout
from mql4grec.recommender.layout import Layer, Network

RECOMPILED = 64  # forms of a piece; beyond it torch would go on without compiling
UNSEEN = torch.finfo(torch.float32).min  # finite, so that rows without anything to see are numbers


@dataclass(frozen=True)
class Constants:
    """What all pieces know.

    Every mask of a piece has a number, and a piece a seed, int32 ().

    Attributes:
        n_heads: H.
        eps: Of the norms.
        dropout: None: nothing is dropped.
        multiplied: Whether attention's projections are multiplied out.
    """

    n_heads: int
    eps: float
    dropout: HashedDropout | None
    multiplied: bool

    def norm(self, hidden: Tensor, dtype: torch.dtype) -> Tensor:
        """Divide by the root of the mean of squares, in float32."""
        return functional.rms_norm(hidden, hidden.shape[-1:], None, self.eps).to(dtype)

    def drop(self, tensor: Tensor, seed: Tensor, number: int) -> Tensor:
        """Drop some of a tensor, and leave the scale to what comes later."""
        if self.dropout is None:
            return tensor
        return tensor * self.dropout.mask(tensor, seed + number)

    def drop_and_scale(self, tensor: Tensor, seed: Tensor) -> Tensor:
        """Drop some and scale the others, all that a piece drops."""
        scale = 1.0 if self.dropout is None else self.dropout.scale
        return self.drop(tensor, seed, 0) * scale

    def add(self, hidden: Tensor, change: Tensor, seed: Tensor, number: int) -> Tensor:
        """Add what a layer has found, of which dropout took twice: inside the layer, and now."""
        scale = 1.0 if self.dropout is None else self.dropout.scale**2
        return hidden + self.drop(change.float(), seed, number) * scale

    def attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        bias: Tensor,
        seed: Tensor,
        number: int,
    ) -> Tensor:
        """Attend.

        Args:
            queries: (R, S, H, d).
            keys: (R, W, H, d), or (R, W, d) for all heads.
            values: Likewise.
            bias: What is added to the scores, float32, to be spread to (R, S, H, W).
            seed: Of the shares that are dropped.
            number: Of their mask.

        Returns:
            (R, S, H * d).
        """
        if keys.ndim == 3:
            scores = (queries.flatten(1, 2) @ keys.mT).view(*queries.shape[:3], -1)
        else:
            scores = torch.einsum("rshd,rwhd->rshw", queries, keys)  # T5 does not scale
        shares = (scores.float() + bias).softmax(dim=3)
        shares = self.drop(shares, seed, number).to(values.dtype)
        if keys.ndim == 3:
            return (shares.flatten(1, 2) @ values).view(*queries.shape[:2], -1)
        return torch.einsum("rshw,rwhd->rshd", shares, values).flatten(2)

    def see_own(self, layer: Layer, hidden: Tensor, bias: Tensor, seed: Tensor) -> Tensor:
        """Let the tokens of a bin see each other, and add what they have seen."""
        states = self.norm(hidden, layer.qkv.dtype)
        found = functional.linear(states, layer.qkv)
        queries, keys, values = (
            (*self.heads(found, 1), states, states) if self.multiplied else self.heads(found, 3)
        )
        seen = self.attend(queries, keys, values, bias=bias, seed=seed, number=0)
        return self.add(hidden, functional.linear(seen, layer.out), seed, 1)

    def feed_forward(self, layer: Layer, hidden: Tensor, seed: Tensor) -> Tensor:
        """Add what becomes of each token by itself."""
        states = self.norm(hidden, layer.inner.dtype)
        inner = self.drop(functional.linear(states, layer.inner).relu(), seed, 2)
        return self.add(hidden, functional.linear(inner, layer.outer), seed, 3)

    def heads(self, rows: Tensor, n: int) -> list[Tensor]:
        """Take n projections apart: (R, S, n * H * d) to n of (R, S, H, d)."""
        return [*rows.unflatten(2, (n, self.n_heads, -1)).unbind(2)]


@dataclass(frozen=True)
class Memory:
    """What the decoder sees of inputs.

    Attributes:
        states: What the encoder gives, (R, W, D).
        slots: Of which slot each of these is, int32 (R, W).
        asking: Of which slot each token of a target is, int32 (S,).
    """

    states: Tensor
    slots: Tensor
    asking: Tensor


class Piece(Protocol):
    """A function of tensors, compiled or not."""

    def __call__(self, *arguments: Any) -> Tensor:
        """Compute."""


@dataclass(frozen=True)
class Pieces:
    """The pass in pieces, and what lays its batch out."""

    embed: Piece
    encoder_layer: Piece
    decoder_layer: Piece
    close: Piece
    loss: Piece
    place: Callable[..., Any] = place_samples


def embed(constants: Constants, tokens: Tensor, table: Tensor, seed: Tensor) -> Tensor:
    """Give what tokens become, float32 (R, W, D)."""
    return constants.drop_and_scale(functional.embedding(tokens, table), seed)


def encoder_layer(
    constants: Constants, layer: Layer, hidden: Tensor, bias: Tensor, slots: Tensor, seed: Tensor
) -> Tensor:
    """Pass a layer of the encoder, float32 (R, W, D); bias (H, W, W)."""
    bias = bias.transpose(0, 1) + _unseen(slots[:, :, None] != slots[:, None])[:, :, None]
    hidden = constants.see_own(layer, hidden, bias, seed)
    return constants.feed_forward(layer, hidden, seed)


def decoder_layer(
    constants: Constants, layer: Layer, hidden: Tensor, bias: Tensor, memory: Memory, seed: Tensor
) -> Tensor:
    """Pass a layer of the decoder, float32 (R, S, D).

    Args:
        constants: Of all layers.
        layer: Its matrices; of `cross` a third one makes keys and values of the input
            (2 * H * d_kv, D), where attention is not multiplied out.
        hidden: What comes in.
        bias: (H, S, S), with minus infinity where nothing is to be seen.
        memory: What has been read.
        seed: Of what is dropped.
    """
    hidden = constants.see_own(layer, hidden, bias.transpose(0, 1), seed)
    cross_q, cross_out, *kv = layer.cross
    states = constants.norm(hidden, layer.qkv.dtype)
    (queries,) = constants.heads(functional.linear(states, cross_q), 1)
    unseen = _unseen(memory.asking[:, None] != memory.slots[:, None])[:, :, None]  # (R, S, 1, W)
    keys = values = memory.states
    if kv:
        keys, values = constants.heads(functional.linear(memory.states, *kv), 2)
    seen = constants.attend(queries, keys, values, bias=unseen, seed=seed, number=4)
    hidden = constants.add(hidden, functional.linear(seen, cross_out), seed, 5)
    return constants.feed_forward(layer, hidden, seed)


def close(constants: Constants, hidden: Tensor, dtype: torch.dtype, seed: Tensor) -> Tensor:
    """Norm what encoder or decoder end with, for products with norms folded in."""
    return constants.drop_and_scale(constants.norm(hidden, torch.float32), seed).to(dtype)


def loss(
    constants: Constants,
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    rivals: Tensor,
    seed: Tensor,
) -> Tensor:
    """Give the summed cross entropy of the target tokens.

    Args:
        constants: Of all layers.
        hidden: What the decoder gives, (R, S, D).
        head: (V', D), of V tokens and some rows that are no tokens.
        labels: int64 (R, S).
        rivals: int32 (V'), which group each token belongs to, as in `network.summed_loss`; -1 of
            what is no token.
        seed: Of what is dropped.
    """
    logits = functional.linear(close(constants, hidden, head.dtype, seed), head).flatten(0, 1)
    labels = labels.flatten()
    own = rivals[labels.clamp(min=0)]  # any group where a position does not count
    logits = logits.float().masked_fill(own[:, None] != rivals, -torch.inf)
    return functional.cross_entropy(logits, labels, reduction="sum")


def _unseen(is_other: Tensor) -> Tensor:
    return torch.where(is_other, UNSEEN, 0.0)


PIECES = Pieces(embed, encoder_layer, decoder_layer, close, loss)


@cache
def compile_pieces(*, backend: str = "inductor") -> Pieces:
    """Compile every piece when it is first called: for each width of bins, for any number of them.

    What is compiled serves all trainings of a process, so that there may be many forms of it.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILED)
    compiled = {name: torch.compile(piece, backend=backend) for name, piece in vars(PIECES).items()}
    return Pieces(**compiled)


def summed_loss(
    network: Network,
    batch: Binned,
    *,
    n_written: int,
    dropout: HashedDropout | None = None,
    rivals: Tensor | None = None,
    pieces: Pieces = PIECES,
) -> Tensor:
    """Give the cross entropy of a batch, summed over all target tokens in float32.

    Args:
        network: The T5, laid out for inputs of W tokens. Its head may have more rows than there are
            tokens.
        batch: In bins.
        n_written: Tokens of a target, of which each slot has so many.
        dropout: None: nothing is dropped. Its seeds are drawn by the device's own generator.
        rivals: As in `network.summed_loss`.
        pieces: Compiled or not.
    """
    constants = Constants(network.n_heads, network.eps, dropout, network.multiplied)
    for each in network.tensors():
        _one_shape(each)
    seeds = _draw_seeds(4 + len(network.encoder) + len(network.decoder), like=batch.inputs)
    inputs, slots, before, labels = map(any_batch, vars(batch).values())
    hidden = any_batch(pieces.embed(constants, inputs, network.embedding, next(seeds)))
    bias = network.encoder_bias
    for layer in network.encoder:
        hidden = pieces.encoder_layer(constants, layer, hidden, bias, slots, next(seeds))
        hidden = any_batch(hidden)
    states = any_batch(pieces.close(constants, hidden, network.dtype, next(seeds)))
    hidden = any_batch(pieces.embed(constants, before, network.embedding, next(seeds)))
    bias, asking = _of_targets(network.decoder_bias, n=labels.shape[1], n_written=n_written)
    memory = Memory(states, slots, asking)
    for layer in _with_readers(network):
        hidden = pieces.decoder_layer(constants, layer, hidden, bias, memory, next(seeds))
        hidden = any_batch(hidden)
    groups = _group(rivals, len(network.head), n_tokens=len(network.embedding), like=labels)
    return pieces.loss(constants, hidden, network.head, labels, groups, next(seeds))


def _with_readers(network: Network) -> Sequence[Layer]:
    """Give the decoder's layers, each with what makes its keys and values of the input, if any."""
    layers = network.decoder
    if network.multiplied:
        return layers
    readers = map(_one_shape, network.cross_kv.chunk(len(layers)))
    return [
        replace(layer, cross=(*layer.cross, reader))
        for layer, reader in zip(layers, readers, strict=True)
    ]


def _draw_seeds(n: int, *, like: Tensor) -> Iterator[Tensor]:
    """Draw what masks of pieces are made from."""
    drawn = torch.randint(-(2**31), 2**31, (n,), dtype=torch.int32, device=like.device)
    return iter(drawn.unbind())


def _of_targets(bias: Tensor, *, n: int, n_written: int) -> tuple[Tensor, Tensor]:
    """Give the decoder's bias among the n tokens of a bin, and the slot of each of them.

    Args:
        bias: Within a target, (H, n_written, n_written).
        n: S.
        n_written: Tokens of a target.
    """
    slots = torch.arange(n, dtype=torch.int32, device=bias.device) // n_written
    times = -(-n // n_written)
    bias = bias.repeat(1, times, times)[:, :n, :n]
    bias = bias.masked_fill(slots[:, None] != slots, -torch.inf)
    return _one_shape(bias), _one_shape(slots)


def _group(rivals: Tensor | None, n: int, *, n_tokens: int, like: Tensor) -> Tensor:
    """Give the group of each of n rows of a head, of which the last ones are no tokens."""
    groups = torch.full((n,), -1, dtype=torch.int32, device=like.device)
    groups[:n_tokens] = 0 if rivals is None else rivals
    return _one_shape(groups)


def _one_shape(tensor: Tensor) -> Tensor:
    torch._dynamo.mark_static(tensor)
    return tensor
