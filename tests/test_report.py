"""The page is one sound file that says what the run found, whatever the run lacks."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mql4grec.catalog import Catalog, Histories
from mql4grec.codes import CollisionReport, SemanticIds
from mql4grec.config import Modality
from mql4grec.decoding import Rankings
from mql4grec.quality import Maps, draw_maps
from mql4grec.report import Example, ReportData, choose_examples, write, write_rankings
from mql4grec.report.axes import even_ticks, log_ticks, spread
from mql4grec.report.charts import Bar, Series, bar_chart, bubbles, line_chart, scatter, strip
from mql4grec.report.maps import code_colours, level_counts
from mql4grec.report.markup import VOID, amount, duration, element, figure, percent, text
from mql4grec.report.page import page
from mql4grec.report.semantics import perplexity

ATTACK = '<script>alert("x")</script> & "more"'
PICTURE = b"\xff\xd8\xff\xe0 not much of a picture"
MODALITIES: tuple[Modality, ...] = ("text", "image")


class Page(HTMLParser):
    """Checks that every element is closed where it must be, and collects what the page holds."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]

    def sections(self) -> list[str | None]:
        return [attributes["id"] for attributes in self.all("section")]


def shop() -> Catalog:
    lists = [[0, 1, 2, 3], [1, 2], [4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2], [3, 5, 1]]
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    histories = Histories(offsets, np.concatenate(lists).astype(np.int32))
    return Catalog(
        name="shop",
        item_ids=tuple(f"i{row}" for row in range(6)),
        user_ids=("u0", "<b>u1</b>", "u2", "u3"),
        titles=("Lamp", "Cup", ATTACK, "", "Shoe", "Scarf"),
        texts=("",) * 6,
        images=(None,) * 6,
        histories=histories,
    )


def rankings() -> Rankings:
    items = np.array([[3, 0, 1], [0, 4, -1], [2, 1, 0], [0, 2, 3]], np.int32)
    scores = np.where(items < 0, -np.inf, -np.arange(1, 4)).astype(np.float32)
    return Rankings(items, scores)


def semantic_ids(modality: Modality) -> SemanticIds:
    codes = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [0, 0]], np.uint16)
    present = np.array([True] * 5 + [False])
    return SemanticIds("shop", modality, codes, (4, 4), present)


def collisions(added_error: float | None) -> CollisionReport:
    values: dict[str, Any] = dict.fromkeys(CollisionReport.__dataclass_fields__, ())
    values |= {"n_items": 5, "n_shared_before": 2, "n_groups_before": 1, "largest_group": 2}
    values |= {"rate_before": 0.2, "rate_after": 0.0, "n_moved": 1, "moved_per_level": (0, 1)}
    values |= {"quantisation_error": 0.75, "added_share": 0.0625, "usage_after": (2, 3)}
    values |= {"entropy_after": (1.25, 1.5), "perplexity_after": (2.378, 2.828)}
    values |= {"prefixes": (2, 5), "fill": (0.5, 0.625)}
    return CollisionReport(**values | {"added_error": added_error})


def metrics() -> dict[str, Any]:
    names = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10")
    values = {"fused": 0.125, "text": 0.1, "image": 0.0625, "popular": 0.03, "ease": 0.11}
    found = {name: dict.fromkeys(names, value) for name, value in values.items()}
    found["ease"]["HR@1"] = 0.2222
    return {
        "n_users": 1234,
        "n_items": 6,
        "rankings": found,
        "intervals": {"fused": {"HR@10": [0.1011, 0.1499]}},
        "significance": {
            "fused": {
                metric: {
                    "baseline": "ease", "difference": 0.015, "interval": [-0.0021, 0.0321],
                    "p_value": 0.084,
                }
                for metric in ("NDCG@10", "HR@10")
            }
        },
        "twin_level": {
            "codes": dict.fromkeys(values, "text"),
            "n_users": {"text": 123},
            "rankings": {name: dict.fromkeys(names, 1.5 * value) for name, value in values.items()},
        },
        "by_training_events": {
            "n_users": {"0": 0, "1-5": 34, "6+": 1200},
            "rankings": {
                name: {
                    key: dict.fromkeys(("HR@10", "NDCG@10"), None if key == "0" else value / 2)
                    for key in ("0", "1-5", "6+")
                }
                for name, value in values.items()
            },
        },
    }  # fmt: skip


