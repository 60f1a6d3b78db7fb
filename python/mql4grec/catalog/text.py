"""Item texts as shops have them, made plain: no markup, no lists spelt as strings."""

from __future__ import annotations

import ast
import html
import json
import re
import warnings
from collections.abc import Iterable, Iterator

# Comments, scripts and styles go with what is inside them, also when they are cut off at the end.
_HIDDEN = re.compile(r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)", re.S | re.I)
# Tags inside a word leave no gap: "10<sup>th</sup>" is "10th".
_INLINE = re.compile(
    r"</?(?:a|b|big|em|font|i|s|small|span|strong|sub|sup|u)(?:\s[^<>]*)?/?>", re.I
)
_TAG = re.compile(r"</?[a-z!][^<>]*>", re.I)
# Markup that was escaped shows only after unescaping, and a text may be cut off inside a tag. Only
# well-known tags go then, so that a sentence such as "press &lt;Enter&gt;" keeps its word.
_KNOWN_TAG = re.compile(
    r"</?(?:br|p|div|li|ul|ol|h[1-6]|table|tr|td|th|img|hr|center|tbody)\b[^<>]*(?:>|\Z)", re.I
)
# Only entities that end in a semicolon: without it "&reg" in an address would turn into a sign.
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|\w{2,32});")
# Half of a surrogate pair cannot be written as UTF-8; the others show nothing.
_INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\ufeff\ud800-\udfff]")
_PAGE_TIMER = "(new Date()).getTime()"  # what Amazon's crawl of 2018 took for some titles
_LITERAL = re.compile(r"\[\s*(?:['\"].*)?\]|\{\s*(?:['\"].*)?\}", re.S)
_LIST_OF_TEXTS = re.compile(r"\[\s*['\"].*['\"]\s*,?\s*\]", re.S)
_ESCAPE = re.compile(r"\\(['\"\\])")
_BETWEEN_ELEMENTS = re.compile(r"(?<=['\"]),\s*(?=['\"])")


def clean_text(value: str) -> str:
    """Make a text plain.

    Lists and objects spelt as JSON or as Python literals become their elements, HTML goes (with
    the contents of scripts, styles and comments), entities become characters, runs of white space
    become one space.
    """
    text = "" if _PAGE_TIMER in value else " ".join(_elements(value.strip()))
    if "<" in text:
        text = _TAG.sub(" ", _INLINE.sub("", _HIDDEN.sub(" ", text)))
    if "&" in text:
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    if "<" in text:
        text = _KNOWN_TAG.sub(" ", _INLINE.sub("", text))
    return " ".join(_INVISIBLE.sub("", text).split())


def join_texts(parts: Iterable[str]) -> str:
    """Join cleaned parts of an item's text, each ended like a sentence.

    Empty parts and parts that are there already are left out: many shops repeat the title as the
    description.
    """
    kept = [part for part in dict.fromkeys(parts) if part]
    ended = [part if part[-1] in ".!?:;," else part + "." for part in kept[:-1]]
    return " ".join(ended + kept[-1:])


def _elements(text: str) -> Iterator[str]:
    if not _LITERAL.fullmatch(text):
        yield text
        return
    try:
        yield from _leaves(_parse_literal(text))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        if not _LIST_OF_TEXTS.fullmatch(text):
            yield text
            return
        # quotes inside an element that were never escaped: cut between the elements
        for element in _BETWEEN_ELEMENTS.split(text[1:-1].strip()):
            yield _ESCAPE.sub(r"\1", element.strip()[1:-1].replace("\\n", " "))


def _parse_literal(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        with warnings.catch_warnings():  # "\d" in somebody's description is no fault of ours
            warnings.simplefilter("ignore")
            return ast.literal_eval(text)


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{key}: {' '.join(_leaves(inner))}"
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    elif value is not None:
        yield str(value)
