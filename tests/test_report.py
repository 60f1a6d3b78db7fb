"""The page is one sound file that says what the run found, whatever the run lacks."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mql4grec.decoding import Rankings
from mql4grec.quality import draw_maps
from mql4grec.report import Example, ReportData, choose_examples, write, write_rankings
from mql4grec.report.page import page
from tiny_report import ATTACK, Page, full, metrics, quality, rankings, semantic_ids, shop


def test_page_is_well_formed_and_has_all_sections() -> None:
    found = Page(page(full()))
    assert found.sections() == [
        "results",
        "examples",
        "codes",
        "nearest",
        "training",
        "data",
        "run",
    ]
    ids = [attributes["id"] for _, attributes in found.found if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {link["href"] for link in found.all("a")} == {f"#{name}" for name in found.sections()}


def test_page_says_the_figures() -> None:
    said = Page(page(full())).said
    for expected in (
        "first ten for 12.5 % of 1,234 users; the best baseline, EASE\u1d3f, for 11.0 %.",
        "0.2222 (best)",
        "0.1011\u20130.1499",
        "Difference to the best baseline, paired bootstrap over users",
        "-0.0021 to +0.0321",
        "whose target shared its codes: by text codes 123 users.",
        "Fused 0.1875 (best)",
        "By events of the target in training histories (0: 0 users, 1-5: 34 users, 6+: 1,200",
        "Fused \u2013 \u2013 0.0625 0.0625 0.0625 0.0625",
        "Text codes of 5 items (1 more have no text)",
        "Collision rate before 20.00 % 20.00 % Collision rate after 0.00 % 0.00 %",
        "Squared error per item before 0.75 0.75",
        "Added squared error per moved item 0.25 \u2013",
        "Added error of all, of the error before 6.25 % 6.25 %",
        "Codes used at level 1 / 2 / \u2026 2 / 3 2 / 3",
        "Entropy in bits 1.2 / 1.5",
        "Perplexity 2.4 / 2.8",
        "Prefixes of 1 / 2 / \u2026 codes 2 / 5",
        "Codes that follow a prefix, of all 50.0 % / 62.5 %",
        "0 / 1",
        "Text 4 0.0025 20.00 % 31.25 % 34.00 %",
        "Text: pairs with common codes. Nearest of 4 items among all 5; 8 pairs of histories.",
        "2 nearest, before repair 87.50 % 12.50 % 2 nearest, after repair 75.00 % 0.00 %",
        "any two items 40.00 % 0.00 %",
        "one after the other in a history 62.50 % 0.00 %",
        "Text codes 0 \u00b7 0",
        "Nearest by image embedding",
        "1 of 2 codes",
        "3 epochs; best validation loss 1.0833 after epoch 3, which is kept; 1,500 samples per",
        "Faults: duplicate rows 17",
        "Rows read 4,321",
        "Items read \u2013",
        "Every item has its text.",
        "no such file <gone>",
        "2 min 5 s",
        "2 cores, CPU",
        "seed: 1 # <b>",
    ):
        assert expected in said


def test_the_epoch_kept_is_that_of_what_decides() -> None:
    epochs = [{**epoch, "valid_ndcg": 0.5 / epoch["epoch"]} for epoch in full().finetune]
    found = Page(page(replace(full(), finetune=epochs)))
    assert "3 epochs; best validation NDCG@10 0.5000 after epoch 1, which is kept" in found.said
    assert "NDCG@10 of validation users" in found.said
    assert "NDCG@10 of validation users" not in Page(page(full())).said


def test_best_figure_of_each_column_is_marked_once() -> None:
    source = page(full())
    assert source.count('<strong class="best">') == 2 * 5  # counted by items, and by codes
    assert re.search(r"EASE\u1d3f</th><td><strong", source)


def test_text_of_users_is_escaped() -> None:
    source = page(full())
    assert "<script" not in source
    assert "&lt;script&gt;" in source
    found = Page(source)
    assert ATTACK in found.said
    assert "User <b>u1</b>" in found.said
    assert found.all("b") == []


def test_settings_and_names_are_escaped() -> None:
    found = Page(page(ReportData(name=ATTACK, shop=ATTACK, settings=ATTACK, machine=ATTACK)))
    assert found.all("script") == []
    assert found.said.count("alert") == 6  # title, heading, facts, machine, settings, document


def test_page_fetches_nothing() -> None:
    source = page(full())
    for _, attributes in Page(source).found:
        for name in ("src", "href", "data", "srcset", "poster"):
            assert re.match(r"#|data:image/|$", attributes.get(name) or "")
    for forbidden in ("http:", "https:", "@import", "url(", "<link", "<iframe"):
        assert forbidden not in source


def test_pictures_are_embedded_with_alternative_texts() -> None:
    found = Page(page(full()))
    sources = {image["alt"]: image["src"] or "" for image in found.all("img")}
    assert sources["Picture of Lamp"].startswith("data:image/jpeg;base64,")
    assert sources["Picture of Cup"].startswith("data:image/png;base64,")
    assert "no picture" in found.said
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in found.all("svg"))


def test_hits_are_marked() -> None:
    data = full()
    found = Page(page(replace(data, examples=[e for e in data.examples if e.user in (0, 1)])))
    assert "next item found at rank 1" in found.said
    assert "next item not found" in found.said
    assert "1 \u00b7 next item" in found.said
    marked = [item for item in found.all("li") if item.get("class") == "next"]
    assert len(marked) == 3  # both true next items, and the one that was recommended
    assert "item i3" in found.said  # it has no title


def test_examples_without_pictures_are_titles_only() -> None:
    found = Page(page(replace(full(), thumbnails={})))
    assert "Lamp" in found.said
    assert found.all("img") == []
    assert "no picture" not in found.said


@pytest.mark.parametrize(
    ("absent", "section"),
    [
        ({"examples": ()}, "examples"),
        ({"catalog": None, "quality": {}}, "examples"),
        ({"quality": {}}, "nearest"),
        ({"semantic_ids": {}, "collisions": {}, "maps": {}, "quality": {}}, "codes"),
        ({"translator": {}, "pretrain": (), "finetune": ()}, "training"),
        ({"counts": {}, "embeddings": {}}, "data"),
        ({"seconds": {}, "machine": "", "settings": ""}, "run"),
    ],
)
def test_absent_parts_are_left_out(absent: dict[str, Any], section: str) -> None:
    found = Page(page(replace(full(), **absent)))
    assert section not in found.sections()
    assert len(found.sections()) == 6 - (section != "nearest" and "quality" in absent)
    assert f"#{section}" not in {link["href"] for link in found.all("a")}


def test_nothing_but_a_name_is_a_page() -> None:
    found = Page(page(ReportData(name="bare", shop="shop")))
    assert found.sections() == ["results"]
    assert "This run has not been evaluated." in found.said


def test_texts_only_without_pre_training() -> None:
    data = full()
    one: dict[str, Any] = {
        name: {"text": getattr(data, name)["text"]}
        for name in ("embeddings", "translator", "semantic_ids", "collisions", "quality", "maps")
    }
    figures = metrics()
    figures = {"rankings": {name: figures["rankings"][name] for name in ("text", "popular")}}
    found = Page(page(replace(data, **one, metrics=figures, pretrain=(), thumbnails={})))
    assert "The text ranking has the true next item" in found.said
    assert "Recommender, without pre-training" in found.said
    assert "Image" not in found.said
    assert "interval" not in found.said


def test_given_codes_have_no_codebooks() -> None:
    figures = quality() | {"neighbours": None, "reconstruction": None}
    figures["examples"] = [{"item": 0, "by_codes": [1, 4]}]
    given = replace(full(), maps={}, translator={}, quality={"text": figures}, metrics=None)
    found = Page(page(given))
    assert "The codes were given, so there are no codebooks to draw." in found.said
    assert "Error of reconstruction" not in found.said
    assert "one after the other in a history 62.50 %" in found.said
    assert "Nearest by text codes" in found.said
    assert "Nearest by text embedding" not in found.said


def test_page_before_any_t5_says_what_the_codes_keep() -> None:
    early = replace(full(), metrics=None, examples=(), pretrain=(), finetune=())
    found = Page(page(early))
    assert found.sections() == ["codes", "nearest", "training", "data", "run"]
    assert "semantic IDs of shop" in found.said
    assert (
        "Text codes lose 34.0 % of the embeddings' variance; of an item's 2 nearest 75.0 % begin "
        "with the same code, of any two items 40.0 %."
    ) in found.said
    assert "evaluated" not in found.said
    assert "Picture of Lamp" in {image["alt"] for image in found.all("img")}


def test_items_without_any_code_and_broken_codebooks() -> None:
    ids = replace(semantic_ids("text"), present=np.zeros(6, np.bool_))
    broken = draw_maps(
        [np.full((4, 3), np.nan, np.float32)] * 2, np.zeros((6, 3), np.float32), rows=np.arange(0)
    )
    found = Page(
        page(replace(full(), semantic_ids={"text": ids}, maps={"text": broken}, quality={}))
    )
    assert "Text codes of" not in found.said
    assert "nan" not in str(found.found)


def test_modality_that_is_not_encoded() -> None:
    found = Page(page(replace(full(), embeddings={"image": {"encoder": None}})))
    assert "Images were not encoded." in found.said


def test_same_data_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name / "index.html", full())
    first, second = ((tmp_path / name / "index.html").read_bytes() for name in ("a", "b"))
    assert first == second
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["index.html"]


def test_failed_write_leaves_the_old_page(tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    write(path, ReportData(name="old", shop="shop"))
    with pytest.raises(KeyError):
        write(path, replace(full(), finetune=[{"train_loss": 1.0}]))  # no epoch
    assert "old" in path.read_text(encoding="utf-8")
    assert [left.name for left in tmp_path.iterdir()] == ["index.html"]


def test_examples_are_half_hits() -> None:
    chosen = choose_examples(shop(), rankings(), n_users=2, seed=0)
    assert [example.rank is not None for example in chosen] == [True, False]
    again = choose_examples(shop(), rankings(), n_users=2, seed=0)
    assert [example.user for example in again] == [example.user for example in chosen]
    everyone = choose_examples(shop(), rankings(), n_users=9, seed=0)
    assert sorted(example.user for example in everyone) == [0, 1, 2, 3]
    assert choose_examples(shop(), rankings(), n_users=0, seed=0) == ()


def test_example_holds_the_end_of_the_history() -> None:
    (example,) = [e for e in choose_examples(shop(), rankings(), n_users=4, seed=0) if e.user == 2]
    assert example.history.tolist() == [0, 1, 2, 3, 4, 5, 0, 1][-8:]
    assert (example.n_history, example.target, example.rank) == (10, 2, 1)
    assert example.items == {0, 1, 2, 3, 4, 5}


def test_example_leaves_out_the_end_of_a_short_ranking() -> None:
    (example,) = [e for e in choose_examples(shop(), rankings(), n_users=4, seed=0) if e.user == 1]
    assert example.recommended.tolist() == [0, 4]
    assert isinstance(example, Example)
    assert example.rank is None


def test_rankings_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "fused.parquet"
    catalog = shop()
    write_rankings(path, rankings(), user_ids=catalog.user_ids, item_ids=catalog.item_ids)
    table = pl.read_parquet(path)
    assert table.columns == ["user_id", "rank", "item_id", "score"]
    assert table.dtypes == [pl.String, pl.Int32, pl.String, pl.Float32]
    assert table.height == 11
    assert table.row(0) == ("u0", 1, "i3", -1.0)
    second = table.filter(pl.col("user_id") == catalog.user_ids[1])
    assert second.rows() == [("<b>u1</b>", 1, "i0", -1.0), ("<b>u1</b>", 2, "i4", -2.0)]
    assert [left.name for left in path.parent.iterdir()] == ["fused.parquet"]


def test_rankings_of_nobody(tmp_path: Path) -> None:
    empty = Rankings(np.zeros((0, 3), np.int32), np.zeros((0, 3), np.float32))
    write_rankings(tmp_path / "none.parquet", empty, user_ids=(), item_ids=("i0",))
    assert pl.read_parquet(tmp_path / "none.parquet").height == 0


def test_rankings_need_the_ids_of_the_same_shop(tmp_path: Path) -> None:
    catalog, path = shop(), tmp_path / "none.parquet"
    with pytest.raises(ValueError, match="`user_ids`: expected 4, one per ranking, got 3"):
        write_rankings(path, rankings(), user_ids=catalog.user_ids[:3], item_ids=catalog.item_ids)
    with pytest.raises(ValueError, match=r"`rankings\.items`: expected rows below 4"):
        write_rankings(path, rankings(), user_ids=catalog.user_ids, item_ids=catalog.item_ids[:4])
    assert not path.exists()