def maps() -> Maps:
    generator = np.random.default_rng(5)
    codebooks = [generator.normal(size=(4, 3)).astype(np.float32) for _ in range(2)]
    vectors = generator.normal(size=(6, 3)).astype(np.float32)
    return draw_maps(codebooks, vectors, rows=np.arange(5))


def quality() -> dict[str, Any]:
    return {
        "n_items": 5,
        "chance": [0.4, 0.0],
        "neighbours": {"n_items": 4, "k": 2, "before": [0.875, 0.125], "after": [0.75, 0.0]},
        "cobought": {"n_pairs": 8, "after": [0.625, 0.0], "chance": None},
        "reconstruction": {
            "n_items": 4, "variance": 0.0025, "without_codes": 0.2, "before": 0.3125, "after": 0.34,
        },
        "examples": [{"item": 0, "by_embedding": [2, 3], "by_codes": [1, 4]}],
    }  # fmt: skip


def full() -> ReportData:
    catalog = shop()
    epochs: list[dict[str, Any]] = [
        {"epoch": 1, "loss": 2.0, "reconstruction_loss": 1.5, "collision_rate": None},
        {"epoch": 2, "loss": 1.0, "reconstruction_loss": 0.5, "collision_rate": 0.25,
         "perplexity": [3.5, 2.5], "dead_codes": [0, 1]},
    ]  # fmt: skip
    steps = [
        {"epoch": n, "train_loss": 3.0 / n, "valid_loss": 3.25 / n, "samples_per_second": 1500.0}
        for n in (1, 2, 3)
    ]
    missing = {"n_missing": 1, "missing": [{"item_id": "i5", "reason": "no such file <gone>"}]}
    return ReportData(
        name="demo",
        shop="shop",
        settings="name: demo\nseed: 1  # <b>\n",
        machine="2 cores, CPU",
        seconds={"prepare": 2.5, "finetune": 125.0},
        metrics=metrics(),
        counts={"rows_read": 4321, "items_read": None, "faults": {"duplicate_rows": 17}},
        embeddings={"text": {"encoder": "minilm", "n_missing": 0, "missing": []},
                    "image": {"encoder": "lite0", **missing}},
        translator=dict.fromkeys(MODALITIES, epochs),
        quality=dict.fromkeys(MODALITIES, quality()),
        maps=dict.fromkeys(MODALITIES, maps()),
        semantic_ids={modality: semantic_ids(modality) for modality in MODALITIES},
        collisions={"text": collisions(0.25), "image": collisions(None)},
        pretrain=steps[:1],
        finetune=steps,
        catalog=catalog,
        examples=choose_examples(catalog, rankings(), n_users=4, seed=0),
        thumbnails={0: PICTURE, 1: b"\x89PNG picture"},
    )  # fmt: skip


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


def test_codes_are_counted_over_items_that_have_them() -> None:
    counts = level_counts(semantic_ids("text"))
    assert [level.tolist() for level in counts] == [[3, 2, 0, 0], [2, 2, 1, 0]]
    assert perplexity(np.array([5, 5, 0, 5])) == pytest.approx(3.0)


def test_codes_of_one_direction_have_one_hue() -> None:
    places = np.array([[4, 0], [1, 0], [-4, 0], [-1, 0], [np.nan, 0]], np.float32)
    far, near, other, _, broken = code_colours(places)
    assert (far, near) == ("hsl(0 80% 52%)", "hsl(0 48% 52%)")
    assert other == "hsl(180 80% 52%)"
    assert broken == "hsl(0 15% 52%)"


