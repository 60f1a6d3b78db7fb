"""Run the stages in order: the best place to start reading.

A finished stage is not done again; a changed setting or input redoes its stage and all that follow
it; an interrupted stage goes on at its last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mql4grec import artifacts, runtime
from mql4grec.config import Settings
from mql4grec.errors import ArtifactError, ConfigError
from mql4grec.runtime import Journal
from mql4grec.stages import Context, Stage, folder, limits, plan

State = Literal["done", "started", "stale", "to do"]


@dataclass(frozen=True)
class StageState:
    """What a run's folder says of one stage.

    Attributes:
        stage: The stage.
        mark: Its fingerprint under the present settings.
        state: "started" goes on at its checkpoint; "stale" has other settings or inputs than now.
    """

    stage: Stage
    mark: str
    state: State


def inspect(settings: Settings) -> list[StageState]:
    """Tell for every stage of a run whether it is done."""
    marks: dict[str, str] = {}
    states = []
    for stage in plan(settings):
        needs = [marks[name] for name in stage.needs]
        marks[stage.name] = mark = artifacts.fingerprint(stage.name, stage.covers, needs)
        states.append(StageState(stage, mark, _state(settings, stage, mark)))
    return states


def _state(settings: Settings, stage: Stage, mark: str) -> State:
    stamp = artifacts.read_stamp(settings.folder / stage.place)
    if stamp is None:
        return "to do"
    if stamp["fingerprint"] != mark:
        return "stale"
    return "done" if stamp["done"] else "started"


def context_of(settings: Settings, *, journal: Journal) -> Context:
    """Make ready what every stage is given."""
    return Context(settings, runtime.start(settings.runtime, seed=settings.seed), journal)


def run(
    settings: Settings,
    *,
    journal: Journal,
    only: str | None = None,
    until: str | None = None,
    donors: Sequence[Path] = (),
) -> list[str]:
    """Do the stages of a run that are not done.

    Args:
        settings: Of the run.
        journal: Told of every stage.
        only: A command: do its stages alone; those before it must be done (`ArtifactError`).
        until: A command: do no stage after its own.
        donors: Folders of other runs; a stage that is done there with the same fingerprint is
            copied from the first.

    Returns:
        Names of the stages that were done now.
    """
    context = context_of(settings, journal=journal)
    require_own(settings)
    context.wait_for_everyone()  # all have seen the folder before it changes
    if not _to_do(settings, only=only, until=until):
        return []  # nothing is written: the folder may be read-only
    with folder.sole_writer(settings):
        if runtime.is_main_process():
            _copy_from(donors, settings)
            folder.write_settings(settings)
        context.wait_for_everyone()
        todo = _to_do(settings, only=only, until=until)
        context.wait_for_everyone()
        for item in todo:
            if item.stage.command == "prepare":
                _do(item, context)
        _require_sizes(settings, until=until)
        for item in todo:
            if item.stage.command != "prepare":
                _do(item, context)
    return [item.stage.name for item in todo]


def _require_sizes(settings: Settings, *, until: str | None) -> None:
    """Refuse, before anything is trained, what a later stage would for the size of a shop.

    Raises:
        ConfigError: With all faults.
    """
    left = {item.stage.command for item in _to_do(settings, only=None, until=until)}
    limits.require(settings, left)


def require_own(settings: Settings) -> None:
    """Refuse a folder in which files of somebody else lie where those of a run would go.

    Raises:
        ArtifactError: With the first such file.
    """
    folder.require_own(settings, [stage.place for stage in plan(settings)])


def _to_do(settings: Settings, *, only: str | None, until: str | None) -> list[StageState]:
    """List the stages that a call would do; its arguments are those of `run`."""
    states = inspect(settings)
    if only is not None:
        require_done(states, only)
    if until is not None:
        commands = [item.stage.command for item in states]
        states = states[: len(commands) - commands[::-1].index(until)]
    return [s for s in states if s.state != "done" and only in (None, s.stage.command)]


def _copy_from(donors: Sequence[Path], settings: Settings) -> None:
    """Copy the stages that are done elsewhere, with the same settings and inputs."""
    for item in inspect(settings):
        place = item.stage.place
        stamps = {donor / place: artifacts.read_stamp(donor / place) for donor in donors}
        done = {"fingerprint": item.mark, "done": True}
        found = [path for path, stamp in stamps.items() if stamp and done.items() <= stamp.items()]
        if found and item.state != "done":
            artifacts.copy_stage(found[0], settings.folder / place, item.mark)


def require_done(states: Sequence[StageState], command: str) -> None:
    """Check that a command has something to do, and that all that it needs is there."""
    mine = [item.stage for item in states if item.stage.command == command]
    if not mine:
        raise ConfigError(
            f"`{command}`: expected settings that ask for it, got none; "
            "`mql4grec check` lists the stages of a run"
        )
    needs = {name for stage in mine for name in stage.needs}
    for item in reversed(states):  # the last one says itself what it needs
        if item.stage.name in needs and item.stage.command != command:
            require_stage(states, item.stage.name, command=command)


def require_stage(states: Sequence[StageState], name: str, *, command: str) -> None:
    """Check that a stage is done, for a command that needs it.

    Raises:
        ArtifactError: If it is not.
    """
    (item,) = (item for item in states if item.stage.name == name)
    if item.state != "done":
        raise ArtifactError(
            f"`{command}`: expected stage `{name}` to be done, it is {item.state!r}; run "
            f"`mql4grec {item.stage.command}` with the same settings first"
        )


def _do(item: StageState, context: Context) -> None:
    """Do one stage; of several processes only the main one writes stamps."""
    place = context.folder / item.stage.place
    began = time.monotonic()
    is_main = runtime.is_main_process()
    if is_main:
        artifacts.open_stage(place, item.mark)
        context.journal.log("stage.start", name=item.stage.name, resumed=item.state == "started")
    context.wait_for_everyone()
    if is_main or item.stage.shared:
        item.stage.work(context, place)
    context.wait_for_everyone()
    if is_main:
        seconds = round(time.monotonic() - began, 2)
        artifacts.close_stage(place, item.mark, seconds=seconds)
        context.journal.log("stage.done", name=item.stage.name, seconds=seconds)
