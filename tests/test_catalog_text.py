"""Item texts made plain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mql4grec.catalog.text import clean_text, join_texts


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ""),
        ("  a\n\tb\u00a0 c ", "a b c"),
        ("one<br>two<p class='x'>three</p>", "one two three"),
        ("the 10<sup>th</sup> <b>very</b> best", "the 10th very best"),
        ("a <!-- .header {color: red} --> b", "a b"),
        ("a <!-- cut off", "a"),
        ("a<script type='x'>var i = 1 < 2;</script>b", "a b"),
        ("a<STYLE>p {}</STYLE > b", "a b"),
        ("I <3 it, 1 < 2 > 0", "I <3 it, 1 < 2 > 0"),
        ("labels for printing. <br", "labels for printing."),
        ("13 &times; 10&quot; &amp; more &#39;x&#x27;", "13 \u00d7 10\" & more 'x'"),
        ("http://x?a=1&reg=2&copy=3, AT&T", "http://x?a=1&reg=2&copy=3, AT&T"),
        ("a&lt;br/&gt;b, press &lt;Enter&gt;", "a b, press <Enter>"),
        ("[]", ""),
        ("['', '']", ""),
        ("['one', \"it's two\"]", "one it's two"),
        ('["one", "two\\n\\u00e9"]', "one two é"),
        ('["one", ["two", null, 3]]', "one two 3"),
        ('{"Brand": "X", "Colours": ["red", "blue"]}', "Brand: X Colours: red blue"),
        ("['It's 3/16\" wide.\\nStrong', 'Yes']", "It's 3/16\" wide. Strong Yes"),
        ("[4 Rolls] Labels", "[4 Rolls] Labels"),
        ("{'broken}", "{'broken}"),
        ("['a\\d']", "a\\d"),
        ("var aPageStart = (new Date()).getTime();", ""),
        ("x\u200by\x00z\ud83d", "xyz"),
    ],
)
def test_clean_text(value: str, expected: str) -> None:
    assert clean_text(value) == expected


@given(st.text(alphabet=st.sampled_from("<>!-/[]{}'\",&;ab brpi\\n0"), max_size=60))
def test_clean_text_takes_anything(value: str) -> None:
    text = clean_text(value)
    assert text == " ".join(text.split())
    text.encode()


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], ""),
        (["", ""], ""),
        (["title"], "title"),
        (["title", ""], "title"),
        (["", "words"], "words"),
        (["title", "words"], "title. words"),
        (["title!", "words"], "title! words"),
        (["same", "same", "other"], "same. other"),
    ],
)
def test_join_texts(parts: list[str], expected: str) -> None:
    assert join_texts(parts) == expected
