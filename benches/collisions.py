"""The resolver beside the authors' rule: time, and the error that making codes unique adds.

    python benches/collisions.py                                      # ten minutes
    python benches/collisions.py --shapes clusters --open-levels 2    # two minutes

Catalogs of 4 x 256 codes by residual k-means, E = 32, of two shapes: `clusters`, normal noise
around centres of unequal size; `families`, those of `cargo bench`, in which the items that collide
are mostly variants of one product, almost or quite the same. In one process, on one thread, from
the same distances (N, L, K): the authors' rule once, then our policies, from latents and, where no
more than two levels are open, from the tensor. Seconds are CPU time, for ours the least of three
runs, or one if that is long. The authors' code carries its distances through Python lists: the two
ratios are to its rule alone, and with those lists. Added error is exact, in float64, the sum over
items of |latent - sum of code vectors|^2, new codes minus old.

The bench fails if our codes are not unique, if more items moved than had to, or if the error that
the resolver reports is not the one found here.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mql4grec._core import (
    find_collisions,
    resolve_collisions,
    resolve_collisions_from_latents,
)

ROUNDS = 2  # of the authors' code; another of their scripts goes on for ever
REPEATS, LONG = 3, 1.0  # runs of ours, unless one takes so many seconds
PLANS = [
    *itertools.product(("paper", "nearest", "optimal"), ("nearest", "max_loss"), ("movers",)),
    ("optimal", "nearest", "colliding"),
]
N_LEVELS, N_CODES, WIDTH, N_CENTRES = 4, 256, 32, 2000
NOISE = {0.09: 0.47, 0.48: 0.305}  # of `clusters` at 50,000 items, by the share that collides

Codes = NDArray[np.uint16]
Arrays = tuple[Codes, NDArray[np.float32], NDArray[np.float32]]
Result = tuple[Codes, NDArray[np.int64], NDArray[np.float32]]


@dataclass(frozen=True)
class Catalog:
    """codes uint16 (N, L), latents float32 (N, E), codebooks float32 (L, K, E), and the squared
    distances of every item to every code, each level's given the codes above it, float32 (N, L, K).
    """

    codes: Codes
    latents: NDArray[np.float32]
    codebooks: NDArray[np.float32]
    distances: NDArray[np.float32]


def main() -> None:
    """Make the catalogs and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--shares", type=float, nargs="+", default=list(NOISE), choices=list(NOISE))
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--open-levels", type=int, nargs="+", default=[2, 3])
    options = parser.parse_args()
    for shape, share in itertools.product(options.shapes, options.shares):
        print(f"\n{shape}: ", end="")
        codes, latents, codebooks = SHAPES[shape](options.items, share)
        distances = distances_of(codes, latents, codebooks)
        compare(Catalog(codes, latents, codebooks, distances), open_levels=options.open_levels)


def families(n_items: int, share: float) -> Arrays:
    """Let the Rust benches write a catalog."""
    with tempfile.TemporaryDirectory() as folder:
        made = ["--items", str(n_items), "--share", str(share), "--out", folder]
        command = ["cargo", "bench", "--locked", "--quiet", "--bench", "write_catalog", "--", *made]
        root = Path(__file__).parent.parent
        subprocess.run(command, check=True, cwd=root, stdout=subprocess.DEVNULL)
        codes, latents, codebooks = (
            np.load(Path(folder) / f"{name}.npy") for name in ("codes", "latents", "codebooks")
        )
    return codes, latents, codebooks


def clusters(n_items: int, share: float) -> Arrays:
    """Draw items around centres, and give each level a k-means of what the levels above leave."""
    rng = np.random.default_rng(2025)
    sizes = np.arange(1, N_CENTRES + 1) ** -0.5
    centre = rng.choice(N_CENTRES, n_items, p=sizes / sizes.sum())
    latents = rng.normal(size=(N_CENTRES, WIDTH))[centre]
    latents = (latents + NOISE[share] * rng.normal(size=latents.shape)).astype(np.float32)
    residual: NDArray[np.float32] = latents
    codes, books = [], []
    for _ in range(N_LEVELS):
        books.append(k_means(residual, rng=rng))
        codes.append(nearest_vector(residual, books[-1]))
        residual = residual - books[-1][codes[-1]]
    return np.stack(codes, axis=1).astype(np.uint16), latents, np.stack(books)


