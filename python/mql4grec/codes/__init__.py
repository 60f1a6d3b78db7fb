"""Semantic IDs: collisions resolved, spelt as tokens and back, index files.

This room knows what a semantic ID is, when two items share one and how that is repaired (the rule
itself is in Rust), and how codes are spelt in index files. It knows neither networks nor token ids.
"""

from mql4grec.codes.assignment import assign, require_room
from mql4grec.codes.extension import modality_of, read_existing
from mql4grec.codes.index import read_index, write_index
from mql4grec.codes.prefixes import group_by_prefix, number_prefixes
from mql4grec.codes.records import CollisionReport, SemanticIds
from mql4grec.codes.shards import read_shards, write_shards
from mql4grec.codes.tensor import resolve
from mql4grec.codes.tokens import parse_tokens, token_table

__all__ = [
    "CollisionReport",
    "SemanticIds",
    "assign",
    "group_by_prefix",
    "modality_of",
    "number_prefixes",
    "parse_tokens",
    "read_existing",
    "read_index",
    "read_shards",
    "require_room",
    "resolve",
    "token_table",
    "write_index",
    "write_shards",
]
