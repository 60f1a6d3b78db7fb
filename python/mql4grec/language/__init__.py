"""Vocabulary and tasks, as whole-array token sequences.

This room knows how an item's codes become token ids, what each task reads and what it must answer,
and how many samples become one padded batch. Codes turn into token ids by adding an offset, samples
turn into batches by gathering; no string is ever joined or tokenized on the way. It does not know
the network that reads the batches.
"""

from mql4grec.language.batches import (
    IGNORED,
    Batch,
    encode,
    encode_histories,
    input_lengths,
    target_lengths,
)
from mql4grec.language.branches import Branches, list_branches, open_tokens
from mql4grec.language.corpus import Corpus, build_corpus, join
from mql4grec.language.samples import (
    Samples,
    training_samples,
    validation_samples,
)
from mql4grec.language.spans import Stream, find_spans, make_stream, most_tokens
from mql4grec.language.vocabulary import Vocabulary, build_vocabulary, save_tokenizer
from mql4grec.language.windows import Windows, last_windows, shorten, training_windows
from mql4grec.language.words import count_codes, encode_items, spell_items

__all__ = [
    "IGNORED",
    "Batch",
    "Branches",
    "Corpus",
    "Samples",
    "Stream",
    "Vocabulary",
    "Windows",
    "build_corpus",
    "build_vocabulary",
    "count_codes",
    "encode",
    "encode_histories",
    "encode_items",
    "find_spans",
    "input_lengths",
    "join",
    "last_windows",
    "list_branches",
    "make_stream",
    "most_tokens",
    "open_tokens",
    "save_tokenizer",
    "shorten",
    "spell_items",
    "target_lengths",
    "training_samples",
    "training_windows",
    "validation_samples",
]
