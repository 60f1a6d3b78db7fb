"""Constrained beam search: the T5 writes codes, the trie lets only items through.

This room knows tries, beams and token ids. It does not know what an item is or how its codes were
made. Its parts:

    rankings    the record that evaluation and report work on; needs no torch
    trie        semantic IDs to a trie, and back to item rows
    spelling    the tokens that a model, ours or another, writes for a trie's codes
    device_trie the trie as tensors, walked on the model's device
    filters     which items each user may get; needs no torch
    gates       filters laid out over a trie
    network     what beam search needs of a model
    t5          a T5's weights laid out for decoding
    beams       our own beam search over a model
    progress    how far a call has come, kept for the next
    batches     rankings of many users, batch by batch
    generate    the trie as a constraint for `transformers.generate`

What needs torch is imported when first used, so that the rooms after this one start fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mql4grec.decoding.filters import EVERYTHING, Filters
from mql4grec.decoding.rankings import Rankings

if TYPE_CHECKING:
    from mql4grec.decoding.batches import Search, recommend
    from mql4grec.decoding.generate import TrieLogitsProcessor, prefix_allowed_tokens_fn
    from mql4grec.decoding.spelling import Spelling, spell, spell_tokens
    from mql4grec.decoding.trie import ItemTrie, build_trie

__all__ = [
    "EVERYTHING",
    "Filters",
    "ItemTrie",
    "Rankings",
    "Search",
    "Spelling",
    "TrieLogitsProcessor",
    "build_trie",
    "prefix_allowed_tokens_fn",
    "recommend",
    "spell",
    "spell_tokens",
]

PLACES = {
    "ItemTrie": "trie",
    "Search": "batches",
    "build_trie": "trie",
    "TrieLogitsProcessor": "generate",
    "prefix_allowed_tokens_fn": "generate",
    "Spelling": "spelling",
    "recommend": "batches",
    "spell": "spelling",
    "spell_tokens": "spelling",
}


def __getattr__(name: str) -> object:
    if name not in PLACES:
        raise AttributeError(f"module `{__name__}` has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
    return value
