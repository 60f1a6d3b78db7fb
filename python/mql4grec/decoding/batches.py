"""Rankings of many users: batches of like length, progress, and going on after an interruption."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from transformers import T5ForConditionalGeneration

from mql4grec.artifacts import atomic_path
from mql4grec.config import Modality
from mql4grec.decoding.beams import Target, beam_search
from mql4grec.decoding.rankings import Rankings
from mql4grec.decoding.trie import ItemTrie, first_codes
from mql4grec.language import Vocabulary
from mql4grec.runtime import SILENT, Journal, Runtime

PARTIAL = "partial.npz"


def recommend(
    model: T5ForConditionalGeneration,
    trie: ItemTrie,
    *,
    vocabulary: Vocabulary,
    modality: Modality,
    inputs: tuple[ArrayLike, ArrayLike],
    n_beams: int = 20,
    batch_size: int = 64,
    folder: Path | None = None,
    runtime: Runtime | None = None,
    journal: Journal = SILENT,
) -> Rankings:
    """Rank items for every user by beam search, constrained to the trie.

    Nothing but items of the trie comes out, and each at most once per user. A score is the sum of
    the log-probabilities of the L codes and eos, each normalised over the whole vocabulary, not
    over what the trie allows: it is what the model gives, whatever the catalog. All sequences are
    equally long, so there is no length penalty.

    Args:
        model: T5ForConditionalGeneration; moved to the device and set to evaluation mode.
        trie: Of the items that may come out.
        vocabulary: Of the model.
        modality: Whose codes are written.
        inputs: Token ids and attention mask of the users' histories, int64 (U, T) each.
        n_beams: M, hypotheses kept, and items ranked, per user.
        batch_size: Users decoded at once.
        folder: Where finished users are kept while the call runs, so that an interrupted one goes
            on; what a call with other inputs left there is not used, but a change of the model's
            weights is not noticed. None: nowhere.
        runtime: Device, precision, and the most seconds between two checkpoints.
        journal: Shows the progress.

    Returns:
        Items (U, M), in the order of `inputs`; lists are shorter, padded by -1, where the trie has
        fewer than M items.

    Raises:
        ValueError: If vocabulary and trie do not fit, or a value is out of range.
    """
    if n_beams < 1 or batch_size < 1:
        raise ValueError(
            "`n_beams`, `batch_size`: expected at least 1, "
            f"got {n_beams} and {batch_size}; change them"
        )
    runtime = runtime or Runtime()
    target = Target(
        trie=trie,
        first_code=first_codes(trie, vocabulary, modality=modality),
        start=vocabulary.pad,
        eos=vocabulary.eos,
    )
    model.train(False).to(runtime.torch_device)
    input_ids, attention_mask = (torch.as_tensor(part) for part in inputs)
    # Users of like length share a batch, so that little of it is padding.
    users = np.argsort(attention_mask.sum(dim=1).numpy(), kind="stable")
    mark = _mark(input_ids, attention_mask, trie=trie, modality=modality)
    done, best = _resume(folder, mark, shape=(len(users), n_beams))
    saved = time.monotonic()
    with journal.track(f"recommend {modality}", total=len(users), done=done) as advance:
        for start in range(done, len(users), batch_size):
            batch = users[start : start + batch_size]
            used = slice(0, int(attention_mask[batch].any(dim=0).nonzero().max()) + 1)
            items, scores = _search(
                model,
                target,
                inputs=(input_ids[batch, used], attention_mask[batch, used]),
                n_beams=n_beams,
                runtime=runtime,
            )
            best.items[batch, : items.shape[1]] = items
            best.scores[batch, : items.shape[1]] = scores
            if folder is not None and time.monotonic() - saved > runtime.checkpoint_seconds:
                _save(folder, mark, done=start + len(batch), best=best)
                saved = time.monotonic()
            advance(len(batch))
    if folder is not None:
        (folder / PARTIAL).unlink(missing_ok=True)
    return best


def _search(
    model: T5ForConditionalGeneration,
    target: Target,
    *,
    inputs: tuple[Tensor, Tensor],
    n_beams: int,
    runtime: Runtime,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    device = runtime.torch_device
    half = runtime.precision == "bf16"
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
        input_ids, attention_mask = (part.to(device) for part in inputs)
        return beam_search(
            model, target, input_ids=input_ids, attention_mask=attention_mask, n_beams=n_beams
        )


def _mark(input_ids: Tensor, attention_mask: Tensor, *, trie: ItemTrie, modality: str) -> str:
    """Tell calls apart by what they rank from; the caller answers for the model being the same."""
    digest = hashlib.blake2b(f"{modality} {trie.n_codes}".encode(), digest_size=16)
    for part in (input_ids.numpy(), attention_mask.numpy(), trie.rows):
        digest.update(part.tobytes())
    return digest.hexdigest()


def _resume(folder: Path | None, mark: str, *, shape: tuple[int, int]) -> tuple[int, Rankings]:
    """Give the number of users that an interrupted call has finished, and their rankings."""
    if folder is not None and (folder / PARTIAL).exists():
        with np.load(folder / PARTIAL) as partial:
            if str(partial["mark"]) == mark and partial["items"].shape == shape:
                found = Rankings(items=partial["items"], scores=partial["scores"])
                return int(partial["done"]), found
    return 0, Rankings(
        items=np.full(shape, -1, np.int32), scores=np.full(shape, -np.inf, np.float32)
    )


def _save(folder: Path, mark: str, *, done: int, best: Rankings) -> None:
    with atomic_path(folder / PARTIAL) as path:
        np.savez(path, mark=mark, done=done, items=best.items, scores=best.scores)
