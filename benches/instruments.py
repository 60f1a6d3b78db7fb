"""What a device learns of Amazon Instruments in minutes, and how good it is then.

    python benches/instruments.py --minutes 10 --out benches/results
    python benches/instruments.py --users 200 --minutes 0.2 --layers 1   # a look, on a CPU

Real histories and the published codes of texts (those that items share repaired) and pictures, from
`--data`. Those of `--models`, one after the other:

    t5            the paper's sizes, five tasks and fine-tuning (batch 1,024, lr 5e-4, cosine,
                  warm-up 1 %), without pre-training
    t5_level      the same, loss and search over the codes of a level (`loss_over: level`)
    decoder_only  the model and the training of `configs/instruments.yaml`, EASE^R's lists included

Each trains for `--minutes`, validation included: three epochs (on a CPU, two of 64 samples) measure
the speed, so that as many are planned as have room (200 and 12 at most), and the cosine ends with
the time. The
best epoch is the one of the highest NDCG@10 of 2,000 validation users by beam search (20 beams).
Then all test users are decoded (50 beams). Figures of each model:

    samples_per_second, epochs, curve   of the training; a sample of decoder_only is a history
    best                                epoch, seconds and NDCG@10 of validation
    products                            FLOP of matrix products per sample as they ran, forward and
                                        backward, padding included (torch counts), and what share
                                        that makes of the peak in bfloat16 (from data sheets)
    rankings                            HR and NDCG of text, image and fused, seen items kept and
                                        removed; beside them `baselines`
    same_items                          share of the ten best that a CPU in float32 has too; below
                                        .9 the bench fails

They go to a JSON file in `--out`, named after the device, written anew after each model. EASE^R's
lists and the baselines take one to two minutes of a CPU. With `--users`, only their items are
ranked, and the figures are no result.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from decoding import DATA, agreement
from numpy.typing import NDArray
from scipy import sparse
from torch.utils.flop_counter import FlopCounterMode

from mql4grec import baselines, codes, config, decoding, evaluation, language, recommender
from mql4grec.catalog import Histories
from mql4grec.codes import SemanticIds
from mql4grec.config import (
    EvaluationSettings,
    LanguageSettings,
    Modality,
    RecommenderSettings,
    RuntimeSettings,
    Task,
    TrainingSettings,
)
from mql4grec.decoding import EVERYTHING, Filters, ItemTrie, Rankings, Search
from mql4grec.language import Corpus
from mql4grec.recommender import Model, Teacher, steps, training
from mql4grec.recommender.binned import PIECES
from mql4grec.recommender.epochs import draw_epoch
from mql4grec.recommender.graphs import Recordings
from mql4grec.runtime import SILENT, Runtime, describe_machine, start

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "instruments.yaml"
LINEAR = config.load(CONFIG).evaluation  # EASE^R's settings, the weight of codes given
INDEX: dict[Modality, str] = {"text": "lemb", "image": "vitemb"}
TASK: dict[Modality, Task] = {"text": "seqrec", "image": "seqimage"}  # by which a T5 ranks
SEEN = {False: "seen_kept", True: "seen_removed"}
MODELS = ("t5", "t5_level", "decoder_only")
BASELINES = ("item_knn", "ease", "ease_codes")
SEED, SELECT_USERS, SELECT_BEAMS, N_BEAMS = 2025, 2000, 20, 50
VALIDATION_SAMPLES = 2048  # of the validation loss, by which nothing is chosen
COMPARED_USERS, SAME_ITEMS = 256, 0.9  # of ten; bfloat16 may swap neighbours
EACH = Search()  # as usual
PEAKS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}  # FLOP/s, dense


@dataclass(frozen=True)
class Shop:
    """What is learnt, where and how it is searched: `groups` of items begin alike, `users` are the
    validation's.
    """

    histories: Histories
    n_items: int
    groups: sparse.csr_array
    corpus: Corpus
    tries: dict[Modality, ItemTrie]
    users: NDArray[np.int64]
    runtime: Runtime
    search: Search = EACH


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and rank, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="NAME, of NAME.inter.json, ...")
    parser.add_argument("--minutes", type=float, default=0.75, help="of each training")
    parser.add_argument("--users", type=int, help="only so many, and their items alone")
    parser.add_argument("--models", nargs="+", default=["t5", "decoder_only"], choices=MODELS)
    parser.add_argument("--layers", type=int, help="of each model, instead of its own number")
    parser.add_argument("--out", type=Path, help="folder for the figures")
    options = parser.parse_args(arguments)
    if not options.data.is_dir():
        raise SystemExit(f"`--data`: expected a folder, got {str(options.data)!r}; name another")
    runtime = start(RuntimeSettings(), seed=SEED)
    shop = read_shop(options.data, n_users=options.users, runtime=runtime)
    machine = describe_machine(runtime)
    figures: dict[str, Any] = {
        "machine": machine,
        "date": time.strftime("%Y-%m-%d"),
        "minutes": options.minutes,
        "n_users": shop.histories.n_users,
        "n_items": shop.n_items,
    }
    settings = models(options.layers, on_gpu=shop.runtime.device == "cuda")
    for name in options.models:
        figures[name] = bench_model(shop, settings[name], minutes=options.minutes)
        if "baselines" not in figures:
            figures["baselines"] = rank_baselines(shop)
        print(json.dumps(figures, indent=2), flush=True)
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
            path = options.out / f"instruments-{device_name(machine)}.json"
            path.write_text(json.dumps(figures, indent=2) + "\n")
        if figures[name]["same_items"] < SAME_ITEMS:
            raise SystemExit(f"{name}: expected the items of a CPU, got {figures[name]}")


def device_name(machine: str) -> str:
    """Give the name of a machine's device as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", machine.split(",")[0].lower()).strip("-")


