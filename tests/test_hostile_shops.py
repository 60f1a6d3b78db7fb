"""Shops that nobody should trust end well or with one short message."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import hostile_shops
from forked_cli import ForkedCli


@pytest.fixture(scope="module")
def cli() -> Iterator[ForkedCli]:
    with ForkedCli() as cli:
        yield cli


@pytest.mark.parametrize("name", hostile_shops.CASES)
def test_a_hostile_shop_ends_in_words(tmp_path: Path, cli: ForkedCli, name: str) -> None:
    (tmp_path / "shop").mkdir()
    settings = hostile_shops.CASES[name](tmp_path / "shop")
    options = ("--quiet", "--config", str(settings))
    prepared = cli("prepare", *options, folder=tmp_path / "a", timeout=60, memory_gib=4)
    assert prepared.is_told, prepared
    assert len(prepared.err) < 1500
    if name.startswith("honest"):
        assert prepared.code == 0, prepared
    if name.startswith("pictures"):
        assert prepared.code == 0, prepared
        embedded = cli("embed", *options, folder=tmp_path / "b", timeout=60, memory_gib=4)
        assert embedded.code == 0, embedded
