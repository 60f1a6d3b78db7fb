"""A T5's steps on a GPU; on a CPU a recording that does the work again stands for a graph."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_language as tiny
import tiny_training as training
from mql4grec import language, recommender
from mql4grec.config import PAPER_TASKS, Task
from mql4grec.language import Corpus
from mql4grec.recommender import compiled
from mql4grec.recommender.compiled import GraphSteps, Work, put_samples
from mql4grec.recommender.epochs import cut, draw_epoch
from mql4grec.recommender.model import group_by_level
from mql4grec.recommender.padded import PIECES, RandomDropout, compile_pieces
from mql4grec.recommender.steps import Loop
from mql4grec.runtime import Runtime
from test_recommender_network import assert_same_gradients, gradients, network, slow_loss

# torch asks tensors between pieces for their gradients, and warns of that itself.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
CPU = torch.device("cpu")
ALL: tuple[Task, ...] = (*PAPER_TASKS, "fgfusionseqrec")


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> None:
    torch._dynamo.reset()


def record(work: Work) -> Work:
    """Record as a graph does: done twice for nothing, then whenever it is asked for."""
    work()
    work()
    return work


def samples_of(one: Corpus, tasks: Sequence[Task] = ALL, *, seed: int = 0) -> language.Samples:
    epoch = draw_epoch(one, tasks, seed=seed, stage="finetune", number=0)
    assert isinstance(epoch.samples, language.Samples)
    return epoch.samples


def steps(
    model: recommender.Model, one: Corpus, tasks: Sequence[Task] = ALL, **values: object
) -> GraphSteps:
    samples = samples_of(one, tasks)
    given = {
        "n_read": int(language.input_lengths(one, samples).max()),
        "dtype": torch.float32,
        "pieces": PIECES,
        "record": record,
        **values,
    }
    return GraphSteps(model, put_samples(one, samples, tasks, device=CPU), **given)


@pytest.mark.parametrize("lacking", [{}, {"no_text": (2, 5), "no_image": (5, 7)}])
def test_batches_of_the_device_are_those_of_the_host(lacking: dict[str, tuple[int, ...]]) -> None:
    one = tiny.corpus(tiny.random_histories(40, 12, seed=3), seed=3, **lacking)
    samples = samples_of(one)
    found = put_samples(one, samples, ALL, device=CPU)
    rows = np.random.default_rng(1).permutation(len(samples))[:300]
    batch = language.encode(one, samples, rows)
    width = batch.input_ids.shape[1]
    inputs, labels = found.batch(torch.from_numpy(rows), n_read=width + 3)
    np.testing.assert_array_equal(inputs[:, :width], batch.input_ids)
    assert (inputs[:, width:] == one.vocabulary.pad).all()
    np.testing.assert_array_equal(labels[:, : batch.labels.shape[1]], batch.labels)
    assert (labels[:, batch.labels.shape[1] :] == language.IGNORED).all()
    inputs, labels = found.batch(torch.tensor([len(samples)]), n_read=5)
    assert (inputs == one.vocabulary.pad).all()
    assert (labels == language.IGNORED).all()


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("loss_over", ["vocabulary", "level"])
def test_loss_and_all_gradients_are_those_of_transformers(
    loss_over: str, is_compiled: bool
) -> None:
    one = training.shop()
    samples = samples_of(one)
    rows = np.arange(0, len(samples), 9)
    lengths = language.input_lengths(one, samples)
    model = network(one, dropout=0.0).eval()
    rivals = group_by_level(one.vocabulary) if loss_over == "level" else None
    expected = slow_loss(model, language.encode(one, samples, rows), rivals)
    expected.backward()
    slow = gradients(model)
    pieces = compile_pieces(backend="aot_eager") if is_compiled else PIECES
    found = steps(model, one, rivals=rivals, pieces=pieces)
    for _ in range(2):  # the second time from what was recorded
        found.begin()
        for part in (rows[:11], rows[11:]):
            found.add(part, longest=int(lengths[part].max()), seed=1)
        assert found.finish(n_tokens=1).item() == pytest.approx(expected.item(), rel=1e-5)
        assert_same_gradients(gradients(model), slow)


def test_gradients_are_of_the_mean_and_of_the_weights_of_now() -> None:
    one = training.shop()
    model = network(one, dropout=0.0)
    found, losses = steps(model, one), []
    for n_tokens in (1, 4):
        found.begin()
        found.add(np.arange(20), longest=16, seed=0)
        losses.append(found.finish(n_tokens=n_tokens).item())
        if n_tokens == 1:
            before = gradients(model)
    assert losses[0] == losses[1]
    assert_same_gradients(gradients(model), {name: each / 4 for name, each in before.items()})
    with torch.no_grad():
        model.shared.weight.mul_(1.5)
    found.begin()
    found.add(np.arange(20), longest=16, seed=0)
    assert found.finish(n_tokens=1).item() != pytest.approx(losses[0], rel=1e-3)


def test_no_piece_is_compiled_twice_for_another_batch() -> None:
    one = training.shop()
    n_compiled = 0

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        nonlocal n_compiled
        n_compiled += 1
        return graph

    found = steps(network(one), one, pieces=compile_pieces(backend=count))
    for n in (200, 100, 10):
        found.begin()
        found.add(np.arange(n), longest=16, seed=0)
    # Inputs and what is written are embedded, and each layer is one of two alike.
    assert n_compiled == len(vars(PIECES)) + 1


def test_the_seed_decides_what_is_dropped() -> None:
    one = training.shop()
    found, losses = steps(network(one, dropout=0.5), one), []
    for seed in (1, 2, 1):
        found.begin()
        found.add(np.arange(40), longest=16, seed=seed)
        losses.append(found.finish(n_tokens=1).item())
    assert losses[0] == losses[2] != losses[1]


def test_dropout_keeps_the_mean() -> None:
    masks = RandomDropout(0.1)
    kept = masks.mask(torch.ones(200_000, dtype=torch.bfloat16))
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert kept.float().mean().item() * masks.scale == pytest.approx(1, abs=0.005)


def test_micro_batches_are_filled_up_to_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "WIDTHS", (6, 12, 24))
    one = training.shop(n_users=60)
    tasks: tuple[Task, ...] = ("seqrec", "seqimage")
    found = steps(network(one), one, tasks)
    epoch = draw_epoch(one, tasks, seed=0, stage="finetune", number=0)
    found.begin()
    for rows in cut(epoch, epoch.order, micro_batch_size=50, n_processes=1, widths=(6, 12)):
        found.add(rows, longest=int(epoch.input_lengths[rows].max()), seed=0)
    assert set(found._rows) == {(64, 6), (64, 12), (64, 16)}  # 16 tokens are the longest


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


@pytest.mark.parametrize("sampling", ["prefixes", "windows"])
def test_training_follows_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampling: str
) -> None:
    one = replace(training.shop(), sampling=sampling)

    def train(folder: Path) -> list[float]:
        recommender.train(
            training.network(one, dropout=0.0),
            [one],
            training.settings(),
            stage="finetune",
            folder=folder,
            runtime=Runtime(seed=3),
        )
        epochs = json.loads((folder / "history.json").read_text())["epochs"]
        return [epoch[name] for epoch in epochs for name in ("train_loss", "valid_loss")]

    expected = train(tmp_path / "one by one")
    init = Loop.__init__

    def with_graphs(loop: Loop, **values: object) -> None:
        init(loop, **{**values, "graphs": steps(values["model"], one, PAPER_TASKS)})

    monkeypatch.setattr(Loop, "__init__", with_graphs)
    assert train(tmp_path / "graphs") == pytest.approx(expected, rel=1e-4)
