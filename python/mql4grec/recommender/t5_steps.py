"""Optimizer steps of a T5 on a GPU, as graphs.

A graph has fixed shapes and addresses. A micro-batch's samples lie in bins as wide as the longest
input, of which one in sixteen at most is empty, so that their number is one of few. (Attention
looks at whole bins: a few histories of many hundred tokens make that much work for all.) Batches
are made on the device: the host only says where which sample lies. The weights are laid out and
cast once a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import T5ForConditionalGeneration

from mql4grec import language
from mql4grec.errors import ConfigError
from mql4grec.language import Corpus
from mql4grec.recommender.binned import Pieces, summed_loss
from mql4grec.recommender.bins import DeviceSamples, aligned, fill_bins, make_batch
from mql4grec.recommender.dropout import HashedDropout
from mql4grec.recommender.epochs import Epoch
from mql4grec.recommender.graphs import GraphSteps, Recordings
from mql4grec.recommender.layout import Network, lay_out, multiplying_pays

ROOM = 1.25  # slots of a bin, beside the samples that it holds on average
MOST_SCORES = 2**31  # of attention in a pass: places that are hashed are int32


class T5Steps(GraphSteps):
    """The losses and gradients of optimizer steps."""

    sorts = False  # bins are filled best by samples of many lengths

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        samples: DeviceSamples,
        *,
        n_read: int,
        dtype: torch.dtype,
        pieces: Pieces,
        recordings: Recordings,
        rivals: Tensor | None = None,
    ) -> None:
        """Compile and record nothing yet.

        Args:
            model: On its device, with the dropout of its config.
            samples: On the same.
            n_read: Tokens of the longest input of any epoch.
            dtype: Of the matrix products.
            pieces: Of the pass, compiled or not.
            recordings: Where work goes.
            rivals: As in `network.summed_loss`.
        """
        super().__init__(model, recordings)
        self._model, self._samples, self._pieces, self._rivals = model, samples, pieces, rivals
        rate = model.config.dropout_rate
        self._dropout = HashedDropout(rate) if rate else None
        self._width = aligned(n_read)
        self._lengths = _input_lengths(samples.spans[:-1].cpu().numpy())
        fit = self._width / float(self._lengths.mean())  # samples that a bin holds on average
        n_slots = max(round(ROOM * fit), 1)
        self._n_slots = aligned(n_slots * samples.n_written) // samples.n_written
        self._laid_out: list[Tensor] = []  # of the step that has begun
        with torch.no_grad():
            laid_out = self._lay_out()
            # One array for all, which a kernel or two change together; and the same rounded.
            self._weights = _join(laid_out.tensors())
        self._rounded = self._weights.to(dtype)
        self._sums = torch.zeros_like(self._weights)
        self._network = self._views(laid_out)

    def draw(self, corpus: Corpus, epoch: Epoch) -> None:
        """Go on with the samples of another epoch, as many as before."""
        assert isinstance(epoch.samples, language.Samples)
        spans = language.find_spans(corpus, epoch.samples, self._samples.stream)
        self._samples.spans[:-1].copy_(torch.from_numpy(spans))
        self._lengths = _input_lengths(spans)

    def begin(self) -> None:
        """Begin an optimizer step."""
        self._recordings.do("begin", self._begin)

    def add(self, rows: NDArray[np.int64], *, seed: int) -> None:
        """Add a micro-batch in bins, of which some more are empty.

        Raises:
            ConfigError: If there are too many for one pass.
        """
        bins = fill_bins(self._lengths[rows], width=self._width, n_slots=self._n_slots)
        bins[..., 0] = np.where(bins[..., 0] < 0, -1, rows[bins[..., 0]])
        filled = torch.full((_of_few(len(bins)), *bins.shape[1:]), -1)
        filled[..., 1] = 0
        filled[: len(bins)] = torch.from_numpy(bins)
        n_scores = len(filled) * self._network.n_heads * self._width**2
        if n_scores >= MOST_SCORES:
            raise ConfigError(
                f"`micro_batch_size`: with `graphs` expected as many samples as have fewer than "
                f"2^31 scores of attention, got {len(rows)} with {n_scores}; set it to "
                f"{max(len(rows) * MOST_SCORES // (2 * n_scores), 1)}"
            )
        self._do_pass(filled, self._width, seed=seed)

    def _gather(self) -> None:
        self._recordings.do("finish", self._finish)

    def _begin(self) -> None:
        self._laid_out = []  # first, since autograd would go on where that was laid out
        self._laid_out = self._lay_out().tensors()
        with torch.no_grad():
            _join(self._laid_out, out=self._weights)
            self._rounded.copy_(self._weights)
            self._sums.zero_()
            self._loss.zero_()

    def _pass(self, n: int, width: int) -> None:
        loss = summed_loss(
            self._network,
            make_batch(self._samples, self._rows[n, width], width=width, place=self._pieces.place),
            n_written=self._samples.n_written,
            dropout=self._dropout,
            rivals=self._rivals,
            pieces=self._pieces,
        )
        gradients = torch.autograd.grad(loss, self._network.tensors())
        first = 0
        for _, alike in groupby(gradients, key=lambda each: each.dtype):
            found = _join([*alike])
            self._sums[first : first + len(found)].add_(found)
            first += len(found)
        self._loss.add_(loss.detach())

    def _finish(self) -> None:
        """Let gradients find their way back through the layout that the step began with."""
        self._sums.div_(self._n_tokens)
        sums = _take_apart(self._sums, like=self._laid_out)
        found = torch.autograd.grad(self._laid_out, self._parameters, sums, retain_graph=True)
        torch._foreach_copy_(self._gradients, found)

    def _views(self, laid_out: Network) -> Network:
        """Give the network that passes use: parts of `_weights` and `_rounded`."""
        own = laid_out.tensors()
        exact, rounded = (_take_apart(each, like=own) for each in (self._weights, self._rounded))
        parts = zip(exact, rounded, strict=True)

        def view(tensor: Tensor, *, is_rounded: bool) -> Tensor:
            return next(parts)[is_rounded].detach().requires_grad_()

        return laid_out.change(view)

    def _lay_out(self) -> Network:
        """Lay the weights out, the head with some rows of no token."""
        laid_out = lay_out(
            self._model,
            n_read=self._width,
            n_written=self._samples.n_written,
            multiply_out=multiplying_pays(self._model),
        )
        head = laid_out.head
        rest = aligned(len(head)) - len(head)
        return replace(laid_out, head=functional.pad(head, (0, 0, 0, rest)))


def _input_lengths(spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the tokens of inputs (S), with their prompt and end."""
    found: NDArray[np.int64] = spans[:, 1] + spans[:, 3] + 1
    return found


def _of_few(n: int) -> int:
    """Give a number of n or more, by a sixteenth at most, that others near n are filled up to."""
    step = max((1 << n.bit_length()) // 32, 1)
    return -(-n // step) * step


def _join(tensors: Sequence[Tensor], *, out: Tensor | None = None) -> Tensor:
    """Lay tensors one after the other; all begin where the fast kernels want matrices to begin."""
    rows = [each.flatten() for each in tensors]
    rests = [aligned(len(row)) - len(row) for row in rows]
    filled = [
        functional.pad(row, (0, rest)) if rest else row
        for row, rest in zip(rows, rests, strict=True)
    ]
    return torch.cat(filled, out=out)


def _take_apart(joined: Tensor, *, like: Sequence[Tensor]) -> list[Tensor]:
    """Give views of what `_join` has laid one after the other."""
    parts = joined.split([aligned(each.numel()) for each in like])
    return [part[: each.numel()].view_as(each) for part, each in zip(parts, like, strict=True)]
