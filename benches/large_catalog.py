"""`mql4grec generate-codes` on a large catalog: time, memory, and what a kill costs.

It writes a catalog of clustered vectors with near-duplicates as a float16 `.npy` file, trains a
small translator on some of it, lets `generate-codes` work on it as a process of its own, kills it
once half-way, starts it again, and checks that every item has a semantic ID of its own. Before
that, on a part of the catalog, it compares a killed and resumed call with an undisturbed one.

    python benches/large_catalog.py --folder /tmp/large --items 10000000

What is in the folder already is used again. Memory is read from `/proc`, so it needs Linux.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mql4grec import codes, translator
from mql4grec.config import TranslatorSettings
from mql4grec.embeddings import Embeddings
from mql4grec.runtime import Runtime

BLOCK = 65_536  # rows written at once
N_CLUSTERS = 4096
RANK = 48  # numbers in which the items of a cluster differ
TWINS = 0.04  # items that are almost another one, so about twice as many collide
N_TRAINING = 100_000
SMALL = TranslatorSettings(
    layers=(128,),
    e_dim=32,
    num_emb_list=(256,) * 4,
    sk_epsilons=(0.0,) * 4,
    kmeans_iters=20,
    warmup_steps=300,
    kmeans_balance=0,
    epochs=2,
)


@dataclass(frozen=True)
class Call:
    """One process of `generate-codes`.

    Attributes:
        seconds: From start to end.
        anonymous: Most memory of its own, in bytes (RssAnon, polled): what the bound is about.
        resident: Most memory in all (VmHWM), pages of mapped files too, which the system takes back
            when it wants to.
        killed_at: Rows that were noted as done when it was killed; None: it was not.
    """

    seconds: float
    anonymous: int
    resident: int
    killed_at: int | None


def write_catalog(path: Path, *, n_items: int, width: int, seed: int) -> None:
    """Write float16 (N, D), block by block; goes on where an earlier call stopped."""
    note = path.with_suffix(".json")
    done = json.loads(note.read_text())["rows"] if note.exists() else 0
    if not path.exists():
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(n_items, width))
        done = 0
    mapped = np.load(path, mmap_mode="r")
    assert mapped.shape == (n_items, width), f"{path}: of another size; delete it"
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((N_CLUSTERS, width), np.float32)
    axes = rng.standard_normal((RANK, width), np.float32) * np.float32(0.8 / RANK**0.5)
    with path.open("r+b") as file:
        for start in range(done, n_items, BLOCK):
            n_rows = min(BLOCK, n_items - start)
            file.seek(mapped.offset + start * width * 2)
            file.write(make_block(centres, axes, seed=(seed, start), n_rows=n_rows).tobytes())
            if start // BLOCK % 16 == 15 or start + n_rows == n_items:
                file.flush()
                note.write_text(json.dumps({"rows": start + n_rows}))


def make_block(
    centres: NDArray[np.float32], axes: NDArray[np.float32], *, seed: tuple[int, int], n_rows: int
) -> NDArray[np.float16]:
    rng = np.random.default_rng(seed)
    clusters = (N_CLUSTERS * rng.random(n_rows) ** 1.5).astype(np.int64)  # some are larger
    places = rng.standard_normal((n_rows, len(axes)), np.float32)
    twins = rng.choice(n_rows, int(TWINS * n_rows), replace=False)
    others = rng.integers(0, n_rows, len(twins))
    clusters[twins], places[twins] = clusters[others], places[others]
    places[twins] += 0.001 * rng.standard_normal((len(twins), len(axes)), np.float32)
    return (centres[clusters] + places @ axes).astype(np.float16)


def train(catalog: Path, folder: Path) -> None:
    """Train a small translator on the first rows; a finished one is left as it is."""
    mapped = np.load(catalog, mmap_mode="r")
    vectors = np.array(mapped[:N_TRAINING], np.float32)
    shop = Embeddings("catalog", "text", "bench", vectors, np.ones(len(vectors), np.bool_))
    translator.train([shop], SMALL, folder=folder, runtime=Runtime())


def call(
    catalog: Path, network: Path, out: Path, *, options: list[str], kill_at: int | None
) -> Call:
    """Run `generate-codes`; kill it once so many rows are noted as done."""
    command = [sys.executable, "-m", "mql4grec", "generate-codes", "--quiet"]
    command += ["--embeddings", str(catalog), "--translator", str(network), "--out", str(out)]
    command += [part for option in options for part in ("--set", option)]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    anonymous = resident = 0
    killed_at = None
    while process.poll() is None:
        status = read_status(process.pid)
        anonymous = max(anonymous, status.get("RssAnon", 0))
        resident = max(resident, status.get("VmHWM", 0))
        if kill_at is not None and rows_done(out) >= kill_at:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed_at = rows_done(out)
        time.sleep(0.02)
    if killed_at is None and process.returncode:
        raise SystemExit(f"generate-codes ended with {process.returncode}")
    return Call(time.monotonic() - began, anonymous, resident, killed_at)


def read_status(pid: int) -> dict[str, int]:
    """Read the sizes of a process in bytes; none if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    fields = (line.split() for line in lines)
    return {f[0].rstrip(":"): int(f[1]) * 1024 for f in fields if f[-1] == "kB"}


