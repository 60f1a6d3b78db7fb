"""One page to look at, and rankings and recommendations as files.

This room knows how figures become a page: HTML, CSS and SVG by small functions of its own, nothing
fetched from anywhere. It does not know where a run keeps its files: the pipeline fills one record,
`ReportData`, and all of its parts may be absent.

    record    what the page shows: `ReportData`, `Example`
    page      the frame, the summary, the data and the run; `write`
    results   metrics beside the baselines
    examples  pictures and titles of some users
    semantics codes: usage, collisions
    quality   codes: what they keep of embeddings and histories
    maps      codebooks and items on planes
    nearest   pictures and titles of some items and their nearest
    training  curves of every training
    axes      round ticks, pixels, labels that do not overlap
    charts    lines, bars, strips, points and bubbles as SVG
    markup    elements, tables and numbers, escaped
    rankings  Parquet
    recommendations   JSON lines or Parquet
"""

from mql4grec.report.examples import choose_examples
from mql4grec.report.page import write
from mql4grec.report.quality import prefix_lines
from mql4grec.report.rankings import read_rankings, write_rankings
from mql4grec.report.recommendations import (
    Recommendation,
    as_json,
    check_suffix,
    write_recommendations,
)
from mql4grec.report.record import Example, ReportData
from mql4grec.report.results import left_out_note, refit_note

__all__ = [
    "Example",
    "Recommendation",
    "ReportData",
    "as_json",
    "check_suffix",
    "choose_examples",
    "left_out_note",
    "prefix_lines",
    "read_rankings",
    "refit_note",
    "write",
    "write_rankings",
    "write_recommendations",
]
