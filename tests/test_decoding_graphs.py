"""Recorded searches; on a CPU, a recording that runs the search again stands for the CUDA graph."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mql4grec import decoding
from mql4grec.decoding import batches
from mql4grec.decoding.beams import Target, beam_search
from mql4grec.decoding.device_trie import lay_out
from mql4grec.decoding.graphs import LENGTH_STEP, BatchSearch, Graphs, Recording
from mql4grec.decoding.t5 import lay_out_t5
from tiny_decoding import assert_same, make_inputs, make_world

CPU = torch.device("cpu")


@torch.inference_mode()
def record_calls(search: BatchSearch, input_ids: Tensor, attention_mask: Tensor) -> Recording:
    """Record as a graph does: what comes later is read from and written to the same tensors."""
    found = search(input_ids=input_ids, attention_mask=attention_mask)
    for part in (found.items, found.scores, found.bound):
        part.fill_(-7)  # a graph has computed nothing yet

    @torch.inference_mode()
    def replay() -> None:
        again = search(input_ids=input_ids, attention_mask=attention_mask)
        for part, new in zip(
            (found.items, found.scores, found.bound),
            (again.items, again.scores, again.bound),
            strict=True,
        ):
            part.copy_(new)

    return Recording(input_ids, attention_mask, found, replay)


def test_shapes_that_come_again_are_recorded() -> None:
    world = make_world(3)
    network = lay_out_t5(world.model, dtype=torch.float32)
    first = world.vocabulary.first_code["text"]
    target = Target(trie=lay_out(world.trie, device=CPU), first_code=first, start=0, eos=1)
    search = partial(beam_search, network, target, n_beams=4)
    recorded = []

    def record(inner: BatchSearch, input_ids: Tensor, attention_mask: Tensor) -> Recording:
        recorded.append(tuple(input_ids.shape))
        return record_calls(inner, input_ids, attention_mask)

    graphs = Graphs(search, record=record)
    for seed, (n_users, width) in enumerate([(5, 9), (5, 7), (5, 17), (2, 9), (5, 16), (5, 20)]):
        inputs = [torch.as_tensor(part) for part in make_inputs(
            world, seed=seed, n_users=n_users, width=width
        )]  # fmt: skip
        given = [part.clone() for part in inputs]
        found = graphs(input_ids=inputs[0], attention_mask=inputs[1])
        expected = search(input_ids=inputs[0], attention_mask=inputs[1])
        assert torch.equal(found.items, expected.items)
        torch.testing.assert_close(found.scores, expected.scores)
        torch.testing.assert_close(found.bound, expected.bound)
        assert all(torch.equal(part, was) for part, was in zip(inputs, given, strict=True))
    assert recorded == [(5, LENGTH_STEP), (5, 2 * LENGTH_STEP)]


def test_recommend_by_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(4)
    inputs = make_inputs(world, n_users=23)
    expected = world.recommend(inputs, n_beams=6, batch_size=4)
    plain, used = batches.Plan, []

    def on_any_device(**parts: Any) -> batches.Plan:
        return plain(**(parts | {"graphs": True}))

    def make(search: BatchSearch) -> Graphs:
        used.append(Graphs(search, record=record_calls))
        return used[-1]

    monkeypatch.setattr(batches, "Plan", on_any_device)
    monkeypatch.setattr(batches, "Graphs", make)
    found = world.recommend(
        inputs, n_beams=6, batch_size=4, search=decoding.Search(graphs=True, exact=True, top_k=3)
    )
    np.testing.assert_array_equal(found.items[:, 0], expected.items[:, 0])
    assert len(used) > 1  # one for each number of beams
    found = world.recommend(inputs, n_beams=6, batch_size=4)
    assert_same(found, expected)
