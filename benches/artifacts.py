"""What it costs to know that a file is as it was left: XXH3 beside SHA-256 and the reading itself.

python benches/artifacts.py [--gib 0.5]
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mql4grec import artifacts


def ours(path: Path) -> None:
    """Close and open a stage in which the file lies: two hashes, the second one is remembered."""
    artifacts.open_stage(path.parent, "bench")
    artifacts.close_stage(path.parent, "bench", seconds=0)
    artifacts.require(path, made_by="bench")


def sha256(path: Path) -> None:
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")


def load(path: Path) -> None:
    np.load(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=0.5)
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    ways: dict[str, Callable[[Path], None]] = {
        "ours, XXH3": ours, "sha256": sha256, "np.load": load,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stage" / "vectors.npy"
        artifacts.open_stage(path.parent, "bench")
        n_rows = int(given.gib * 2**30 / 768 / 4)
        np.save(path, np.random.default_rng(0).standard_normal((n_rows, 768), np.float32))
        size = path.stat().st_size
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(given.repeat):
            for name, way in ways.items():
                path.touch()  # nothing is remembered
                began = time.perf_counter()
                way(path)
                best[name] = min(best[name], time.perf_counter() - began)
    for name, seconds in best.items():
        ratio = seconds / best["ours, XXH3"]
        print(f"{name:12} {1e3 * seconds:8.1f} ms {size / seconds / 1e9:6.2f} GB/s {ratio:6.2f}")


if __name__ == "__main__":
    main()
