"""Train one translator on several shops together: warm-up, epochs, evaluation, the best model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mql4grec.config import TranslatorSettings
from mql4grec.embeddings import Embeddings
from mql4grec.errors import ConfigError
from mql4grec.rqvae import RQVAE, principal_components, upkeep
from mql4grec.runtime import SILENT, Journal, Runtime
from mql4grec.translator import state
from mql4grec.translator.files import drop_checkpoint, load
from mql4grec.translator.order import draw_pass
from mql4grec.translator.processes import join
from mql4grec.translator.quality import code_usage, collision_rate
from mql4grec.translator.state import Best, Progress, Training
from mql4grec.translator.steps import Steps
from mql4grec.translator.table import open_table

WEIGHTS, CENTRES, DROPOUT, WARMUP, EPOCH, SAMPLE = range(6)  # what a seed is for


def train(
    embeddings: Sequence[Embeddings],
    settings: TranslatorSettings,
    *,
    folder: Path,
    runtime: Runtime,
    journal: Journal = SILENT,
) -> RQVAE:
    """Train the translator of one modality on all shops together.

    An interrupted training goes on from its checkpoint; on a CPU it ends with the very weights of
    an undisturbed one. A finished one is read, not trained again. Started by `accelerate launch`
    (on CPUs by `torchrun`) it shares the rows of each batch between processes; without dropout the
    result is that of one process, up to rounding.

    Args:
        embeddings: One per shop, of one modality, width and encoder; only rows present count.
        settings: Sizes and recipe.
        folder: Gets `best_collision_model`, `best_loss_model` and `last_model`, `.safetensors` and
            `.json`, `history.json`, checkpoints.
        runtime: Device, precision of the two MLPs, seed, time between checkpoints.
        journal: Gets "translator.epoch" at every evaluation, and a progress bar.

    Returns:
        The network that `settings.keep` says: with the lowest collision rate at any evaluation, of
        equals the lowest loss; with the lowest loss; or the last.

    Raises:
        DataError: If the embeddings do not go together, are none, or are not finite.
        ArtifactError: If `folder` holds a training of other settings or data.
        ConfigError: If the training diverges, or the embeddings do not fit their storage.

    Source:
        MQL4GRec, section 3.2 and the authors' code. `warmup_steps` is ours: steps of a plain
        autoencoder before the first epoch, and k-means on all rows then; so is `refit_epochs`.
        `kind` "rqkmeans" is residual quantization (Chen, Guan and Wang 2010) of principal
        components.
    """
    processes = join(runtime.torch_device)
    table = open_table(
        embeddings,
        device=processes.device,
        storage=settings.storage,
        max_memory=settings.max_memory,
    )
    origin = _describe(embeddings, settings, runtime, n_rows=table.n_rows)
    finished = state.is_finished(folder, origin)
    processes.wait()  # all have seen the folder before it changes
    if finished:
        if processes.is_main:
            drop_checkpoint(folder)  # of a call that was killed at its end
        return load(folder).to(processes.device)
    network = build_network(settings, in_dim=table.width, seed=runtime.seed).to(processes.device)
    if settings.codebooks == "average":
        network.codebooks.requires_grad_(False)
    graphs = settings.graphs and runtime.device == "cuda" and processes.count == 1
    optimizer = torch.optim.AdamW(
        [parameter for parameter in network.parameters() if parameter.requires_grad],
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        fused=True,
        capturable=graphs,
    )
    training = Training(
        network=network,
        optimizer=optimizer,
        upkeep=upkeep.begin(list(network.codebooks)),
        table=table,
        settings=settings,
        runtime=runtime,
        folder=folder,
        origin=origin,
        journal=journal if processes.is_main else SILENT,
        processes=processes,
    )
    devices = [torch.cuda.current_device()] if runtime.device == "cuda" else []
    with torch.random.fork_rng(devices):  # dropout draws from torch's global generators
        torch.manual_seed(_derive(runtime.seed, DROPOUT, processes.rank))
        if settings.kind == "rqkmeans":
            progress = _fit_at_once(training)
        else:
            progress = _fit(training, state.resume(training), Steps(training, graphs=graphs))
    if processes.is_main:
        state.save_results(training, progress, complete=True)
        drop_checkpoint(folder)
    processes.wait()
    network.load_state_dict(progress.best[settings.keep].weights)
    return network.eval()


def build_network(settings: TranslatorSettings, *, in_dim: int, seed: int) -> RQVAE:
    """Build the untrained network that the settings describe, for embeddings of width `in_dim`."""
    linear = settings.kind == "rqkmeans"
    return RQVAE(
        in_dim=in_dim,
        layers=() if linear else settings.layers,
        e_dim=min(settings.e_dim, in_dim) if linear else settings.e_dim,
        num_emb_list=settings.num_emb_list,
        sk_epsilons=settings.sk_epsilons,
        sk_iters=settings.sk_iters,
        beta=settings.beta,
        quant_loss_weight=settings.quant_loss_weight,
        dropout=settings.dropout,
        unit_latents=settings.unit_latents and not linear,
        rotation=settings.estimator == "rotation",
        seed=_derive(seed, WEIGHTS),
    )


def _fit_at_once(training: Training) -> Progress:
    """Set encoder, decoder and codebooks without any step: what is interrupted begins anew."""
    network, device = training.network, training.processes.device
    rows = _sample(training)
    if network.e_dim == network.in_dim:
        mean, components = torch.zeros(network.in_dim), torch.eye(network.in_dim)
    else:
        mean, components = principal_components(training.table.blocks, n_components=network.e_dim)
    network.set_components(mean, components)
    title = f"fit translator {training.origin['modality']}"
    with training.journal.track(title, total=network.n_levels, done=0) as advance:
        _initialise(training, rows, after_level=lambda: advance(1))
    sums = torch.zeros(3, device=device)
    with torch.no_grad():
        for block in training.table.blocks():
            losses = torch.stack(network.eval()(block))
            sums += losses * (len(block) / training.table.n_rows * training.n_batches)
    return _evaluate(training, Progress(step=0, sums=sums), epoch=1)


def _fit(training: Training, progress: Progress, steps: Steps) -> Progress:
    """Run all steps that are left, with a checkpoint whenever its time has come."""
    saved_at = time.monotonic()
    title = f"train translator {training.origin['modality']}"
    journal, total = training.journal, training.n_steps
    with journal.track(title, total=total, done=progress.step) as advance:

        def after_step(progress: Progress) -> None:
            nonlocal saved_at
            advance(1)
            since = time.monotonic() - saved_at
            if training.processes.is_main and since >= training.runtime.checkpoint_seconds:
                state.save(training, progress)
                saved_at = time.monotonic()

        while progress.step < total:
            if progress.step < training.settings.warmup_steps:
                progress = _warm_up(training, progress, steps, after_step)
            else:
                progress = _run_epoch(training, progress, steps, after_step)
    return progress


def _warm_up(
    training: Training,
    progress: Progress,
    steps: Steps,
    after_step: Callable[[Progress], None],
) -> Progress:
    """Train a plain autoencoder for the rest of one pass, or of the warm-up."""
    number, first = divmod(progress.step, training.n_batches)
    last = min(training.n_batches, first + training.settings.warmup_steps - progress.step)
    batches = _batches(training, purpose=WARMUP, number=number)[first:last]
    for batch, n_rows in _read(training, batches):
        steps.take(batch, n_rows=n_rows, quantize=False)
        progress = replace(progress, step=progress.step + 1)
        after_step(progress)
    return progress


def _run_epoch(
    training: Training,
    progress: Progress,
    steps: Steps,
    after_step: Callable[[Progress], None],
) -> Progress:
    """Train for the rest of one epoch, and evaluate if it is time to."""
    settings = training.settings
    number, first = divmod(progress.step - settings.warmup_steps, training.n_batches)
    batches = _batches(training, purpose=EPOCH, number=number)
    if first == 0:
        if number == 0 and not settings.warmup_steps:
            _initialise(training, batches[0])  # as in the paper
        elif number == 0 or (settings.refit_epochs and number % settings.refit_epochs == 0):
            _initialise(training, _sample(training), anew=number == 0)
        progress = replace(progress, sums=torch.zeros_like(progress.sums))
    sums = progress.sums.clone()
    for batch, n_rows in _read(training, batches[first:]):
        sums += steps.take(batch, n_rows=n_rows, quantize=True)
        progress = replace(progress, step=progress.step + 1, sums=sums)
        ended = progress.step - settings.warmup_steps == (number + 1) * training.n_batches
        if ended and ((number + 1) % settings.eval_step == 0 or number + 1 == settings.epochs):
            progress = _evaluate(training, progress, epoch=number + 1)
        after_step(progress)
    return progress


def _batches(training: Training, *, purpose: int, number: int) -> list[Tensor]:
    """Cut one pass, which depends on the seed and its number alone, into rows int64 (B,)."""
    generator = torch.Generator().manual_seed(_derive(training.runtime.seed, purpose, number))
    sizes, balance = training.table.sizes, training.settings.balance
    order = draw_pass(sizes, balance=balance, generator=generator)
    return list(torch.split(order, training.settings.batch_size))


def _read(training: Training, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, int]]:
    """Give this process's share of each batch, float32 (R, D), and the rows of the whole batch."""
    shares = [rows[training.processes.share(len(rows))] for rows in batches]
    for batch, rows in zip(training.table.batches(shares), batches, strict=True):
        yield batch, len(rows)


