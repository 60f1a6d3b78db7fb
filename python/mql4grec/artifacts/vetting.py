"""A Parquet file that nobody vouches for is tried in a process of its own first.

A crafted file can make the reader ask for more memory than there is, which ends the process. What
the trial costs is the start of a process, some half a second, and files up to `WHOLE` read twice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from mql4grec.errors import DataError, short_text

WHOLE = 64 << 20  # bytes; of larger files schema, number of rows, and both ends are read
BASE = 2 << 30  # address space of the reader itself
UNPACKED = (256 << 20, 100)  # what a file may unpack to: so much, or so many times its size
SECONDS = 60.0
SECONDS_PER_BYTE = 1e-7

TRIAL = """
import json, sys
memory, whole, *paths = sys.argv[1:]
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except (ImportError, ValueError, OSError):
    pass
import os
import polars as pl
for path in paths:
    print(json.dumps(path), flush=True)
    try:
        if os.path.getsize(path) <= int(whole):
            pl.read_parquet(path, glob=False)
            continue
        table = pl.scan_parquet(path, glob=False)
        table.collect_schema()
        table.select(pl.len()).collect()
        table.head(1).collect()
    except BaseException as err:
        first = (str(err).splitlines() or [""])[0]
        print(json.dumps([type(err).__name__, first[:200]]), flush=True)
        sys.exit(1)
"""


def vet_parquet(paths: Sequence[Path]) -> None:
    """Refuse Parquet files that cannot be read within bounds of memory and time; once a process.

    Raises:
        DataError: With the first such file and what became of the trial.
    """
    _try(tuple((str(path), (state := path.stat()).st_size, state.st_mtime_ns) for path in paths))


@lru_cache(maxsize=1024)
def _try(states: tuple[tuple[str, int, int], ...]) -> None:
    paths, sizes = [Path(path) for path, _, _ in states], [size for _, size, _ in states]
    memory = BASE + max(UNPACKED[0], UNPACKED[1] * min(max(sizes, default=0), WHOLE))
    command = [sys.executable, "-c", TRIAL, str(memory), str(WHOLE), *map(str, paths)]
    env = {**os.environ, "POLARS_MAX_THREADS": "1"}
    try:
        tried = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=env,
            timeout=SECONDS + SECONDS_PER_BYTE * sum(sizes),
        )
    except subprocess.TimeoutExpired as err:
        raise DataError(
            f"`{paths[0]}`: expected a Parquet file that is read in seconds, got one that took "
            f"{err.timeout:.0f}; write it again"
        ) from err
    if tried.returncode:
        raise _refusal(tried, paths)


def _refusal(tried: subprocess.CompletedProcess[str], paths: Sequence[Path]) -> DataError:
    told = [json.loads(line) for line in tried.stdout.splitlines()]
    path = next((line for line in reversed(told) if isinstance(line, str)), str(paths[0]))
    if told and isinstance(told[-1], list):
        kind, message = told[-1]
        found = short_text(message) or kind
    elif tried.returncode < 0:
        found = f"one that ends its reader by signal {-tried.returncode}, or needs too much memory"
    else:
        found = f"one that ends its reader with exit code {tried.returncode}"
    return DataError(f"`{path}`: expected a Parquet file, got {found}; write it again")
