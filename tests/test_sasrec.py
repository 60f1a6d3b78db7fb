"""SASRec against slow twins: loss, masking, windows; a training that is interrupted and goes on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mql4grec import artifacts, evaluation, language, sasrec
from mql4grec.catalog import Histories
from mql4grec.config import SasrecSettings
from mql4grec.decoding import EVERYTHING, Filters
from mql4grec.errors import ArtifactError, ConfigError, DataError
from mql4grec.runtime import Runtime
from mql4grec.sasrec import passes
from mql4grec.sasrec.network import SASRec, summed_loss
from mql4grec.sasrec.ranking import validation_ndcg
from tiny_training import Recorder

N_ITEMS = 12


def histories(items: list[list[int]]) -> Histories:
    offsets = np.cumsum([0, *map(len, items)]).astype(np.int64)
    return Histories(offsets, np.array([i for one in items for i in one], np.int32))


def shop(*, seed: int = 0, n_users: int = 40, longest: int = 12) -> Histories:
    """Users who walk around a circle of items, with a jump now and then."""
    generator = np.random.default_rng(seed)
    lists = []
    for _ in range(n_users):
        steps = np.where(generator.random(generator.integers(4, longest + 1)) < 0.8, 1, 5)
        lists.append(((generator.integers(N_ITEMS) + np.cumsum(steps)) % N_ITEMS).tolist())
    return histories(lists)


def network(*, seed: int = 0, **values: Any) -> SASRec:
    sizes = {"d_model": 8, "num_heads": 2, "num_layers": 2, "dropout": 0.0, "max_his_len": 6}
    torch.manual_seed(seed)
    made = SASRec(n_items=N_ITEMS, **{**sizes, **values})
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # so that everything matters
    return made.eval()


def settings(**values: Any) -> SasrecSettings:
    sizes = {"d_model": 8, "max_his_len": 6, "batch_size": 8, "epochs": 4, "lr": 0.01}
    return SasrecSettings(**{**sizes, **values})


def train(folder: Path, *, events: Histories | None = None, **values: Any) -> SASRec:
    journal = values.pop("journal", Recorder())
    return sasrec.train(
        events or shop(),
        settings(**values),
        n_items=N_ITEMS,
        folder=folder,
        runtime=Runtime(seed=3, checkpoint_seconds=1e-9),
        journal=journal,
    )


def test_a_later_item_never_changes_an_earlier_state() -> None:
    made = network()
    items = torch.randint(N_ITEMS, (3, 6), generator=torch.Generator().manual_seed(1))
    states = made(items)
    for place in range(6):
        changed = items.clone()
        changed[:, place:] = (changed[:, place:] + 1) % N_ITEMS
        other = made(changed)
        assert torch.equal(other[:, :place], states[:, :place])
        assert not torch.isclose(other[:, place:], states[:, place:]).all(dim=2).any()


def test_padding_changes_nothing() -> None:
    made = network()
    short = torch.tensor([[3, 1, 4]])
    padded = torch.tensor([[3, 1, 4, 0, 0]])
    torch.testing.assert_close(made(padded)[:, :3], made(short))


def slow_states(made: SASRec, items: list[int]) -> torch.Tensor:
    """Give the last state of a history, with loops and no mask: what follows is not there."""
    states = made.items.weight[items] * made.items.embedding_dim**0.5
    states = states + made.places.weight[: len(items)]
    for block in made.blocks:
        normal = block.attention_norm(states)
        query, key, value = block.attention.joint(normal).chunk(3, dim=1)
        mixed = []
        for place in range(len(items)):
            heads = []
            for q, k, v in zip(
                *(
                    part.chunk(made.blocks[0].attention.num_heads, dim=1)
                    for part in (query, key, value)
                ),
                strict=True,
            ):
                logits = torch.stack([q[place] @ k[past] for past in range(place + 1)])
                weights = torch.softmax(logits / q.shape[1] ** 0.5, dim=0)
                heads.append(weights @ v[: place + 1])
            mixed.append(torch.cat(heads))
        states = states + block.attention.out(torch.stack(mixed))
        states = states + block.inner(block.inner_norm(states))
    return made.norm(states)


def test_states_equal_a_slow_twin() -> None:
    made = network()
    items = [5, 2, 2, 11]
    torch.testing.assert_close(made(torch.tensor([items]))[0], slow_states(made, items))


def test_the_loss_equals_a_slow_twin() -> None:
    made = network()
    rows = [[1, 2, 3, 4], [7, 0], [5, 5, 9]]
    expected = 0.0
    for row in rows:
        states = slow_states(made, row[:-1])
        for state, target in zip(states, row[1:], strict=True):
            scores = [(state @ made.items.weight[item]).item() for item in range(N_ITEMS)]
            expected += float(np.log(np.sum(np.exp(scores))) - scores[target])
    padded = torch.tensor([row + [0] * (4 - len(row)) for row in rows])
    loss = summed_loss(made, padded, torch.tensor([4, 2, 3]))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@given(
    lengths=st.lists(st.integers(0, 15), min_size=1, max_size=8),
    max_his_len=st.integers(1, 6),
)
def test_every_event_but_the_first_is_a_target_once(lengths: list[int], max_his_len: int) -> None:
    numbers = iter(range(sum(lengths)))
    events = histories([[next(numbers) for _ in range(length)] for length in lengths])
    found = language.training_windows(events, max_his_len=max_his_len)
    rows, sizes = found.rows(np.arange(len(found.starts)))
    targets = [item for row, size in zip(rows, sizes, strict=True) for item in row[1:size].tolist()]
    expected = [item for user in range(len(lengths)) for item in events.of(user)[1:].tolist()]
    assert sorted(targets) == expected
    for row, size in zip(rows, sizes, strict=True):
        assert 2 <= size <= max_his_len + 1
        assert (np.diff(row[:size]) == 1).all()  # of one user, without a gap
        assert (row[size:] == 0).all()


def test_windows_by_hand() -> None:
    events = histories([[1, 2, 3, 4, 5], [6], [7, 8]])
    found = language.training_windows(events, max_his_len=3)
    rows, lengths = found.rows(np.arange(3))
    assert [row[:n].tolist() for row, n in zip(rows, lengths, strict=True)] == [
        [2, 3, 4, 5], [1, 2], [7, 8],
    ]  # fmt: skip
    last, lengths = language.last_windows(events, max_his_len=3).rows(np.arange(3))
    assert last.tolist() == [[3, 4, 5], [6, 0, 0], [7, 8, 0]]
    assert lengths.tolist() == [3, 1, 2]


def test_selected_histories() -> None:
    events = histories([[1, 2], [], [3], [4, 5, 6]])
    some = events.of_users(np.array([3, 1, 0]))
    assert [some.of(user).tolist() for user in range(3)] == [[4, 5, 6], [], [1, 2]]


@given(lengths=st.lists(st.integers(2, 20), min_size=1, max_size=60), n_items=st.integers(1, 10**7))
def test_passes_have_every_window_once(lengths: list[int], n_items: int) -> None:
    events = histories([[0] * length for length in lengths])
    found = language.training_windows(events, max_his_len=7)
    which = np.random.default_rng(0).permutation(len(found.starts))
    parts = list(passes.cut(found, which, n_items=n_items))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(which)))
    for part in parts:
        n_scores = int((found.lengths[part] - 1).sum()) * n_items
        assert n_scores <= passes.SCORES or len(part) == 1


def test_passes_change_the_gradient_by_rounding_only() -> None:
    made = network()
    found = language.training_windows(shop(), max_his_len=6)
    which = np.arange(len(found.starts))

    def gradient(parts: Iterator[np.ndarray]) -> torch.Tensor:
        made.zero_grad()
        for part in parts:
            items, lengths = found.rows(part)
            summed_loss(made, torch.from_numpy(items), torch.from_numpy(lengths)).backward()
        return torch.cat([p.grad.flatten() for p in made.parameters() if p.grad is not None])

    cut = gradient(passes.cut(found, which, n_items=10**7))
    torch.testing.assert_close(cut, gradient(iter([which])), rtol=1e-3, atol=1e-3)


def slow_scores(made: SASRec, events: Histories) -> np.ndarray:
    rows = []
    for user in range(events.n_users):
        items = events.of(user)[-made.max_his_len :].tolist()
        state = slow_states(made, items)[-1] if items else torch.zeros(made.items.embedding_dim)
        rows.append((made.items.weight @ state).detach().numpy())
    return np.stack(rows)


@pytest.mark.parametrize("remove_seen", [False, True])
def test_rankings_equal_a_slow_twin(monkeypatch: pytest.MonkeyPatch, remove_seen: bool) -> None:
    monkeypatch.setattr(sasrec.ranking, "SCORES", 4 * N_ITEMS)  # several chunks
    made, events = network(), histories([[1, 2], [], *map(list, np.arange(90).reshape(9, 10) % 11)])
    filters = Filters(without=events) if remove_seen else EVERYTHING
    ranked = sasrec.rank(made, events, top_k=N_ITEMS, filters=filters)
    scores = slow_scores(made, events)
    for user, row in enumerate(scores):
        left = [i for i in range(N_ITEMS) if not (remove_seen and i in events.of(user))]
        best = sorted(left, key=lambda item: -row[item])
        assert ranked.items[user, len(best) :].tolist() == [-1] * (N_ITEMS - len(best))
        np.testing.assert_allclose(
            ranked.scores[user, : len(best)], row[best], rtol=1e-4, atol=1e-5
        )
        if len(events.of(user)):
            assert ranked.items[user, : len(best)].tolist() == best
    assert ranked.items[1].tolist() == list(range(N_ITEMS))  # nothing is known of this user


def test_ndcg_of_validation_is_that_of_evaluation() -> None:
    made, events = network(), shop()
    inputs, targets = events.held_out(2), events.target(2)
    found = evaluation.metrics(sasrec.rank(made, inputs, top_k=10), targets)["NDCG@10"]
    assert validation_ndcg(made, inputs, targets) == pytest.approx(found)


def test_it_learns_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    made = train(tmp_path, epochs=12, dropout=0.0)
    history = json.loads((tmp_path / "history.json").read_text())
    found = [epoch["valid_ndcg"] for epoch in history["epochs"]]
    assert history["best_valid_ndcg"] == max(found) == found[history["best_epoch"] - 1]
    events = shop()
    again = validation_ndcg(made, events.held_out(2), events.target(2))
    assert again == pytest.approx(max(found))
    chance = sum(1 / np.log2(place + 2) for place in range(10)) / N_ITEMS
    assert max(found) > 1.5 * chance
    assert history["epochs"][-1]["train_loss"] < history["epochs"][0]["train_loss"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json", "history.json", "model.safetensors",
    ]  # fmt: skip


def test_patience_ends_a_training(tmp_path: Path) -> None:
    train(tmp_path, epochs=50, patience=2, lr=1e-9)
    history = json.loads((tmp_path / "history.json").read_text())
    assert len(history["epochs"]) == history["best_epoch"] + 2


def test_minutes_end_a_training(tmp_path: Path) -> None:
    train(tmp_path, epochs=50, max_minutes=1e-9)
    history = json.loads((tmp_path / "history.json").read_text())
    assert (len(history["epochs"]), history["out_of_time"]) == (1, True)


def test_the_test_events_are_not_looked_at(tmp_path: Path) -> None:
    events = shop()
    items = events.items.copy()
    items[events.offsets[1:] - 1] = 0
    first = train(tmp_path / "a", events=events)
    second = train(tmp_path / "b", events=Histories(events.offsets, items))
    assert_same(first, second)


def test_validation_events_decide_the_epoch_only(tmp_path: Path) -> None:
    events = shop()
    items = events.items.copy()
    items[events.offsets[1:] - 2] = 0
    first = train(tmp_path / "a", events=events, epochs=1)
    second = train(tmp_path / "b", events=Histories(events.offsets, items), epochs=1)
    assert_same(first, second)


def assert_same(first: SASRec, second: SASRec) -> None:
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize("stop_after", [1, 6, 7])
def test_an_interrupted_training_ends_like_an_undisturbed_one(
    tmp_path: Path, stop_after: int
) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", journal=Recorder(stop_after=stop_after))
    assert (tmp_path / "cut" / "checkpoint.safetensors").exists()
    torch.rand(3)  # the generator's state is of no account
    journal = Recorder()
    assert_same(whole, train(tmp_path / "cut", journal=journal))
    ours, theirs = (
        [
            {name: value for name, value in epoch.items() if name != "seconds"}
            for epoch in json.loads((tmp_path / name / "history.json").read_text())["epochs"]
        ]
        for name in ("whole", "cut")
    )
    assert ours == theirs


def test_a_finished_training_is_opened(tmp_path: Path) -> None:
    first = train(tmp_path)
    left = tmp_path / "checkpoint.safetensors"  # as by a kill at the very end
    left.write_bytes(b"")
    journal = Recorder()
    assert_same(first, train(tmp_path, journal=journal))
    assert journal.events == []
    assert not left.exists()


def test_training_leaves_torchs_generator_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    train(tmp_path, epochs=1)
    assert torch.equal(torch.rand(2), expected)


def test_seeds_differ(tmp_path: Path) -> None:
    events = shop()
    made = [
        sasrec.train(
            events, settings(epochs=1), n_items=N_ITEMS, folder=tmp_path / str(seed),
            runtime=Runtime(seed=seed),
        )
        for seed in (1, 2)
    ]  # fmt: skip
    assert not torch.equal(made[0].items.weight, made[1].items.weight)


def test_validation_users_are_a_sample(tmp_path: Path) -> None:
    train(tmp_path, validation_users=7, epochs=1)
    assert json.loads((tmp_path / "history.json").read_text())["n_validation_users"] == 7


def message(kind: type[Exception], folder: Path, **values: Any) -> str:
    with pytest.raises(kind) as caught:
        train(folder, **values)
    return str(caught.value)


def test_another_training_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    mark = json.loads((tmp_path / "history.json").read_text())["mark"]
    text = message(ArtifactError, tmp_path, lr=0.5)
    assert text.startswith(f"`{tmp_path / 'history.json'}`: expected the training ")
    assert text.endswith(
        f", got {mark}, with other settings or data; delete the folder to start anew"
    )


def test_a_broken_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"no")
    text = message(ArtifactError, tmp_path)
    assert text.startswith(f"`{path}`: expected a file that `mql4grec evaluate` wrote, got ")
    assert text.endswith("; delete it and run `mql4grec evaluate` again")


def test_too_short_histories(tmp_path: Path) -> None:
    assert message(DataError, tmp_path, events=histories([[1, 2, 3], [4, 5]])) == (
        "`sasrec`: expected users with at least four events, got none; "
        "set `sasrec.enabled` to false"
    )


def test_a_loss_that_is_no_number(tmp_path: Path) -> None:
    text = message(ConfigError, tmp_path, lr=1e30)
    assert text.startswith("`sasrec.lr`: expected a loss that is a number, got nan at optimizer ")
    assert text.endswith("; lower it")


def test_heads_of_unequal_width() -> None:
    with pytest.raises(ValidationError) as caught:
        SasrecSettings(d_model=10, num_heads=4)
    assert "`d_model`: expected a multiple of `num_heads`, 4, got 10" in str(caught.value)


def test_a_missing_network(tmp_path: Path) -> None:
    artifacts.write_json(tmp_path / "config.json", {"n_items": 3, "d_model": 4, "num_heads": 1,
        "num_layers": 1, "dropout": 0, "max_his_len": 2})  # fmt: skip
    with pytest.raises(ArtifactError) as caught:
        sasrec.load(tmp_path, runtime=Runtime())
    path = tmp_path / "model.safetensors"
    assert str(caught.value) == f"`{path}`: no such file; `mql4grec evaluate` makes it"
