"""A whole run: once, again, with a changed setting, and killed on the way."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import tiny
from mql4grec import artifacts, catalog, config, evaluation, pipeline
from mql4grec.decoding import Rankings
from mql4grec.errors import ConfigError
from mql4grec.runtime import SILENT, Journal
from tiny import metrics_of

STAGES = [
    "prepare Demo",
    "embed Demo text",
    "embed Demo image",
    "train-translator text",
    "train-translator image",
    "generate-codes",
    "quality",
    "finetune",
    "evaluate decoding",
    "evaluate sasrec",
    "evaluate metrics",
    "report",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    done = pipeline.run(tiny.settings(folder), journal=Journal(folder / "log.jsonl"))
    assert done == STAGES
    return folder


def test_a_run_leaves_what_it_promises(finished: Path) -> None:
    expected = [
        "config.yaml",
        "log.jsonl",
        "catalog/Demo/Demo.inter.json",
        "catalog/Demo/Demo.item.json",
        "catalog/Demo/counts.json",
        "embeddings/Demo/text/Demo.emb-hashing.npy",
        "embeddings/Demo/image/Demo.emb-test_resnet.npy",
        "translator/text/best_collision_model.safetensors",
        "translator/image/best_collision_model.json",
        "codes/Demo.index_lemb.json",
        "codes/Demo.index_vitemb.json",
        "quality/Demo.text.json",
        "quality/Demo.image.maps.npz",
        "quality/index.html",
        "recommender/finetune/model.safetensors",
        "evaluation/metrics.json",
        "evaluation/rankings/fused.parquet",
        "report/index.html",
    ]
    assert [path for path in expected if not (finished / path).exists()] == []
    assert not [p for p in finished.rglob("*") if p.suffix in {".pt", ".pkl", ".pickle"}]


def test_a_translator_says_what_it_translates(finished: Path) -> None:
    """Two files tell another machine how to make the embeddings, and what becomes of them."""
    record = json.loads((finished / "translator/image/best_collision_model.json").read_text())
    assert record["origin"]["encoder"] == "test_resnet"
    assert record["origin"]["encoder_recipe"] == {
        "kind": "timm", "encoder": "test_resnet", "weights": "random",
    }  # fmt: skip
    assert set(record) == {"arguments", "metrics", "complete", "origin", "sha256"}


def test_both_pages_show_what_codes_keep_and_one_of_them_recommendations(finished: Path) -> None:
    early, late = ((finished / name / "index.html").read_text() for name in ("quality", "report"))
    for page in (early, late):
        assert "Error of reconstruction" in page
        assert "Nearest by text embedding" in page
        assert "items by embedding, coloured by first code" in page
    assert "Recommendations for some users" in late
    assert "Recommendations for some users" not in early


def test_metrics_have_every_ranking_and_metric(finished: Path) -> None:
    found = json.loads((finished / "evaluation" / "metrics.json").read_text())
    baselines = {"popular", "item_knn", "ease", "ease_codes", "sasrec"}
    assert set(found["rankings"]) == {"text", "image", "fused", *baselines}
    for values in found["rankings"].values():
        assert set(values) == {"HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10"}
        assert all(0 <= value <= 1 for value in values.values())
    events = json.loads((finished / "catalog/Demo/Demo.inter.json").read_text())
    assert found["n_users"] == len(events)
    by_events = found["by_training_events"]
    assert sum(by_events["n_users"].values()) == len(events)
    training = [item for history in events.values() for item in history[:-2]]
    n_events = np.bincount(training, minlength=found["n_items"])
    counts = n_events[[history[-1] for history in events.values()]]
    assert by_events["n_users"]["1-5"] == ((counts >= 1) & (counts <= 5)).sum()


def test_twin_level_figures_go_by_the_codes_before_repair(finished: Path) -> None:
    found = json.loads((finished / "evaluation" / "metrics.json").read_text())
    told = found["twin_level"]
    assert list(told["rankings"]) == list(found["rankings"])
    for name, values in told["rankings"].items():
        assert values["HR@1"] >= found["rankings"][name]["HR@1"]
    for modality in ("text", "image"):
        facts = json.loads((finished / "codes" / f"Demo.{modality}.json").read_text())
        before = np.load(finished / "codes" / f"Demo.{modality}.before.npy")
        assert before.dtype == np.uint16
        assert len(before) == found["n_items"]
        distinct = len(np.unique(before, axis=0))
        assert (len(before) - distinct) / len(before) == pytest.approx(facts["rate_before"])


def test_a_run_without_kept_codes_lacks_their_figures_alone(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for path in (folder / "codes").glob("*.before.npy"):
        path.unlink()
    stamp = folder / "codes" / artifacts.STAMP
    told = json.loads(stamp.read_text())
    del told["files"]  # as versions before left it
    stamp.write_text(json.dumps(told))
    pipeline.run(tiny.settings(folder, "evaluation.alpha=0.4"), journal=SILENT)
    found = json.loads((folder / "evaluation" / "metrics.json").read_text())
    assert "twin_level" not in found
    assert "by_training_events" in found


def test_rankings_are_items_each_once(finished: Path) -> None:
    item_ids = {
        line.split("\t")[0]
        for line in (finished / "catalog/Demo/Demo.item2id").read_text().splitlines()
    }
    for path in (finished / "evaluation" / "rankings").glob("*.parquet"):
        table = pl.read_parquet(path)
        assert set(table["item_id"]) <= item_ids
        assert table.select("user_id", "item_id").is_unique().all()


def test_a_second_run_does_nothing(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert pipeline.run(tiny.settings(finished), journal=SILENT) == []
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    changed = {path.name for path in after if before.get(path) != after[path]}
    assert changed <= {"config.yaml"}


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("report.n_users=1", "report"),
        ("quality.n_items=30", "quality"),
        ("evaluation.alpha=0.3", "evaluate metrics"),
        ("sasrec.epochs=2", "evaluate sasrec"),
        ("decoding.n_beams=5", "evaluate decoding"),
        ("recommender.finetune.lr=0.1", "finetune"),
        ("codes.shared=refuse", "generate-codes"),
        ("embeddings.image.encoder=test_vit", "embed Demo image"),
        ("catalog.k_core=0", "prepare Demo"),
    ],
)
def test_a_changed_setting_makes_its_stage_and_all_that_follow_stale(
    finished: Path, override: str, first: str
) -> None:
    states = pipeline.inspect(tiny.settings(finished, override))
    stale = [item.stage.name for item in states if item.state == "stale"]
    expected = STAGES[STAGES.index(first) :]
    if first == "embed Demo image":
        expected = [name for name in expected if name != "train-translator text"]
    if first == "prepare Demo":
        expected = STAGES
    if first == "quality":
        expected = ["quality", "report"]  # no T5 depends on it
    if first in {"evaluate metrics", "evaluate sasrec", "evaluate decoding", "finetune"}:
        assert "quality" not in stale
    if first not in {"evaluate sasrec", "prepare Demo"}:
        expected = [name for name in expected if name != "evaluate sasrec"]  # histories alone
    assert stale == expected


@pytest.mark.parametrize(
    "name",
    [
        "runtime.n_workers=1",
        "runtime.checkpoint_seconds=5",
        "recommender.finetune.micro_batch_size=3",
        "recommender.finetune.graphs=true",
    ],
)
def test_pace_is_no_part_of_a_fingerprint(finished: Path, name: str) -> None:
    states = pipeline.inspect(tiny.settings(finished, name))
    assert {item.state for item in states} == {"done"}


def test_the_settings_that_a_run_leaves_run_it_again(finished: Path) -> None:
    states = pipeline.inspect(config.load(finished / "config.yaml"))
    assert {item.state for item in states} == {"done"}
    shop = config.load(finished / "config.yaml").catalog
    again = catalog.prepare(shop.datasets[0], shop, folder=finished / "again", seed=2025)
    shutil.rmtree(finished / "again")
    assert again.item_ids == catalog.load(finished / "catalog" / "Demo", "Demo").item_ids


def test_given_codes_of_different_sizes_share_a_vocabulary(finished: Path, tmp_path: Path) -> None:
    lines = (finished / "catalog" / "Demo" / "Demo.item2id").read_text().splitlines()
    items = [line.split("\t")[0] for line in lines]
    rows = [max(row, 1) for row in range(len(items))]  # the first two items share their codes
    index = {
        item: [f"<a_{row}>", f"<b_{300 + row}>"] for row, item in zip(rows, items, strict=True)
    }
    (tmp_path / "given.json").write_text(json.dumps(index))
    shop = finished / "catalog" / "Demo" / "shop"
    table = f"format: tables, interactions: {shop}/interactions.csv, items: {shop}/items.csv"
    shops = (
        f"[{{name: A, {table}, text_index: {tmp_path}/given.json}},"
        " {name: B, format: demo, n_items: 60, n_users: 80}]"
    )
    settings = tiny.settings(
        tmp_path / "run",
        f"catalog.datasets={shops}",
        "embeddings.image.kind=none",
        "translator.num_emb_list=[16, 16]",
        "translator.sk_epsilons=[0, 0]",
        "recommender.finetune.tasks=[seqrec]",
    )
    pipeline.run(settings, journal=SILENT)
    assert "text" in metrics_of(tmp_path / "run")
    before = np.load(tmp_path / "run" / "codes" / "A.text.before.npy")
    assert before.tolist() == [[row, 300 + row] for row in rows]
    after = json.loads((tmp_path / "run" / "codes" / "A.index_lemb.json").read_text())
    assert len({tuple(tokens) for tokens in after.values()}) == len(items)


def test_a_changed_setting_is_done_anew(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    subprocess.run(["cp", "-r", str(finished), str(copy)], check=True)
    done = pipeline.run(tiny.settings(copy, "evaluation.alpha=1"), journal=SILENT)
    assert done == ["evaluate metrics", "report"]
    found = metrics_of(copy)
    assert found["fused"] == found["text"]


def test_rankings_are_combined_with_weights_of_the_validation_split(
    finished: Path, tmp_path: Path
) -> None:
    folder, mine = tmp_path / "run", tmp_path / "mine.parquet"
    shutil.copytree(finished, folder)
    pl.read_parquet(finished / "evaluation/rankings/item_knn.parquet").write_parquet(mine)
    files = f"evaluation.files=[{{name: mine, test: {mine}, validation: {mine}}}]"
    settings = tiny.settings(
        folder, "evaluation.combine=[text, ease, mine]", "evaluation.combine_users=30", files
    )
    assert pipeline.run(settings, journal=SILENT) == [
        "evaluate validation", "evaluate metrics", "report",
    ]  # fmt: skip
    found = json.loads((folder / "evaluation" / "metrics.json").read_text())
    baselines = ["popular", "item_knn", "ease", "ease_codes", "sasrec"]
    names = ["text", "image", "fused", "combined", *baselines, "mine"]
    assert list(found["rankings"]) == names
    assert found["rankings"]["mine"] == found["rankings"]["item_knn"]
    assert metrics_of(folder)["text"] == metrics_of(finished)["text"]
    combination = found["combination"]
    assert list(combination["weights"]) == ["text", "ease", "mine"]
    assert sum(combination["weights"].values()) == pytest.approx(1)
    assert combination["n_users"] == 30
    with np.load(folder / "validation" / "text.npz") as arrays:
        assert arrays["items"].shape == (30, 10)
    assert not (folder / "validation" / "image.npz").exists()
    assert pipeline.run(settings, journal=SILENT) == []


@pytest.mark.parametrize("remove_seen", [False, True])
def test_an_epoch_is_chosen_by_what_decoding_finds(
    finished: Path, tmp_path: Path, remove_seen: bool
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    values = (
        "recommender.finetune.select_by=ndcg",
        "recommender.finetune.epochs=3",
        "evaluation.combine=[text, image]",
        f"evaluation.remove_seen={remove_seen}",
    )
    settings = tiny.settings(folder, *values)
    done = pipeline.run(settings, journal=SILENT, until="evaluate")
    assert done[:3] == ["finetune", "evaluate decoding", "evaluate validation"]
    history = json.loads((folder / "recommender/finetune/history.json").read_text())
    figures = [epoch["valid_ndcg"] for epoch in history["epochs"]]
    assert history["best_epoch"] == int(np.argmax(figures)) + 1
    shop = catalog.load(folder / "catalog" / "Demo", "Demo")
    again = []
    for modality in ("text", "image"):
        with np.load(folder / "validation" / f"{modality}.npz") as arrays:
            found = Rankings(arrays["items"], arrays["scores"])
        again.append(evaluation.metrics(found, shop.histories.target(2))["NDCG@10"])
    assert history["best_valid_ndcg"] == pytest.approx(np.mean(again))


def test_pretraining_goes_by_decoding_too(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    training = "datasets: [Demo], tasks: [seqimage], batch_size: 64, samples_per_epoch: 100"
    values = f"recommender.pretrain={{{training}, epochs: 2, select_by: ndcg, select_users: 30}}"
    done = pipeline.run(tiny.settings(folder, values), journal=SILENT, until="pretrain")
    assert done == ["pretrain"]
    history = json.loads((folder / "recommender/pretrain/history.json").read_text())
    figures = [epoch["valid_ndcg"] for epoch in history["epochs"]]
    assert history["best_valid_ndcg"] == max(figures)
    assert len(figures) == 2


def test_what_an_epoch_is_chosen_by_is_part_of_a_fingerprint_where_it_counts(
    finished: Path,
) -> None:
    def stale(*values: str) -> set[str]:
        states = pipeline.inspect(tiny.settings(finished, *values))
        return {item.stage.name for item in states if item.state == "stale"}

    assert stale("recommender.finetune.select_users=7") == set()
    marks = [
        {item.stage.name: item.mark for item in pipeline.inspect(tiny.settings(finished, *values))}
        for values in (
            ("recommender.finetune.select_by=ndcg",),
            ("recommender.finetune.select_by=ndcg", "decoding.normalise=level"),
            ("recommender.finetune.select_by=ndcg", "decoding.batch_size=7"),
            ("recommender.finetune.select_by=ndcg", "decoding.exact=true"),  # `recommend --exact`
            ("decoding.normalise=level",),
        )
    ]
    assert marks[0]["finetune"] != marks[1]["finetune"]
    assert marks[0]["finetune"] == marks[2]["finetune"] == marks[3]["finetune"]
    assert "finetune" not in stale("decoding.normalise=level")


def test_rankings_with_and_without_seen_items_are_both_reported(
    finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    settings = tiny.settings(
        folder, "evaluation.compare_seen=true", "evaluation.combine=[image, ease]"
    )
    done = pipeline.run(settings, journal=SILENT)
    assert done == ["evaluate decoding", "evaluate validation", "evaluate metrics", "report"]
    found = json.loads((folder / "evaluation" / "metrics.json").read_text())
    for name, values in metrics_of(finished).items():
        assert found["rankings"][name] == values
    other = found["seen_removed"]
    assert list(other["rankings"]) == list(found["rankings"])
    assert set(other) == {
        "rankings", "intervals", "differences", "significance", "twin_level", "by_training_events",
        "combination",
    }  # fmt: skip
    assert other["rankings"]["ease"] != found["rankings"]["ease"]
    events = json.loads((folder / "catalog/Demo/Demo.inter.json").read_text())
    items, users = (
        [line.split("\t")[0] for line in (folder / "catalog/Demo" / name).read_text().splitlines()]
        for name in ("Demo.item2id", "Demo.user2id")
    )
    seen = {users[int(user)]: {items[item] for item in row[:-1]} for user, row in events.items()}
    for path in (folder / "evaluation" / "rankings" / "seen_removed").glob("*.parquet"):
        for user, item in pl.read_parquet(path).select("user_id", "item_id").iter_rows():
            assert item not in seen[user]
    page = (folder / "report" / "index.html").read_text()
    assert "Rankings on the test items, without the items of the history" in page
    assert "Difference to the best baseline, paired bootstrap over users" in page


def test_lists_are_reranked_by_what_validation_teaches(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    values = ("evaluation.combine=[item_knn, text, ease]", "evaluation.compare_seen=true")
    pipeline.run(tiny.settings(folder, *values), journal=SILENT)
    before = json.loads((folder / "evaluation" / "metrics.json").read_text())
    settings = tiny.settings(folder, *values, "evaluation.rerank=true")
    assert pipeline.run(settings, journal=SILENT) == ["evaluate metrics", "report"]
    found = json.loads((folder / "evaluation" / "metrics.json").read_text())
    for way, old in ((found, before), (found["seen_removed"], before["seen_removed"])):
        assert list(way["rankings"])[:5] == ["text", "image", "fused", "combined", "reranked"]
        assert "reranked" in way["significance"]
        assert {name: way["rankings"][name] for name in old["rankings"]} == old["rankings"]
        record = way["reranking"]
        assert record["n_users"] == 80 > record["n_found"] > 10
        assert record["ndcg_combined"] == pytest.approx(way["combination"]["ndcg"])
        assert record["used"] or way["rankings"]["reranked"] == way["rankings"]["combined"]
    for place in ("rankings", "rankings/seen_removed"):
        assert (folder / "evaluation" / place / "reranked.parquet").exists()
    page = (folder / "report" / "index.html").read_text()
    assert page.count("Reranked") >= 2
    assert pipeline.run(settings, journal=SILENT) == []


def test_quality_goes_on_where_it_was_interrupted(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    text, image = (folder / "quality" / f"Demo.{modality}.json" for modality in ("text", "image"))
    before, when = image.read_bytes(), text.stat().st_mtime_ns
    image.unlink()
    stamp = folder / "quality" / "stamp.json"
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"done": False}))
    assert pipeline.run(tiny.settings(folder), journal=SILENT, until="quality") == ["quality"]
    assert image.read_bytes() == before
    assert text.stat().st_mtime_ns == when
    assert (folder / "recommender" / "finetune" / "model.safetensors").exists()


def kill_when(command: list[str], is_time: Callable[[], bool]) -> None:
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 240
        while not is_time():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)  # five starts of a process that imports torch, timm and scikit-learn
def test_a_run_killed_at_four_stages_ends_like_an_undisturbed_one(
    finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    values = tiny.overrides(folder, "runtime.checkpoint_seconds=0.001")
    command = [sys.executable, "-m", "mql4grec", "run", "--quiet", *tiny.as_options(values)]
    moments: list[Callable[[], bool]] = [
        lambda: any((folder / "catalog").rglob("*.png")),
        lambda: any((folder / "translator" / "text").glob("checkpoint*")),
        lambda: any((folder / "recommender" / "finetune").glob("checkpoint*")),
        lambda: (folder / "decoding" / "text.npz").exists(),
    ]
    for is_time in moments:
        kill_when(command, is_time)
        assert not (folder / "report" / "index.html").exists()
    subprocess.run(command, check=True, timeout=480)
    assert metrics_of(folder) == metrics_of(finished)
    for name in ("text", "image"):
        ours, theirs = (np.load(f / "decoding" / f"{name}.npz") for f in (folder, finished))
        np.testing.assert_array_equal(ours["items"], theirs["items"])
    assert not [path for path in folder.rglob(".*") if path.is_file()]
    assert artifacts.read_stamp(folder / "report") is not None


def index_of(folder: Path) -> dict[str, list[str]]:
    """Give the text codes of a run by item id, from the shards."""
    shards = folder / "codes" / "Demo.index_lemb.parquet"
    table = pl.concat(pl.read_parquet(path) for path in sorted(shards.glob("*.parquet")))
    return dict(zip(table["item_id"], table["codes"].to_list(), strict=True))


def test_a_grown_catalog_keeps_its_codes(finished: Path, tmp_path: Path) -> None:
    # Other seed and size: some items of the older catalog are gone, others are new.
    folder = tmp_path / "grown"
    values = (
        "catalog.datasets.0.n_items=70",
        "embeddings.image.kind=none",
        "recommender.finetune.tasks=[seqrec]",
        f"translator.trained={finished / 'translator'}",
        f"codes.extend=[{finished / 'codes' / 'Demo.index_lemb.json'}]",
    )
    settings = tiny.settings(folder, *values)
    done = pipeline.run(settings, journal=SILENT)
    assert "train-translator text" not in done
    old, new = index_of(finished), index_of(folder)
    common = old.keys() & new.keys()
    assert len(common) > 20
    assert new.keys() - old.keys()
    assert {item: new[item] for item in common} == {item: old[item] for item in common}
    assert len({tuple(row) for row in new.values()}) == len(new)
    assert (folder / "report" / "index.html").exists()
    assert pipeline.run(settings, journal=SILENT) == []


def test_a_large_shop_has_shards_only(tmp_path: Path, finished: Path) -> None:
    values = (
        "embeddings.image.kind=none",
        "recommender.finetune.tasks=[seqrec]",
        "recommender.finetune.epochs=1",
        f"translator.trained={finished / 'translator'}",
        "codes.json_max_items=10",
    )
    pipeline.run(tiny.settings(tmp_path / "run", *values), journal=SILENT)
    assert not (tmp_path / "run" / "codes" / "Demo.index_lemb.json").exists()
    assert index_of(tmp_path / "run") == index_of(finished)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            ("codes.extend=[Demo.index_lemb.json]",),
            "`codes.extend`: expected `translator.trained` with it, the folder of the translators "
            "that made the older codes, got none",
        ),
        (
            ("codes.extend=[{index}, {index}]", "translator.trained={trained}"),
            "`codes.extend`: expected one index each of `Demo` text, `Demo` image, got `{index}` "
            "for `Demo` text; name it NAME.index_... after its shop, or leave it out",
        ),
        (
            ("codes.policy=paper", "codes.reassign=colliding"),
            "`reassign`: expected 'movers' unless `policy` is 'optimal', got 'colliding' with "
            "'paper'",
        ),
    ],
)
def test_extensions_that_do_not_fit_are_told(
    finished: Path, tmp_path: Path, values: tuple[str, ...], message: str
) -> None:
    facts = {
        "index": str(finished / "codes" / "Demo.index_lemb.json"),
        "trained": str(finished / "translator"),
    }
    values = tuple(value.format(**facts) for value in values)
    with pytest.raises(ConfigError) as told:
        pipeline.run(tiny.settings(tmp_path, *values), journal=SILENT)
    assert message.format(**facts) in str(told.value)