def models(n_layers: int | None, *, on_gpu: bool) -> dict[str, RecommenderSettings]:
    """Give the models and how they are trained."""
    t5 = TrainingSettings(
        micro_batch_size=1024 if on_gpu else 64,
        graphs=on_gpu,
        select_by="ndcg",
        select_users=SELECT_USERS,
    )
    decoder_only = config.load(CONFIG).recommender
    plan = decoder_only.finetune.model_copy(update={"graphs": on_gpu})
    level = t5.model_copy(update={"loss_over": "level"})
    found = {
        "t5": RecommenderSettings(finetune=t5),
        "t5_level": RecommenderSettings(finetune=level),
        "decoder_only": decoder_only.model_copy(update={"finetune": plan}),
    }
    update = {"num_layers": n_layers, "num_decoder_layers": n_layers} if n_layers else {}
    return {name: settings.model_copy(update=update) for name, settings in found.items()}


def read_shop(folder: Path, *, n_users: int | None, runtime: Runtime) -> Shop:
    """Read the authors' files of all users, or of the first so many and their items."""
    name = folder.name
    events = json.loads((folder / f"{name}.inter.json").read_text())
    lists = list(events.values())[:n_users]
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    rows, items = np.unique(np.concatenate(lists), return_inverse=True)
    histories = Histories(offsets=offsets, items=items.astype(np.int32))
    ids = {modality: read_codes(folder, modality, rows=rows) for modality in INDEX}
    settings = LanguageSettings()
    n_codes = {modality: found.n_codes for modality, found in ids.items()}
    vocabulary = language.build_vocabulary(settings, n_codes=n_codes)
    drawn = np.random.default_rng(SEED).permutation(histories.n_users)[:SELECT_USERS]
    return Shop(
        histories=histories,
        n_items=len(rows),
        groups=codes.group_by_prefix(ids.values()) * LINEAR.ease_codes_weight,
        corpus=language.build_corpus(vocabulary, histories, ids, settings),
        tries={modality: decoding.build_trie(found) for modality, found in ids.items()},
        users=np.sort(drawn),
        runtime=runtime,
    )


def read_codes(folder: Path, modality: Modality, *, rows: Any) -> SemanticIds:
    """Read the codes of some items, repaired among all."""
    path = folder / f"{folder.name}.index_{INDEX[modality]}.json"
    n_items = 1 + max(map(int, json.loads(path.read_text())))
    ids, _ = codes.read_index(path, dataset=folder.name, modality=modality, n_items=n_items)
    return replace(ids, codes=ids.codes[rows], present=ids.present[rows])


