"""Pickles of protocol 3 and 4 as protocol 2, the only one that torch reads without running code.

The authors' code saves with `pickle_protocol=4`, which `torch.load(weights_only=True)` refuses,
safe or not. What is here moves instructions about, and runs none of them.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from pathlib import Path


def as_protocol_2(path: Path) -> io.BytesIO:
    """Copy a torch checkpoint into memory with its pickle rewritten to protocol 2.

    Raises:
        zipfile.BadZipFile: If it is no checkpoint of torch >= 1.6.
        ValueError: If its pickle is broken.
    """
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            is_pickle = name.endswith("/data.pkl")
            target.writestr(name, rewrite(content) if is_pickle else content)
    copy.seek(0)
    return copy


def rewrite(pickled: bytes) -> bytes:
    """Spell the newer instructions of a pickle with older ones.

    Protocol 4 looks names up from two strings on the stack, which may come from the memo; protocol
    2 has the strings inside the instruction. So strings are spelt out wherever they are used, and
    never fetched from the memo. An instruction without an older spelling stays; torch refuses it.

    Raises:
        ValueError: If it is no pickle.
    """
    written: list[bytes] = []
    strings: dict[int, str] = {}  # parts of `written` that push a string
    memo: dict[int, str | None] = {}  # None: something else than a string
    steps = [*pickletools.genops(pickled)]
    ends = [*(place or 0 for _, _, place in steps[1:]), len(pickled)]
    for (operation, argument, place), end in zip(steps, ends, strict=True):
        last, name = len(written) - 1, operation.name
        if name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            number = len(memo) if name == "MEMOIZE" else int(str(argument))
            memo[number] = strings.get(last)
            if memo[number] is None:
                written.append(b"r" + struct.pack("<I", number))
            continue
        text = argument if "UNICODE" in name else None
        if name in ("BINGET", "LONG_BINGET"):
            text = memo.get(int(str(argument)))
        if isinstance(text, str):
            strings[last + 1] = text
            encoded = text.encode("utf-8", "surrogatepass")
            written.append(b"X" + struct.pack("<I", len(encoded)) + encoded)
        elif name == "STACK_GLOBAL" and {last, last - 1} <= strings.keys():
            module, attribute = strings.pop(last - 1), strings.pop(last)
            written[-2:] = [f"c{module}\n{attribute}\n".encode()]
        elif name == "PROTO":
            written.append(b"\x80\x02")
        elif name != "FRAME":
            written.append(pickled[place:end])
    return b"".join(written)
