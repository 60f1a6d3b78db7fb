"""Which files may be opened as an item's picture: those below the shop's own folder.

Pages with pictures get published, and names of pictures come from data: without a bound a table
could put any picture of the machine on them.
"""

from __future__ import annotations

import os
from pathlib import Path


class Fence:
    """The folder that pictures may come from; links, `..` and absolute names do not lead out."""

    def __init__(self, root: Path) -> None:
        """Remember the folder, and every folder that was looked at."""
        self._root = os.path.realpath(root)
        self._real: dict[str, str] = {}

    def encloses(self, path: Path) -> bool:
        """Whether a path, which may have no file, leads to a place below the folder."""
        try:
            folder, name = os.path.split(path)
            if name in ("", ".."):
                folder, name = os.path.split(os.path.realpath(path))
            if folder not in self._real:
                self._real[folder] = os.path.realpath(folder)
            real = os.path.join(self._real[folder], name)
            if os.path.islink(real):
                real = os.path.realpath(real)
        except (OSError, ValueError):  # too long, NUL: there can be no such file
            return False
        return real.startswith(os.path.join(self._root, ""))


def root_of(pattern: str) -> Path:
    """Give the folder of a pattern such as `posters/{item_id}.jpg`: what no item id is part of."""
    return Path(pattern.partition("{item_id}")[0] + "x").parent
