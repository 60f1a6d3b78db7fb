# ruff: noqa: E501 (a table, a case a line)
"""Small shops that nobody should trust: each builder takes an empty folder, gives its settings."""

import gzip
import io
import json
import os
import random
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

EVENTS = [
    (f"u{user}", f"i{(user + step) % 7}", 100 + step) for user in range(6) for step in range(5)
]
ITEMS = [(f"i{item}", f"title {item}") for item in range(7)]
BOMB = gzip.compress(bytes(300 << 20), 9)  # 300 kB
Change = Callable[[bytes], bytes]


def events_csv() -> bytes:
    return (
        pl.DataFrame(EVENTS, ["user_id", "item_id", "timestamp"], orient="row").write_csv().encode()
    )


def items_csv() -> bytes:
    return pl.DataFrame(ITEMS, ["item_id", "title"], orient="row").write_csv().encode()


def events_lines() -> bytes:
    names = ("user_id", "item_id", "timestamp")
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in EVENTS).encode()


def parquet(content: bytes) -> bytes:
    file = io.BytesIO()
    pl.read_csv(content).write_parquet(file)
    return file.getvalue()


def tables(
    folder: Path,
    *,
    events: bytes | None = None,
    items: bytes | None = None,
    suffix: str = ".csv",
    items_suffix: str = ".csv",
    more: str = "",
) -> Path:
    """Write a shop of two tables, and its settings with `more` for the data set."""
    (folder / f"events{suffix}").write_bytes(events_csv() if events is None else events)
    (folder / f"items{items_suffix}").write_bytes(items_csv() if items is None else items)
    return settings(
        folder, f"interactions: {folder}/events{suffix}, items: {folder}/items{items_suffix}{more}"
    )


def settings(folder: Path, dataset: str) -> Path:
    path = folder / "shop.yaml"
    path.write_text(
        f"name: hostile\nrun_dir: {folder}/run\ncatalog:\n  k_core: 0\n"
        f"  datasets: [{{name: Shop, {dataset}}}]\n"
        "embeddings:\n  text: {kind: hashing, encoder: hashing}\n"
        "  image: {kind: timm, encoder: test_resnet, weights: random, batch_size: 4}\n"
        "recommender: {backbone: causal}\nruntime: {n_workers: 0, n_threads: 1, device: cpu}\n"
    )
    return path


def authors(folder: Path, **files: bytes) -> Path:
    """Write a shop in the authors' layout; `files` by part, such as `inter_json`, take a place."""
    shop = folder / "Shop"
    shop.mkdir()
    histories = {str(user): [(user + step) % 7 for step in range(5)] for user in range(6)}
    plain = {
        "inter_json": json.dumps(histories).encode(),
        "item_json": json.dumps({str(row): {"title": title} for row, (_, title) in enumerate(ITEMS)}).encode(),
        "item2id": "".join(f"{key}\t{row}\n" for row, (key, _) in enumerate(ITEMS)).encode(),
    }  # fmt: skip
    for part, content in {**plain, **files}.items():
        (shop / f"Shop.{part.replace('_', '.')}").write_bytes(content)
    return settings(folder, f"format: authors, root: {folder}")


def device(folder: Path, *, make: Callable[[Path], object], name: str = "events.csv") -> Path:
    """Put something else in the place of a table."""
    path = tables(folder)
    (folder / name).unlink()
    make(folder / name)
    return path


def pictured(
    folder: Path, *, names: list[str], make: Callable[[Path], object] | None = None
) -> Path:
    """Give each item a picture's name; `make` prepares the folder."""
    Image.new("RGB", (9, 9), "red").save(folder / "fine.png")
    if make is not None:
        make(folder)
    shown = [names[row % len(names)] for row in range(len(ITEMS))]
    table = pl.DataFrame(ITEMS, ["item_id", "title"], orient="row").with_columns(
        image=pl.Series(shown)
    )
    return tables(folder, items=table.write_csv().encode(), more=", image_column: image")


def damaged(content: bytes, seed: int) -> bytes:
    """Flip, cut, repeat or overwrite some of it."""
    chance, out = random.Random(seed), bytearray(content)
    for _ in range(chance.randint(1, 6)):
        if not out:
            break
        start = chance.randrange(len(out))
        end = min(len(out), start + chance.choice([1, 1, 2, 8, 64]))
        kind = chance.randrange(4)
        if kind == 0:
            out[start] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del out[start:end]
        elif kind == 2:
            out[start:start] = out[start:end] * chance.choice([1, 2, 50])
        else:
            out[start:end] = chance.randbytes(end - start)
    return bytes(out)


