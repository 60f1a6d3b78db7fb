"""Bounds on what a user's file may unpack to, looked at before anything reads it."""

from __future__ import annotations

import zlib
from functools import lru_cache
from pathlib import Path

from mql4grec.errors import DataError

UNPACKED = (256 << 20, 100)  # so many bytes, or so many times its size
LONGEST_LINE = 64 << 20  # bytes
BLOCK = 1 << 20
GZIP = b"\x1f\x8b"
OTHERS = {
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
}


def is_packed(path: Path) -> bool:
    """Whether a file is gzipped, by its first bytes: some ".gz" files have been unpacked.

    Raises:
        DataError: If it is packed in another way, is no whole gzip file, or unpacks to more than
            `UNPACKED` or to a line longer than `LONGEST_LINE`.
    """
    with path.open("rb") as file:
        head = file.read(8)
    for magic, name in OTHERS.items():
        if head.startswith(magic):
            raise DataError(f"`{path}`: expected a plain or a gzipped file, got {name}; unpack it")
    if not head.startswith(GZIP):
        return False
    state = path.stat()
    try:
        _bound(path, state.st_size, state.st_mtime_ns)
    except zlib.error as err:
        raise DataError(
            f"`{path}`: expected a readable file, got {err}; write or fetch it again"
        ) from err
    return True


@lru_cache(maxsize=256)
def _bound(path: Path, size: int, _changed: int) -> None:
    """Unpack a file block by block and keep nothing of it; once a process."""
    most = max(UNPACKED[0], UNPACKED[1] * size)
    total = line = 0
    is_whole = True
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    with path.open("rb") as file:
        rest = b""
        while rest or (rest := file.read(BLOCK)):
            block = unpacker.decompress(rest, BLOCK)
            total += len(block)
            line = line + len(block) if b"\n" not in block else len(block) - block.rindex(b"\n")
            if total > most or line > LONGEST_LINE:
                what = f"{most:,} bytes in all" if total > most else f"{LONGEST_LINE:,} in a line"
                raise DataError(
                    f"`{path}`: expected to unpack to at most {what}, got more; unpack it yourself "
                    "if you trust it"
                )
            rest, is_whole = unpacker.unconsumed_tail, unpacker.eof
            if unpacker.eof:  # files may be put one after the other
                rest = unpacker.unused_data
                unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    if not is_whole:
        raise DataError(
            f"`{path}`: expected a readable file, got one whose compressed data are cut short; "
            "write or fetch it again"
        )
