"""How good semantic IDs are, measured before any T5 learns them.

This room knows what codes should keep of the embeddings that they were made from, and how to see
whether they do: items that are alike, or bought one after the other, should begin with the same
codes, and the codes should tell the embedding. It does not know how codes are made (rooms
`translator` and `codes`), nor how figures are shown (room `report`).

    measurement     the figures of one shop and modality, as one record
    prefixes        common prefixes of pairs of items, and what chance gives
    neighbours      the nearest items, by embedding and by codes
    reconstruction  what of the embeddings' variance the codes lose
    maps            vectors on a plane, by principal components
"""

from mql4grec.quality.maps import Maps, draw_maps
from mql4grec.quality.measurement import (
    Cobought,
    Neighbours,
    Quality,
    Source,
    draw_rows,
    find_examples,
    measure,
)
from mql4grec.quality.neighbours import nearest_by_codes, nearest_items
from mql4grec.quality.reconstruction import Reconstruction

__all__ = [
    "Cobought",
    "Maps",
    "Neighbours",
    "Quality",
    "Reconstruction",
    "Source",
    "draw_maps",
    "draw_rows",
    "find_examples",
    "measure",
    "nearest_by_codes",
    "nearest_items",
]
