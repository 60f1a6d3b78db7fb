"""The room `language`: token ids, tasks, batches, and the tokenizer that goes with them."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import tiny_language as tiny
from mql4grec.config import LanguageSettings, Modality, Task
from mql4grec.errors import ConfigError
from mql4grec.language import (
    IGNORED,
    build_corpus,
    build_vocabulary,
    encode,
    encode_histories,
    input_lengths,
    join,
    save_tokenizer,
    target_lengths,
    training_samples,
    validation_samples,
)
from mql4grec.language.samples import DIRECTIONS, ITEM_TASKS, TASKS, concatenate

HISTORY_TASKS = [task for task in TASKS if task not in ITEM_TASKS]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Vocabulary and tokenizer


def test_the_compact_vocabulary_leaves_no_gap() -> None:
    vocabulary = build_vocabulary(LanguageSettings(), n_codes=tiny.N_CODES)
    numbers = [vocabulary.pad, vocabulary.eos, vocabulary.unk]
    for prompt in vocabulary.prompts.values():
        numbers += prompt
    for modality in ("text", "image"):
        for first, size in zip(
            vocabulary.first_code[modality], vocabulary.n_codes[modality], strict=True
        ):
            numbers += range(first, first + size)
    assert numbers == list(range(vocabulary.n_tokens))
    assert {"seqrec", "seqimage"}.isdisjoint(vocabulary.prompts)


def test_modalities_are_numbered_text_first_whatever_their_order() -> None:
    turned: dict[Modality, tuple[int, ...]] = {"image": (7, 3), "text": (4, 5, 6)}
    assert build_vocabulary(LanguageSettings(), n_codes=turned) == build_vocabulary(
        LanguageSettings(), n_codes=tiny.N_CODES
    )


def test_the_saved_tokenizer_spells_every_token_as_one(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    vocabulary = build_vocabulary(LanguageSettings(), n_codes=tiny.N_CODES)
    save_tokenizer(vocabulary, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == vocabulary.n_tokens
    for number in range(3, vocabulary.n_tokens):
        token = tokenizer.convert_ids_to_tokens(number)
        assert tokenizer(token).input_ids == [number, vocabulary.eos]
        assert tokenizer.decode([number]) == token
    check_codes(tokenizer, vocabulary)
    assert tokenizer("<a_99>").input_ids == [vocabulary.unk, vocabulary.eos]


def check_codes(tokenizer, vocabulary) -> None:  # noqa: ANN001
    expected = [
        vocabulary.first_code["text"][0] + 1,
        vocabulary.first_code["text"][1] + 2,
        vocabulary.first_code["image"][1] + 2,
        vocabulary.eos,
    ]
    assert tokenizer("<a_1><b_2><B_2>").input_ids == expected
    assert tokenizer("<a_1> <b_2> <B_2>").input_ids == expected
    assert tokenizer("<item2image_2>").input_ids[0] == vocabulary.prompts["item2image"][1]


@pytest.fixture(scope="session")
def t5_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 tokenizer with a handful of pieces."""
    from transformers import T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁a", "a", "_", "1", "<", ">", "▁guitar"]
    tokenizer = T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=2)
    folder = tmp_path_factory.mktemp("t5")
    tokenizer.save_pretrained(folder)
    return folder


