"""What the page shows, in one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mql4grec.config import Modality

if TYPE_CHECKING:
    from mql4grec.catalog import Catalog
    from mql4grec.codes import CollisionReport, SemanticIds
    from mql4grec.quality import Maps


@dataclass(frozen=True)
class Example:
    """What one user saw, was offered and took.

    Attributes:
        user: Row of the user.
        history: int32 (H,), rows of the last items before the target, oldest first.
        n_history: Items before the target in all, H or more.
        recommended: int32 (M,), rows of the first items of the ranking.
        target: Row of the true next item.
        rank: Its 1-based rank in the whole ranking; None where it is not in it.
    """

    user: int
    history: NDArray[np.int32]
    n_history: int
    recommended: NDArray[np.int32]
    target: int
    rank: int | None

    @property
    def items(self) -> set[int]:
        """Give the rows of all items shown, of which the page wants thumbnails."""
        return {self.target, *self.history.tolist(), *self.recommended.tolist()}


@dataclass(frozen=True)
class ReportData:
    """A run, as the page shows it. What is empty is left out, or the page says why.

    Attributes:
        name: Of the run.
        shop: Name of the shop that the recommendations are for.
        settings: All settings as YAML.
        machine: Device, cores, memory, versions: one line.
        seconds: Time of each stage, in the order of the run.
        metrics: The content of `evaluation/metrics.json`; "intervals" in it may be absent.
        counts: The content of the shop's `counts.json`, nested or not.
        embeddings: The content of `embeddings/NAME/<modality>.json`, by modality.
        translator: History of each translator: records with "epoch" and any of "loss",
            "reconstruction_loss", "collision_rate", "perplexity" (L) and "dead_codes" (L).
        semantic_ids: The shop's codes, collisions resolved.
        collisions: What it took, by label: a modality, or shop and modality.
        quality: The content of the shop's `quality/NAME.<modality>.json`, by modality.
        maps: Codebooks and items on planes, by modality; absent for given codes.
        pretrain: History of pre-training: records with "epoch" and any of "train_loss",
            "valid_loss", "valid_ndcg" and "samples_per_second".
        finetune: The same for fine-tuning.
        catalog: The shop, for titles; needed if there are examples, of users or in `quality`.
        examples: Some users, see `choose_examples`.
        thumbnails: A small JPEG or PNG per item row, for the items of the examples.
    """

    name: str
    shop: str
    settings: str = ""
    machine: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, Any] | None = None
    counts: Mapping[str, Any] = field(default_factory=dict)
    embeddings: Mapping[Modality, Mapping[str, Any]] = field(default_factory=dict)
    translator: Mapping[Modality, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    semantic_ids: Mapping[Modality, SemanticIds] = field(default_factory=dict)
    collisions: Mapping[str, CollisionReport] = field(default_factory=dict)
    quality: Mapping[Modality, Mapping[str, Any]] = field(default_factory=dict)
    maps: Mapping[Modality, Maps] = field(default_factory=dict)
    pretrain: Sequence[Mapping[str, Any]] = ()
    finetune: Sequence[Mapping[str, Any]] = ()
    catalog: Catalog | None = None
    examples: Sequence[Example] = ()
    thumbnails: Mapping[int, bytes] = field(default_factory=dict)
