"""The decoder-only backbone: what sees what, loss and search by a slow twin, and its training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import tiny_language as tiny
import tiny_training as training
from launching import launch_two
from mql4grec import decoding, language, recommender
from mql4grec.codes import SemanticIds
from mql4grec.config import MODALITIES, LanguageSettings, Modality
from mql4grec.errors import DataError
from mql4grec.language import Corpus
from mql4grec.recommender import causal, choices, epochs
from mql4grec.recommender.causal import CausalModel
from mql4grec.recommender.loop import Loop

N_ITEMS = 12


def ids_of(modality: Modality) -> SemanticIds:
    """Give every item codes of its own, but for pictures none to item 3."""
    levels = tiny.N_CODES[modality]
    numbers = np.random.default_rng(0).permutation(np.prod(levels))[:N_ITEMS]
    codes = np.stack(np.unravel_index(numbers, levels), axis=1).astype(np.uint16)
    present = np.arange(N_ITEMS) != (3 if modality == "image" else -1)
    codes[~present] = 0
    return SemanticIds("tiny", modality, codes, levels, present)


def shop(*, n_users: int = 25, max_his_len: int = 5, **values: Any) -> Corpus:
    settings = LanguageSettings(max_his_len=max_his_len, **values)
    ids = {modality: ids_of(modality) for modality in MODALITIES}
    vocabulary = language.build_vocabulary(settings, n_codes=tiny.N_CODES)
    histories = tiny.random_histories(n_users, N_ITEMS, seed=0)
    return language.build_corpus(vocabulary, histories, ids, settings)


def model_of(one: Corpus) -> CausalModel:
    """Make a model in which everything that has weights matters."""
    model = training.network(one, backbone="causal")
    assert isinstance(model, CausalModel)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 2)
            elif "head" in name or "distance" in name or "steps" in name:
                parameter.normal_()
    return model.eval()


def slow_scores(one: Corpus, model: CausalModel, history: list[int], modality: Modality) -> list:
    """Score every item that has codes as the next one, token by token, by a plain transformer.

    A sequence is built for each item: the start, the items of the history, the codes so far. A code
    has its probability among those with which items go on from there.
    """
    words = language.spell_items(one)
    history = history[-one.max_his_len :]
    vectors = [model.start] + [
        sum((model.reading.weight[t] for t in words[item] if t != one.vocabulary.pad),
            torch.zeros_like(model.start))
        for item in history
    ]  # fmt: skip
    scores = []
    table = one.tokens[modality]
    for tokens, present in zip(table, one.present[modality], strict=True):
        total = 0.0 if present else -np.inf
        tokens = tokens if present else ()
        for level, token in enumerate(tokens):
            after = sorted({
                int(other[level]) for other, there in zip(table, one.present[modality], strict=True)
                if there and (other[:level] == tokens[:level]).all()
            })  # fmt: skip
            sequence = [*vectors, *(model.writing.weight[t] for t in tokens[:level])]
            state = slow_state(model, sequence, n_items=len(history))
            logits = model.head.weight[after] @ state
            total += float(logits.log_softmax(0)[after.index(token)])
        scores.append(total)
    return scores


def slow_state(model: CausalModel, sequence: list[torch.Tensor], *, n_items: int) -> torch.Tensor:
    """Run a start, items and codes through the layers; give what the last one ends as."""
    states = list(sequence)
    for block in model.blocks:
        rows = [block.qkv(block.attention_norm(state)).view(block.heads) for state in states]
        after = []
        for place, state in enumerate(states):
            seen = []
            for head in range(block.heads[1]):
                scores = []
                for other in range(place + 1):
                    product = rows[place][0, head] @ rows[other][1, head] / block.heads[2] ** 0.5
                    item, step = min(place, n_items), max(place - n_items, 0)
                    if other <= n_items:
                        bias = model.distance[head, item - other]
                    else:
                        bias = model.steps[head, step, other - n_items]
                    scores.append(product + bias)
                shares = torch.stack(scores).softmax(0)
                values = torch.stack([rows[other][2, head] for other in range(place + 1)])
                seen.append(shares @ values)
            state = state + block.out(torch.cat(seen))
            after.append(state + block.outer(block.inner(block.inner_norm(state)).relu()))
        states = after
    return model.norm(states[-1])


HISTORIES = [[1, 2, 3], [5], [7, 8, 9, 10, 11, 0, 3], []]


@torch.no_grad()
@pytest.mark.parametrize("modality", ["text", "image"])
def test_the_search_finds_what_a_slow_twin_scores(modality: Modality) -> None:
    one = shop()
    model = model_of(one)
    trie = decoding.build_trie(ids_of(modality))
    expected = np.array([slow_scores(one, model, history, modality) for history in HISTORIES])
    for n_beams in ("all", N_ITEMS - 2):
        found = decoding.recommend(
            model,
            trie,
            vocabulary=one.vocabulary,
            modality=modality,
            inputs=language.encode_items(one, tiny.histories(*HISTORIES)),
            n_beams=n_beams,
            batch_size=3,
        )
        for items, scores, all_scores in zip(found.items, found.scores, expected, strict=True):
            real = items >= 0
            np.testing.assert_allclose(scores[real], all_scores[items[real]], atol=1e-4)
            if n_beams == "all":
                best = np.argsort(-all_scores, kind="stable")[: real.sum()]
                np.testing.assert_allclose(all_scores[best], scores[real], atol=1e-4)


@torch.no_grad()
def test_the_loss_is_minus_the_score_of_every_next_item() -> None:
    one = shop()
    model = model_of(one)
    history = [4, 3, 8, 1]
    other = [5, 6]
    targets = np.array([*history[:3], 2, *other])  # one is not what came
    asked = np.array([1, 1, 0, 1, 0, 1], np.float32)
    expected = 0.0
    for items, place in ((history, 0), (history, 1), (history, 3), (other, 1)):
        target = 2 if place == 3 else items[place]
        for modality in MODALITIES:
            if one.present[modality][target]:
                expected -= slow_scores(one, model, items[:place], modality)[target]
    loss = loss_of(
        one, model, [*history, *other], [4, 2], targets, targets[:, None], asked[:, None]
    )
    assert loss == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_answers_in_shares_are_what_drawn_ones_are_on_average() -> None:
    """Whichever of them is written, all that begin like it count, so that chance does not."""
    one = shop()
    model = model_of(one)
    answers, shares = [1, 6, 0, -1], [0.2, 0.3, 0.5, 0.0]
    asked = np.array([np.zeros(4), shares], np.float32)
    together = alone = 0.0
    for item, share in zip(answers[:3], shares[:3], strict=True):
        targets = np.array([4, item])
        rows = np.array([[4] * 4, answers])
        together += share * loss_of(one, model, [4, 8], [2], targets, rows, asked)
        certain = np.array([[0], [1]], np.float32)
        alone += share * loss_of(one, model, [4, 8], [2], targets, targets[:, None], certain)
    assert together == pytest.approx(alone, rel=1e-5)


def test_an_answer_without_a_picture_has_no_share_in_pictures() -> None:
    one = shop()
    model = model_of(one)
    words = language.spell_items(one)
    branches = {modality: language.list_branches(one, modality) for modality in MODALITIES}
    found = choices.list_choices(
        model.config,
        words,
        branches,
        targets=np.array([1, 3]),
        answers=np.array([[1, 3], [1, 3]]),
        shares=np.array([[0.25, 0.75], [0.25, 0.75]], np.float32),
    )
    first = {modality: levels[0] for modality, levels in found.items()}
    assert first["text"].rows.tolist() == [0, 1]
    assert first["text"].shares.tolist() == [[0.25, 0.75]] * 2
    assert first["image"].rows.tolist() == [0]  # nothing is written for item 3
    assert first["image"].shares.tolist() == [[1, 0]]


def test_what_can_follow_is_what_items_go_on_with() -> None:
    one = shop()
    for modality in MODALITIES:
        codes, present = ids_of(modality).codes, one.present[modality]
        items = np.flatnonzero(present)
        for level, branches in enumerate(language.list_branches(one, modality)):
            after = branches.after(items)
            assert after.shape == (len(items), tiny.N_CODES[modality][level])
            for row, item in enumerate(items):
                same = present & (codes[:, :level] == codes[item, :level]).all(axis=1)
                assert np.flatnonzero(after[row]).tolist() == sorted(set(codes[same, level]))


def loss_of(
    one: Corpus,
    model: CausalModel,
    items: list[int],
    lengths: list[int],
    targets: np.ndarray,
    answers: np.ndarray,
    shares: np.ndarray,
) -> float:
    words = language.spell_items(one)
    branches = {modality: language.list_branches(one, modality) for modality in MODALITIES}
    found = choices.list_choices(
        model.config, words, branches, targets=targets, answers=answers, shares=shares
    )
    table = torch.from_numpy(words)
    return float(causal.summed_loss(model, table[items], lengths, table[targets], found))


def test_no_place_sees_what_comes_later_or_the_other_word() -> None:
    one = shop()
    model = model_of(one)
    items = [1, 2, 4, 5]
    words = torch.from_numpy(language.spell_items(one)[items])
    before = model(words, [4], words)
    for token in range(words.shape[1]):
        changed = words.clone()
        changed[2, token] = words[1, token]  # a code of the same level
        if changed.equal(words):
            continue
        differs = (model(changed, [4], changed) - before).abs().amax(dim=2) > 1e-6  # (n, P)
        assert not differs[:2].any()
        assert differs[3].all()  # the item is read there
        (own,) = [
            place
            for _, tokens, place in model.config.words()
            if tokens.start <= token < tokens.stop
        ]
        level = token - next(t.start for _, t, p in model.config.words() if p == own)
        expected = torch.zeros(model.config.n_places, dtype=torch.bool)
        expected[own.start + level : own.stop] = True
        assert differs[2].equal(expected)


def test_histories_one_after_the_other_are_read_apart() -> None:
    one = shop()
    model = model_of(one)
    words = torch.from_numpy(language.spell_items(one)[[1, 2, 4, 5, 6, 7, 0]])
    together = model(words, [2, 2, 1, 2], words)
    apart = [model(part, [len(part)], part) for part in words.split([2, 2, 1, 2])]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=0)


def test_dropout_is_drawn_from_its_seed() -> None:
    one = shop()
    model = model_of(one)
    words = torch.from_numpy(language.spell_items(one)[[1, 2, 4]])
    device = torch.device("cpu")
    first, again, other = (
        model(words, [3], words, recommender.dropout.make_dropout(0.5, seed=seed, device=device))
        for seed in (1, 1, 2)
    )
    assert first.equal(again)
    assert not first.equal(other)


# Samples


def test_every_event_but_the_last_two_is_answered_once() -> None:
    one = shop(n_users=40, max_his_len=3)
    epoch = epochs.draw_epoch(one, (), seed=1, stage="finetune", number=0, whole=True)
    windows, answered = epoch.samples, epoch.n_answered
    assert isinstance(windows, language.Windows)
    assert answered is not None
    counts = np.zeros(len(one.histories.items), np.int64)
    n_codes = 0
    for row in epoch.order:
        stop = windows.starts[row] + windows.lengths[row]
        own = slice(stop - answered[row], stop)
        # Windows are of the histories without the held out events: the items tell.
        n_codes = sum(3 * one.present["text"][i] + 2 * one.present["image"][i]
                      for i in windows.items[own])  # fmt: skip
        assert epoch.target_lengths[row] == n_codes
        counts[own] += 1
    held_out = one.histories.held_out(2)
    expected = np.concatenate(
        [np.full(n, int(n > 1)) for n in held_out.lengths()] or [np.zeros(0, int)]
    )
    assert counts[: len(expected)].tolist() == expected.tolist()


def draw(one: Corpus, number: int) -> tuple[language.Windows, np.ndarray, list[int]]:
    """Give an epoch's windows, how many of their last items are answered, and the order."""
    epoch = epochs.draw_epoch(one, (), seed=1, stage="finetune", number=number, whole=True)
    assert isinstance(epoch.samples, language.Windows)
    assert epoch.n_answered is not None
    return epoch.samples, epoch.n_answered, epoch.order.tolist()


