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
from mql4grec.recommender.network import Layer, Network

EVEN = 8  # numbers whose rows a GPU's products read together: what is written is filled up to it
N_MASKS = 6  # of a piece, at most
GOLDEN = 0x9E3779B9 - 2**32  # 2^32 by the golden ratio, odd: multiples of it are far apart


@dataclass(frozen=True)
class Masks:
    """Dropout's masks from hashed places, which a compiler writes into the kernels around them.

    Attributes:
        rate: Of what is dropped, below 1.
        keys: int32 (N_MASKS,), others for every piece of every forward pass.
    """

    rate: float
    keys: Tensor

    @property
    def scale(self) -> float:
        """What the kept are multiplied by, so that the mean stays."""
        return 1 / (1 - self.rate)

    def mask(self, like: Tensor, number: int) -> Tensor:
        """Give ones and zeros of a tensor's shape and type, the piece's own of this number."""
        places = torch.arange(like.numel(), dtype=torch.int32, device=like.device).view(like.shape)
        key = self.keys[number]
        hashed = hash_bits(places ^ key) + key
        return (hashed >= int(self.rate * 2**32) - 2**31).to(like.dtype)


def draw_keys(seed: Tensor, n: int) -> Tensor:
    """Give the keys of n pieces, int32 (n, N_MASKS), from a seed, int32 ()."""
    numbers = torch.arange(n * N_MASKS, dtype=torch.int32, device=seed.device)
    return hash_bits(numbers * GOLDEN + seed).view(n, N_MASKS)


def hash_bits(numbers: Tensor) -> Tensor:
    """Mix the bits of int32 numbers, so that neighbours have nothing in common.

    Source:
        C. Wellons, "Prospecting for Hash Functions", 2018: the function `lowbias32`.
    """
    numbers = (numbers ^ (numbers >> 16 & 0xFFFF)) * 0x7FEB352D
    numbers = (numbers ^ (numbers >> 15 & 0x1FFFF)) * (0x846CA68B - 2**32)
    return numbers ^ (numbers >> 16 & 0xFFFF)


@dataclass(frozen=True)
class Sizes:
    """What all pieces know.

    Attributes:
        n_heads: H.
        eps: Of the norms.
        masks: None: nothing is dropped.
    """

    n_heads: int
    eps: float
    masks: Masks | None

    def norm(self, hidden: Tensor, dtype: torch.dtype) -> Tensor:
        """Divide by the root of the mean of squares, in float32."""
        return functional.rms_norm(hidden, hidden.shape[-1:], None, self.eps).to(dtype)

    def drop(self, tensor: Tensor, number: int, *, power: int = 1) -> Tensor:
        """Drop some and scale the others.

        Args:
            tensor: Of any shape.
            number: Of this mask among a piece's own.
            power: 0: the scale comes later, 2: it has not come yet.
        """
        if self.masks is None:
            return tensor
        return tensor * (self.masks.mask(tensor, number) * self.masks.scale**power)

    def add(self, hidden: Tensor, change: Tensor, number: int) -> Tensor:
        """Add what a layer has found, of which dropout took twice: inside the layer, and now."""
        return hidden + self.drop(change.float(), number, power=2)

    def see(self, asking: Tensor, asks: Tensor, asked: Tensor, bias: Tensor, number: int) -> Tensor:
        """Attend, with projections multiplied out: no head has keys and values to be copied apart.

        Args:
            asking: (B, S, D).
            asks: What turns it into queries to states themselves (H * D, D).
            asked: (B, T, D).
            bias: What is added to the scores, to be spread to (B, S, H, T).
            number: Of the mask of the shares.

        Returns:
            (B, S, H * D).
        """
        shape = (*asking.shape[:2], self.n_heads, asked.shape[1])
        queries = functional.linear(asking, asks).unflatten(2, (self.n_heads, -1)).flatten(1, 2)
        scores = (queries @ asked.transpose(1, 2)).view(shape)
        shares = self.drop((scores.float() + bias).softmax(dim=3), number, power=0)
        seen = shares.to(asked.dtype).flatten(1, 2) @ asked  # (B, S * H, D)
        told: Tensor = seen.unflatten(1, (-1, self.n_heads)).flatten(2)
        return told


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


def embed(sizes: Sizes, tokens: Tensor, table: Tensor) -> Tensor:
    """Give what tokens become, float32 (B, T, D)."""
    return sizes.drop(functional.embedding(tokens, table), 0)


def encoder_layer(sizes: Sizes, layer: Layer, hidden: Tensor, bias: Tensor, pad: Tensor) -> Tensor:
    """Pass a layer of the encoder, float32 (B, T, D)."""
    normed = sizes.norm(hidden, layer.qkv.dtype)
    seen = sizes.see(normed, layer.qkv, normed, bias + pad, 0)
    hidden = sizes.add(hidden, functional.linear(seen, layer.out), 1)
    return _feed_forward(sizes, layer, hidden)