def header(shape: str) -> bytes:
    """Give a `.npy` file that claims a shape."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", content)
    return file.getvalue()


def _change(old: str, new: str) -> bytes:
    return events_csv().replace(old.encode(), new.encode("utf-8", "surrogatepass"))


DEEP = b'{"a":' * 20_000
CASES: dict[str, Callable[[Path], Path]] = {
    "honest": tables,
    "honest gzip": partial(tables, events=gzip.compress(events_csv()), suffix=".csv.gz"),
    "honest gzip of two": partial(tables, suffix=".csv.gz", events=gzip.compress(events_csv()[:99]) + gzip.compress(events_csv()[99:])),
    "honest lines": partial(tables, events=events_lines(), suffix=".jsonl"),
    "honest parquet": partial(tables, events=parquet(events_csv()), suffix=".parquet"),
    "honest authors": authors,
    "gzip bomb": partial(tables, events=BOMB, suffix=".csv.gz"),
    "gzip bomb without a suffix": partial(tables, events=BOMB),
    "gzip bomb of lines": partial(tables, events=gzip.compress(b"\n" * (300 << 20)), suffix=".jsonl.gz"),
    "gzip cut": partial(tables, events=gzip.compress(events_csv() * 99)[:-40], suffix=".csv.gz"),
    "gzip of nothing": partial(tables, events=gzip.compress(b""), suffix=".csv.gz"),
    "gzip of gzip": partial(tables, events=gzip.compress(gzip.compress(events_csv())), suffix=".csv.gz"),
    "gzip head": partial(tables, events=b"\x1f\x8b", suffix=".csv.gz"),
    "zip": partial(tables, events=zipped(events_csv())),
    "zstandard": partial(tables, events=b"\x28\xb5\x2f\xfd" + bytes(99)),
    "zlib": partial(tables, events=zlib.compress(events_csv())),
    "empty": partial(tables, events=b""),
    "only zeros": partial(tables, events=bytes(9999)),
    "not utf-8": partial(tables, events=events_csv().replace(b"u1", b"\xff\xfe")),
    "nul in ids": partial(tables, events=_change("u1", "u\0one")),
    "escapes in ids": partial(tables, events=_change("i1", "\x1b[2J\u009b\u202e")),
    "a field of 50 MB": partial(tables, events=_change("u1", "x" * 50_000_000)),
    "a header of 50 MB": partial(tables, events=_change("user_id", "x" * 50_000_000)),
    "20,000 columns": partial(tables, events=(",".join(f"c{n}" for n in range(20_000)) + "\n").encode()),
    "quote without end": partial(tables, events=_change("u1", '"u1')),
    "columns twice": partial(tables, events=_change("item_id", "user_id")),
    "times of 5,000 digits": partial(tables, events=_change(",104", "," + "9" * 5000)),
    "times of infinity": partial(tables, events=_change(",104", ",inf")),
    "lines deep": partial(tables, events=events_lines() + DEEP, suffix=".jsonl"),
    "lines deep whole": partial(tables, events=events_lines() + DEEP + b"1" + b"}" * 20_000, suffix=".jsonl"),
    "lines of lists": partial(tables, events=b"[" * 20_000, suffix=".jsonl"),
    "lines of digits": partial(tables, events=b'{"user_id": ' + b"7" * 5000 + b"}\n", suffix=".jsonl"),
    "lines of python deep": partial(tables, events=b"{'a':" * 20_000, suffix=".jsonl"),
    "lines of halves": partial(tables, events=events_lines().replace(b"u1", b"\\ud800").replace(b"u2", b"\\ud801"), suffix=".jsonl"),
    "titles deep": partial(tables, items=b"item_id,title\n" + "".join(f'i{n},"{"[" * 30_000}"\n' for n in range(7)).encode()),
    "titles of markup": partial(tables, items=b"item_id,title\n" + "".join(f'i{n},{"<a " * 30_000}\n' for n in range(7)).encode()),
    "titles of scripts": partial(tables, items=b"item_id,title\n" + "".join(f"i{n},<script>alert(1)</script>\x9b\n" for n in range(7)).encode("latin-1")),
    "parquet cut": partial(tables, events=parquet(events_csv())[:-9], suffix=".parquet"),
    "parquet of zeros": partial(tables, events=b"PAR1" + bytes(999) + b"PAR1", suffix=".parquet"),
    "parquet of a long foot": partial(tables, events=b"PAR1" + bytes(99) + b"\xff\xff\xff\x7fPAR1", suffix=".parquet"),
    "parquet that is csv": partial(tables, events=events_csv(), suffix=".parquet"),
    **{f"parquet damaged {seed}": partial(tables, events=damaged(parquet(events_csv()), seed), suffix=".parquet") for seed in range(6)},
    **{f"csv damaged {seed}": partial(tables, events=damaged(events_csv(), seed)) for seed in range(4)},
    **{f"lines damaged {seed}": partial(tables, events=damaged(events_lines(), seed), suffix=".jsonl") for seed in range(4)},
    **{f"gzip damaged {seed}": partial(tables, events=damaged(gzip.compress(events_csv()), seed), suffix=".csv.gz") for seed in range(4)},
    "events are a pipe": partial(device, make=os.mkfifo),
    "events are a folder": partial(device, make=Path.mkdir),
    "events are a device": partial(device, make=lambda path: path.symlink_to("/dev/zero")),
    "events are a loop": partial(device, make=lambda path: path.symlink_to(path.name)),
    "items are a pipe": partial(device, make=os.mkfifo, name="items.csv"),
    "items are a loop": partial(device, make=lambda path: path.symlink_to(path.name), name="items.csv"),
    "authors deep": partial(authors, inter_json=DEEP),
    "authors items deep": partial(authors, item_json=b"[" * 100_000),
    "authors key twice": partial(authors, inter_json=b'{"0": [0, 1, 2], "0": [3, 4, 5]}'),
    "authors field twice": partial(authors, item_json=b'{"0": {"title": "a", "title": "b"}}'),
    "authors digits": partial(authors, inter_json=b'{"0": [' + b"7" * 5000 + b"]}"),
    "authors rows of 2^63": partial(authors, inter_json=b'{"0": [9223372036854775808, 1, 2]}'),
    "authors rows of 2^40": partial(authors, inter_json=b'{"0": [1099511627776, 1, 2]}', item2id=b""),
    "authors negative": partial(authors, inter_json=b'{"0": [-1, 1, 2]}'),
    "authors huge key": partial(authors, inter_json=b'{"' + b"x" * 10_000_000 + b'": [1, 2, 3]}'),
    "authors huge value": partial(authors, inter_json=json.dumps({"0": "x" * 10_000_000}).encode()),
    "authors item2id of bytes": partial(authors, item2id=b"\xff\0\xfe"),
    "authors item2id twice": partial(authors, item2id=b"a\t0\na\t1\n"),
    "authors cut": partial(authors, inter_json=b'{"0": [0, 1'),
    **{f"authors damaged {seed}": partial(authors, inter_json=damaged(b'{"0": [0, 1, 2, 3, 4], "1": [1, 2, 3, 4, 5]}', seed)) for seed in range(6)},
    "pictures outside": partial(pictured, names=["../../../etc/passwd", "/etc/passwd", "/dev/zero", "fine.png"]),
    "pictures with odd names": partial(pictured, names=["x" * 300, "a\0b", "y/" * 3000, "fine.png", "\u202e.png"]),
    "pictures that are pipes": partial(pictured, names=["pipe.png", "fine.png"], make=lambda folder: os.mkfifo(folder / "pipe.png")),
    "pictures that are folders": partial(pictured, names=["d.png", "fine.png"], make=lambda folder: (folder / "d.png").mkdir()),
    "pictures that are loops": partial(pictured, names=["l.png", "fine.png"], make=lambda folder: (folder / "l.png").symlink_to("l.png")),
    "pictures of postscript": partial(pictured, names=["p.png", "fine.png"], make=lambda folder: (folder / "p.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/x) run\n")),
    "pictures of numbers": partial(pictured, names=["n.npy", "fine.png"], make=lambda folder: np.save(folder / "n.npy", np.zeros(3))),
    "pictures of many pixels": partial(pictured, names=["m.png", "fine.png"], make=lambda folder: Image.new("1", (40_000, 40_000)).save(folder / "m.png")),
    **{f"pictures damaged {seed}": partial(pictured, names=["b.png", "fine.png"], make=lambda folder, seed=seed: (folder / "b.png").write_bytes(damaged((folder / "fine.png").read_bytes(), seed))) for seed in range(4)},
}  # fmt: skip
