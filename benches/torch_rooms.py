"""Speed of the rooms that use torch, at the paper's sizes, on whatever device there is.

    python benches/torch_rooms.py --out benches/results          # all three parts
    python benches/torch_rooms.py --scale 0.02                   # a quick look, on a CPU

Parts, on a made-up shop (clustered vectors, random codes, histories as long as Instruments'):

    translator   RQ-VAE training, embeddings per second
    recommender  T5 training on the five tasks, samples per second
    decoding     beam search, users per second: ours, and `generate` with the same trie beside it;
                 the bench fails if the two do not recommend the same items

The figures go to a JSON file that is named after the device.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessorList

from mql4grec import decoding, language, recommender, translator
from mql4grec.catalog import Histories
from mql4grec.codes import SemanticIds
from mql4grec.config import (
    LanguageSettings,
    RecommenderSettings,
    RuntimeSettings,
    TrainingSettings,
    TranslatorSettings,
)
from mql4grec.decoding import TrieLogitsProcessor, spell
from mql4grec.embeddings import Embeddings
from mql4grec.runtime import Runtime, describe_machine, start

N_ITEMS, N_USERS, N_LEVELS, N_CODES = 6250, 17112, 4, 256  # of Instruments
N_VECTORS, WIDTH, TRANSLATOR_EPOCHS = 100_000, 768, 20
N_TRAINED, N_GENERATED, N_BEAMS = 102_400, 1_024, 20
SAME_ITEMS = 0.99  # of all places; bfloat16 may swap neighbours


def main() -> None:
    """Run the parts and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benches/results"))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the work that is done")
    options = parser.parse_args()
    runtime = start(RuntimeSettings(), seed=2025)
    machine = describe_machine(runtime)
    figures: dict[str, Any] = {"machine": machine, "runtime": asdict(runtime)}
    figures["scale"] = options.scale
    figures["date"] = time.strftime("%Y-%m-%d")
    for part in (bench_translator, bench_recommender_and_decoding):
        figures |= part(runtime, options.scale)
        print(json.dumps(figures, indent=2), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", machine.split(",")[0].lower()).strip("-")
    (options.out / f"torch_rooms-{name}.json").write_text(json.dumps(figures, indent=2) + "\n")


def bench_translator(runtime: Runtime, scale: float) -> dict[str, Any]:
    """Train the paper's RQ-VAE on clustered vectors."""
    generator = np.random.default_rng(0)
    n_items = max(int(N_VECTORS * scale), 2048)
    centres = generator.normal(size=(500, WIDTH))
    vectors = centres[generator.integers(500, size=n_items)]
    vectors = (vectors + 0.5 * generator.normal(size=vectors.shape)).astype(np.float32)
    shop = Embeddings("Bench", "text", "none", vectors, np.ones(n_items, bool))
    epochs = max(int(TRANSLATOR_EPOCHS * scale), 1)
    settings = TranslatorSettings(
        epochs=epochs, eval_step=epochs, warmup_steps=10, kmeans_balance=0, refit_epochs=0
    )
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        translator.train([shop], settings, folder=Path(folder), runtime=runtime)
        metrics = json.loads((Path(folder) / "best_collision_model.json").read_text())["metrics"]
    seconds = time.perf_counter() - began
    return {
        "translator": {
            "n_items": n_items,
            "epochs": epochs,
            "seconds": seconds,
            "embeddings_per_second": n_items * epochs / seconds,
            **metrics,
        }
    }


def bench_recommender_and_decoding(runtime: Runtime, scale: float) -> dict[str, Any]:
    """Train the paper's T5 for one epoch, then rank with it."""
    histories = random_histories(max(int(N_USERS * scale), 64))
    ids = {"text": random_ids("text"), "image": random_ids("image")}
    n_codes = {modality: found.n_codes for modality, found in ids.items()}
    vocabulary = language.build_vocabulary(LanguageSettings(), n_codes=n_codes)
    corpus = language.build_corpus(vocabulary, histories, ids, LanguageSettings())
    model = recommender.build(vocabulary, RecommenderSettings(), seed=0)
    settings = TrainingSettings(
        epochs=1,
        samples_per_epoch=max(int(N_TRAINED * scale), 1024),
        validation_samples=1024,
        micro_batch_size=1024 if runtime.device == "cuda" else 64,
    )
    with tempfile.TemporaryDirectory() as folder:
        recommender.train(
            model, [corpus], settings, stage="finetune", folder=Path(folder), runtime=runtime
        )
        epoch = json.loads((Path(folder) / "history.json").read_text())["epochs"][0]
    inputs = language.encode_histories(
        corpus, histories.held_out(1), task="seqrec", users=np.arange(histories.n_users)
    )
    trie = decoding.build_trie(ids["text"])
    return {"recommender": epoch, "decoding": compare(model, trie, inputs, vocabulary, runtime)}


def compare(
    model: Any, trie: Any, inputs: tuple[Any, Any], vocabulary: Any, runtime: Runtime
) -> dict[str, float]:
    """Rank all users by our search, some by `generate`, and check that they agree."""
    model.to(runtime.device)
    batch = 1024 if runtime.device == "cuda" else 64
    common = {"vocabulary": vocabulary, "modality": "text", "n_beams": N_BEAMS}
    common |= {"batch_size": batch, "runtime": runtime}
    few = tuple(part[:N_GENERATED] for part in inputs)
    decoding.recommend(model, trie, inputs=few, **common)  # warm up
    began = time.perf_counter()
    ours = decoding.recommend(model, trie, inputs=inputs, **common)
    our_seconds = time.perf_counter() - began
    processor = TrieLogitsProcessor(spell(trie, vocabulary, modality="text"))
    ids, mask = (torch.as_tensor(part).to(runtime.device) for part in few)
    began = time.perf_counter()
    found = []
    with torch.autocast(runtime.device, torch.bfloat16, enabled=runtime.precision == "bf16"):
        for first in range(0, len(ids), batch):
            out = model.generate(
                input_ids=ids[first : first + batch],
                attention_mask=mask[first : first + batch],
                num_beams=N_BEAMS,
                num_return_sequences=N_BEAMS,
                max_new_tokens=N_LEVELS + 1,
                length_penalty=0.0,
                logits_processor=LogitsProcessorList([processor]),
            )
            codes = out[:, 1 : 1 + N_LEVELS].cpu().numpy()
            codes = codes - np.array(vocabulary.first_code["text"])
            found.append(trie.find(codes.astype(np.uint16)).reshape(-1, N_BEAMS))
    their_seconds = time.perf_counter() - began
    theirs = np.concatenate(found)
    agreement = np.mean(
        [
            len(set(a) & set(b)) / N_BEAMS
            for a, b in zip(ours.items[: len(theirs)], theirs, strict=True)
        ]
    )
    if agreement < SAME_ITEMS:
        raise SystemExit(f"expected the same items as `generate`, got {agreement:.4f} of them")
    ours_per_second = len(inputs[0]) / our_seconds
    theirs_per_second = len(theirs) / their_seconds
    return {
        "users": len(inputs[0]),
        "n_beams": N_BEAMS,
        "ours_users_per_second": ours_per_second,
        "generate_users_per_second": theirs_per_second,
        "ratio": ours_per_second / theirs_per_second,
        "same_items": float(agreement),
    }


def random_ids(modality: Any) -> SemanticIds:
    """Give every item other codes."""
    generator = np.random.default_rng(len(modality))
    packed = generator.choice(N_CODES**3, size=N_ITEMS, replace=False) * N_CODES
    packed = packed + generator.integers(N_CODES, size=N_ITEMS)
    codes = np.stack([packed // N_CODES**power % N_CODES for power in (3, 2, 1, 0)], axis=1)
    return SemanticIds(
        dataset="Bench",
        modality=modality,
        codes=codes.astype(np.uint16),
        n_codes=(N_CODES,) * N_LEVELS,
        present=np.ones(N_ITEMS, bool),
    )


def random_histories(n_users: int) -> Histories:
    """Draw lengths of 5 and more with the mean of Instruments, 8, and items by popularity."""
    generator = np.random.default_rng(1)
    lengths = 5 + generator.geometric(1 / 4, size=n_users) - 1
    items = (N_ITEMS * generator.random(lengths.sum()) ** 3).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Histories(offsets=offsets, items=items)


if __name__ == "__main__":
    main()
