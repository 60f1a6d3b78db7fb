"""A journal that cannot be written: work goes on, and that is told once."""

import errno
import json
from pathlib import Path

import pytest

from mql4grec.runtime import Journal


def test_work_goes_on_where_there_is_no_place_for_the_journal(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    journal = Journal(tmp_path / "file" / "run" / "log.jsonl")
    with pytest.warns(UserWarning, match=r"log\.jsonl`: Not a directory; going on"):
        journal.log("a.epoch", step=1)
    journal.log("a.epoch", step=2)  # a second warning would be an error


def test_work_goes_on_when_the_disk_is_full(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.symlink_to("/dev/full")
    with pytest.warns(UserWarning, match="No space left on device; going on, lines of the journal"):
        Journal(path).log("a.epoch", step=1)


def test_a_journal_is_written_again_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "log.jsonl")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.warns(UserWarning, match="Read-only file system"):
            journal.log("a.epoch", step=1)
    journal.log("a.epoch", step=2)
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 2


def test_a_value_that_is_no_json_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        Journal(tmp_path / "log.jsonl").log("a.epoch", value=object())
