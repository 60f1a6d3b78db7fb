"""The training loop: epochs, the best model, checkpoints, and how a training ends."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast
from torch import Tensor

from mql4grec import artifacts, language
from mql4grec.config import MODALITIES, TrainingSettings
from mql4grec.errors import ConfigError
from mql4grec.language import Corpus
from mql4grec.recommender import checkpoint
from mql4grec.recommender import model as models
from mql4grec.recommender.causal import CausalModel
from mql4grec.recommender.checkpoint import Position
from mql4grec.recommender.epochs import Stage, draw_epoch, usable_tasks, validation_epoch
from mql4grec.recommender.graphs import Recordings
from mql4grec.recommender.loop import Loop
from mql4grec.recommender.losses import validation_loss
from mql4grec.recommender.model import Model
from mql4grec.recommender.steps import (
    learning_rate,
    make_optimizer,
    settle,
    take_step,
    with_graphs,
)
from mql4grec.recommender.teacher import Teacher
from mql4grec.runtime import SILENT, Journal, Runtime

# These change how a result is computed or when it is good enough, not what is computed.
FREE_SETTINGS = {"micro_batch_size", "max_minutes", "graphs"}


def train(
    model: Model,
    corpora: Sequence[Corpus],
    settings: TrainingSettings,
    *,
    stage: Stage,
    folder: Path,
    runtime: Runtime,
    journal: Journal = SILENT,
    ndcg: Callable[[Model], float] | None = None,
    teacher: Teacher | None = None,
) -> Model:
    """Train a model and keep the one with the lowest validation loss, or the highest NDCG.

    Started by `accelerate launch` (on CPUs by `torchrun`) it shares the work between processes.
    Called again after an interruption it goes on from the last checkpoint; on one CPU process, with
    the weights that an undisturbed training would have had, to the last bit. The samples of an
    epoch, their order and dropout follow from the seed.

    Args:
        model: Where to start; trained in place.
        corpora: One shop, or several that are sampled together.
        settings: Of this training.
        stage: "pretrain" or "finetune"; names events and seeds.
        folder: Gets `config.json`, `model.safetensors` and the tokenizer of the best epoch,
            `history.json`, and while training `checkpoint.safetensors`.
        runtime: The machine; its seed is the run's.
        journal: Told of every epoch.
        ndcg: Gives NDCG@10 of validation users, for `settings.select_by: ndcg`; called after each
            epoch, by the main process only.
        teacher: Has a share in a decoder-only model's answers, one list for each event of `corpora`
            but the last two of a user; for `settings.teacher_share`.

    Returns:
        The model with the best weights, ready to recommend.

    Raises:
        ConfigError: If no task is left, memory is too small, or the loss is no number.
        DataError: If there is nothing to validate on.
        ArtifactError: If `folder` holds another training.
        ValueError: If `ndcg` or `teacher` is needed and not given, or the model does not fit the
            corpus.
    """
    if (teacher is not None) != (settings.teacher_share > 0):
        raise ValueError(
            "`teacher`: expected one with `teacher_share` above 0, and none with 0, "
            f"got {type(teacher).__name__} with {settings.teacher_share}"
        )
    if (ndcg is not None) != (settings.select_by == "ndcg"):
        raise ValueError(
            "`ndcg`: expected a function with `select_by: ndcg`, and none with `select_by: loss`, "
            f"got {ndcg!r} with {settings.select_by!r}"
        )
    processes = PartialState(cpu=runtime.device == "cpu")
    journal = journal if processes.is_main_process else SILENT
    loop = prepare(
        model,
        corpora,
        settings=settings,
        stage=stage,
        folder=folder,
        runtime=runtime,
        journal=journal,
        processes=processes,
        teacher=teacher,
    )
    history = folder / checkpoint.HISTORY
    finished = history.exists() and _is_finished(history, loop.mark)
    # Every process has seen the folder before the main one changes it.
    processes.wait_for_everyone()
    if not finished:
        with _out_of_memory_told(loop):
            _run_epochs(loop, ndcg)
        processes.wait_for_everyone()
    if processes.is_main_process:  # also what a call that was killed here has left
        (folder / checkpoint.NAME).unlink(missing_ok=True)
    models.set_weights(loop.model, models.weights(models.load(folder)))
    loop.model.eval()
    return loop.model


def prepare(
    model: Model,
    corpora: Sequence[Corpus],
    *,
    settings: TrainingSettings,
    stage: Stage,
    folder: Path,
    runtime: Runtime,
    journal: Journal,
    processes: PartialState,
    teacher: Teacher | None,
) -> Loop:
    """Check what there is to train on, and set up the loop."""
    whole = isinstance(model, CausalModel)
    tasks = () if whole else usable_tasks(corpora, settings.tasks, stage=stage, journal=journal)
    corpus = language.join(corpora)
    if model.config.vocab_size != corpus.vocabulary.n_tokens:
        raise ValueError(
            f"`model`: expected {corpus.vocabulary.n_tokens} tokens to match the corpus, "
            f"got {model.config.vocab_size}; build it from the same vocabulary"
        )
    first = draw_epoch(
        corpus,
        tasks,
        seed=runtime.seed,
        stage=stage,
        number=0,
        limit=settings.samples_per_epoch,
        whole=whole,
    )
    alone = processes.num_processes == 1
    model.to(runtime.torch_device if alone else processes.device)  # type: ignore[arg-type]  # overloads lost
    if not alone:
        broadcast([parameter.data for parameter in model.parameters()])
    rivals = None
    if settings.loss_over == "level":
        rivals = models.group_by_level(corpus.vocabulary).to(model.device)
    branches = {}
    if whole or settings.loss_over == "children":
        branches = {m: language.list_branches(corpus, m) for m in MODALITIES}
    loop = Loop(
        model=model,
        optimizer=make_optimizer(model, lr=settings.lr, weight_decay=settings.weight_decay),
        corpus=corpus,
        tasks=tasks,
        validation=validation_epoch(
            corpus,
            tasks,
            seed=runtime.seed,
            stage=stage,
            limit=settings.validation_samples,
            whole=whole,
        ),
        settings=settings,
        stage=stage,
        folder=folder,
        runtime=runtime,
        journal=journal,
        processes=processes,
        mark=_mark(model, corpus, settings, stage=stage, seed=runtime.seed, teacher=teacher),
        n_samples=len(first.order),
        rivals=rivals,
        words=language.spell_items(corpus),
        branches=branches,
        teacher=teacher,
    )
    if not settings.graphs or model.device.type != "cuda":
        return loop
    return with_graphs(loop, first, Recordings())


def _run_epochs(loop: Loop, ndcg: Callable[[Model], float] | None) -> None:
    """Train from the last checkpoint to the end."""
    position = checkpoint.restore(
        loop.folder, model=loop.model, optimizer=loop.optimizer, mark=loop.mark
    )
    loop.processes.wait_for_everyone()
    done = position.epoch * loop.n_samples
    done += min(position.step * loop.settings.batch_size, loop.n_samples)
    total = loop.settings.epochs * loop.n_samples
    with loop.journal.track(f"{loop.stage}: samples", total=total, done=done) as advance:
        while not _is_over(position, loop.settings):
            position = _train_epoch(loop, position, advance)
            position = _validate(loop, position, ndcg)
            _keep(loop, position)
    if loop.processes.is_main_process:
        _write_history(loop, position, finished=True)


def _is_over(position: Position, settings: TrainingSettings) -> bool:
    """Tell whether all epochs, all patience or all time is used."""
    waited = position.epoch - position.best_epoch
    return (
        position.epoch >= settings.epochs
        or (position.epoch > 0 and waited >= settings.patience)
        or position.out_of_time
    )


def _train_epoch(loop: Loop, position: Position, advance: Callable[[int], None]) -> Position:
    """Do the steps of an epoch that are left, with checkpoints by the clock."""
    started, seconds_before = time.monotonic(), position.seconds
    epoch = loop.draw(position.epoch)
    if loop.graphs is not None:
        loop.graphs.draw(loop.corpus, epoch)
    size = loop.settings.batch_size
    saved = time.monotonic()
    step = position.step
    losses = torch.zeros((), dtype=torch.float64, device=loop.model.device)
    while step < loop.n_steps and not position.out_of_time:
        rows = epoch.order[step * size : (step + 1) * size]
        number = position.epoch * loop.n_steps + step
        losses += take_step(loop, epoch, rows, number=number)
        step += 1
        if step % loop.n_unsettled == 0 or step == loop.n_steps:
            now = time.monotonic()
            seconds = seconds_before + now - started
            loss, out_of_time = settle(loop, losses, number=number, seconds=seconds)
            losses.zero_()
            done = epoch.order[position.step * size : step * size]
            position = replace(
                position,
                step=step,
                loss=position.loss + loss,
                n_tokens=position.n_tokens + int(epoch.target_lengths[done].sum()),
                seconds=seconds,
                out_of_time=out_of_time,
            )
            if now - saved >= loop.runtime.checkpoint_seconds:
                saved = now
                _save_checkpoint(loop, position)
        advance(len(rows))
    return position


def _validate(loop: Loop, position: Position, ndcg: Callable[[Model], float] | None) -> Position:
    """Measure the loss on the validation samples, if asked NDCG@10, and close the epoch."""
    started = time.monotonic()
    valid_loss = validation_loss(loop)
    valid_ndcg = None if ndcg is None else _told_by_main(loop, ndcg)
    seconds = position.seconds + time.monotonic() - started
    n_steps = position.epoch * loop.n_steps + position.step
    n_samples = min(position.step * loop.settings.batch_size, loop.n_samples)
    before = position.epochs[-1]["seconds"] if position.epochs else 0.0
    record = {
        "epoch": position.epoch + 1,
        "step": n_steps,
        "train_loss": position.loss / max(position.n_tokens, 1),
        "valid_loss": valid_loss,
        **({} if valid_ndcg is None else {"valid_ndcg": valid_ndcg}),
        "lr": learning_rate(n_steps - 1, loop),
        "samples_per_second": n_samples / max(position.seconds - before, 1e-9),
        "seconds": seconds,
        # Since the training began or went on: compiling and recording, which is done once.
        **({} if loop.recordings is None else {"seconds_of_recording": loop.recordings.seconds}),
    }
    values = {name: value for name, value in record.items() if name not in ("epoch", "step")}
    loop.journal.log(f"recommender.{loop.stage}.epoch", step=position.epoch + 1, **values)
    if valid_ndcg is None:
        better = valid_loss < position.best_loss
    else:
        better = valid_ndcg > position.best_ndcg
    return replace(
        position,
        epoch=position.epoch + 1,
        step=0,
        loss=0.0,
        n_tokens=0,
        seconds=seconds,
        best_epoch=position.epoch + 1 if better else position.best_epoch,
        best_loss=valid_loss if better else position.best_loss,
        best_ndcg=valid_ndcg if better and valid_ndcg is not None else position.best_ndcg,
        epochs=(*position.epochs, record),
    )


def _told_by_main(loop: Loop, ndcg: Callable[[Model], float]) -> float:
    """Let the main process measure, and all have its figure, so that they decide alike."""
    found = ndcg(loop.model) if loop.processes.is_main_process else 0.0
    if loop.processes.num_processes == 1:
        return found
    told: Tensor = broadcast(torch.tensor(found, dtype=torch.float64, device=loop.model.device))
    return told.item()


def _keep(loop: Loop, position: Position) -> None:
    """Write what an epoch has changed: the best model first, the checkpoint last."""
    if not loop.processes.is_main_process:
        return
    if position.best_epoch == position.epoch:
        models.save(loop.model, loop.folder, vocabulary=loop.corpus.vocabulary)
    _write_history(loop, position, finished=False)
    _save_checkpoint(loop, position)


def _save_checkpoint(loop: Loop, position: Position) -> None:
    if loop.processes.is_main_process:
        checkpoint.save(
            loop.folder, position, model=loop.model, optimizer=loop.optimizer, mark=loop.mark
        )


def _write_history(loop: Loop, position: Position, *, finished: bool) -> None:
    value: dict[str, Any] = {
        "stage": loop.stage,
        "mark": loop.mark,
        "finished": finished,
        "tasks": list(loop.tasks),
        "n_samples": loop.n_samples,
        "n_validation_samples": len(loop.validation.order),
        "best_epoch": position.best_epoch,
        "best_valid_loss": position.best_loss,
        **({"best_valid_ndcg": position.best_ndcg} if loop.settings.select_by == "ndcg" else {}),
        "out_of_time": position.out_of_time,
        "epochs": list(position.epochs),
    }
    artifacts.write_json(loop.folder / checkpoint.HISTORY, value)


def _is_finished(history: Path, mark: str) -> bool:
    found = artifacts.read_json(history, made_by="finetune")
    checkpoint.check_mark(history, found=found["mark"], mark=mark)
    return bool(found["finished"])


def _mark(
    model: Model,
    corpus: Corpus,
    settings: TrainingSettings,
    *,
    stage: Stage,
    seed: int,
    teacher: Teacher | None,
) -> str:
    """Hash all that decides the result: settings, seed, data, first weights and teacher."""
    digest = hashlib.blake2b(digest_size=8)
    arrays = [corpus.histories.offsets, corpus.histories.items]
    arrays += [*corpus.tokens.values(), *corpus.present.values()]
    arrays += [tensor.cpu().numpy() for tensor in models.weights(model).values()]
    if teacher is not None:
        arrays += [teacher.items, teacher.shares]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return artifacts.fingerprint(
        settings.model_dump(mode="json", exclude=FREE_SETTINGS | settings.unused),
        model.config.dropout_rate,
        [corpus.max_his_len, corpus.sampling],
        [stage, seed],
        digest.hexdigest(),
    )


@contextmanager
def _out_of_memory_told(loop: Loop) -> Iterator[None]:
    """Turn running out of memory into a message that says what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as err:
        known = isinstance(err, torch.OutOfMemoryError | MemoryError)
        if not known and "can't allocate memory" not in str(err):
            raise
        size = loop.settings.micro_batch_size
        raise ConfigError(
            f"`recommender.{loop.stage}.micro_batch_size`: expected as many samples as fit into "
            f"the memory of {loop.model.device}, got {size}; set it to {max(size // 2, 1)}, "
            "which changes the speed, and of the result only dropout's draws"
        ) from err
