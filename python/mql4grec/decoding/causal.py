"""A decoder-only model's weights laid out for decoding: a history is read once, then written on.

The same numbers as `recommender.causal.CausalModel`. The items of a history are its memory; the
last one, which tells the first code, is the first step of every word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mql4grec.decoding.network import Past
from mql4grec.recommender.causal import EPS, CausalModel


@dataclass(frozen=True)
class Block:
    """A layer; every matrix is (out, in), norms and the scale of attention folded in.

    Attributes:
        qkv: (3 * H * d_kv, D).
        out: (D, H * d_kv).
        inner: (F, D).
        outer: (D, F).
    """

    qkv: Tensor
    out: Tensor
    inner: Tensor
    outer: Tensor


@dataclass(frozen=True)
class CausalMemory:
    """What every step of a batch of B users with n items reads.

    Attributes:
        layers: Keys and values of the start and the items, (B, H, n + 1, d_kv) each, by layer that
            codes pass.
        mask: Bias by distance from the last item, minus infinity for it and what follows, float32
            (B, H, 1, n + 1).
        hidden: Normed state of the last item, float32 (B, 1, D).
        first: Its keys and values, (B, 1, 2, H, d_kv) by layer.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor
    hidden: Tensor
    first: tuple[Tensor, ...]


@dataclass(frozen=True)
class CausalNetwork:
    """A decoder-only model for decoding: a `Network`.

    Attributes:
        reading: Vectors of codes in an item, float32 (V, D).
        embedding: Vectors of codes that are written, float32 (V, D).
        start: What stands before the first item, float32 (D).
        blocks: Its layers.
        n_written: The last of them, which codes pass as well.
        distance: Bias by distance in items, float32 (H, T + 1).
        steps: Bias by steps of the own word, float32 (H, S, S); to its first by distance 0.
        head: float32 (V, D), final norm folded in.
        rough_head: The same in the precision of the products.
        n_heads: H.
        d_kv: Numbers per head.
        width: Tokens of an item in the input.
        max_his_len: Items that are read.
    """

    reading: Tensor
    embedding: Tensor
    start: Tensor
    blocks: tuple[Block, ...]
    n_written: int
    distance: Tensor
    steps: Tensor
    head: Tensor
    rough_head: Tensor
    n_heads: int
    d_kv: int
    width: int
    max_his_len: int

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the matrix products; sums between layers are float32."""
        return self.rough_head.dtype

    @property
    def n_kept(self) -> int:
        """Numbers that a beam's step takes, what is computed on the way included."""
        return 3 * self.n_heads * self.d_kv * self.n_written

    def read(self, input_ids: Tensor, attention_mask: Tensor, *, n_steps: int) -> CausalMemory:
        """Read a batch; every item has `width` tokens of `input_ids`. See `Network`."""
        missing = -input_ids.shape[1] % self.width
        words = functional.pad(input_ids, (0, missing)).unflatten(1, (-1, self.width))
        mask = functional.pad(attention_mask, (0, missing)).unflatten(1, (-1, self.width))
        last = (mask[:, :, 0] != 0).sum(dim=1)  # (B,), the place of the last item
        start = self.start.expand(len(words), 1, -1)
        hidden = torch.cat([start, self.reading[words].sum(dim=2)], dim=1)  # (B, n + 1, D)
        place = torch.arange(hidden.shape[1], device=hidden.device)
        bias = self._by_distance(place[:, None] - place)  # (H, n + 1, n + 1)
        rows = torch.arange(len(words), device=hidden.device)
        layers, first = [], []
        for block in self.blocks:
            queries, keys, values = self._heads(hidden, block).unbind(2)
            first.append(torch.stack([keys[rows, last], values[rows, last]], dim=1)[:, None])
            queries, keys, values = (part.transpose(1, 2) for part in (queries, keys, values))
            seen = functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=bias.to(queries.dtype), scale=1.0
            )
            hidden = self._add(hidden, seen.transpose(1, 2), block)
            layers.append((keys.contiguous(), values.contiguous()))
        ago = last[:, None] - place  # (B, n + 1)
        far = self._by_distance(torch.where(ago == 0, -1, ago))
        return CausalMemory(
            layers=tuple(layers[-self.n_written :]),
            mask=far.transpose(0, 1)[:, :, None],
            hidden=_norm(hidden[rows, last])[:, None],
            first=tuple(first[-self.n_written :]),
        )

    def step(self, tokens: Tensor, memory: CausalMemory, *, past: Past) -> tuple[Tensor, Past]:
        """Write the next token of every beam; the first step is read already. See `Network`."""
        if not past.steps:
            return memory.hidden, Past((memory.first,))
        hidden = self.embedding[tokens]  # (B, m, D)
        length = len(past.steps) + 1
        near = self.steps[:, length - 1, :length]
        near = torch.cat([self.distance[:, :1], near[:, 1:]], dim=1)[:, None]  # (H, 1, t)
        now = []
        for index, block in enumerate(self.blocks[-self.n_written :]):
            qkv = self._heads(hidden, block)  # (B, m, 3, H, d_kv)
            now.append(qkv[:, :, 1:])
            pairs = [*past.of_layer(index, tokens.shape), now[-1]]
            queries, (keys, values) = qkv[:, :, 0], memory.layers[index]
            far = queries.transpose(1, 2) @ keys.transpose(2, 3) + memory.mask  # (B, H, m, n + 1)
            own = torch.stack([(queries * pair[:, :, 0]).sum(dim=3) for pair in pairs], dim=3)
            own = own.transpose(1, 2) + near  # (B, H, m, t)
            shares = torch.cat([far, own], dim=3).softmax(dim=3).to(self.dtype)
            seen = (shares[..., :-length] @ values).transpose(1, 2)  # (B, m, H, d_kv)
            for share, pair in zip(shares[..., -length:].unbind(3), pairs, strict=True):
                seen = torch.addcmul(seen, share.transpose(1, 2)[..., None], pair[:, :, 1])
            hidden = self._add(hidden, seen, block)
        return _norm(hidden), Past((*past.steps, tuple(now)), past.ancestors)

    def _by_distance(self, ago: Tensor) -> Tensor:
        """Give the bias of items so many places ago, minus infinity below 0: (H, *ago)."""
        bias = self.distance[:, ago.clamp(0, self.max_his_len)]
        return bias.masked_fill(ago < 0, -torch.inf)

    def _heads(self, hidden: Tensor, block: Block) -> Tensor:
        """Give queries, keys and values of (B, t, D): (B, t, 3, H, d_kv)."""
        rows = functional.linear(_norm(hidden).to(self.dtype), block.qkv)
        out: Tensor = rows.unflatten(2, (3, self.n_heads, self.d_kv))
        return out

    def _add(self, hidden: Tensor, seen: Tensor, block: Block) -> Tensor:
        """Add what attention has found (B, t, H, d_kv) and what the layer makes of it."""
        hidden = hidden + functional.linear(seen.flatten(2), block.out)
        inner = functional.linear(_norm(hidden).to(self.dtype), block.inner).relu_()
        return hidden + functional.linear(inner, block.outer)


