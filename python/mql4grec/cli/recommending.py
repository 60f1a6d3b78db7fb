"""`recommend`: histories in, items out."""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mql4grec import signals
from mql4grec.cli.options import ConfigOption, SetOption, journal_of, settings_of
from mql4grec.cli.tables import print_recommendation
from mql4grec.errors import ConfigError, DataError, short

if TYPE_CHECKING:
    from mql4grec.catalog import Request
    from mql4grec.report import Recommendation
    from mql4grec.serving import ItemFilters
    from mql4grec.stages.ranking import Ranker


def recommend(
    items: Annotated[
        list[str] | None, typer.Argument(help="Item ids of one history, oldest first.")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    histories: Annotated[
        Path | None,
        typer.Option(
            help="JSON lines, each a list of item ids or an object with `history` and, if wanted, "
            "`only`, `without`, `user_id`; or .parquet with such columns; `-`: standard input."
        ),
    ] = None,
    ranking: Annotated[
        str,
        typer.Option(
            help="`text`, `image` or `fused`; `combined` or `reranked`, if the run has them."
        ),
    ] = "fused",
    top_k: Annotated[int, typer.Option(min=1, help="Items per history.")] = 10,
    unseen: Annotated[
        bool | None,
        typer.Option(
            "--unseen/--seen",
            help="Whether items of the history are left out; default: evaluation.remove_seen.",
        ),
    ] = None,
    only: Annotated[
        Path | None,
        typer.Option(help="Text file, an item id in each line: no others, such as those in stock."),
    ] = None,
    without: Annotated[
        Path | None, typer.Option(help="Text file, an item id in each line: none of these.")
    ] = None,
    drop_unknown: Annotated[
        bool,
        typer.Option(
            "--drop-unknown", help="Leave out ids that the shop does not have, don't refuse them."
        ),
    ] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Search until every list is certain, as decoding.exact=true does."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, not a table.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="File instead: .jsonl (.ndjson, .json) or .parquet.")
    ] = None,
) -> None:
    """Recommend the next items for histories."""
    from mql4grec import serving
    from mql4grec.report import as_json as spell
    from mql4grec.report import write_recommendations
    from mql4grec.stages.combining import MADE

    if exact and ranking in MADE:
        raise ConfigError(
            f"`--exact`: expected a ranking of the model alone, got {ranking!r}, which ranks the "
            "items of several lists; leave one of them out"
        )
    _check_output(out, as_json=as_json)
    requests = _requests(items or [], histories)
    filters = _filters(only, without, unseen=unseen, drop_unknown=drop_unknown)
    settings = settings_of(config, [*(overrides or []), *(["decoding.exact=true"] * exact)])
    run = serving.open_run(settings, journal=journal_of(settings, quiet=True, log=False))
    found = serving.recommend(run, requests, ranking=ranking, top_k=top_k, filters=filters)
    found = _telling_unknown(found, run, filters)
    if out is not None:
        signals.begin()
        print(f"{write_recommendations(out, found):,} histories: {out}")
        return
    if as_json:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as JSON is, whatever the terminal's is
        for one in found:
            print(spell(one))
    else:
        _print_tables(found, is_search=ranking not in MADE)


def _print_tables(found: Iterable[Recommendation], *, is_search: bool) -> None:
    """Print a table for each history, then, of lists that were searched, how many are certain."""
    n_lists = n_certified = 0
    for one in found:
        print_recommendation(one)
        n_lists += 1
        n_certified += one.certified
    if not is_search:
        return
    of_all = f"{n_certified:,} of {n_lists:,} lists"
    hint = "" if n_certified == n_lists else "; `--exact` searches until all are"
    print(f"{of_all} are provably what scoring every item would give{hint}")


def _check_output(out: Path | None, *, as_json: bool) -> None:
    """Refuse before anything is read what could not be written."""
    from mql4grec.report import check_suffix

    if out is None:
        return
    if as_json:
        raise ConfigError(
            "`--json`, `--out`: expected one of them, got both; the suffix of `--out` tells the "
            "format of the file"
        )
    check_suffix(out)


def _requests(items: Sequence[str], path: Path | None) -> Iterator[Request]:
    """Give the histories of the arguments and the file; the first is read at once."""
    from mql4grec.catalog import Request, read_requests

    given = [Request(tuple(items))] if items else []
    requests = itertools.chain(given, read_requests(path) if path is not None else [])
    first = next(requests, None)
    if first is None:
        raise DataError("histories: expected item ids or a file, got none; see `recommend --help`")
    return itertools.chain([first], requests)


def _filters(
    only: Path | None, without: Path | None, *, unseen: bool | None, drop_unknown: bool
) -> ItemFilters:
    from mql4grec.catalog import read_item_ids
    from mql4grec.serving import ItemFilters

    return ItemFilters(
        unseen=unseen,
        only=None if only is None else read_item_ids(only),
        without=() if without is None else read_item_ids(without),
        unknown_items="drop" if drop_unknown else "error",
    )


def _telling_unknown(
    found: Iterable[Recommendation], run: Ranker, filters: ItemFilters
) -> Iterator[Recommendation]:
    """Pass recommendations through; at the end tell which ids were left out, if any."""
    known = set(run.shop.item_ids)
    lists = {"--only": filters.only or (), "--without": filters.without}
    unknown = {name: [i for i in ids if i not in known] for name, ids in lists.items()}
    counts = {name: len(ids) for name, ids in unknown.items()} | {"histories": 0}
    unknown["histories"] = []
    for one in found:
        counts["histories"] += len(one.unknown)
        unknown["histories"] = [*unknown["histories"], *one.unknown][:5]
        yield one
    for name, count in counts.items():
        if count:
            print(
                f"{name}: left out {count:,} ids that `{run.shop.name}` does not have, the first "
                f"[{', '.join(map(short, unknown[name][:5]))}]",
                file=sys.stderr,
            )
