"""A large synthetic shop through every stage, each in a process of its own, with time and memory.

    python tests/campaign/soak.py [--items 300000 --users 200000 --events 20000000] [--out FILE]

Prints a line for each stage as it ends; `--out` writes the same as JSON. Models are as small as
they get: what is looked at is what grows with the shop.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

WORDS = tuple(
    f"{a}{b}" for a in ("kar", "lo", "min", "tu", "ves") for b in ("da", "ne", "ro", "si")
)
COMMANDS = (
    "prepare", "embed", "train-translator", "generate-codes", "quality", "finetune", "evaluate",
    "report",
)  # fmt: skip
SETTINGS = """
name: soak
run_dir: {folder}/run
catalog:
  datasets:
    - {{name: Soak, format: tables, interactions: {folder}/events.parquet,
       items: {folder}/items.parquet}}
  k_core: 1
embeddings:
  text: {{kind: hashing, encoder: hashing}}
  image: {{kind: none}}
translator:
  layers: [64]
  e_dim: 16
  num_emb_list: [256, 256, 256, 256]
  sk_epsilons: [0, 0, 0, 0]
  epochs: 1
  warmup_steps: 0
  refit_epochs: 0
  batch_size: 4096
quality: {{n_items: 1000}}
recommender:
  backbone: causal
  d_model: 16
  d_ff: 32
  d_kv: 8
  num_heads: 2
  num_layers: 1
  num_decoder_layers: 1
  finetune: {{tasks: [seqrec], epochs: 1, samples_per_epoch: 20000, batch_size: 256,
             micro_batch_size: 256, teacher_share: 0, select_by: loss}}
decoding: {{n_beams: 5}}
evaluation: {{n_bootstrap: 10}}
sasrec: {{epochs: 1}}
report: {{n_users: 2}}
runtime: {{n_workers: 0, device: cpu}}
"""


def write_shop(folder: Path, *, n_items: int, n_users: int, n_events: int, seed: int) -> None:
    """Write events and items as Parquet; items are drawn by Zipf's law, histories have any length.

    Every item occurs, and every user has at least three events.
    """
    chance = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    weights = 1.0 / np.arange(1, n_items + 1) ** 0.8
    edges = np.cumsum(weights) / weights.sum()
    items = np.searchsorted(edges, chance.random(n_events)).clip(max=n_items - 1)
    items[:n_items] = chance.permutation(n_items)
    extra = chance.dirichlet(np.full(n_users, 2.0)) * (n_events - 3 * n_users)
    lengths = 3 + np.floor(extra).astype(np.int64)
    users = np.repeat(np.arange(n_users), lengths)
    users = np.concatenate([users, chance.integers(n_users, size=n_events - len(users))])
    chance.shuffle(users)
    times = chance.integers(1_600_000_000, 1_700_000_000, size=n_events)
    pl.DataFrame({"user_id": users, "item_id": items, "timestamp": times}).write_parquet(
        folder / "events.parquet"
    )
    _write_items(folder / "items.parquet", n_items, chance)


def _write_items(path: Path, n_items: int, chance: np.random.Generator) -> None:
    drawn: NDArray[np.int64] = chance.integers(len(WORDS), size=(n_items, 5))
    titles = [" ".join(WORDS[word] for word in row) for row in drawn.tolist()]
    pl.DataFrame({"item_id": np.arange(n_items), "title": titles}).write_parquet(path)


def do(command: str, settings: Path, *, log: Path) -> dict[str, Any]:
    """Run one command: its exit code, seconds, and the most memory that it had, in MiB."""
    began = time.monotonic()
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mql4grec", command, "--quiet", "--config", str(settings)],
            stdout=file,
            stderr=file,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "command": command,
        "code": process.returncode,
        "seconds": round(time.monotonic() - began, 1),
        "peak_mib": usage.ru_maxrss // 1024,
    }


def disk_mib(folder: Path) -> int:
    """Add up the room that files take."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sum(path.stat().st_blocks for path in paths) // 2048


def soak(
    folder: Path, *, n_items: int, n_users: int, n_events: int, seed: int
) -> list[dict[str, Any]]:
    """Make the shop and take it through every stage; the figures of each."""
    write_shop(folder, n_items=n_items, n_users=n_users, n_events=n_events, seed=seed)
    settings = folder / "soak.yaml"
    settings.write_text(SETTINGS.format(folder=folder))
    print(f"{'command':18} {'code':>4} {'seconds':>8} {'peak MiB':>9} {'disk MiB':>9}", flush=True)
    found = []
    for command in COMMANDS:
        row = do(command, settings, log=folder / "said.txt")
        row["disk_mib"] = disk_mib(folder / "run")
        found.append(row)
        print(
            "{command:18} {code:4} {seconds:8.1f} {peak_mib:9,} {disk_mib:9,}".format(**row),
            flush=True,
        )
        if row["code"]:
            print((folder / "said.txt").read_text(errors="replace")[-3000:])
            break
    return found


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=300_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help="kept; default: one that is removed")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    try:
        sizes = {"n_items": given.items, "n_users": given.users, "n_events": given.events}
        print(
            ", ".join(f"{name} {size:,}" for name, size in sizes.items()) + f", seed {given.seed}"
        )
        found = soak(folder, **sizes, seed=given.seed)
    finally:
        if given.folder is None:
            shutil.rmtree(folder)
    if given.out is not None:
        given.out.write_text(json.dumps({**sizes, "seed": given.seed, "stages": found}, indent=2))
    sys.exit(any(row["code"] for row in found))


if __name__ == "__main__":
    main()