def test_every_second_window_begins_at_a_random_event() -> None:
    one = shop(n_users=400, max_his_len=3, samples="windows")
    whole, answered_of_whole, order = draw(shop(n_users=400, max_his_len=3), 0)
    windows, answered, own_order = draw(one, 0)
    left_out = windows.starts - whole.starts
    np.testing.assert_array_equal(whole.lengths - windows.lengths, left_out)  # the ends are kept
    assert own_order == order  # whatever is drawn besides
    assert left_out.min() == 0
    assert windows.lengths[whole.lengths > 1].min() == 2  # something to read, something to answer
    # A first event follows nothing but the beginning of a history: of others it is no target.
    changed = left_out > 0
    np.testing.assert_array_equal(answered[~changed], answered_of_whole[~changed])
    np.testing.assert_array_equal(answered[changed], windows.lengths[changed] - 1)
    of_three = left_out[whole.lengths == 3]  # half of them by 0 or 1: a quarter is changed
    assert np.mean(of_three > 0) == pytest.approx(0.25, abs=3 * np.sqrt(0.19 / len(of_three)))
    again, _, _ = draw(one, 0)
    other, _, _ = draw(one, 1)
    assert windows.starts.tolist() == again.starts.tolist()
    assert windows.starts.tolist() != other.starts.tolist()


