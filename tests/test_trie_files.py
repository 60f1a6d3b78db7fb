"""Trie in Rust: files that come back, and files that are damaged or not tries."""

from __future__ import annotations

import contextlib
import itertools
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from mql4grec._core import CodeTrie
from trie_cases import HEADER, TRIE, Case, cases, codes, ints, same

K = (2, 3, 0, 0, 0, 0, 0, 0)
LEVELS = (0, 1, 3, 6, 0, 0, 0, 0, 0, 0)


@given(case=cases())
@settings(max_examples=30)
def test_a_saved_trie_comes_back(case: Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("trie") / "items.trie"
    cut = case.trie.restrict(np.arange(len(case.rows)) % 2 == 0)
    for trie, verify in itertools.product((case.trie, cut), (False, True)):
        trie.save(path)
        loaded = CodeTrie.load(str(path), verify=verify)
        assert same(loaded, trie)
        assert loaded.find(case.codes).tolist() == trie.find(case.codes).tolist()
        assert same(
            loaded.restrict(np.zeros(len(case.rows), np.bool_)),
            CodeTrie(np.zeros((0, len(case.n_codes)), np.uint16), case.n_codes),
        )


def test_the_file_format_is_the_one_described(tmp_path: Path) -> None:
    trie = CodeTrie(np.array([[1, 2], [0, 2], [1, 0]], np.uint16), [2, 3])
    trie.save(tmp_path / "t")

    header = b"MQLTRIE\x03" + struct.pack("<2Q 8Q 10Q Q", 2, 3, *K, *LEVELS, 384) + bytes(16)
    offsets, rows = struct.pack("<4I", 0, 2, 3, 5), struct.pack("<3I", 1, 2, 0)
    arrays = b"".join(a.ljust(64, b"\0") for a in (offsets, bytes([0, 1, 2, 0, 2]), rows))
    assert (tmp_path / "t").read_bytes() == sealed(header + arrays)


def sealed(content: bytes) -> bytes:
    """Make both checksums right: of the arrays, then of the header."""
    content = content[:176] + checksum(content[HEADER:]) + content[184:]
    return content[:184] + checksum(content[:184]) + content[HEADER:]


def checksum(content: bytes) -> bytes:
    return struct.pack("<Q", xxhash.xxh3_64_intdigest(content))


@given(case=cases(), data=st.data())
@settings(max_examples=50, deadline=None)  # a file may claim a hundred million rows
def test_no_damaged_file_is_read_as_a_trie(
    case: Case, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("trie") / "items.trie"
    case.trie.save(path)
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    damaged = bytearray(content)
    damaged[place] ^= data.draw(st.integers(1, 255))

    for broken in (bytes(damaged), content[:place], content + b"\0"):
        path.unlink()  # the tries of an earlier round may still be mapped
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="trie file"):
            CodeTrie.load(path, verify=True)
        if len(broken) != len(content) or place < HEADER:
            with pytest.raises(ValueError, match="trie file"):
                CodeTrie.load(path)
    # With right checksums, or unverified, it is an error or a trie that gives some answer.
    for broken, verify in itertools.product(
        (bytes(damaged), sealed(bytes(damaged))), (True, False)
    ):
        path.unlink()
        path.write_bytes(broken)
        with contextlib.suppress(ValueError):
            other = CodeTrie.load(path, verify=verify)
            every = np.zeros((1, other.n_levels), np.uint16)
            assert other.find(every).max() < 2**32
            assert len(other.allowed(every[:, :1])[0]) == 2
            other.restrict(np.zeros(0, np.int64))


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    TRIE.save(tmp_path / "t")
    before = (tmp_path / "t").read_bytes()
    mapped = CodeTrie.load(tmp_path / "t")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="folder"):
        TRIE.save(tmp_path / "folder")
    other = CodeTrie(np.array([[1, 1]], np.uint16), [2, 3])
    other.save(tmp_path / "t")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "t"]
    assert same(CodeTrie.load(tmp_path / "t"), other)
    assert same(mapped, TRIE)  # still the file that it was opened from
    mapped.save(tmp_path / "t")
    assert (tmp_path / "t").read_bytes() == before


