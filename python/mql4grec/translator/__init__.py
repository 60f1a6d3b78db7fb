"""The quantitative translator of one modality: trained, kept, and used to turn items into codes.

This room knows how an RQ-VAE is trained on the embeddings of several shops together, what its files
look like, and how good its codes are. It does not know where embeddings come from (room
`embeddings`), what the network looks like inside (room `rqvae`), nor what happens to items that get
the same codes (room `codes`).
"""

from mql4grec.translator.authors import load_authors
from mql4grec.translator.files import load
from mql4grec.translator.training import train
from mql4grec.translator.translation import Translation, least_memory, translate

__all__ = ["Translation", "least_memory", "load", "load_authors", "train", "translate"]
