"""How a code is spelt: text `<a_12>`, image `<A_12>`, one letter per level."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mql4grec.config import Modality

MIN_LEVELS, MAX_LEVELS = 2, 8
MAX_K = 65536
LETTERS: Mapping[Modality, str] = {"text": "abcdefgh", "image": "ABCDEFGH"}
TOKEN = re.compile(r"<([a-hA-H])_(0|[1-9][0-9]{0,4})>")


def token_table(n_codes: Sequence[int], *, modality: Modality) -> list[list[str]]:
    """Spell every code of every level: text `<a_12>`, image `<A_12>`, one letter per level.

    Raises:
        ValueError: If there are over 8 levels.
    """
    if len(n_codes) > MAX_LEVELS:
        raise ValueError(f"`n_codes`: expected at most {MAX_LEVELS} levels, got {len(n_codes)}")
    letters = LETTERS[modality][: len(n_codes)]
    return [
        [f"<{letter}_{code}>" for code in range(n)]
        for letter, n in zip(letters, n_codes, strict=True)
    ]


def parse_tokens(tokens: Sequence[str], *, modality: Modality) -> list[int]:
    """Read the codes of one semantic ID back from its tokens.

    Raises:
        ValueError: If a token is not spelt as one of its level and modality; names level and token.
    """
    letters = LETTERS[modality]
    codes = []
    for level, token in enumerate(tokens):
        found = TOKEN.fullmatch(token) if isinstance(token, str) else None
        code = int(found[2]) if found else MAX_K
        if level >= len(letters) or found is None or found[1] != letters[level] or code >= MAX_K:
            letter = letters[level : level + 1]
            expected = f"`<{letter}_0>` to `<{letter}_{MAX_K - 1}>`" if letter else "no token"
            raise ValueError(f"level {level}: expected {expected} ({modality}), got {token!r}")
        codes.append(code)
    return codes
