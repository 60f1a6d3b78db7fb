"""What beam search needs of a model, and the steps that its beams have done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Memory(Protocol):
    """What a network keeps of a batch of B users."""

    @property
    def mask(self) -> Tensor:
        """What hides padding, of a shape that begins with B, on the device."""


class Network(Protocol):
    """A model of V tokens and width D, laid out for decoding."""

    @property
    def embedding(self) -> Tensor:
        """What tokens become, float32 (V, D)."""

    @property
    def head(self) -> Tensor:
        """What turns a hidden state into logits, float32 (V, D)."""

    @property
    def rough_head(self) -> Tensor:
        """The same, in the precision of the matrix products where that is fast."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the matrix products."""

    @property
    def n_kept(self) -> int:
        """How many numbers a beam's step takes."""

    def read(self, input_ids: Tensor, attention_mask: Tensor, *, n_steps: int) -> Any:
        """Read the histories of a batch, once for all its steps.

        Args:
            input_ids: int64 (B, T).
            attention_mask: (B, T).
            n_steps: S, how many follow.

        Returns:
            A `Memory` that `step` of the same network takes.
        """

    def step(self, tokens: Tensor, memory: Any, *, past: Past) -> tuple[Tensor, Past]:
        """Do one step for every beam.

        Args:
            tokens: int64 (B, m), what each beam wrote last; at first the start token, m = 1.
            memory: Of the batch.
            past: The steps before, followed to these beams.

        Returns:
            What logits are made of, float32 (B, m, D), and `past` with this step.
        """


@dataclass(frozen=True)
class Past:
    """The steps so far, none of them copied when beams are reordered.

    Attributes:
        steps: Per step and decoder layer, keys and values (B, m', 2, H, d_kv) of its beams; the
            first step has one beam per user.
        ancestors: Per step after the first, the row in it (of B * m') that each beam now descends
            from, int64 (B * m).
    """

    steps: tuple[tuple[Tensor, ...], ...] = ()
    ancestors: tuple[Tensor, ...] = ()

    def follow(self, rows: Tensor) -> Past:
        """Go on with other beams.

        Args:
            rows: The row of the last step that each new beam continues, int64 (B * m).
        """
        if len(self.steps) == 1:
            return self
        older = tuple(found.index_select(0, rows) for found in self.ancestors)
        return Past(self.steps, (*older, rows))

    def of_layer(self, layer: int, shape: torch.Size) -> list[Tensor]:
        """Give keys and values of each step, (B, m or 1, 2, H, d_kv), for beams of shape (B, m)."""
        found = [kept[layer] for kept in self.steps]
        later = [
            kept.flatten(0, 1).index_select(0, rows).unflatten(0, shape)
            for kept, rows in zip(found[1:], self.ancestors, strict=True)
        ]
        return [*found[:1], *later]
