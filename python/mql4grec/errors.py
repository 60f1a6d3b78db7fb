"""The faults that a user can mend.

The command line prints these as one short message and exits with 1. Anything else that is raised
is a bug, or misuse of a function (`ValueError`, `TypeError`), and shows its traceback.
"""


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
