"""Benches that need a GPU to tell something run on a CPU too, on a shop of made-up files."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHES = Path(__file__).resolve().parents[1] / "benches"
N_USERS, N_ITEMS = 12, 20


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHES))  # where benches find each other
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCHES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def write_shop(folder: Path) -> None:
    """Write the authors' three files; two items share their text codes."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    histories = {
        str(user): generator.integers(N_ITEMS, size=generator.integers(5, 9)).tolist()
        for user in range(N_USERS)
    }
    histories["0"] = list(range(N_ITEMS))  # every item occurs
    (folder / "Shop.inter.json").write_text(json.dumps(histories))
    for name, letters, n_other in (("lemb", "abcd", N_ITEMS - 1), ("vitemb", "ABCD", N_ITEMS)):
        index = {
            str(item): [
                f"<{letter}_{item % n_other % (level + 5)}>" for level, letter in enumerate(letters)
            ]
            for item in range(N_ITEMS)
        }
        (folder / f"Shop.index_{name}.json").write_text(json.dumps(index))


def test_instruments_trains_both_models_and_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shop(tmp_path / "Shop")
    bench = load("instruments", monkeypatch)
    monkeypatch.setattr(bench, "N_BEAMS", 10)
    folders = ["--data", str(tmp_path / "Shop"), "--out", str(tmp_path / "results")]
    bench.main([*folders, "--minutes", "0.01", "--layers", "1"])
    (path,) = (tmp_path / "results").iterdir()
    found = json.loads(path.read_text())
    assert (found["n_users"], found["n_items"]) == (N_USERS, N_ITEMS)
    for seen in ("seen_kept", "seen_removed"):
        assert set(found["baselines"][seen]) == {"item_knn", "ease", "ease_codes"}
    for name in ("t5", "decoder_only"):
        own = found[name]
        assert own["samples_per_second"] > 0
        assert own["same_items"] == 1.0  # as a CPU, which this is
        assert own["products"]["flop_per_sample"] > 0
        assert len(own["curve"]) == own["epochs"]["done"] >= 1
        assert own["best"]["valid_ndcg"] == max(epoch["valid_ndcg"] for epoch in own["curve"])
        for seen in ("seen_kept", "seen_removed"):
            assert {"text", "image", "fused"} < set(own["rankings"][seen])
            assert 0 <= own["rankings"][seen]["fused"]["HR@10"] <= 1


def test_instruments_of_some_users_have_their_items_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shop(tmp_path / "Shop")
    bench = load("instruments", monkeypatch)
    whole = bench.read_shop(tmp_path / "Shop", n_users=None, runtime=bench.Runtime())
    assert whole.tries["text"].n_items == N_ITEMS  # none lost to codes that two share
    events = json.loads((tmp_path / "Shop" / "Shop.inter.json").read_text())
    (tmp_path / "Shop" / "Shop.inter.json").write_text(json.dumps({"5": events["5"]}))
    some = bench.read_shop(tmp_path / "Shop", n_users=1, runtime=bench.Runtime())
    rows = np.unique(events["5"])
    assert rows[some.histories.items].tolist() == events["5"]
    assert some.n_items == len(rows)
    for modality, tokens in some.corpus.tokens.items():
        np.testing.assert_array_equal(tokens, whole.corpus.tokens[modality][rows])


def test_instruments_says_that_data_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = load("instruments", monkeypatch)
    with pytest.raises(SystemExit, match=r"`--data`: expected a folder, got '.*no'; name another"):
        bench.main(["--data", str(tmp_path / "no")])
