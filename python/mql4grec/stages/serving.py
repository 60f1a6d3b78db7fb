"""Rankings from a trained run: for the test split, and for histories that a user gives."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mql4grec import evaluation
from mql4grec.catalog import Catalog, Histories
from mql4grec.config import Modality
from mql4grec.decoding import Rankings
from mql4grec.errors import ArtifactError, DataError
from mql4grec.stages.context import (
    SEQUENCE_TASK,
    Context,
    load_catalog,
    load_corpus,
    load_ids,
    load_spelt_ids,
    load_vocabulary,
    modalities,
)


def rank(
    context: Context,
    histories: Histories,
    *,
    modality: Modality,
    n_beams: int,
    folder: Path | None = None,
) -> Rankings:
    """Rank the target shop's items for every history, by beam search in one modality.

    Args:
        context: Of a run whose fine-tuning is done.
        histories: Of U users, item rows of the target shop.
        modality: Whose codes are read and written.
        n_beams: M, the length of the rankings.
        folder: Where finished parts are kept, so that an interrupted call goes on; None: nowhere.
    """
    from mql4grec import decoding, language, recommender

    settings = context.settings
    corpus = load_corpus(context, settings.target.name)
    vocabulary = load_vocabulary(context)
    ids = load_spelt_ids(context, settings.target, vocabulary=vocabulary)[modality]
    users = np.arange(histories.n_users)
    inputs = language.encode_histories(corpus, histories, task=SEQUENCE_TASK[modality], users=users)
    return decoding.recommend(
        recommender.load(context.folder / "recommender" / "finetune"),
        decoding.build_trie(ids),
        vocabulary=vocabulary,
        modality=modality,
        inputs=inputs,
        n_beams=n_beams,
        batch_size=settings.decoding.batch_size,
        search=decoding.Search(
            normalise=settings.decoding.normalise, exact=settings.decoding.exact
        ),
        folder=folder,
        runtime=context.runtime,
        journal=context.journal,
    )


def assemble(
    context: Context, generated: dict[Modality, Rankings], histories: Histories
) -> dict[str, Rankings]:
    """Remove seen items if the settings ask for it, and add "fused" where both modalities are."""
    ids = load_ids(context, context.settings.target)
    return evaluation.assemble(
        generated,
        histories,
        settings=context.settings.evaluation,
        n_tokens=1 + max(found.n_levels for found in ids.values()),  # codes and eos
    )


def read_histories(items: Sequence[str], path: Path | None) -> list[list[str]]:
    """Read histories of item ids from arguments, a file of JSON lines, or standard input (`-`).

    Raises:
        DataError: If there is none, or a line is no list of item ids.
    """
    histories = [list(items)] if items else []
    if path is not None:
        try:
            text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as err:
            raise DataError(f"`{path}`: expected a file of JSON lines, got {err}") from err
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                histories.append(_parse_history(line, f"`{path}`, line {number}"))
    if not histories:
        raise DataError("histories: expected item ids or a file, got none; see `recommend --help`")
    return histories


def _parse_history(line: str, place: str) -> list[str]:
    try:
        history = json.loads(line)
    except ValueError as err:
        raise DataError(f"{place}: expected JSON, got {line[:60]!r}") from err
    if not isinstance(history, list) or not all(isinstance(item, str | int) for item in history):
        raise DataError(f"{place}: expected a list of item ids, got {line[:60]!r}")
    return [str(item) for item in history]


def recommend(
    context: Context, histories: Sequence[Sequence[str]], *, ranking: str, top_k: int
) -> Iterator[dict[str, Any]]:
    """Recommend items for histories of item ids.

    Args:
        context: Of a run whose fine-tuning is done.
        histories: Item ids each, oldest first.
        ranking: "text", "image" or "fused".
        top_k: Items per history; the search uses at least as many beams.

    Yields:
        Per history {"history": [id], "items": [{"item_id", "title", "score"}]}.

    Raises:
        DataError: For items that the shop does not have.
        ArtifactError: If the run has no such ranking.
    """
    shop = load_catalog(context, context.settings.target.name)
    available = modalities(context.settings, context.settings.target)
    wanted = available if ranking == "fused" else tuple(m for m in available if m == ranking)
    if not wanted:
        raise ArtifactError(
            f"`--ranking`: expected one of {[*available, 'fused']}, got {ranking!r}"
        )
    rows = _rows(shop, histories)
    longest = int(rows.lengths().max())  # as many items as could be removed as seen
    n_beams = max(context.settings.decoding.n_beams, top_k)
    n_beams += longest if context.settings.evaluation.remove_seen else 0
    found_by = {m: rank(context, rows, modality=m, n_beams=n_beams) for m in wanted}
    rankings = assemble(context, found_by, rows)
    best = rankings.get("fused") or rankings[wanted[0]]
    for history, items, scores in zip(histories, best.items, best.scores, strict=True):
        found = [
            {"item_id": shop.item_ids[item], "title": shop.titles[item], "score": float(score)}
            for item, score in zip(items[:top_k], scores, strict=False)
            if item >= 0
        ]
        yield {"history": list(history), "items": found}


def _rows(shop: Catalog, histories: Sequence[Sequence[str]]) -> Histories:
    """Turn item ids into item rows."""
    row_of = {item_id: row for row, item_id in enumerate(shop.item_ids)}
    unknown = [item for history in histories for item in history if item not in row_of]
    if unknown:
        raise DataError(
            f"histories: expected item ids of `{shop.name}`, got {len(unknown)} unknown, "
            f"the first {unknown[:5]}; ids are those of `{shop.name}.item2id`"
        )
    lengths = [len(history) for history in histories]
    items = [row_of[item] for history in histories for item in history]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Histories(offsets=offsets, items=np.array(items, dtype=np.int32))
