"""Settings that are deep, huge, doubled or odd, and faults of the machine: each a short message."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny
from mql4grec import config
from mql4grec.cli.remedies import mendable
from mql4grec.errors import ConfigError, plain, short
from mql4grec.report import Recommendation, as_json
from mql4grec.report.markup import element, text

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
CASES = {
    "deep": ("[" * 5000, "more than 50 levels"),
    "deep blocks": ("\n".join(f"{' ' * n}a:" for n in range(500)), "more than 50 levels"),
    "digits": ("seed: " + "7" * 5000, "in line 1: a number of more than 100 digits"),
    "bomb": (BOMB, "in line [0-9]+: more than 10,000 values"),
    "merged bomb": (f"{BOMB}name: *a8\n", "more than 10,000 values"),
    "key twice": ("seed: 1\nname: a\nseed: 2\n", "in line 3: the key 'seed' twice"),
    "inner key twice": ("runtime: {n_threads: 1, n_threads: 2}", "the key 'n_threads' twice"),
    "tag": ("seed: !!python/object/apply:os.system [exit]", "in line 1: could not determine"),
    "nul": ("seed: 1\0", "special characters are not allowed"),
    "c1": ("name: a\u0085\u009bb", "special characters are not allowed"),
    "date": ("name: 2001-99-99", "in line 1: "),
    "list": ("[1, 2]", "expected a mapping of rooms, got list"),
    "key of a list": ("[1]: 2", "in line 1: "),
    "key of a number": ("1: 2", "keys should be strings, got 1"),
    "alias to itself": ("name: &a [*a]", "got"),
    "huge value": ("seed: " + "x" * 100_000, "expected|valid integer"),
    "huge number in hexadecimal": ("seed: 0x" + "f" * 900_000, "in line 1: a number of more than"),
    "huge number of base 60": ("seed: 1" + ":1" * 400_000, "in line 1: a number of more than"),
    "huge fraction of base 60": ("a: 1" + ":1" * 9000 + ".5", "in line 1: a number of more than"),
    "huge key": ('? "' + "x" * 900_000 + '"\n: 1', r"x\.\.\.`: unknown setting"),
    "nul in quotes": ('name: "a\\0b"', r"in line 1: a text that nothing can be named"),
    "half a pair": ('name: "\\ud800"', "in line 1: a text that nothing can be named"),
    "many values": ("seed: [" + "1," * 90_000 + "]", "more than 10,000 values"),
    "nothing": ("", "expected a mapping of rooms, got NoneType"),
    "large": ("#" * (2 << 20), "at most 1,048,576 bytes, got more"),
}


@pytest.mark.timeout(20)  # one of them took 15 seconds and another all stack
@pytest.mark.parametrize("name", CASES)
def test_hostile_settings_end_in_one_short_message(tmp_path: Path, name: str) -> None:
    content, expected = CASES[name]
    path = tmp_path / "shop.yaml"
    path.write_text(content, encoding="utf-8")
    began = time.monotonic()
    with pytest.raises(ConfigError, match=expected) as caught:
        config.load(path)
    assert str(caught.value).startswith(f"`{path}`: ")
    assert len(str(caught.value)) < 1000
    assert time.monotonic() - began < 5


def test_of_many_faults_the_first_are_told(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text("".join(f"key{n}: 1\n" for n in range(4000)))
    with pytest.raises(ConfigError, match="4001 wrong setting") as caught:
        config.load(path)
    assert str(caught.value).endswith("\n  and 3,951 more")
    assert len(str(caught.value)) < 20_000


@pytest.mark.parametrize("place", ["1" * 5000, "\u00b2", "-1", "01", "9"])
def test_odd_places_in_a_list_are_told(place: str) -> None:
    with pytest.raises(ConfigError, match="expected a number from 0 to 0, got"):
        config.load(config.demo_config(), overrides=[f"catalog.datasets.{place}.name=a"])


def test_merges_of_merges_are_no_keys_twice(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(
        "name: a\ncatalog: {datasets: [{name: Demo, format: demo}]}\n"
        "recommender: {pretrain: &b {<<: &a {lr: 1}, lr: 2}}\nsasrec: {<<: *b}\n"
    )
    found = config.load(path)
    assert found.recommender.pretrain.lr == found.sasrec.lr == 2


@pytest.mark.parametrize(
    "value", ["seed=" + "7" * 5000, "name=" + "[" * 5000, "seed=[" + "x" * 999]
)
def test_hostile_overrides_are_told_short(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(config.demo_config(), overrides=[value])
    assert len(str(caught.value)) < 600


def test_settings_that_are_not_utf8_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    with pytest.raises(ConfigError, match="No such file"):
        config.load(path)
    path.write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match="expected a YAML file, got 'utf-8' codec"):
        config.load(path)
    with pytest.raises(ConfigError, match=r"expected a YAML file, got .*Is a directory"):
        config.load(tmp_path)
    with pytest.raises(ConfigError, match="got more"):
        config.load(Path("/dev/zero"))


def test_anchors_of_honest_settings_are_read(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(
        "name: a\ncatalog: {datasets: [{name: Demo, format: demo}]}\n"
        "recommender: {pretrain: &t {lr: 0.001}, finetune: {<<: *t, epochs: 3}}\n"
    )
    found = config.load(path).recommender
    assert found.finetune.lr == found.pretrain.lr == 0.001
    assert found.finetune.epochs == 3


def test_faults_of_the_machine_say_what_to_do() -> None:
    for number in (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EMFILE, errno.ENAMETOOLONG):
        told = mendable(OSError(number, os.strerror(number), "/a/b"))
        assert told is not None
        assert told.startswith("`/a/b`: ")
        assert "; " in told
    assert "memory" in (mendable(MemoryError()) or "")
    words = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes\nmore"
    assert "smaller batches" in (mendable(RuntimeError(words)) or "")
    assert mendable(RuntimeError("a bug")) is None
    assert mendable(OSError("a bug")) is None
    full = "No space left on device; free some room on the disk and run the same command again"
    for error in (OSError("4096 requested and 96 written"), ValueError("I/O (os error 28)")):
        assert mendable(error) == full  # numpy's, and that of a library in Rust
    assert mendable(ConfigError("`a`: \x1b[2J")) == "`a`: \\u001b[2J"


def test_messages_cut_what_is_long_and_show_what_is_odd() -> None:
    assert short("x" * 50_000_000)[:10] == "'xxxxxxxxx"
    assert len(short("x" * 50_000_000)) < 100
    assert len(short(list(range(10**5)))) < 100
    assert short(10**5000) == "a number of thousands of digits"
    assert (
        plain("\u009b2J\x1b\u202eab\r\ud800\tc\n") == "\\u009b2J\\u001b\\u202eab\\u000d\\ud800\tc\n"
    )


def test_answers_are_json_and_utf8_whatever_ids_and_titles_hold() -> None:
    odd = "\ud800\u009b2J\x1b[2J\u2028</script>\u00e9"
    found = Recommendation((odd,), (odd,), (odd,), (0.5,), user_id=odd)
    line = as_json(found)
    line.encode("utf-8")
    assert not set(line) & set("\u009b\x1b\u2028\n")
    assert json.loads(line)["items"][0] == {"item_id": odd, "title": odd, "score": 0.5}


def test_pages_show_control_characters_and_obey_none() -> None:
    page = element("p", text("\u009b\u202e<b>\ud800"), title="\u009b\"'<\ud800")
    page.encode("utf-8")
    assert page == ('<p title="\\u009b&quot;&#x27;&lt;\\ud800">\\u009b\\u202e&lt;b&gt;\\ud800</p>')


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_json_is_utf8_whatever_the_encoding_of_the_terminal(encoding: str) -> None:
    code = (
        "import sys; from mql4grec import serving\n"
        "from mql4grec.cli import commands, recommending\n"
        "from mql4grec.report import Recommendation\n"
        "odd = '\\xe9\\u4e2d\\u2028\\x9b\\ud800'\n"
        "serving.open_run = lambda *_, **__: None\n"
        "serving.recommend = lambda *_, **__: [Recommendation((odd,), (odd,), (odd,), (0.5,))]\n"
        "recommending._telling_unknown = lambda found, *_: found\n"
        "sys.argv = ['mql4grec', 'recommend', '--json', 'a']; commands.main()"
    )
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, check=True)
    assert json.loads(done.stdout.decode("utf-8"))["history"] == ["\xe9\u4e2d\u2028\x9b\ud800"]


def start(*args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mql4grec", *args]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0.25, 0.6, 2.5])  # imports take some seconds
def test_a_signal_ends_quietly_at_any_time(tmp_path: Path, number: int, seconds: float) -> None:
    options = tiny.as_options(tiny.overrides(tmp_path / "run", "catalog.datasets.0.n_items=2000"))
    with start("run", "--quiet", *options) as process:
        began = time.monotonic()
        while not is_ready(process.pid):
            assert time.monotonic() - began < 60
            time.sleep(0.002)
        time.sleep(seconds)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert told.strip() == "stopped; the same command goes on where it was"


def test_ctrl_c_of_a_terminal_reaches_workers_and_all_end_quietly(tmp_path: Path) -> None:
    options = tiny.as_options(tiny.overrides(tmp_path / "run", "catalog.datasets.0.n_items=2000"))
    command = [sys.executable, "-m", "mql4grec", "run", "--quiet", *options]
    command += ["--set", "runtime.n_workers=2"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while not list((tmp_path / "run" / "embeddings").glob("*")):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.strip() == "stopped; the same command goes on where it was"


def test_a_worker_that_fails_while_all_stop_is_no_fault(tmp_path: Path) -> None:
    code = (
        "import os, signal; from mql4grec import __main__, cli, signals\n"
        "def work():\n"
        "    signals.begin()\n"
        "    try: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finally: raise RuntimeError('DataLoader worker exited unexpectedly')\n"
        "cli.main = work; __main__.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 143
    assert done.stderr.strip() == "stopped; the same command goes on where it was"


def test_an_end_of_file_that_nobody_expected_is_a_bug_with_its_traceback() -> None:
    code = (
        "import sys; from mql4grec.cli import commands\n"
        "def settings(*_): raise EOFError('cut')\n"
        "commands.settings_of = settings; sys.argv = ['mql4grec', 'check']; commands.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("EOFError: cut")


def is_ready(pid: int) -> bool:
    """Whether a process has its handlers: Python itself has one of SIGINT from its start."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(
        next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16
    )
    return bool(caught & 1 << (signal.SIGTERM - 1))


def test_output_into_a_closed_pipe_is_quiet() -> None:
    with start("--help") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_output_in_another_encoding_is_escaped() -> None:
    command = [sys.executable, "-m", "mql4grec", "check", "--set", "run_dir=/tmp/\u00e9\u4e2d"]
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, env=env, check=False)
    assert b"Traceback" not in done.stderr
    assert b"\\xe9\\u4e2d" in done.stdout
