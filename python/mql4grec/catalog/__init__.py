"""Items and histories of one shop, from users' files.

This room knows file formats, their faults, k-core filtering and the split; it does not open
pictures and does not know what texts and histories are used for.
"""

from mql4grec.catalog.layout import load
from mql4grec.catalog.preparation import prepare
from mql4grec.catalog.records import Catalog, Histories

__all__ = ["Catalog", "Histories", "load", "prepare"]
