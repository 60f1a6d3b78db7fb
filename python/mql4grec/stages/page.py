"""What a run has left, collected for the pages that show it: before any T5, and at the end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mql4grec import artifacts, config
from mql4grec import report as page
from mql4grec.codes import CollisionReport
from mql4grec.config import Modality
from mql4grec.report import ReportData
from mql4grec.runtime import describe_machine
from mql4grec.stages.context import (
    Context,
    encoded,
    load_catalog,
    load_ids,
    modalities,
)
from mql4grec.stages.decoding import load_rankings

if TYPE_CHECKING:
    from mql4grec.quality import Maps

THUMBNAIL = 96  # pixels


def report(context: Context, folder: Path) -> None:
    """Write the page of the run."""
    settings = context.settings
    data = _collect(context)
    rankings = load_rankings(context)
    ranking = rankings.get("fused") or next(iter(rankings.values()))
    assert data.catalog is not None  # `_collect` has read it
    examples = page.choose_examples(
        data.catalog, ranking, n_users=settings.report.n_users, seed=settings.seed
    )
    shown = _shown(data).union(*(example.items for example in examples))
    data = dataclasses.replace(
        data,
        seconds=_seconds(context),
        metrics=_read(context.folder / "evaluation" / "metrics.json"),
        pretrain=_epochs(context.folder / "recommender" / "pretrain"),
        finetune=_epochs(context.folder / "recommender" / "finetune"),
        examples=examples,
        thumbnails=_thumbnails(data.catalog.images, shown),
    )
    page.write(folder / "index.html", data)


def write_quality_page(context: Context, folder: Path) -> None:
    """Write the page of what is known before any T5 is trained."""
    data = _collect(context)
    assert data.catalog is not None  # `_collect` has read it
    data = dataclasses.replace(
        data,
        seconds=_seconds(context, before="quality"),
        thumbnails=_thumbnails(data.catalog.images, _shown(data)),
    )
    page.write(folder / "index.html", data)


def _collect(context: Context) -> ReportData:
    """Collect what there is to show of the target shop once its codes have been measured."""
    settings = context.settings
    shop = settings.target.name
    return ReportData(
        name=settings.name,
        shop=shop,
        settings=config.dump(settings),
        machine=describe_machine(context.runtime),
        counts=_read(context.folder / "catalog" / shop / "counts.json"),
        embeddings=_embeddings(context),
        translator=_translator_histories(context),
        semantic_ids=load_ids(context, settings.target),
        collisions=_collisions(context),
        quality=_quality(context),
        maps=_maps(context),
        catalog=load_catalog(context, shop),
    )


def _read(path: Path) -> Any:
    return artifacts.read_json(path, made_by="run")


def _epochs(folder: Path) -> list[dict[str, Any]]:
    """Read the curve of a T5's training, [] where there was none."""
    path = folder / "history.json"
    found: list[dict[str, Any]] = _read(path)["epochs"] if path.exists() else []
    return found


def _seconds(context: Context, *, before: str | None = None) -> dict[str, float]:
    """Read how long every finished stage took, in order; those from a command on are left out."""
    from mql4grec.stages.plan import plan

    found = {}
    for stage in plan(context.settings):
        if stage.command == before:
            break
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


def _quality(context: Context) -> dict[Modality, Any]:
    folder, target = context.folder / "quality", context.settings.target
    return {
        m: _read(folder / f"{target.name}.{m}.json") for m in modalities(context.settings, target)
    }


def _maps(context: Context) -> dict[Modality, Maps]:
    from mql4grec.quality import Maps

    found = {}
    for modality in _translated(context):
        name = f"{context.settings.target.name}.{modality}.maps.npz"
        path = context.folder / "quality" / name
        arrays = artifacts.load_arrays(path, made_by="quality")
        with artifacts.reading(path, made_by="quality"):
            found[modality] = Maps.of(arrays)
    return found


def _shown(data: ReportData) -> set[int]:
    """List the items that are shown with their nearest."""
    found: set[int] = set()
    for figures in data.quality.values():
        for example in figures["examples"]:
            found |= {example["item"], *example["by_codes"], *example.get("by_embedding", ())}
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


def _thumbnails(images: tuple[Path | None, ...], items: set[int]) -> dict[int, bytes]:
    """Make small pictures of items, as far as they have any."""
    from mql4grec import embeddings

    found = {}
    for item in sorted(items):
        path = images[item]
        small = None if path is None else embeddings.thumbnail(path, size=THUMBNAIL)
        if small is not None:
            found[item] = small
    return found
