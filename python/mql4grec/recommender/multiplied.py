"""Norm, attention and feed-forward of the T5's training on a CPU, backward passes written by hand.

Attention here has its projections multiplied out: of a head, queries meet keys in
(W_q x) . (W_k y) = (W_k^T W_q x) . y, and values leave it by W_o W_v y. One product by all heads'
W_k^T W_q asks, the states themselves answer, and one by all heads' W_o W_v tells what was seen.
Where a state has twice the numbers of a head that is the same work among the tokens of a sequence,
and less for targets that read inputs several times their length, whose keys and values need not be
made. Heads lie behind each other in every row, so that nothing is copied to take them apart.

What autograd would do is written out because it keeps less, and takes fewer passes over memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mql4grec.recommender.dropout import Dropout

Sizes = Sequence[tuple[int, int]]  # number and length of the sequences of each group


def multiply_out(
    attentions: Sequence[Any], *, asking: Tensor, asked: Tensor
) -> tuple[Tensor, Tensor]:
    """Multiply the projections of L attentions out, in a way that gradients find their way back.

    Args:
        attentions: Of transformers, alike, with H heads.
        asking: Weights of the norms before the queries (L, D).
        asked: Weights of the norms before keys and values (L, D), or (1, D) of one for all.

    Returns:
        What turns normed states into queries to normed states (L, H * D, D), and what turns the
        states seen into the attention's result (L, D, H * D).
    """
    n, width = asking.shape
    n_heads = attentions[0].n_heads
    queries, keys, values = (
        (torch.stack([getattr(each, name).weight for each in attentions]) * norms[:, None])
        .unflatten(1, (n_heads, -1))  # (L, H, d_kv, D)
        .flatten(0, 1)
        for name, norms in (("q", asking), ("k", asked), ("v", asked))
    )
    back = torch.stack([each.o.weight for each in attentions])
    back = back.view(n, width, n_heads, -1).transpose(1, 2).flatten(0, 1)  # (L * H, D, d_kv)
    told = torch.bmm(back, values).view(n, n_heads, width, width)
    asks = torch.bmm(keys.mT, queries).view(n, n_heads * width, width)
    return asks, told.transpose(1, 2).flatten(2)


def norm(hidden: Tensor, *, eps: float, dtype: torch.dtype) -> Tensor:
    """Divide float32 (T, D) by the root of the mean of squares; gives it in a precision."""
    normed: Tensor = _Norm.apply(hidden, eps, dtype)
    return normed


def feed_forward(
    normed: Tensor, inner: Tensor, outer: Tensor, *, dropout: Dropout | None
) -> Tensor:
    """Multiply (T, D) by (F, D), keep what is above 0, drop some of it, multiply by (D, F)."""
    found: Tensor = _FeedForward.apply(normed, inner, outer, dropout)
    return found


def attend(
    queries: Tensor,
    states: Tensor,
    biases: Sequence[Tensor | None],
    *,
    asking: Sizes,
    asked: Sizes,
    dropout: Dropout | None,
) -> Tensor:
    """Attend within each sequence, projections multiplied out.

    Args:
        queries: (S, H * D).
        states: (T, D).
        biases: What is added to the scores of each group, float32 (H, s, t), for all or none.
        asking: The sequences of the queries.
        asked: Those of the states.
        dropout: Of the shares; their scale is left to the residual.

    Returns:
        What each head has seen, (S, H * D).
    """
    shape = _Shape(queries.shape[1] // states.shape[1], asking, asked)
    found: Tensor = _Attention.apply(queries, states, shape, dropout, *biases)
    return found


class _Norm(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        squares = torch.linalg.vecdot(hidden, hidden)
        scale = squares.div_(hidden.shape[1]).add_(eps).rsqrt_()[:, None]  # (T, 1)
        normed: Tensor = (hidden * scale).to(dtype)
        ctx.save_for_backward(normed, scale)
        return normed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        normed, scale = ctx.saved_tensors
        normed, gradient = normed.to(scale.dtype), gradient.to(scale.dtype)
        along = torch.linalg.vecdot(normed, gradient).div_(normed.shape[1])[:, None]
        return torch.addcmul(gradient, normed, along, value=-1).mul_(scale), None, None


class _FeedForward(Function):
    @staticmethod
    def forward(
        ctx: Any, normed: Tensor, inner: Tensor, outer: Tensor, dropout: Dropout | None
    ) -> Tensor:
        kept = torch.mm(normed, inner.T).relu_()  # (T, F)
        if dropout is not None:
            kept.mul_(dropout.mask(kept))
        ctx.save_for_backward(normed, inner, outer, kept)
        return torch.mm(kept, outer.T)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        normed, inner, outer, kept = ctx.saved_tensors
        flowed = torch.mm(gradient, outer)
        # What is above 0 was neither cut off nor dropped, so that no mask is kept.
        torch.ops.aten.threshold_backward.grad_input(flowed, kept, 0, grad_input=flowed)
        return torch.mm(flowed, inner), flowed.T @ normed, gradient.T @ kept, None


@dataclass(frozen=True)
class _Shape:
    n_heads: int
    asking: Sizes
    asked: Sizes

    def groups(self, rows: Sequence[Tensor], states: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Give views of each group: of (S, H * D) as (n, s * H, D), of (T, D) as (n, t, D)."""
        cut = [
            *(each.split([n * length for n, length in self.asking]) for each in rows),
            *(each.split([n * length for n, length in self.asked]) for each in states),
        ]
        width = states[0].shape[1]
        for (n, _), *parts in zip(self.asking, *cut, strict=True):
            yield [part.view(n, -1, width) for part in parts]


