"""The README's examples run as they stand there."""

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration
from typer.testing import CliRunner

import tiny
from mql4grec import config, pipeline
from mql4grec.cli import app
from mql4grec.runtime import SILENT

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
CODES, ITEMS = (30, 20, 12, 4), 60


def block(start: str, *, kind: str = "") -> str:
    """Give the one block of a kind that contains a text."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    (found,) = [text for name, text in blocks if name == kind and start in text]
    return found


def somebody_elses() -> dict[str, Any]:
    """Make a small model, a tokenizer that sorts its words, an index, and inputs."""
    words = [f"<{'abcd'[level]}_{code}>" for level, k in enumerate(CODES) for code in range(k)]
    numbered = {word: n for n, word in enumerate(["<pad>", "</s>", "<unk>", *sorted(words)])}
    inner = Tokenizer(models.WordLevel(numbered, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    chosen = np.random.default_rng(0).permutation(int(np.prod(CODES)))[:ITEMS]
    codes = np.stack(np.unravel_index(chosen, CODES), axis=1)
    index = {
        f"item {n}": [f"<{'abcd'[level]}_{code}>" for level, code in enumerate(row)]
        for n, row in enumerate(codes.tolist())
    }
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_ff": 24, "d_kv": 8, "num_heads": 2, "num_layers": 2}
    special = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    model = T5ForConditionalGeneration(T5Config(vocab_size=len(numbered), **sizes, **special))
    inputs = tokenizer(
        ["<a_3> <b_1> <c_0> <d_2>", "<a_9> <b_7>"],
        return_tensors="pt",
        padding=True,
        return_token_type_ids=False,
    )
    return {"tokenizer": tokenizer, "model": model.eval(), "index": index, "inputs": inputs}


def test_the_trie_behind_somebody_elses_model() -> None:
    code = block("spell_tokens", kind="python")
    statements = ast.parse(code).body
    assert len([part for part in statements if not isinstance(part, ast.ImportFrom)]) == 5
    names = somebody_elses()
    exec(code, names)
    rows = names["rows"].reshape(2, 20)
    assert (rows >= 0).all()
    assert [len(set(row)) for row in rows.tolist()] == [20, 20]
    spelt = names["tokenizer"].convert_ids_to_tokens(names["out"][0, 1:5].tolist())
    assert spelt == list(names["index"].values())[rows[0, 0]]

    argument = "prefix_allowed_tokens_fn=decoding.prefix_allowed_tokens_fn(items)"
    assert argument in README
    exec(code.replace("logits_processor=[trie]", argument).replace("out =", "other ="), names)
    assert torch.equal(names["other"], names["out"])
    exec(code.replace("logits_processor=[trie], ", "").replace("out =", "free ="), names)
    free = names["items"].find(names["free"][:, 1:])
    assert (free < 0).any()  # without the trie it does not write items alone


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a trained run whose items are called as in the README."""
    monkeypatch.chdir(tmp_path)
    pipeline.run(tiny.settings(tmp_path / "first"), journal=SILENT)
    made = tmp_path / "first" / "catalog" / "Demo" / "shop"
    for name in ("items.csv", "interactions.csv"):
        text = (made / name).read_text()
        (tmp_path / name).write_text(re.sub(r"item-0*(\d+)", r"sku-\1", text))
    tables = (
        "catalog.datasets=[{name: Demo, interactions: interactions.csv, items: items.csv, "
        "modalities: [text]}]"
    )
    settings = tiny.settings(tmp_path / "second", tables)
    pipeline.run(settings, journal=SILENT)
    (tmp_path / "myshop.yaml").write_text(config.dump(settings))
    return tmp_path


def test_recommendations(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / "users.jsonl").write_text('["sku-7", "sku-42"]\n{"history": ["sku-1"]}\n')
    stock = [f"sku-{number}" for number in range(1, 51)]
    (shop / "stock.txt").write_text("\n".join(stock))
    first, second = block("--out next.parquet").splitlines()
    arguments = shlex.split(first)
    assert arguments[:3] == ["python", "-m", "mql4grec"]
    assert CliRunner().invoke(app, arguments[3:]).output == "2 histories: next.parquet\n"
    table = pl.read_parquet("next.parquet")
    assert table.filter(pl.col("request") == 0)["item_id"].is_in(["sku-7", "sku-42"]).sum() == 0
    assert set(table["item_id"]) <= set(stock)
    assert table["rank"].max() == 20

    echo, _, command = second.partition(" | ")
    result = CliRunner().invoke(app, shlex.split(command)[3:], input=shlex.split(echo)[1])
    found = json.loads(result.output)
    assert found["user_id"] == "u1"
    assert "sku-9" not in [item["item_id"] for item in found["items"]]

    exec(block("serving.open_run", kind="python"), {})
    assert "sku-" in capsys.readouterr().out