def _initialise(
    training: Training,
    rows: Tensor,
    *,
    anew: bool = True,
    after_level: Callable[[], None] = lambda: None,
) -> None:
    """Set the codebooks by k-means on the latents of some rows int64 (R,)."""
    training.network.initialise_codebooks(
        _latents(training, rows),
        n_iters=training.settings.kmeans_iters,
        seed=_derive(training.runtime.seed, CENTRES),
        anew=anew,
        balance=training.settings.kmeans_balance,
        after_level=after_level,
    )
    upkeep.reset(training.upkeep, list(training.network.codebooks))


def _sample(training: Training) -> Tensor:
    """Draw the rows that k-means looks at, in their order: all, if they are not too many."""
    table, n_rows = training.table, training.settings.kmeans_rows
    if table.n_rows <= n_rows and not training.settings.balance:
        return torch.arange(table.n_rows)
    generator = torch.Generator().manual_seed(_derive(training.runtime.seed, SAMPLE))
    balance = training.settings.balance
    return draw_pass(table.sizes, balance=balance, generator=generator)[:n_rows].sort().values


@torch.no_grad()
def _latents(training: Training, rows: Tensor) -> Tensor:
    """Give the latents (R, E) of some rows int64 (R,), in float32 as `translate` makes them."""
    encoder = training.network.eval().encoder
    share = rows[training.processes.share(len(rows))]
    parts = [encoder(block) for block in training.table.blocks(share)]
    return training.processes.put_together(torch.cat(parts), n_rows=len(rows))


