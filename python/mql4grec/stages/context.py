"""What every stage is given, and how it reads what earlier stages left in the run's folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mql4grec import artifacts, catalog, codes
from mql4grec.catalog import Catalog
from mql4grec.codes import SemanticIds
from mql4grec.config import (
    MODALITIES,
    DatasetSettings,
    Modality,
    Settings,
    Task,
    TrainingSettings,
)
from mql4grec.errors import ArtifactError, DataError
from mql4grec.runtime import Journal, Runtime, wait_for_everyone

if TYPE_CHECKING:
    from mql4grec.embeddings import Embeddings
    from mql4grec.language import Corpus, Vocabulary

SEQUENCE_TASK: dict[Modality, Task] = {"text": "seqrec", "image": "seqimage"}
SEEN = {False: "seen_kept", True: "seen_removed"}  # names of the two ways to rank
REFIT = {False: "without_refit", True: "with_refit"}  # and of the two that baselines are fitted
INDEX_SUFFIX: dict[Modality, str] = {"text": "lemb", "image": "vitemb"}  # the authors' file names


@dataclass(frozen=True)
class Context:
    """What every stage is given."""

    settings: Settings
    runtime: Runtime
    journal: Journal

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.settings.folder

    def wait_for_everyone(self) -> None:
        """Wait until all processes of the run are here."""
        wait_for_everyone(cpu=self.runtime.device == "cpu")


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        command: The command that does it; several stages may share one.
        key: What tells it from the others of its command, "" if there are none.
        place: Its folder, relative to the run's.
        covers: Settings and identities of input files; a change makes the stage run again.
        needs: Names of the stages whose files it reads.
        work: Does it; gets the context and the stage's folder.
        shared: All processes take part, not only the main one.
    """

    command: str
    key: str
    place: str
    covers: Any
    needs: tuple[str, ...]
    work: Callable[[Context, Path], None]
    shared: bool = False

    @property
    def name(self) -> str:
        """Name in messages and in `needs`."""
        return f"{self.command} {self.key}".strip()


def given_index(shop: DatasetSettings, modality: Modality) -> Path | None:
    """Give the path of a shop's given semantic IDs, None if a translator makes them."""
    return shop.text_index if modality == "text" else shop.image_index


def encoded(settings: Settings) -> Iterator[tuple[DatasetSettings, Modality]]:
    """List what has to be embedded and translated: all that is not given or turned off."""
    for shop in settings.catalog.datasets:
        for modality in MODALITIES:
            kind = getattr(settings.embeddings, modality).kind
            wanted = kind != "none" and modality in shop.modalities
            if wanted and given_index(shop, modality) is None:
                yield shop, modality


def ways_of(settings: Settings) -> tuple[bool, ...]:
    """List whether seen items are removed: the main way, and if asked the other."""
    removed = settings.evaluation.remove_seen
    return (removed, not removed) if settings.evaluation.compare_seen else (removed,)


def fits_of(settings: Settings) -> tuple[bool, ...]:
    """List whether baselines are refitted: the main way, and if asked the other."""
    refitted = settings.evaluation.refit
    return (refitted, not refitted) if settings.evaluation.compare_refit else (refitted,)


def part_of(settings: Settings, *, removed: bool, refitted: bool) -> str:
    """Name a part of `metrics.json`, and the folder of its rankings: how it differs from the main.

    The main part has no name, "".
    """
    names = [SEEN[removed]] if removed != settings.evaluation.remove_seen else []
    names += [REFIT[refitted]] if refitted != settings.evaluation.refit else []
    return ".".join(names)


def parts_of(settings: Settings) -> list[str]:
    """List the parts of `metrics.json`, the main one, "", first."""
    return [
        part_of(settings, removed=removed, refitted=refitted)
        for refitted in fits_of(settings)
        for removed in ways_of(settings)
    ]


def modalities(settings: Settings, shop: DatasetSettings) -> tuple[Modality, ...]:
    """List the modalities in which a shop gets semantic IDs."""
    made = set(encoded(settings))
    return tuple(m for m in MODALITIES if (shop, m) in made or given_index(shop, m) is not None)


