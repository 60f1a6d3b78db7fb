"""Round ticks, pixels of values, and labels that do not overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LINE = 14.0  # height of a label


@dataclass(frozen=True)
class Axis:
    """How values become pixels.

    Attributes:
        ticks: Values that are written out; the first and last are the ends of the axis.
        start: Pixel of the first.
        end: Pixel of the last.
        log: Whether equal steps are equal factors.
    """

    ticks: Sequence[float]
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Give a value's pixel."""
        low, high, at = self.ticks[0], self.ticks[-1], value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(value)
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def spell(self, tick: float) -> str:
        """Write a tick with as many decimals as its step needs."""
        if self.log:
            return f"{tick:g}"
        step = self.ticks[1] - self.ticks[0]
        return f"{tick:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def even_ticks(low: float, high: float, *, n_steps: int = 4, whole: bool = False) -> list[float]:
    """Give round values, 1, 2 or 5 times a power of ten apart, that enclose low and high.

    Args:
        low: The least value.
        high: The greatest.
        n_steps: About so many steps.
        whole: Whether only whole numbers make sense.
    """
    if high <= low:
        high = low + (1.0 if whole else abs(low) or 1.0)
    rough = (high - low) / n_steps
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1.0, float(round(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Give powers of ten, with halves and fifths at the ends, that enclose low and high."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]
    first = max(i for i, tick in enumerate(ticks) if tick <= low)
    last = min(i for i, tick in enumerate(ticks) if tick >= high)
    kept = ticks[first : last + 1]
    if len(kept) <= 6:
        return kept
    return [tick for i, tick in enumerate(kept) if i in (0, len(kept) - 1) or _is_power(tick)]


def _is_power(tick: float) -> bool:
    exponent = math.log10(tick)
    return abs(exponent - round(exponent)) < 1e-9


def spread(places: Sequence[float], *, highest: float, gap: float = LINE) -> list[float]:
    """Move ascending places apart until neighbours are `gap` from each other.

    Args:
        places: Ascending.
        highest: The last place stays at or below it, and pushes the others back.
        gap: The least distance.
    """
    moved = list(places)
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    ceiling = highest
    for i in range(len(moved) - 1, -1, -1):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - gap
    return moved