def decoder_layer(
    sizes: Sizes, layer: Layer, hidden: Tensor, bias: Tensor, read: Tensor, pad: Tensor
) -> Tensor:
    """Pass a layer of the decoder, float32 (B, S, D)."""
    normed = sizes.norm(hidden, layer.qkv.dtype)
    seen = sizes.see(normed, layer.qkv, normed, bias, 0)
    hidden = sizes.add(hidden, functional.linear(seen, layer.out), 1)
    asks, tells = layer.cross
    seen = sizes.see(sizes.norm(hidden, layer.qkv.dtype), asks, read, pad, 2)
    hidden = sizes.add(hidden, functional.linear(seen, tells), 3)
    return _feed_forward(sizes, layer, hidden)


def close(sizes: Sizes, hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """Norm what encoder or decoder end with, for products with norms folded in."""
    return sizes.drop(sizes.norm(hidden, torch.float32), 0).to(dtype)


def loss(
    sizes: Sizes, hidden: Tensor, head: Tensor, labels: Tensor, rivals: Tensor | None
) -> Tensor:
    """Give the summed cross entropy of the target tokens."""
    logits = functional.linear(close(sizes, hidden, head.dtype), head).flatten(0, 1)
    labels = labels.flatten()
    if rivals is not None:
        own = rivals[labels.clamp(min=0)]  # any group where a position does not count
        logits = logits.masked_fill(own[:, None] != rivals, -torch.inf)
    return functional.cross_entropy(logits.float(), labels, reduction="sum")


def _feed_forward(sizes: Sizes, layer: Layer, hidden: Tensor) -> Tensor:
    inner = functional.linear(sizes.norm(hidden, layer.inner.dtype), layer.inner).relu()
    return sizes.add(hidden, functional.linear(sizes.drop(inner, 4, power=0), layer.outer), 5)


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
    dropout: float = 0.0,
    seed: Tensor | None = None,
    rivals: Tensor | None = None,
    pieces: Pieces = PIECES,
) -> Tensor:
    """Give the cross entropy of a batch, summed over all target tokens in float32.

    Args:
        network: The T5, multiplied out.
        input_ids: int64 (B, T).
        labels: int64 (B, S), `IGNORED` where nothing counts.
        start: The token that every target starts from, which is also the padding.
        dropout: Share of what is dropped.
        seed: Of dropout, int32 (), on the device.
        rivals: As in `network.summed_loss`.
        pieces: Compiled or not.
    """
    n_read, written = input_ids.shape[1], -(-labels.shape[1] // EVEN) * EVEN
    n_pieces = 4 + len(network.encoder) + len(network.decoder)
    keys = None
    if dropout:
        assert seed is not None
        keys = iter(draw_keys(seed, n_pieces))

    def sizes() -> Sizes:
        """Give other keys to each piece."""
        masks = None if keys is None else Masks(dropout, next(keys))
        return Sizes(network.n_heads, network.eps, masks)

    pad = torch.where(input_ids == start, torch.finfo(torch.float32).min, 0.0)
    pad = _any_batch(pad[:, None, None])
    hidden = _any_batch(pieces.embed(sizes(), _any_batch(input_ids), network.embedding))
    bias = _one_shape(network.encoder_bias[:, :n_read, :n_read].transpose(0, 1).contiguous())
    for layer in network.encoder:
        hidden = _any_batch(pieces.encoder_layer(sizes(), layer, hidden, bias, pad))
    read = _any_batch(pieces.close(sizes(), hidden, network.dtype))
    before = functional.pad(labels, (1, written - labels.shape[1] - 1), value=start)
    before = _any_batch(torch.where(before == IGNORED, start, before))
    hidden = _any_batch(pieces.embed(sizes(), before, network.embedding))
    bias = _one_shape(network.decoder_bias[:, :written, :written].transpose(0, 1).contiguous())
    for layer in network.decoder:
        hidden = _any_batch(pieces.decoder_layer(sizes(), layer, hidden, bias, read, pad))
    hidden = _any_batch(hidden[:, : labels.shape[1]].contiguous())
    return pieces.loss(sizes(), hidden, network.head, _any_batch(labels), rivals)


def _any_batch(tensor: Tensor) -> Tensor:
    """Let what is compiled for a tensor do for others of another first size, but of no other."""
    torch._dynamo.maybe_mark_dynamic(tensor, 0)
    torch._dynamo.mark_static(tensor, list(range(1, tensor.ndim)))
    return tensor


def _one_shape(tensor: Tensor) -> Tensor:
    torch._dynamo.mark_static(tensor)
    return tensor
