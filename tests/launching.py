"""Two processes of a training, as `torchrun` starts them."""

import os
import subprocess
import sys
from pathlib import Path


def launch_two(script: Path, *arguments: str) -> None:
    """Run a script in two processes that find the tests' modules.

    On CPUs `accelerate launch` starts one process only; torchrun is its launcher there.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    paths = [str(Path(__file__).parent), *(path for path in sys.path if path)]
    done = subprocess.run(
        [*launcher, str(script), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
