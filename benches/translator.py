"""Translators beside each other: what they lose, what collides, how many codes they use, how long.

    pip install faiss-cpu; OMP_NUM_THREADS=1 python benches/translator.py
    OMP_NUM_THREADS=1 python benches/translator.py --embeddings runs/office/embeddings/Office/text
    OMP_NUM_THREADS=1 python benches/translator.py --speed --layers paper --epochs 4
    python benches/translator.py --throughput 100000 --layers paper --epochs 500

Without embeddings of your own: clustered rows of width 768. With neither `--speed` nor
`--throughput` a line for each of `RECIPES` and for faiss's ResidualQuantizer. Lost: mean squared
error of what the codes stand for, of the variance. Seconds are the CPU's where there is one thread.

`--speed` trains by the authors' loop, written anew from its description, and by ours, the same
recipe, network and number of epochs, and gives the ratios. `--throughput` trains ours alone, on so
many made-up rows, on the device that there is, and tells what share of the floor that is: of the
operations of the two MLPs at the peak of an H100 in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mql4grec import rqvae, translator
from mql4grec.config import RuntimeSettings, TranslatorSettings
from mql4grec.embeddings import Embeddings
from mql4grec.runtime import Runtime, describe_machine, start
from mql4grec.translator.quality import code_usage, collision_rate
from mql4grec.translator.training import build_network

Rows = NDArray[np.float32]

LAYERS = {"paper": (2048, 1024, 512, 256, 128, 64), "small": (512, 256, 128)}
PEAK = 989e12  # operations per second of an H100 in bfloat16, by its data sheet
REFIT = 20  # epochs; a tenth of them all if there are fewer than 200
PAPER = {
    "warmup_steps": 0,
    "kmeans_balance": 0,
    "refit_epochs": 0,
    "keep": "collision_rate",
}
BALANCED = {"warmup_steps": 100, "kmeans_balance": 0.003}
RECIPES: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "+ warm-up, k-means on all rows": {"warmup_steps": 100},
    "+ restarts of dead codes": {"restart_after": 5},
    "+ Sinkhorn on all levels": {"sk_epsilons": (0.003,) * 4},
    "+ moving averages": {"codebooks": "average"},
    "+ rotation": {"estimator": "rotation"},
    "+ latents of length one": {"unit_latents": True},
    "warm-up, Sinkhorn on all levels, restarts": {
        "warmup_steps": 100,
        "sk_epsilons": (0.003,) * 4,
        "restart_after": 5,
    },
    "warm-up, Sinkhorn on all levels, restarts, E = 12": {
        "warmup_steps": 100,
        "sk_epsilons": (0.003,) * 4,
        "restart_after": 5,
        "e_dim": 12,
    },
    "warm-up, averages, restarts": {
        "warmup_steps": 100,
        "codebooks": "average",
        "restart_after": 5,
    },
    "warm-up, refits": {"warmup_steps": 100, "refit_epochs": REFIT},
    "warm-up, balanced refits": {**BALANCED, "refit_epochs": REFIT},
    "warm-up, balanced refits, E = 16": {**BALANCED, "refit_epochs": REFIT, "e_dim": 16},
    "warm-up, balanced refits, E = 12": {**BALANCED, "refit_epochs": REFIT, "e_dim": 12},
    "warm-up, balanced refits, E = 8": {**BALANCED, "refit_epochs": REFIT, "e_dim": 8},
    "rqkmeans, E = 32": {"kind": "rqkmeans"},
    "rqkmeans, E = 12": {"kind": "rqkmeans", "e_dim": 12},
    "rqkmeans, balanced, E = 12": {"kind": "rqkmeans", "e_dim": 12, "kmeans_balance": 0.003},
    "rqkmeans, all D": {"kind": "rqkmeans", "e_dim": 1 << 16},
}


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--embeddings", type=Path, help="folder of a run's embeddings, or .npy")
    parser.add_argument("--items", type=int, default=10_000, help="of made-up rows")
    parser.add_argument("--codes", type=int, default=256, help="K of each of four levels")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--layers", choices=LAYERS, default="small")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--recipes", nargs="+", help="names of some of them, or parts of names")
    parser.add_argument("--speed", action="store_true", help="beside the authors' loop")
    parser.add_argument("--throughput", type=int, help="made-up rows to train on")
    parser.add_argument("--out", type=Path, help="folder for the figures of --throughput")
    options = parser.parse_args()
    if options.throughput is not None:
        measure_throughput(options)
        return
    rows = read(options.embeddings) if options.embeddings else clustered(options.items)
    print(
        f"{len(rows)} rows of {rows.shape[1]}, 4 x {options.codes} codes, {options.epochs} epochs, "
        f"layers {LAYERS[options.layers]}, {options.precision}, {torch.get_num_threads()} threads"
    )
    compare_speed(rows, options) if options.speed else compare_recipes(rows, options)


def clock() -> float:
    """Give the seconds of the processor if there is one thread, of the clock otherwise."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def settings_of(options: argparse.Namespace, **changes: Any) -> TranslatorSettings:
    """Make the settings of a training."""
    base = PAPER | {
        "num_emb_list": (options.codes,) * 4,
        "epochs": options.epochs,
        "eval_step": options.epochs,  # the last network is looked at, whatever `keep` says
        "layers": LAYERS[options.layers],
    }
    if "refit_epochs" in changes:
        changes["refit_epochs"] = min(REFIT, max(options.epochs // 10, 1))
    return TranslatorSettings.model_validate(base | changes)


def compare_recipes(rows: Rows, options: argparse.Namespace) -> None:
    """Train by every recipe on the same rows and print a line for each."""
    print("\n| translator | lost | collision rate | perplexity by level | dead codes | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, way in ways(options).items():
        if options.recipes and not any(part in name for part in options.recipes):
            continue
        began = clock()
        codes, decoded = way(rows)
        seconds = clock() - began
        print_line(name, rows, codes, decoded, n_codes=options.codes, seconds=seconds)


def print_line(
    name: str, rows: Rows, codes: Any, decoded: Any, *, n_codes: int, seconds: float
) -> None:
    """Print the figures of one translator."""
    sizes = [n_codes] * codes.shape[1]
    lost = float(((rows - decoded) ** 2).mean() / rows.var(axis=0).mean())
    rate = collision_rate(torch.from_numpy(codes), n_codes=sizes)
    perplexity, dead = code_usage(torch.from_numpy(codes), n_codes=sizes)
    used = "/".join(f"{each:.0f}" for each in perplexity)
    print(
        f"| {name} | {lost:.3f} | {rate:.2%} | {used} | {sum(dead)} | {seconds:.1f} |", flush=True
    )


def ways(options: argparse.Namespace) -> dict[str, Callable[[Rows], tuple[Any, Any]]]:
    """List every translator: from rows (N, D) to codes int64 (N, L) and what they stand for."""

    def ours(changes: dict[str, Any]) -> Callable[[Rows], tuple[Any, Any]]:
        def way(rows: Rows) -> tuple[Any, Any]:
            settings = settings_of(options, **changes)
            runtime = Runtime(seed=options.seed, precision=options.precision)
            return codes_of(train(rows, settings, runtime=runtime), rows)

        return way

    return {
        **{name: ours(changes) for name, changes in RECIPES.items()},
        "faiss, E = 32": lambda rows: by_faiss(rows, options.codes, n_components=32),
        "faiss, all D": lambda rows: by_faiss(rows, options.codes, n_components=None),
    }


def train(rows: Rows, settings: TranslatorSettings, *, runtime: Runtime) -> rqvae.RQVAE:
    """Train one of ours."""
    shop = Embeddings("Bench", "text", "none", rows, np.ones(len(rows), bool))
    with tempfile.TemporaryDirectory() as folder:
        return translator.train([shop], settings, folder=Path(folder), runtime=runtime)


@torch.inference_mode()
def codes_of(network: rqvae.RQVAE, rows: Rows) -> tuple[Any, Any]:
    """Give the codes int64 (N, L) of rows, and what they stand for (N, D)."""
    network = network.eval().cpu()
    codes = network.nearest_codes(network.encoder(torch.from_numpy(rows)))
    quantized = sum(book[codes[:, level]] for level, book in enumerate(network.codebooks))
    return codes.numpy(), network.decoder(quantized).numpy()


def compare_speed(rows: Rows, options: argparse.Namespace) -> None:
    """Train by the authors' loop and by ours, the same recipe; evaluations apart."""
    import authors_translator as authors  # needs scikit-learn

    settings = settings_of(options)
    check_alike(authors.forward, rows[:256], settings, seed=options.seed)
    theirs = authors.train(rows, settings, seed=options.seed, clock=clock)
    print("\n| loop | seconds | times as fast | lost | collision rate | perplexity |")
    print("| --- | --- | --- | --- | --- | --- |")

    def line(name: str, seconds: float, network: rqvae.RQVAE) -> None:
        codes, decoded = codes_of(network, rows)
        lost = float(((rows - decoded) ** 2).mean() / rows.var(axis=0).mean())
        rate = collision_rate(torch.from_numpy(codes), n_codes=settings.num_emb_list)
        used, _ = code_usage(torch.from_numpy(codes), n_codes=settings.num_emb_list)
        spelt = "/".join(f"{each:.0f}" for each in used)
        ratio = theirs.seconds / seconds
        print(f"| {name} | {seconds:.1f} | {ratio:.2f} | {lost:.3f} | {rate:.2%} | {spelt} |")

    line("the authors', float32", theirs.seconds, theirs.network)
    for precision in ("fp32", "bf16"):
        runtime = Runtime(seed=options.seed, precision=precision)
        began = clock()
        network = train(rows, settings, runtime=runtime)
        seconds = clock() - began
        began = clock()
        codes = torch.from_numpy(codes_of(network, rows)[0])
        line(f"ours, {precision}, one evaluation included", seconds, network)
    n_times = 20
    began = clock()
    for _ in range(n_times):
        ours = collision_rate(codes, n_codes=settings.num_emb_list)
    counting = (clock() - began) / n_times
    began = clock()
    for _ in range(n_times):
        theirs_rate = authors.count(codes)
    by_strings = (clock() - began) / n_times
    if theirs_rate != ours:
        raise SystemExit(f"collision rate: expected {theirs_rate}, as by strings, got {ours}")
    print(
        f"\nan evaluation of the authors' takes {theirs.evaluation_seconds:.2f} s, of which "
        f"{theirs.counting_seconds:.3f} s count collisions; of these {len(codes)} codes: strings "
        f"{1000 * by_strings:.1f} ms, ours {1000 * counting:.2f} ms "
        f"({by_strings / counting:.0f} times as fast)"
    )


def check_alike(
    forward: Callable[..., torch.Tensor], rows: Rows, settings: TranslatorSettings, *, seed: int
) -> None:
    """Check that the authors' loop has the loss and the gradients of our recipe of theirs."""
    network = build_network(settings, in_dim=rows.shape[1], seed=seed).train()
    batch = torch.from_numpy(rows)
    network.initialise_codebooks(network.encoder(batch).detach(), n_iters=5, seed=seed)
    forward(network, batch, settings).backward()
    theirs = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    network(batch).total.backward()
    for one, parameter in zip(theirs, network.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-3, atol=1e-6)


def measure_throughput(options: argparse.Namespace) -> None:
    """Train ours on made-up rows on the device that there is."""
    runtime = start(RuntimeSettings(precision=options.precision), seed=options.seed)
    drawn = np.random.default_rng(0).standard_normal((100_000, 768), np.float32)
    rows = np.resize(drawn.astype(np.float16), (options.throughput, 768))
    on_gpu = runtime.device == "cuda"
    figures: dict[str, Any] = {"machine": describe_machine(runtime), "rows": len(rows)}
    ways = (False, True) if on_gpu and len(rows) <= len(drawn) else (on_gpu,)
    for graphs in ways:
        epochs = options.epochs if graphs or not on_gpu else -(-options.epochs // 10)
        settings = settings_of(
            options, storage="fp16", graphs=graphs, warmup_steps=10, epochs=epochs, eval_step=epochs
        )
        began = time.perf_counter()
        network = train(rows, settings, runtime=runtime)
        seconds = time.perf_counter() - began
        weights = sum(
            p.numel() for p in (*network.encoder.parameters(), *network.decoder.parameters())
        )
        floor = 6 * weights * len(rows) * epochs / PEAK
        name = "with graphs" if graphs else "without graphs"
        figures[name] = {
            "epochs": epochs,
            "seconds": seconds,
            "share of the floor": floor / seconds,
        }
        print(json.dumps({name: figures[name]}), flush=True)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^a-z0-9]+", "-", figures["machine"].split(",")[0].lower()).strip("-")
        path = options.out / f"translator-{options.throughput}-{name}.json"
        path.write_text(json.dumps(figures, indent=2) + "\n")


def by_faiss(rows: Rows, n_codes: int, *, n_components: int | None) -> tuple[Any, Any]:
    """Let faiss quantize, with its own beam search over the levels."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    latents, mean, components = rows, None, None
    if n_components is not None:
        mean, components = rqvae.principal_components(
            lambda: [torch.from_numpy(rows)], n_components=n_components
        )
        latents = np.ascontiguousarray((rows - mean.numpy()) @ components.numpy().T)
    quantizer = faiss.ResidualQuantizer(latents.shape[1], 4, int(np.log2(n_codes)))
    quantizer.train(latents)
    packed = quantizer.compute_codes(latents)
    decoded = quantizer.decode(packed)
    if components is not None and mean is not None:
        decoded = decoded @ components.numpy() + mean.numpy()
    bits = np.unpackbits(packed, axis=1, bitorder="little")
    width = int(np.log2(n_codes))
    levels = bits[:, : 4 * width].reshape(len(rows), 4, width)
    return (levels * (1 << np.arange(width))).sum(axis=2).astype(np.int64), decoded


def read(path: Path) -> Rows:
    """Read the vectors of a run, or of a file."""
    files = [path] if path.is_file() else sorted(path.glob("*.npy"))
    vectors = np.load(files[0], allow_pickle=False).astype(np.float32)
    found: Rows = vectors[np.abs(vectors).sum(axis=1) > 0]  # rows without an embedding are zero
    return found


def clustered(n_rows: int) -> Rows:
    """Draw rows around 500 centres."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(500, 768))
    rows = centres[generator.integers(500, size=n_rows)]
    return (rows + 0.5 * generator.normal(size=rows.shape)).astype(np.float32)


if __name__ == "__main__":
    main()
