"""The demo shop's pictures: a silhouette per category, filled with colour and pattern."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mql4grec.demo.items import COLOURS, Collection, Item

SIDE = 96  # pixels
DRAWN = 2 * SIDE  # silhouettes are drawn at twice the size and scaled down, for smooth edges
PERIOD = 22  # of a pattern, in drawn pixels
SCALES = (0.6, 0.72, 0.84)  # part of the picture that a small, medium, large item fills

# Drawn one after the other in the unit square, y downwards; a "hole" takes away.
SILHOUETTES: dict[str, tuple[tuple[str, tuple[float, ...]], ...]] = {
    "mug": (
        ("ellipse", (0.54, 0.36, 0.92, 0.74)),
        ("hole", (0.62, 0.45, 0.83, 0.65)),
        ("rounded", (0.16, 0.22, 0.7, 0.88)),
    ),
    "bowl": (("lower", (0.04, 0.0, 0.96, 0.9)), ("box", (0.36, 0.84, 0.64, 0.95))),
    "plate": (
        ("ellipse", (0.04, 0.04, 0.96, 0.96)),
        ("hole", (0.22, 0.22, 0.78, 0.78)),
        ("ellipse", (0.26, 0.26, 0.74, 0.74)),
    ),
    "bottle": (("rounded", (0.28, 0.34, 0.72, 0.97)), ("box", (0.41, 0.04, 0.59, 0.42))),
    "cushion": (
        ("polygon", (0.06, 0.06, 0.5, 0.15, 0.94, 0.06, 0.94, 0.94, 0.5, 0.85, 0.06, 0.94)),
    ),
    "lamp": (
        ("polygon", (0.32, 0.06, 0.68, 0.06, 0.88, 0.5, 0.12, 0.5)),
        ("box", (0.46, 0.5, 0.54, 0.88)),
        ("ellipse", (0.26, 0.82, 0.74, 0.96)),
    ),
    "vase": (
        ("ellipse", (0.2, 0.34, 0.8, 0.97)),
        ("box", (0.4, 0.1, 0.6, 0.45)),
        ("ellipse", (0.3, 0.04, 0.7, 0.16)),
    ),
    "clock": (
        ("ellipse", (0.06, 0.06, 0.94, 0.94)),
        ("gap", (0.47, 0.18, 0.53, 0.53)),
        ("gap", (0.47, 0.47, 0.74, 0.53)),
    ),
    "backpack": (
        ("ellipse", (0.34, 0.02, 0.66, 0.34)),
        ("hole", (0.42, 0.1, 0.58, 0.26)),
        ("rounded", (0.18, 0.18, 0.82, 0.95)),
        ("gap", (0.28, 0.56, 0.72, 0.6)),
    ),
    "suitcase": (
        ("box", (0.34, 0.12, 0.66, 0.32)),
        ("gap", (0.4, 0.18, 0.6, 0.32)),
        ("rounded", (0.05, 0.28, 0.95, 0.9)),
    ),
    "hat": (("upper", (0.24, 0.14, 0.76, 1.0)), ("ellipse", (0.02, 0.5, 0.98, 0.72))),
    "umbrella": (("upper", (0.03, 0.06, 0.97, 1.0)), ("box", (0.47, 0.5, 0.53, 0.96))),
    "flower pot": (
        ("polygon", (0.18, 0.3, 0.82, 0.3, 0.7, 0.95, 0.3, 0.95)),
        ("box", (0.1, 0.14, 0.9, 0.32)),
    ),
    "watering can": (
        ("ellipse", (0.0, 0.3, 0.5, 0.8)),
        ("hole", (0.09, 0.39, 0.41, 0.71)),
        ("polygon", (0.6, 0.75, 0.92, 0.2, 1.0, 0.26, 0.72, 0.88)),
        ("rounded", (0.25, 0.32, 0.72, 0.92)),
    ),
    "birdhouse": (
        ("polygon", (0.5, 0.02, 0.96, 0.42, 0.04, 0.42)),
        ("box", (0.18, 0.42, 0.82, 0.96)),
        ("hole", (0.38, 0.5, 0.62, 0.74)),
    ),
    "lantern": (
        ("polygon", (0.5, 0.02, 0.8, 0.24, 0.2, 0.24)),
        ("box", (0.24, 0.28, 0.76, 0.96)),
        ("gap", (0.36, 0.4, 0.64, 0.84)),
    ),
}


def draw_picture(
    path: Path, item: Item, *, collection: Collection, generator: np.random.Generator
) -> None:
    """Draw one item and write it as PNG or JPEG, by the suffix of `path`."""
    base = np.clip(np.array(COLOURS[item.colour]) * item.shade, 0, 255)
    light = base + 0.65 * (255 - base)
    marks = _pattern(collection.pattern)
    surface = Image.fromarray(np.where(marks[..., None], light, base).astype(np.uint8))
    silhouette = _silhouette(item.category, round(DRAWN * SCALES[item.size]))
    wall = tuple(int(value) for value in generator.integers(232, 256, size=3))
    picture = Image.new("RGB", (DRAWN, DRAWN), wall)
    room = DRAWN - silhouette.width
    x, y = room // 2 + generator.integers(-room // 6, room // 6 + 1, size=2)
    corner = (int(x), int(y))
    picture.paste(surface.crop((0, 0, *silhouette.size)), corner, silhouette)
    picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(path, quality=90)


@cache
def _silhouette(category: str, side: int) -> Image.Image:
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    paint: dict[str, Callable[[list[float]], None]] = {
        "ellipse": lambda box: draw.ellipse(box, fill=255),
        "hole": lambda box: draw.ellipse(box, fill=0),
        "box": lambda box: draw.rectangle(box, fill=255),
        "gap": lambda box: draw.rectangle(box, fill=0),
        "rounded": lambda box: draw.rounded_rectangle(box, radius=side / 8, fill=255),
        "polygon": lambda points: draw.polygon(points, fill=255),
        "upper": lambda box: draw.chord(box, 180, 360, fill=255),
        "lower": lambda box: draw.chord(box, 0, 180, fill=255),
    }
    for kind, places in SILHOUETTES[category]:
        paint[kind]([place * (side - 1) for place in places])
    return mask


@cache
def _pattern(name: str) -> NDArray[np.bool_]:
    y, x = np.mgrid[:DRAWN, :DRAWN].astype(np.float64)
    half = PERIOD / 2
    values = {
        "plain": np.zeros_like(x),
        "stripes": x // half % 2,
        "bars": y // half % 2,
        "diagonal": (x + y) // half % 2,
        "checks": (x // half + y // half) % 2,
        "dots": np.hypot(x % PERIOD - half, y % PERIOD - half) < 0.32 * PERIOD,
        "rings": np.hypot(x - DRAWN / 3, y - DRAWN / 3) // half % 2,
        "zigzag": (y + np.abs(x % PERIOD - half)) // half % 2,
    }
    marks: NDArray[np.bool_] = values[name].astype(np.bool_)  # (DRAWN, DRAWN)
    return marks