def bench_model(shop: Shop, settings: RecommenderSettings, *, minutes: float) -> dict[str, Any]:
    """Train a model for some minutes, and rank for all test users."""
    shop = replace(shop, search=Search(normalise=settings.finetune.loss_over))
    share = settings.finetune.teacher_share
    teacher = make_teacher(shop, share=share) if share else None
    plan, flop = plan_training(shop, settings, teacher, minutes=minutes)
    model, history = train(shop, settings, plan, teacher)
    curve, number = history["epochs"], history["best_epoch"]
    rate = median(epoch["samples_per_second"] for epoch in curve)
    return {
        "settings": settings.model_dump(mode="json", exclude={"pretrain", "finetune"}),
        "training": plan.model_dump(mode="json"),
        "samples_per_second": rate,
        "samples_per_epoch": history["n_samples"],
        "epochs": {"planned": plan.epochs, "done": len(curve)},
        "best": {key: curve[number - 1][key] for key in ("epoch", "seconds", "valid_ndcg")},
        "products": products(flop, rate),
        "rankings": rank_all(shop, model),
        "same_items": compare_with_cpu(shop, model),
        "curve": curve,
    }


def products(flop: float, rate: float) -> dict[str, Any]:
    """Tell what share of the device's peak the training's matrix products are."""
    peak = find_peak()
    return {
        "flop_per_sample": flop,
        "flop_per_second": flop * rate,
        "peak_flop_per_second": peak,
        "share_of_peak": None if peak is None else flop * rate / peak,
    }


def find_peak() -> float | None:
    """Give the FLOP that the device does a second in bfloat16 at most, None if it is not known."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def plan_training(
    shop: Shop, settings: RecommenderSettings, teacher: Teacher | None, *, minutes: float
) -> tuple[TrainingSettings, float]:
    """Plan as many epochs, or a part of one, as have room; gives FLOP per sample too."""
    full = settings.finetune
    full = full.model_copy(update={"validation_samples": VALIDATION_SAMPLES})
    whole = settings.backbone == "causal"
    epoch = draw_epoch(shop.corpus, full.tasks, seed=SEED, stage="finetune", number=0, whole=whole)
    n_samples = len(epoch.order)
    on_gpu = shop.runtime.device == "cuda"
    n_few = n_samples if on_gpu else min(n_samples, 64)
    few = {"epochs": 3 if on_gpu else 2, "samples_per_epoch": n_few}
    _, history = train(shop, settings, full.model_copy(update=few), teacher)
    *_, before, last = history["epochs"]
    rate = last["samples_per_second"]
    validation = last["seconds"] - before["seconds"] - n_few / rate
    n_epochs = int(60 * minutes / (n_samples / rate + validation))
    plan = {"epochs": max(min(n_epochs, full.epochs), 1), "max_minutes": minutes}
    if not n_epochs:
        room = int(rate * (60 * minutes - validation))
        plan["samples_per_epoch"] = min(max(room, full.batch_size), n_samples)
    n_counted = min(n_few, 2 * full.batch_size)
    return full.model_copy(update=plan), count_flop(
        shop, settings, full, teacher, n_samples=n_counted
    )


def count_flop(
    shop: Shop,
    settings: RecommenderSettings,
    plan: TrainingSettings,
    teacher: Teacher | None,
    *,
    n_samples: int,
) -> float:
    """Count the FLOP of a sample's matrix products, forward and backward, by steps that are neither
    compiled nor recorded, but have the same shapes.
    """
    model = build(shop, settings)
    with tempfile.TemporaryDirectory() as folder:
        loop = training.prepare(
            model,
            [shop.corpus],
            settings=plan.model_copy(update={"graphs": False}),
            stage="finetune",
            folder=Path(folder),
            runtime=shop.runtime,
            journal=SILENT,
            processes=PartialState(cpu=shop.runtime.device == "cpu"),
            teacher=teacher,
        )
    epoch = loop.draw(0)
    order = epoch.order[:n_samples]
    if plan.graphs:
        loop = steps.with_graphs(loop, epoch, Recordings(lambda work, _: work), pieces=PIECES)
    with FlopCounterMode(display=False) as counter:
        for number, first in enumerate(range(0, n_samples, plan.batch_size)):
            rows = order[first : first + plan.batch_size]
            steps.take_step(loop, epoch, rows, number=number)
    return counter.get_total_flops() / n_samples


def build(shop: Shop, settings: RecommenderSettings) -> Model:
    """Make an untrained model."""
    vocabulary, max_his_len = shop.corpus.vocabulary, shop.corpus.max_his_len
    return recommender.build(vocabulary, settings, seed=SEED, max_his_len=max_his_len)


def train(
    shop: Shop, settings: RecommenderSettings, plan: TrainingSettings, teacher: Teacher | None
) -> tuple[Model, dict[str, Any]]:
    """Train a model; gives it as it was after the best epoch, and the training's history."""
    model = build(shop, settings)
    with tempfile.TemporaryDirectory() as folder:
        recommender.train(
            model,
            [shop.corpus],
            plan,
            stage="finetune",
            folder=Path(folder),
            runtime=shop.runtime,
            ndcg=measure(shop) if plan.select_by == "ndcg" else None,
            teacher=teacher,
        )
        history = json.loads((Path(folder) / "history.json").read_text())
    return model, history


