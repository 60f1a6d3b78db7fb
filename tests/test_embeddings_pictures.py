import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from mql4grec import embeddings
from mql4grec.embeddings.pictures import Pictures, open_picture

LEFT_RED = np.zeros((20, 40, 3), np.uint8)  # red on the left, blue on the right
LEFT_RED[:, :20, 0] = 255
LEFT_RED[:, 20:, 2] = 255


def fault_of(path: Path) -> str:
    _, pixels, reason = Pictures([path], transform=None)[0]
    assert pixels is None
    assert reason is not None
    assert reason.startswith(f"cannot be read: {path}: ")
    return reason


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "RGBA", "LA"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    path = tmp_path / f"picture.{suffix}"
    Image.new("RGB", (20, 10), "white").convert(mode).save(path)
    picture = open_picture(path)
    assert picture.mode == "RGB"
    assert picture.size == (20, 10)
    assert picture.getpixel((5, 5)) == (255, 255, 255)


def test_colours_survive_a_palette(tmp_path: Path) -> None:
    path = tmp_path / "picture.gif"
    Image.fromarray(LEFT_RED).convert("P", palette=Image.Palette.ADAPTIVE).save(path)
    assert open_picture(path).getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "picture.png"
    if mode == "RGBA":
        Image.new("RGBA", (20, 10), (0, 0, 0, 0)).save(path)
    else:
        Image.new("P", (20, 10), 0).save(path, transparency=0)
    assert open_picture(path).getpixel((5, 5)) == (255, 255, 255)


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(np.full((10, 10), 32768, np.uint16)).save(path)
    assert open_picture(path).getpixel((5, 5)) == (128, 128, 128)


def test_rotation_by_exif_is_undone(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(LEFT_RED).save(path, exif=exif, quality=95)
    picture = open_picture(path)
    assert picture.size == (20, 40)
    top, bottom = picture.getpixel((10, 5)), picture.getpixel((10, 35))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[0] > 200 > bottom[0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp"])
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_pictures_that_are_cut_short(tmp_path: Path, suffix: str, part: float) -> None:
    path = tmp_path / f"picture.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    fault_of(path)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_files_that_are_no_pictures(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    assert "UnidentifiedImageError" in fault_of(path) or "Error" in fault_of(path)


def test_a_folder_in_place_of_a_picture(tmp_path: Path) -> None:
    assert Pictures([tmp_path], transform=None)[0] == (0, None, f"no such file: {tmp_path}")


def test_decompression_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (30, 30)).save(path)
    for limit, name in ((600, "DecompressionBombWarning"), (300, "DecompressionBombError")):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert name in fault_of(path)


def test_pictures_too_thin_to_be_resized(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (1000, 2)).save(path)
    assert "sides of 1000 x 2 pixels" in fault_of(path)


def test_half_pictures_never_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (20, 20)).save(path)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ValueError, match="expected False, got True; half pictures would pass"):
        open_picture(path)


def test_a_thumbnail_is_a_small_jpeg(tmp_path: Path) -> None:
    Image.new("RGBA", (400, 200), "red").save(tmp_path / "a.png")
    small = embeddings.thumbnail(tmp_path / "a.png", size=64)
    assert small is not None
    with Image.open(io.BytesIO(small)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (64, 32))


def test_there_is_no_thumbnail_of_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert embeddings.thumbnail(tmp_path / "a.png", size=64) is None
    assert embeddings.thumbnail(tmp_path / "nowhere.png", size=64) is None