def k_means(vectors: NDArray[np.float32], *, rng: np.random.Generator) -> NDArray[np.float32]:
    """Give 256 vectors (K, E) near a sample of these, after ten rounds."""
    sample = rng.permutation(vectors)[: 64 * N_CODES]
    book = sample[:N_CODES].copy()
    for _ in range(10):
        own = nearest_vector(sample, book)
        for code in np.unique(own):
            book[code] = sample[own == code].mean(axis=0)
    return book


def nearest_vector(vectors: NDArray[np.float32], book: NDArray[np.float32]) -> NDArray[np.int64]:
    return ((book**2).sum(axis=1) - 2 * vectors @ book.T).argmin(axis=1)


SHAPES = {"clusters": clusters, "families": families}


def distances_of(
    codes: Codes, latents: NDArray[np.float32], codebooks: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Compute what the authors' network returns beside the codes (N, L, K)."""
    distances = np.empty((*codes.shape, codebooks.shape[1]), np.float32)
    residual = latents.astype(np.float64)  # (N, E)
    for level, book in enumerate(codebooks.astype(np.float64)):
        squares = (residual**2).sum(axis=1)[:, None] + (book**2).sum(axis=1)
        distances[:, level] = squares - 2 * residual @ book.T
        residual = residual - book[codes[:, level]]
    return distances


def compare(catalog: Catalog, *, open_levels: list[int]) -> None:
    """Run the authors' rule and ours, and print the table."""
    n_items = len(catalog.codes)
    offsets, rows = find_collisions(catalog.codes)
    n_groups = len(offsets) - 1
    print(
        f"{n_items:,} items, {len(rows) / n_items:.1%} collide in {n_groups:,} groups, the "
        f"largest of {np.diff(offsets).max()}\n"
    )
    print("| rule | open levels | from | CPU s | times as fast | with lists | moved | ", end="")
    print("collisions left | added error | of the authors' |")
    print("|" + " --- |" * 10)
    theirs, rival = run_authors(catalog)
    row = partial(print_row, catalog, rival)
    row("authors", "", "tensor", theirs, rival.seconds)
    for n_open, (policy, keep, reassign) in itertools.product(open_levels, PLANS):
        plan = {"policy": policy, "keep": keep, "reassign": reassign, "open_levels": n_open}
        name = f"{policy}, {'colliding' if reassign == 'colliding' else keep}"
        for source, resolve in SOURCES.items():
            if source == "tensor" and n_open > 2:
                continue  # its distances of deeper levels are stale
            result, ours = timed(partial(resolve, catalog, **plan))
            check(catalog, result, n_moved=len(rows) - n_groups, source=source, plan=plan)
            row(name, n_open, source, result[0], ours)


@dataclass(frozen=True)
class Rival:
    """CPU seconds of the authors' rule, and with its lists; the error that it adds."""

    seconds: float
    with_lists: float
    error: float


def run_authors(catalog: Catalog) -> tuple[Codes, Rival]:
    """Time the authors' rule, and its distances on their way through lists."""
    started = time.process_time()
    distances = np.array(catalog.distances.tolist())
    listed = time.process_time()
    codes = authors_rule(catalog.codes, distances)
    ended = time.process_time()
    return codes, Rival(ended - listed, ended - started, added_error(catalog, codes))


def print_row(
    catalog: Catalog,
    rival: Rival,
    name: str,
    n_open: int | str,
    source: str,
    codes: Codes,
    seconds: float,
) -> None:
    """Print what a rule took and gave, beside the authors'."""
    moved = int((codes != catalog.codes).any(axis=1).sum())
    left = len(codes) - len(np.unique(codes, axis=0))
    added = added_error(catalog, codes)
    print(
        f"| {name} | {n_open} | {source} | {seconds:.4f} | {rival.seconds / seconds:.0f} | "
        f"{rival.with_lists / seconds:.0f} | {moved:,} | {left:,} | {added:.1f} | "
        f"{added / rival.error:.3f} |",
        flush=True,
    )


def by_latents(catalog: Catalog, **plan: Any) -> Result:
    books = list(catalog.codebooks)
    return resolve_collisions_from_latents(catalog.codes, catalog.latents, books, **plan)


def by_tensor(catalog: Catalog, **plan: Any) -> Result:
    return resolve_collisions(catalog.codes, catalog.distances, **plan)


SOURCES = {"latents": by_latents, "tensor": by_tensor}


def timed(resolve: Callable[..., Result]) -> tuple[Result, float]:
    """Run on one thread, several times; give the least CPU time."""
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < LONG:
        started = time.process_time()
        result = resolve(n_threads=1)
        seconds.append(time.process_time() - started)
    return result, min(seconds)


def check(
    catalog: Catalog, result: Result, *, n_moved: int, source: str, plan: dict[str, Any]
) -> None:
    """Refuse a result that breaks a promise."""
    codes, moved, costs = result
    if len(np.unique(codes, axis=0)) < len(codes):
        raise SystemExit(f"{plan}: the codes are not unique")
    if plan["reassign"] == "movers" and len(moved) != n_moved:
        raise SystemExit(f"{plan}: {len(moved)} items moved, {n_moved} have to")
    added, reported = added_error(catalog, codes), float(costs.sum(dtype=np.float64))
    if source == "latents" and not np.isclose(added, reported, rtol=1e-4):
        raise SystemExit(f"{plan}: the error grew by {added}, {reported} was reported")


def added_error(catalog: Catalog, codes: Codes) -> float:
    """Sum over items how much further new codes are from the latent than the nearest were."""
    moved = (codes != catalog.codes).any(axis=1)
    latents, books = catalog.latents[moved].astype(np.float64), catalog.codebooks
    before, after = (
        latents - sum(book[code] for book, code in zip(books, own.T, strict=True))
        for own in (catalog.codes[moved].astype(np.int64), codes[moved].astype(np.int64))
    )
    return float((after**2).sum() - (before**2).sum())


def authors_rule(codes: Codes, distances: NDArray[np.float64]) -> Codes:
    """Move items as the authors' code does, written anew from its description.

    In every group of equal codes, items are sorted by their distance at the last level. The first
    stays; the one at place r tries its last-level codes from the r-th nearest on until nobody has
    the whole code; then, for each next nearest third-level code, all last-level codes by the
    distances given. Codes are compared as printed lists. Items that find nothing stay, and after
    two rounds so does whatever still collides.

    Its faults are kept, but for one: numbers are printed as Python's, not as numpy 2 prints its
    own, which would make equal codes differ.
    """
    order = np.argsort(distances, axis=2)  # (N, L, K)
    nearest = [[np.min(level) for level in item] for item in distances]  # one by one, as they do
    words = [[int(code) for code in own] for own in codes]
    texts = [str(word) for word in words]
    taken = set(texts)
    for _ in range(ROUNDS):
        groups: dict[str, list[int]] = {}
        for item, text in enumerate(texts):
            groups.setdefault(text, []).append(item)
        shared = [items for items in groups.values() if len(items) > 1]
        if not shared:
            break
        for items in shared:
            by_distance = np.argsort([nearest[item][-1] for item in items])
            for place, index in enumerate(by_distance):
                if place == 0:
                    continue
                item = items[index]
                found = next_free(words[item], order[item], place, taken=taken)
                if found is not None:
                    words[item], texts[item] = found, str(found)
                    taken.add(texts[item])
    return np.array(words, np.uint16)


def next_free(
    own: list[int], order: NDArray[np.int64], place: int, *, taken: set[str]
) -> list[int] | None:
    """Try the codes of an item, `order` (L, K) being its codes of each level, nearest first."""
    above, third = own[:-2], own[-2]
    for last in order[-1, place:]:
        word = [*above, third, int(last)]
        if str(word) not in taken:
            return word
    for other in order[-2, 1:]:
        for last in order[-1]:
            word = [*above, int(other), int(last)]
            if str(word) not in taken:
                return word
    return None


if __name__ == "__main__":
    main()
