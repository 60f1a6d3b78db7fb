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
from mql4grec.rqvae import RQVAE, principal_components
from mql4grec.runtime import SILENT, Journal, Runtime
from mql4grec.translator import state
from mql4grec.translator.files import drop_checkpoint, load
from mql4grec.translator.quality import code_usage, collision_rate
from mql4grec.translator.rows import join_rows, place_rows
from mql4grec.translator.state import Progress, Training

ROWS_AT_ONCE = 16_384  # without gradients
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
    an undisturbed one. A finished one is read, not trained again.

    Args:
        embeddings: One per shop, of one modality, width and encoder; only rows present count.
        settings: Sizes and recipe.
        folder: Gets `best_collision_model.safetensors` and `.json`, `history.json`, checkpoints.
        runtime: Device, precision of the two MLPs, seed, time between checkpoints.
        journal: Gets "translator.epoch" at every evaluation, and a progress bar.

    Returns:
        The network with the lowest collision rate at any evaluation; of equals, the lowest loss.

    Raises:
        DataError: If the embeddings do not go together, are none, or are not finite.
        ArtifactError: If `folder` holds a training of other settings or data.
        ConfigError: If the training diverges.

    Source:
        MQL4GRec, section 3.2 and the authors' code. `warmup_steps` is ours: steps of a plain
        autoencoder, before the first epoch, and k-means on all rows then; so is `kind` "rqkmeans",
        residual quantization (Chen, Guan and Wang 2010) of principal components.
    """
    rows = place_rows(join_rows(embeddings), runtime.torch_device)
    origin = _describe(embeddings, settings, runtime, n_rows=len(rows))
    if state.is_finished(folder, origin):
        return load(folder).to(runtime.torch_device)
    network = build_network(settings, in_dim=rows.shape[1], seed=runtime.seed)
    network = network.to(runtime.torch_device)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
    )
    training = Training(network, optimizer, rows, settings, runtime, folder, origin, journal)
    devices = [torch.cuda.current_device()] if runtime.device == "cuda" else []
    with torch.random.fork_rng(devices):  # dropout draws from torch's global generators
        torch.manual_seed(_derive(runtime.seed, DROPOUT))
        if settings.kind == "rqkmeans":
            progress = _fit_at_once(training)
        else:
            progress = _fit(training, state.resume(training))
    state.save_results(training, progress, complete=True)
    drop_checkpoint(folder)
    assert progress.best_weights is not None  # the last epoch is always evaluated
    network.load_state_dict(progress.best_weights)
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
        seed=_derive(seed, WEIGHTS),
    )


def _fit_at_once(training: Training) -> Progress:
    """Set encoder, decoder and codebooks without any step: what is interrupted begins anew."""
    network, device = training.network, training.runtime.torch_device
    if network.e_dim == network.in_dim:
        mean, components = torch.zeros(network.in_dim), torch.eye(network.in_dim)
    else:
        mean, components = principal_components(
            training.rows, n_components=network.e_dim, device=device
        )
    network.set_components(mean, components)
    title = f"fit translator {training.origin['modality']}"
    with training.journal.track(title, total=network.n_levels, done=0) as advance:
        _initialise(training, _sample(training), after_level=lambda: advance(1))
    sums = torch.zeros(3, device=device)
    with torch.no_grad():
        for block in torch.split(training.rows, ROWS_AT_ONCE):
            losses = torch.stack(network.eval()(block.to(device)))
            sums += losses * (len(block) / len(training.rows) * training.n_batches)
    return _evaluate(training, Progress(step=0, sums=sums), epoch=1)


def _fit(training: Training, progress: Progress) -> Progress:
    """Run all steps that are left, with a checkpoint whenever its time has come."""
    saved_at = time.monotonic()
    title = f"train translator {training.origin['modality']}"
    journal, total = training.journal, training.n_steps
    with journal.track(title, total=total, done=progress.step) as advance:

        def after_step(progress: Progress) -> None:
            nonlocal saved_at
            advance(1)
            if time.monotonic() - saved_at >= training.runtime.checkpoint_seconds:
                state.save(training, progress)
                saved_at = time.monotonic()

        while progress.step < total:
            if progress.step < training.settings.warmup_steps:
                progress = _warm_up(training, progress, after_step)
            else:
                progress = _run_epoch(training, progress, after_step)
    return progress


def _warm_up(
    training: Training, progress: Progress, after_step: Callable[[Progress], None]
) -> Progress:
    """Train a plain autoencoder for the rest of one pass, or of the warm-up."""
    number, first = divmod(progress.step, training.n_batches)
    last = min(training.n_batches, first + training.settings.warmup_steps - progress.step)
    order = _shuffled(training, purpose=WARMUP, number=number)
    for index in range(first, last):
        _take_step(training, _batch(training, order, index), quantize=False)
        progress = replace(progress, step=progress.step + 1)
        after_step(progress)
    return progress


def _run_epoch(
    training: Training, progress: Progress, after_step: Callable[[Progress], None]
) -> Progress:
    """Train for the rest of one epoch, and evaluate if it is time to."""
    settings = training.settings
    number, first = divmod(progress.step - settings.warmup_steps, training.n_batches)
    order = _shuffled(training, purpose=EPOCH, number=number)
    if number == 0 and first == 0:
        # As in the paper from the first batch; after a warm-up from all rows.
        first_batch = _batch(training, order, 0)
        _initialise(training, _sample(training) if settings.warmup_steps else first_batch)
    for index in range(first, training.n_batches):
        sums = torch.zeros_like(progress.sums) if index == 0 else progress.sums
        sums = sums + _take_step(training, _batch(training, order, index), quantize=True)
        progress = replace(progress, step=progress.step + 1, sums=sums)
        if index == training.n_batches - 1 and _is_due(number + 1, settings):
            progress = _evaluate(training, progress, epoch=number + 1)
        after_step(progress)
    return progress


def _is_due(epoch: int, settings: TranslatorSettings) -> bool:
    return epoch % settings.eval_step == 0 or epoch == settings.epochs


def _take_step(training: Training, batch: Tensor, *, quantize: bool) -> Tensor:
    """Take one optimizer step; gives the three losses (3,) without waiting for the device."""
    network = training.network.train()
    bf16 = training.runtime.precision == "bf16"
    with torch.autocast(training.runtime.device, dtype=torch.bfloat16, enabled=bf16):
        losses = network(batch) if quantize else network.autoencode(batch)
    training.optimizer.zero_grad()
    losses.total.backward()
    training.optimizer.step()
    return torch.stack(losses).detach()


def _initialise(
    training: Training, rows: Tensor, *, after_level: Callable[[], None] = lambda: None
) -> None:
    """Set the codebooks by k-means on the latents of some rows."""
    latents = torch.cat(list(_encode(training, rows)))
    training.network.initialise_codebooks(
        latents,
        n_iters=training.settings.kmeans_iters,
        seed=_derive(training.runtime.seed, CENTRES),
        after_level=after_level,
    )


def _sample(training: Training) -> Tensor:
    """Draw the rows that k-means looks at, in their order: all, if they are not too many."""
    rows, n_rows = training.rows, training.settings.kmeans_rows
    if len(rows) <= n_rows:
        return rows
    generator = torch.Generator().manual_seed(_derive(training.runtime.seed, SAMPLE))
    chosen = torch.randperm(len(rows), generator=generator)[:n_rows].sort().values
    return rows[chosen.to(rows.device)]


@torch.no_grad()
def _encode(training: Training, rows: Tensor) -> Iterator[Tensor]:
    """Give the latents of rows (B, E), block by block, in float32 as `translate` makes them."""
    network = training.network.eval()
    for block in torch.split(rows, ROWS_AT_ONCE):
        yield network.encoder(block.to(training.runtime.torch_device))


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
    codes = torch.cat(
        [network.nearest_codes(latents) for latents in _encode(training, training.rows)]
    )
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
    progress = replace(progress, history=(*progress.history, record))
    if progress.best is not None and _rank(record) >= _rank(progress.best):
        return progress
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return replace(progress, best=record, best_weights=weights)


def _rank(record: dict[str, Any]) -> tuple[float, float]:
    return record["collision_rate"], record["loss"]


def _shuffled(training: Training, *, purpose: int, number: int) -> Tensor:
    """Give the order of the rows in one pass, int64 (N,), from the seed and the pass alone."""
    generator = torch.Generator().manual_seed(_derive(training.runtime.seed, purpose, number))
    order = torch.randperm(len(training.rows), generator=generator)
    return order.to(training.rows.device)


def _batch(training: Training, order: Tensor, index: int) -> Tensor:
    """Take the rows of one batch (B, D) to the device."""
    size = training.settings.batch_size
    rows = training.rows[order[index * size : (index + 1) * size]]
    return rows.to(training.runtime.torch_device, non_blocking=True)


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
        "in_dim": embeddings[0].vectors.shape[1],
        "datasets": [each.dataset for each in embeddings],
        "n_rows": n_rows,
        "seed": runtime.seed,
        "precision": runtime.precision,
        "settings": settings.model_dump(mode="json"),
    }
