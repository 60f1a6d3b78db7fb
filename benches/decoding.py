"""Speed of constrained decoding, ours and others', on the same model, users and items.

    OMP_NUM_THREADS=1 python benches/decoding.py --users 256

A T5 of the paper's size with random weights, seed 0, writes the text codes of Amazon Instruments:
real codes and histories where `../shared/data` has them, made-up ones of the same size otherwise.
The ways:

    ours                  `decoding.recommend` in float32, in bfloat16, normalised by level
    generate, processor   `transformers.generate` with our `TrieLogitsProcessor`
    generate, dictionary  `generate` with the authors' trie: nested dictionaries, asked beam by beam
    generate, free        `generate` without any constraint
    generate, the authors' way   the dictionary, with the 32,100 rows of T5's own vocabulary beside
                          the codes, and users as they come
    ours, ..., authors' vocabulary   ours, on that model

All but the authors' way take users in the order of their histories' lengths. Every way runs in
batches of several sizes, and the fastest counts: `generate` on a CPU likes small batches. One ratio
is to the dictionary on our vocabulary and in our order of users, which tells what the search alone
gains; the other to the authors' way, which tells what all of ours together does. On a GPU, ours
runs by CUDA graphs as well. Then, what a batch of 32 users takes, and what the constraint adds to a
step for a catalog of many items. The bench fails if ways that search the same do not find the same
items. Figures go to a JSON file in `--out`, named after the device.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rivals import DictionaryTrie, Rival, with_authors_rows
from torch import Tensor
from transformers import LogitsProcessorList

from mql4grec import decoding, language, recommender
from mql4grec.catalog import Histories
from mql4grec.codes import SemanticIds
from mql4grec.config import LanguageSettings, RecommenderSettings
from mql4grec.decoding import Search, TrieLogitsProcessor, spell
from mql4grec.decoding.beams import Target, level_scores
from mql4grec.decoding.device_trie import DeviceTrie, lay_out
from mql4grec.decoding.network import Past
from mql4grec.decoding.t5 import lay_out_t5
from mql4grec.runtime import Runtime, describe_machine

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "Instruments"
N_CODES, N_ITEMS, N_USERS = (256, 256, 256, 256), 6250, 17112
N_BEAMS = 20
FAIR, AUTHORS = "generate, dictionary", "generate, the authors' way"  # the rivals
SAME_ITEMS = 0.995  # of all places: float32 rounds differently in sums of other orders
ALLOCATOR = (
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
)
N_TOGETHER = 32  # users of a small batch
N_TIMES = 30  # that a part of a step is repeated


def main() -> None:
    """Time every way on the same users, print the table, and check that the ways agree."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--users", type=int, default=256, help="users that ours ranks for")
    parser.add_argument("--rival-users", type=int, default=256, help="users of the other ways")
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeat", type=int, default=3, help="the fastest of so many is shown")
    parser.add_argument("--items", type=int, default=20_000_000, help="of the constraint's catalog")
    parser.add_argument("--out", type=Path, help="folder for the figures")
    options = parser.parse_args()
    world = World(options.device)
    print(describe(options))
    rows, found = {}, {}
    for name, way, users in world.ways(options):
        inputs = tuple(part[users] for part in world.inputs)
        way(tuple(part[:2] for part in inputs), 2)  # warm up
        rows[name] = {}
        for batch in options.batches:
            run = partial(way, inputs, batch)
            seconds = min(timed(run, found, name) for _ in range(options.repeat))
            rows[name][batch] = len(users) / seconds
            print(f"{name:36s} batches of {batch:5d} {rows[name][batch]:8.1f} users/s", flush=True)
    print_table(rows, found)
    check(found)
    share = world.trie_share() if options.device == "cpu" else None
    if share is not None:
        print(f"\nshare of the trie in ours, float32: {share:.2%}")
    small, constraint = world.small_batches(), world.constraint(options.items)
    for name, value in (small | constraint).items():
        print(f"{name}: {value:.4g}")
    if options.out is not None:
        figures = {"users_per_second": rows, "trie_share": share} | small | constraint
        write(options, figures)


