"""The training loop, and what it leaves.

The loss is cross-entropy among all items. Negatives drawn at random, as published, are cheaper with
very many items, but are known to leave SASRec overconfident and well below what it can do; shops of
up to `max_items` items can have the whole.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from mql4grec import artifacts
from mql4grec.catalog import Histories
from mql4grec.config import SasrecSettings
from mql4grec.errors import ConfigError, DataError
from mql4grec.language import Windows, training_windows
from mql4grec.runtime import SILENT, Journal, Runtime
from mql4grec.sasrec import checkpoint
from mql4grec.sasrec.checkpoint import Position
from mql4grec.sasrec.network import SASRec, summed_loss
from mql4grec.sasrec.passes import cut
from mql4grec.sasrec.ranking import SIZES, WEIGHTS, load, validation_ndcg

HISTORY = "history.json"
SIZE_SETTINGS = ("d_model", "num_heads", "num_layers", "dropout", "max_his_len")
MAX_GRAD_NORM = 5.0
FREE_SETTINGS = {"enabled", "max_items", "max_minutes"}  # they do not change what is computed
START, ORDER, VALIDATION, DROPOUT = range(4)  # what a seed is for


@dataclass(frozen=True)
class Loop:
    """What one training does not change.

    Attributes:
        network: On its device.
        optimizer: Over all its parameters.
        windows: Of the training histories.
        inputs: Of the validation users, their histories without the last two events.
        targets: int32, their last but one event.
        settings: Of this room.
        folder: Where weights, checkpoint and history go.
        runtime: The machine; its seed is the run's.
        journal: Told of every epoch.
        mark: Which training this is.
    """

    network: SASRec
    optimizer: torch.optim.Optimizer
    windows: Windows
    inputs: Histories
    targets: NDArray[np.int32]
    settings: SasrecSettings
    folder: Path
    runtime: Runtime
    journal: Journal
    mark: str

    @property
    def n_steps(self) -> int:
        """Optimizer steps of one epoch; the last one may have fewer windows."""
        return -(-len(self.windows.starts) // self.settings.batch_size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Shuffle the windows for an epoch."""
        generator = np.random.default_rng([self.runtime.seed, ORDER, epoch])
        return generator.permutation(len(self.windows.starts))


def train(
    histories: Histories,
    settings: SasrecSettings,
    *,
    n_items: int,
    folder: Path,
    runtime: Runtime,
    journal: Journal = SILENT,
) -> SASRec:
    """Train on all events but the last two of a user, keep the weights that rank the next best.

    Called again after an interruption it goes on from the last checkpoint; on a CPU with the
    weights that an undisturbed training would have had, to the last bit.

    Args:
        histories: All events of every user. The last one is not looked at; the one before it is
            the validation target.
        settings: Of this room.
        n_items: N.
        folder: Gets `model.safetensors` and `config.json` of the best epoch, `history.json`, and
            while training `checkpoint.safetensors`.
        runtime: The machine; its seed is the run's.
        journal: Told of every epoch.

    Returns:
        The network with the best weights.

    Raises:
        ConfigError: If the loss is no number.
        DataError: If no user has two events to train on, or three to validate on.
        ArtifactError: If `folder` holds another training.
    """
    loop = _prepare(
        histories, settings, n_items=n_items, folder=folder, runtime=runtime, journal=journal
    )
    history = folder / HISTORY
    if history.exists():
        found = artifacts.read_json(history, made_by="evaluate")
        checkpoint.check_mark(history, found=found["mark"], mark=loop.mark)
        if found["finished"]:
            (folder / checkpoint.CHECKPOINT).unlink(missing_ok=True)  # of a call killed at its end
            return load(folder, runtime=runtime)
    cuda = [runtime.torch_device] if runtime.device == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        _run_epochs(loop)
    return load(folder, runtime=runtime)


