"""The room `recommender`: the network, its training, and going on after an interruption."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, T5ForConditionalGeneration

import tiny_language as tiny
import tiny_training as training
from launching import launch_two
from mql4grec import language, recommender
from mql4grec.config import LanguageSettings, RecommenderSettings
from mql4grec.errors import ArtifactError, ConfigError, DataError
from mql4grec.language import build_corpus, build_vocabulary
from mql4grec.recommender import checkpoint, epochs, loop, losses


def history(folder: Path) -> dict:
    return json.loads((folder / "history.json").read_text())


def trace(folder: Path) -> list[float]:
    return [
        epoch[name] for epoch in history(folder)["epochs"] for name in ("train_loss", "valid_loss")
    ]


# The network


def test_the_network_has_its_final_vocabulary_at_t5s_scale() -> None:
    vocabulary = build_vocabulary(LanguageSettings(), n_codes={"text": (256,) * 4})
    model = recommender.build(vocabulary, RecommenderSettings(), seed=1)
    assert model.shared.weight.shape == (vocabulary.n_tokens, 128)
    assert model.shared.weight.std().item() == pytest.approx(1, abs=0.01)
    assert model.lm_head.weight is model.shared.weight
    assert model.encoder.embed_tokens.weight is model.shared.weight
    # What goes with tied embeddings in T5; versions of transformers before 5 have no name for it.
    assert getattr(model.config, "scale_decoder_outputs", model.config.tie_word_embeddings)
    assert model.config.dense_act_fn == "relu"
    assert model.encoder.block[0].layer[0].SelfAttention.q.out_features == 6 * 64


def test_the_seed_decides_the_weights_and_leaves_torch_alone() -> None:
    one = training.shop()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (training.network(one, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.shared.weight, again.shared.weight)
    assert not torch.equal(first.shared.weight, other.shared.weight)


# Training


def test_training_over_levels_learns(tmp_path: Path) -> None:
    training.train(tmp_path, epochs=6, loss_over="level", dropout=0.0)
    losses = [epoch["valid_loss"] for epoch in history(tmp_path)["epochs"]]
    assert min(losses) < losses[0] - 0.1


def test_training_over_children_leaves_spelling_out(tmp_path: Path) -> None:
    """What only one code can follow costs nothing, from the start; the rest is learnt."""
    found = {}
    for loss_over in ("level", "children"):
        folder = tmp_path / loss_over
        training.train(folder, epochs=6, loss_over=loss_over, dropout=0.0)
        found[loss_over] = history(folder)["epochs"]
    first, *_, last = found["children"]
    assert first["valid_loss"] < found["level"][0]["valid_loss"] - 0.1
    assert last["train_loss"] < first["train_loss"] - 0.02


def test_training_learns_and_keeps_the_best_as_a_plain_transformers_folder(
    tmp_path: Path,
) -> None:
    journal = training.Recorder()
    model = training.train(tmp_path, journal=journal, epochs=6)
    found = history(tmp_path)
    losses = [epoch["valid_loss"] for epoch in found["epochs"]]
    assert min(losses) < losses[0] - 0.1
    assert found["best_epoch"] == int(np.argmin(losses)) + 1
    assert found["finished"]
    plain = T5ForConditionalGeneration.from_pretrained(tmp_path)
    own = recommender.load(tmp_path)
    for name, tensor in training.weights(model).items():
        assert torch.equal(tensor, plain.state_dict()[name])
        assert torch.equal(tensor, own.state_dict()[name])
    assert plain.lm_head.weight is plain.shared.weight
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == plain.config.vocab_size
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "history.json"} <= names
    assert not any(name.startswith(".") or "checkpoint" in name for name in names)
    logged = [values for event, values in journal.events if event == "recommender.finetune.epoch"]
    assert [values["step"] for values in logged] == [1, 2, 3, 4, 5, 6]
    assert [values["valid_loss"] for values in logged] == losses


def test_the_micro_batch_size_changes_no_result(tmp_path: Path) -> None:
    models = [
        training.train(tmp_path / str(size), dropout=0.0, micro_batch_size=size, epochs=2)
        for size in (5, 32)
    ]
    assert trace(tmp_path / "5") == pytest.approx(trace(tmp_path / "32"), abs=1e-4)
    for name, tensor in training.weights(models[0]).items():
        torch.testing.assert_close(tensor, models[1].state_dict()[name], atol=2e-3, rtol=0)


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Dropout too is the same, since every forward pass has a seed of its own.

    The last step of an epoch has one sample, so that the second process has nothing to do.
    """
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nimport tiny_training as training\n"
        "from accelerate import PartialState\n"
        "training.train(Path(sys.argv[1]), epochs=2, batch_size=30, samples_per_epoch=61)\n"
        "assert PartialState().num_processes == 2\n"
        "PartialState().destroy_process_group()\n"
    )
    launch_two(script, str(tmp_path / "two"))
    training.train(tmp_path / "one", epochs=2, batch_size=30, samples_per_epoch=61)
    assert trace(tmp_path / "two") == pytest.approx(trace(tmp_path / "one"), abs=1e-4)