def test_bubbles_have_the_area_of_their_items() -> None:
    places = np.array([[0, 0], [1, 0], [0, 1], [np.nan, 1]], np.float32)
    sizes = np.array([25, 100, 0, 7])
    colours = ["red", "green", "blue", "black"]
    numbers = np.array([3, 5, 6, 7])
    found = Page(bubbles(places, numbers=numbers, sizes=sizes, colours=colours, title="T"))
    radii = {c["style"]: float(c["r"] or 0) for c in found.all("circle")}
    assert radii == {"--series:green": 9.0, "--series:red": 4.5, "--series:blue": 1.8}
    assert [c["class"] for c in found.all("circle")] == ["bubble", "bubble", "ring"]
    assert "code 5: 100 items" in found.said
    assert found.all("svg")[0]["aria-label"] == "T; 4 codes, 3 of them used"


def test_points_of_one_colour_are_one_path() -> None:
    places = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    found = Page(scatter(places, colours=["red", "green"] * 250, title="T"))
    assert [path["style"] for path in found.all("path")] == ["stroke:red", "stroke:green"]
    assert all((path["d"] or "").count("M") == 250 for path in found.all("path"))


def test_maps_colour_items_by_their_first_code() -> None:
    found = Page(page(full()))
    colours = code_colours(maps().codebooks[0])
    bubbles_drawn = {circle.get("style") for circle in found.all("circle")}
    points_drawn = {path.get("style") for path in found.all("path")}
    assert {f"--series:{one}" for one in colours} <= bubbles_drawn
    assert {f"stroke:{colours[0]}", f"stroke:{colours[1]}"} <= points_drawn
    assert f"stroke:{colours[2]}" not in points_drawn  # a code of no item


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 0.153, [0.0, 0.05, 0.1, 0.15, 0.2]),
        (1, 60, [0, 20, 40, 60]),
        (0, 0, [0.0, 0.5, 1.0]),
        (3.2, 7.9, [2, 4, 6, 8]),
    ],
)
def test_even_ticks_are_round_and_enclose(low: float, high: float, expected: list[float]) -> None:
    assert even_ticks(low, high) == pytest.approx(expected)


def test_whole_ticks_and_log_ticks() -> None:
    assert even_ticks(1, 2, whole=True) == [1, 2]
    assert log_ticks(0.03, 1.4) == pytest.approx([0.02, 0.1, 1, 2])
    assert log_ticks(1, 100) == pytest.approx([1, 10, 100])


def test_labels_are_moved_apart() -> None:
    assert spread([10, 12, 50], highest=100, gap=10) == [10, 20, 50]
    assert spread([95, 96, 97], highest=100, gap=10) == [80, 90, 100]


def test_charts_of_the_smallest_and_of_wide_data() -> None:
    one = Page(line_chart([Series("loss", [(1, 2.0)], "c1")], title="Loss"))
    assert one.all("svg")[0]["aria-label"] == "Loss: loss 2 to 2"
    wide = Page(line_chart([Series("loss", [(1, 500.0), (9, 0.5)], "c1")], title="Loss"))
    assert "Loss (log scale)" in wide.said
    bars = Page(bar_chart([Bar("<a>", 0.0, None, "c1"), Bar("b", 0.0, (0, 0), "c2")], title="T"))
    assert "<a>" in bars.said
    for found in (one, wide, bars):
        assert "nan" not in str(found.found)


def test_strip_of_more_codes_than_pixels_stays_small() -> None:
    counts = np.random.default_rng(0).integers(0, 9, 65536)
    assert len(strip(counts, colour="c1", label="usage")) < 8000


def test_elements_and_numbers() -> None:
    assert element("a", text("<"), class_='"', aria_label=None) == '<a class="&quot;">&lt;</a>'
    assert element("line", x1=1.26, x2=3.0) == '<line x1="1.3" x2="3"></line>'
    assert (percent(0.0276), figure(12101), figure(0.012345)) == ("2.8\u00a0%", "12,101", "0.01235")
    assert (percent(float("nan")), figure(float("inf"))) == ("\u2013", "\u2013")
    assert (amount(1, "item"), amount(1200, "item")) == ("1 item", "1,200 items")
    spelt = [duration(seconds).replace("\u00a0", " ") for seconds in (0.44, 12.4, 192, 7500)]
    assert spelt == ["0.4 s", "12 s", "3 min 12 s", "2 h 5 min"]
