"""The network only: encoder, residual quantizer, decoder, losses, Sinkhorn, k-means, components.

This room knows tensors and plain numbers. It does not know settings, files, shops or how a training
goes (room `translator`), nor what happens to items that get the same codes (room `codes`).
"""

from mql4grec.rqvae import upkeep
from mql4grec.rqvae.assignment import nearest, sinkhorn, squared_distances
from mql4grec.rqvae.components import principal_components
from mql4grec.rqvae.kmeans import kmeans
from mql4grec.rqvae.network import RQVAE, Losses

__all__ = [
    "RQVAE",
    "Losses",
    "kmeans",
    "nearest",
    "principal_components",
    "sinkhorn",
    "squared_distances",
    "upkeep",
]
