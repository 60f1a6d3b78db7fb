"""Files of a run: never half-written, stamps that tell what is done."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mql4grec import artifacts
from mql4grec.errors import ArtifactError
from mql4grec.runtime import Journal


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    artifacts.write_json(path, {"old": 1})

    def write_half() -> None:
        with artifacts.atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert artifacts.read_json(path, made_by="run") == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_messages_name_path_and_command(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(ArtifactError) as caught:
        artifacts.read_json(path, made_by="embed")
    assert str(caught.value) == f"`{path}`: no such file; `mql4grec embed` makes it"
    path.write_text("{")
    with pytest.raises(ArtifactError, match=r"expected JSON.*run `mql4grec embed` again"):
        artifacts.read_json(path, made_by="embed")


def test_fingerprints_do_not_depend_on_the_order_of_keys() -> None:
    assert artifacts.fingerprint({"a": 1, "b": 2}) == artifacts.fingerprint({"b": 2, "a": 1})
    assert artifacts.fingerprint({"a": 1}) != artifacts.fingerprint({"a": 2})


def test_a_stage_keeps_its_files_until_its_fingerprint_changes(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    artifacts.open_stage(folder, "x")
    (folder / "deep").mkdir()
    (folder / "deep" / "checkpoint").write_text("half way")
    artifacts.open_stage(folder, "x")
    assert (folder / "deep" / "checkpoint").exists()
    artifacts.close_stage(folder, "x", seconds=1.5)
    stamp = json.loads((folder / artifacts.STAMP).read_text())
    files = stamp.pop("files")
    assert stamp == {"fingerprint": "x", "done": True, "seconds": 1.5}
    assert {name: size for name, (size, _) in files.items()} == {"deep/checkpoint": 8}
    artifacts.open_stage(folder, "y")
    assert [path.name for path in folder.iterdir()] == [artifacts.STAMP]
    assert artifacts.read_stamp(folder) == {"fingerprint": "y", "done": False, "seconds": 0}


def test_what_a_killed_call_was_writing_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    (folder / ".mql4grec.7.half").mkdir(parents=True)
    (folder / ".mql4grec.7.stamp.json").write_text("{")
    artifacts.open_stage(folder, "x")
    (folder / "kept").write_text("")
    (folder / "kept.d" / ".mql4grec.8.work").mkdir(parents=True)
    (folder / ".mql4grec.8.kept").write_text("")
    artifacts.open_stage(folder, "x")
    assert {path.name for path in folder.rglob("*")} == {artifacts.STAMP, "kept", "kept.d"}


@pytest.mark.parametrize("mark", ["x", "y"])
def test_hidden_names_that_are_not_ours_stay(tmp_path: Path, mark: str) -> None:
    """A run in the folder of a project once removed `.git` and `.env` there."""
    artifacts.open_stage(tmp_path, "x")
    theirs = [tmp_path / ".git" / "HEAD", tmp_path / ".env", tmp_path / ".mql4grec.toml"]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("dear")
    artifacts.open_stage(tmp_path, mark)
    artifacts.close_stage(tmp_path, mark, seconds=1)
    assert [path.read_text() for path in theirs] == ["dear"] * 3
    stamp = artifacts.read_stamp(tmp_path)
    assert stamp is not None
    assert stamp["files"] == {}


def test_a_folder_that_no_run_made_is_never_emptied(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("dear")
    (tmp_path / ".env").write_text("dear")
    with pytest.raises(ArtifactError, match="choose another `run_dir`"):
        artifacts.open_stage(tmp_path, "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".env", "mine.txt"]


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", '{"fingerprint": 1, "done": true}', "\0"])
def test_a_stamp_of_somebody_else_or_a_damaged_one_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / artifacts.STAMP).write_text(text)
    with pytest.raises(ArtifactError, match="expected the stamp of a finished or begun stage"):
        artifacts.read_stamp(tmp_path)
    with pytest.raises(ArtifactError):
        artifacts.open_stage(tmp_path, "x")
    assert (tmp_path / artifacts.STAMP).read_text() == text


def finished_stage(folder: Path) -> Path:
    artifacts.open_stage(folder, "x")
    (folder / "inner").mkdir()
    np.save(folder / "inner" / "a.npy", np.arange(1000))
    np.savez(folder / "b.npz", b=np.arange(1000))
    artifacts.write_json(folder / "c.json", {"c": list(range(50))})
    artifacts.close_stage(folder, "x", seconds=1)
    return folder


READERS: dict[str, Callable[[Path], object]] = {
    "inner/a.npy": lambda path: artifacts.load_array(path, made_by="embed"),
    "b.npz": lambda path: artifacts.load_arrays(path, "b", made_by="embed"),
    "c.json": lambda path: artifacts.read_json(path, made_by="embed"),
}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "one byte": lambda content: content[:1],
    "a bit": lambda content: content[:-9] + bytes([content[-9] ^ 64]) + content[-8:],
    "other": lambda content: b"{}",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("is_stamped", [True, False])
def test_damaged_files_are_told_with_their_command(
    tmp_path: Path, name: str, damage: str, is_stamped: bool
) -> None:
    """Of a finished stage every bit counts; before that, and of earlier versions, the format."""
    path = finished_stage(tmp_path / "stage") / name
    assert READERS[name](path) is not None
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    if not is_stamped:
        (tmp_path / "stage" / artifacts.STAMP).unlink()
        if damage == "a bit" or (name, damage) == ("c.json", "other"):
            return  # nobody can know
    with pytest.raises(ArtifactError, match="`mql4grec embed`") as caught:
        READERS[name](path)
    assert str(caught.value).startswith(f"`{path}`: expected ")


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for read in READERS.values():
        with pytest.raises(ArtifactError, match="expected"):
            read(tmp_path / "a")


def test_arrays_of_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ArtifactError, match="pickle"):
        artifacts.load_array(tmp_path / "a.npy", made_by="embed")


def test_a_foreign_stamp_above_says_nothing_of_our_files(tmp_path: Path) -> None:
    (tmp_path / artifacts.STAMP).write_text('{"post": "office"}')
    artifacts.write_json(tmp_path / "a.json", 1)
    assert artifacts.read_json(tmp_path / "a.json", made_by="run") == 1


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_regular_files_are_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.json"
    (tmp_path / "other").write_text("dear")
    {"link": lambda: path.symlink_to("other"), "pipe": lambda: os.mkfifo(path),
     "folder": path.mkdir}[kind]()  # fmt: skip
    with pytest.raises(ArtifactError, match=f"expected a regular file to replace.*a {kind}"):
        artifacts.write_json(path, 1)
    assert (tmp_path / "other").read_text() == "dear"
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", "other"}


def test_a_folder_is_removed_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill during a removal once left a note of arrays that were gone."""
    stage = tmp_path / "stage"
    artifacts.open_stage(stage, "x")
    (stage / "work").mkdir()
    (stage / "work" / "codes.npy").write_text("")

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        artifacts.remove(stage / "work")
    assert not (stage / "work").exists()
    monkeypatch.undo()
    artifacts.open_stage(stage, "x")
    assert [path.name for path in stage.iterdir()] == [artifacts.STAMP]


