"""Compiled passes of a T5; on a CPU a recording that runs the pass again stands for a graph."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_training as training
from mql4grec import language, recommender
from mql4grec.language import Batch
from mql4grec.recommender import compiled
from mql4grec.recommender.compiled import (
    CompiledPasses,
    Pass,
    RandomDropout,
    Recording,
)
from mql4grec.recommender.epochs import cut, draw_epoch
from mql4grec.recommender.model import group_by_level
from mql4grec.recommender.steps import Loop
from mql4grec.runtime import Runtime
from test_recommender_network import (
    assert_same_gradients,
    gradients,
    network,
    samples,
    slow_loss,
)


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> None:
    torch._dynamo.reset()


def record(run: Pass, input_ids: torch.Tensor, labels: torch.Tensor) -> Recording:
    """Record as a graph does: first for nothing, later with what then stands in these tensors."""
    run(input_ids, labels)
    return Recording(input_ids, labels, lambda: run(input_ids, labels))


def passes(model: recommender.Model, **values: object) -> CompiledPasses:
    defaults = {"dtype": torch.float32, "n_read": 40, "record": record, "backend": "aot_eager"}
    return CompiledPasses(model, **{**defaults, **values})


def part(batch: Batch, rows: slice) -> Batch:
    return Batch(batch.input_ids[rows], batch.attention_mask[rows], batch.labels[rows])


def by_name(model: recommender.Model, found: CompiledPasses) -> dict[str, torch.Tensor]:
    return dict(zip(dict(model.named_parameters()), found.gradients, strict=True))


def test_a_pass_is_compiled_in_one_piece() -> None:
    one = training.shop()
    found = passes(network(one))
    told = torch._dynamo.explain(found._forward)(*found._blank(64, 16, 4))
    assert (told.graph_count, told.graph_break_count) == (1, 0), told.break_reasons


@pytest.mark.parametrize("loss_over", ["vocabulary", "level"])
def test_loss_and_all_gradients_are_those_of_transformers(loss_over: str) -> None:
    one = training.shop()
    model, batch = network(one, dropout=0.0), samples(one)
    rivals = group_by_level(one.vocabulary) if loss_over == "level" else None
    expected = slow_loss(model.eval(), batch, rivals)
    expected.backward()
    slow = gradients(model)
    found = passes(model, rivals=rivals)
    for _ in range(2):  # the second time from what was recorded
        found.clear()
        found.add(part(batch, slice(0, 15)), seed=1)
        found.add(part(batch, slice(15, 24)), seed=2)
        assert found.loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert_same_gradients(by_name(model, found), slow)


def test_the_seed_decides_what_is_dropped() -> None:
    one = training.shop()
    model, batch = network(one, dropout=0.5), samples(one)
    found, losses = passes(model), []
    for seed in (1, 2, 1):
        found.clear()
        found.add(batch, seed=seed)
        losses.append(found.loss.item())
    assert losses[0] == losses[2] != losses[1]


def test_dropout_keeps_the_mean() -> None:
    like = torch.ones(200_000, dtype=torch.bfloat16)
    masks = RandomDropout(0.1)
    kept = masks.mask(like)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert kept.float().mean().item() * masks.scale == pytest.approx(1, abs=0.005)


def test_micro_batches_are_filled_up_to_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "WIDTHS", (6, 12, 24))
    one = training.shop(n_users=60)
    shapes = set()

    def keep(run: Pass, input_ids: torch.Tensor, labels: torch.Tensor) -> Recording:
        shapes.add(tuple(input_ids.shape))
        return record(run, input_ids, labels)

    found = passes(network(one), record=keep, backend="eager", n_read=13)
    epoch = draw_epoch(one, ("seqrec", "seqimage"), seed=0, stage="finetune", number=0)
    for rows in cut(epoch, epoch.order, micro_batch_size=50, n_processes=1, widths=(6, 12)):
        found.add(language.encode(one, epoch.samples, rows), seed=0)
    assert shapes == {(64, 6), (64, 12), (64, 16)}  # 13 tokens are the longest


def test_no_micro_batch_has_two_widths() -> None:
    one = training.shop(n_users=60)
    epoch = draw_epoch(one, ("seqrec",), seed=0, stage="finetune", number=0)
    parts = cut(epoch, epoch.order, micro_batch_size=30, n_processes=1, widths=(5, 11))
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(epoch.samples)))
    for rows in parts:
        lengths = epoch.input_lengths[rows]
        assert 0 < len(rows) <= 30
        assert len(set(np.searchsorted([5, 11], lengths))) == 1
    assert len({int(np.searchsorted([5, 11], epoch.input_lengths[p[0]])) for p in parts}) == 3


@pytest.mark.parametrize("loss_over", ["vocabulary", "level"])
def test_training_follows_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss_over: str
) -> None:
    one = training.shop()

    def train(folder: Path) -> list[float]:
        recommender.train(
            training.network(one, dropout=0.0),
            [one],
            training.settings(loss_over=loss_over),
            stage="finetune",
            folder=folder,
            runtime=Runtime(seed=3),
        )
        epochs = json.loads((folder / "history.json").read_text())["epochs"]
        return [epoch[name] for epoch in epochs for name in ("train_loss", "valid_loss")]

    expected = train(tmp_path / "one by one")
    init = Loop.__init__

    def with_passes(loop: Loop, **values: object) -> None:
        made = passes(values["model"], rivals=values["rivals"], backend="eager")
        init(loop, **{**values, "compiled": made})

    monkeypatch.setattr(Loop, "__init__", with_passes)
    assert train(tmp_path / "compiled") == pytest.approx(expected, rel=1e-4)
