"""Ctrl-C and SIGTERM: a quiet end with exit code 130 or 143, at any moment.

Before anything is written the process just ends, since an exception in the middle of an import may
be swallowed or told in a traceback. From `begin` on `Stopped` is raised, so that what is
half-written is removed; again after some seconds, if a library has swallowed it.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

AGAIN = 3.0  # seconds
STOPPED = "stopped; the same command goes on where it was\n"


class Stopped(SystemExit):
    """A signal asked for the end; its code is the exit code."""


class _State:
    begun = False
    code = 0


def install() -> None:
    """Handle the signals, but those that are ignored, as under nohup."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, _stop_again)


def begin() -> None:
    """Say that something is going to be written, which an end has to clean up."""
    _State.begun = True


def is_stopping() -> bool:
    """Tell whether a signal has come; what then fails, such as a worker, is no fault of its own."""
    return bool(_State.code)


def end(code: object) -> None:
    """Tell of a `Stopped` that has come up, and leave."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    _tell()
    sys.exit(code if isinstance(code, int) else _State.code or 128 + signal.SIGINT)


def _tell() -> None:
    if os.environ.get("RANK", "0") == "0":  # of several processes one tells
        os.write(2, STOPPED.encode())


def _stop(number: int, _frame: FrameType | None) -> None:
    _State.code = 128 + number
    if not _State.begun:
        _tell()
        os._exit(_State.code)
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
    raise Stopped(_State.code)


def _stop_again(_number: int, _frame: FrameType | None) -> None:
    raise Stopped(_State.code)
