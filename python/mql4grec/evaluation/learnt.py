"""What was learnt of how rankings become one, as files: for lists of others than the test users.

Each is a JSON file and, where there are trees, LightGBM's text beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mql4grec import artifacts
from mql4grec.errors import ArtifactError
from mql4grec.evaluation.candidates import Basis
from mql4grec.evaluation.combination import Calibration, Combination
from mql4grec.evaluation.reranking import Reranker, Reranking

if TYPE_CHECKING:
    from lightgbm import Booster

MADE_BY = "evaluate"  # the command, for messages


@dataclasses.dataclass(frozen=True)
class Learnt:
    """How rankings are made of others.

    Attributes:
        combination: How "combined" is.
        reranker: How "reranked" is; None: it is not asked for.
    """

    combination: Combination
    reranker: Reranker | None


def write_learnt(folder: Path, name: str, learnt: Learnt) -> None:
    """Write `NAME.json` and, where there are trees, `NAME.trees.txt`; the JSON comes last.

    What candidates are described by is not written: it is fitted on a shop's events, not learnt.
    """
    told = {"combination": dataclasses.asdict(learnt.combination), "reranking": None}
    if learnt.reranker is not None:
        told["reranking"] = dataclasses.asdict(learnt.reranker.record)
        if learnt.reranker.trees is not None:
            artifacts.write_text(_trees(folder, name), learnt.reranker.trees.model_to_string())
    artifacts.write_json(folder / f"{name}.json", told)


def read_learnt(
    folder: Path,
    name: str,
    *,
    describes: Callable[[Combination], Basis],
    n_threads: int | None = None,
) -> Learnt:
    """Read what `write_learnt` wrote.

    Args:
        folder: Of the files.
        name: Of the files.
        describes: Gives what candidates of the combination's lists are described by.
        n_threads: Of LightGBM; None: its own choice.

    Raises:
        ArtifactError: If a file is missing, or none that `write_learnt` wrote.
    """
    path = folder / f"{name}.json"
    told = artifacts.read_json(path, made_by=MADE_BY)
    try:
        combination = _combination(told["combination"])
        if told["reranking"] is None:
            return Learnt(combination, None)
        record = Reranking(**told["reranking"] | {"gain": tuple(told["reranking"]["gain"])})
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise ArtifactError(
            f"`{path}`: expected what `mql4grec {MADE_BY}` writes, got {err!r}; delete "
            f"`{folder.parent}` and run the command again"
        ) from err
    trees = _read_trees(_trees(folder, name)) if record.used else None
    return Learnt(combination, Reranker(describes(combination), trees, record, n_threads))


def _combination(told: dict[str, Any]) -> Combination:
    calibrations = {name: Calibration(**one) for name, one in told["calibrations"].items()}
    gains = {name: (gain, error) for name, (gain, error) in told["gains"].items()}
    return Combination(**told | {"calibrations": calibrations, "gains": gains})


def _trees(folder: Path, name: str) -> Path:
    return folder / f"{name}.trees.txt"


def _read_trees(path: Path) -> Booster:
    import lightgbm

    text = artifacts.require(path, made_by=MADE_BY).read_text(encoding="utf-8")
    try:
        return lightgbm.Booster(model_str=text)
    except lightgbm.basic.LightGBMError as err:
        raise ArtifactError(
            f"`{path}`: expected LightGBM's text of trees, got {err}; delete "
            f"`{path.parents[1]}` and run `mql4grec {MADE_BY}` again"
        ) from err
