"""A run's folder: nothing of anybody else's is touched, one call writes, reading needs no right."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import tiny
from forked_cli import ForkedCli
from mql4grec import artifacts, config, pipeline, seeds, serving
from mql4grec.errors import ArtifactError
from mql4grec.runtime import SILENT
from mql4grec.stages.folder import HEADER

FAST = (
    "embeddings.image.kind=none",
    "recommender.finetune.tasks=[seqrec]",
    "recommender.finetune.epochs=1",
    "translator.epochs=2",
    "sasrec.epochs=1",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    pipeline.run(tiny.settings(folder, *FAST), journal=SILENT)
    return folder


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Tell of every file and folder what a write would change."""
    return {
        str(path.relative_to(folder)): (
            (state := path.lstat()).st_mtime_ns,
            state.st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in (folder, *folder.rglob("*"))
    }


@pytest.mark.parametrize(
    "name",
    [
        "catalog/Demo/mine.csv", "catalog/Demo/.git/HEAD", "codes/.env", "report/index.html",
        "embeddings/Demo/text/x.npy", "translator/text/a", "quality/b", "evaluation/c",
        "recommender/finetune/d", "decoding/e", "catalog", "report", "config.yaml", "log.jsonl",
    ],
)  # fmt: skip
def test_a_project_with_such_a_file_is_refused_untouched(tmp_path: Path, name: str) -> None:
    project = tmp_path / "project"
    for path in (name, ".git/HEAD", ".env", "notes/.venv/a"):
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text("# dear\n")
    before = snapshot(project)
    with pytest.raises(ArtifactError, match="choose another `run_dir`"):
        pipeline.run(tiny.settings(project), journal=SILENT)
    assert snapshot(project) == before


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("dear")
    with pytest.raises(ArtifactError, match="expected a folder or nothing, got a file"):
        pipeline.run(tiny.settings(tmp_path / "run"), journal=SILENT)
    assert (tmp_path / "run").read_text() == "dear"


def test_other_files_of_a_project_stay(tmp_path: Path) -> None:
    """Where nothing of the run's would lie on theirs, a run may live in a project's folder."""
    theirs = [tmp_path / name for name in (".git/HEAD", ".env", "shop.csv", "src/.venv/a")]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("dear")
    for override in ("catalog.k_core=2", "catalog.k_core=3"):  # the second empties the stages
        settings = tiny.settings(tmp_path, *FAST, override)
        pipeline.run(settings, journal=SILENT, until="embed")
    assert [path.read_text() for path in theirs] == ["dear"] * 4


def test_a_run_of_an_earlier_version_is_ours(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    settings = tiny.settings(folder, *FAST)
    (folder / "config.yaml").write_text(config.dump(settings))  # without a header
    settings = tiny.settings(folder, *FAST, "report.n_users=1")
    assert pipeline.run(settings, journal=SILENT) == ["report"]
    assert (folder / "config.yaml").read_text() == HEADER + config.dump(settings)


def test_a_finished_run_is_read_without_a_single_write(finished: Path) -> None:
    """So it answers from a folder that is read-only."""
    before = snapshot(finished)
    settings = tiny.settings(finished, *FAST)
    assert pipeline.run(settings, journal=SILENT) == []
    assert pipeline.run(settings, journal=SILENT, only="evaluate") == []
    run = serving.open_run(settings)
    (found,) = serving.recommend(run, [list(run.shop.item_ids[:3])], top_k=4)
    assert len(found.item_ids) == 4
    assert snapshot(finished) == before


HOLDER = """
import sys, time
from pathlib import Path
from mql4grec import artifacts
with artifacts.sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def held(finished: Path) -> Iterator[tuple[Path, int]]:
    """A run that another process is writing."""
    command = [sys.executable, "-c", HOLDER, str(finished)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield finished, holder.pid
        holder.kill()


def test_a_second_call_says_who_writes_and_reading_goes_on(held: tuple[Path, int]) -> None:
    folder, pid = held
    settings = tiny.settings(folder, *FAST, "report.n_users=1")
    with pytest.raises(ArtifactError, match=f"got process {pid} on '.*' since 20"):
        pipeline.run(settings, journal=SILENT)
    with pytest.raises(ArtifactError, match=f"got process {pid} on "):
        seeds.run(settings, n_seeds=2, journal_of=lambda _: SILENT)
    assert not (folder / "seeds").exists()
    serving.open_run(tiny.settings(folder, *FAST))


def test_a_seeds_file_of_somebody_else_is_refused(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "seeds.json").write_text('{"pumpkin": 3}')
    with pytest.raises(ArtifactError, match=r"seeds\.json"):
        seeds.run(tiny.settings(folder, *FAST), n_seeds=2, journal_of=lambda _: SILENT)
    assert (folder / "seeds.json").read_text() == '{"pumpkin": 3}'
    assert not (folder / "seeds").exists()


LAUNCHER = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", '''
import time
from mql4grec import runtime
runtime.end_with_launcher()
print("ready", flush=True)
time.sleep(120)
'''])
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
def test_a_worker_ends_with_its_launcher() -> None:
    command = [sys.executable, "-c", LAUNCHER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        told = {launcher.stdout.readline().strip(), launcher.stdout.readline().strip()}
        (pid,) = (int(line) for line in told if line != "ready")
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
        deadline = time.monotonic() + 20
        while Path(f"/proc/{pid}/stat").exists() and not _is_zombie(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(scope="module")
def cli() -> Iterator[ForkedCli]:
    with ForkedCli() as cli:
        yield cli


@pytest.mark.slow
@pytest.mark.parametrize("kib", [100, 220, 400, 700, 1000, 1300])
def test_a_full_disk_is_one_message_and_the_run_goes_on(
    small_disk: Path, tmp_path: Path, cli: ForkedCli, kib: int
) -> None:
    """It was a SIGBUS without a word in `embed`, and tracebacks elsewhere."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2048 * 1024 - kib * 1024))
    folder = small_disk / "run"
    options = tiny.as_options(tiny.overrides(folder, *FAST))
    ended = cli("run", "--quiet", *options, folder=tmp_path / "said", timeout=120)
    assert ended.is_told, ended
    assert ended.code == 1, ended
    assert "free some" in ended.err
    halves = [path for path in folder.rglob(".mql4grec.*") if path.name != ".mql4grec.lock"]
    assert halves == []
    ballast.unlink()
    mount = ["mount", "-o", "remount,size=64m", str(small_disk)]
    subprocess.run(mount, check=True)
    ended = cli("run", "--quiet", *options, folder=tmp_path / "again", timeout=120)
    assert ended.code == 0, ended
    assert artifacts.read_stamp(folder / "report") is not None
