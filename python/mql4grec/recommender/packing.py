"""A batch for the T5 as one row of tokens, without padding.

Sequences that are as long as each other lie side by side, so that attention can look at a group of
them as one array; everything else of a T5 looks at tokens alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mql4grec.language import IGNORED, Batch


@dataclass(frozen=True)
class Group:
    """Samples of the same lengths.

    Attributes:
        n: How many.
        n_read: Tokens of each input.
        n_written: Tokens of each target.
    """

    n: int
    n_read: int
    n_written: int


@dataclass(frozen=True)
class Packed:
    """B samples with T input tokens and S target tokens in all.

    Attributes:
        inputs: int64 (T,), the samples one after the other.
        before: int64 (S,), what the decoder reads: the start, and the target but for its last.
        labels: int64 (S,).
        groups: Of samples with the same lengths, in order.
        written: Number and length of targets that lie side by side and are as long as each other.
        open: Tokens among which each label has its probability, bool (S, V). None: not told.
        padding: 0 on a token and the least number on padding, float32 (B, 1, 1, n_read), where all
            samples are one group and were padded for that. None: there is no padding.
    """

    inputs: Tensor
    before: Tensor
    labels: Tensor
    groups: tuple[Group, ...]
    written: tuple[tuple[int, int], ...]
    open: Tensor | None = None
    padding: Tensor | None = None


def pack(
    batch: Batch,
    *,
    start: int,
    device: torch.device,
    keep_padding: bool,
    is_open: NDArray[np.bool_] | None = None,
) -> Packed:
    """Take the padding out of a batch and put it on a device.

    Args:
        batch: B samples, of which every target is tokens first, then `IGNORED`.
        start: The token that every target starts from, which is also the padding.
        device: Where the T5 is.
        keep_padding: For a GPU, where attention's kernels, launched for every group, would take
            longer than a little padding.
        is_open: bool (B, L+1, V), the tokens among which each label has its probability.
    """
    if keep_padding:
        return _padded(batch, start=start, device=device, is_open=is_open)
    n_read, n_written = batch.attention_mask.sum(axis=1), (batch.labels != IGNORED).sum(axis=1)
    order = np.lexsort((n_written, -n_read))
    labels, written = batch.labels[order], batch.labels[order] != IGNORED
    lengths = zip(n_read[order].tolist(), n_written[order].tolist(), strict=True)
    runs = groupby(n_written[order].tolist())
    return Packed(
        inputs=_put(batch.input_ids[order][batch.attention_mask[order] == 1], device),
        before=_put(_shift(labels, start=start)[written], device),
        labels=_put(labels[written], device),
        groups=tuple(Group(len([*same]), *each) for each, same in groupby(lengths)),
        written=tuple((len([*same]), length) for length, same in runs),
        open=None if is_open is None else torch.from_numpy(is_open[order][written]).to(device),
    )


def _padded(
    batch: Batch, *, start: int, device: torch.device, is_open: NDArray[np.bool_] | None
) -> Packed:
    """Put a batch on a device as it is."""
    mask = batch.attention_mask
    padding = np.where(mask == 0, np.finfo(np.float32).min, np.float32(0))
    before = np.where(batch.labels == IGNORED, start, _shift(batch.labels, start=start))
    return Packed(
        inputs=_put(batch.input_ids.ravel(), device),
        before=_put(before.ravel(), device),
        labels=_put(batch.labels.ravel(), device),
        groups=(Group(len(mask), mask.shape[1], batch.labels.shape[1]),),
        written=(batch.labels.shape,),
        open=None if is_open is None else torch.from_numpy(is_open).flatten(0, 1).to(device),
        padding=torch.from_numpy(padding[:, None, None, :]).to(device),
    )


def _put(tokens: NDArray[np.int64], device: torch.device) -> Tensor:
    return torch.from_numpy(tokens).to(device)


def _shift(labels: NDArray[np.int64], *, start: int) -> NDArray[np.int64]:
    """Give what precedes each label, (B, L+1)."""
    return np.concatenate([np.full_like(labels[:, :1], start), labels[:, :-1]], axis=1)
