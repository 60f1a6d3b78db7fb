"""The network only: encoder, residual quantizer, decoder, Sinkhorn, k-means, losses.

This room knows tensors and plain numbers. It does not know settings, files, shops or how a training
goes (room `translator`), nor what happens to items that get the same codes (room `codes`).
"""

from mql4grec.rqvae.assignment import nearest, sinkhorn, squared_distances
from mql4grec.rqvae.kmeans import kmeans
from mql4grec.rqvae.network import RQVAE, Losses

__all__ = ["RQVAE", "Losses", "kmeans", "nearest", "sinkhorn", "squared_distances"]
