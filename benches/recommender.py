"""Speed of training the T5, ours and the authors' way, on the same samples.

    OMP_NUM_THREADS=1 python benches/recommender.py --samples 1024

A T5 of the paper's size, the five tasks, codes and histories of Amazon Instruments where
`../shared/data` has them, made-up ones of the same size otherwise. The ways:

    the authors' way      a Trainer-like loop, written anew from its description: samples as they
                          come, joined to strings, taken apart by a tokenizer in the collation,
                          padded to the longest of a batch, a vocabulary with T5's 32,100 unused
                          rows, the loss asked for after every batch
    compact vocabulary    the same without those rows
    ours                  `recommender.train`: token ids from arrays, the samples of an optimizer
                          step in order of their lengths, a T5's forward pass without padding, in
                          float32 and bfloat16

Every way does one optimizer step for 1,024 samples, in batches of several sizes, and the fastest
counts. The bench fails if the authors' way on the compact vocabulary and ours do not have the same
loss on the same samples.
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
from decoding import DATA as INSTRUMENTS
from decoding import instruments, made_up
from numpy.typing import NDArray
from rivals import T5_ROWS
from transformers import AutoTokenizer, T5ForConditionalGeneration

from mql4grec import language, recommender
from mql4grec.codes import SemanticIds
from mql4grec.config import PAPER_TASKS, LanguageSettings, RecommenderSettings, TrainingSettings
from mql4grec.recommender.epochs import Epoch, draw_epoch
from mql4grec.recommender.network import lay_out, summed_loss
from mql4grec.recommender.packing import pack
from mql4grec.runtime import Runtime

STEP = 1024  # samples of an optimizer step, as in the paper


def main() -> None:
    """Time every way and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=2 * STEP, help="that each way trains on")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64, 128])
    options = parser.parse_args()
    world = World(options.samples)
    world.check()
    rows: dict[str, dict[int, float]] = {}
    for name, way in world.ways().items():
        rows[name] = {}
        for size in options.batches:
            began = clock()
            way(size)
            rows[name][size] = options.samples / (clock() - began)
            print(f"{name:40s} batches of {size:4d} {rows[name][size]:8.1f} samples/s", flush=True)
    best = {name: max(rates.values()) for name, rates in rows.items()}
    theirs, compact = list(best.values())[:2]
    print(
        f"\n| way | {' | '.join(map(str, options.batches))} | best | to the authors' way |", end=""
    )
    print(" to it with a compact vocabulary |\n| --- |" + " --- |" * (len(options.batches) + 3))
    for name, rates in rows.items():
        cells = [f"{rate:.1f}" for rate in (*rates.values(), best[name])]
        cells += [f"{best[name] / rival:.1f}" for rival in (theirs, compact)]
        print(f"| {name} | {' | '.join(cells)} |")


