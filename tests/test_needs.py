"""What stages take of memory and disk: the table beside its page, and beside what was measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import tiny
from mql4grec import config, pipeline
from mql4grec.cli.commands import app
from mql4grec.config import Settings
from mql4grec.runtime import SILENT
from mql4grec.stages import needs
from mql4grec.stages.limits import Sizes, read_sizes

PAGE = Path(__file__).resolve().parents[1] / "docs" / "memory.md"
MIB, GIB = 1 << 20, 1 << 30
NOISE = 32 * MIB
QUICK = (
    "embeddings.image.kind=none",
    "recommender.finetune.tasks=[seqrec]",
    "recommender.finetune.epochs=1",
    "recommender.finetune.validation_samples=200",
    "translator.epochs=1",
    "translator.num_emb_list=[64, 64, 64]",
    "sasrec.epochs=1",
    "sasrec.validation_users=200",
    "catalog.k_core=0",
    "evaluation.ease_codes_weight=1",
)
SHOPS = {  # items, users, events of each
    "small": (300, 200, 10),
    "large": (20_000, 1_000, 30),
    "dense": (2_500, 600, 80),
}


def need_of(settings: Settings, sizes: Sizes, stage: str) -> needs.Need:
    (found,) = (n for n in needs.needs(settings, {"Demo": sizes}) if n.stage == stage)
    return found


def test_the_page_shows_the_table() -> None:
    assert needs.as_markdown() in PAGE.read_text()


def test_symbols_are_explained_on_the_page() -> None:
    used = {symbol for row in needs.TABLE for symbol in (*row.memory, *row.disk)}
    assert used <= set(needs.SYMBOLS)


def test_the_settings_say_what_is_added(tmp_path: Path) -> None:
    sizes = Sizes(n_items=10_000, n_users=1000, n_events=50_000)
    rows, square, pairs = needs.ROWS, 10_000**2, 10_000**2

    def memory(*values: str, stage: str = "evaluate metrics") -> int:
        return need_of(tiny.settings(tmp_path, *values), sizes, stage).memory

    alone = memory("evaluation.ease_max_items=9999")
    own = rows["evaluate metrics"].memory
    assert alone == needs.BASE + needs.amount(own, sizes, tiny.settings(tmp_path))
    assert memory("evaluation.ease_codes_weight=0") == alone + 16 * square
    assert memory() == alone + 20 * square
    assert memory("evaluation.compare_refit=true") == alone + 28 * square + 8 * pairs
    refitted = ("evaluation.refit=true", "evaluation.ease_max_items=9999")
    assert memory(*refitted) == alone + 8 * pairs
    plain = memory(stage="finetune")
    taught = ("recommender.backbone=causal", "recommender.finetune.teacher_share=0.5")
    assert memory(*taught, stage="finetune") == plain + 16 * square + 3072 * 50_000


def test_pairs_of_items_are_bounded(tmp_path: Path) -> None:
    settings = tiny.settings(tmp_path, "evaluation.ease_max_items=9", "sasrec.enabled=false")
    found = [needs.amount({"P": 8}, Sizes(n, 1, 1), settings) for n in (1000, 1 << 20)]
    assert found == [8_000_000, 4 * GIB]


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    needed = [needs.Need("embed", 2 * GIB, 3 * GIB), needs.Need("evaluate metrics", 9 * GIB, 0)]
    settings = tiny.settings(tmp_path)
    said = list(needs.explain(needed, memory=4 * GIB, disk=2 * GIB, settings=settings))
    assert said == [
        "memory: `evaluate metrics` takes the most, up to 9.0 GiB; this machine has 4.0 GiB",
        "warning: `evaluate metrics` may take 9.0 GiB, more than the 4.0 GiB of memory here; use a "
        "larger machine or a smaller shop (`evaluation.ease_max_items` below the shop's items, now "
        "20000, leaves out EASE^R)",
        "disk: the run writes up to 3.0 GiB; 2.0 GiB are free",
        "warning: the disk may become full; make room, or set `run_dir` to another one",
    ]
    said = list(needs.explain(needed, memory=None, disk=3 * GIB, settings=settings))
    assert said == [
        "memory: `evaluate metrics` takes the most, up to 9.0 GiB",
        "disk: the run writes up to 3.0 GiB; 3.0 GiB are free",
    ]


@pytest.mark.parametrize(("told", "least"), [("1048576\n", MIB), ("max\n", None), (None, None)])
def test_a_control_group_may_allow_less_than_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str | None, least: int | None
) -> None:
    group = tmp_path / "memory.max"
    if told is not None:
        group.write_text(told)
    monkeypatch.setattr(needs, "GROUPS", {group})
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert needs.memory_here() == (whole if least is None else least)


def test_check_says_it_once_the_shop_is_prepared(tmp_path: Path) -> None:
    options = tiny.as_options(tiny.overrides(tmp_path))
    assert "takes the most" not in CliRunner().invoke(app, ["check", *options]).output
    pipeline.run(tiny.settings(tmp_path), journal=SILENT, only="prepare")
    checked = CliRunner().invoke(app, ["check", *options])
    assert "memory: `generate-codes` takes the most, up to 2.0 GiB" in checked.output
    assert "disk: the run writes up to 0.0 GiB" in checked.output
    assert "warning" not in checked.output


def run_of(folder: Path, name: str) -> list[str]:
    """Write a shop's tables, and give the settings of a run on it."""
    n_items, n_users, n_events = SHOPS[name]
    folder.mkdir()
    items = (np.random.default_rng(0).random(n_users * n_events) ** 2 * n_items).astype(int)
    events = [f"user{n // n_events},item{item},{n}\n" for n, item in enumerate(items.tolist())]
    (folder / "events.csv").write_text("user_id,item_id,timestamp\n" + "".join(events))
    rows = [
        f"item{n},title of {n * 7919 % n_items},words {n} {n * 31 % n_items} {'more of it ' * 13}\n"
        for n in range(n_items)
    ]
    (folder / "items.csv").write_text("item_id,title,description\n" + "".join(rows))
    shop = f"interactions: {folder / 'events.csv'}, items: {folder / 'items.csv'}"
    own = [value for value in tiny.TINY if not value.startswith(("catalog", "name"))]
    own += [f"name={name}", f"run_dir={folder / 'run'}", f"catalog.datasets=[{{name: S, {shop}}}]"]
    own += ["evaluation.ease_max_items=5000"]  # of them "large" has more
    return [*own, *QUICK]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
