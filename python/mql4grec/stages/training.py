"""The stages from semantic IDs to a trained T5."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mql4grec.stages.context import Context, load_corpus, load_vocabulary

if TYPE_CHECKING:
    from transformers import T5ForConditionalGeneration


def pretrain(context: Context, folder: Path) -> None:
    """Train the T5 on several shops."""
    from mql4grec import recommender

    settings = context.settings.recommender
    recommender.train(
        _new_model(context),
        [load_corpus(context, name) for name in settings.pretrain.datasets],
        settings.pretrain,
        stage="pretrain",
        folder=folder,
        runtime=context.runtime,
        journal=context.journal,
    )


def finetune(context: Context, folder: Path) -> None:
    """Train the T5 on the target shop, from the pre-trained one if there is one."""
    from mql4grec import recommender

    settings = context.settings.recommender
    if settings.pretrain.datasets:
        model = recommender.load(context.folder / "recommender" / "pretrain")
    else:
        model = _new_model(context)
    recommender.train(
        model,
        [load_corpus(context, context.settings.target.name)],
        settings.finetune,
        stage="finetune",
        folder=folder,
        runtime=context.runtime,
        journal=context.journal,
    )


def _new_model(context: Context) -> T5ForConditionalGeneration:
    from mql4grec import recommender

    settings = context.settings
    return recommender.build(load_vocabulary(context), settings.recommender, seed=settings.seed)
