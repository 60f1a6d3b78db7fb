"""Samples one after the other in bins of a fixed width, so that a GPU passes them all at once.

Inputs are of many lengths, and a graph has fixed shapes. Filled up to the longest, most of a batch
would be padding; cut by length, every step would be several passes of small kernels. Bins hold
hardly any padding, and their number is nearly the same for every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mql4grec import language
from mql4grec.config import Task
from mql4grec.language import IGNORED, Corpus, Stream


def fill_bins(lengths: NDArray[np.int64], *, width: int, n_slots: int) -> NDArray[np.int64]:
    """Put samples into bins: the longest ones first, and the shortest into what they leave.

    Args:
        lengths: int64 (B,), from 1 to `width`.
        width: Of a bin, in tokens.
        n_slots: Samples that a bin holds at most.

    Returns:
        int64 (R, n_slots, 2): which sample is in each slot of each bin, and at which token it
        begins; -1 and `width` where a slot is empty. The first slot of a bin is not.
    """
    assert lengths.max(initial=0) <= width
    order = np.argsort(-lengths, kind="stable")
    sizes, first, last = lengths[order].tolist(), 0, len(order) - 1
    places, taken, begins, n_bins = [], [], [], 0
    while first <= last:
        used = slot = 0
        while first <= last and slot < n_slots and used + sizes[last] <= width:
            fits = used + sizes[first] <= width
            which, first, last = (first, first + 1, last) if fits else (last, first, last - 1)
            places.append(n_bins * n_slots + slot)
            taken.append(which)
            begins.append(used)
            used, slot = used + sizes[which], slot + 1
        n_bins += 1
    bins = np.empty((n_bins * n_slots, 2), np.int64)
    bins[:] = -1, width
    bins[places, 0], bins[places, 1] = order[taken], begins
    return bins.reshape(n_bins, n_slots, 2)


@dataclass(frozen=True)
class Binned:
    """A batch in R bins, each with W tokens of inputs and S of targets.

    Attributes:
        inputs: int64 (R, W).
        slots: Which slot of its bin each of these tokens is of, int32 (R, W); on padding `n_slots`,
            which none is.
        before: What the decoder reads, int64 (R, S): each slot has as many tokens as the longest
            target, and a few after the last slot, up to a multiple of eight, are of none.
        labels: int64 (R, S), `IGNORED` where nothing counts.
    """

    inputs: Tensor
    slots: Tensor
    before: Tensor
    labels: Tensor


@dataclass(frozen=True)
class DeviceSamples:
    """Samples on a device.

    Attributes:
        stream: What they are parts of.
        tokens: Its tokens, int32 (N,).
        spans: int64 (S + 1, 6), as `language.find_spans` gives them; the last is of no sample.
        n_written: Tokens of the longest target.
        pad: Token id of padding, which every target starts from.
        eos: Token id of the end.
    """

    stream: Stream
    tokens: Tensor
    spans: Tensor
    n_written: int
    pad: int
    eos: int

    def until(self, n: Tensor, place: Tensor, where: Tensor, *, after: int) -> Tensor:
        """Give the tokens that are before place n, the end there, and `after` behind it."""
        found = self.tokens[where.clamp(0, len(self.tokens) - 1)].long()
        end = torch.where(place == n, self.eos, after)
        return torch.where(place < n, found, end)


def aligned(size: int) -> int:
    """Fill up to a multiple of eight, 16 bytes of bfloat16: sizes and places of fast matrices."""
    return -(-size // 8) * 8


def place_samples(
    samples: DeviceSamples, bins: Tensor, *, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give inputs, slots, what is before and labels, as in `Binned`; arguments as `make_batch`."""
    held, begins = bins.unbind(2)
    n_slots = held.shape[1]
    place = torch.arange(width, device=bins.device)
    slots = (place[None, :, None] >= begins[:, None]).sum(2) - 1  # (R, W)
    place = place - begins.gather(1, slots)  # within its sample
    prompt, n_prompt, read, n, _, _ = samples.spans[held.gather(1, slots)].unbind(2)
    where = torch.where(place < n_prompt, prompt + place, read + place - n_prompt)
    place = place - n_prompt
    inputs = samples.until(n, place, where, after=samples.pad)
    slots = torch.where(place > n, n_slots, slots).int()
    target, n_codes = samples.spans[held][:, :, 4:].unbind(2)
    place = torch.arange(samples.n_written, device=bins.device)
    where = target[:, :, None] + place
    labels = samples.until(n_codes[:, :, None], place, where, after=IGNORED)
    before = functional.pad(labels[:, :, :-1], (1, 0), value=samples.pad)
    before = torch.where(before == IGNORED, samples.pad, before).flatten(1)
    rest = (0, aligned(before.shape[1]) - before.shape[1])
    before = functional.pad(before, rest, value=samples.pad)
    return inputs, slots, before, functional.pad(labels.flatten(1), rest, value=IGNORED)


def make_batch(
    samples: DeviceSamples, bins: Tensor, *, width: int, place: Callable[..., Any] = place_samples
) -> Binned:
    """Make a batch on the device.

    Args:
        samples: Of which some are in bins.
        bins: As `fill_bins` gives them (R, n_slots, 2), or of -1 and 0 where they stand for none.
        width: W.
        place: `place_samples`, compiled or not.
    """
    for each in (bins, samples.tokens, samples.spans):
        any_batch(each)
    return Binned(*place(samples, bins, width=width))


def any_batch(tensor: Tensor) -> Tensor:
    """Let what is compiled for a tensor do for others of another first size, but of no other."""
    torch._dynamo.maybe_mark_dynamic(tensor, 0)
    torch._dynamo.mark_static(tensor, list(range(1, tensor.ndim)))
    return tensor


def put_samples(
    corpus: Corpus, samples: language.Samples, tasks: Sequence[Task], *, device: torch.device
) -> DeviceSamples:
    """Put the samples of an epoch on a device."""
    stream = language.make_stream(corpus, tasks)
    spans = language.find_spans(corpus, samples, stream)
    none = np.full((1, spans.shape[1]), -1)
    return DeviceSamples(
        stream=stream,
        tokens=torch.from_numpy(stream.tokens).to(device),
        spans=torch.from_numpy(np.concatenate([spans, none])).to(device),
        n_written=language.most_tokens(corpus, tasks)[1],
        pad=corpus.vocabulary.pad,
        eos=corpus.vocabulary.eos,
    )