def print_table(rows: dict[str, dict[int, float]], found: dict[str, NDArray[np.int32]]) -> None:
    """Print users per second by batch size, and what the best are to the best of the two rivals."""
    sizes = list(next(iter(rows.values())))
    print(f"\n| way | {' | '.join(map(str, sizes))} | best | to {FAIR} | to {AUTHORS} |", end="")
    print(" same items | distinct items |\n| --- |" + " --- |" * (len(sizes) + 5))
    n_users = len(found[FAIR])
    for name, rates in rows.items():
        best, same = max(rates.values()), agreement(found[name], found[rival_of(name)])
        cells = [f"{rate:.1f}" for rate in (*rates.values(), best)]
        cells += [f"{best / max(rows[rival].values()):.1f}" for rival in (FAIR, AUTHORS)]
        cells += [f"{same:.4f}", str(len(np.unique(found[name][:n_users])))]
        print(f"| {name} | {' | '.join(cells)} |")


def rival_of(name: str) -> str:
    """Name the rival that has the same model."""
    return AUTHORS if "authors" in name else FAIR


def check(found: dict[str, NDArray[np.int32]]) -> None:
    """Fail if a way that searches as its rival does finds other items."""
    for name in ("ours, float32", "generate, processor", "ours, float32, authors' vocabulary"):
        same = agreement(found[name], found[rival_of(name)])
        if same < SAME_ITEMS:
            raise SystemExit(
                f"{name}: expected the same items as by {rival_of(name)}, got {same:.4f}"
            )


