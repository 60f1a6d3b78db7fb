"""The command line in forked processes: hundreds of calls without the seconds of imports each.

A server process imports all that commands import, uses none of it (threads do not survive a fork),
and forks for every call.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

IMPORTS = (
    "mql4grec.cli.commands", "mql4grec.decoding", "mql4grec.embeddings", "mql4grec.evaluation",
    "mql4grec.pipeline", "mql4grec.quality", "mql4grec.recommender", "mql4grec.report",
    "mql4grec.sasrec", "mql4grec.seeds", "mql4grec.serving", "mql4grec.stages.checks",
    "mql4grec.translator", "accelerate", "lightgbm", "polars", "sklearn.feature_extraction.text",
    "transformers.models.t5.modeling_t5",
)  # fmt: skip


RENAMING = ("replace", "rename", "unlink", "remove", "mkdir", "rmdir")  # of `os`


@dataclass(frozen=True)
class Kill:
    """When a call is killed, and how.

    Attributes:
        signal: Its name; at a call to the system it is always SIGKILL.
        seconds: After the start; None: at a call to the system.
        call: The how manieth call that changes a name (`RENAMING`), from 1.
        is_after: Whether that call is done before.
    """

    signal: str = "SIGKILL"
    seconds: float | None = None
    call: int | None = None
    is_after: bool = False


@dataclass(frozen=True)
class Ended:
    """How a call ended; `code` is negative for a signal, None if it had to be killed.

    `n_calls` counts the calls that changed names, if it ended by itself.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    peak_mib: int
    n_calls: int = 0

    @property
    def is_told(self) -> bool:
        """Whether it ended well, or with a short message that says what to do."""
        if self.code == 0:
            return "Traceback" not in self.err
        return (
            self.code == 1
            and "Traceback" not in self.err
            and "error: " in self.err
            and len(self.err) < 4000
            and "; " in self.err
        )


class ForkedCli:
    """A server that forks for each call of the command line."""

    def __enter__(self) -> Self:
        command = [sys.executable, str(Path(__file__).resolve())]
        paths = os.pathsep.join(path for path in sys.path if path)
        env = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        try:
            self._server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def __call__(
        self,
        *args: str,
        folder: Path,
        timeout: float = 60,
        memory_gib: float | None = None,
        kill: Kill | None = None,
    ) -> Ended:
        """Call the command line.

        Args:
            args: Of the command.
            folder: Empty or missing, for what it prints.
            timeout: Seconds after which it is killed.
            memory_gib: Address space that it may take beyond what imports have.
            kill: When it is killed; None: it is not.
        """
        folder.mkdir(parents=True, exist_ok=True)
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        asked = {
            "args": args,
            "folder": str(folder),
            "timeout": timeout,
            "memory": memory_gib,
            "kill": None if kill is None else asdict(kill),
        }
        print(json.dumps(asked), file=self._server.stdin, flush=True)
        told = json.loads(self._server.stdout.readline())
        out, err = ((folder / name).read_text(errors="replace") for name in ("out", "err"))
        counted = folder / "calls"
        n_calls = int(counted.read_text()) if counted.exists() else 0
        return Ended(told["code"], out, err, told["seconds"], told["peak_mib"], n_calls)


def _serve() -> None:
    import importlib

    for name in IMPORTS:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            _answer(asked)
        code, peak = _wait(child, began=began, asked=asked)
        seconds = round(time.monotonic() - began, 3)
        told = {"code": code, "seconds": seconds, "peak_mib": peak}
        print(json.dumps(told), file=answers, flush=True)


def _answer(asked: dict[str, Any]) -> None:
    """Be the command; never return."""
    code = 70
    counted = [0]
    try:
        for number, name in ((1, "out"), (2, "err")):
            file = os.open(Path(asked["folder"]) / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
            os.dup2(file, number)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        if asked["memory"] is not None:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            limit = used + int(asked["memory"] * 2**30)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        _count_calls(counted, asked["kill"])
        sys.argv = ["mql4grec", *asked["args"]]
        from mql4grec.__main__ import main

        main()
        code = 0
    except SystemExit as err:
        code = err.code if isinstance(err.code, int) else int(err.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        (Path(asked["folder"]) / "calls").write_text(str(counted[0]))
        os._exit(code)


def _count_calls(counted: list[int], kill: dict[str, Any] | None) -> None:
    """Count the calls that change names, and kill this process at the one that is wanted."""
    wanted = None if kill is None else kill["call"]

    def watched(call: Callable[..., None]) -> Callable[..., None]:
        def counting(*args: Any, **options: Any) -> None:
            counted[0] += 1
            is_it = counted[0] == wanted
            if kill is not None and is_it and not kill["is_after"]:
                os.kill(os.getpid(), signal.SIGKILL)
            call(*args, **options)
            if is_it:
                os.kill(os.getpid(), signal.SIGKILL)

        return counting

    for name in RENAMING:  # `pathlib` and `shutil` look them up when they call them
        setattr(os, name, watched(getattr(os, name)))


def _wait(child: int, *, began: float, asked: dict[str, Any]) -> tuple[int | None, int]:
    until = began + asked["timeout"]
    kill = asked["kill"] or {"seconds": None}
    kill_at = None if kill["seconds"] is None else began + kill["seconds"]
    is_late = False
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            code = None if is_late else os.waitstatus_to_exitcode(status)
            return code, usage.ru_maxrss // 1024
        if kill_at is not None and time.monotonic() > kill_at:
            os.kill(child, signal.Signals[kill["signal"]])
            kill_at = None
        if time.monotonic() > until and not is_late:
            os.kill(child, signal.SIGKILL)
            is_late = True
        time.sleep(0.002)


if __name__ == "__main__":
    _serve()
