"""Speed of training: the T5, ours and the authors' way, and the decoder-only model beside them.

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

Then the decoder-only model (`recommender.backbone: causal`), of the paper's sizes of layers and of
those of `configs/instruments.yaml`, with an optimizer step for every batch, as that file has it. A
sample is a history there, so that models are compared by their targets: next items to be learnt in
one modality, one for each sample of the T5, two for each item of a history. The second table has

    tokens per target     what passes the layers: tokens of the encoder and the decoder, or items
                          and codes (of which only the last layers see the codes)
    seconds per epoch     until every training event has been learnt once in both modalities; all
                          five tasks of the T5 are more samples than that (the next column)

What EASE^R teaches the model of that file is left out. These are other models that learn something
else: their losses cannot be compared, and a target that is learnt faster is not one that is learnt
as well. What a model is good for, only its rankings tell.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from decoding import DATA as INSTRUMENTS
from decoding import instruments, made_up
from numpy.typing import NDArray
from rivals import T5_ROWS
from transformers import AutoTokenizer, T5ForConditionalGeneration

from mql4grec import config, language, recommender
from mql4grec.codes import SemanticIds
from mql4grec.config import PAPER_TASKS, LanguageSettings, RecommenderSettings, TrainingSettings
from mql4grec.recommender.epochs import Epoch, draw_epoch
from mql4grec.recommender.layout import lay_out
from mql4grec.recommender.network import summed_loss
from mql4grec.recommender.packing import pack
from mql4grec.runtime import Runtime

STEP = 1024  # samples of an optimizer step, as in the paper
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "instruments.yaml"
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}


def main() -> None:
    """Time every way and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=2 * STEP, help="that each way trains on")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64, 128])
    options = parser.parse_args()
    world = World(options.samples)
    world.check()
    rows = rates_of(world.ways(), options.batches, n_done=options.samples)
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
    print()
    compare_models(world, options.batches, t5={f"T5, {name}": rate for name, rate in best.items()})


def rates_of(
    ways: dict[str, Callable[[int], Any]], sizes: list[int], *, n_done: int
) -> dict[str, dict[int, float]]:
    """Time ways that each learn so many samples or targets: how many a second, by batch size."""
    rows: dict[str, dict[int, float]] = {}
    for name, way in ways.items():
        rows[name] = {}
        for size in sizes:
            began = clock()
            way(size)
            rows[name][size] = n_done / (clock() - began)
            print(f"{name:40s} batches of {size:4d} {rows[name][size]:8.1f} /s", flush=True)
    return rows


def compare_models(world: World, sizes: list[int], *, t5: dict[str, float]) -> None:
    """Time the decoder-only models, and print what they and the T5 make of a second."""
    n_targets, places = world.targets_of_windows()
    reads = {name: world.tokens_of_samples() for name in t5}
    epochs = {name: len(world.epoch.samples) for name in t5}
    rates = dict(t5)
    for name, settings in decoders().items():
        ways = {
            f"decoder-only, {name}, {precision}": Whole(world, settings, value)
            for precision, value in PRECISIONS.items()
        }
        for way, found in rates_of(ways, sizes, n_done=n_targets).items():
            rates[way], reads[way] = max(found.values()), places / n_targets
            epochs[way] = world.targets_of_an_epoch()
    n_both = 2 * world.n_events()
    print("\n| model | targets/s | tokens per target | seconds per epoch |", end="")
    print(" targets of its own epoch | seconds |\n| --- |" + " --- |" * 5)
    for name, rate in rates.items():
        cells = [f"{rate:.1f}", f"{reads[name]:.1f}", f"{n_both / rate:.0f}"]
        print(f"| {name} | {' | '.join([*cells, str(epochs[name])])} | {epochs[name] / rate:.0f} |")