def test_of_the_longest_only_the_last_event_is_answered() -> None:
    one = shop(n_users=40, max_his_len=3, samples="longest")
    windows, answered, order = draw(one, 0)
    held_out = one.histories.held_out(2)
    ends = sorted((windows.starts + windows.lengths)[order].tolist())
    assert ends == held_out.offsets[1:][held_out.lengths() > 1].tolist()
    assert set(answered.tolist()) == {1}


def test_validation_answers_the_last_but_one_event() -> None:
    one = shop(n_users=40)
    epoch = epochs.validation_epoch(one, (), seed=1, stage="finetune", whole=True)
    windows = epoch.samples
    users = np.flatnonzero(one.histories.lengths() >= 3)
    ends = windows.items[windows.starts + windows.lengths - 1]
    assert ends.tolist() == one.histories.items[one.histories.offsets[users + 1] - 2].tolist()
    assert set(epoch.n_answered.tolist()) == {1}
    assert len(epochs.validation_epoch(
        one, (), seed=1, stage="finetune", whole=True, limit=4).order) == 4  # fmt: skip


def test_nothing_to_validate_on_is_an_error() -> None:
    one = tiny.corpus(tiny.histories([1, 2], [3]))
    with pytest.raises(DataError, match="expected histories of three items and more"):
        epochs.validation_epoch(one, (), seed=1, stage="finetune", whole=True)


