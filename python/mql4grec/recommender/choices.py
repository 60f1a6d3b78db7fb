"""Where a word can go on with more than one code, and with which it should."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mql4grec.config import Modality
from mql4grec.language import Branches

if TYPE_CHECKING:
    from mql4grec.recommender.causal import CausalConfig


@dataclass(frozen=True)
class Choice:
    """Places at which one level of a word is chosen.

    Attributes:
        rows: int64 (r,), of which targets.
        open: bool (r, K), the codes that items go on with there.
        codes: int64 (r, C), those that would be right.
        shares: float32 (r, C), how right; they sum to 1.
    """

    rows: NDArray[np.int64]
    open: NDArray[np.bool_]
    codes: NDArray[np.int64]
    shares: NDArray[np.float32]

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Copy all four to a device."""
        rows, is_open, codes, shares = (
            torch.from_numpy(part).to(device)
            for part in (self.rows, self.open, self.codes, self.shares)
        )
        return rows, is_open, codes, shares


def list_choices(
    config: CausalConfig,
    words: NDArray[np.int64],
    branches: Mapping[Modality, Sequence[Branches]],
    *,
    targets: NDArray[np.integer],
    answers: NDArray[np.integer],
    shares: NDArray[np.float32],
) -> dict[Modality, list[Choice]]:
    """List the choices on the way of R words.

    At a prefix of the word that is written, all answers that begin with it count, by their shares.
    Where only one code can follow there is nothing to choose and nothing to learn.

    Args:
        config: Sizes of the model.
        words: int64 (N + 1, W), as `language.spell_items` gives them.
        branches: By modality and level.
        targets: (R,), the items that are written, -1 for none.
        answers: (R, C), items that would be right, -1 for none.
        shares: float32 (R, C), of each; rows of zeros are not asked.

    Returns:
        By modality a choice for each level.
    """
    found: dict[Modality, list[Choice]] = {}
    asked = np.flatnonzero(shares.any(axis=1))
    targets, answers, shares = targets[asked], answers[asked], shares[asked]
    for modality, token, _ in config.words():
        own, others = words[targets, token], words[answers, token]  # (R, L), (R, C, L)
        weights = shares * (others[:, :, 0] != config.pad)
        weights *= own[:, :1] != config.pad
        found[modality] = []
        for level, first in enumerate(config.first_code[modality]):
            is_open = branches[modality][level].after(targets)
            total = weights.sum(axis=1, keepdims=True)
            rows = np.flatnonzero((total[:, 0] > 0) & (is_open.sum(axis=1) > 1))
            codes = np.maximum(others[rows, :, level] - first, 0)
            choice = Choice(asked[rows], is_open[rows], codes, weights[rows] / total[rows])
            found[modality].append(choice)
            weights = weights * (others[:, :, level] == own[:, level, None])
    return found
