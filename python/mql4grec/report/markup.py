"""HTML and SVG elements, tables and numbers.

Titles come from users' files, so text must never reach the page unescaped. The type checker sees to
it: elements take `Html` only, and only `text` makes it of a plain string.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import NewType

from mql4grec.errors import plain

Html = NewType("Html", str)

VOID = frozenset({"br", "img", "meta"})  # elements without an end tag
NOTHING = Html("")
NO_VALUE = "\u2013"
NO_BREAK = "\u00a0"


def text(value: object) -> Html:
    """Escape a plain string for the page."""
    return Html(html.escape(plain(str(value))))


def join(parts: Iterable[Html]) -> Html:
    """Put elements side by side."""
    return Html("".join(parts))


def element(name: str, /, *children: Html, **attributes: str | float | None) -> Html:
    """Make an element.

    Args:
        name: Of the element.
        children: What it holds.
        attributes: `class_` stands for class and `aria_label` for aria-label; None leaves it out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(plain(_spell(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{''.join(children)}</{name}>")


def _spell(value: str | float) -> str:
    """Spell an attribute; coordinates with a tenth of a pixel, since a page has thousands."""
    if isinstance(value, str):
        return value
    return f"{value:.1f}".removesuffix(".0")


def paragraph(content: str, *, class_: str | None = None) -> Html:
    """Make a paragraph of plain text."""
    return element("p", text(content), class_=class_)


def details(summary: str, *content: Html) -> Html:
    """Make a part that opens on a click."""
    return element("details", element("summary", text(summary)), *content)


def table(
    bodies: Sequence[Sequence[Html]], *, caption: str, header: Sequence[str], class_: str = ""
) -> Html:
    """Make a table that scrolls sideways where the screen is too narrow.

    Args:
        bodies: Groups of rows, see `row`.
        caption: Says what the table shows; also the name of the scrolling region.
        header: One name per column.
        class_: "words" where cells hold words rather than numbers.
    """
    head = join(element("th", text(name), scope="col") for name in header)
    content = element(
        "table",
        element("caption", text(caption)),
        element("thead", element("tr", head)),
        *(element("tbody", *rows) for rows in bodies if rows),
    )
    return element(
        "div", content, class_=f"table {class_}".strip(), tabindex="0", role="region",
        aria_label=caption,
    )  # fmt: skip


def row(name: Html, cells: Iterable[Html]) -> Html:
    """Make a table's row from its heading and the content of its cells."""
    heading = element("th", name, scope="row")
    return element("tr", heading, *(element("td", cell) for cell in cells))


def section(anchor: str, title: str, *content: Html) -> Html:
    """Make a section of the page; without content, nothing."""
    inside = [part for part in content if part]
    if not inside:
        return NOTHING
    heading = element("h2", text(title), id=f"{anchor}-title")
    return element("section", heading, *inside, id=anchor, aria_labelledby=f"{anchor}-title")


def count(value: float) -> str:
    """Spell a whole number: 12,101."""
    return f"{int(value):,}"


def amount(value: float, noun: str) -> str:
    """Spell a number of things: 1 item, 12 items."""
    return f"{count(value)} {noun}" + ("" if value == 1 else "s")


def percent(value: float, *, digits: int = 1) -> str:
    """Spell a fraction as per cent: 0.0276 is 2.8 %."""
    return f"{100 * value:.{digits}f}{NO_BREAK}%" if math.isfinite(value) else NO_VALUE


def figure(value: float) -> str:
    """Spell any number with about four significant digits."""
    if not math.isfinite(value):
        return NO_VALUE
    return count(value) if float(value).is_integer() else f"{value:,.4g}"


def duration(seconds: float) -> str:
    """Spell a time with two units at most: 3 min 12 s."""
    if seconds < 10:
        return f"{seconds:.1f}{NO_BREAK}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{NO_BREAK}s"
    if whole < 3600:
        return f"{whole // 60}{NO_BREAK}min {whole % 60}{NO_BREAK}s"
    return f"{whole // 3600}{NO_BREAK}h {whole % 3600 // 60}{NO_BREAK}min"
