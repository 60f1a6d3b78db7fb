"""A shop small enough to check by hand, and a slow twin of the room `language`."""

from itertools import chain

import numpy as np

from mql4grec.catalog import Histories
from mql4grec.codes import SemanticIds
from mql4grec.config import LanguageSettings, Modality
from mql4grec.language import Corpus, Samples, build_corpus, build_vocabulary
from mql4grec.language.samples import DIRECTIONS, ITEM_TASKS, TASKS

N_CODES: dict[Modality, tuple[int, ...]] = {"text": (4, 5, 6), "image": (7, 3)}


def histories(*users: list[int]) -> Histories:
    offsets = np.cumsum([0, *(len(user) for user in users)], dtype=np.int64)
    return Histories(offsets=offsets, items=np.array([*chain(*users)], dtype=np.int32))


def random_histories(n_users: int, n_items: int, *, seed: int, longest: int = 9) -> Histories:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, longest, n_users)
    return histories(*(generator.integers(0, n_items, length).tolist() for length in lengths))


def semantic_ids(
    modality: Modality,
    n_items: int,
    *,
    seed: int = 0,
    lacking: tuple[int, ...] = (),
    n_codes: tuple[int, ...] | None = None,
    dataset: str = "tiny",
) -> SemanticIds:
    levels = n_codes or N_CODES[modality]
    generator = np.random.default_rng([seed, len(levels)])
    codes = np.stack([generator.integers(0, k, n_items) for k in levels], axis=1)
    present = np.ones(n_items, dtype=np.bool_)
    present[list(lacking)] = False
    codes[~present] = 0
    return SemanticIds(
        dataset=dataset,
        modality=modality,
        codes=codes.astype(np.uint16),
        n_codes=levels,
        present=present,
    )


def corpus(
    events: Histories | None = None,
    *,
    n_items: int = 12,
    seed: int = 0,
    no_text: tuple[int, ...] = (),
    no_image: tuple[int, ...] = (),
    settings: LanguageSettings | None = None,
) -> Corpus:
    settings = settings or LanguageSettings(max_his_len=5)
    if events is None:
        events = random_histories(20, n_items, seed=seed)
    return build_corpus(
        build_vocabulary(settings, n_codes=N_CODES),
        events,
        {
            "text": semantic_ids("text", n_items, seed=seed, lacking=no_text),
            "image": semantic_ids("image", n_items, seed=seed, lacking=no_image),
        },
        settings,
    )


def slow_item(one: Corpus, source: str, item: int) -> list[int]:
    """Spell one item for a source, [] if it has nothing there."""
    if source != "both":
        return one.tokens[source][item].tolist() if one.present[source][item] else []
    parts: list[int] = []
    for modality in ("text", "image"):
        codes = slow_item(one, modality, item)
        if codes:
            parts += [*one.vocabulary.prompts[f"fgfusionseqrec.{modality}"], *codes]
    return parts


def slow_sample(one: Corpus, samples: Samples, row: int) -> tuple[list[int], list[int]]:
    """Make input and target of one sample, without padding."""
    task = TASKS[samples.task[row]]
    source, target = DIRECTIONS[task][samples.direction[row]]
    event = int(samples.target[row])
    if task in ITEM_TASKS:
        item, read = event, [slow_item(one, source, event)]
    else:
        user = int(np.searchsorted(one.histories.offsets, event, side="right")) - 1
        before = one.histories.items[one.histories.offsets[user] : event].tolist()
        item = int(one.histories.items[event])
        spelt = [slow_item(one, source, other) for other in before]
        read = [codes for codes in spelt if codes][-int(samples.length[row]) :]
    prompt = list(one.vocabulary.prompts.get(task, ()))
    eos = one.vocabulary.eos
    return [*prompt, *chain(*read), eos], [*slow_item(one, target, item), eos]
