"""The model that writes the next item's codes: pre-training over shops, fine-tuning on one.

A T5, or a decoder-only model (`causal`) that learns a whole history in one pass. This room knows
the networks' sizes, the loop that trains them, and how a training survives being interrupted. It
does not know what tokens mean; room `language` makes the batches.
"""

from mql4grec.recommender.model import Model, build, load, read_histories
from mql4grec.recommender.teacher import Teacher, add_cold, sharpen
from mql4grec.recommender.training import train

__all__ = ["Model", "Teacher", "add_cold", "build", "load", "read_histories", "sharpen", "train"]
