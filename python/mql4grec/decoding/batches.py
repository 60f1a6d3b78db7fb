"""Rankings of many users: batches of like length, progress, and going on after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from transformers import T5ForConditionalGeneration

from mql4grec.config import Modality
from mql4grec.decoding.beams import Found, Normalise, Target, beam_search, best_of_all, score_items
from mql4grec.decoding.causal import lay_out_causal
from mql4grec.decoding.device_trie import lay_out
from mql4grec.decoding.filters import Filters
from mql4grec.decoding.gates import Gate, lay_out_filters
from mql4grec.decoding.graphs import Graphs
from mql4grec.decoding.network import Network
from mql4grec.decoding.progress import PARTIAL, Progress, begin, keeping, mark_of, resume
from mql4grec.decoding.rankings import Rankings
from mql4grec.decoding.t5 import lay_out_t5
from mql4grec.decoding.trie import ItemTrie, first_codes
from mql4grec.language import Vocabulary
from mql4grec.recommender.causal import CausalModel
from mql4grec.runtime import SILENT, Journal, Runtime

BeamCount = int | Literal["all"]
MEMORY = 2 << 30  # bytes that the keys and values of one batch's beams may take
ROWS = 4096  # prefixes scored at once on a CPU, whose caches hold no more


@dataclass(frozen=True)
class Search:
    """How to search.

    Attributes:
        normalise: "vocabulary", "level" or "children": among which tokens a T5's code has its
            probability; see `Target`.
        top_k: Items per user; None: as many as beams.
        exact: Search again, with twice the beams, for those users whose best items are not certain,
            until all are.
        graphs: On a CUDA device, launch the kernels of a batch together, as a graph; not with
            filters, whose shapes differ from batch to batch.
    """

    normalise: Normalise = "vocabulary"
    top_k: int | None = None
    exact: bool = False
    graphs: bool = False


def recommend(
    model: T5ForConditionalGeneration | CausalModel,
    trie: ItemTrie,
    *,
    vocabulary: Vocabulary,
    modality: Modality,
    inputs: tuple[ArrayLike, ArrayLike],
    n_beams: BeamCount = 50,
    batch_size: int = 64,
    search: Search | None = None,
    filters: Filters | None = None,
    folder: Path | None = None,
    runtime: Runtime | None = None,
    journal: Journal = SILENT,
) -> Rankings:
    """Rank items for every user by beam search, constrained to the trie.

    Nothing but items of the trie comes out, and each at most once per user. A score is the sum of
    the log-probabilities of the L codes and eos. A T5's are normalised over the whole vocabulary
    (or the level), not over what the trie allows: they are what the model gives, whatever the
    catalog; a decoder-only model's over the codes that items of the trie go on with, as it has
    learnt them. All sequences are equally long, so there is no length penalty.

    Args:
        model: T5ForConditionalGeneration, or a decoder-only model; moved to the device and set to
            evaluation mode.
        trie: Of the items that may come out.
        vocabulary: Of the model.
        modality: Whose codes are written.
        inputs: Token ids and attention mask of the users' histories, int64 (U, T) each.
        n_beams: M, hypotheses kept, and items ranked, per user; "all" scores every item, which
            takes as long as N / 4 beams and more.
        batch_size: Users decoded at once, fewer where their beams would take too much memory.
        search: How to search; as `Search()` if None.
        filters: Which items each of the U users may get; all if None.
        folder: Where finished users are kept while the call runs, so that an interrupted one goes
            on; what a call with other inputs left there is not used, but a change of the model's
            weights is not noticed. None: nowhere.
        runtime: Device, precision, and the most seconds between two checkpoints.
        journal: Shows the progress.

    Returns:
        Items (U, k), in the order of `inputs`; lists are shorter, padded by -1, where the trie and
        the filters leave fewer than k items. `certified` tells whose lists are exact: scores only
        fall along a path, so they are if the last one is at least the best that was dropped.

    Raises:
        ValueError: If vocabulary, trie and filters do not fit, or a value is out of range.
    """
    runtime, search = runtime or Runtime(), search or Search()
    beams = max(1, trie.n_items) if n_beams == "all" else n_beams
    top_k = beams if search.top_k is None else search.top_k
    _check(beams=beams, batch_size=batch_size, top_k=top_k)
    device = runtime.torch_device
    input_ids, attention_mask = (torch.as_tensor(part) for part in inputs)
    gate = None
    if filters is not None:
        gate = lay_out_filters(filters, trie, n_users=len(input_ids), device=device)
    plan = Plan(
        network=_lay_out(model.train(False).to(device), dtype=_dtype(runtime)),
        target=Target(
            trie=lay_out(trie, device=device),
            first_code=first_codes(trie, vocabulary, modality=modality),
            start=vocabulary.pad,
            eos=vocabulary.eos,
            # A decoder-only model has learnt no end, and each code among those that can follow.
            normalise="children" if isinstance(model, CausalModel) else search.normalise,
        ),
        input_ids=input_ids,
        attention_mask=attention_mask,
        gate=gate,
        batch_size=batch_size,
        graphs=search.graphs and gate is None and device.type == "cuda",
    )
    # Users of like length share a batch, so that little of it is padding.
    users = np.argsort(attention_mask.sum(dim=1).numpy(), kind="stable")
    mark = mark_of(input_ids, attention_mask, trie.rows, filters, modality, n_beams, search)
    progress = folder and resume(folder, mark, device=device)
    progress = progress or begin(users, top_k=top_k, n_beams=beams, device=device)
    keep = keeping(folder, mark, seconds=runtime.checkpoint_seconds)
    progress = _run(plan, progress, keep=keep, journal=journal)
    while search.exact and len((later := progress.next_round(2 * progress.n_beams)).todo):
        progress = _run(plan, later, keep=keep, journal=journal)
    if folder is not None:
        (folder / PARTIAL).unlink(missing_ok=True)
    return progress.rankings()


@dataclass(frozen=True)
class Plan:
    """What to search in, and for whom.

    Attributes:
        network: The model.
        target: How an item is spelt.
        input_ids: int64 (U, T), on the host.
        attention_mask: int64 (U, T), on the host.
        gate: The filters.
        batch_size: Users at once.
        graphs: Whether batches are searched by CUDA graphs.
    """

    network: Network
    target: Target
    input_ids: Tensor
    attention_mask: Tensor
    gate: Gate | None
    batch_size: int
    graphs: bool

    def n_rows(self) -> int:
        """Tell how many beams, of all users of a batch together, fit in `MEMORY`."""
        numbers = self.network.n_kept * (len(self.target.first_code) + 1)
        size = torch.finfo(self.network.dtype).bits // 8
        return max(1, MEMORY // (numbers * size + 4 * len(self.network.embedding)))

    def find(
        self, users: NDArray[np.int64], *, n_beams: int, top_k: int, graphs: Graphs | None
    ) -> Found:
        """Find the best items of some users; score all where there are no more than beams."""
        tokens, mask = self.input_ids[users], self.attention_mask[users]
        used = int(np.flatnonzero(mask.numpy().any(axis=0)).max(initial=0)) + 1
        device = self.target.trie.device
        arguments = {
            "input_ids": _upload(tokens[:, :used], device),
            "attention_mask": _upload(mask[:, :used], device),
        }
        if graphs is not None:
            return graphs(**arguments)
        open_leaves = None if self.gate is None else self.gate.of(users)
        if n_beams < self.target.trie.n_items:
            return beam_search(
                self.network, self.target, n_beams=n_beams, open_leaves=open_leaves, **arguments
            )
        n_rows = min(self.n_rows(), ROWS) if device.type == "cpu" else self.n_rows()
        scores = score_items(self.network, self.target, n_rows=n_rows, **arguments)
        return best_of_all(self.target.trie, scores, top_k=top_k, open_leaves=open_leaves)


def _run(
    plan: Plan, progress: Progress, *, keep: Callable[[Progress], None], journal: Journal
) -> Progress:
    """Finish a round: search for the users that it has left."""
    users, n_beams, top_k = progress.todo, progress.n_beams, progress.items.shape[1]
    size = plan.batch_size
    if n_beams < plan.target.trie.n_items:
        size = min(size, max(1, plan.n_rows() // n_beams))
    graphs = None
    if plan.graphs and n_beams < plan.target.trie.n_items:
        graphs = Graphs(partial(beam_search, plan.network, plan.target, n_beams=n_beams))
    label = f"recommend, {n_beams} beams"
    with journal.track(label, total=len(users), done=progress.done) as advance:
        for start in range(progress.done, len(users), size):
            batch = users[start : start + size]
            found = plan.find(batch, n_beams=n_beams, top_k=top_k, graphs=graphs)
            progress = progress.with_batch(batch, found)
            keep(progress)
            advance(len(batch))
    return progress


def _lay_out(model: T5ForConditionalGeneration | CausalModel, *, dtype: torch.dtype) -> Network:
    if isinstance(model, CausalModel):
        return lay_out_causal(model, dtype=dtype)
    return lay_out_t5(model, dtype=dtype)


def _check(*, beams: int, batch_size: int, top_k: int) -> None:
    if beams < 1 or batch_size < 1:
        raise ValueError(
            "`n_beams`, `batch_size`: expected at least 1, "
            f"got {beams} and {batch_size}; change them"
        )
    if not 1 <= top_k <= beams:
        raise ValueError(
            f"`top_k`: expected 1 to the {beams} beams, got {top_k}; search with more beams"
        )


def _upload(rows: Tensor, device: torch.device) -> Tensor:
    """Copy rows to the device; the host goes on at once only from pinned memory."""
    return (rows.pin_memory() if device.type == "cuda" else rows).to(device, non_blocking=True)


def _dtype(runtime: Runtime) -> torch.dtype:
    return torch.bfloat16 if runtime.precision == "bf16" else torch.float32
