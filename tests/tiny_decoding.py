"""A random shop with a random tiny T5, ranked for by `generate` and by scoring every item."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import T5Config, T5ForConditionalGeneration

from mql4grec import decoding, language
from mql4grec.codes import SemanticIds
from mql4grec.config import LanguageSettings
from mql4grec.decoding import Rankings
from mql4grec.runtime import Journal, Runtime

SHAPES = [(5, 4, 7), (3, 3), (2, 9, 1, 4, 2), (64, 2, 2, 2)]
Inputs = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class World:
    """A random shop with a random tiny T5."""

    ids: SemanticIds
    vocabulary: language.Vocabulary
    model: T5ForConditionalGeneration
    trie: decoding.ItemTrie

    @property
    def items(self) -> set[int]:
        """Give the rows that have codes."""
        return set(np.flatnonzero(self.ids.present).tolist())

    def recommend(
        self,
        inputs: Inputs,
        *,
        n_beams: Any,
        batch_size: int = 64,
        search: decoding.Search | None = None,
        filters: decoding.Filters | None = None,
        folder: Path | None = None,
        runtime: Runtime | None = None,
        journal: Journal | None = None,
    ) -> Rankings:
        """Rank by text codes with the search under test."""
        return decoding.recommend(
            self.model,
            self.trie,
            vocabulary=self.vocabulary,
            modality="text",
            inputs=inputs,
            n_beams=n_beams,
            batch_size=batch_size,
            search=search,
            filters=filters,
            folder=folder,
            runtime=runtime,
            journal=journal or Journal(),
        )


def make_world(seed: int, *, n_codes: tuple[int, ...] = (5, 4, 7), **config: Any) -> World:
    """Draw at most 30 semantic IDs, of which four in five are present, and the weights of a T5."""
    generator = np.random.default_rng(seed)
    space = int(np.prod(n_codes))
    rows = generator.permutation(space)[: min(30, max(2, space // 2))]
    ids = SemanticIds(
        dataset="Shop",
        modality="text",
        codes=np.stack(np.unravel_index(rows, n_codes), axis=1).astype(np.uint16),
        n_codes=n_codes,
        present=generator.random(len(rows)) < 0.8,
    )
    ids.present[0] = True
    vocabulary = language.build_vocabulary(LanguageSettings(), n_codes={"text": n_codes})
    torch.manual_seed(seed)
    sizes = {
        "d_model": 16,
        "d_ff": 24,
        "d_kv": 8,
        "num_heads": 2,
        "num_layers": 2,
        "decoder_start_token_id": vocabulary.pad,
        "pad_token_id": vocabulary.pad,
        "eos_token_id": vocabulary.eos,
    }
    model = T5ForConditionalGeneration(T5Config(vocab_size=vocabulary.n_tokens, **(sizes | config)))
    return World(ids, vocabulary, model.eval(), decoding.build_trie(ids))


def make_inputs(world: World, *, seed: int = 0, n_users: int = 5, width: int = 9) -> Inputs:
    """Draw tokens and mask of users, padded on the right to one width: (n_users, width) each."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(3, world.vocabulary.n_tokens, (n_users, width))
    mask = (np.arange(width) < generator.integers(1, width + 1, (n_users, 1))).astype(np.int64)
    return np.where(mask > 0, tokens, world.vocabulary.pad), mask


def processor(world: World, *, n_start: int = 1) -> decoding.TrieLogitsProcessor:
    """Give the processor that admits the codes of the world's text alone."""
    return decoding.TrieLogitsProcessor(spelling(world), n_start=n_start)


def spelling(world: World) -> decoding.Spelling:
    """Spell the items of a world in the tokens of its vocabulary."""
    return decoding.spell(world.trie, world.vocabulary, modality="text")


def generate(world: World, inputs: Inputs, **arguments: Any) -> Any:
    """Call the model's own `generate` for as many tokens as an item has, and the end."""
    input_ids, attention_mask = (torch.as_tensor(part) for part in inputs)
    return world.model.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        max_new_tokens=len(world.ids.n_codes) + 1,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
        **{"do_sample": False, **arguments},
    )


def items_of(world: World, sequences: NDArray[np.int64]) -> NDArray[np.int32]:
    """Look up sequences that begin with the decoder start; -1 for what spells no item."""
    codes = sequences[:, 1 : 1 + len(world.ids.n_codes)] - world.vocabulary.first_code["text"]
    spelt = ((codes >= 0) & (codes < world.ids.n_codes)).all(axis=1)
    found = world.trie.find(np.where(spelt[:, None], codes, 0).astype(np.uint16))
    return np.where(spelt, found, np.int32(-1))


def recommend_by_generate(world: World, inputs: Inputs, *, n_beams: int) -> Rankings:
    """Rank as `recommend`, by `generate` with at least two beams."""
    out = generate(
        world,
        inputs,
        num_beams=n_beams,
        num_return_sequences=n_beams,
        logits_processor=[processor(world)],
    )
    scores = out.sequences_scores.numpy()
    items = items_of(world, out.sequences.numpy())
    # Where there are fewer items than beams, it returns duplicates with scores near -1e9.
    items = np.where(scores < -1e8, np.int32(-1), items).reshape(-1, n_beams)
    return Rankings(items=items, scores=np.where(items < 0, -np.inf, scores.reshape(items.shape)))


def score_all(world: World, inputs: Inputs) -> NDArray[np.float32]:
    """Score every item of the trie for every user by teacher forcing: (U, n_items)."""
    codes = world.ids.codes[world.ids.present].astype(np.int64)
    tokens = codes + np.array(world.vocabulary.first_code["text"])
    labels = torch.as_tensor(np.pad(tokens, ((0, 0), (0, 1)), constant_values=world.vocabulary.eos))
    scores = []
    for input_ids, mask in zip(*(torch.as_tensor(part) for part in inputs), strict=True):
        with torch.inference_mode():
            logits = world.model(
                input_ids=input_ids.expand(len(labels), -1),
                attention_mask=mask.expand(len(labels), -1),
                labels=labels,
            ).logits
        chosen = logits.log_softmax(dim=-1).gather(2, labels[:, :, None])
        scores.append(chosen.sum(dim=(1, 2)).numpy())
    return np.stack(scores)


def assert_same(found: Rankings, expected: Rankings) -> None:
    """Check that items are equal, and scores but for rounding."""
    np.testing.assert_array_equal(found.items, expected.items)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


class Stop(Exception):
    """An interruption."""


class StoppingJournal(Journal):
    """Stops after some batches; remembers where it started."""

    def __init__(self, n_batches: int | None) -> None:
        super().__init__()
        self.left = n_batches
        self.done: list[int] = []

    @contextmanager
    def track(
        self, description: str, *, total: int, done: int = 0
    ) -> Iterator[Callable[[int], None]]:
        self.done.append(done)

        def advance(n: int) -> None:
            if self.left is not None:
                self.left -= 1
                if self.left == 0:
                    raise Stop

        yield advance
