"""One shop, or several joined, as token tables and histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mql4grec.catalog import Histories
from mql4grec.codes import SemanticIds
from mql4grec.config import LanguageSettings, Modality
from mql4grec.language.vocabulary import Vocabulary

Source = Literal["text", "image", "both"]
MODALITIES: tuple[Modality, ...] = ("text", "image")


@dataclass(frozen=True)
class View:
    """Some events, in order, as one stream of tokens: what a task that reads a modality sees.

    Events whose item has no code there are left out. With the items 7, 9, 8 of which 9 has no code:

        tokens  <a_1><b_4><c_0>  <a_2><b_2><c_5>
        starts  0                3                6
        kept    0   1   1   2

    Attributes:
        tokens: int32 (T,).
        starts: int64 (E'+1,), where each kept event begins in `tokens`.
        kept: int64 (E+1,), number of kept events before each event.
    """

    tokens: NDArray[np.int32]
    starts: NDArray[np.int64]
    kept: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Corpus:
    """One shop as the recommender reads it.

    Attributes:
        name: Of the data set.
        vocabulary: Shared by all shops of a run.
        histories: All events; the last two of a user are never trained on.
        tokens: Token ids of every item's codes, by modality, int32 (N, L); L is 0 for a modality
            that the vocabulary lacks.
        present: bool (N,), by modality; False where the item has no codes.
        max_his_len: Most items of one input, the last ones.
        sampling: "prefixes", "longest" or "windows": `language.samples` of the settings.
    """

    name: str
    vocabulary: Vocabulary
    histories: Histories
    tokens: dict[Modality, NDArray[np.int32]]
    present: dict[Modality, NDArray[np.bool_]]
    max_his_len: int
    sampling: str
    _views: dict[Source, View] = field(default_factory=dict, repr=False)

    @property
    def n_items(self) -> int:
        """Number of items N."""
        return len(self.present["text"])

    def view(self, source: Source) -> View:
        """Give the whole histories as tokens, made when first asked for."""
        if source not in self._views:
            self._views[source] = read_events(self, self.histories.items, source=source)
        return self._views[source]


def build_corpus(
    vocabulary: Vocabulary,
    histories: Histories,
    ids: Mapping[Modality, SemanticIds],
    settings: LanguageSettings,
) -> Corpus:
    """Turn one shop's semantic IDs into token ids.

    Args:
        vocabulary: Of the run.
        histories: All events of the shop, held-out ones too.
        ids: Semantic IDs by modality, one or both, of the same N items.
        settings: Room `language`.

    Raises:
        ValueError: If the modalities differ in N, a level differs from the vocabulary, or a history
            holds an item that has no row.
    """
    if not ids:
        raise ValueError("`ids`: expected at least one modality, got none; give text or image")
    n_items = {len(one.codes) for one in ids.values()}
    if len(n_items) > 1:
        raise ValueError(f"`ids`: expected one number of items, got {sorted(n_items)}")
    n = n_items.pop()
    if histories.items.size and int(histories.items.max()) >= n:
        raise ValueError(
            f"`histories`: expected items below {n}, got {histories.items.max()}; "
            "give codes of the same catalog"
        )
    tokens: dict[Modality, NDArray[np.int32]] = {}
    present: dict[Modality, NDArray[np.bool_]] = {}
    for modality in MODALITIES:
        tokens[modality], present[modality] = _token_table(
            vocabulary, ids.get(modality), modality=modality, n_items=n
        )
    return Corpus(
        name=next(iter(ids.values())).dataset,
        vocabulary=vocabulary,
        histories=histories,
        tokens=tokens,
        present=present,
        max_his_len=settings.max_his_len,
        sampling=settings.samples,
    )


def join(corpora: Sequence[Corpus]) -> Corpus:
    """Make one corpus of several shops, so that a batch may draw from all of them.

    Items and events are appended in order. Users and items stay apart; only codes are shared.

    Raises:
        ValueError: If there is no corpus, or they differ in vocabulary or settings.
    """
    if not corpora:
        raise ValueError("`corpora`: expected at least one, got none")
    first = corpora[0]
    if len(corpora) == 1:
        return first
    for other in corpora[1:]:
        for name in ("vocabulary", "max_his_len", "sampling"):
            if getattr(other, name) != getattr(first, name):
                raise ValueError(
                    f"`corpora`: expected one `{name}`, got others in {first.name!r} and "
                    f"{other.name!r}; build all of them with the same vocabulary and settings"
                )
    item_shifts = np.cumsum([0, *(one.n_items for one in corpora)])
    event_shifts = np.cumsum([0, *(len(one.histories.items) for one in corpora)])
    offsets = [
        one.histories.offsets[1:] + shift
        for one, shift in zip(corpora, event_shifts[:-1], strict=True)
    ]
    items = [
        one.histories.items + np.int32(shift)
        for one, shift in zip(corpora, item_shifts[:-1], strict=True)
    ]
    return Corpus(
        name="+".join(one.name for one in corpora),
        vocabulary=first.vocabulary,
        histories=Histories(
            offsets=np.concatenate([np.zeros(1, np.int64), *offsets]), items=np.concatenate(items)
        ),
        tokens={m: np.concatenate([one.tokens[m] for one in corpora]) for m in MODALITIES},
        present={m: np.concatenate([one.present[m] for one in corpora]) for m in MODALITIES},
        max_his_len=first.max_his_len,
        sampling=first.sampling,
    )


def read_events(corpus: Corpus, items: NDArray[np.int32], *, source: Source) -> View:
    """Spell events as one stream of tokens.

    With source "both", an item is `text prompt, text codes, image prompt, image codes`, without the
    part that it lacks.

    Args:
        corpus: The shop.
        items: Item rows of the events, int32 (E,).
        source: What is read.
    """
    parts, filled = [], []
    modalities = MODALITIES if source == "both" else (source,)
    for modality in modalities:
        table = corpus.tokens[modality][items]  # (E, L)
        if source == "both":
            prompt = corpus.vocabulary.prompts[f"fgfusionseqrec.{modality}"]
            table = np.hstack([np.tile(np.array(prompt, np.int32), (len(items), 1)), table])
        parts.append(table)
        present = corpus.present[modality][items]
        filled.append(np.broadcast_to(present[:, None], table.shape))
    mask = np.hstack(filled)  # (E, W)
    widths = mask.sum(axis=1)
    return View(
        tokens=np.hstack(parts)[mask].astype(np.int32, copy=False),
        starts=_offsets(widths[widths > 0]),
        kept=_offsets(widths > 0),
    )


def _offsets(counts: NDArray[np.int64] | NDArray[np.bool_]) -> NDArray[np.int64]:
    """Give the running sum that starts with 0, int64 (n+1,)."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _token_table(
    vocabulary: Vocabulary, ids: SemanticIds | None, *, modality: Modality, n_items: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Add each level's first token id to the codes; rows that are not present become padding."""
    levels = vocabulary.n_codes.get(modality, ())
    if ids is None:
        table = np.full((n_items, len(levels)), vocabulary.pad, dtype=np.int32)
        return table, np.zeros(n_items, dtype=np.bool_)
    if ids.n_codes != levels:
        raise ValueError(
            f"`ids[{modality!r}]`: expected levels of {levels} codes to match the vocabulary, "
            f"got {ids.n_codes}; build the vocabulary from the same codes"
        )
    first = np.array(vocabulary.first_code[modality], dtype=np.int32)
    table = np.where(ids.present[:, None], ids.codes + first, vocabulary.pad)
    return table.astype(np.int32), ids.present
