"""Charts and maps of the page: places, colours, ticks, and the spelling of numbers."""

from __future__ import annotations

import numpy as np
import pytest

from mql4grec.report.axes import even_ticks, log_ticks, spread
from mql4grec.report.charts import Bar, Series, bar_chart, bubbles, line_chart, scatter, strip
from mql4grec.report.maps import code_colours, level_counts
from mql4grec.report.markup import amount, duration, element, figure, percent, text
from mql4grec.report.page import page
from mql4grec.report.semantics import perplexity
from tiny_report import Page, full, maps, semantic_ids


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
