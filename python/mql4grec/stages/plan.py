"""The stages of a run, in order.

A stage's fingerprint covers its own settings, the identity of the users' files that it reads, and
the fingerprints of the stages that it needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mql4grec.config import MODALITIES, DatasetSettings, Settings, TrainingSettings
from mql4grec.errors import ConfigError
from mql4grec.stages.combining import FOLDER
from mql4grec.stages.context import (
    SEQUENCE_TASK,
    Stage,
    encoded,
    learns_to_rank,
    modalities,
    ways_of,
)
from mql4grec.stages.decoding import combined_modalities, decode, decode_validation
from mql4grec.stages.evaluation import evaluate, train_sasrec
from mql4grec.stages.items import embed, generate_codes, prepare, train_translator
from mql4grec.stages.page import report
from mql4grec.stages.quality import measure_quality
from mql4grec.stages.training import finetune, pretrain, selection_beams


def plan(settings: Settings) -> list[Stage]:
    """List the stages of a run in order.

    Raises:
        ConfigError: If a shop has neither text nor image codes to come by, or no task learns to
            rank by those that it has.
    """
    for shop in settings.catalog.datasets:
        if not modalities(settings, shop):
            raise ConfigError(
                f"`{shop.name}`: expected a modality, got none; set `embeddings.text.kind` or "
                "`embeddings.image.kind`, or give an index"
            )
    for modality in modalities(settings, settings.target):
        if not learns_to_rank(settings, settings.recommender.finetune, modality):
            raise ConfigError(
                f"`recommender.finetune.tasks`: expected {SEQUENCE_TASK[modality]!r} among them to "
                f"rank by {modality} codes, got {list(settings.recommender.finetune.tasks)}; add "
                "it, or leave the modality out"
            )
    _check_combined(settings)
    stages = [*_plan_items(settings), *_plan_training(settings)]
    names = [stage.name for stage in stages]
    return [
        dataclasses.replace(stage, needs=tuple(n for n in stage.needs if n in names))
        for stage in stages
    ]


def _check_combined(settings: Settings) -> None:
    """Check that the rankings to be combined are those of a shop and settings that have them."""
    absent = [
        name
        for name in settings.evaluation.combine
        if (name in MODALITIES and name not in modalities(settings, settings.target))
        or (name == "sasrec" and not settings.sasrec.enabled)
        or (name == "ease_codes" and settings.evaluation.ease_codes_weight == 0)
    ]
    if absent:
        raise ConfigError(
            f"`evaluation.combine`: expected rankings that this run makes, got {absent}; leave "
            "them out, or turn on what makes them"
        )


def _plan_items(settings: Settings) -> Iterator[Stage]:
    """From the shops' files to semantic IDs, and how good they are."""
    shops = settings.catalog.datasets
    rules = settings.catalog.model_dump(mode="json", exclude={"datasets", "target", "cold_items"})
    covers: Any
    for shop in shops:
        files = [_identity(path) for path in _files(shop)]
        own = shop.model_dump(mode="json")
        if not shop.images_outside:
            del own["images_outside"]  # runs of earlier versions stay as they are
        covers = (own, rules, files, settings.seed_of_data)
        if settings.catalog.cold_items:
            covers = (*covers, settings.catalog.cold_items)
        yield Stage("prepare", shop.name, f"catalog/{shop.name}", covers, (), prepare(shop))
    for shop, modality in encoded(settings):
        encoder = getattr(settings.embeddings, modality).model_dump(mode="json")
        covers = (encoder, settings.embeddings.missing, settings.runtime.precision)
        covers = (*covers, settings.seed_of_data)
        place = f"embeddings/{shop.name}/{modality}"
        key, needs = f"{shop.name} {modality}", _names("prepare", shop)
        yield Stage("embed", key, place, covers, needs, embed(shop, modality))
    needs = _names("prepare", *shops)
    for modality in MODALITIES:
        embedded = tuple(
            f"embed {shop.name} {modality}" for shop, m in encoded(settings) if m == modality
        )
        if settings.translator.trained is not None:
            needs += embedded
        elif embedded:
            recipe = settings.translator.model_dump(
                mode="json", exclude={"max_memory_gib", "graphs"}
            )
            covers = (recipe, settings.runtime.precision, settings.seed)
            work, place = train_translator(modality), f"translator/{modality}"
            yield Stage("train-translator", modality, place, covers, embedded, work, shared=True)
            needs += (f"train-translator {modality}",)
    given = [_identity(path) for shop in shops for path in (shop.text_index, shop.image_index)]
    given += [_identity(path) for path in (*settings.codes.extend, *_trained(settings))]
    covers = (settings.codes.model_dump(mode="json", exclude={"max_memory_gib"}), given)
    yield Stage("generate-codes", "", "codes", covers, needs, generate_codes)
    covers = (settings.quality.model_dump(mode="json"), settings.report.n_points, settings.seed)
    covers = (*covers, settings.codes.precision, settings.name, settings.target.name)
    yield Stage("quality", "", "quality", covers, ("generate-codes",), measure_quality)