def test_a_given_t5_tokenizer_is_extended(t5_tokenizer: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    before = len(AutoTokenizer.from_pretrained(t5_tokenizer))
    settings = LanguageSettings(tokenizer=str(t5_tokenizer))
    vocabulary = build_vocabulary(settings, n_codes=tiny.N_CODES)
    compact = build_vocabulary(LanguageSettings(), n_codes=tiny.N_CODES)
    assert vocabulary.n_tokens == before + compact.n_tokens - 3
    assert vocabulary.prompts["item2image"][0] == before
    save_tokenizer(vocabulary, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    check_codes(tokenizer, vocabulary)
    for number in range(before, vocabulary.n_tokens):
        token = tokenizer.convert_ids_to_tokens(number)
        assert tokenizer(token).input_ids == [number, vocabulary.eos]


def test_a_tokenizer_that_has_codes_already_is_refused(t5_tokenizer: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(t5_tokenizer)
    tokenizer.add_tokens(["<b_3>"])
    tokenizer.save_pretrained(tmp_path)
    settings = LanguageSettings(tokenizer=str(tmp_path))
    message = "`language.tokenizer`: expected one without code tokens, got '<b_3>' as token 13"
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_vocabulary(settings, n_codes=tiny.N_CODES)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    settings = LanguageSettings(tokenizer=str(tmp_path))
    message = "`language.tokenizer`: expected 'compact' or the folder of a T5 tokenizer"
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_vocabulary(settings, n_codes=tiny.N_CODES)


def test_a_vocabulary_needs_modalities_of_one_to_eight_levels() -> None:
    with pytest.raises(ValueError, match=re.escape("`n_codes`: expected at least one modality")):
        build_vocabulary(LanguageSettings(), n_codes={})
    with pytest.raises(ValueError, match=re.escape("expected 1 to 8 levels, got 9")):
        build_vocabulary(LanguageSettings(), n_codes={"text": (2,) * 9})


# Samples


def test_prefixes_leave_out_the_last_two_events() -> None:
    one = tiny.corpus(tiny.histories([0, 1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11], [1]))
    samples = training_samples(one, "seqrec", generator=generator())
    # events 1 and 2 of the first user, 9 of the third; the second has one training event only
    assert samples.target.tolist() == [1, 2, 9]
    assert samples.length.tolist() == [1, 2, 1]
    held_out = validation_samples(one, "seqrec", generator=generator())
    assert held_out.target.tolist() == [3, 6, 10]
    assert held_out.length.tolist() == [3, 1, 2]


def test_histories_are_capped() -> None:
    one = tiny.corpus(tiny.histories(list(range(10))), settings=LanguageSettings(max_his_len=3))
    assert training_samples(one, "seqrec", generator=generator()).length.max() == 3
    assert validation_samples(one, "seqrec", generator=generator()).length.tolist() == [3]
    input_ids, _ = encode_histories(one, one.histories, task="seqrec", users=np.array([0]))
    assert input_ids.tolist() == [
        [*one.tokens["text"][[7, 8, 9]].ravel().tolist(), one.vocabulary.eos]
    ]


def test_longest_answers_the_last_training_event() -> None:
    events = tiny.histories([0, 1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11])
    one = tiny.corpus(events, settings=LanguageSettings(max_his_len=5, samples="longest"))
    samples = training_samples(one, "seqrec", generator=generator())
    assert samples.target.tolist() == [2, 9]
    assert samples.length.tolist() == [2, 1]


def test_windows_are_drawn_anew_and_stay_inside_the_training_part() -> None:
    events = tiny.histories(list(range(12)), [3, 4, 5], list(range(11, -1, -1)))
    one = tiny.corpus(events, settings=LanguageSettings(max_his_len=5, samples="windows"))
    shared = generator()
    seen = set()
    for _ in range(600):
        samples = training_samples(one, "seqrec", generator=shared)
        assert len(samples) == 2
        seen.add((int(samples.target[0]), int(samples.length[0])))
    assert seen == {(event, k) for event in range(1, 10) for k in range(1, min(event, 5) + 1)}


def test_directions_are_drawn_anew_each_epoch_and_even() -> None:
    one = tiny.corpus(tiny.random_histories(400, 12, seed=1))
    shared = generator()
    for task in ("fusionseqrec", "fgfusionseqrec"):
        first, second = (training_samples(one, task, generator=shared) for _ in range(2))
        assert len(first) == len(second)
        assert (first.direction != second.direction).any()
        assert 0.4 < first.direction.mean() < 0.6


def test_item_tasks_take_every_item_that_has_both() -> None:
    one = tiny.corpus(no_text=(2,), no_image=(5, 7))
    for task in ITEM_TASKS:
        samples = training_samples(one, task, generator=generator())
        assert samples.target.tolist() == [0, 1, 3, 4, 6, 8, 9, 10, 11]
        assert len(validation_samples(one, task, generator=generator())) == 0


def test_items_without_codes_are_neither_read_nor_answered() -> None:
    one = tiny.corpus(
        tiny.histories([0, 1, 2, 3, 4, 5], [1, 1, 2, 3, 4, 4]), no_text=(1,), no_image=(2,)
    )
    texts = training_samples(one, "seqrec", generator=generator())
    # user 0: item 1 is no target; user 1: item 2 would read nothing, item 3 reads item 2 only
    assert texts.target.tolist() == [2, 3, 9]
    assert texts.length.tolist() == [1, 2, 1]
    # 0 can only read 1's picture, 2 can only be text: the direction that is possible is taken
    mixed = training_samples(one, "fusionseqrec", generator=generator())
    targets = dict(zip(mixed.target.tolist(), mixed.direction.tolist(), strict=True))
    assert targets[1] == 0
    assert targets[2] == 1


def test_a_task_whose_modality_is_missing_has_no_samples() -> None:
    settings = LanguageSettings()
    one = build_corpus(
        build_vocabulary(settings, n_codes={"text": (4, 5, 6)}),
        tiny.random_histories(20, 12, seed=0),
        {"text": tiny.semantic_ids("text", 12)},
        settings,
    )
    counts = {task: len(training_samples(one, task, generator=generator())) for task in TASKS}
    assert {task for task, count in counts.items() if count} == {"seqrec", "fgfusionseqrec"}
    rows = np.arange(counts["fgfusionseqrec"])
    samples = training_samples(one, "fgfusionseqrec", generator=generator())
    assert encode(one, samples, rows).labels.shape == (len(rows), 4)


# Batches


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("sampling", ["prefixes", "longest", "windows"])
@hypothesis_settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), lacking=st.sets(st.integers(0, 11), max_size=6))
def test_batches_equal_their_slow_twin(
    task: Task, sampling: str, seed: int, lacking: set[int]
) -> None:
    one = tiny.corpus(
        seed=seed,
        no_text=tuple(sorted(lacking)[::2]),
        no_image=tuple(sorted(lacking)[1:]),
        settings=LanguageSettings(max_his_len=4, n_prompt_tokens=2, samples=sampling),
    )
    shared = generator(seed)
    parts = [make(one, task, generator=shared) for make in (training_samples, validation_samples)]
    samples = concatenate([*parts, training_samples(one, "item2image", generator=shared)])
    rows = shared.permutation(len(samples))
    batch = encode(one, samples, rows)
    for place, row in enumerate(rows.tolist()):
        read, answer = tiny.slow_sample(one, samples, row)
        mask = batch.attention_mask[place].astype(bool)
        assert batch.input_ids[place][mask].tolist() == read
        assert (batch.input_ids[place][~mask] == one.vocabulary.pad).all()
        labels = batch.labels[place]
        assert labels[labels != IGNORED].tolist() == answer
        assert input_lengths(one, samples)[row] == len(read)
        assert target_lengths(one, samples)[row] == len(answer)


@pytest.mark.parametrize("task", HISTORY_TASKS)
def test_a_batch_for_inference_equals_the_training_input(task: Task) -> None:
    one = tiny.corpus(seed=3, no_text=(1, 2), no_image=(3,))
    samples = validation_samples(one, task, generator=generator())
    known = tiny.histories(
        *(
            one.histories.items[start : stop - 2].tolist()
            for start, stop in zip(
                one.histories.offsets[:-1], one.histories.offsets[1:], strict=True
            )
        )
    )
    users = np.searchsorted(one.histories.offsets, samples.target, side="right") - 1
    for direction, (_, target) in enumerate(DIRECTIONS[task]):
        rows = np.flatnonzero(samples.direction == direction)
        input_ids, mask = encode_histories(one, known, task=task, users=users[rows], target=target)
        batch = encode(one, samples, rows)
        np.testing.assert_array_equal(input_ids, batch.input_ids)
        np.testing.assert_array_equal(mask, batch.attention_mask)


def test_a_user_with_nothing_to_read_gets_prompt_and_end() -> None:
    one = tiny.corpus(no_image=(4,))
    known = tiny.histories([], [4], [5])
    input_ids, mask = encode_histories(one, known, task="seqimage", users=np.array([0, 1, 2]))
    assert mask.sum(axis=1).tolist() == [1, 1, 3]
    assert input_ids[:2, 0].tolist() == [one.vocabulary.eos] * 2
    prompted, _ = encode_histories(one, known, task="seqimage2item", users=np.array([1]))
    assert prompted.tolist() == [[*one.vocabulary.prompts["seqimage2item"], one.vocabulary.eos]]


def test_inference_needs_one_direction() -> None:
    one = tiny.corpus()
    for task in ("fusionseqrec", "item2image"):
        with pytest.raises(ValueError, match="expected one that reads a history"):
            encode_histories(one, one.histories, task=task, users=np.array([0]))


def test_joined_shops_make_the_same_samples() -> None:
    left, right = tiny.corpus(seed=1, no_image=(3,)), tiny.corpus(seed=2, n_items=7)
    both = join([left, right])
    expected = []
    for one in (left, right):
        samples = training_samples(one, "seqimage", generator=generator())
        expected += [tiny.slow_sample(one, samples, row) for row in range(len(samples))]
    samples = training_samples(both, "seqimage", generator=generator())
    assert [tiny.slow_sample(both, samples, row) for row in range(len(samples))] == expected
    assert both.n_items == 19
    assert join([left]) is left


def test_shops_of_other_vocabularies_cannot_be_joined() -> None:
    left = tiny.corpus()
    right = tiny.corpus(settings=LanguageSettings(max_his_len=5, n_prompt_tokens=2))
    with pytest.raises(ValueError, match=re.escape("`corpora`: expected one `vocabulary`")):
        join([left, right])


def test_codes_must_fit_vocabulary_and_histories() -> None:
    settings = LanguageSettings()
    vocabulary = build_vocabulary(settings, n_codes=tiny.N_CODES)
    known = tiny.histories([0, 1, 12])
    with pytest.raises(ValueError, match=re.escape("expected items below 12, got 12")):
        build_corpus(vocabulary, known, {"text": tiny.semantic_ids("text", 12)}, settings)
    other = tiny.semantic_ids("text", 13, n_codes=(4, 4))
    with pytest.raises(ValueError, match=re.escape("expected levels of (4, 5, 6) codes")):
        build_corpus(vocabulary, known, {"text": other}, settings)
    with pytest.raises(ValueError, match=re.escape("`ids`: expected at least one modality")):
        build_corpus(vocabulary, known, {}, settings)
    pair = {"text": tiny.semantic_ids("text", 13), "image": tiny.semantic_ids("image", 14)}
    with pytest.raises(ValueError, match=re.escape("expected one number of items, got [13, 14]")):
        build_corpus(vocabulary, known, pair, settings)
