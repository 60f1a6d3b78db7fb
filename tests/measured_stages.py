"""Do the stages of runs one by one, each in a process of its own, and print what they took.

The libraries are loaded once, before the first: a process then tells what its stage adds to them.
"""

import json
import os
import sys
from pathlib import Path

import polars  # noqa: F401
import scipy.sparse
import torch  # noqa: F401
import transformers

from mql4grec import config, pipeline
from mql4grec.runtime import SILENT

LOADED = (scipy.sparse.csr_array, transformers.T5ForConditionalGeneration)


def peak(name: str) -> int:
    """Give a line of this process's status in bytes, such as "VmHWM"."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(found) * 1024


def measure(overrides: list[str]) -> None:
    settings = config.load(config.demo_config(), overrides=overrides)
    for item in pipeline.inspect(settings):
        child = os.fork()
        if child == 0:
            before = peak("VmRSS")
            pipeline._do(item, pipeline.context_of(settings, journal=SILENT))
            place = settings.folder / item.stage.place
            disk = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
            found = {"memory": peak("VmHWM") - before, "base": before, "disk": disk}
            print(json.dumps({"run": settings.name, "stage": item.stage.name, **found}), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{item.stage.name} ended")


if __name__ == "__main__":
    for values in json.loads(sys.argv[1]):
        measure(values)