def write(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Write the figures to a file that is named after the device."""
    machine = describe_machine(Runtime(device=options.device))
    name = re.sub(r"[^a-z0-9]+", "-", machine.split(",")[0].lower()).strip("-")
    figures = {
        "machine": machine,
        "date": time.strftime("%Y-%m-%d"),
        "options": describe(options),
    } | figures
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"decoding-{name}.json").write_text(json.dumps(figures, indent=2) + "\n")


def seconds_of(work: Callable[[], object], device: str, *, n_times: int = N_TIMES) -> float:
    """Give the seconds that a part of a step takes, the mean of many."""
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(n_times):
        work()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / n_times


def describe(options: argparse.Namespace) -> str:
    """Tell what else the figures depend on."""
    allocator = {name: value for name, value in os.environ.items() if name in ALLOCATOR} or "as is"
    seconds = "CPU seconds" if one_thread() else "seconds"
    return (
        f"{seconds}, {options.device}, {torch.get_num_threads()} threads, {N_BEAMS} beams, "
        f"allocator {allocator}, torch {torch.__version__}"
    )


def timed(way: Callable[[], Any], found: dict[str, Any], name: str) -> float:
    """Run a way, keep what it found, and give its seconds: of the CPU, if that has one thread."""
    clock = time.process_time if one_thread() else time.perf_counter
    began = clock()
    found[name] = way()
    return clock() - began


def one_thread() -> bool:
    """Tell whether all work is done by one thread, so that its own time counts, not others'."""
    return not torch.cuda.is_available() and torch.get_num_threads() == 1


def agreement(items: NDArray[np.int32], others: NDArray[np.int32]) -> float:
    """Give the share of items that are in both lists, of the users of both."""
    pairs = list(zip(items, others, strict=False))
    return float(np.mean([len(set(a.tolist()) & set(b.tolist())) / len(a) for a, b in pairs]))


class World:
    """A model, a trie, and users."""

    def __init__(self, device: str) -> None:
        """Build all three on a device."""
        self.device = device
        self.ids, histories = instruments() if DATA.is_dir() else made_up()
        settings = LanguageSettings()
        n_codes = {"text": self.ids.n_codes, "image": self.ids.n_codes}
        self.vocabulary = language.build_vocabulary(settings, n_codes=n_codes)
        image = SemanticIds("Bench", "image", self.ids.codes, self.ids.n_codes, self.ids.present)
        ids = {"text": self.ids, "image": image}
        corpus = language.build_corpus(self.vocabulary, histories, ids, settings)
        users = np.random.default_rng(0).permutation(histories.n_users)
        self.inputs = language.encode_histories(
            corpus, histories.held_out(1), task="seqrec", users=users
        )
        self.model = recommender.build(self.vocabulary, RecommenderSettings(), seed=0).eval()
        self.model.to(device)
        self.trie = decoding.build_trie(self.ids)
        self.wide_vocabulary, self.wide_model = with_authors_rows(self.vocabulary)
        self.wide_model.to(device)

    def ways(self, options: argparse.Namespace) -> list[tuple[str, Callable[..., Any], Any]]:
        """List every way: its name, what ranks, for which users."""
        many = np.arange(min(options.users, len(self.inputs[0])))
        few = many[: options.rival_users]
        first = np.array(self.vocabulary.first_code["text"])
        processor = TrieLogitsProcessor(spell(self.trie, self.vocabulary, modality="text"))
        dictionary = DictionaryTrie(self.ids.codes[self.ids.present] + first, 0, 1)
        by_processor = {"logits_processor": LogitsProcessorList([processor])}
        by_dictionary = {"prefix_allowed_tokens_fn": dictionary.allowed}
        free = Rival(self.model, self.ids, self.trie, first, N_BEAMS)
        authors = replace(free, model=self.wide_model, sort=False, constraint=by_dictionary)
        graphs = [
            ("ours, float32, graphs", self.ours(graphs=True), many),
            ("ours, bfloat16, graphs", self.ours("bf16", graphs=True), many),
        ]
        return [
            *(graphs if self.device == "cuda" else []),
            ("ours, float32", self.ours(), many),
            ("ours, bfloat16", self.ours("bf16"), many),
            ("ours, float32, level", self.ours(normalise="level"), many),
            ("ours, bfloat16, level", self.ours("bf16", normalise="level"), many),
            ("ours, float32, authors' vocabulary", self.ours(wide=True), many),
            ("ours, bfloat16, authors' vocabulary", self.ours("bf16", wide=True), many),
            ("generate, processor", replace(free, constraint=by_processor).rank, few),
            (FAIR, replace(free, constraint=by_dictionary).rank, few),
            ("generate, free", free.rank, few),
            (AUTHORS, authors.rank, few),
        ]

    def ours(
        self, precision: str = "fp32", *, wide: bool = False, **search: Any
    ) -> Callable[..., Any]:
        """Make our way; `wide`: on the model with the authors' vocabulary."""
        runtime = Runtime(device=self.device, precision=precision)

        def rank(inputs: Any, batch: int) -> NDArray[np.int32]:
            return decoding.recommend(
                self.wide_model if wide else self.model,
                self.trie,
                vocabulary=self.wide_vocabulary if wide else self.vocabulary,
                modality="text",
                inputs=inputs,
                n_beams=N_BEAMS,
                batch_size=batch,
                search=Search(**search),
                runtime=runtime,
            ).items

        return rank

    def small_batches(self) -> dict[str, float]:
        """Measure what a batch of few users takes, over many batches, in milliseconds."""
        found = {}
        n_batches = 64 if self.device == "cuda" else 4
        users = np.arange(N_TOGETHER * n_batches) % len(self.inputs[0])
        inputs = tuple(part[users] for part in self.inputs)
        ways: list[dict[str, Any]] = [{}]
        ways += [{"graphs": True}] if self.device == "cuda" else []
        for precision in ("fp32", "bf16"):
            for search in ways:
                rank = partial(self.ours(precision, **search), inputs, N_TOGETHER)
                seconds = seconds_of(rank, self.device, n_times=3)
                name = ", ".join([f"batch of {N_TOGETHER}, {precision}", *search])
                found[f"{name}, ms"] = 1000 * seconds / n_batches
        return found

    @torch.inference_mode()
    def constraint(self, n_items: int) -> dict[str, float]:
        """Measure what the trie of a large catalog adds to a step: children listed, looked up, and
        chosen from, against a choice among all codes; after each number of codes.
        """
        device = torch.device(self.device)
        trie = lay_out(decoding.build_trie(many_items(n_items)), device=device)
        first = self.vocabulary.first_code["text"]
        target = Target(trie, first, self.vocabulary.pad, self.vocabulary.eos)
        network = lay_out_t5(self.model, dtype=torch.float32)
        ids, mask = (torch.as_tensor(part[:N_TOGETHER]).to(device) for part in self.inputs)
        memory = network.read(ids, mask, n_steps=len(first) + 1)
        found = {"items of the constraint": float(trie.n_items)}
        for level, start in enumerate(first):
            beams = (len(ids), N_BEAMS if level else 1)
            nodes = torch.randint(trie.levels[level], trie.levels[level + 1], beams, device=device)
            tokens = torch.full(beams, start, device=device)
            past = Past()
            run = partial(network.step, tokens, memory, past=past)
            hidden, _ = run()
            codes = torch.arange(trie.n_codes[level], device=device).expand(*beams, -1)
            gained = level_scores(
                network, target, hidden, level=level, codes=codes, taken=codes >= 0
            )

            def choose(level: int = level, nodes: Tensor = nodes, gained: Tensor = gained) -> None:
                children, taken = trie.slots(nodes, level)
                scores = gained.gather(2, trie.codes[children])
                kept = torch.where(taken, scores, -torch.inf).flatten(1)
                kept.topk(min(N_BEAMS + 1, kept.shape[1]))

            def choose_freely(gained: Tensor = gained) -> None:
                gained.flatten(1).topk(N_BEAMS + 1)

            ours, free = (seconds_of(work, self.device) for work in (choose, choose_freely))
            whole = seconds_of(run, self.device) + ours
            found[f"constraint after {level} codes, ms"] = 1000 * (ours - free)
            found[f"constraint after {level} codes, share of the step"] = (ours - free) / whole
        return found

    def trie_share(self) -> float:
        """Measure how much of our time on a CPU goes to listing children in the trie."""
        plain, spent = DeviceTrie.slots, []

        def slots(trie: DeviceTrie, nodes: Any, level: int) -> Any:
            began = time.thread_time()
            children, taken = plain(trie, nodes, level)
            torch.where(taken, trie.codes[children], 0)  # what beam search does with them
            spent.append(time.thread_time() - began)
            return children, taken

        inputs = tuple(part[:N_TOGETHER] for part in self.inputs)
        rank = partial(self.ours(), inputs, N_TOGETHER)
        began = time.thread_time()
        rank()
        whole = time.thread_time() - began
        DeviceTrie.slots = slots  # type: ignore[method-assign]  # to time it
        try:
            rank()
        finally:
            DeviceTrie.slots = plain  # type: ignore[method-assign]  # as it was
        return sum(spent) / whole


def many_items(n_items: int) -> SemanticIds:
    """Draw items without codes in common."""
    generator = np.random.default_rng(0)
    packed = np.unique(generator.integers(2**32, size=n_items, dtype=np.uint64))
    codes = np.stack([packed >> shift & 255 for shift in (24, 16, 8, 0)], axis=1)
    return shop(codes.astype(np.int64))


def instruments() -> tuple[SemanticIds, Histories]:
    """Read the published picture codes, which are unique, as codes of the bench, and histories."""
    index = json.loads((DATA / "Instruments.index_vitemb.json").read_text())
    events = json.loads((DATA / "Instruments.inter.json").read_text())
    spelt = [index[str(item)] for item in range(len(index))]
    codes = np.array([[int(c.split("_")[1].rstrip(">")) for c in row] for row in spelt])
    return shop(codes), histories_of([events[user] for user in events])


def made_up() -> tuple[SemanticIds, Histories]:
    """Draw codes, and histories as long as Instruments'."""
    generator = np.random.default_rng(0)
    packed = generator.choice(256**3, size=N_ITEMS, replace=False)
    codes = np.stack([packed // 256**power % 256 for power in (2, 1, 0)], axis=1)
    codes = np.concatenate([codes, generator.integers(256, size=(N_ITEMS, 1))], axis=1)
    lengths = 5 + generator.geometric(1 / 4, size=N_USERS) - 1
    return shop(codes), histories_of(
        [generator.integers(N_ITEMS, size=length).tolist() for length in lengths]
    )


def shop(codes: NDArray[np.int64]) -> SemanticIds:
    """Make the record of codes."""
    present = np.ones(len(codes), bool)
    return SemanticIds("Bench", "text", codes.astype(np.uint16), N_CODES, present)


def histories_of(lists: list[list[int]]) -> Histories:
    """Join lists of items."""
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    return Histories(offsets=offsets, items=np.concatenate(lists).astype(np.int32))


if __name__ == "__main__":
    main()
