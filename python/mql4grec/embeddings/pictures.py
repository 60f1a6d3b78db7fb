"""Picture files to tensors, in loader processes; an unreadable file is told, never replaced."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps
from torch.utils.data import DataLoader

# Never PostScript, for which PIL starts another program, nor formats that no shop has.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
LONGEST_RATIO = 100  # of the sides; resizing a thinner picture by its short side fills the memory


@dataclass(frozen=True)
class Opened:
    """One batch of pictures as a loader process hands it over.

    Attributes:
        rows: int64 (B), items whose picture was read.
        pixels: float32 (B, 3, H, W), None if none was read.
        faults: Row and reason of each picture that was not.
    """

    rows: NDArray[np.int64]
    pixels: torch.Tensor | None
    faults: dict[int, str]


@dataclass(frozen=True)
class Pictures:
    """The picture files, as a data set for a torch loader.

    Attributes:
        paths: (N), None where an item has none.
        transform: Picture to float32 (3, H, W); None: only see whether it can be read.
    """

    paths: Sequence[Path | None]
    transform: Callable[[Image.Image], torch.Tensor] | None

    def __getitem__(self, row: int) -> tuple[int, torch.Tensor | None, str | None]:
        """Give the row, and its pixels or the reason why there are none."""
        path = self.paths[row]
        if path is None:
            return row, None, "no picture given"
        try:
            if not path.is_file():
                return row, None, f"no such file: {path}"
            picture = open_picture(path)
        except Exception as err:  # decoders raise anything on broken bytes; the reason is reported
            return row, None, f"cannot be read: {path}: {type(err).__name__}: {err}"
        return row, self.transform(picture) if self.transform else None, None


def open_picture(path: Path) -> Image.Image:
    """Read a whole picture file as RGB, upright, on white where it is transparent.

    Args:
        path: A file of one of `FORMATS`; of several frames the first is taken.

    Raises:
        OSError: If the file is no picture or is cut short; other errors of PIL's decoders likewise.
        Image.DecompressionBombWarning: If it has more pixels than PIL takes for sane.
        ValueError: If it is too thin to be resized.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ValueError(
            "`PIL.ImageFile.LOAD_TRUNCATED_IMAGES`: expected False, got True; "
            "half pictures would pass for whole ones"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.init()
        built = [name for name in FORMATS if name in Image.OPEN]
        with Image.open(path, formats=built) as file:
            file.load()
            picture = _as_rgb(ImageOps.exif_transpose(file))
    if max(picture.size) > LONGEST_RATIO * min(picture.size):
        raise ValueError(f"sides of {picture.size[0]} x {picture.size[1]} pixels")
    return picture


def thumbnail(path: Path, *, size: int) -> bytes | None:
    """Make a small JPEG of a picture, for people to look at; None if it cannot be read.

    Args:
        path: The picture file.
        size: Longest side in pixels.
    """
    _, _, reason = Pictures([path], transform=None)[0]
    if reason is not None:
        return None
    picture = open_picture(path)
    picture.thumbnail((size, size))
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=85)
    return file.getvalue()


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits per pixel, which `convert` would clip to white
        values = np.asarray(picture, dtype=np.int64)
        return Image.fromarray((values.clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(ground, layer).convert("RGB")
    return picture.convert("RGB")


def open_batches(
    pictures: Pictures, batches: Sequence[NDArray[np.int64]], *, n_workers: int
) -> Iterator[Opened]:
    """Read batches of pictures in order, by `n_workers` processes (0: in this one).

    Args:
        pictures: The files.
        batches: Rows of each batch.
        n_workers: Processes that read and transform.
    """
    loader: DataLoader[Opened] = DataLoader(
        pictures,  # type: ignore[arg-type]  # torch wants its base class, and needs only this much
        batch_sampler=[batch.tolist() for batch in batches],
        num_workers=n_workers,
        collate_fn=_join,
        generator=torch.Generator(),  # leaves the global one as it is
    )
    yield from loader


def _join(samples: list[tuple[int, torch.Tensor | None, str | None]]) -> Opened:
    good = [(row, pixels) for row, pixels, reason in samples if reason is None]
    read = [pixels for _, pixels in good if pixels is not None]
    return Opened(
        rows=np.array([row for row, _ in good], dtype=np.int64),
        pixels=torch.stack(read) if read else None,  # (B, 3, H, W)
        faults={row: reason for row, _, reason in samples if reason is not None},
    )
