"""All that a page can show, of a shop of six items; and a reader that checks its elements."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import numpy as np

from mql4grec.catalog import Catalog, Histories
from mql4grec.codes import CollisionReport, SemanticIds
from mql4grec.config import Modality
from mql4grec.decoding import Rankings
from mql4grec.quality import Maps, draw_maps
from mql4grec.report import ReportData, choose_examples
from mql4grec.report.markup import VOID

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
        """Give all words of the page, one space between any two."""
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Give the attributes of every element of a kind."""
        return [attributes for name, attributes in self.found if name == tag]

    def sections(self) -> list[str | None]:
        """Give the names of the sections, in order."""
        return [attributes["id"] for attributes in self.all("section")]


def shop() -> Catalog:
    """Make a shop of six items and four users, with titles that must be escaped."""
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
    """Rank three items for every user of the shop; the second user gets two."""
    items = np.array([[3, 0, 1], [0, 4, -1], [2, 1, 0], [0, 2, 3]], np.int32)
    scores = np.where(items < 0, -np.inf, -np.arange(1, 4)).astype(np.float32)
    return Rankings(items, scores)


def semantic_ids(modality: Modality) -> SemanticIds:
    """Give codes of two levels to all items but the last."""
    codes = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [0, 0]], np.uint16)
    present = np.array([True] * 5 + [False])
    return SemanticIds("shop", modality, codes, (4, 4), present)


def collisions(added_error: float | None) -> CollisionReport:
    """Report one group of two items, of which one was moved."""
    values: dict[str, Any] = dict.fromkeys(CollisionReport.__dataclass_fields__, ())
    values |= {"n_items": 5, "n_shared_before": 2, "n_groups_before": 1, "largest_group": 2}
    values |= {"rate_before": 0.2, "rate_after": 0.0, "n_moved": 1, "moved_per_level": (0, 1)}
    values |= {"quantisation_error": 0.75, "added_share": 0.0625, "usage_after": (2, 3)}
    values |= {"entropy_after": (1.25, 1.5), "perplexity_after": (2.378, 2.828)}
    values |= {"prefixes": (2, 5), "fill": (0.5, 0.625)}
    return CollisionReport(**values | {"added_error": added_error})


def metrics() -> dict[str, Any]:
    """Give figures of five rankings, as an evaluation leaves them."""
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
    """Draw maps of two random codebooks of four codes."""
    generator = np.random.default_rng(5)
    codebooks = [generator.normal(size=(4, 3)).astype(np.float32) for _ in range(2)]
    vectors = generator.normal(size=(6, 3)).astype(np.float32)
    return draw_maps(codebooks, vectors, rows=np.arange(5))


def quality() -> dict[str, Any]:
    """Give what the codes keep, as the stage `quality` leaves it."""
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
    """Put together a page that lacks nothing."""
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