def decoders() -> dict[str, RecommenderSettings]:
    """List the sizes of the decoder-only model."""
    return {
        "the paper's sizes": RecommenderSettings(backbone="causal"),
        CONFIG.name: config.load(CONFIG).recommender,
    }


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
        for _ in self.their_steps(size, n_unused=n_unused):
            pass

    def their_steps(
        self, size: int, *, n_unused: int, device: str = "cpu", bf16: bool = False
    ) -> Iterator[torch.Tensor]:
        """Do optimizer steps the authors' way; gives the loss of each step's last batch."""
        model = self.build(n_unused=n_unused).train().to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)
        loader = torch.utils.data.DataLoader(
            list(range(self.n_samples)), batch_size=size, collate_fn=self.collate
        )
        n_batches, losses = STEP // size, []
        for number, batch in enumerate(loader, start=1):
            given = {name: tensor.to(device) for name, tensor in batch.items()}
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                loss = model(**given).loss / n_batches
            loss.backward()
            losses.append(loss.item())
            if number % n_batches == 0 or number == len(loader):
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                yield loss.detach() * n_batches

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

    def windows(self, *, limit: int | None = None) -> Epoch:
        """Draw the histories that a decoder-only model learns from."""
        return draw_epoch(
            self.corpus, (), seed=0, stage="finetune", number=0, limit=limit, whole=True
        )

    def targets_of_windows(self) -> tuple[int, int]:
        """Count the targets of as many histories as there are samples, and what they read."""
        drawn = self.windows(limit=self.n_samples)
        n_codes = self.vocabulary.n_codes
        n_places = 1 + sum(len(levels) - 1 for levels in n_codes.values())  # an item, and codes
        n_read = n_places * int(drawn.input_lengths[drawn.order].sum())
        return self._n_targets(drawn), n_read

    def targets_of_an_epoch(self) -> int:
        """Count the targets of all histories."""
        return self._n_targets(self.windows())

    def _n_targets(self, drawn: Epoch) -> int:
        assert drawn.n_answered is not None
        return len(self.vocabulary.n_codes) * int(drawn.n_answered[drawn.order].sum())

    def tokens_of_samples(self) -> float:
        """Give how many tokens the T5 reads and writes for a sample."""
        rows = self.epoch.order
        read, written = self.epoch.input_lengths[rows], self.epoch.target_lengths[rows]
        return float((read + written).mean())

    def n_events(self) -> int:
        """Count the training events that follow another."""
        lengths = self.corpus.histories.held_out(2).lengths()
        return int(np.maximum(lengths - 1, 0).sum())

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
        n_read, n_written = batch.input_ids.shape[1], batch.labels.shape[1]
        network = lay_out(model, n_read=n_read, n_written=n_written, multiply_out=True)
        ours = summed_loss(network, packed).item() / len(packed.labels)
        if abs(ours - theirs) > 1e-4:
            raise SystemExit(f"loss: expected {theirs}, as the authors' way has it, got {ours}")
        print(f"loss of {len(rows)} samples: {theirs:.5f} by both")


@dataclass(frozen=True)
class Whole:
    """Trains a decoder-only model on whole histories.

    Attributes:
        world: The shop.
        settings: Of the model.
        precision: Of the matrix products.
    """

    world: World
    settings: RecommenderSettings
    precision: str

    def __call__(self, size: int) -> None:
        """Train on as many histories as there are samples, a step for so many of them."""
        world, runtime = self.world, Runtime(seed=0, precision=self.precision)
        settings = TrainingSettings(
            epochs=1,
            batch_size=size,
            micro_batch_size=size,
            samples_per_epoch=world.n_samples,
            validation_samples=1,
        )
        model = recommender.build(world.vocabulary, self.settings, seed=0)
        with tempfile.TemporaryDirectory() as folder:
            recommender.train(
                model,
                [world.corpus],
                settings,
                stage="finetune",
                folder=Path(folder),
                runtime=runtime,
            )


if __name__ == "__main__":
    main()