def test_peaks_stay_below_the_table_and_near_it(tmp_path: Path) -> None:
    """What a stage takes more in a larger shop is at most the table's, and a fifth of it at least.

    Not for item-kNN's pairs, of which a shop may have far fewer than there could be.
    """
    runs = {name: run_of(tmp_path / name, name) for name in SHOPS}
    command = [sys.executable, Path(__file__).with_name("measured_stages.py")]
    told = subprocess.run(
        [*command, json.dumps(list(runs.values()))], check=True, stdout=subprocess.PIPE, text=True
    )
    measured = {
        (one["run"], one["stage"]): one for one in map(json.loads, told.stdout.splitlines())
    }
    needed = {}
    for name, values in runs.items():
        settings = config.load(config.demo_config(), overrides=values)
        for need in needs.needs(settings, read_sizes(settings)):
            (key,) = (k for k in measured if k[0] == name and k[1].startswith(need.stage))
            needed[key] = need
    assert needed.keys() == measured.keys()
    faults, n_compared = [], 0
    for (name, stage), need in needed.items():
        took = measured[name, stage]
        more = took["memory"] - measured["small", stage]["memory"]
        grown = need.memory - needed["small", stage].memory
        if took["memory"] + took["base"] > need.memory or more > need.memory - needs.BASE + NOISE:
            faults.append(f"{name} {stage}: memory {took}, small {more} less, above {need}")
        if took["disk"] > need.disk + MIB:
            faults.append(f"{name} {stage}: disk {took}, above {need}")
        if grown > 100 * MIB and (name, stage) != ("large", "evaluate metrics"):
            n_compared += 1
            if more < grown / 5:
                faults.append(f"{name} {stage}: {more} bytes more, far below {grown}")
    assert faults == []
    assert n_compared >= 4
