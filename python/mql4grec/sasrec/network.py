"""The network: items in, at every place a state that scores all items as the next one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

INITIAL_STD = 0.02


class SelfAttention(nn.Module):
    """Attention of every place to itself and the places before it, several heads."""

    def __init__(self, *, d_model: int, num_heads: int, dropout: float) -> None:
        """Make the projections; `num_heads` divides `d_model`."""
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.joint = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, states: Tensor) -> Tensor:
        """Mix states (B, T, D) of each place with those before it: (B, T, D)."""
        n_rows, n_places, width = states.shape
        parts = self.joint(states).view(n_rows, n_places, 3, self.num_heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # 3 x (B, heads, T, D / heads)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, dropout_p=self.dropout if self.training else 0.0
        )
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(n_rows, n_places, width))
        return out


class Block(nn.Module):
    """Attention and a network of two layers, each normalised before and added to its input."""

    def __init__(self, *, d_model: int, num_heads: int, dropout: float) -> None:
        """Make both parts."""
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model)
        self.attention = SelfAttention(d_model=d_model, num_heads=num_heads, dropout=dropout)
        self.inner_norm = nn.LayerNorm(d_model)
        self.inner = nn.Sequential(
            nn.Linear(d_model, d_model), nn.ReLU(), nn.Dropout(dropout), nn.Linear(d_model, d_model)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        """Give the next layer's states (B, T, D)."""
        states = states + self.drop(self.attention(self.attention_norm(states)))
        out: Tensor = states + self.drop(self.inner(self.inner_norm(states)))
        return out


class SASRec(nn.Module):
    """Self-attention over item ids; items are scored by their own input vectors.

    Source:
        Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018; as there the inner
        width is D and one table of items serves input and output. Differently, every other item is
        a negative (see `training`), and states are normalised before each part, not after it.
    """

    def __init__(
        self,
        *,
        n_items: int,
        d_model: int,
        num_heads: int,
        num_layers: int,
        dropout: float,
        max_his_len: int,
    ) -> None:
        """Make a network for N items and histories of at most `max_his_len`; draws from torch."""
        super().__init__()
        self.max_his_len = max_his_len
        self.items = nn.Embedding(n_items, d_model)
        self.places = nn.Embedding(max_his_len, d_model)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(d_model=d_model, num_heads=num_heads, dropout=dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=INITIAL_STD)
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.bias)

    def forward(self, items: Tensor) -> Tensor:
        """Give the state of every place, which knows the items up to it and none after it.

        Args:
            items: int64 (B, T), oldest first, T at most `max_his_len`; what follows a shorter
                history may be any item, since no place looks ahead.

        Returns:
            float32 (B, T, D).
        """
        width: int = self.items.embedding_dim
        states = self.items(items) * width**0.5 + self.places.weight[: items.shape[1]]
        states = self.drop(states)
        for block in self.blocks:
            states = block(states)
        out: Tensor = self.norm(states)
        return out

    def scores(self, states: Tensor) -> Tensor:
        """Score all items as the next after states (..., D): (..., N)."""
        return functional.linear(states, self.items.weight)


def summed_loss(network: SASRec, items: Tensor, lengths: Tensor) -> Tensor:
    """Sum the cross-entropy of each next item among all items.

    Args:
        network: To train.
        items: int64 (B, T + 1), padded at the end.
        lengths: int64 (B,), events of each row, at least 2.

    Returns:
        A number, summed over `(lengths - 1).sum()` targets.
    """
    states = network(items[:, :-1])  # (B, T, D)
    real = torch.arange(1, items.shape[1], device=items.device) < lengths[:, None]  # (B, T)
    return functional.cross_entropy(
        network.scores(states[real]), items[:, 1:][real], reduction="sum"
    )
