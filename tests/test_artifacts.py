"""Files of a run: never half-written, stamps that tell what is done."""

import json
from pathlib import Path

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
    assert artifacts.read_stamp(folder) == {"fingerprint": "x", "done": True, "seconds": 1.5}
    artifacts.open_stage(folder, "y")
    assert [path.name for path in folder.iterdir()] == [artifacts.STAMP]
    assert artifacts.read_stamp(folder) == {"fingerprint": "y", "done": False, "seconds": 0}


def test_what_a_killed_call_was_writing_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    (folder / ".half").mkdir(parents=True)
    (folder / ".stamp.1.json").write_text("{")
    artifacts.open_stage(folder, "x")
    (folder / "kept").write_text("")
    (folder / ".kept.2").write_text("")
    artifacts.open_stage(folder, "x")
    assert {path.name for path in folder.iterdir()} == {artifacts.STAMP, "kept"}


def test_a_folder_that_no_run_made_is_never_emptied(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("dear")
    with pytest.raises(ArtifactError, match="choose another `run_dir`"):
        artifacts.open_stage(tmp_path, "x")
    assert (tmp_path / "mine.txt").read_text() == "dear"


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
