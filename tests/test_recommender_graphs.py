"""A T5's steps on a GPU; on a CPU a recording that does the work again stands for a graph."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState

import tiny_language as tiny
import tiny_training as training
from mql4grec import language, recommender
from mql4grec.config import PAPER_TASKS, Task
from mql4grec.errors import ConfigError
from mql4grec.language import Corpus
from mql4grec.recommender import t5_steps
from mql4grec.recommender import training as loops
from mql4grec.recommender.binned import PIECES, compile_pieces
from mql4grec.recommender.bins import aligned, fill_bins, make_batch, put_samples
from mql4grec.recommender.epochs import cut, draw_epoch
from mql4grec.recommender.graphs import Recordings
from mql4grec.recommender.loop import Loop
from mql4grec.recommender.model import group_by_level
from mql4grec.recommender.steps import take_step, with_graphs
from mql4grec.recommender.t5_steps import T5Steps
from mql4grec.runtime import SILENT, Runtime
from test_recommender_network import assert_same_gradients, gradients, network, slow_loss

# torch asks tensors between pieces for their gradients, and warns of that itself.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
CPU = torch.device("cpu")
ALL: tuple[Task, ...] = (*PAPER_TASKS, "fgfusionseqrec")


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> None:
    torch._dynamo.reset()


def recordings() -> Recordings:
    """Record nothing but the order of work, which is then done anew."""
    return Recordings(lambda work, _: work)


def samples_of(one: Corpus, tasks: Sequence[Task] = ALL, *, seed: int = 0) -> language.Samples:
    epoch = draw_epoch(one, tasks, seed=seed, stage="finetune", number=0)
    assert isinstance(epoch.samples, language.Samples)
    return epoch.samples


def steps(
    model: recommender.Model, one: Corpus, tasks: Sequence[Task] = ALL, **values: object
) -> T5Steps:
    samples = samples_of(one, tasks)
    given = {
        "n_read": int(language.input_lengths(one, samples).max()),
        "dtype": torch.float32,
        "pieces": PIECES,
        "recordings": recordings(),
        **values,
    }
    return T5Steps(model, put_samples(one, samples, tasks, device=CPU), **given)


@pytest.mark.parametrize(("width", "n_slots"), [(20, 1), (20, 3), (24, 8), (90, 5)])
def test_bins_hold_every_sample_once(width: int, n_slots: int) -> None:
    lengths = np.random.default_rng(width).integers(1, 21, size=300)
    bins = fill_bins(lengths, width=width, n_slots=n_slots)
    samples, begins = bins[..., 0], bins[..., 1]
    np.testing.assert_array_equal(np.sort(samples[samples >= 0]), np.arange(300))
    assert (samples[:, 0] >= 0).all()
    assert (begins[samples < 0] == width).all()
    for held, first in zip(samples, begins, strict=True):
        sizes = lengths[held[held >= 0]]
        np.testing.assert_array_equal(first[: len(sizes)], np.cumsum(sizes) - sizes)
        assert sizes.sum() <= width
    if n_slots == 8:
        assert lengths.sum() > 0.9 * width * len(bins)


def test_no_samples_fill_no_bins() -> None:
    assert fill_bins(np.zeros(0, np.int64), width=8, n_slots=2).shape == (0, 2, 2)


@pytest.mark.parametrize("lacking", [{}, {"no_text": (2, 5), "no_image": (5, 7)}])
def test_what_is_in_bins_are_the_batches_of_the_host(lacking: dict[str, tuple[int, ...]]) -> None:
    one = tiny.corpus(tiny.random_histories(40, 12, seed=3), seed=3, **lacking)
    samples = samples_of(one)
    found = put_samples(one, samples, ALL, device=CPU)
    rows = np.random.default_rng(1).permutation(len(samples))[:300]
    batch = language.encode(one, samples, rows)
    lengths = batch.attention_mask.sum(axis=1)
    width, n_slots, n_written = int(lengths.max()) + 3, 4, found.n_written
    bins = fill_bins(lengths, width=width, n_slots=n_slots)
    held = np.where(bins[..., 0] < 0, -1, rows[bins[..., 0]])
    empty = np.array([[[-1, 0]] * n_slots])  # a bin that stands for none
    given = np.concatenate([np.stack([held, bins[..., 1]], axis=2), empty])
    binned = make_batch(found, torch.from_numpy(given), width=width)
    n_found = 0
    for r, slot in np.argwhere(bins[..., 0] >= 0):
        row = bins[r, slot, 0]
        own = binned.slots[r] == slot
        np.testing.assert_array_equal(
            binned.inputs[r][own], batch.input_ids[row][batch.attention_mask[row] == 1]
        )
        n_found += int(own.sum())
        own = slice(slot * n_written, (slot + 1) * n_written)
        target = np.full(n_written, language.IGNORED)
        target[: batch.labels.shape[1]] = batch.labels[row]
        np.testing.assert_array_equal(binned.labels[r, own], target)
        before = np.concatenate([[0], np.where(target < 0, 0, target)[:-1]])  # 0 is padding
        np.testing.assert_array_equal(binned.before[r, own], before)
    rest = binned.slots == n_slots
    assert n_found == lengths.sum() == (~rest).sum()
    assert (binned.inputs[rest] == one.vocabulary.pad).all()
    assert rest[-1].all()
    width = aligned(n_slots * n_written)
    assert binned.labels.shape == binned.before.shape == (len(given), width)
    assert (binned.labels != language.IGNORED).sum() == (batch.labels != language.IGNORED).sum()


@pytest.mark.parametrize("sampling", ["prefixes", "windows"])
def test_no_epoch_has_longer_samples_than_are_prepared_for(sampling: str) -> None:
    lengths = set()
    for seed in range(12):
        events = tiny.random_histories(8, 12, seed=seed)
        one = tiny.corpus(events, seed=seed, no_text=(2, 5), no_image=(5, 7))
        one = replace(one, sampling=sampling)
        for tasks in (ALL, ("fusionseqrec",), ("item2image",), ("seqimage",)):
            most = language.most_tokens(one, tasks)
            for number in range(4):
                epoch = draw_epoch(one, tasks, seed=seed, stage="finetune", number=number)
                found = (epoch.input_lengths.max(initial=0), epoch.target_lengths.max(initial=0))
                assert found[0] <= most[0]
                assert found[1] <= most[1]
                lengths.add((tasks, seed, found[0]))
    # The longest input is another from epoch to epoch, so that the first does not tell.
    assert len(lengths) > 12 * 4


def test_a_later_epoch_may_have_longer_inputs_than_the_first() -> None:
    one = replace(training.shop(n_users=4), sampling="windows")
    loop = loops.prepare(
        training.network(one, dropout=0.0),
        [one],
        settings=training.settings(),
        stage="finetune",
        folder=Path(),
        runtime=Runtime(),
        journal=SILENT,
        processes=PartialState(cpu=True),
        teacher=None,
    )
    drawn = [loop.draw(number) for number in range(30)]
    longest = [int(epoch.input_lengths.max()) for epoch in drawn]
    first = drawn[int(np.argmin(longest))]
    last = drawn[int(np.argmax(longest))]
    assert first.input_lengths.max() < last.input_lengths.max()
    expected = take_step(loop, last, last.order, number=0).item()
    graphs = with_graphs(loop, first, recordings(), pieces=PIECES)
    graphs.graphs.draw(one, last)
    fresh = training.network(one, dropout=0.0)
    with torch.no_grad():
        for own, other in zip(graphs.model.parameters(), fresh.parameters(), strict=True):
            own.copy_(other)
    assert take_step(graphs, last, last.order, number=0).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("loss_over", ["vocabulary", "level"])
@pytest.mark.parametrize("d_kv", [8, 4])
def test_loss_and_all_gradients_are_those_of_transformers(
    d_kv: int, loss_over: str, is_compiled: bool
) -> None:
    one = training.shop()
    samples = samples_of(one)
    rows = np.arange(0, len(samples), 9)
    model = network(one, dropout=0.0, d_kv=d_kv).eval()
    rivals = group_by_level(one.vocabulary) if loss_over == "level" else None
    expected = slow_loss(model, language.encode(one, samples, rows), rivals)
    expected.backward()
    slow = gradients(model)
    pieces = compile_pieces(backend="aot_eager") if is_compiled else PIECES
    found = steps(model, one, rivals=rivals, pieces=pieces)
    assert found._network.multiplied == (d_kv == 8)
    for _ in range(2):  # the second time from what was recorded
        found.begin()
        for part in (rows[:11], rows[11:12], rows[12:]):
            found.add(part, seed=1)
        assert found.finish(n_tokens=1).item() == pytest.approx(expected.item(), rel=1e-5)
        assert_same_gradients(gradients(model), slow)
    found.begin()
    assert found.finish(n_tokens=1).item() == 0  # of a process that has no micro-batch
    assert not any(gradient.any() for gradient in gradients(model).values())


@pytest.mark.parametrize("d_kv", [8, 4])
def test_in_bfloat16_products_are_rounded_and_nothing_else(d_kv: int) -> None:
    one = training.shop()
    model = network(one, dropout=0.0, d_kv=d_kv)
    losses, found_gradients = [], []
    for dtype in (torch.float32, torch.bfloat16):
        found = steps(model, one, dtype=dtype)
        found.begin()
        found.add(np.arange(60), seed=0)
        losses.append(found.finish(n_tokens=60).item())
        found_gradients.append(torch.cat([each.flatten() for each in gradients(model).values()]))
    exact = (*found._network.tensors()[:3],)  # the embedding and both biases
    assert {each.dtype for each in exact} == {torch.float32}
    assert {each.dtype for each in found._network.tensors()[3:]} == {torch.bfloat16}
    torch.testing.assert_close(exact[0], model.shared.weight, rtol=0, atol=0)
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    fine, rough = found_gradients
    assert ((rough - fine).norm() / fine.norm()).item() < 0.05


def test_too_many_scores_for_one_pass_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one = training.shop()
    found = steps(network(one), one)
    monkeypatch.setattr(t5_steps, "MOST_SCORES", 10**5)
    found.begin()
    with pytest.raises(ConfigError, match=r"`micro_batch_size`: with `graphs` expected as many"):
        found.add(np.arange(100), seed=0)


def test_gradients_are_of_the_mean_and_of_the_weights_of_now() -> None:
    one = training.shop()
    model = network(one, dropout=0.0)
    found, losses = steps(model, one), []
    for n_tokens in (1, 4):
        found.begin()
        found.add(np.arange(20), seed=0)
        losses.append(found.finish(n_tokens=n_tokens).item())
        if n_tokens == 1:
            before = gradients(model)
    assert losses[0] == losses[1]
    assert_same_gradients(gradients(model), {name: each / 4 for name, each in before.items()})
    with torch.no_grad():
        model.shared.weight.mul_(1.5)
    found.begin()
    found.add(np.arange(20), seed=0)
    assert found.finish(n_tokens=1).item() != pytest.approx(losses[0], rel=1e-3)


def test_tensors_in_one_array_begin_where_fast_kernels_want_them() -> None:
    given = [torch.randn(shape) for shape in ((3, 5), (8,), (2, 1, 7), (4, 4))]
    joined = t5_steps._join(given)
    assert joined.numel() == 16 + 8 + 16 + 16
    found = t5_steps._take_apart(joined.bfloat16(), like=given)
    for each, expected in zip(found, given, strict=True):
        assert each.storage_offset() * each.element_size() % 16 == 0
        torch.testing.assert_close(each, expected.bfloat16(), rtol=0, atol=0)


def test_nothing_of_a_step_is_kept_for_the_next() -> None:
    """Autograd would go on with what is kept on the stream of then, where no graph may be."""
    one = training.shop()
    model = network(one)
    leaves = [*model.parameters()]

    def mark(name: str) -> None:
        for leaf in leaves:
            torch.autograd.graph.get_gradient_edge(leaf).node.metadata[name] = True

    def marked(name: str) -> int:
        nodes = [torch.autograd.graph.get_gradient_edge(leaf).node for leaf in leaves]
        return sum(name in node.metadata for node in nodes)

    found = steps(model, one)
    mark("before")
    assert marked("before") == 0
    found.begin()
    mark("first")
    assert marked("first") > 0  # what lays weights out is kept until the step ends
    found.add(np.arange(20), seed=0)
    found.finish(n_tokens=1)
    found.begin()
    assert marked("first") == 0


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
        found.add(np.arange(n), seed=0)
    # Inputs and what is written are embedded, and each layer is one of two alike.
    assert n_compiled == len(vars(PIECES)) + 1


def test_the_seed_decides_what_is_dropped() -> None:
    one = training.shop()
    found, losses = steps(network(one, dropout=0.5), one), []
    for seed in (1, 2, 1):
        found.begin()
        found.add(np.arange(40), seed=seed)
        losses.append(found.finish(n_tokens=1).item())
    assert losses[0] == losses[2] != losses[1]


def test_micro_batches_are_filled_up_to_few_shapes() -> None:
    one = training.shop(n_users=60)
    found = steps(network(one), one)
    epoch = draw_epoch(one, ALL, seed=0, stage="finetune", number=0)
    found.begin()
    for rows in cut(epoch, epoch.order, micro_batch_size=100, n_processes=1, is_sorted=False):
        found.add(rows, seed=0)
    assert {width for _, width in found._rows} == {72}  # 69 tokens are the most
    assert len(found._rows) <= 8


@pytest.mark.parametrize("n", [1, 5, 16, 17, 31, 32, 33, 100, 255, 256, 267, 5000])
def test_numbers_are_filled_up_by_a_sixteenth_at_most(n: int) -> None:
    filled = t5_steps._of_few(n)
    assert n <= filled <= n * 17 / 16
    near = {t5_steps._of_few(each) for each in range(n, n + n // 8 + 1)}
    assert len(near) <= 4


def test_micro_batches_that_are_not_sorted_are_as_they_come() -> None:
    one = training.shop(n_users=60)
    epoch = draw_epoch(one, ("seqrec",), seed=0, stage="finetune", number=0)
    parts = cut(epoch, epoch.order, micro_batch_size=30, n_processes=1, is_sorted=False)
    np.testing.assert_array_equal(np.concatenate(parts), epoch.order)
    assert {len(part) for part in parts[:-1]} == {30}


def with_graphs_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all trainings be as on a GPU with `graphs`."""
    prepare = loops.prepare

    def prepare_with_graphs(model: recommender.Model, *args: object, **values: object) -> Loop:
        loop = prepare(model, *args, **values)
        return with_graphs(loop, loop.draw(0), recordings(), pieces=PIECES)

    monkeypatch.setattr(loops, "prepare", prepare_with_graphs)


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
    with_graphs_of_all(monkeypatch)
    assert train(tmp_path / "graphs") == pytest.approx(expected, rel=1e-4)
    epochs = json.loads((tmp_path / "graphs" / "history.json").read_text())["epochs"]
    assert 0 < epochs[0]["seconds_of_recording"] <= epochs[-1]["seconds_of_recording"]
