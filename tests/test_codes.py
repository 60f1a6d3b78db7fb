"""Room `codes`: semantic IDs of a translation, index files of ours and of others."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from mql4grec import codes
from mql4grec._core import resolve_collisions_from_latents
from mql4grec.codes import CollisionReport, SemanticIds
from mql4grec.config import CodesSettings, Modality
from mql4grec.errors import CollisionError, DataError
from mql4grec.translator import Translation

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def translation(
    rows: list[list[int]], *, n_codes: tuple[int, ...] = (4, 4), present: Any = None, seed: int = 0
) -> Translation:
    """Items with these codes, and latents and codebooks drawn from a seed."""
    rng = np.random.default_rng(seed)
    return Translation(
        dataset="shop",
        modality="image",
        codes=np.array(rows, np.uint16).reshape(len(rows), len(n_codes)),
        latents=rng.normal(size=(len(rows), 3)).astype(np.float32),
        codebooks=tuple(rng.normal(size=(n, 3)).astype(np.float32) for n in n_codes),
        present=np.ones(len(rows), np.bool_) if present is None else np.array(present, np.bool_),
        quantisation_error=0.5,
    )


def test_assign_gives_every_item_codes_of_its_own_and_says_what_it_took() -> None:
    given_codes = translation([[0, 1], [2, 3], [0, 1], [0, 1], [1, 1], [2, 3]])

    ids, report = codes.assign(given_codes)

    distances = reference.computed(given_codes.latents, given_codes.codebooks)
    before = [tuple(row) for row in given_codes.codes.tolist()]
    after = reference.resolve(before, distances, n_codes=(4, 4))
    assert [tuple(row) for row in ids.codes.tolist()] == after
    assert (ids.dataset, ids.modality, ids.n_codes, ids.n_levels) == ("shop", "image", (4, 4), 2)
    errors = [
        reference.cost_by_latents(distances, r, before[r], after[r])
        for r in range(6)
        if before[r] != after[r]
    ]
    shares = np.array([1, 2, 3]) / 6
    bits = -(shares * np.log2(shares)).sum()
    last = [code for _, code in after]
    shares = np.unique(last, return_counts=True)[1] / 6
    last_bits = -(shares * np.log2(shares)).sum()
    before_bits = -(np.log2(4 / 6) * 4 / 6 + np.log2(2 / 6) * 2 / 6)
    assert dataclasses.asdict(report) == {
        "n_items": 6,
        "n_shared_before": 5,
        "n_groups_before": 2,
        "largest_group": 3,
        "rate_before": 0.5,
        "rate_after": 0.0,
        "n_moved": 3,
        "moved_per_level": (0, 3),
        "added_error": pytest.approx(sum(errors) / 3),
        "quantisation_error": 0.5,
        "added_share": pytest.approx(sum(errors) / 3.0),
        "usage_before": (3, 2),
        "usage_after": (3, len(set(last))),
        "entropy_before": (pytest.approx(bits), pytest.approx(before_bits)),
        "entropy_after": (pytest.approx(bits), pytest.approx(last_bits)),
        "perplexity_before": (pytest.approx(2**bits), pytest.approx(2**before_bits)),
        "perplexity_after": (pytest.approx(2**bits), pytest.approx(2**last_bits)),
        "prefixes": (3, 6),
        "fill": (0.75, 0.5),
    }
    assert json.loads(json.dumps(dataclasses.asdict(report)))["n_moved"] == 3


def test_items_without_an_embedding_hold_no_codes() -> None:
    # Rows 0 and 2 are absent: their zeros neither collide nor occupy (0, 0).
    given_codes = translation(
        [[0, 0], [0, 0], [0, 0], [0, 0]], n_codes=(2, 1), present=[False, True, False, True]
    )

    ids, report = codes.assign(given_codes)

    assert sorted(ids.codes[[1, 3]].tolist()) == [[0, 0], [1, 0]]
    assert ids.codes[[0, 2]].tolist() == [[0, 0], [0, 0]]
    assert ids.present.tolist() == [False, True, False, True]
    assert (report.n_items, report.n_moved, report.moved_per_level) == (2, 1, (1, 0))


def test_assign_leaves_its_input_as_it_was() -> None:
    given_codes = translation([[0, 0]] * 4)
    before = given_codes.codes.copy()
    codes.assign(given_codes)
    assert given_codes.codes.tolist() == before.tolist()


@pytest.mark.parametrize("present", [None, [False, False]])
def test_assign_without_anything_to_do(present: list[bool] | None) -> None:
    _, report = codes.assign(translation([[0, 1], [1, 0]], present=present))

    assert (report.n_moved, report.moved_per_level, report.added_error) == (0, (0, 0), None)
    assert (report.rate_before, report.rate_after, report.largest_group) == (0, 0, 0)


def test_a_catalog_larger_than_the_code_space_is_refused() -> None:
    message = (
        "image codes of `shop`: expected at most 4 items for 2 levels of (2, 2) codes, got 7, 3 "
        "too many; add a level or codes to `translator.num_emb_list`"
    )
    with pytest.raises(CollisionError, match=f"^{re.escape(message)}$"):
        codes.assign(translation([[0, 0]] * 7, n_codes=(2, 2)))


def test_latents_that_cannot_be_ranked_are_told_by_item() -> None:
    broken = translation([[0, 0]] * 4, present=[False, True, True, True])
    broken.latents[0] = np.nan
    broken.latents[2, 1] = np.inf
    message = (
        "image codes of `shop`: expected finite latents, got NaN or infinity for 1 items, the "
        "first of them in rows [2]; look for such numbers in their embeddings"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        codes.assign(broken)


@pytest.mark.parametrize(
    "settings",
    [
        {"policy": "nearest"},
        {"policy": "nearest", "keep": "max_loss"},
        {"policy": "optimal"},
        {"policy": "optimal", "reassign": "colliding"},
        {"policy": "nearest", "open_levels": 3},
    ],
)
def test_the_settings_choose_the_policy(settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 3, (40, 3)).tolist()
    given_codes = translation(rows, n_codes=(4, 4, 4))

    ids, report = codes.assign(given_codes, CodesSettings(**settings))

    expected, moved, costs = resolve_collisions_from_latents(
        given_codes.codes, given_codes.latents, given_codes.codebooks, **settings
    )
    assert ids.codes.tolist() == expected.tolist()
    assert len(moved) == report.n_moved
    assert report.added_error == pytest.approx(costs.mean())
    plain, _, _ = resolve_collisions_from_latents(
        given_codes.codes, given_codes.latents, given_codes.codebooks
    )
    assert ids.codes.tolist() != plain.tolist()  # so the settings are heard


def test_with_item_ids_the_order_of_the_rows_does_not_matter() -> None:
    given_codes = translation([[0, 0]] * 6)
    given_codes.latents[:] = 0.5  # all as near as each other
    item_ids = [f"item-{row}" for row in range(6)]
    order = [4, 2, 0, 5, 3, 1]

    ids, _ = codes.assign(given_codes, item_ids=item_ids)
    shuffled, _ = codes.assign(given_codes, item_ids=[item_ids[row] for row in order])

    assert shuffled.codes.tolist() == ids.codes[order].tolist()
    by_row, _ = codes.assign(given_codes)
    assert by_row.codes.tolist() != ids.codes.tolist()


def test_only_latents_of_items_that_share_are_read() -> None:
    class Latents:
        shape = (4, 3)

        def __getitem__(self, rows: Any) -> Any:
            assert rows.tolist() == [1, 3]
            return np.ones((2, 3), np.float32)

    given_codes = translation([[0, 0], [1, 1], [2, 2], [1, 1]])
    _, report = codes.assign(dataclasses.replace(given_codes, latents=Latents()))
    assert report.n_moved == 1


MODALITIES: st.SearchStrategy[Modality] = st.sampled_from(["text", "image"])


@given(codes_given=st.lists(st.integers(0, 65535), min_size=1, max_size=8), modality=MODALITIES)
def test_tokens_come_back_as_codes(codes_given: list[int], modality: Modality) -> None:
    table = codes.token_table([code + 1 for code in codes_given[:1]], modality=modality)
    assert table[0][codes_given[0]] == f"<{'a' if modality == 'text' else 'A'}_{codes_given[0]}>"
    letters = "abcdefgh" if modality == "text" else "ABCDEFGH"
    tokens = [f"<{letters[level]}_{code}>" for level, code in enumerate(codes_given)]
    assert codes.parse_tokens(tokens, modality=modality) == codes_given


def test_token_table_spells_all_levels() -> None:
    assert codes.token_table((2, 1), modality="text") == [["<a_0>", "<a_1>"], ["<b_0>"]]
    assert [names[-1] for names in codes.token_table((1,) * 8, modality="image")] == [
        f"<{letter}_0>" for letter in "ABCDEFGH"
    ]
    with pytest.raises(ValueError, match=r"^`n_codes`: expected at most 8 levels, got 9$"):
        codes.token_table((1,) * 9, modality="text")


@pytest.mark.parametrize(
    "token",
    ["<b_1>", "<A_1>", "a_1", "<a_>", "<a_01>", "<a_-1>", "<a_65536>", " <a_1>", "<a_\u0661>", 3],
)
def test_a_token_spelt_otherwise_is_told(token: Any) -> None:
    message = f"level 0: expected `<a_0>` to `<a_65535>` (text), got {token!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        codes.parse_tokens([token], modality="text")


def write(path: Path, index: Any) -> Path:
    path.write_text(index if isinstance(index, str) else json.dumps(index))
    return path


def read(path: Path, **options: Any) -> tuple[SemanticIds, CollisionReport]:
    options = {"dataset": "shop", "modality": "text", "n_items": 4} | options
    return codes.read_index(path, **options)


@given(case=st.data())
@settings(max_examples=40)
def test_an_index_file_comes_back(
    case: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    n_codes = tuple(case.draw(st.lists(st.sampled_from([3, 256, 300]), min_size=2, max_size=8)))
    row = st.tuples(*(st.integers(0, n - 1) for n in n_codes))
    rows = case.draw(st.lists(row, min_size=1, max_size=6, unique=True))
    present = np.array(case.draw(st.permutations([True] * len(rows) + [False] * 2)), np.bool_)
    table = np.zeros((len(present), len(n_codes)), np.uint16)
    table[present] = rows
    ids = SemanticIds("shop", case.draw(MODALITIES), table, n_codes, present)
    path = tmp_path_factory.mktemp("codes") / "shop.index_lemb.json"

    codes.write_index(path, ids)
    options: dict[str, Any] = {"modality": ids.modality, "n_items": len(present)}
    again, report = read(path, n_codes=n_codes, shared="refuse", **options)

    assert again.codes.tolist() == ids.codes.tolist()
    assert again.present.tolist() == ids.present.tolist()
    assert (again.n_codes, report.n_items) == (n_codes, len(rows))
    inferred = read(path, **options)[0].n_codes
    assert inferred == tuple(512 if top > 255 else 256 for top in ids.codes.max(axis=0))


def test_an_index_file_is_in_the_authors_layout(tmp_path: Path) -> None:
    ids = SemanticIds(
        dataset="shop",
        modality="image",
        codes=np.array([[1, 2], [0, 0], [3, 0]], np.uint16),
        n_codes=(4, 4),
        present=np.array([True, False, True]),
    )
    codes.write_index(tmp_path / "deep" / "i.json", ids)
    written = json.loads((tmp_path / "deep" / "i.json").read_text())
    assert written == {"0": ["<A_1>", "<B_2>"], "2": ["<A_3>", "<B_0>"]}


def test_large_code_spaces_are_found(tmp_path: Path) -> None:
    path = write(tmp_path / "i.json", {"0": ["<a_65535>", "<b_256>", "<c_255>"]})
    assert read(path)[0].n_codes == (65536, 512, 256)


def test_items_may_be_source_keys(tmp_path: Path) -> None:
    path = write(tmp_path / "i.json", {"B01": ["<a_1>", "<b_2>"], "A07": ["<a_3>", "<b_0>"]})
    ids, _ = read(path, n_items=None, item_ids=("A07", "X", "B01"))
    assert ids.codes.tolist() == [[3, 0], [0, 0], [1, 2]]
    assert ids.present.tolist() == [True, False, True]


SHARED = {"0": ["<a_1>", "<b_0>"], "2": ["<a_0>", "<b_1>"], "3": ["<a_1>", "<b_0>"]}


def test_shared_codes_are_repaired_by_the_lowest_free_code(tmp_path: Path) -> None:
    ids, report = read(write(tmp_path / "i.json", SHARED))
    assert ids.codes.tolist() == [[1, 0], [0, 0], [0, 1], [1, 1]]
    assert (report.n_moved, report.n_shared_before, report.n_groups_before) == (1, 2, 1)
    assert (report.rate_before, report.rate_after, report.added_error) == (1 / 3, 0, None)


def test_shared_codes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "i.json", SHARED)
    message = (
        f"`{path}`: expected codes of its own for every item, got 2 items that share 1 semantic "
        "IDs, the first of them in rows [0, 3]; set `codes.shared` to 'repair' or make the index "
        "again"
    )
    with pytest.raises(CollisionError, match=f"^{re.escape(message)}$"):
        read(path, shared="refuse")


def test_shared_codes_are_kept(tmp_path: Path) -> None:
    ids, report = read(write(tmp_path / "i.json", SHARED), shared="keep")
    assert ids.codes.tolist() == [[1, 0], [0, 0], [0, 1], [1, 0]]
    assert (report.n_moved, report.rate_after) == (0, 1 / 3)


def test_more_items_than_codes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "i.json", {str(item): ["<a_0>", "<b_0>"] for item in range(4)})
    message = (
        f"`{path}`: expected at most 3 items for 2 levels of (1, 3) codes, got 4, 1 too many; add "
        "a level or codes to `translator.num_emb_list`"
    )
    with pytest.raises(CollisionError, match=f"^{re.escape(message)}$"):
        read(path, n_codes=(1, 3))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("[1", "expected JSON, got Expecting ',' delimiter: line 1 column 3 (char 2); "
         "give an index file"),
        ([1, 2], "expected {\"item\": [\"<a_1>\", ...]}, got '[1, 2]'; give an index file"),
        ({}, "expected {\"item\": [\"<a_1>\", ...]}, got '{}'; give an index file"),
        ('{"0": ["<a_1>", "<b_1>"], "0": ["<a_1>", "<b_2>"]}',
         "expected every item once, got '0' again; make the index again"),
        ({"0": 7}, "expected 2 to 8 tokens per item, got 7 for item '0'; make the index again"),
        ({"0": ["<a_1>"]},
         "expected 2 to 8 tokens per item, got ['<a_1>'] for item '0'; make the index again"),
        ({"0": ["<a_1>", "<b_1>"], "1": ["<a_1>"]},
         "expected 2 tokens for every item, as for the first, got ['<a_1>'] for item '1'; make "
         "the index again"),
        ({"4": ["<a_1>", "<b_1>"]},
         "expected items of the catalog (4 of them), got '4'; use the index that was made for "
         "this catalog"),
        ({"01": ["<a_1>", "<b_1>"]},
         "expected items of the catalog (4 of them), got '01'; use the index that was made for "
         "this catalog"),
        ({"2": ["<a_1>", "<c_1>"]},
         "item '2', level 1: expected `<b_0>` to `<b_65535>` (text), got '<c_1>'"),
        ({"2": ["<A_1>", "<B_1>"]},
         "item '2', level 0: expected `<a_0>` to `<a_65535>` (text), got '<A_1>'"),
    ],
)  # fmt: skip
def test_a_broken_index_is_told(index: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "i.json", index)
    with pytest.raises(DataError, match=f"^{re.escape(f'`{path}`: {message}')}$"):
        read(path)


def test_an_index_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "i.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="expected JSON, got 'utf-8' codec"):
        read(tmp_path / "i.json")


def test_a_missing_index_is_told(tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    message = f"`{path}`: cannot be read: No such file or directory; give an index file"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        read(path)


@pytest.mark.parametrize("n_codes", [(4,), (4, 1), (4, 4, 4)])
def test_codes_outside_the_given_space_are_told(n_codes: tuple[int, ...], tmp_path: Path) -> None:
    path = write(tmp_path / "i.json", SHARED)
    message = (
        f"`{path}`: expected {len(n_codes)} levels of codes below {n_codes}, got 2 levels with "
        "codes up to (1, 1); use the index that was made by these codebooks"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        read(path, n_codes=n_codes)


ONE_OF_TWO = r"^`n_items`, `item_ids`: expected one of the two, got both or none$"


def test_misuse_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "i.json", SHARED)
    with pytest.raises(ValueError, match=ONE_OF_TWO):
        read(path, item_ids=["x"])
    with pytest.raises(ValueError, match=ONE_OF_TWO):
        read(path, n_items=None)
    with pytest.raises(ValueError, match=r"^`shared`: expected 'repair', 'refuse' or 'keep', got"):
        read(path, shared="drop")


@pytest.mark.parametrize(
    ("file", "modality", "n_items", "n_levels", "n_groups"),
    [
        ("Instruments/Instruments.index_lemb.json", "text", 6250, 4, 262),
        ("Instruments/Instruments.index_vitemb.json", "image", 6250, 4, 0),
        ("Office/Office.index_3level.json", "text", 3459, 3, 15),
    ],
)
def test_published_indexes(
    file: str, modality: Modality, n_items: int, n_levels: int, n_groups: int
) -> None:
    path = DATA / file
    if not path.exists():
        pytest.skip(f"published data are not at hand: {path}")

    ids, report = read(path, modality=modality, n_items=n_items)

    assert (report.n_items, report.n_groups_before, report.n_moved) == (n_items, n_groups, n_groups)
    assert (report.n_shared_before, report.rate_after) == (2 * n_groups, 0)
    assert ids.n_codes == (256,) * n_levels
    kept, _ = read(path, modality=modality, n_items=n_items, shared="keep")
    assert (ids.codes != kept.codes).any(axis=1).sum() == n_groups
    if n_groups:
        with pytest.raises(CollisionError, match=f"got {2 * n_groups} items"):
            read(path, modality=modality, n_items=n_items, shared="refuse")


def test_the_room_does_not_import_torch() -> None:
    code = "import sys, mql4grec.codes; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
