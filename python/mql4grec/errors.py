"""The faults that a user can mend.

The command line prints these as one short message and exits with 1. Anything else that is raised
is a bug, or misuse of a function (`ValueError`, `TypeError`), and shows its traceback.
"""

import re
import reprlib

# Control characters but tab and newline, C1 too; separators of lines, overrides of the direction of
# writing, and halves of pairs.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 3


def short(value: object) -> str:
    """Spell any value for a message: as `repr` does, cut in the middle where that is long."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"


def short_text(value: str, *, limit: int = 80) -> str:
    """Spell a string for a message without quotes, escaped, cut where it is long."""
    return plain(value if len(value) <= limit else f"{value[: limit - 3]}...")


def plain(value: str) -> str:
    """Escape what a terminal would obey instead of showing it."""
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", value)


class Mql4grecError(Exception):
    """Base of all faults that a user can mend."""


class ConfigError(Mql4grecError):
    """Settings that are unknown, wrong or contradictory; names all of them together."""


class DataError(Mql4grecError):
    """Input data that is missing or broken; names file, row, column and value."""


class CollisionError(Mql4grecError):
    """Items that share a semantic ID where they must not; names how many and the first five."""


class ArtifactError(Mql4grecError):
    """A file of a run that is missing or does not fit; names it and the command that makes it."""
