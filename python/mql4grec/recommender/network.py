"""A T5's forward pass for training, over tokens without padding.

The same numbers as transformers' own T5, whose parameters these are, without what costs time when
many short sequences are read: every product is over tokens alone, projections of one input are one
product, norms are folded into the products after them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mql4grec.recommender import multiplied
from mql4grec.recommender.dropout import Dropout
from mql4grec.recommender.layout import Layer, Network
from mql4grec.recommender.packing import Packed


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
            token has its probability among those of its group. None: among all tokens, or those
            that are open.
    """
    hidden = _decode(network, packed, _encode(network, packed, dropout), dropout)
    logits = functional.linear(hidden, network.head)  # (S, V)
    if rivals is not None:
        own = rivals[packed.labels.clamp(min=0)]  # any group where a position does not count
        logits = logits.masked_fill(own[:, None] != rivals, -torch.inf)
    if packed.open is not None:
        logits = logits.masked_fill(~packed.open, -torch.inf)
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
