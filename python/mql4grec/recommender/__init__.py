"""The T5 that writes the next item's codes: pre-training over shops, fine-tuning on one.

This room knows the network's sizes, the loop that trains it, and how a training survives being
interrupted. It does not know what tokens mean; room `language` makes the batches.
"""

from mql4grec.recommender.model import build, load
from mql4grec.recommender.training import train

__all__ = ["build", "load", "train"]
