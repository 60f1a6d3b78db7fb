"""Every format from small files, and what is said of files that are not as they should be."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mql4grec.catalog import Catalog, load, prepare
from mql4grec.catalog.tables import Column, column_names, read_table
from mql4grec.config import CatalogSettings, DatasetSettings
from mql4grec.errors import ArtifactError, ConfigError, DataError

USERS = ("u1", "u2")
ORDER = {"u1": ["a", "b", "c"], "u2": ["c", "a", "b"]}
EVENTS: list[dict[str, Any]] = [
    {"user_id": user, "item_id": item, "timestamp": time}
    for user, items in ORDER.items()
    for time, item in enumerate(items)
]
ITEMS: list[dict[str, Any]] = [
    {
        "item_id": "a",
        "title": "Lamp",
        "description": "Made of <b>glass</b>.",
        "image": "pics/a.png",
    },
    {"item_id": "b", "title": "Vase &amp; bowl", "description": "", "image": "https://x/b.png"},
    {"item_id": "c", "title": "", "description": '["Warm", "soft"]', "image": None},
]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(**settings: object) -> Catalog:
    dataset = DatasetSettings.model_validate({"name": "shop", **settings})
    catalog_settings = CatalogSettings(datasets=(dataset,), k_core=0)
    return prepare(dataset, catalog_settings, folder=Path("out"), seed=3)


def assert_same(one: Catalog, other: Catalog) -> None:
    for field in ("name", "item_ids", "user_ids", "titles", "texts", "images"):
        assert getattr(one, field) == getattr(other, field)
    for field in ("offsets", "items"):
        mine, theirs = getattr(one.histories, field), getattr(other.histories, field)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


def named(catalog: Catalog) -> dict[str, list[str]]:
    return {
        user: [catalog.item_ids[item] for item in catalog.histories.of(row)]
        for row, user in enumerate(catalog.user_ids)
    }


def write_lines(path: Path, records: list[Any]) -> Path:
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_table(path: str, records: list[dict[str, Any]]) -> Path:
    frame, file = pl.DataFrame(records), Path(path)
    kind = file.stem.split(".")[-1] if file.suffix == ".gz" else file.suffix[1:]
    if kind in ("jsonl", "json", "ndjson"):
        return write_lines(file, records)
    if kind == "parquet":
        frame.write_parquet(file)
        return file
    content = frame.write_csv(separator="\t" if kind == "tsv" else ",").encode()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return file


@pytest.mark.parametrize(
    "suffix",
    ["csv", "tsv", "parquet", "jsonl", "ndjson", "json", "csv.gz", "tsv.gz", "jsonl.gz", "json.gz"],
)
def test_tables(suffix: str) -> None:
    catalog = run(
        interactions=write_table(f"events.{suffix}", EVENTS),
        items=write_table(f"items.{suffix}", ITEMS),
        image_column="image",
    )
    assert catalog.item_ids == ("a", "b", "c")
    assert catalog.user_ids == USERS
    assert named(catalog) == ORDER
    assert catalog.titles == ("Lamp", "Vase & bowl", "")
    assert catalog.texts == ("Lamp. Made of glass.", "Vase & bowl", "Warm soft")
    assert catalog.images == (Path("pics/a.png").absolute(), None, None)
    assert_same(load(Path("out"), "shop"), catalog)


def test_tables_with_other_names_and_no_time() -> None:
    events = [{"who": 1, "what": item} for item in (30, 10, 20)]
    items = [{"id": number, "name": f"N{number}", "brand": "X"} for number in (10, 20, 30)]
    catalog = run(
        interactions=write_table("events.parquet", events),
        items=write_table("items.parquet", items),
        user_column="who",
        item_column="what",
        time_column=None,
        item_id_column="id",
        title_column="name",
        description_columns=("brand",),
        images="pics/{item_id}.jpg",
    )
    assert named(catalog) == {"1": ["30", "10", "20"]}
    assert catalog.texts == ("N10. X", "N20. X", "N30. X")
    assert catalog.images[0] == Path("pics/10.jpg").absolute()


def test_ids_that_pandas_made_floats_are_whole_numbers_again() -> None:
    events = [{"user_id": 1.0, "item_id": float(i), "timestamp": 0.5} for i in range(3)]
    events.append({"user_id": float("nan"), "item_id": 1.0, "timestamp": 0.5})
    catalog = run(interactions=write_table("events.parquet", events))
    assert named(catalog) == {"1": ["0", "1", "2"]}


def test_an_items_table_may_lack_default_texts_but_not_those_asked_for() -> None:
    events = write_table("events.csv", EVENTS)
    items = write_table("items.csv", [{"item_id": i, "Title": i} for i in "abc"])
    assert run(interactions=events, items=items).texts == ("", "", "")
    with pytest.raises(DataError) as refusal:
        run(interactions=events, items=items, title_column="title")
    assert str(refusal.value) == (
        "`items.csv`: expected a column 'title', got the columns 'item_id', 'Title'; "
        "set `title_column`, the nearest is 'Title'"
    )


def test_recbole() -> None:
    folder = Path("data/shop")
    folder.mkdir(parents=True)
    lines = [f"{e['user_id']}\t{e['item_id']}\t5.0\t{e['timestamp']}.0" for e in EVENTS]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (folder / "shop.inter").write_text("\n".join([header, *lines]) + "\n")
    without_items = run(format="recbole", root=Path("data"))
    assert named(without_items) == ORDER
    header = "item_id:token\ttitle:token_seq\tprice:float"
    rows = ['b\t12" vase\t1', 'c\t"Odd\t2', "a\tLamp\t3"]
    (folder / "shop.item").write_text("\n".join([header, *rows]) + "\n")
    catalog = run(format="recbole", root=Path("data"))
    assert catalog.item_ids == ("b", "c", "a")
    assert catalog.titles == ('12" vase', '"Odd', "Lamp")
    assert named(catalog) == ORDER


AMAZON_META = {"description": ["Made of", "<i>glass</i>"], "title": "Lamp", "brand": "X"}


@pytest.mark.parametrize("python_literals", [False, True])
def test_amazon2018(python_literals: bool) -> None:
    reviews = [
        {"reviewerID": e["user_id"], "asin": e["item_id"], "unixReviewTime": e["timestamp"]}
        for e in EVENTS
    ]
    meta: list[Any] = [
        {**AMAZON_META, "asin": "a", "imageURLHighRes": ["https://x/a.jpg"]},
        {"asin": "b", "title": None, "description": []},
        {"asin": "c", "description": ""},
    ]
    meta_file = write_lines(Path("meta_Shop.json.gz"), meta)
    if python_literals:
        meta_file.write_bytes(gzip.compress("\n".join(map(repr, meta)).encode()))
    catalog = run(
        format="amazon2018",
        interactions=write_lines(Path("Shop_5.json.gz"), reviews),
        items=meta_file,
        images="pics/{item_id}.jpg",
    )
    assert named(catalog) == ORDER
    assert catalog.texts == ("Lamp. Made of glass", "", "")
    assert catalog.images[0] == Path("pics/a.jpg").absolute()


@pytest.mark.parametrize("key", ["parent_asin", "asin"])
def test_amazon2023(key: str) -> None:
    reviews = [
        {
            "user_id": e["user_id"],
            key: e["item_id"],
            "timestamp": 1_600_000_000_000 + e["timestamp"],
        }
        for e in EVENTS
    ]
    meta = [{**AMAZON_META, "parent_asin": i, "images": [{"large": "u"}]} for i in "abc"]
    catalog = run(
        format="amazon2023",
        interactions=write_lines(Path("Shop.jsonl"), reviews),
        items=write_lines(Path("meta_Shop.jsonl"), meta),
        description_columns=("brand", "description"),
    )
    assert named(catalog) == ORDER
    assert catalog.texts[0] == "Lamp. X. Made of glass"
    assert catalog.images == (None, None, None)


def write_authors(**files: object) -> Path:
    folder = Path("data/shop")
    folder.mkdir(parents=True, exist_ok=True)
    for part, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"shop.{part.replace('_', '.')}").write_text(text)
    return Path("data")


def test_authors_keep_their_rows() -> None:
    root = write_authors(
        inter_json={"0": [2, 2, 0], "1": [0, 3], "2": [0, 1, 9, 3]},
        item_json={
            "0": {"title": "Lamp", "description": "['Glass']"},
            "2": {"image": "pics/c.jpg"},
        },
        item2id="A\t0\nB\t1\nC\t2\nD\t3\n",
        user2id="x\t0\ny\t1\nz\t2\n",
    )
    catalog = run(format="authors", root=root)
    assert catalog.item_ids == ("A", "B", "C", "D")
    assert named(catalog) == {"x": ["C", "C", "A"], "z": ["A", "B", "D"]}
    assert catalog.texts == ("Lamp. Glass", "", "", "")
    assert catalog.images[2] == Path("data/shop/pics/c.jpg").absolute()
    faults = json.loads(Path("out/counts.json").read_text())["faults"]
    assert (faults["short_users"], faults["unknown_items"]) == (1, 1)
    assert_same(load(Path("out"), "shop"), catalog)


def test_authors_with_histories_only() -> None:
    catalog = run(format="authors", root=write_authors(inter_json={"7": [4, 0, 1]}))
    assert catalog.n_items == 5
    assert named(catalog) == {"7": ["4", "0", "1"]}


def test_our_own_files_read_as_the_authors() -> None:
    first = run(
        interactions=write_table("events.csv", EVENTS),
        items=write_table("items.csv", ITEMS),
        image_column="image",
    )
    Path("out").rename("shop")
    assert_same(run(format="authors", root=Path(), images_outside=True), first)


AUTHORS_FAULTS = [
    ({"inter_json": "{"}, "shop.inter.json`: expected JSON, got Expecting property name"),
    ({"inter_json": []}, "shop.inter.json`: expected one JSON object, got list"),
    ({"inter_json": {"0": 3}}, "shop.inter.json`, user '0': expected a list of item rows, got 3"),
    (
        {"inter_json": {"0": [1, "2"]}},
        "shop.inter.json`, user '0', event 2: expected the row of an item, a whole number from 0, "
        "got '2'; correct it",
    ),
    ({"inter_json": {"bob": [1]}}, "shop.inter.json`, user 'bob': expected a row, a whole number"),
    (
        {"inter_json": {"0": [0, 0, 0]}, "item_json": {"0": 5}},
        "item '0': expected an object, got 5",
    ),
    (
        {"inter_json": {"0": [0, 0, 0]}, "item2id": "A 0\n"},
        "shop.item2id`, line 1: expected a name, a tab and a row of its own, got 'A 0'",
    ),
    ({"inter_json": {}, "item2id": "A\t0\nB\t0\n"}, "shop.item2id`, line 2: expected a name"),
    ({"inter_json": {}, "item2id": "A\t0\nB\t2\n"}, "expected the rows 0 to 1, got 2; number"),
    ({"inter_json": {}, "item2id": "A\t0\nA\t1\n"}, "expected different names, got 'A' twice"),
    (
        {"inter_json": {}, "item2id": "A\t0\n", "item_json": {"1": {}}},
        "shop.item.json`: expected rows below 1 as in `data/shop/shop.item2id`, got 1; use files",
    ),
    ({"inter_json": {"1": [0]}, "user2id": "x\t0\n"}, "expected all users, got 1, without user 1"),
    ({}, "shop.inter.json`: no such file; check the path, it is relative to"),
]


@pytest.mark.parametrize(("files", "message"), AUTHORS_FAULTS)
def test_faulty_files_of_the_authors_layout(files: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as refusal:
        run(format="authors", root=write_authors(**files))
    assert message in str(refusal.value)


def test_an_unknown_row_of_the_authors_layout_names_user_and_event() -> None:
    root = write_authors(inter_json={"0": [0, 0, 5]}, item2id="A\t0\n", user2id="x\t0\n")
    dataset = DatasetSettings(name="shop", format="authors", root=root)
    settings = CatalogSettings(datasets=(dataset,), unknown_items="error")
    with pytest.raises(DataError) as refusal:
        prepare(dataset, settings, folder=Path("out"), seed=0)
    assert str(refusal.value) == (
        "`data/shop/shop.inter.json`, user 'x', event 3: expected an item of "
        "`data/shop/shop.item2id`, got '5'; correct it or set `catalog.unknown_items` to \"drop\""
    )


def test_demo() -> None:
    catalog = run(format="demo", n_items=40, n_users=30)
    assert catalog.n_items == 40
    assert Path("out/shop/items.csv").exists()
    assert any(image is not None and image.exists() for image in catalog.images)
    assert '"image": "shop/' in Path("out/shop.item.json").read_text()  # the folder can move
    assert_same(load(Path("out"), "shop"), catalog)


COLUMNS = {"user": Column("u", "user_column"), "item": Column("i", "item_column")}
MALFORMED = {
    "too many fields": (
        "t.csv",
        b"u,i\n1,2\n\n3,4,5\n",
        "`t.csv`, line 4: expected 2 fields as in the header, got 3; "
        "put quotes around fields that contain the separator",
    ),
    "open quote": (
        "t.csv",
        b'u,i\n1,2\n3,"4\n5,6\n',
        "`t.csv`, line 3: expected a row of fields, got unexpected end of data; "
        "correct the quotes in it",
    ),
    "not UTF-8": (
        "t.csv",
        b"u,i\n1,2\n3,caf\xe9\n",
        "`t.csv`, line 3: expected UTF-8, got byte 0xe9; convert the file to UTF-8",
    ),
    "same column twice": (
        "t.csv",
        b'u,u\n1,x"y\n2,z\n',
        "`t.csv`: expected different column names, got ['u', 'u']; rename some",
    ),
    "cut off": (
        "t.csv.gz",
        gzip.compress(b"u,i\n1,2\n")[:-4],
        "`t.csv.gz`: expected a readable file, got one whose compressed data are cut short; "
        "write or fetch it again",
    ),
    "no JSON": (
        "t.jsonl",
        b'{"u": 1, "i": 2}\n\n{"u": 1, "i":\n',
        '`t.jsonl`, line 3: expected one JSON object, got \'{"u": 1, "i":\'; '
        "correct or delete the line",
    ),
    "a JSON list": (
        "t.json",
        b'[{"u": 1, "i": 2}]\n',
        '`t.json`, line 1: expected one JSON object, got \'[{"u": 1, "i": 2}]\'; '
        "correct or delete the line",
    ),
    "no header": (
        "t.csv",
        b"",
        "`t.csv`: expected a column 'u', got the columns none; set `user_column`",
    ),
    "no lines": (
        "t.jsonl",
        b"",
        "`t.jsonl`: expected a column 'u', got the columns none; set `user_column`",
    ),
    "other columns": (
        "t.jsonl",
        b'{"u": 1}\n{"u": 1, "ii": 3}\n',
        "`t.jsonl`: expected a column 'i', got the columns 'u', 'ii'; "
        "set `item_column`, the nearest is 'ii'",
    ),
    "unknown suffix": (
        "t.xlsx",
        b"",
        "`t.xlsx`: expected a name ending in .csv, .tsv, .inter, .item, .json, .jsonl, .ndjson, "
        ".parquet, possibly with .gz; rename or convert the file",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_tables(name: str) -> None:
    file, content, message = MALFORMED[name]
    Path(file).write_bytes(content)
    with pytest.raises(DataError) as refusal:
        read_table(Path(file), columns=COLUMNS)
    assert str(refusal.value) == message


def test_a_parquet_file_that_is_none() -> None:
    Path("t.parquet").write_bytes(b"u,i\n1,2\n")
    with pytest.raises(DataError, match=r"^`t\.parquet`: expected a Parquet file, got "):
        read_table(Path("t.parquet"), columns=COLUMNS)


READABLE = {
    "an inch sign": ("t.csv", b'u,i\n1,12" vase\n3,4\n', [(1, "1", '12" vase'), (2, "3", "4")]),
    "line breaks in quotes": ("t.csv", b'u,i\n1,"x\ny"\n3,\n', [(1, "1", "x\ny"), (2, "3", None)]),
    "a blank line": ("t.csv", b"u,i\n1,2\n\n3,4\n", [(1, "1", "2"), (2, "3", "4")]),
    "a short line": ("t.csv", b"u,i\n1,2\n3\n", [(1, "1", "2"), (2, "3", None)]),
    "a byte-order mark": ("t.csv", b"\xef\xbb\xbfu,i\r\n1,2\r\n", [(1, "1", "2")]),
    "a column called row": ("t.csv", b"row,u,i\n7,1,2\n", [(1, "1", "2")]),
    "unpacked": ("t.csv.gz", b"u,i\n1,2\n", [(1, "1", "2")]),
    "nested JSON": ("t.jsonl", b'{"u": 1, "i": ["a", {"b": 2}]}\n', [(1, "1", '["a", {"b": 2}]')]),
    "a Python literal": ("t.jsonl", b"{'u': 1, 'i': 'it''s', 'z': None}\n", [(1, "1", "its")]),
}


@pytest.mark.parametrize("name", READABLE)
def test_unusual_tables(name: str) -> None:
    file, content, expected = READABLE[name]
    Path(file).write_bytes(content)
    assert read_table(Path(file), columns=COLUMNS).rows() == expected


def test_column_names_of_typed_headers() -> None:
    Path("t.inter").write_text("user_id:token\titem_id:token\n")
    assert column_names(Path("t.inter")) == ["user_id", "item_id"]


def test_missing_files_and_settings() -> None:
    with pytest.raises(DataError, match=r"`none\.csv`: no such file; check the path, it is rel"):
        run(interactions=Path("none.csv"))
    with pytest.raises(ConfigError) as refusal:
        run()
    assert str(refusal.value) == (
        "`interactions` of data set 'shop': expected a path for format 'tables', got None; set it"
    )
    for layout in ("recbole", "authors"):
        with pytest.raises(ConfigError, match="`root` of data set 'shop': expected a path"):
            run(format=layout)
    with pytest.raises(ConfigError) as refusal:
        run(interactions=write_table("events.csv", EVENTS), images="pics")
    assert str(refusal.value) == (
        "`images` of data set 'shop': expected a path that contains '{item_id}', got 'pics'; "
        "put it where the file names differ"
    )


def test_ids_that_the_authors_files_cannot_hold_are_refused() -> None:
    events = [{**event, "user_id": "u\t1"} for event in EVENTS[:3]]
    with pytest.raises(DataError) as refusal:
        run(interactions=write_table("events.csv", events))
    assert str(refusal.value) == (
        "`shop.user2id`: expected names without tabs and line breaks, got 'u\\t1'; rename it"
    )


def test_load_tells_which_command_makes_its_files() -> None:
    with pytest.raises(ArtifactError) as refusal:
        load(Path("out"), "shop")
    assert str(refusal.value) == "`out/shop.inter.json`: no such file; `mql4grec prepare` makes it"


def test_load_refuses_files_that_do_not_belong_together() -> None:
    run(interactions=write_table("events.csv", EVENTS))
    Path("out/shop.item2id").write_text("a\t0\n")
    with pytest.raises(DataError, match=r"expected the rows of the 1 items of `out/shop\.item2id`"):
        load(Path("out"), "shop")