def _prepare(
    histories: Histories,
    settings: SasrecSettings,
    *,
    n_items: int,
    folder: Path,
    runtime: Runtime,
    journal: Journal,
) -> Loop:
    """Check what there is to train on, and set up the loop."""
    training = histories.held_out(2)
    windows = training_windows(training, max_his_len=settings.max_his_len)
    users = _validation_users(histories, settings, seed=runtime.seed)
    if not len(windows.starts) or not len(users):
        raise DataError(
            "`sasrec`: expected users with at least four events, got none; set `sasrec.enabled` "
            "to false"
        )
    sizes = settings.model_dump(include=set(SIZE_SETTINGS)) | {"n_items": n_items}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_torch_seed(runtime.seed, START))
        network = SASRec(**sizes)
    artifacts.write_json(folder / SIZES, sizes)
    network.to(runtime.torch_device)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in network.parameters() if p.ndim > 1]},
        {"params": [p for p in network.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay)
    return Loop(
        network=network,
        optimizer=optimizer,
        windows=windows,
        inputs=training.of_users(users),
        targets=histories.items[histories.offsets[users + 1] - 2],
        settings=settings,
        folder=folder,
        runtime=runtime,
        journal=journal,
        mark=_mark(histories.held_out(1), settings, n_items=n_items, seed=runtime.seed),
    )


def _validation_users(
    histories: Histories, settings: SasrecSettings, *, seed: int
) -> NDArray[np.int64]:
    """Draw who is validated on, in the order of the rows, from those with three events."""
    users = np.flatnonzero(histories.lengths() >= 3)
    limit = settings.validation_users
    if limit is None or len(users) <= limit:
        return users
    generator = np.random.default_rng([seed, VALIDATION])
    return np.sort(generator.choice(users, limit, replace=False))


def _run_epochs(loop: Loop) -> None:
    """Train from the last checkpoint to the end."""
    position, best = checkpoint.restore(
        loop.folder, network=loop.network, optimizer=loop.optimizer, mark=loop.mark
    )
    done = position.epoch * loop.n_steps + position.step
    total = loop.settings.epochs * loop.n_steps
    with loop.journal.track("sasrec: steps", total=total, done=done) as advance:
        while not _is_over(position, loop.settings):
            position = _train_epoch(loop, position, best, advance)
            position = _validate(loop, position)
            if position.best_epoch == position.epoch:
                best = checkpoint.weights(loop.network)
            _save(loop, position, best)
    with artifacts.atomic_path(loop.folder / WEIGHTS) as temporary:
        save_file(best, temporary)
    _write_history(loop, position)
    (loop.folder / checkpoint.CHECKPOINT).unlink(missing_ok=True)


def _is_over(position: Position, settings: SasrecSettings) -> bool:
    """Tell whether all epochs, all patience or all time is used."""
    waited = position.epoch - position.best_epoch
    return position.epoch >= settings.epochs or waited >= settings.patience or position.out_of_time


def _train_epoch(
    loop: Loop, position: Position, best: dict[str, Tensor], advance: Callable[[int], None]
) -> Position:
    """Do the steps of an epoch that are left, with checkpoints by the clock."""
    loop.network.train()
    order, size = loop.order(position.epoch), loop.settings.batch_size
    limit = loop.settings.max_minutes
    started = saved = time.monotonic()
    before = position.seconds
    while position.step < loop.n_steps and not position.out_of_time:
        which = order[position.step * size : (position.step + 1) * size]
        number = position.epoch * loop.n_steps + position.step
        loss, n_targets = _take_step(loop, which, number=number)
        now = time.monotonic()
        seconds = before + now - started
        position = replace(
            position,
            step=position.step + 1,
            loss=position.loss + loss,
            n_targets=position.n_targets + n_targets,
            seconds=seconds,
            out_of_time=limit is not None and seconds >= 60 * limit,
        )
        if now - saved >= loop.runtime.checkpoint_seconds:
            saved = now
            _save(loop, position, best)
        advance(1)
    return position


def _take_step(loop: Loop, which: NDArray[np.int64], *, number: int) -> tuple[float, int]:
    """Do one optimizer step: the loss summed over its targets, and their number."""
    device, n_items = loop.runtime.torch_device, loop.network.items.num_embeddings
    n_targets = int((loop.windows.lengths[which] - 1).sum())
    total = torch.zeros((), device=device)
    loop.optimizer.zero_grad(set_to_none=True)
    for part, rows in enumerate(cut(loop.windows, which, n_items=n_items)):
        # A seed for every forward pass leaves a checkpoint without generator states to keep.
        torch.manual_seed(_torch_seed(loop.runtime.seed, DROPOUT, number, part))
        items, lengths = loop.windows.rows(rows)
        loss = summed_loss(
            loop.network, torch.from_numpy(items).to(device), torch.from_numpy(lengths).to(device)
        )
        (loss / n_targets).backward()
        total += loss.detach()
    torch.nn.utils.clip_grad_norm_(loop.network.parameters(), MAX_GRAD_NORM)
    loop.optimizer.step()
    loss_sum = total.item()
    if not math.isfinite(loss_sum):
        raise ConfigError(
            f"`sasrec.lr`: expected a loss that is a number, got {loss_sum} at optimizer step "
            f"{number}; lower it"
        )
    return loss_sum, n_targets


def _validate(loop: Loop, position: Position) -> Position:
    """Measure NDCG@10 on the validation users and close the epoch."""
    started = time.monotonic()
    ndcg = validation_ndcg(loop.network, loop.inputs, loop.targets)
    record = {
        "epoch": position.epoch + 1,
        "train_loss": position.loss / max(position.n_targets, 1),
        "valid_ndcg": ndcg,
        "seconds": position.seconds + time.monotonic() - started,
    }
    values = {name: value for name, value in record.items() if name != "epoch"}
    loop.journal.log("sasrec.epoch", step=position.epoch + 1, **values)
    better = ndcg > position.best_ndcg
    return replace(
        position,
        epoch=position.epoch + 1,
        step=0,
        loss=0.0,
        n_targets=0,
        seconds=record["seconds"],
        best_epoch=position.epoch + 1 if better else position.best_epoch,
        best_ndcg=ndcg if better else position.best_ndcg,
        epochs=(*position.epochs, record),
    )


def _save(loop: Loop, position: Position, best: dict[str, Tensor]) -> None:
    checkpoint.save(
        loop.folder,
        position,
        network=loop.network,
        best=best,
        optimizer=loop.optimizer,
        mark=loop.mark,
    )


def _write_history(loop: Loop, position: Position) -> None:
    value: dict[str, Any] = {
        "mark": loop.mark,
        "finished": True,
        "n_windows": len(loop.windows.starts),
        "n_validation_users": len(loop.targets),
        "best_epoch": position.best_epoch,
        "best_valid_ndcg": position.best_ndcg,
        "out_of_time": position.out_of_time,
        "epochs": list(position.epochs),
    }
    artifacts.write_json(loop.folder / HISTORY, value)


def _mark(histories: Histories, settings: SasrecSettings, *, n_items: int, seed: int) -> str:
    """Hash all that decides the result: settings, seed and data."""
    digest = hashlib.blake2b(digest_size=8)
    for array in (histories.offsets, histories.items):
        digest.update(np.ascontiguousarray(array).data)
    free = settings.model_dump(mode="json", exclude=FREE_SETTINGS)
    return artifacts.fingerprint(free, n_items, seed, digest.hexdigest())


def _torch_seed(*entropy: int) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))