def test_room_on_the_disk_is_kept_before_a_map_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = artifacts.new_array(tmp_path / "a.npy", shape=(1000, 1000), dtype=np.float32)
    assert array.sum() == 0
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 4_000_000

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(ArtifactError, match=r"expected room for 4,000,\d+ bytes.*are missing"):
        artifacts.new_array(tmp_path / "b.npy", shape=(1000, 1000), dtype=np.float32)
    assert not (tmp_path / "b.npy").exists()


def test_a_full_disk_is_told_by_whoever_writes(tmp_path: Path) -> None:
    def write() -> None:
        with artifacts.atomic_path(tmp_path / "a.parquet"):
            raise RuntimeError("Io error: No space left on device (os error 28)")

    with pytest.raises(ArtifactError, match="expected room on the disk"):
        write()
    assert list(tmp_path.iterdir()) == []


HOLDER = """
import sys, time
from pathlib import Path
from mql4grec import artifacts
with artifacts.sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_writes_at_a_time_and_the_other_says_who(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ArtifactError, match=rf"process {holder.pid} on '.*' since 20\d\d-"),
            artifacts.sole_writer(tmp_path),
        ):
            pass
        holder.kill()
    with artifacts.sole_writer(tmp_path):  # the lock ends with its process
        pass


FORKED = """
import os, sys, time
from pathlib import Path
from mql4grec import artifacts
with artifacts.sole_writer(Path(sys.argv[1])):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        os.close(1)
    time.sleep(60)
"""


def test_a_lock_does_not_outlive_its_process_in_a_forked_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            holder.kill()
            holder.wait()
            with artifacts.sole_writer(tmp_path):
                os.kill(child, 0)  # it is still there
        finally:
            os.kill(child, signal.SIGKILL)


def test_the_journal_writes_lines_of_json(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "log.jsonl", tensorboard=tmp_path / "board")
    journal.log("a.b", step=1, loss=0.5, name="x")
    journal.log("c.d", n=2)
    lines = [json.loads(line) for line in (tmp_path / "deep" / "log.jsonl").read_text().split("\n")
             if line]  # fmt: skip
    assert [(line["event"], line["step"]) for line in lines] == [("a.b", 1), ("c.d", None)]
    assert lines[0]["loss"] == 0.5
    assert list((tmp_path / "board").iterdir())


def test_a_silent_journal_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal = Journal()
    journal.log("a", step=1, b=2)
    with journal.track("work", total=3) as advance:
        advance(1)
    assert list(tmp_path.iterdir()) == []
