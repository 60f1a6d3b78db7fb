"""The stage that collects what a run has left, for the page that shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mql4grec import artifacts, config
from mql4grec import report as page
from mql4grec.codes import CollisionReport
from mql4grec.config import Modality
from mql4grec.report import Example, ReportData
from mql4grec.runtime import describe_machine
from mql4grec.stages.context import (
    Context,
    encoded,
    load_catalog,
    load_ids,
    modalities,
    translator_folder,
)
from mql4grec.stages.training import load_rankings

THUMBNAIL = 96  # pixels


def report(context: Context, folder: Path) -> None:
    """Write the page of the run."""
    settings = context.settings
    shop = load_catalog(context, settings.target.name)
    rankings = load_rankings(context)
    ranking = rankings.get("fused") or next(iter(rankings.values()))
    examples = page.choose_examples(
        shop, ranking, n_users=settings.report.n_users, seed=settings.seed
    )
    data = ReportData(
        name=settings.name,
        shop=shop.name,
        settings=config.dump(settings),
        machine=describe_machine(context.runtime),
        seconds=_seconds(context),
        metrics=_read(context.folder / "evaluation" / "metrics.json"),
        counts=_read(context.folder / "catalog" / shop.name / "counts.json"),
        embeddings=_embeddings(context),
        translator=_translator_histories(context),
        codebooks=_codebooks(context),
        semantic_ids=load_ids(context, settings.target),
        collisions=_collisions(context),
        pretrain=_epochs(context.folder / "recommender" / "pretrain"),
        finetune=_epochs(context.folder / "recommender" / "finetune"),
        catalog=shop,
        examples=examples,
        thumbnails=_thumbnails(shop.images, examples),
        n_points=settings.report.n_points,
        seed=settings.seed,
    )
    page.write(folder / "index.html", data)


def _read(path: Path) -> Any:
    return artifacts.read_json(path, made_by="run")


def _epochs(folder: Path) -> list[dict[str, Any]]:
    """Read the curve of a T5's training, [] where there was none."""
    path = folder / "history.json"
    found: list[dict[str, Any]] = _read(path)["epochs"] if path.exists() else []
    return found


def _seconds(context: Context) -> dict[str, float]:
    """Read how long every finished stage took, in order."""
    from mql4grec.stages.plan import plan

    found = {}
    for stage in plan(context.settings):
        stamp = artifacts.read_stamp(context.folder / stage.place)
        if stamp is not None and stamp["done"]:
            found[stage.name] = float(stamp["seconds"])
    return found


def _translated(context: Context) -> list[Modality]:
    """List the modalities of the target shop that a translator of this run made."""
    target = context.settings.target
    return [modality for shop, modality in encoded(context.settings) if shop == target]


def _embeddings(context: Context) -> dict[Modality, Any]:
    folder = context.folder / "embeddings" / context.settings.target.name
    return {m: _read(folder / m / f"{m}.json") for m in _translated(context)}


def _translator_histories(context: Context) -> dict[Modality, list[dict[str, Any]]]:
    if context.settings.translator.trained is not None:
        return {}
    return {
        m: _read(context.folder / "translator" / m / "history.json") for m in _translated(context)
    }


def _codebooks(context: Context) -> dict[Modality, list[NDArray[np.float32]]]:
    from mql4grec import translator

    found = {}
    for modality in _translated(context):
        network = translator.load(translator_folder(context, modality))
        found[modality] = [codebook.detach().numpy() for codebook in network.codebooks]
    return found


def _collisions(context: Context) -> dict[str, CollisionReport]:
    target = context.settings.target
    found: dict[str, CollisionReport] = {}
    for modality in modalities(context.settings, target):
        facts = _read(context.folder / "codes" / f"{target.name}.{modality}.json")
        found[modality] = CollisionReport(
            **{name: facts[name] for name in CollisionReport.__dataclass_fields__}
        )
    return found


def _thumbnails(images: tuple[Path | None, ...], examples: tuple[Example, ...]) -> dict[int, bytes]:
    """Make small pictures of all items that the examples show, as far as they have any."""
    from mql4grec import embeddings

    found = {}
    for item in sorted(set().union(*(example.items for example in examples))):
        path = images[item]
        small = None if path is None else embeddings.thumbnail(path, size=THUMBNAIL)
        if small is not None:
            found[item] = small
    return found
