"""Items and histories of one shop, from users' files; and histories to recommend for.

This room knows file formats, their faults, k-core filtering and the split; it does not open
pictures and does not know what texts and histories are used for.

`prepare` and `load` are imported when first used: rooms that train need the records only, and no
polars.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mql4grec.catalog.ids import read_ids, write_ids
from mql4grec.catalog.records import Catalog, Histories

if TYPE_CHECKING:
    from mql4grec.catalog.layout import load
    from mql4grec.catalog.preparation import prepare
    from mql4grec.catalog.requests import Request, read_item_ids, read_requests

__all__ = [
    "Catalog",
    "Histories",
    "Request",
    "load",
    "prepare",
    "read_ids",
    "read_item_ids",
    "read_requests",
    "write_ids",
]

PLACES = {
    "Request": "requests",
    "load": "layout",
    "prepare": "preparation",
    "read_item_ids": "requests",
    "read_requests": "requests",
}


def __getattr__(name: str) -> object:
    if name not in PLACES:
        raise AttributeError(f"module `{__name__}` has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
    return value