def learns_to_rank(settings: Settings, training: TrainingSettings, modality: Modality) -> bool:
    """Tell whether a training teaches to rank items by the codes of a modality."""
    whole = settings.recommender.backbone == "causal"  # which learns all modalities, tasks or not
    return whole or SEQUENCE_TASK[modality] in training.tasks


def load_catalog(context: Context, name: str) -> Catalog:
    """Read a prepared shop."""
    return catalog.load(context.folder / "catalog" / name, name)


def load_embeddings(context: Context, shop: DatasetSettings, modality: Modality) -> Embeddings:
    """Open a shop's embeddings, memory-mapped.

    Raises:
        ArtifactError: If they are not there.
    """
    from mql4grec import embeddings

    folder = context.folder / "embeddings" / shop.name / modality
    found = embeddings.load(folder, dataset=shop.name, modality=modality)
    if found is None:
        raise ArtifactError(f"`{folder}`: no {modality} embeddings; `mql4grec embed` makes them")
    return found


def translator_folder(context: Context, modality: Modality) -> Path:
    """Give the folder of a modality's translator: trained by this run, or an earlier one."""
    trained = context.settings.translator.trained
    return (trained or context.folder / "translator") / modality


def index_path(folder: Path, dataset: str, modality: Modality) -> Path:
    """Give the place of a shop's JSON index; beside it lie Parquet shards, alone if it is large."""
    return folder / f"{dataset}.index_{INDEX_SUFFIX[modality]}.json"


def before_path(folder: Path, dataset: str, modality: Modality) -> Path:
    """Give the place of a shop's codes before repair, uint16 (N, L)."""
    return folder / f"{dataset}.{modality}.before.npy"


def load_ids(context: Context, shop: DatasetSettings) -> dict[Modality, SemanticIds]:
    """Read a shop's semantic IDs, by modality."""
    folder = context.folder / "codes"
    n_items = load_catalog(context, shop.name).n_items
    found = {}
    for modality in modalities(context.settings, shop):
        path = index_path(folder, shop.name, modality)
        facts = artifacts.read_json(
            folder / f"{shop.name}.{modality}.json", made_by="generate-codes"
        )
        if path.exists() or artifacts.told_of(path):
            ids, _ = codes.read_index(
                artifacts.require(path, made_by="generate-codes"),
                dataset=shop.name,
                modality=modality,
                n_items=n_items,
                shared="refuse",
            )
        else:
            ids = codes.read_shards(path.with_suffix(".parquet")).ids
        found[modality] = dataclasses.replace(ids, n_codes=tuple(facts["n_codes"]))
    return found


def load_vocabulary(context: Context) -> Vocabulary:
    """Build the vocabulary of the run: the codes of all shops."""
    from mql4grec import language

    n_codes: dict[Modality, tuple[int, ...]] = {}
    for shop in context.settings.catalog.datasets:
        for modality, ids in load_ids(context, shop).items():
            known = n_codes.setdefault(modality, ids.n_codes)
            if len(known) != len(ids.n_codes):
                raise DataError(
                    f"`{shop.name}`: expected {len(known)} levels of {modality} codes like the "
                    f"shops before it, got {len(ids.n_codes)}; give index files of equal length"
                )
            n_codes[modality] = tuple(map(max, known, ids.n_codes))
    return language.build_vocabulary(context.settings.language, n_codes=n_codes)


def load_corpus(context: Context, name: str) -> Corpus:
    """Build the corpus of one shop."""
    from mql4grec import language

    (shop,) = (shop for shop in context.settings.catalog.datasets if shop.name == name)
    vocabulary = load_vocabulary(context)
    return language.build_corpus(
        vocabulary,
        load_catalog(context, name).histories,
        load_spelt_ids(context, shop, vocabulary=vocabulary),
        context.settings.language,
    )


def load_spelt_ids(
    context: Context, shop: DatasetSettings, *, vocabulary: Vocabulary
) -> dict[Modality, SemanticIds]:
    """Read a shop's semantic IDs with the vocabulary's levels, which other shops may widen."""
    return {
        modality: dataclasses.replace(ids, n_codes=vocabulary.n_codes[modality])
        for modality, ids in load_ids(context, shop).items()
    }
