"""Optimizer steps of the T5 on a GPU: ours, recorded and not, beside the authors' way.

    python benches/steps.py --out benches/results
    python benches/steps.py --samples 3072 --steps 1   # a look, on a CPU

The paper's T5, the five tasks on Amazon Instruments' histories and published picture codes (made-up
ones where there are none), 1,024 samples a step. The ways:

    the authors' way   that of `benches/recommender.py`, a batch for each step, in float32 and
                       bfloat16 (autocast), with and without the 32,100 unused rows
    ours, one by one   `recommender.train`'s steps without `graphs`, in bfloat16
    ours, graphs       with `graphs`, in bfloat16; `--eager` leaves compiling out

Of each: samples a second over `--steps` steps after as many to warm up, of the authors' way five at
most and of ours one by one fifty; the seconds before, in which kernels are compiled and recorded;
by the profiler, how long the device works on a step and in how many kernels; how many FLOP a
sample's matrix products are as they run, padding included, and their share of the card's peak in
bfloat16. The loss of the last step is there to see that all learn. They go to a JSON file in
`--out`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from instruments import device_name, find_peak
from recommender import STEP, World
from rivals import T5_ROWS
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from mql4grec.config import PAPER_TASKS, RuntimeSettings, TrainingSettings
from mql4grec.recommender import steps, training
from mql4grec.recommender.binned import PIECES
from mql4grec.recommender.graphs import Recordings
from mql4grec.runtime import SILENT, describe_machine, start

Steps = Iterator[Any]
THEIRS = 5  # steps that are enough of the authors' way, which is slow


@dataclass(frozen=True)
class Way:
    """A way to train.

    Attributes:
        steps: Begins, and gives the loss of each step.
        counted: Does the same so that FLOP can be counted.
        most: Steps that are enough.
    """

    steps: Callable[[], Steps]
    counted: Callable[[], Steps]
    most: int


def main() -> None:
    """Time every way and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=64 * STEP, help="to take steps from")
    parser.add_argument("--steps", type=int, default=100, help="timed of each way")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--out", type=Path, help="folder for the figures")
    options = parser.parse_args()
    needed = 3 * STEP * min(options.steps, THEIRS)
    if options.samples % STEP or options.samples < needed:
        raise SystemExit(
            f"`--samples`: expected a multiple of {STEP}, {needed} or more, got {options.samples}"
        )
    runtime = start(RuntimeSettings(), seed=0)
    world = World(options.samples)
    world.check()
    machine = describe_machine(runtime)
    figures: dict[str, Any] = {"machine": machine, "date": time.strftime("%Y-%m-%d"), "ways": {}}
    for name, way in ways(world, device=runtime.device, eager=options.eager).items():
        figures["ways"][name] = found = time_steps(way, n_steps=min(options.steps, way.most))
        print(name, json.dumps(found), flush=True)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"steps-{device_name(machine)}.json"
        path.write_text(json.dumps(figures, indent=2) + "\n")


def ways(world: World, *, device: str, eager: bool) -> dict[str, Way]:
    """Give every way."""
    found: dict[str, Way] = {}
    for rows, vocabulary in ((T5_ROWS, ""), (0, ", compact vocabulary")):
        for bf16, precision in ((False, "float32"), (True, "bfloat16")):
            theirs = partial(world.their_steps, STEP, n_unused=rows, device=device, bf16=bf16)
            found[f"the authors' way{vocabulary}, {precision}"] = Way(theirs, theirs, most=THEIRS)
    alone = partial(ours, world, graphs=False)
    found["ours, one by one, bfloat16"] = Way(alone, alone, most=50)
    graphs = partial(ours, world, graphs=True)
    found["ours, graphs, bfloat16"] = Way(
        partial(graphs, eager=eager), partial(graphs, eager=True), most=1000
    )
    return found


def ours(world: World, *, graphs: bool, eager: bool = False) -> Steps:
    """Do our steps without end, over the same samples again and again; gives their losses."""
    settings = TrainingSettings(
        tasks=PAPER_TASKS,
        batch_size=STEP,
        micro_batch_size=STEP,
        samples_per_epoch=world.n_samples,
        validation_samples=1,
    )
    runtime = start(RuntimeSettings(precision="bf16"), seed=0)
    with tempfile.TemporaryDirectory() as folder:
        loop = training.prepare(
            world.build(),
            [world.corpus],
            settings=settings,
            stage="finetune",
            folder=Path(folder),
            runtime=runtime,
            journal=SILENT,
            processes=PartialState(cpu=runtime.device == "cpu"),
            teacher=None,
        )
    epoch = loop.draw(0)
    if graphs and runtime.device == "cuda":
        loop = steps.with_graphs(loop, epoch, Recordings(), pieces=PIECES if eager else None)
    elif graphs:
        loop = steps.with_graphs(loop, epoch, Recordings(lambda work, _: work), pieces=PIECES)
    # As late in a training as that its learning rate is a usual one.
    for number in count(loop.n_steps * 10):
        first = number % loop.n_steps * STEP
        rows = epoch.order[first : first + STEP]
        summed = steps.take_step(loop, epoch, rows, number=number)
        yield summed / float(epoch.target_lengths[rows].sum())


def time_steps(way: Way, *, n_steps: int) -> dict[str, Any]:
    """Time so many steps after as many others, and look at what they are made of."""
    on_gpu = torch.cuda.is_available()
    wait = torch.cuda.synchronize if on_gpu else (lambda: None)
    began = time.perf_counter()
    going = way.steps()
    for _ in islice(going, n_steps):
        pass
    wait()
    warm = time.perf_counter()
    losses = list(islice(going, n_steps))
    wait()
    seconds = time.perf_counter() - warm
    rate = STEP * n_steps / seconds
    found = {
        "samples_per_second": round(rate, 1),
        "ms_per_step": round(1e3 * seconds / n_steps, 3),
        "seconds_before": round(warm - began, 1),
        "loss": round(losses[-1].item(), 4),
    }
    if on_gpu:
        found |= look_inside(going, n_steps=min(n_steps, 5))
    found |= products(way.counted, rate)
    return found


def look_inside(going: Steps, *, n_steps: int) -> dict[str, Any]:
    """Profile a few steps; gives how long the device works on one, in how many kernels."""
    with profile(activities=[ProfilerActivity.CUDA]) as watched:
        for _ in islice(going, n_steps):
            pass
        torch.cuda.synchronize()
    kernels = [each for each in watched.key_averages() if each.self_device_time_total]
    total = sum(each.self_device_time_total for each in kernels)
    return {
        "device_ms_per_step": round(total / n_steps / 1e3, 3),
        "kernels_per_step": round(sum(each.count for each in kernels) / n_steps),
    }


def products(counted: Callable[[], Steps], rate: float) -> dict[str, Any]:
    """Count the FLOP of a sample's matrix products in a first step, which is not recorded yet."""
    with FlopCounterMode(display=False) as counter:
        next(counted())
    flop = counter.get_total_flops() / STEP
    peak = find_peak()
    share = None if peak is None else round(flop * rate / peak, 4)
    return {"mflop_per_sample": round(flop / 1e6, 1), "share_of_peak": share}


if __name__ == "__main__":
    main()