@torch.no_grad()
def _codes(training: Training) -> Tensor:
    """Give the codes int64 (N, L) of all rows."""
    network, n_rows = training.network.eval(), training.table.n_rows
    share = torch.arange(n_rows)[training.processes.share(n_rows)]
    blocks = training.table.blocks(share)
    codes = torch.cat([network.nearest_codes(network.encoder(block)) for block in blocks])
    return training.processes.put_together(codes, n_rows=n_rows)


def _evaluate(training: Training, progress: Progress, *, epoch: int) -> Progress:
    """Add one record to the history, and keep the network if it is the best so far."""
    network = training.network
    names = ("loss", "reconstruction_loss", "quantization_loss")
    means = (progress.sums / training.n_batches).tolist()
    if not np.isfinite(means).all():
        raise ConfigError(
            f"`translator.lr`: expected a training that converges, got loss {means[0]} in epoch "
            f"{epoch} of the {training.origin['modality']} translator; lower it"
        )
    codes = _codes(training)
    perplexity, dead = code_usage(codes, n_codes=network.num_emb_list)
    record: dict[str, Any] = {
        "epoch": epoch,
        **dict(zip(names, means, strict=True)),
        "collision_rate": collision_rate(codes, n_codes=network.num_emb_list),
        "perplexity": perplexity,
        "dead_codes": dead,
    }
    values = {name: value for name, value in record.items() if name != "epoch"}
    modality = training.origin["modality"]
    training.journal.log("translator.epoch", step=epoch, modality=modality, **values)
    best = dict(progress.best)
    for criterion in state.CRITERIA:
        known = best.get(criterion)
        if known is None or _is_better(record, known.record, criterion=criterion):
            weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            best[criterion] = Best(record, weights)
    return replace(progress, history=(*progress.history, record), best=best)


def _is_better(record: dict[str, Any], other: dict[str, Any], *, criterion: str) -> bool:
    if criterion == "last":
        return True
    one, two = ((each[criterion], each["loss"]) for each in (record, other))
    return bool(one < two)


def _derive(seed: int, purpose: int, number: int = 0) -> int:
    """Make an independent seed for each purpose and pass."""
    return int(np.random.SeedSequence([seed, purpose, number]).generate_state(1, np.uint64)[0] >> 1)


def _describe(
    embeddings: Sequence[Embeddings],
    settings: TranslatorSettings,
    runtime: Runtime,
    *,
    n_rows: int,
) -> dict[str, Any]:
    """Say in JSON values what a training is about."""
    return {
        "modality": embeddings[0].modality,
        "encoder": embeddings[0].encoder,
        "encoder_recipe": embeddings[0].recipe,
        "in_dim": embeddings[0].vectors.shape[1],
        "datasets": [each.dataset for each in embeddings],
        "n_rows": n_rows,
        "seed": runtime.seed,
        "precision": runtime.precision,
        "settings": settings.model_dump(mode="json", exclude={"max_memory_gib", "graphs"}),
    }
