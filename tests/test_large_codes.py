"""Codes of a catalog of any size from files alone: by call, by command, after a kill."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from large_catalogs import (
    RUNTIME,
    fault,
    make_network,
    make_vectors,
    one_thread,
    save_network,
    write_npy,
    write_shards,
)
from mql4grec import artifacts, codes, embeddings, translator
from mql4grec.cli import app
from mql4grec.config import CodesSettings
from mql4grec.embeddings import Embeddings
from mql4grec.errors import ArtifactError, CollisionError, ConfigError
from mql4grec.runtime import SILENT
from mql4grec.stages.large import Files, generate_from_files, read_lines


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def generate(
    tmp_path: Path, source: Path, *, settings: CodesSettings | None = None, **changes: Any
) -> bool:
    files = Files(source, tmp_path / "network", tmp_path / "out", **changes)
    return generate_from_files(files, settings or CodesSettings(), runtime=RUNTIME, journal=SILENT)


def test_codes_of_a_numpy_file_and_of_shards(tmp_path: Path) -> None:
    network = make_network()
    save_network(tmp_path / "network", network)
    vectors = make_vectors(300)
    vectors[100:160] = vectors[:60]
    source = write_npy(tmp_path / "shop.npy", vectors)
    assert generate(tmp_path, source)
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "shop.index_lemb.json", "shop.index_lemb.parquet", "shop.text.json", "source.json",
        "stamp.json",
    ]  # fmt: skip
    shop = Embeddings("shop", "text", "encoder", vectors, np.ones(300, np.bool_))
    ids, report = codes.assign(translator.translate(network, shop, runtime=RUNTIME))
    found = codes.read_shards(out / "shop.index_lemb.parquet").ids
    np.testing.assert_array_equal(found.codes, ids.codes)
    assert len(np.unique(found.codes, axis=0)) == 300
    facts = json.loads((out / "shop.text.json").read_text())
    assert facts["n_moved"] == report.n_moved > 0
    assert facts["quantisation_error"] == report.quantisation_error
    assert not generate(tmp_path, source)
    shards = write_shards(tmp_path / "shop", vectors, ends=(100, 200))
    assert generate(tmp_path, shards)
    again = codes.read_shards(out / "shop.index_lemb.parquet").ids
    np.testing.assert_array_equal(again.codes, ids.codes)


def test_precision_is_a_setting(tmp_path: Path) -> None:
    network = make_network()
    save_network(tmp_path / "network", network)
    vectors = make_vectors(300)
    source = write_npy(tmp_path / "shop.npy", vectors)
    shop = Embeddings("shop", "text", "encoder", vectors, np.ones(300, np.bool_))
    errors = set()
    for precision in ("fp32", "bf16"):
        settings = CodesSettings.model_validate({"precision": precision})
        assert generate(tmp_path, source, settings=settings)  # nothing of the other is used
        expected = translator.translate(network, shop, runtime=RUNTIME, precision=precision)
        found = codes.read_shards(tmp_path / "out" / "shop.index_lemb.parquet").ids
        np.testing.assert_array_equal(found.codes, codes.assign(expected)[0].codes)
        facts = json.loads((tmp_path / "out" / "shop.text.json").read_text())
        errors.add(facts["quantisation_error"])
    assert len(errors) == 2


def test_large_catalogs_get_no_json(tmp_path: Path) -> None:
    save_network(tmp_path / "network", make_network())
    source = write_npy(tmp_path / "shop.npy", make_vectors(30))
    settings = CodesSettings(json_max_items=29)
    assert generate(tmp_path, source, settings=settings, modality="image")
    assert (tmp_path / "out" / "shop.index_vitemb.parquet").is_dir()
    assert not list((tmp_path / "out").glob("*.index_*.json"))
    assert not generate(
        tmp_path,
        source,
        settings=settings.model_copy(update={"max_memory_gib": 2.0}),  # makes no difference
        modality="image",
    )


def test_item_ids_are_written_beside_the_codes(tmp_path: Path) -> None:
    save_network(tmp_path / "network", make_network())
    vectors = make_vectors(30)
    source = write_npy(tmp_path / "shop.npy", vectors)
    names = [f"item é {number}" for number in range(30)]
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(names), encoding="utf-8")
    assert generate(tmp_path, source, item_ids=ids)
    found = codes.read_shards(tmp_path / "out" / "shop.index_lemb.parquet")
    assert found.item_ids is not None
    assert found.item_ids.to_list() == names


@pytest.mark.parametrize("content", ["a\nb\nc\n", "a\nb\nc", "a\r\nb\r\nc\r\n"])
@pytest.mark.parametrize("bytes_at_once", [1, 2, 100])
def test_lines_are_read_without_holding_them(
    tmp_path: Path, content: str, bytes_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mql4grec.stages.large.BYTES_AT_ONCE", bytes_at_once)
    path = tmp_path / "ids.txt"
    path.write_bytes(content.encode())
    lines = read_lines(path, n_rows=3)
    assert (len(lines), [lines[row] for row in range(3)]) == (3, ["a", "b", "c"])


def test_faults_of_item_ids(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    assert fault(lambda: read_lines(path, n_rows=3)) == (
        f"`{path}`: expected item ids, got no such file; correct the path"
    )
    for content, n_lines in ((b"a\nb", 2), (b"", 0), (b"a\n\n\nb\n", 4)):
        path.write_bytes(content)
        assert fault(lambda: read_lines(path, n_rows=3)) == (
            f"`{path}`: expected 3 lines, an item id for every row of the embeddings, got {n_lines}"
        )
    path.write_bytes(b"a\n\xff\nc")
    assert fault(lambda: read_lines(path, n_rows=3)[1]) == (
        "item ids, line 2: expected UTF-8, got b'\\xff'; convert the file"
    )


def test_vectors_of_another_width(tmp_path: Path) -> None:
    save_network(tmp_path / "network", make_network())
    source = write_npy(tmp_path / "shop.npy", make_vectors(30, width=5))
    assert fault(lambda: generate(tmp_path, source)) == (
        f"`{source}`: expected vectors of width 12, on which `{tmp_path}/network` was trained, got "
        "5; use embeddings of the same encoder"
    )
    assert not (tmp_path / "out").exists()


def test_more_items_than_semantic_ids_are_told_before_anything_is_done(tmp_path: Path) -> None:
    network = make_network(num_emb_list=(2, 4), sk_epsilons=(0.0, 0.0))
    save_network(tmp_path / "network", network)
    source = write_npy(tmp_path / "shop.npy", make_vectors(9))
    message = (
        f"`{source}`: expected at most 8 items for 2 levels of (2, 4) codes, got 9, 1 too many; "
        "add a level or codes to `translator.num_emb_list`"
    )
    with pytest.raises(CollisionError, match=f"^{re.escape(message)}$"):
        generate(tmp_path, source)
    assert not (tmp_path / "out").exists()


def test_too_little_memory_is_told_before_anything_is_done(tmp_path: Path) -> None:
    save_network(tmp_path / "network", make_network())
    source = write_npy(tmp_path / "shop.npy", make_vectors(30))
    message = (
        "`codes.max_memory_gib`: expected at least 0.50 for 30 items, got 0.4; raise it, or leave "
        "it out for 1 GiB and 24 bytes per item"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        generate(tmp_path, source, settings=CodesSettings(max_memory_gib=0.4))
    assert not (tmp_path / "out").exists()
    assert generate(tmp_path, source, settings=CodesSettings(max_memory_gib=0.6))


def test_a_folder_of_the_users_is_left_alone(tmp_path: Path) -> None:
    save_network(tmp_path / "network", make_network())
    source = write_npy(tmp_path / "shop.npy", make_vectors(30))
    out = tmp_path / "out"
    out.mkdir()
    (out / ".hidden").write_text("mine")
    expected = (
        f"`{out}`: expected an empty folder or one that `generate-codes --embeddings` made, got 1 "
        "other files, the first '.hidden'; choose another `--out`"
    )
    for stamp in (None, '{"fingerprint": "a stage of a run", "done": true, "seconds": 0}'):
        if stamp is not None:
            (out / "stamp.json").write_text(stamp)
        with pytest.raises(ArtifactError, match=re.escape(expected)):
            generate(tmp_path, source)
        assert (out / ".hidden").read_text() == "mine"
    source.rename(tmp_path / "other.npy")
    (out / ".hidden").unlink()
    (out / "stamp.json").unlink()
    assert generate(tmp_path, tmp_path / "other.npy")
    (tmp_path / "other.npy").rename(source)
    assert generate(tmp_path, source)  # its own folder is made anew
    assert not list(out.glob("other*"))
    (tmp_path / "network" / "file").write_text("")
    with pytest.raises(ArtifactError, match="expected a folder, got a file; choose another"):
        generate_from_files(
            Files(source, tmp_path / "network", tmp_path / "network" / "file"),
            CodesSettings(),
            runtime=RUNTIME,
            journal=SILENT,
        )


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["generate-codes", *map(str, arguments)])


def options(tmp_path: Path, source: Path) -> list[object]:
    return ["--embeddings", source, "--translator", tmp_path / "network", "--out", tmp_path / "out"]


def test_command_line(tmp_path: Path) -> None:
    save_network(tmp_path / "network", make_network())
    source = write_npy(tmp_path / "shop.npy", make_vectors(100))
    chosen = ("--set", "runtime.n_threads=1", "--set", "codes.policy=nearest")
    result = call(*options(tmp_path, source), *chosen)
    assert result.exit_code == 0, result.exception
    assert "collisions, before and after" in result.output
    assert "fill of the tree" in result.output
    assert "\u2026" not in result.output  # at 80 columns nothing is cut off
    assert "done now: nothing" not in result.output
    events = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    assert [json.loads(event)["event"] for event in events] == ["codes.assigned"]
    assert (
        "done now: nothing, all codes were there"
        in call(*options(tmp_path, source), *chosen).output
    )


def test_command_line_extends_an_index(tmp_path: Path) -> None:
    save_network(tmp_path / "network", make_network())
    vectors = make_vectors(120)
    source = write_npy(tmp_path / "shop.npy", vectors[:80])
    assert generate(tmp_path, source)
    old = (tmp_path / "out").rename(tmp_path / "old") / "shop.index_lemb.parquet"
    write_npy(source, vectors)
    result = call(*options(tmp_path, source), "--extend", old, "-s", "runtime.n_threads=1")
    assert result.exit_code == 0, result.exception
    found = codes.read_shards(tmp_path / "out" / "shop.index_lemb.parquet").ids.codes
    np.testing.assert_array_equal(found[:80], codes.read_shards(old).ids.codes)
    assert len(np.unique(found, axis=0)) == 120
    result = call(*options(tmp_path, source), "--extend", old, "--modality", "image")
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == (
        "`codes.extend`: expected at most one index of image codes with `--embeddings`, got "
        f"['{old}']"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--embeddings", "x.npy"],
            "`generate-codes`: expected `--embeddings`, `--translator` and `--out` together, got "
            "no `--translator` and no `--out`; give all three, or none for the codes of a run",
        ),
        (
            ["--item-ids", "x.txt", "--out", "x", "--translator", "y"],
            "`generate-codes`: expected `--embeddings`, `--translator` and `--out` together, got "
            "no `--embeddings`; give all three, or none for the codes of a run",
        ),
        (
            ["--embeddings", "x", "--out", "x", "--translator", "y", "--modality", "sound"],
            "`--modality`: expected one of ['text', 'image'], got 'sound'",
        ),
    ],
)
def test_command_line_refuses(arguments: list[str], message: str) -> None:
    result = call(*arguments)
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == message


NOTING = """
from mql4grec import cli
from mql4grec.translator import translation
translation.BLOCKS_PER_NOTE = 1
cli.main()
"""


def test_a_call_killed_at_its_first_file_goes_on(tmp_path: Path) -> None:
    """The campaign of kills found it: a stamp and a lock were taken for somebody else's files."""
    save_network(tmp_path / "network", make_network())
    source = write_npy(tmp_path / "shop.npy", make_vectors(30))
    artifacts.open_stage(tmp_path / "out", "killed")
    (tmp_path / "out" / ".mql4grec.lock").write_text("")
    (tmp_path / "out" / ".mql4grec.7.source.json").write_text("{")
    assert generate(tmp_path, source)
    assert not list((tmp_path / "out").glob(".mql4grec*"))


def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    """Killed after its first note it leaves no index; called again it ends like any other."""
    network = make_network(in_dim=4, layers=(), num_emb_list=(64, 256, 256))
    save_network(tmp_path / "network", network)
    rng = np.random.default_rng(0)
    source = write_npy(tmp_path / "shop.npy", rng.standard_normal((150_000, 4), np.float32))
    command = [sys.executable, "-c", NOTING, "generate-codes", "-q", "-s", "runtime.n_threads=1"]
    command += ["-s", "codes.json_max_items=0", *map(str, options(tmp_path, source))]
    out = tmp_path / "out"
    note = out / "work" / "progress.json"
    process = subprocess.Popen(command)
    while not note.exists() or not json.loads(note.read_text())["done"]["n_blocks"]:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert note.exists()
    assert not json.loads((out / "stamp.json").read_text())["done"]
    assert not (out / "shop.text.json").exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert not note.parent.exists()
    found = codes.read_shards(out / "shop.index_lemb.parquet").ids
    given = embeddings.open_given(source, dataset="shop", modality="text")
    ids, _ = codes.assign(translator.translate(network, given, runtime=RUNTIME))
    np.testing.assert_array_equal(found.codes, ids.codes)
