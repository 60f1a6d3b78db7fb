"""SASRec, a small self-attentive model on item ids: what a user would pick instead, with torch.

This room knows item rows and histories only, no codes and no T5. It trains on the events of every
user but the last two, stops by NDCG@10 of the last but one, and ranks the whole catalog. Its parts:

    network    causal self-attention over items, scores by the same table of items
    passes     the windows of a step as forward passes
    checkpoint where a training stands
    ranking    the whole catalog for every history; NDCG@10 of validation
    training   epochs, early stopping, exact resume
"""

from mql4grec.sasrec.network import SASRec
from mql4grec.sasrec.ranking import load, rank
from mql4grec.sasrec.training import train

__all__ = ["SASRec", "load", "rank", "train"]
