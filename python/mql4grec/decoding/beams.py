"""Our own beam search over a model and a trie.

The same search as `generate` with the trie as constraint, without what makes that slow: the encoder
and its keys and values run once per user and not per beam, the first step runs on one beam,
candidates are the children of a node and not the vocabulary, and beams are reordered by following
their ancestors. Nothing within the steps waits for the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mql4grec.decoding.device_trie import DeviceTrie
from mql4grec.decoding.gates import OpenLeaves
from mql4grec.decoding.network import Memory, Network, Past

Normalise = Literal["vocabulary", "level", "children"]
TILE = 1024  # tokens of the vocabulary whose logits are computed together on a CPU


@dataclass(frozen=True)
class Target:
    """How an item is spelt, and what its probability is a part of.

    Attributes:
        trie: Of the items that may come out.
        first_code: Token id of code 0 of each level (L).
        start: Token id that the decoder starts from.
        eos: Token id of the end.
        normalise: "vocabulary": codes and eos each have their probability among all tokens, as in
            `generate`. "level": codes have theirs among the K codes of their level, and the end,
            which nothing else can follow, is certain; other logits are never computed. "children":
            among those codes of the level that items of the trie go on with, so that all items
            together have probability 1.
    """

    trie: DeviceTrie
    first_code: tuple[int, ...]
    start: int
    eos: int
    normalise: Normalise = "vocabulary"


@dataclass(frozen=True)
class Found:
    """The best items of B users, on the device.

    Attributes:
        items: int32 (B, m), item rows, best first; -1 where there are no more.
        scores: float32 (B, m); -inf where items is -1.
        bound: float32 (B,), the best score of a prefix that was dropped, -inf if none was: no item
            that was not found has a higher score.
    """

    items: Tensor
    scores: Tensor
    bound: Tensor


@torch.inference_mode()
def beam_search(
    network: Network,
    target: Target,
    *,
    input_ids: Tensor,
    attention_mask: Tensor,
    n_beams: int,
    open_leaves: OpenLeaves | None = None,
) -> Found:
    """Find the `n_beams` most probable items of every user.

    Args:
        network: The model.
        target: How an item is spelt.
        input_ids: int64 (B, T).
        attention_mask: (B, T).
        n_beams: M.
        open_leaves: Which items each user may get; all if None.

    Returns:
        Items (B, m), m <= M: fewer where the trie has fewer.
    """
    trie = target.trie
    memory = network.read(input_ids, attention_mask, n_steps=len(trie.n_codes) + 1)
    shape, device = (len(input_ids), 1), input_ids.device
    tokens = torch.full(shape, target.start, device=device)
    nodes = torch.zeros(shape, dtype=torch.int64, device=device)
    scores = torch.zeros(shape, device=device)
    bound = torch.full(shape[:1], -torch.inf, device=device)
    past = Past()
    for level, first in enumerate(target.first_code):
        hidden, past = network.step(tokens, memory, past=past)
        children, taken = trie.slots(nodes, level)  # (B, m, W)
        codes = trie.codes[children]
        gained = level_scores(network, target, hidden, level=level, codes=codes, taken=taken)
        gained = gained + scores[:, :, None]
        if open_leaves is not None:
            taken = taken & open_leaves.open(children)
        candidates = torch.where(taken, gained, -torch.inf).flatten(1)  # (B, m * W)
        kept = min(n_beams, candidates.shape[1], trie.levels[level + 2] - trie.levels[level + 1])
        best, places = candidates.topk(min(kept + 1, candidates.shape[1]))
        if best.shape[1] > kept:
            bound = torch.maximum(bound, best[:, kept])
        scores, places = best[:, :kept], places[:, :kept]
        past = past.follow(rows_of(places // children.shape[2], n_beams=nodes.shape[1]))
        nodes = children.flatten(1).gather(1, places)
        tokens = first + codes.flatten(1).gather(1, places)
    scores = scores + end_scores(network, target, tokens, memory, past=past)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    items = trie.items_of(nodes.gather(1, order))
    return Found(torch.where(scores.isneginf(), -1, items), scores, bound)


@torch.inference_mode()
def score_items(
    network: Network, target: Target, *, input_ids: Tensor, attention_mask: Tensor, n_rows: int
) -> Tensor:
    """Score every item of the trie for every user: what beam search would do, dropping nothing.

    Args:
        network: The model.
        target: How an item is spelt.
        input_ids: int64 (B, T).
        attention_mask: (B, T).
        n_rows: Prefixes, of all users together, that are in memory at once; at least one per user.

    Returns:
        float32 (B, N), items in the order of the trie's leaves.
    """
    memory = network.read(input_ids, attention_mask, n_steps=len(target.first_code) + 1)
    size = max(1, n_rows // max(len(input_ids), 1))
    none = torch.zeros((len(input_ids), 0), device=input_ids.device)
    parts = [_score_part(network, target, memory, part=part) for part in target.trie.parts(size)]
    return torch.cat([none, *parts], dim=1)


def best_of_all(
    trie: DeviceTrie, scores: Tensor, *, top_k: int, open_leaves: OpenLeaves | None
) -> Found:
    """Choose from the scores of all items.

    Args:
        trie: Of N items.
        scores: As `score_items` gives them (B, N).
        top_k: Items per user.
        open_leaves: Which items each user may get; all if None.
    """
    if open_leaves is not None:
        leaves = torch.arange(trie.levels[-2], trie.levels[-1], device=trie.device)
        taken = open_leaves.open(leaves.expand(len(scores), 1, -1))[:, 0]
        scores = torch.where(taken, scores, -torch.inf)
    scores, order = scores.topk(min(top_k, scores.shape[1]))
    items = torch.where(scores.isneginf(), -1, trie.items[order])
    return Found(items, scores, torch.full_like(scores[:, :1].sum(dim=1), -torch.inf))


def _score_part(
    network: Network, target: Target, memory: Memory, *, part: list[tuple[int, int]]
) -> Tensor:
    """Score the leaves of a part of the trie: (B, n).

    Args:
        network: The model.
        target: How an item is spelt.
        memory: Of the batch.
        part: First and last node at each depth (L + 1).
    """
    trie, batch, device = target.trie, len(memory.mask), memory.mask.device
    tokens = torch.full((batch, 1), target.start, device=device)
    scores = torch.zeros((batch, 1), device=device)
    past = Past()
    for level, first in enumerate(target.first_code):
        hidden, past = network.step(tokens, memory, past=past)
        nodes = torch.arange(part[level][0], part[level][1] + 1, device=device)
        children, taken = trie.slots(nodes[None], level)  # (1, m, W)
        codes = trie.codes[children].expand(batch, -1, -1)
        gained = level_scores(network, target, hidden, level=level, codes=codes, taken=taken)
        begin, end = part[level + 1]
        parents = trie.parents_of(begin, end)  # (m')
        codes = trie.codes[begin : end + 1]
        places = torch.arange(begin, end + 1, device=device) - trie.first_child[parents]
        parents = parents - part[level][0]
        chosen = gained.flatten(1).index_select(1, parents * gained.shape[2] + places)
        scores = scores.index_select(1, parents) + chosen
        past = past.follow(rows_of(parents.expand(batch, -1), n_beams=tokens.shape[1]))
        tokens = (first + codes).expand(batch, -1)
    return scores + end_scores(network, target, tokens, memory, past=past)


def level_scores(
    network: Network, target: Target, hidden: Tensor, *, level: int, codes: Tensor, taken: Tensor
) -> Tensor:
    """Give the log-probabilities of the codes that follow each node.

    From float32 products whatever the network's precision: probabilities of near items differ by
    less than bfloat16 tells.

    Args:
        network: The model.
        target: How an item is spelt.
        hidden: What logits are made of, float32 (B, m, D).
        level: Of the codes.
        codes: int64 (B, m, W), as they stand side by side.
        taken: Which of these places have one, bool (B, m, W).

    Returns:
        float32 (B, m, W); at places that have none, anything.
    """
    first = target.first_code[level]
    every = slice(first, first + target.trie.n_codes[level])
    logits = functional.linear(hidden, network.head[every])  # (B, m, K)
    if target.normalise == "children":
        return torch.where(taken, logits.gather(2, codes), -torch.inf).log_softmax(dim=2)
    if target.normalise == "level":
        return logits.log_softmax(dim=2).gather(2, codes)
    return (logits - _total(network, hidden)).gather(2, codes)


def end_scores(
    network: Network, target: Target, tokens: Tensor, memory: Memory, *, past: Past
) -> Tensor:
    """Give the log-probability of the end after the last codes (B, m)."""
    if target.normalise != "vocabulary":
        return torch.zeros(tokens.shape, device=tokens.device)
    hidden, _ = network.step(tokens, memory, past=past)
    end = functional.linear(hidden, network.head[target.eos, None])
    return (end - _total(network, hidden))[:, :, 0]


def _total(network: Network, hidden: Tensor) -> Tensor:
    """Sum over the vocabulary, from logits of the rough head's precision: log of it, (B, m, 1).

    Roundings of bfloat16 cancel in the sum. On a CPU a part of the vocabulary at a time, so that
    its logits are still in the cache when they are summed.
    """
    hidden = hidden.to(network.rough_head.dtype)
    size = TILE if hidden.device.type == "cpu" else len(network.rough_head)
    totals = []
    for head in network.rough_head.split(size):
        logits = functional.linear(hidden, head)
        # Not `logsumexp`, which takes twice as long on a CPU.
        normed = logits.log_softmax(dim=2, dtype=torch.float32)
        totals.append(logits[:, :, :1].float() - normed[:, :, :1])
    return torch.cat(totals, dim=2).logsumexp(dim=2, keepdim=True)


def rows_of(beams: Tensor, *, n_beams: int) -> Tensor:
    """Give the rows in (B * n_beams) of beams (B, m): int64 (B * m)."""
    offsets = torch.arange(len(beams), device=beams.device)[:, None] * n_beams
    return (beams + offsets).flatten()