class _Attention(Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        states: Tensor,
        shape: _Shape,
        dropout: Dropout | None,
        *biases: Tensor | None,
    ) -> Tensor:
        seen, kept = torch.empty_like(queries), []
        wide = torch.promote_types(queries.dtype, torch.float32)
        parts = shape.groups((queries, seen), (states,))
        for (asks, sees, knows), bias in zip(parts, biases, strict=True):
            scores = torch.bmm(asks, knows.mT).unflatten(1, (-1, shape.n_heads))  # (n, s, H, t)
            scores = scores.to(wide) if bias is None else scores + bias.transpose(0, 1)
            shares = dropped = scores.softmax(3).to(queries.dtype)
            if dropout is not None:
                # Masks are drawn in the order of (n, H, s, t), as transformers has it.
                ordered = shares.transpose(1, 2)
                dropped = shares * dropout.mask(ordered).transpose(1, 2)
            torch.bmm(dropped.flatten(1, 2), knows, out=sees)
            kept += [shares, dropped]
        ctx.save_for_backward(queries, states, *kept)
        ctx.shape, ctx.biased = shape, [bias is not None for bias in biases]
        return seen

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, states, *kept = ctx.saved_tensors
        to_queries, to_states = torch.empty_like(queries), torch.empty_like(states)
        to_biases: list[Tensor | None] = []
        parts = ctx.shape.groups((queries, gradient, to_queries), (states, to_states))
        pairs = zip(kept[::2], kept[1::2], ctx.biased, strict=True)
        for part, (shares, dropped, biased) in zip(parts, pairs, strict=True):
            asks, given, to_asks, knows, to_knows = part
            wide = torch.promote_types(asks.dtype, torch.float32)
            torch.bmm(dropped.flatten(1, 2).mT, given, out=to_knows)
            flowed = torch.bmm(given, knows.mT).view_as(dropped).mul_(dropped).to(wide)
            # Of a softmax: what flowed through each share, less its part of all that did.
            flowed.addcmul_(shares.to(wide), flowed.sum(3, keepdim=True), value=-1)
            to_biases.append(flowed.sum(0).transpose(0, 1) if biased else None)
            scores = flowed.to(asks.dtype).flatten(1, 2)
            torch.bmm(scores, knows, out=to_asks)
            to_knows.baddbmm_(scores.mT, asks)
        return to_queries, to_states, None, None, *to_biases
