"""A whole run touches nothing outside its own folder: not the home, not the project, not others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tiny

FAST = (
    "embeddings.image.kind=none",
    "recommender.finetune.tasks=[seqrec]",
    "recommender.finetune.epochs=1",
    "translator.epochs=2",
    "sasrec.epochs=1",
)
THEIRS = (
    "home/.ssh/key", "home/.cache/a", "home/mine.csv", "project/.git/HEAD", "project/.env",
    "project/config.yaml", "project/catalog/Demo/mine.csv",
)  # fmt: skip
WATCH = """
import json, os, sys
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate",
           "os.chmod", "os.chown", "os.utime", "shutil.rmtree", "shutil.move"}
TWO = {"os.rename", "os.link", "os.symlink", "shutil.move"}
log = os.open(os.environ["WATCH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

def hook(event, args):
    if event == "open":
        path, _, flags = args
        if isinstance(path, (str, bytes)) and isinstance(flags, int) and flags & WRITING:
            note(path)
    elif event in ("os.remove", "os.rmdir") and args[1] != -1:
        pass  # relative to a folder that is open: a part of shutil.rmtree, which is told itself
    elif event in CHANGES:
        for path in args[: 2 if event in TWO else 1]:
            if isinstance(path, (str, bytes, os.PathLike)):
                note(path)

def note(path):
    line = json.dumps(os.path.abspath(os.fsdecode(path))) + "\\n"
    os.write(log, line.encode())

sys.addaudithook(hook)
"""


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Tell of every file and folder what a write would change."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        state, content = path.lstat(), path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = (state.st_mtime_ns, state.st_mode, content)
    return found


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A home, a project to start in, a folder for temporary files, and a spy in each process."""
    for name in THEIRS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("dear")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "spy").mkdir()
    (tmp_path / "spy" / "sitecustomize.py").write_text(WATCH)
    return tmp_path


def call(world: Path, command: str, run_dir: Path) -> subprocess.CompletedProcess[str]:
    options = tiny.as_options(tiny.overrides(run_dir, *FAST))
    paths = [str(world / "spy"), *(path for path in sys.path if path)]
    theirs = ("XDG_", "TORCHINDUCTOR_")  # the second is set by torch, in whoever has compiled
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(theirs)},
        "HOME": str(world / "home"),
        "TMPDIR": str(world / "tmp"),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONDONTWRITEBYTECODE": "1",
        "WATCH_LOG": str(world / "watched"),
    }
    return subprocess.run(
        [sys.executable, "-m", "mql4grec", command, "--quiet", *options],
        cwd=world / "project",
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def watched(world: Path) -> set[Path]:
    lines = (world / "watched").read_text().splitlines()
    return {Path(json.loads(line)) for line in lines}


@pytest.mark.slow
def test_a_whole_run_writes_below_its_own_folder_only(world: Path) -> None:
    before = {name: snapshot(world / name) for name in ("home", "project")}
    done = call(world, "run", world / "runs" / "tiny")
    assert done.returncode == 0, done.stderr
    found = watched(world)
    assert world / "runs" / "tiny" / "catalog" / "Demo" / "stamp.json" in found  # the spy sees
    allowed = (world / "runs", world / "tmp", Path("/dev"), Path("/proc"))
    elsewhere = [path for path in found if not any(map(path.is_relative_to, allowed))]
    assert elsewhere == []
    assert {name: snapshot(world / name) for name in before} == before
    left = {path.name for path in (world / "tmp").iterdir()}
    assert {name for name in left if not name.startswith("torchinductor_")} == set()  # torch's own


def test_a_run_in_the_folder_of_a_project_leaves_all_of_it(world: Path) -> None:
    before = snapshot(world / "project")
    done = call(world, "prepare", Path())
    assert done.returncode == 1
    assert "choose another `run_dir`" in done.stderr
    assert snapshot(world / "project") == before
