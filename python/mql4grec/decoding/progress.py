"""How far a call has come, kept on the device and now and then on disk."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mql4grec.artifacts import atomic_path, load_arrays
from mql4grec.decoding.beams import Found
from mql4grec.decoding.rankings import Rankings

PARTIAL = "partial.npz"


@dataclass(frozen=True)
class Progress:
    """What has been found for U users so far.

    Attributes:
        items: int32 (U, k), -1 where nothing is known yet.
        scores: float32 (U, k).
        certified: bool (U).
        n_beams: Of this round; a later one has more.
        todo: The users of this round, in their order, int64.
        done: How many of them are done.
    """

    items: Tensor
    scores: Tensor
    certified: Tensor
    n_beams: int
    todo: NDArray[np.int64]
    done: int = 0

    def with_batch(self, users: NDArray[np.int64], found: Found) -> Progress:
        """Write down what was found for the next users; nothing waits for the device."""
        rows = torch.from_numpy(users).to(self.items.device)
        width = min(found.items.shape[1], self.items.shape[1])
        items, scores = self.items[rows], self.scores[rows]  # copies
        items[:, :width] = found.items[:, :width]
        scores[:, :width] = found.scores[:, :width]
        self.items[rows], self.scores[rows] = items, scores
        self.certified[rows] = scores[:, -1] >= found.bound
        return replace(self, done=self.done + len(users))

    def next_round(self, n_beams: int) -> Progress:
        """Start again for the users whose lists are not certain, with other beams."""
        certified = self.certified.cpu().numpy()
        return replace(self, n_beams=n_beams, todo=self.todo[~certified[self.todo]], done=0)

    def rankings(self) -> Rankings:
        """Give what was found."""
        return Rankings(
            items=self.items.cpu().numpy(),
            scores=self.scores.cpu().numpy(),
            certified=self.certified.cpu().numpy(),
        )


def begin(users: NDArray[np.int64], *, top_k: int, n_beams: int, device: torch.device) -> Progress:
    """Start with nothing known."""
    shape = (len(users), top_k)
    return Progress(
        items=torch.full(shape, -1, dtype=torch.int32, device=device),
        scores=torch.full(shape, -torch.inf, device=device),
        certified=torch.zeros(len(users), dtype=torch.bool, device=device),
        n_beams=n_beams,
        todo=users,
    )


def resume(folder: Path, mark: str, *, device: torch.device) -> Progress | None:
    """Give what an interrupted call of the same mark has left, if any."""
    path = folder / PARTIAL
    if not path.exists():
        return None
    names = ("items", "scores", "certified")
    partial = load_arrays(path, "mark", "n_beams", "todo", "done", *names, made_by="evaluate")
    if str(partial["mark"]) != mark:
        return None
    items, scores, certified = (torch.from_numpy(partial[name]).to(device) for name in names)
    return Progress(
        items=items,
        scores=scores,
        certified=certified,
        n_beams=int(partial["n_beams"]),
        todo=partial["todo"],
        done=int(partial["done"]),
    )


def save(folder: Path, mark: str, progress: Progress) -> None:
    """Keep what has been found so far."""
    found = progress.rankings()
    with atomic_path(folder / PARTIAL) as path:
        np.savez(
            path,
            mark=mark,
            items=found.items,
            scores=found.scores,
            certified=progress.certified.cpu().numpy(),
            n_beams=progress.n_beams,
            todo=progress.todo,
            done=progress.done,
        )


def keeping(folder: Path | None, mark: str, *, seconds: float) -> Callable[[Progress], None]:
    """Make what saves the progress it is given, if the last time is more than `seconds` ago."""
    saved = time.monotonic()

    def keep(progress: Progress) -> None:
        nonlocal saved
        if folder is not None and time.monotonic() - saved > seconds:
            save(folder, mark, progress)
            saved = time.monotonic()

    return keep


def mark_of(*parts: object) -> str:
    """Tell calls apart by what they rank from; the caller answers for the model being the same.

    Args:
        parts: Arrays, tensors, records of them, and what `str` tells all of.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        for piece in _pieces(part):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(part: object) -> Iterator[bytes]:
    if isinstance(part, Tensor):
        part = part.numpy()
    if isinstance(part, np.ndarray):
        yield f"{part.dtype} {part.shape}".encode()
        yield part.tobytes()
    elif is_dataclass(part):
        for field in fields(part):
            yield from _pieces(getattr(part, field.name))
    else:
        yield f"{part};".encode()