def _plan_training(settings: Settings) -> Iterator[Stage]:
    """From semantic IDs to recommendations and figures."""
    model = settings.recommender.model_dump(mode="json", exclude={"pretrain", "finetune"})
    language = settings.language.model_dump(mode="json")
    covers: Any
    needs: tuple[str, ...]
    shared = (model, language, settings.runtime.precision, settings.seed)
    target = settings.target.name
    if settings.recommender.pretrain.datasets:
        training = settings.recommender.pretrain
        covers = (shared, _training(training), *_others(settings, training))
        place = "recommender/pretrain"
        yield Stage("pretrain", "", place, covers, ("generate-codes",), pretrain, shared=True)
    training = settings.recommender.finetune
    covers = (shared, _training(training), target, *_others(settings, training))
    needs = ("generate-codes", "pretrain")
    yield Stage("finetune", "", "recommender/finetune", covers, needs, finetune, shared=True)
    ways = ways_of(settings)
    covers = (settings.decoding.model_dump(mode="json"), target, ways if len(ways) > 1 else ways[0])
    yield Stage("evaluate", "decoding", "decoding", covers, ("finetune",), decode)
    if combined := combined_modalities(settings):
        covers = (*covers, combined, settings.evaluation.combine_users, settings.seed)
        yield Stage(
            "evaluate", "validation", "validation", covers, ("finetune",), decode_validation
        )
    if settings.sasrec.enabled:
        recipe = settings.sasrec.model_dump(mode="json", exclude={"enabled"})
        covers, needs = (recipe, settings.seed, target), (f"prepare {target}",)
        yield Stage("evaluate", "sasrec", "sasrec", covers, needs, train_sasrec)
    given = [
        _identity(p) for file in settings.evaluation.files for p in (file.test, file.validation)
    ]
    free = set() if settings.evaluation.compare_refit else {"compare_refit"}
    covers = (settings.evaluation.model_dump(mode="json", exclude=free), given, settings.seed)
    if settings.evaluation.combine:
        covers = (*covers, FOLDER)  # which runs of before did not keep
    needs = ("evaluate decoding", "evaluate validation", "evaluate sasrec")
    yield Stage("evaluate", "metrics", "evaluation", covers, needs, evaluate)
    covers = (settings.report.model_dump(mode="json"), settings.name, settings.seed)
    needs = ("quality", "evaluate metrics")
    yield Stage("report", "", "report", covers, needs, report)


def _trained(settings: Settings) -> list[Path]:
    """List the files of translators that an earlier run has trained."""
    folder = settings.translator.trained
    return sorted(folder.glob("*/*_model.*")) if folder is not None else []


def _training(settings: TrainingSettings) -> dict[str, Any]:
    """Leave out what changes the speed, and of the result only dropout's draws."""
    free = {"micro_batch_size", "graphs"}
    return settings.model_dump(mode="json", exclude=free | settings.unused)


def _others(settings: Settings, training: TrainingSettings) -> tuple[Any, ...]:
    """Give what else a training goes by: how an epoch is chosen, and what the teacher knows."""
    found: tuple[Any, ...] = ()
    if training.select_by == "ndcg":
        normalise, removed = settings.decoding.normalise, settings.evaluation.remove_seen
        found = (normalise, selection_beams(settings), removed)
    if training.teacher_share:
        linear = settings.evaluation
        found = (*found, linear.ease_lambda, linear.decay, linear.ease_codes_weight)
    return found


def _names(command: str, *shops: DatasetSettings) -> tuple[str, ...]:
    return tuple(f"{command} {shop.name}" for shop in shops)


def _identity(path: Path | None) -> tuple[str, int, int] | None:
    """Tell a user's file from a changed one, by size and time of change."""
    if path is None or not path.exists():
        return None
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns


def _files(shop: DatasetSettings) -> list[Path | None]:
    """List what a shop is read from; of its pictures, the folder, which changes with its names."""
    paths = [shop.interactions, shop.items]
    if shop.root is not None:
        paths += sorted((shop.root / shop.name).glob(f"{shop.name}.*"))
    if shop.images is not None:
        paths.append(Path(shop.images.partition("{")[0] + "x").parent)
    return paths
