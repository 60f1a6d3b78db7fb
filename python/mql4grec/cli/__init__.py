"""The command line: the only room that prints or exits.

    commands      one function per command
    recommending  `recommend`
    large         `generate-codes` without a run
    tables        what is printed
    remedies      what a user can do about a fault of the machine
    options       what commands share

Everything heavy is imported inside the commands, so that `--help` answers at once.
"""

from mql4grec.cli.commands import app, main

__all__ = ["app", "main"]