def make_teacher(shop: Shop, *, share: float) -> Teacher:
    """Rank with EASE^R with codes after every training event, as stage `finetune` does."""
    known = shop.histories.held_out(2)
    (found,) = baselines.rank_after_events(
        known, n_items=shop.n_items, settings=LINEAR, seed=SEED, groups=shop.groups
    )
    followed = np.delete(np.arange(len(known.items)), known.offsets[1:] - 1)
    calibration = evaluation.calibrate(
        Rankings(items=found.items[followed], scores=found.scores[followed]),
        known.items[followed + 1],
    )
    shares = recommender.sharpen(found.scores, temperature=calibration.temperature)
    return Teacher(items=found.items, shares=shares, share=share)


def measure(shop: Shop) -> Callable[[Model], float]:
    """Make what gives a model's NDCG@10 of validation users, the mean of both modalities."""
    inputs = shop.histories.held_out(2).of_users(shop.users)
    targets = shop.histories.target(2)[shop.users]

    def ndcg(model: Model) -> float:
        lists = [rank(shop, model, inputs, modality, n_beams=SELECT_BEAMS) for modality in INDEX]
        return float(np.mean([evaluation.metrics(one, targets)["NDCG@10"] for one in lists]))

    return ndcg


def rank(
    shop: Shop,
    model: Model,
    inputs: Histories,
    modality: Modality,
    *,
    n_beams: int,
    remove_seen: bool = False,
) -> Rankings:
    """Rank items by beam search in one modality."""
    return decoding.recommend(
        model,
        shop.tries[modality],
        vocabulary=shop.corpus.vocabulary,
        modality=modality,
        inputs=recommender.read_histories(model, shop.corpus, inputs, task=TASK[modality]),
        n_beams=n_beams,
        batch_size=1024 if shop.runtime.device == "cuda" else 64,
        search=shop.search,
        filters=Filters(without=inputs) if remove_seen else None,
        runtime=shop.runtime,
    )


def rank_all(shop: Shop, model: Model) -> dict[str, Any]:
    """Give the metrics of all test users, seen items kept and removed."""
    inputs, targets = shop.histories.held_out(1), shop.histories.target(1)
    found: dict[str, Any] = {}
    for removed, name in SEEN.items():
        began = time.perf_counter()
        lists = {
            modality: rank(shop, model, inputs, modality, n_beams=N_BEAMS, remove_seen=removed)
            for modality in INDEX
        }
        seconds = time.perf_counter() - began
        # Seen items are out of the lists already.
        rankings = evaluation.assemble(lists, inputs, settings=EvaluationSettings())
        found[name] = {each: evaluation.metrics(one, targets) for each, one in rankings.items()}
        found[name]["users_per_second"] = len(INDEX) * inputs.n_users / seconds
    return found


def compare_with_cpu(shop: Shop, model: Model) -> float:
    """Give the share of some users' ten best items by text that a CPU in float32 has too."""
    inputs = shop.histories.held_out(1).of_users(shop.users[:COMPARED_USERS])
    shops = (shop, replace(shop, runtime=Runtime()))
    found = [rank(each, model, inputs, "text", n_beams=N_BEAMS) for each in shops]
    return agreement(*(one.items[:, :10] for one in found))


def rank_baselines(shop: Shop) -> dict[str, Any]:
    """Give the metrics of item-kNN and EASE^R, with and without codes, for the same users."""
    inputs, targets = shop.histories.held_out(1), shop.histories.target(1)
    known = shop.histories.held_out(2)
    rankers = baselines.fit(known, n_items=shop.n_items, settings=LINEAR, groups=shop.groups)
    found: dict[str, Any] = {}
    for removed, name in SEEN.items():
        filters = Filters(without=inputs) if removed else EVERYTHING
        lists = {each: rankers[each](inputs, top_k=10, filters=filters) for each in BASELINES}
        found[name] = {each: evaluation.metrics(one, targets) for each, one in lists.items()}
    return found


if __name__ == "__main__":
    main()
