"""Our search against `generate` on real codes and histories, and the traps on them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mql4grec import decoding, language, recommender
from mql4grec.codes import SemanticIds
from mql4grec.config import LanguageSettings, RecommenderSettings
from mql4grec.decoding import Rankings
from tiny_decoding import Inputs, World, recommend_by_generate
from tiny_language import histories

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA}")
FILES = {"Instruments": "index_vitemb", "Office": "index_3level"}


def codes_of(shop: str) -> NDArray[np.uint16]:
    index = json.loads((DATA / shop / f"{shop}.{FILES[shop]}.json").read_text())
    spelt = [index[str(item)] for item in range(len(index))]
    return np.array([[int(c.split("_")[1].rstrip(">")) for c in row] for row in spelt], np.uint16)


def real_world(shop: str, *, n_users: int, small: bool = True) -> tuple[World, Inputs]:
    codes = codes_of(shop)
    present = np.zeros(len(codes), bool)
    present[np.unique(codes, axis=0, return_index=True)[1]] = True  # Office: 15 items share one
    ids = SemanticIds(shop, "text", codes, (256,) * codes.shape[1], present)
    vocabulary = language.build_vocabulary(LanguageSettings(), n_codes={"text": ids.n_codes})
    events = json.loads((DATA / shop / f"{shop}.inter.json").read_text())
    users = histories(*[events[user][:-1] for user in list(events)[:n_users]])
    corpus = language.build_corpus(vocabulary, users, {"text": ids}, LanguageSettings())
    inputs = language.encode_histories(corpus, users, task="seqrec", users=np.arange(n_users))
    size = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_heads": 2} if small else {}
    layers = {"num_layers": 2, "num_decoder_layers": 2} if small else {}
    model = recommender.build(vocabulary, RecommenderSettings(**size, **layers), seed=0).eval()
    return World(ids, vocabulary, model, decoding.build_trie(ids)), inputs


def batches(inputs: Inputs, size: int) -> Iterator[Inputs]:
    """Cut users in batches, each as wide as its longest history."""
    for start in range(0, len(inputs[0]), size):
        ids, mask = (part[start : start + size] for part in inputs)
        used = int(mask.sum(axis=1).max())
        yield ids[:, :used], mask[:, :used]


def assert_same_but_for_ties(found: Rankings, expected: Rankings) -> None:
    """Compare; items may differ where a score lies within rounding of its neighbours."""
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    gaps = np.diff(expected.scores, axis=1, prepend=np.inf, append=-np.inf)
    alone = (gaps[:, :-1] < -1e-4) & (gaps[:, 1:] < -1e-4)
    assert alone.mean() > 0.5
    np.testing.assert_array_equal(found.items[alone], expected.items[alone])


def compare(world: World, inputs: Inputs, *, n_beams: int) -> None:
    by_length = np.argsort(inputs[1].sum(axis=1), kind="stable")  # little of a batch is padding
    inputs = (inputs[0][by_length], inputs[1][by_length])
    parts = [recommend_by_generate(world, part, n_beams=n_beams) for part in batches(inputs, 64)]
    expected = Rankings(
        items=np.concatenate([part.items for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
    )
    assert_same_but_for_ties(world.recommend(inputs, n_beams=n_beams), expected)


@pytest.mark.slow
@pytest.mark.parametrize("shop", FILES)
@pytest.mark.parametrize("n_beams", [20, 50])
def test_a_thousand_users_on_real_codes(shop: str, n_beams: int) -> None:
    """Same as `generate`; by a small T5, since codes, histories and beams are what is at stake."""
    world, inputs = real_world(shop, n_users=1000)
    compare(world, inputs, n_beams=n_beams)


@pytest.mark.slow
@pytest.mark.parametrize(("shop", "n_beams"), [("Instruments", 20), ("Office", 50)])
def test_the_size_of_the_paper(shop: str, n_beams: int) -> None:
    world, inputs = real_world(shop, n_users=48, small=False)
    compare(world, inputs, n_beams=n_beams)


def test_looking_up_the_last_token_alone_admits_mostly_what_is_no_item() -> None:
    codes = codes_of("Instruments").astype(np.int64)
    n_paths: Any = np.bincount(codes[:, -1], minlength=256) > 0
    for level in (3, 2, 1):  # paths from each code to the end, from the last level up
        pairs = np.zeros((256, 256), np.int64)
        pairs[codes[:, level - 1], codes[:, level]] = 1
        n_paths = pairs @ n_paths.astype(np.int64)
    admitted = int(n_paths[np.unique(codes[:, 0])].sum())
    assert len(codes) / admitted < 0.005


def test_every_answer_is_an_item_and_users_get_different_ones() -> None:
    world, inputs = real_world("Instruments", n_users=24)
    found = world.recommend(inputs, n_beams=20)
    assert set(found.items.ravel().tolist()) <= world.items
    assert len(np.unique(found.items)) > 40  # a model that always says the same has 20
    assert torch.isfinite(torch.as_tensor(found.scores)).all()