@torch.inference_mode()
def lay_out_causal(model: CausalModel, *, dtype: torch.dtype) -> CausalNetwork:
    """Lay a model's weights out for decoding, on its device.

    Args:
        model: Decoder-only.
        dtype: Of the matrix products, float32 or bfloat16.
    """
    config = model.config
    parts: Any = model  # whose modules lose their types
    head = (parts.head.weight * parts.norm.weight).float()
    return CausalNetwork(
        reading=parts.reading.weight.float(),
        embedding=parts.writing.weight.float(),
        start=parts.start.float(),
        blocks=tuple(_block(block, scale=config.d_kv**-0.5, dtype=dtype) for block in parts.blocks),
        n_written=config.num_decoder_layers,
        distance=parts.distance.float(),
        steps=parts.steps.float(),
        head=head,
        rough_head=head.to(dtype),
        n_heads=config.num_heads,
        d_kv=config.d_kv,
        width=config.width,
        max_his_len=config.max_his_len,
    )


def _block(block: Any, *, scale: float, dtype: torch.dtype) -> Block:
    queries, others = block.qkv.weight.tensor_split([block.qkv.out_features // 3])
    return Block(
        qkv=(torch.cat([queries * scale, others]) * block.attention_norm.weight).to(dtype),
        out=block.out.weight.to(dtype),
        inner=(block.inner.weight * block.inner_norm.weight).to(dtype),
        outer=block.outer.weight.to(dtype),
    )


def _norm(hidden: Tensor) -> Tensor:
    """Divide by the root of the mean of squares, in float32."""
    return functional.rms_norm(hidden, hidden.shape[-1:], None, EPS)