def test_nothing_to_train_on_is_an_error() -> None:
    one = tiny.corpus(tiny.histories([1, 2, 3], [4, 5, 6]))
    with pytest.raises(DataError, match="expected histories of four items and more to train on"):
        epochs.draw_epoch(one, (), seed=1, stage="finetune", number=0, whole=True)


# Training


def train(folder: Path, **values: object) -> CausalModel:
    given = {"backbone": "causal", "corpora": [shop(n_users=90)], **values}
    return training.train(folder, **given)


def history(folder: Path) -> dict:
    return json.loads((folder / "history.json").read_text())


def trace(folder: Path) -> list[float]:
    return [e[name] for e in history(folder)["epochs"] for name in ("train_loss", "valid_loss")]


def test_training_learns_and_its_folder_opens_again(tmp_path: Path) -> None:
    model = train(tmp_path, epochs=6)
    losses = [epoch["valid_loss"] for epoch in history(tmp_path)["epochs"]]
    assert min(losses) < losses[0] - 0.02
    again = recommender.load(tmp_path)
    assert isinstance(again, CausalModel)
    assert again.config == model.config
    for name, tensor in training.weights(model).items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == model.config.vocab_size


def test_shops_are_trained_on_together(tmp_path: Path) -> None:
    """After a prefix that two shops have, the codes of both can follow."""
    one, other = shop(n_users=60), tiny.corpus(tiny.random_histories(60, N_ITEMS, seed=1), seed=1)
    joined = language.join([one, other])
    for modality in MODALITIES:
        for level, branches in enumerate(language.list_branches(joined, modality)):
            items = np.flatnonzero(one.present[modality])
            alone = language.list_branches(one, modality)[level].after(items)
            assert (branches.after(items) | ~alone).all()
    train(tmp_path, corpora=[one, other], stage="pretrain", epochs=4)
    losses = [epoch["valid_loss"] for epoch in history(tmp_path)["epochs"]]
    assert min(losses) < losses[0]