def clock() -> float:
    """Give the seconds of the processor if there is one thread, of the clock otherwise."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class World:
    """A shop, its samples as arrays and as strings."""

    def __init__(self, n_samples: int) -> None:
        """Draw the samples."""
        ids, histories = instruments() if INSTRUMENTS.is_dir() else made_up()
        image = SemanticIds("Bench", "image", ids.codes, ids.n_codes, ids.present)
        both = {"text": ids, "image": image}
        sizes = {modality: each.n_codes for modality, each in both.items()}
        self.vocabulary = language.build_vocabulary(LanguageSettings(), n_codes=sizes)
        self.corpus = language.build_corpus(self.vocabulary, histories, both, LanguageSettings())
        self.n_samples = n_samples
        self.epoch: Epoch = draw_epoch(
            self.corpus, PAPER_TASKS, seed=0, stage="finetune", number=0, limit=n_samples
        )
        with tempfile.TemporaryDirectory() as folder:
            language.save_tokenizer(self.vocabulary, Path(folder))
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        batch = language.encode(self.corpus, self.epoch.samples, self.epoch.order)
        self.inputs = self.spell(batch.input_ids)
        self.targets = self.spell(batch.labels)

    def spell(self, ids: NDArray[np.int64]) -> list[str]:
        """Write token ids (S, T) as strings, without ends and padding."""
        names = np.array(self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer)))))
        special = (self.vocabulary.pad, self.vocabulary.eos, language.IGNORED)
        return ["".join(names[row[~np.isin(row, special)]]) for row in ids]

    def build(self, *, n_unused: int = 0, dropout: float = 0.1) -> T5ForConditionalGeneration:
        """Make an untrained T5, with some rows that nothing uses."""
        settings = RecommenderSettings(dropout=dropout)
        vocabulary = self.vocabulary
        if n_unused:
            vocabulary = vocabulary.__class__(
                **{**vars(vocabulary), "n_tokens": vocabulary.n_tokens + n_unused}
            )
        return recommender.build(vocabulary, settings, seed=0)

    def ways(self) -> dict[str, Callable[[int], Any]]:
        """List every way, by the size of its batches."""
        return {
            "the authors' way": lambda size: self.theirs(size, n_unused=T5_ROWS),
            "the authors' way, compact vocabulary": lambda size: self.theirs(size, n_unused=0),
            "ours, float32": lambda size: self.ours(size, precision="fp32"),
            "ours, bfloat16": lambda size: self.ours(size, precision="bf16"),
        }

    def collate(self, rows: list[int]) -> dict[str, torch.Tensor]:
        """Make a batch of strings."""
        inputs = self.tokenizer(
            [self.inputs[row] for row in rows], padding=True, return_tensors="pt"
        )
        targets = self.tokenizer(
            [self.targets[row] for row in rows], padding=True, return_tensors="pt"
        )
        labels = targets.input_ids.masked_fill(targets.attention_mask == 0, language.IGNORED)
        return {
            "input_ids": inputs.input_ids,
            "attention_mask": inputs.attention_mask,
            "labels": labels,
        }

    def theirs(self, size: int, *, n_unused: int) -> None:
        """Train the authors' way."""
        model = self.build(n_unused=n_unused).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)
        loader = torch.utils.data.DataLoader(
            list(range(self.n_samples)), batch_size=size, collate_fn=self.collate
        )
        n_batches, losses = STEP // size, []
        for number, batch in enumerate(loader, start=1):
            loss = model(**batch).loss / n_batches
            loss.backward()
            losses.append(loss.item())
            if number % n_batches == 0 or number == len(loader):
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

    def ours(self, size: int, *, precision: str) -> None:
        """Train ours for an epoch of as many samples."""
        settings = TrainingSettings(
            epochs=1,
            batch_size=STEP,
            micro_batch_size=size,
            samples_per_epoch=self.n_samples,
            validation_samples=1,
        )
        with tempfile.TemporaryDirectory() as folder:
            recommender.train(
                self.build(),
                [self.corpus],
                settings,
                stage="finetune",
                folder=Path(folder),
                runtime=Runtime(seed=0, precision=precision),  # the samples of `epoch`
            )

    @torch.no_grad()
    def check(self) -> None:
        """Check that both have the same loss on the same samples.

        Raises:
            SystemExit: If they do not.
        """
        model = self.build(dropout=0.0).eval()
        rows = list(range(64))
        theirs = model(**self.collate(rows)).loss.item()
        batch = language.encode(self.corpus, self.epoch.samples, self.epoch.order[rows])
        packed = pack(batch, start=0, device=model.device, keep_padding=False)
        network = lay_out(model, n_read=batch.input_ids.shape[1], n_written=batch.labels.shape[1])
        ours = summed_loss(network, packed).item() / len(packed.labels)
        if abs(ours - theirs) > 1e-4:
            raise SystemExit(f"loss: expected {theirs}, as the authors' way has it, got {ours}")
        print(f"loss of {len(rows)} samples: {theirs:.5f} by both")


if __name__ == "__main__":
    main()