def header(*, n_levels: int = 2, n_rows: int = 3, k: Any = K, levels: Any = LEVELS) -> bytes:
    numbers = struct.pack("<2Q 8Q 10Q 3Q", n_levels, n_rows, *k, *levels, 384, 0, 0)
    return sealed(b"MQLTRIE\x03" + numbers + bytes(192))


def hexadecimal(number: bytes) -> str:
    return f"{int.from_bytes(number, 'little'):016x}"


CHANGED = header()[:16] + b"\4" + header()[17:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected it to start with `MQLTRIE` and a version, got something else"),
        (
            b"PK\x03\x04",
            "expected it to start with `MQLTRIE` and a version, got something else",
        ),
        (b"MQLTRIE\x03\2", "expected 192 bytes, got 9"),
        (header()[:300], "expected 384 bytes, got 300"),
        (header() + b"\0", "expected 384 bytes, got 385"),
        (
            CHANGED,
            f"expected checksum {hexadecimal(header()[184:192])} of the header, "
            f"got {hexadecimal(checksum(CHANGED[:184]))}",
        ),
        (header(n_levels=9), "expected 2 to 8 levels"),
        (header(n_levels=1), "expected 2 to 8 levels"),
        (header(n_rows=2**32), "expected counts below 2^32"),
        (header(k=(2, 0, *K[2:])), "expected 1 to 65536 codes per level"),
        (header(k=(2, 65537, *K[2:])), "expected 1 to 65536 codes per level"),
        (
            header(levels=(1, *LEVELS[1:])),
            "expected levels that start with one root and never shrink",
        ),
        (
            header(levels=(0, 1, 3, 2, *LEVELS[4:])),
            "expected levels that start with one root and never shrink",
        ),
        (header(levels=(0, 1, 3, 3, *LEVELS[4:])), "expected leaves, unless the root is alone"),
        (header(levels=(0, 1, 30, 60, *LEVELS[4:])), "expected arrays as long as its levels tell"),
    ],
)
def test_a_file_with_a_wrong_header_is_told(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^trie file: {re.escape(message)}; save it again$"):
        CodeTrie.load(path)


@pytest.mark.parametrize(
    ("place", "format", "values", "message"),
    [
        (192, "<I", (1,), "offsets whose children lie one level deeper"),
        (196, "<I", (3,), "offsets that give every inner node a child"),
        (196, "<I", (1,), "offsets whose children lie one level deeper"),
        (204, "<I", (6,), "offsets whose children lie one level deeper"),
        (256, "<2B", (1, 0), "ascending codes below the K of their level"),
        (260, "<B", (3,), "ascending codes below the K of their level"),
        (320, "<I", (2,), "a row of its own for every item"),
        (320, "<I", (3,), "a row of its own for every item"),
    ],
)
def test_a_file_that_contradicts_itself_is_told(
    place: int, format: str, values: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "t"
    TRIE.save(path)
    content = bytearray(path.read_bytes())
    struct.pack_into(format, content, place, *values)
    for seal, told in ((bytes, "checksum [0-9a-f]{16} of the arrays, got .*"), (sealed, message)):
        path.unlink()
        path.write_bytes(seal(content))
        with pytest.raises(ValueError, match=f"^trie file: expected {told}; save it again$"):
            CodeTrie.load(path, verify=True)
        CodeTrie.load(path).find(codes([1, 2]))
        if message.startswith("offsets"):
            with pytest.raises(ValueError, match=r"^trie file: expected offsets .*"):
                CodeTrie.load(path).restrict(ints(0))


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_of_an_older_version_is_told(version: int, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"MQLTRIE" + bytes([version]) + header()[8:])
    message = (
        f"trie file: expected format version 3, got {version}; build the trie again and save it"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        CodeTrie.load(tmp_path / "t")


def test_changes_do_not_cancel_each_other(tmp_path: Path) -> None:
    TRIE.save(tmp_path / "t")
    content = bytearray((tmp_path / "t").read_bytes())
    for place in (199, 207):  # the top bits of two words: a sum may lose them both
        content[place] ^= 0x80
    (tmp_path / "cut").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"^trie file: expected checksum [0-9a-f]{16} of the arrays"
    ):
        CodeTrie.load(tmp_path / "cut", verify=True)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "none"))):
        CodeTrie.load(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        TRIE.save(tmp_path / "no such folder" / "t")