GOLDEN = [1.02, 0.9849, 0.9876, 0.9704, 0.9688, 0.968]


def test_the_loss_trace_is_golden(tmp_path: Path) -> None:
    """A change of these figures is a change of the training; say so where it is made."""
    train(tmp_path, dropout=0.0)
    assert trace(tmp_path) == pytest.approx(GOLDEN, abs=2e-3)


def test_places_beyond_the_end_of_a_window() -> None:
    windows = language.Windows(np.arange(9), np.array([0, 4]), np.array([2, 3]))
    assert windows.events(np.array([1, 0])).tolist() == [4, 5, 6, 0, 1]
    assert windows.events(np.array([1, 0]), n_beyond=1).tolist() == [4, 5, 6, 7, 0, 1, 2]


def test_padding_changes_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "without", dropout=0.0, epochs=2)
    monkeypatch.setattr(Loop, "keeps_padding", True)
    train(tmp_path / "with", dropout=0.0, epochs=2)
    assert trace(tmp_path / "with") == pytest.approx(trace(tmp_path / "without"), abs=1e-5)


def test_the_micro_batch_size_changes_no_result(tmp_path: Path) -> None:
    for size in (5, 32):
        train(tmp_path / str(size), dropout=0.0, micro_batch_size=size, epochs=2)
    assert trace(tmp_path / "5") == pytest.approx(trace(tmp_path / "32"), abs=1e-4)


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nimport tiny_training as training\n"
        "from accelerate import PartialState\n"
        "sizes = {'epochs': 2, 'batch_size': 16, 'samples_per_epoch': 17}\n"
        "training.train(Path(sys.argv[1]), backbone='causal', **sizes)\n"
        "assert PartialState().num_processes == 2\n"
        "PartialState().destroy_process_group()\n"
    )
    launch_two(script, str(tmp_path / "two"))
    training.train(
        tmp_path / "one", backbone="causal", epochs=2, batch_size=16, samples_per_epoch=17
    )
    assert trace(tmp_path / "two") == pytest.approx(trace(tmp_path / "one"), abs=1e-4)


@pytest.mark.parametrize("stop_after", [1, 4])
def test_an_interrupted_training_ends_with_the_same_weights(
    tmp_path: Path, stop_after: int
) -> None:
    undisturbed = train(tmp_path / "undisturbed", batch_size=16)
    journal = training.Recorder(stop_after=stop_after)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", batch_size=16, journal=journal)
    resumed = train(tmp_path / "killed", batch_size=16)
    for name, tensor in training.weights(undisturbed).items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert trace(tmp_path / "killed") == trace(tmp_path / "undisturbed")