def rows_done(out: Path) -> int:
    path = out / "work" / "progress.json"
    return int(json.loads(path.read_text())["done"]["next_row"]) if path.exists() else 0


def read_codes(out: Path) -> NDArray[np.uint16]:
    (folder,) = out.glob("*.parquet")
    return codes.read_shards(folder).ids.codes


def is_unique(table: NDArray[np.uint16]) -> bool:
    packed = np.zeros(len(table), np.uint64)
    for level in table.T:
        packed = packed << np.uint64(16) | level
    return int(pl.Series(packed).n_unique()) == len(packed)


def compare(
    folder: Path, catalog: Path, network: Path, *, options: list[str], n_items: int
) -> None:
    """Show on a part of the catalog that a killed and resumed call ends like an undisturbed one."""
    part = folder / "part.npy"
    np.save(part, np.load(catalog, mmap_mode="r")[:n_items])
    outs = [folder / "undisturbed", folder / "disturbed"]
    for out in outs:
        shutil.rmtree(out, ignore_errors=True)
    whole = call(part, network, outs[0], options=options, kill_at=None)
    first = call(part, network, outs[1], options=options, kill_at=n_items // 2)
    call(part, network, outs[1], options=options, kill_at=None)
    same = np.array_equal(*map(read_codes, outs))
    same &= (outs[0] / "part.text.json").read_bytes() == (outs[1] / "part.text.json").read_bytes()
    print(
        f"{n_items:,} items: undisturbed {whole.seconds:.1f} s; killed with {first.killed_at:,} "
        f"rows done and resumed: the same codes and report: {same}"
    )
    if not same or first.killed_at is None:
        raise SystemExit("a resumed call differs from an undisturbed one, or was not killed")
    part.unlink()


def measure(
    folder: Path, catalog: Path, network: Path, *, options: list[str], n_items: int
) -> None:
    """Kill a call half-way, look at what it left, go on, and check the result."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    bound = (1 << 30) + 24 * n_items
    first = call(catalog, network, out, options=options, kill_at=n_items // 2)
    left = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    second = call(catalog, network, out, options=options, kill_at=None)
    print(f"killed with {first.killed_at:,} rows done; left on disk: {', '.join(left)}")
    for name, each in (("killed", first), ("resumed", second)):
        print(
            f"{name}: {each.seconds:.1f} s; own memory at most {each.anonymous / 2**20:,.0f} MiB "
            f"(RssAnon), with pages of mapped files {each.resident / 2**20:,.0f} MiB (VmHWM)"
        )
    seconds = first.seconds + second.seconds
    print(f"together {seconds:.1f} s, {n_items / seconds:,.0f} items/s")
    print(f"bound 1 GiB + 24 B per item: {bound / 2**20:,.0f} MiB")
    facts = json.loads((out / f"{catalog.stem}.text.json").read_text())
    for key in ("n_shared_before", "largest_group", "n_moved", "added_share"):
        print(f"{key}: {facts[key]}")
    unique = is_unique(read_codes(out))
    print(f"every item has a semantic ID of its own: {unique}")
    if not unique or max(first.anonymous, second.anonymous) > bound:
        raise SystemExit("codes are shared, or the bound is broken")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="takes 1.7 kB per item")
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--compare-items", type=int, default=600_000, help="0: no comparison")
    parser.add_argument("--policy", default="nearest")
    parser.add_argument("--threads", type=int, help="of torch; 1 on a busy machine")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    threads = "null" if args.threads is None else args.threads
    options = [f"codes.policy={args.policy}", f"runtime.n_threads={threads}", "runtime.device=cpu"]
    args.folder.mkdir(parents=True, exist_ok=True)
    catalog, network = args.folder / "catalog.npy", args.folder / "translator"
    needed = args.items * (2 * args.width + 32 * 4 * 2 + 4 * 2 * 2)
    if not catalog.exists() and shutil.disk_usage(args.folder).free < needed:
        raise SystemExit(f"{args.folder}: expected {needed / 1e9:.0f} GB of free disk")
    began = time.monotonic()
    write_catalog(catalog, n_items=args.items, width=args.width, seed=args.seed)
    train(catalog, network)
    print(f"{args.items:,} x {args.width}: made ready in {time.monotonic() - began:.0f} s")
    n_compared = min(args.items, args.compare_items)
    if n_compared:
        compare(args.folder, catalog, network, options=options, n_items=n_compared)
    measure(args.folder, catalog, network, options=options, n_items=args.items)


if __name__ == "__main__":
    main()
