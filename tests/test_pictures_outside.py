"""Which files are opened as pictures: of a fixed list of formats, below the shop's folder only."""

import json
import os
import subprocess
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from mql4grec import catalog
from mql4grec.catalog.pictures import Fence, root_of
from mql4grec.config import CatalogSettings, DatasetSettings
from mql4grec.embeddings.pictures import Pictures, open_picture, thumbnail

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n0 0 moveto showpage\n"


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 9), "red").save(path)
    return path


def prepared(folder: Path, names: list[str], **settings: object) -> tuple[catalog.Catalog, Path]:
    """Prepare a shop whose items have these pictures, in `folder`/shop."""
    shop = folder / "shop"
    shop.mkdir(exist_ok=True)
    ids = [f"i{number}" for number in range(len(names))]
    pl.DataFrame({"item_id": ids, "image": names}).write_csv(shop / "items.csv")
    events = [(user, item, time) for user in ("u", "v", "w") for time, item in enumerate(ids)]
    pl.DataFrame(events, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(
        shop / "events.csv"
    )
    dataset = DatasetSettings.model_validate(
        {"name": "Shop", "format": "tables", "interactions": shop / "events.csv",
         "items": shop / "items.csv", "image_column": "image", **settings}
    )  # fmt: skip
    rules = CatalogSettings(datasets=(dataset,), k_core=0)
    return catalog.prepare(dataset, rules, folder=folder / "run", seed=1), folder / "run"


def test_names_that_lead_out_of_the_shop_are_left_out_and_counted(tmp_path: Path) -> None:
    secret = picture(tmp_path / "private" / "a.png")
    inside = picture(tmp_path / "shop" / "pics" / "a.png")
    (tmp_path / "shop" / "link.png").symlink_to(secret)
    (tmp_path / "shop" / "linked").symlink_to(secret.parent)
    (tmp_path / "shop" / "fine.png").symlink_to(inside)
    outside = ["../private/a.png", "pics/../../private/a.png", str(secret), "link.png",
               "linked/a.png", "linked/../private/a.png", "/etc/passwd", "~/../../a.png/../../x",
               "x" * 300 + "/../../b", "..", "/dev/zero"]  # fmt: skip
    fine = ["pics/a.png", "fine.png", "./pics/../pics/a.png", str(inside)]
    found, run = prepared(tmp_path, [*outside, *fine])
    images = dict(zip(found.item_ids, found.images, strict=True))
    told = [images[f"i{number}"] for number in range(len(images))]
    assert [path for path in told[: len(outside)] if path is not None] in (
        [], [tmp_path / "shop" / "~/../../a.png/../../x"],
    )  # fmt: skip
    assert all(path is not None for path in told[len(outside):])  # fmt: skip
    counts = json.loads((run / "counts.json").read_text())
    assert counts["pictures_outside"] == told.count(None) == counts["items_without_picture"]


def test_a_setting_opens_them(tmp_path: Path) -> None:
    secret = picture(tmp_path / "private" / "a.png")
    names = ["../private/a.png", str(secret), "x" * 5]
    found, run = prepared(tmp_path, names, images_outside=True)
    assert None not in found.images
    assert json.loads((run / "counts.json").read_text())["pictures_outside"] == 0


def test_item_ids_lead_a_pattern_nowhere_else(tmp_path: Path) -> None:
    fence = Fence(root_of(f"{tmp_path}/posters/p-{{item_id}}.jpg"))
    for item_id, is_in in (("1", True), ("/../../x", False), ("a/b", True), ("/../p", True)):
        assert fence.encloses(Path(f"{tmp_path}/posters/p-{item_id}.jpg")) == is_in
    assert root_of("posters/{item_id}.jpg") == Path("posters")
    assert root_of("{item_id}.jpg") == Path()
    assert root_of("/a/{item_id}/b.jpg") == Path("/a")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.eps", "a.ps"])
def test_postscript_starts_no_other_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    (tmp_path / name).write_bytes(POSTSCRIPT)
    monkeypatch.setattr(subprocess, "check_call", refused)
    monkeypatch.setattr(subprocess, "Popen", refused)
    with pytest.raises(OSError, match="cannot identify image file"):
        open_picture(tmp_path / name)
    assert "cannot identify image file" in str(Pictures([tmp_path / name], None)[0][2])
    assert thumbnail(tmp_path / name, size=9) is None


@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_a_missing_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    odd = [tmp_path / name for name in ("pipe.png", "folder.png", "loop.png", "x" * 300, "a\0b")]
    for path in (*odd, Path("/dev/zero"), tmp_path / ("y/" * 3000)):
        assert Pictures([path], None)[0][2] is not None
        assert thumbnail(path, size=9) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_formats_of_shops_are_opened_whatever_their_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "picture.bin"
    Image.new("RGB", (9, 9), "red").save(path, format=kind)
    assert open_picture(path).size == (9, 9)
