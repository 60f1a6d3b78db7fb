"""What a trained network is for: rankings, and how good they are on the validation split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mql4grec import artifacts, checkpoints
from mql4grec.baselines import best_columns
from mql4grec.catalog import Histories
from mql4grec.decoding import EVERYTHING, Filters, Rankings
from mql4grec.language import last_windows
from mql4grec.runtime import Runtime
from mql4grec.sasrec.network import SASRec
from mql4grec.sasrec.passes import SCORES

WEIGHTS, SIZES = "model.safetensors", "config.json"


def load(folder: Path, *, runtime: Runtime) -> SASRec:
    """Open a trained network, ready to rank.

    Raises:
        ArtifactError: If it is not there.
    """
    sizes = artifacts.read_json(folder / SIZES, made_by="evaluate")
    with artifacts.reading(folder / SIZES, made_by="evaluate"), torch.random.fork_rng(devices=[]):
        network = SASRec(**sizes)
    tensors, _ = checkpoints.read_tensors(folder / WEIGHTS, made_by="evaluate")
    with artifacts.reading(folder / WEIGHTS, made_by="evaluate"):
        network.load_state_dict(tensors)
    return network.to(runtime.torch_device).eval()


@torch.inference_mode()
def rank(
    network: SASRec, histories: Histories, *, top_k: int, filters: Filters = EVERYTHING
) -> Rankings:
    """Rank the whole catalog for every history.

    Args:
        network: Trained.
        histories: Of U users; of one that is empty nothing is known, and all scores are 0.
        top_k: Length of the lists.
        filters: Which items each user may get, such as `Filters(without=histories)`.

    Returns:
        Items (U, min(top_k, N)), scores = logits; ties by the lower row; -1 where no more are left.

    Raises:
        ValueError: If the filters are of other users, or their masks of fewer items.
    """
    n_items = network.items.num_embeddings
    filters.check(n_users=histories.n_users, n_items=n_items)
    catalog = np.arange(n_items, dtype=np.int32)
    width = min(top_k, n_items)
    items = np.full((histories.n_users, width), -1, np.int32)
    scores = np.full((histories.n_users, width), -np.inf, np.float32)
    for start, chunk in _scored(network, histories):
        stop = start + len(chunk)
        values = chunk.cpu().numpy()
        values[filters.closed(start, stop, items=catalog)] = -np.inf
        best, best_scores = best_columns(values, k=width)
        items[start:stop] = np.where(np.isneginf(best_scores), -1, best)
        scores[start:stop] = best_scores
    return Rankings(items=items, scores=scores)


@torch.inference_mode()
def validation_ndcg(network: SASRec, inputs: Histories, targets: NDArray[np.int32]) -> float:
    """Average NDCG@10 over users, each target among all items; ties go to the lower row."""
    network.eval()
    device = network.items.weight.device
    columns = torch.arange(network.items.num_embeddings, device=device)
    gain = 0.0
    for start, scores in _scored(network, inputs):
        target = torch.from_numpy(targets[start : start + len(scores)].astype(np.int64)).to(device)
        own = scores.gather(1, target[:, None])  # (rows, 1)
        ahead = (scores > own) | ((scores == own) & (columns < target[:, None]))
        place = ahead.sum(dim=1)  # 0 is the best
        gain += (1 / torch.log2(place[place < 10].double() + 2)).sum().item()
    return gain / len(targets)


def _scored(network: SASRec, histories: Histories) -> Iterator[tuple[int, Tensor]]:
    """Score all items for one chunk of users after the other: first user, (rows, N)."""
    device = network.items.weight.device
    windows = last_windows(histories, max_his_len=network.max_his_len)
    size = max(1, min(1024, SCORES // network.items.num_embeddings))
    for start in range(0, histories.n_users, size):
        stop = min(start + size, histories.n_users)
        items, lengths = windows.rows(np.arange(start, stop))
        if items.shape[1] == 0:  # nobody here has a history
            yield start, torch.zeros(stop - start, network.items.num_embeddings, device=device)
            continue
        states = network(torch.from_numpy(items).to(device))  # (rows, T, D)
        last = torch.from_numpy(lengths).to(device)
        ends = states[torch.arange(len(states), device=device), (last - 1).clamp(min=0)]
        yield start, network.scores(torch.where(last[:, None] > 0, ends, 0.0))
