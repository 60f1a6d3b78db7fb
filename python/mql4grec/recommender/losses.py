"""The loss of a micro-batch, and of all validation samples."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mql4grec import language
from mql4grec.language import Samples, Windows
from mql4grec.recommender import causal
from mql4grec.recommender.causal import CausalModel
from mql4grec.recommender.choices import list_choices
from mql4grec.recommender.dropout import Dropout, make_dropout
from mql4grec.recommender.epochs import Epoch
from mql4grec.recommender.layout import Network, lay_out, multiplying_pays
from mql4grec.recommender.loop import Loop
from mql4grec.recommender.network import summed_loss
from mql4grec.recommender.packing import pack

VALIDATED = 1024  # samples that a GPU validates together, if eight forward passes have as many


def lay_out_for(loop: Loop, epoch: Epoch) -> Network | None:
    """Lay a T5's weights out for all samples of an epoch."""
    if isinstance(loop.model, CausalModel):
        return None
    longest = int(epoch.input_lengths.max()), int(epoch.target_lengths.max())
    return lay_out(
        loop.model,
        n_read=longest[0],
        n_written=longest[1],
        multiply_out=not loop.keeps_padding and multiplying_pays(loop.model),
    )


def loss_of(
    loop: Loop,
    network: Network | None,
    epoch: Epoch,
    rows: NDArray[np.int64],
    *,
    seed: int | None = None,
) -> Tensor:
    """Give the summed loss of one micro-batch.

    Args:
        loop: The training.
        network: The T5, laid out.
        epoch: That the rows are of.
        rows: int64 (B,), of its samples.
        seed: Of dropout; None: nothing is dropped.
    """
    device, config = loop.model.device, loop.model.config
    dropout = None
    if seed is not None:
        dropout = make_dropout(config.dropout_rate, seed=seed, device=device)
    if isinstance(loop.model, CausalModel):
        return _causal_loss(loop, loop.model, epoch, rows, dropout=dropout, seed=seed)
    assert network is not None
    assert isinstance(epoch.samples, Samples)
    batch, is_open = language.encode(loop.corpus, epoch.samples, rows), None
    if loop.settings.loss_over == "children":
        width = batch.labels.shape[1]
        is_open = language.open_tokens(loop.corpus, epoch.samples, rows, loop.branches, width=width)
    packed = pack(
        batch,
        start=loop.model.config.decoder_start_token_id,
        device=device,
        keep_padding=loop.keeps_padding,
        is_open=is_open,
    )
    return summed_loss(network, packed, dropout=dropout, rivals=loop.rivals)


@torch.no_grad()
def validation_loss(loop: Loop) -> float:
    """Give the mean loss per target token of the validation samples."""
    network = lay_out_for(loop, loop.validation)
    network = network and network.cast(loop.dtype)
    rank, n_processes = loop.processes.process_index, loop.processes.num_processes
    size = loop.settings.micro_batch_size
    at_least = min(VALIDATED, 8 * size) if loop.keeps_padding else 1  # less memory for a small size
    micro_batches = loop.cut(loop.validation, loop.validation.order, at_least=at_least)
    summed = torch.zeros((), dtype=torch.float64, device=loop.model.device)
    for rows in micro_batches[rank::n_processes]:
        summed += loss_of(loop, network, loop.validation, rows)
    (total,) = loop.total(summed.item())
    return total / max(int(loop.validation.target_lengths[loop.validation.order].sum()), 1)


def _causal_loss(
    loop: Loop,
    model: CausalModel,
    epoch: Epoch,
    rows: NDArray[np.int64],
    *,
    dropout: Dropout | None,
    seed: int | None,
) -> Tensor:
    """Give the summed loss of some windows.

    In training a teacher has a share in every answer but those to a user's first item, and all of
    what could follow each window's end.
    """
    assert isinstance(epoch.samples, Windows)
    assert epoch.n_answered is not None
    windows, teacher = epoch.samples, None if seed is None else loop.teacher
    n_open = 0 if teacher is None else 1
    lengths = windows.lengths[rows] + n_open
    read = np.full_like(lengths, lengths.max()) if loop.keeps_padding else lengths
    events = windows.events(rows, n_beyond=read - windows.lengths[rows])
    ends = np.cumsum(read) - read + lengths
    left = np.repeat(ends, read) - np.arange(len(events))  # 1 of the last place, less of padding
    items = windows.items[np.minimum(events, len(windows.items) - 1)]
    items = targets = np.where(left > n_open, items, -1)  # an open place has padding
    asked = (left > 0) & (left <= np.repeat(epoch.n_answered[rows] + n_open, read))
    answers, shares = items[:, None], asked[:, None].astype(np.float32)
    if teacher is not None:
        assert seed is not None
        before = np.clip(events - 1, 0, len(teacher.items) - 1)
        generator = np.random.default_rng(seed)
        drawn = teacher.draw(before, generator)
        taught = np.where(left == 1, 1.0, teacher.share)
        taught *= (drawn >= 0) & (left < np.repeat(lengths, read))  # a first item follows none
        targets = np.where(generator.random(len(drawn)) < taught, drawn, items)
        answers = np.hstack([answers, teacher.items[before]])
        taught = taught[:, None].astype(np.float32)
        shares = shares * np.hstack([1 - taught, taught * teacher.shares[before]])
    choices = list_choices(
        model.config, loop.words, loop.branches, targets=targets, answers=answers, shares=shares
    )
    with torch.autocast(
        model.device.type, torch.bfloat16, enabled=loop.runtime.precision == "bf16"
    ):
        return causal.summed_loss(
            model,
            torch.from_numpy(loop.words[items]).to(model.device),
            read.tolist(),
            torch.from_numpy(loop.words[targets]).to(model.device),
            choices,
            dropout=dropout,
        )
