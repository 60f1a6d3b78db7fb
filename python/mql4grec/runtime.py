"""What a run assumes about the machine: device, precision, seed; and how it tells of its progress.

Torch is imported only when asked for a device, so that the command line starts fast.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mql4grec.config import RuntimeSettings
from mql4grec.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from rich.console import Console


PR_SET_PDEATHSIG = 1  # from linux/prctl.h


@dataclass(frozen=True)
class Runtime:
    """The machine as a stage sees it.

    Attributes:
        device: "cpu" or "cuda" (resolved, never "auto").
        precision: "fp32" or "bf16" (resolved).
        seed: Of this run; each stage seeds its own generators from it.
        n_workers: Data-loader processes that open pictures.
        checkpoint_seconds: The most time between two checkpoints.
    """

    device: str = "cpu"
    precision: str = "fp32"
    seed: int = 2025
    n_workers: int = 0
    checkpoint_seconds: float = 60.0

    @property
    def torch_device(self) -> torch.device:
        """Give the device as torch names it."""
        import torch

        return torch.device(self.device)


class Journal:
    """Where a run tells of itself: `log.jsonl`, TensorBoard, progress bars on a terminal.

    `Journal()` is silent, for use as a library.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        console: Console | None = None,
        tensorboard: Path | None = None,
    ) -> None:
        """Open a journal; nothing is written before the first `log`."""
        self._path = path
        self._console = console
        self._tensorboard = tensorboard
        self._writer: Any = None
        self._is_lost = False

    def log(self, event: str, /, *, step: int | None = None, **values: Any) -> None:
        """Append one line to `log.jsonl`; with `step`, numbers go to TensorBoard too.

        Args:
            event: What happened, as `room.thing`, e.g. "translator.epoch".
            step: The x axis: an epoch or an optimizer step.
            values: JSON values; of lists every number has a curve of its own.
        """
        record = {"time": round(time.time(), 3), "event": event, "step": step, **values}
        with self._unless_lost():
            self._append(json.dumps(record) + "\n")
            if self._tensorboard is not None and step is not None:
                self._write_scalars(event, step, values)

    def _append(self, line: str) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(line)

    @contextmanager
    def _unless_lost(self) -> Iterator[None]:
        """Let work go on without its journal where that cannot be written; once that is told."""
        try:
            yield
        except OSError as err:
            if not self._is_lost:
                self._is_lost = True
                told = err.strerror or err
                message = f"`{self._path}`: {told}; going on, lines of the journal are lost"
                if self._console is None:
                    warnings.warn(message, stacklevel=4)
                else:
                    self._console.print(message, markup=False, highlight=False)

    def say(self, message: str) -> None:
        """Print a line for the user, if there is a console."""
        if self._console is not None:
            self._console.print(message, markup=False, highlight=False)

    def _write_scalars(self, event: str, step: int, values: dict[str, Any]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._tensorboard))
        for name, value in values.items():
            parts = dict(enumerate(value)) if isinstance(value, list | tuple) else {"": value}
            for part, number in parts.items():
                if isinstance(number, int | float):
                    self._writer.add_scalar(f"{event}/{name}{part}", number, step)
        self._writer.flush()

    @contextmanager
    def track(
        self, description: str, *, total: int, done: int = 0
    ) -> Iterator[Callable[[int], None]]:
        """Show a progress bar with rate and time left; gives `advance(n)`.

        Args:
            description: What is being done, for the left side of the bar.
            total: Units of work in all.
            done: Units that an earlier, interrupted call has done.
        """
        if self._console is None:
            yield lambda n: None
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            Task,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class Rate(ProgressColumn):
            def render(self, task: Task) -> Text:
                speed = task.finished_speed or task.speed
                return Text("" if speed is None else f"{speed:,.1f}/s")

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            bar = progress.add_task(description, total=total, completed=done)
            yield lambda n: progress.advance(bar, n)


SILENT = Journal()


def start(settings: RuntimeSettings, *, seed: int) -> Runtime:
    """Resolve the settings on this machine, and seed torch.

    Raises:
        ConfigError: If a GPU is asked for and there is none.
    """
    import torch

    if settings.n_threads is not None:
        torch.set_num_threads(settings.n_threads)
    has_gpu = torch.cuda.is_available()
    if settings.device == "cuda" and not has_gpu:
        raise ConfigError("`runtime.device`: expected a CUDA device, got none; use `cpu` or `auto`")
    device = "cuda" if has_gpu and settings.device != "cpu" else "cpu"
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" else "fp32"
    torch.manual_seed(seed)
    if n_processes() > 1:
        end_with_launcher()
    return Runtime(
        device=device,
        precision=precision,
        seed=seed,
        n_workers=settings.n_workers,
        checkpoint_seconds=settings.checkpoint_seconds,
    )


def describe_machine(runtime: Runtime) -> str:
    """Describe the machine in one line: device, cores, memory, versions."""
    import torch
    import transformers

    device = "CPU"
    if runtime.device == "cuda":
        device = torch.cuda.get_device_name()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{device}, {os.cpu_count()} {platform.machine()} cores, {memory:.0f} GiB, "
        f"{runtime.precision}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )


def n_processes() -> int:
    """Give the number of processes that `accelerate launch` or `torchrun` started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def end_with_launcher() -> None:
    """Ask the kernel to kill this process when the one that started it ends, however that ends.

    A worker of a killed `torchrun` would go on writing. Linux only; elsewhere nothing happens.
    """
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def is_main_process() -> bool:
    """Tell whether this process is the one that writes files."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_everyone(*, cpu: bool) -> None:
    """Wait until all processes of the run are here; nothing to do for a single one.

    A stage that only the main process does may take days, so the wait has no practical limit.

    Args:
        cpu: The run uses no GPU; what the first call says holds for the whole run.
    """
    if n_processes() == 1:
        return
    from accelerate import PartialState

    PartialState(cpu=cpu, timeout=timedelta(days=30)).wait_for_everyone()


def leave_everyone() -> None:
    """Close the connection between the processes of a run, before they end."""
    if n_processes() == 1:
        return
    from accelerate import PartialState

    PartialState().destroy_process_group()
