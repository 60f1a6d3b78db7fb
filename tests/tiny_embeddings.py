"""A shop of five texts, and one call that encodes a shop."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mql4grec.catalog import Catalog, Histories
from mql4grec.config import EmbeddingsSettings, Modality
from mql4grec.embeddings import Embeddings, embed
from mql4grec.runtime import Runtime

CPU = torch.device("cpu")
TINY = "test_efficientnet"  # timm's own network for tests
TEXTS = ("a red mug", "", "a red cup of stoneware", "garden hose, ten metres", " \n")


def make_catalog(
    texts: Sequence[str] = TEXTS, *, images: Sequence[Path | None] | None = None
) -> Catalog:
    """Make a shop of these texts, with the files of their pictures, and without users."""
    return Catalog(
        name="Tiny",
        item_ids=tuple(f"item-{row}" for row in range(len(texts))),
        user_ids=(),
        titles=tuple(texts),
        texts=tuple(texts),
        images=tuple(images or [None] * len(texts)),
        histories=Histories(np.zeros(1, np.int64), np.zeros(0, np.int32)),
    )


def run(catalog: Catalog, folder: Path, /, **settings: Any) -> Embeddings:
    """Encode texts if there are settings for them, else pictures; every batch is kept."""
    modality: Modality = "text" if "text" in settings else "image"
    found = embed(
        catalog,
        EmbeddingsSettings.model_validate(settings),
        modality=modality,
        folder=folder,
        runtime=Runtime(checkpoint_seconds=0),
    )
    assert found is not None
    return found
