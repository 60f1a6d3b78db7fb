"""A page of hostile names: no element, attribute, address or control character comes from data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny_report
from mql4grec.errors import UNPRINTABLE
from mql4grec.report.page import page, write

HOSTILE = (
    "</script><script>alert(1)</script>",
    "</title></style></pre><img src=x onerror=alert(1)>",
    "\" onmouseover=alert(1) x='",
    "' style='background:url(//a.example)",
    "javascript:alert(1)",
    "<!-- ]]> <svg/onload=alert(1)>",
    "&lt;script&gt; &#x3c;b&#x3e; &amp",
    "\u009b2J\x1b]0;x\x07\x00\x7f",
    "\u202eabc\u2066d\u2028e\u2029",
    "\ud800 half \udfff",
    "{{7*7}} ${7*7} <%= 7 %>",
)


def everywhere(value: str) -> Any:
    """Make a page of everything, with one text in every place that data can fill."""
    data = tiny_report.full()
    shop = replace(
        data.catalog,
        name=value,
        titles=(value,) * 6,
        item_ids=tuple(f"{value}{n}" for n in range(6)),
        user_ids=tuple(f"{value}{n}" for n in range(4)),
    )
    missing = {"n_missing": 1, "missing": [{"item_id": value, "reason": value}]}
    return replace(
        data,
        name=value,
        shop=value,
        settings=value,
        machine=value,
        catalog=shop,
        seconds={value: 1.0},
        counts={value: 1, "faults": {value: value, "ids": [value]}},
        embeddings={"text": {"encoder": value, **missing}},
    )


@pytest.mark.parametrize("value", HOSTILE)
def test_no_element_or_attribute_comes_from_data(value: str) -> None:
    found, plain = (tiny_report.Page(page(everywhere(text))) for text in (value, "plain"))
    assert [tag for tag, _ in found.found] == [tag for tag, _ in plain.found]
    assert [list(attributes) for _, attributes in found.found] == [
        list(attributes) for _, attributes in plain.found
    ]
    for name in ("src", "href", "style"):  # what may name an address
        assert [one.get(name) for _, one in found.found] == [
            one.get(name) for _, one in plain.found
        ]


@pytest.mark.parametrize("value", HOSTILE)
def test_pages_are_utf8_without_control_characters(tmp_path: Path, value: str) -> None:
    write(tmp_path / "index.html", everywhere(value))
    source = (tmp_path / "index.html").read_bytes().decode("utf-8")
    assert UNPRINTABLE.search(source) is None