@pytest.mark.parametrize("stop_after", [1, 8, "epoch"])
def test_an_interrupted_training_ends_with_the_same_weights(
    tmp_path: Path, stop_after: int | str
) -> None:
    undisturbed = training.train(tmp_path / "undisturbed")
    per_epoch = -(-history(tmp_path / "undisturbed")["n_samples"] // 32)
    assert per_epoch > 5  # so that the stops lie inside epochs
    n_steps = stop_after if isinstance(stop_after, int) else per_epoch  # before validation
    with pytest.raises(KeyboardInterrupt):
        training.train(tmp_path / "killed", journal=training.Recorder(stop_after=n_steps))
    assert (tmp_path / "killed" / checkpoint.NAME).exists()
    journal = training.Recorder()
    resumed = training.train(tmp_path / "killed", journal=journal)
    for name, tensor in training.weights(undisturbed).items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert trace(tmp_path / "killed") == trace(tmp_path / "undisturbed")
    rates = [
        [epoch["lr"] for epoch in history(tmp_path / name)["epochs"]]
        for name in ("killed", "undisturbed")
    ]
    assert rates[0] == rates[1]
    assert journal.done == 3 * history(tmp_path / "killed")["n_samples"]


def test_looking_at_the_loss_now_and_then_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, which the host does not wait for after every step."""
    undisturbed = training.train(tmp_path / "each")
    monkeypatch.setattr(loop.Loop, "n_unsettled", 3)
    with pytest.raises(KeyboardInterrupt):
        training.train(tmp_path / "some", journal=training.Recorder(stop_after=5))
    journal = training.Recorder()
    resumed = training.train(tmp_path / "some", journal=journal)
    n_samples = history(tmp_path / "some")["n_samples"]
    assert journal.done == 3 * n_samples  # of three epochs, what was done before included
    for name, tensor in training.weights(undisturbed).items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert trace(tmp_path / "some") == pytest.approx(trace(tmp_path / "each"), rel=1e-12)


def test_an_interruption_loses_only_what_follows_the_last_checkpoint(tmp_path: Path) -> None:
    undisturbed = training.train(tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        training.train(
            tmp_path / "killed", journal=training.Recorder(stop_after=9), checkpoint_seconds=999
        )
    resumed = training.train(tmp_path / "killed")
    for name, tensor in training.weights(undisturbed).items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    first = training.train(tmp_path)
    left = tmp_path / "checkpoint.safetensors"  # as by a kill at the very end
    left.write_bytes(b"")
    before = (tmp_path / "history.json").read_bytes()
    journal = training.Recorder()
    again = training.train(tmp_path, journal=journal)
    assert not left.exists()
    assert journal.events == []
    assert (tmp_path / "history.json").read_bytes() == before
    for name, tensor in training.weights(first).items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_the_files_of_another_training_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        training.train(tmp_path, journal=training.Recorder(stop_after=2))
    with pytest.raises(ArtifactError, match="with other settings, data, first weights or teacher"):
        training.train(tmp_path, lr=0.02)
    training.train(tmp_path, micro_batch_size=3)  # may change on the way


def test_training_stops_when_patience_is_used_up(tmp_path: Path) -> None:
    training.train(tmp_path, lr=1e-12, epochs=9, patience=2, dropout=0.0, tasks=("seqrec",))
    found = history(tmp_path)
    assert len(found["epochs"]) == found["best_epoch"] + 2 < 9


def test_the_epoch_of_the_best_ndcg_is_kept_and_patience_goes_by_it(tmp_path: Path) -> None:
    told = [0.1, 0.3, 0.3, 0.2, 0.9]
    seen: list[dict[str, torch.Tensor]] = []

    def ndcg(model: T5ForConditionalGeneration) -> float:
        seen.append(training.weights(model))
        model.eval()  # as decoding does; training goes on with dropout all the same
        return told[len(seen) - 1]

    journal = training.Recorder()
    model = training.train(
        tmp_path, ndcg=ndcg, select_by="ndcg", epochs=9, patience=2, journal=journal
    )
    found = history(tmp_path)
    assert [epoch["valid_ndcg"] for epoch in found["epochs"]] == told[:4]
    assert (found["best_epoch"], found["best_valid_ndcg"]) == (2, 0.3)
    assert found["best_valid_loss"] == found["epochs"][1]["valid_loss"]
    for name, tensor in training.weights(model).items():
        assert torch.equal(tensor, seen[1][name])
    logged = [values for event, values in journal.events if event == "recommender.finetune.epoch"]
    assert [values["valid_ndcg"] for values in logged] == told[:4]


def of_weights(model: T5ForConditionalGeneration) -> float:
    """Stand for a figure that depends on nothing but the weights."""
    return 1 / (1 + float(model.shared.weight.detach().double().square().sum()))


def test_selected_by_ndcg_an_interrupted_training_ends_with_the_same_weights(
    tmp_path: Path,
) -> None:
    undisturbed = training.train(tmp_path / "undisturbed", ndcg=of_weights, select_by="ndcg")
    per_epoch = -(-history(tmp_path / "undisturbed")["n_samples"] // 32)
    with pytest.raises(KeyboardInterrupt):
        training.train(
            tmp_path / "killed",
            ndcg=of_weights,
            select_by="ndcg",
            journal=training.Recorder(stop_after=per_epoch + 3),
        )
    resumed = training.train(tmp_path / "killed", ndcg=of_weights, select_by="ndcg")
    for name, tensor in training.weights(undisturbed).items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert trace(tmp_path / "killed") == trace(tmp_path / "undisturbed")
    for one in (history(tmp_path / "killed"), history(tmp_path / "undisturbed")):
        figures = [epoch["valid_ndcg"] for epoch in one["epochs"]]
        assert one["best_epoch"] == int(np.argmax(figures)) + 1
    assert figures == [epoch["valid_ndcg"] for epoch in history(tmp_path / "killed")["epochs"]]
    training.train(tmp_path / "by_loss")
    assert trace(tmp_path / "by_loss") == trace(tmp_path / "undisturbed")  # it changes nothing


def test_of_two_processes_one_measures_and_both_decide_by_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nimport tiny_training as training\n"
        "from accelerate import PartialState\n"
        "told = [.2, .5, .4, .3, .1]\n"
        "def ndcg(model):\n"
        "    assert PartialState().is_main_process\n"
        "    return told.pop(0)\n"
        "training.train(Path(sys.argv[1]), ndcg=ndcg, select_by='ndcg', epochs=5, patience=2)\n"
        "assert len(told) == (1 if PartialState().is_main_process else 5)\n"
        "PartialState().destroy_process_group()\n"
    )
    launch_two(script, str(tmp_path / "two"))
    found = history(tmp_path / "two")
    assert [epoch["valid_ndcg"] for epoch in found["epochs"]] == [0.2, 0.5, 0.4, 0.3]
    assert found["best_epoch"] == 2


@pytest.mark.parametrize(("select_by", "ndcg"), [("ndcg", None), ("loss", of_weights)])
def test_what_measures_and_what_decides_belong_together(
    tmp_path: Path, select_by: str, ndcg: Callable[..., float] | None
) -> None:
    message = "`ndcg`: expected a function with `select_by: ndcg`, and none with `select_by: loss`"
    with pytest.raises(ValueError, match=re.escape(message)):
        training.train(tmp_path, ndcg=ndcg, select_by=select_by)


def test_training_stops_when_time_is_up(tmp_path: Path) -> None:
    training.train(tmp_path, max_minutes=1e-9)
    found = history(tmp_path)
    assert found["out_of_time"]
    assert [epoch["step"] for epoch in found["epochs"]] == [1]


def test_an_epoch_can_be_a_random_part(tmp_path: Path) -> None:
    journal = training.Recorder()
    training.train(tmp_path, samples_per_epoch=10, journal=journal)
    assert journal.done == 30
    one = training.shop()
    first, second = (
        epochs.draw_epoch(one, ["seqrec"], seed=1, stage="finetune", number=number, limit=10)
        for number in (0, 1)
    )
    assert set(first.order) != set(second.order)


def test_bf16_trains(tmp_path: Path) -> None:
    one = training.shop()
    recommender.train(
        training.network(one),
        [one],
        training.settings(epochs=1),
        stage="finetune",
        folder=tmp_path,
        runtime=recommender.training.Runtime(precision="bf16"),
    )
    assert recommender.load(tmp_path).shared.weight.dtype == torch.float32


# What there is to train on


def text_only(name: str) -> language.Corpus:
    settings = LanguageSettings(max_his_len=5)
    return build_corpus(
        build_vocabulary(settings, n_codes=tiny.N_CODES),
        tiny.random_histories(25, 12, seed=4),
        {"text": tiny.semantic_ids("text", 12, dataset=name)},
        settings,
    )


def test_pretraining_samples_several_shops_and_says_what_one_lacks(tmp_path: Path) -> None:
    journal = training.Recorder()
    training.train(
        tmp_path,
        corpora=[training.shop(), text_only("letters")],
        tasks=("seqrec", "seqimage"),
        schedule="constant",
        stage="pretrain",
        journal=journal,
    )
    skipped = [values for event, values in journal.events if event.endswith("skipped")]
    assert skipped == [{"step": None, "task": "seqimage", "dataset": "letters"}]
    assert history(tmp_path)["tasks"] == ["seqrec", "seqimage"]


def test_no_task_left_is_an_error(tmp_path: Path) -> None:
    message = "`recommender.pretrain.tasks`: expected one that the data have samples of"
    with pytest.raises(ConfigError, match=re.escape(message)):
        training.train(
            tmp_path, corpora=[text_only("letters")], tasks=("seqimage",), stage="pretrain"
        )


def test_nothing_to_validate_on_is_an_error(tmp_path: Path) -> None:
    message = "`recommender.finetune.tasks`: expected samples to validate on, got none"
    with pytest.raises(DataError, match=re.escape(message)):
        training.train(tmp_path, tasks=("item2image",))


def test_a_model_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    one = training.shop()
    model = recommender.build(
        build_vocabulary(LanguageSettings(), n_codes={"text": (3,)}),
        RecommenderSettings(**training.SIZES),
        seed=0,
    )
    with pytest.raises(ValueError, match=r"`model`: expected \d+ tokens to match the corpus"):
        recommender.train(
            model,
            [one],
            training.settings(),
            stage="finetune",
            folder=tmp_path,
            runtime=recommender.training.Runtime(),
        )


# What goes wrong


def failing_loss(error: Exception) -> Callable[..., None]:
    def summed_loss(*_: object, **__: object) -> None:
        raise error

    return summed_loss


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_says_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(losses, "summed_loss", failing_loss(error))
    message = "`recommender.finetune.micro_batch_size`: expected as many samples as fit into the"
    with pytest.raises(ConfigError, match=re.escape(message) + ".* got 8; set it to 4"):
        training.train(tmp_path)


def test_other_errors_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "summed_loss", failing_loss(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        training.train(tmp_path)


def test_a_loss_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("`recommender.finetune.lr`: expected a loss")):
        training.train(tmp_path, lr=1e30, warmup=0)


def test_a_missing_or_broken_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="mql4grec finetune"):
        recommender.load(tmp_path)
    training.train(tmp_path, epochs=1)
    (tmp_path / "model.safetensors").write_bytes(b"half of it")
    with pytest.raises(ArtifactError, match="expected a file that `mql4grec finetune` wrote"):
        recommender.load(tmp_path)


def test_a_broken_checkpoint_is_an_error(tmp_path: Path) -> None:
    (tmp_path / checkpoint.NAME).write_bytes(b"half of it")
    with pytest.raises(ArtifactError, match="delete it and run `mql4grec finetune` again"):
        training.train(tmp_path)


# Steps


def test_micro_batches_are_sorted_and_complete() -> None:
    one = training.shop()
    epoch = epochs.draw_epoch(one, ["seqrec"], seed=1, stage="finetune", number=0)
    rows = epoch.order[:20]
    parts = epochs.cut(epoch, rows, micro_batch_size=6, n_processes=1)
    assert [len(part) for part in parts] == [6, 6, 6, 2]
    assert sorted(np.concatenate(parts)) == sorted(rows)
    assert (np.diff(epoch.input_lengths[np.concatenate(parts)]) <= 0).all()
    # every process has work as long as there are enough samples
    assert len(epochs.cut(epoch, rows, micro_batch_size=64, n_processes=3)) == 3


def test_forward_passes_have_different_seeds() -> None:
    seeds = {
        epochs.dropout_seed(seed=1, stage="finetune", step=step, micro_batch=part)
        for step in range(50)
        for part in range(8)
    }
    assert len(seeds) == 400
