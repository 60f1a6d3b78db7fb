"""What a run's settings do not allow for a shop of its size, known as soon as the shop is prepared.

A baseline that a shop is too large for is left out, in words; what cannot be left out is refused
before hours are spent on what comes before it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mql4grec import artifacts
from mql4grec.catalog import Catalog
from mql4grec.config import DatasetSettings, Settings, TrainingSettings
from mql4grec.errors import ConfigError
from mql4grec.stages.context import encoded

N_SHORT = 3  # events of every user whose training history has no next item to learn from


@dataclass(frozen=True)
class Sizes:
    """How large a prepared shop is: N items, U users, E events."""

    n_items: int
    n_users: int
    n_events: int

    @classmethod
    def of(cls, shop: Catalog) -> Sizes:
        """Measure a shop that has been read."""
        return cls(shop.n_items, shop.histories.n_users, len(shop.histories.items))


def read_sizes(settings: Settings) -> dict[str, Sizes]:
    """Read how large the prepared shops of a run are, by name; those not prepared are left out."""
    found = {}
    for shop in settings.catalog.datasets:
        path = _counts(settings, shop.name)
        if path.exists():
            counts = artifacts.read_json(path, made_by="prepare")
            left, cold = counts["after_k_core"], counts.get("cold", {"users": 0, "events": 0})
            found[shop.name] = Sizes(
                counts["items"], left["users"] - cold["users"], left["events"] - cold["events"]
            )
    return found


def left_out(settings: Settings, sizes: Sizes) -> dict[str, str]:
    """Tell which baselines are left out for the target shop's size, and why, by name."""
    found = {}
    limit, n_items = settings.evaluation.ease_max_items, sizes.n_items
    if n_items > limit:
        why = f"{n_items:,} items are more than `evaluation.ease_max_items`, {limit:,}"
        found["ease"] = f"{why}; a matrix of EASE^R takes {4 * n_items**2 / 2**30:,.1f} GiB"
        if settings.evaluation.ease_codes_weight != 0:
            found["ease_codes"] = found["ease"]
    if settings.sasrec.enabled and n_items > settings.sasrec.max_items:
        limit = settings.sasrec.max_items
        found["sasrec"] = (
            f"{n_items:,} items are more than `sasrec.max_items`, {limit:,}; each of its steps "
            "scores all items"
        )
    elif settings.sasrec.enabled and sizes.n_events <= N_SHORT * sizes.n_users:
        found["sasrec"] = "no user has more than three events, so that it has nothing to learn"
    return found


def refusals(settings: Settings, sizes: Mapping[str, Sizes]) -> Iterator[tuple[str, str]]:
    """List what would end a run, by the shops' sizes: the command that would, and the message."""
    for shop, modality in encoded(settings):
        if shop.name in sizes and settings.translator.trained is None:
            yield from _without_room(settings, shop, modality)
    trainings = settings.recommender.pretrain, settings.recommender.finetune
    for command, training, names in (
        ("pretrain", trainings[0], trainings[0].datasets),
        ("finetune", trainings[1], (settings.target.name,)),
    ):
        for name in names:
            if name in sizes and (fault := teacher_fault(settings, training, name, sizes[name])):
                yield command, fault
    own = sizes.get(settings.target.name)
    absent = {} if own is None else left_out(settings, own)
    if lacking := [name for name in settings.evaluation.combine if name in absent]:
        why = "; ".join(f"{name}: {absent[name]}" for name in lacking)
        yield (
            "evaluate",
            f"`evaluation.combine`: expected rankings that this run makes, got {lacking} ({why}); "
            "leave them out, or raise the limit",
        )


def teacher_fault(
    settings: Settings, training: TrainingSettings, name: str, sizes: Sizes
) -> str | None:
    """Say that a shop is too large for the teacher of a training, None if it is not."""
    limit = settings.evaluation.ease_max_items
    if not training.teacher_share or sizes.n_items <= limit:
        return None
    return (
        f"`teacher_share`: expected 0, or shops of at most {limit} items "
        f"(`evaluation.ease_max_items`), got {sizes.n_items} in {name!r}; set it to 0"
    )


def require(settings: Settings, commands: Collection[str]) -> None:
    """Refuse settings under which one of some commands would end for the shops' sizes.

    Args:
        settings: Of a run whose shops are prepared.
        commands: That still have something to do.

    Raises:
        ConfigError: With all faults.
    """
    found = [f for command, f in refusals(settings, read_sizes(settings)) if command in commands]
    if found:
        raise ConfigError("\n  ".join(dict.fromkeys(found)))


def _without_room(
    settings: Settings, shop: DatasetSettings, modality: str
) -> Iterator[tuple[str, str]]:
    """Find that a shop has more items to translate than there are semantic IDs."""
    counts = artifacts.read_json(_counts(settings, shop.name), made_by="prepare")
    lacking = {"text": "items_without_text", "image": "items_without_picture"}[modality]
    n_items, levels = counts["items"] - counts[lacking], settings.translator.num_emb_list
    if n_items > math.prod(levels):
        yield (
            "generate-codes",
            f"`translator.num_emb_list`: expected semantic IDs for the {n_items} items of "
            f"{shop.name!r} that have a {modality}, got {math.prod(levels)} of {list(levels)} "
            "codes; add a level or codes",
        )


def _counts(settings: Settings, name: str) -> Path:
    return settings.folder / "catalog" / name / "counts.json"
