"""Translators beside each other: what they lose, what collides, how many codes they use, how long.

    pip install faiss-cpu; OMP_NUM_THREADS=1 python benches/translator.py
    OMP_NUM_THREADS=1 python benches/translator.py --embeddings runs/office/embeddings/Office/text

Without embeddings of your own: clustered rows of width 768. The ways:

    rqvae            the paper's recipe, k-means on the first batch of an untrained encoder
    rqvae, warm-up   100 steps of plain autoencoder, then k-means on all rows
    rqkmeans         principal components, then k-means level by level, on E and on all D numbers
    faiss            its ResidualQuantizer, on the same E components, and on all D numbers

All from the same seed, on one thread if OMP_NUM_THREADS says so. Lost: mean squared error of what
the codes stand for, of the variance; seconds are the CPU's where there is one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mql4grec import rqvae, translator
from mql4grec.config import TranslatorSettings
from mql4grec.embeddings import Embeddings
from mql4grec.runtime import Runtime
from mql4grec.translator.quality import code_usage, collision_rate

Rows = NDArray[np.float32]


def main() -> None:
    """Train every translator on the same rows and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--embeddings", type=Path, help="folder of a run's embeddings, or .npy")
    parser.add_argument("--items", type=int, default=10_000, help="of made-up rows")
    parser.add_argument("--codes", type=int, default=256, help="K of each of four levels")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rows = read(options.embeddings) if options.embeddings else clustered(options.items)
    print(
        f"{len(rows)} rows of {rows.shape[1]}, 4 x {options.codes} codes, {options.epochs} epochs"
    )
    print("\n| translator | lost | collision rate | perplexity by level | dead codes | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, way in ways(options).items():
        began = time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()
        codes, decoded = way(rows)
        ended = time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()
        n_codes = [options.codes] * codes.shape[1]
        lost = float(((rows - decoded) ** 2).mean() / rows.var(axis=0).mean())
        rate = collision_rate(torch.from_numpy(codes), n_codes=n_codes)
        perplexity, dead = code_usage(torch.from_numpy(codes), n_codes=n_codes)
        used = "/".join(f"{each:.0f}" for each in perplexity)
        print(
            f"| {name} | {lost:.3f} | {rate:.2%} | {used} | {sum(dead)} | {ended - began:.1f} |",
            flush=True,
        )


def ways(options: argparse.Namespace) -> dict[str, Callable[[Rows], tuple[Any, Any]]]:
    """List every translator: from rows (N, D) to codes int64 (N, L) and what they stand for."""
    levels = {"num_emb_list": (options.codes,) * 4, "epochs": options.epochs}
    levels["eval_step"] = options.epochs

    def ours(**settings: Any) -> Callable[[Rows], tuple[Any, Any]]:
        chosen = TranslatorSettings.model_validate(levels | settings)
        return lambda rows: train(rows, chosen, seed=options.seed)

    return {
        "rqvae": ours(),
        "rqvae, warm-up": ours(warmup_steps=100),
        "rqkmeans, E = 32": ours(kind="rqkmeans"),
        "rqkmeans, all D": ours(kind="rqkmeans", e_dim=1 << 16),
        "faiss, E = 32": lambda rows: by_faiss(rows, options.codes, n_components=32),
        "faiss, all D": lambda rows: by_faiss(rows, options.codes, n_components=None),
    }


def train(rows: Rows, settings: TranslatorSettings, *, seed: int) -> tuple[Any, Any]:
    """Train one of ours."""
    shop = Embeddings("Bench", "text", "none", rows, np.ones(len(rows), bool))
    with tempfile.TemporaryDirectory() as folder:
        network = translator.train(
            [shop], settings, folder=Path(folder), runtime=Runtime(seed=seed)
        )
    with torch.inference_mode():
        latents = network.encoder(torch.from_numpy(rows))
        codes = network.nearest_codes(latents)
        quantized = sum(book[codes[:, level]] for level, book in enumerate(network.codebooks))
        return codes.numpy(), network.decoder(quantized).numpy()


def by_faiss(rows: Rows, n_codes: int, *, n_components: int | None) -> tuple[Any, Any]:
    """Let faiss quantize, with its own beam search over the levels."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    latents, mean, components = rows, None, None
    if n_components is not None:
        mean, components = rqvae.principal_components(
            torch.from_numpy(rows), n_components=n_components, device=torch.device("cpu")
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
