"""Arguments for the Rust border: valid ones in any layout, and hostile ones, drawn cheaply.

Everything is drawn from one `random.Random`, so that a round is known by its seed and number.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from collision_cases import NUMBERS, SPACES, Case

Array = np.ndarray[Any, Any]

HUGE = (2**31, 2**33, 2**40, 2**50)
"""Entries of an array that takes no memory itself; no answer of that size can be had."""
NUMBERS_OF_NO_SENSE = (0, 1, -1, 2, 7, 9, 255, 2**16, 2**16 + 1, 2**31, 2**32, 2**63 - 1)
BEYOND_64_BITS = (2**63, 2**64, -(2**63) - 1, 10**30)
OTHER_DTYPES = ("u1", "i2", ">u2", "<u2", "i4", "i8", ">i8", "u8", "f4", "f8", "f2", "?", "O", "c8")
OTHER_OBJECTS: tuple[Any, ...] = (
    *(None, True, 3, -1, 0.5, math.nan, "codes", b"codes", (), [], {}, [[0, 1]], object()),
    *(range(3), range(2**20), range(2**40), range(2**60), {1, 2}, int, np.uint16(3)),
    *(np.array(3), np.array("x"), np.datetime64("2020"), memoryview(b"ab"), np.ma.array([1, 2])),
)


def octets(rng: random.Random, *shape: int) -> Array:
    """Draw bytes, uint8 of that shape."""
    return np.frombuffer(rng.randbytes(math.prod(shape)), np.uint8).reshape(shape)


def collision_case(rng: random.Random) -> Case:
    """Draw up to 16 items in a small space: many collisions, many ties."""
    n_codes = rng.choice(SPACES)
    n_levels = len(n_codes)
    n_items = rng.randint(0, min(math.prod(n_codes), 16))
    few = [rng.randint(1, n) for n in n_codes]
    codes = (octets(rng, n_items, n_levels) % few).astype(np.uint16)
    numbers, width = rng.choice(NUMBERS).astype(np.float32), rng.randint(0, 3)
    distances = numbers[octets(rng, n_items, n_levels, max(n_codes)) % len(numbers)]
    for level, n in enumerate(n_codes):
        distances[:, level, n:] = np.nan  # never looked at
    vectors = numbers[octets(rng, n_items + sum(n_codes), width) % len(numbers)]
    ends = np.cumsum([n_items, *n_codes])
    books = [vectors[end - n : end] for n, end in zip(n_codes, ends[1:], strict=True)]
    keys = np.array(rng.sample(range(100, 100 + n_items), n_items), np.uint64)
    return Case(
        codes=codes,
        n_codes=n_codes,
        distances=distances,
        latents=vectors[:n_items],
        codebooks=books,
        keys=keys,
        frozen=_frozen(rng, codes),
    )


def _frozen(rng: random.Random, codes: Array) -> Array:
    frozen = np.zeros(len(codes), np.bool_)
    if rng.random() < 0.5:
        places: dict[bytes, list[int]] = {}
        for row, own in enumerate(codes):
            places.setdefault(own.tobytes(), []).append(row)
        for alike in places.values():
            if rng.random() < 0.3:
                frozen[rng.choice(alike)] = True
    return frozen


def relaid(rng: random.Random, array: Array) -> Array:
    """Lay the same values out in another way."""
    return rng.choice(LAYOUTS)(array)


def _padded(array: Array) -> Array:
    """Every second entry of a larger array, along every axis."""
    room = np.zeros([2 * n for n in array.shape], array.dtype)
    view = room[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def _backwards(array: Array) -> Array:
    turn = tuple(slice(None, None, -1) for _ in array.shape)
    return np.ascontiguousarray(array[turn])[turn]


def _record(array: Array) -> Array:
    """A column of records of odd size: no number lies at a multiple of its size."""
    records = np.zeros(array.shape, np.dtype([("odd", "u1"), ("own", array.dtype)]))
    records["own"] = array
    column: Array = records["own"]
    return column


def _shifted(array: Array) -> Array:
    """One byte beside where it should lie."""
    room = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype)
    view = room.reshape(array.shape)
    view[...] = array
    return view


def _read_only(array: Array) -> Array:
    copy = array.copy()
    copy.setflags(write=False)
    return copy


class Own(np.ndarray[Any, Any]):
    """A subclass, as `memmap` is one."""


LAYOUTS: tuple[Callable[[Array], Array], ...] = (
    np.asfortranarray,
    _padded,
    _backwards,
    _record,
    _shifted,
    _read_only,
    lambda array: array.view(Own),
)


def hostile(rng: random.Random, array: Array) -> Any:
    """Draw something that is not, or not quite, the array that is wanted."""
    if (
        not 1 <= array.ndim <= 3
        or max(array.nbytes, *array.shape) > 2**20
        or array.dtype.kind not in "biuf"
    ):
        return rng.choice(OTHER_OBJECTS)  # it is distorted already
    return rng.choice(DISTORTIONS)(rng, array)


def _dtype(rng: random.Random, array: Array) -> Any:
    with np.errstate(all="ignore"):
        return array.astype(rng.choice(OTHER_DTYPES))


def _values(rng: random.Random, array: Array) -> Any:
    """Other values, whatever bits there are: NaN, infinity, extremes, noise."""
    changed = array.copy()
    if changed.size == 0:
        return changed
    if array.dtype == np.bool_:
        return octets(rng, *array.shape).view(np.bool_)
    flat = changed.reshape(-1)
    extremes = _extremes(array.dtype)
    for _ in range(rng.randint(1, 3)):
        flat[rng.randrange(flat.size)] = rng.choice(extremes)
    if rng.random() < 0.2:
        noise = np.frombuffer(rng.randbytes(changed.nbytes), array.dtype)
        return noise.reshape(array.shape)
    return changed


def _extremes(dtype: Any) -> tuple[Any, ...]:
    if dtype.kind == "f":
        info = np.finfo(dtype)
        return (math.nan, math.inf, -math.inf, info.max, info.min, info.tiny, -1.0, 1e-45)
    limits = np.iinfo(dtype)
    return tuple(n for n in (*NUMBERS_OF_NO_SENSE, limits.max) if limits.min <= n <= limits.max)


def _shape(rng: random.Random, array: Array) -> Any:
    """Other lengths and other numbers of dimensions."""
    ways: tuple[Callable[[], Any], ...] = (
        lambda: array[None],
        lambda: array[..., None],
        array.ravel,
        lambda: array[:0],
        lambda: array[:-1],
        lambda: array[..., :0],
        lambda: array[..., :1],
        lambda: np.concatenate([array, array]),
        lambda: np.concatenate([array, array], axis=-1),
        lambda: array.T,
        lambda: np.zeros((1,) * 40, array.dtype),
        lambda: np.zeros((0, 2**40), array.dtype),
        lambda: array[0] if len(array) else array[..., None],
    )
    return rng.choice(ways)()


def _overlapping(rng: random.Random, array: Array) -> Any:
    """Entries that share memory: strides of zero, or smaller than what they step over."""
    strides = [rng.choice((0, array.itemsize, 1)) for _ in array.shape]
    if array.size * array.itemsize < sum(
        (n - 1) * s for n, s in zip(array.shape, strides, strict=True)
    ):
        strides = [0] * array.ndim
    return np.lib.stride_tricks.as_strided(array, array.shape, strides)


DISTORTIONS: tuple[Callable[[random.Random, Array], Any], ...] = (
    lambda rng, array: rng.choice(OTHER_OBJECTS),
    lambda rng, array: array.tolist(),
    lambda rng, array: relaid(rng, array),
    _dtype,
    _values,
    _values,
    _values,
    _shape,
    _shape,
    _overlapping,
    lambda rng, array: np.broadcast_to(np.zeros((), array.dtype), _claim(rng, array)),
)


def _claim(rng: random.Random, array: Array) -> list[int]:
    """A shape of far more entries than there is memory."""
    shape = list(array.shape) or [1]
    axis = rng.randrange(len(shape)) if rng.random() < 0.2 else 0
    shape[axis] = rng.choice(HUGE)
    for other in range(len(shape)):
        if other != axis and math.prod(shape) > 2**60:
            shape[other] = min(shape[other], 2)
    return shape


def hostile_number(rng: random.Random) -> Any:
    """Draw something for a number: a thread count, a level, how many levels are open."""
    return rng.choice((*NUMBERS_OF_NO_SENSE, *BEYOND_64_BITS, *OTHER_OBJECTS))


def hostile_sizes(rng: random.Random, n_codes: tuple[int, ...]) -> Any:
    """Draw something for the list of the numbers of codes."""
    sizes: list[Any] = list(n_codes)
    match rng.randrange(6):
        case 0:
            sizes[rng.randrange(len(sizes))] = hostile_number(rng)
        case 1:
            sizes = sizes[: rng.randrange(len(sizes))]
        case 2:
            sizes = sizes * rng.randint(2, 5)
        case 3:
            return rng.choice(OTHER_OBJECTS)
        case 4:
            return np.array(sizes)
        case _:
            sizes = [2**16] * rng.randint(1, 9)
    return sizes
