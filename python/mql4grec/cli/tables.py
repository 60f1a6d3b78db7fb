"""What a run has found, printed as tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mql4grec.cli.options import console
from mql4grec.errors import plain

if TYPE_CHECKING:
    from mql4grec.config import Settings
    from mql4grec.report import Recommendation


METRICS = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10")


def print_collisions(settings: Settings) -> None:
    """Print how many items of a run shared a semantic ID, and what it took to part them."""
    from mql4grec.runtime import is_main_process
    from mql4grec.stages.context import modalities

    if is_main_process():
        folder = settings.folder / "codes"
        print_reports(
            {
                f"{shop.name} {modality}": folder / f"{shop.name}.{modality}.json"
                for shop in settings.catalog.datasets
                for modality in modalities(settings, shop)
            }
        )


def print_reports(reports: Mapping[str, Path]) -> None:
    """Print collision reports as a table."""
    from rich.table import Table

    from mql4grec import artifacts

    found = [artifacts.read_json(path, made_by="generate-codes") for path in reports.values()]
    table = Table("semantic IDs", title="collisions, before and after")
    for name in reports:
        table.add_column(name, justify="right", overflow="fold")
    for cells in zip(*map(_collision_lines, found), strict=True):
        table.add_row(cells[0][0], *(value for _, value in cells))
    console().print(table)


def _collision_lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Spell a collision report, a name and a value each; values of levels one after the other."""

    def each(name: str, form: str) -> str:
        return " ".join(format(value, form) for value in facts[name])

    def known(name: str, form: str) -> str:
        return "-" if facts[name] is None else format(facts[name], form)

    return [
        ("items", f"{facts['n_items']:,}"),
        ("shared IDs", f"{facts['n_groups_before']:,}"),
        ("items sharing", f"{facts['n_shared_before']:,}"),
        ("largest group", f"{facts['largest_group']:,}"),
        ("collision rate before", f"{facts['rate_before']:.2%}"),
        ("collision rate after", f"{facts['rate_after']:.2%}"),
        ("moved", f"{facts['n_moved']:,}"),
        ("by level", each("moved_per_level", ",")),
        ("added error per moved", known("added_error", ".4g")),
        ("added, of all error", known("added_share", ".2%")),
        ("codes used", each("usage_after", ",")),
        ("entropy, bits", each("entropy_after", ".2f")),
        ("perplexity", each("perplexity_after", ".0f")),
        ("fill of the tree", each("fill", ".0%")),
    ]


def print_quality(settings: Settings) -> None:
    """Print what a run's codes keep of embeddings and histories."""
    from mql4grec import artifacts
    from mql4grec.runtime import is_main_process
    from mql4grec.stages.context import modalities

    if not is_main_process():
        return
    folder = settings.folder / "quality"
    print_figures(
        {
            f"{shop.name} {modality}": artifacts.read_json(
                folder / f"{shop.name}.{modality}.json", made_by="quality"
            )
            for shop in settings.catalog.datasets
            for modality in modalities(settings, shop)
        }
    )
    print(f"figures: {folder}")
    print(f"page:    {folder / 'index.html'}")


def print_figures(figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what was measured of codes as a table; what a column lacks is a dash."""
    from rich.table import Table

    found = {name: dict(_quality_lines(facts)) for name, facts in figures.items()}
    table = Table("semantic IDs", title="what the codes keep")
    for name in found:
        table.add_column(name, justify="right", overflow="fold")
    longest_first = sorted(found.values(), key=len, reverse=True)
    for line in dict.fromkeys(line for lines in longest_first for line in lines):
        table.add_row(line, *(lines.get(line, "-") for lines in found.values()))
    console().print(table)
    print("shares of pairs with at least 1, 2, ... codes in common, from the first on")


def _quality_lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Spell what was measured of one shop and modality, a name and a value each."""
    from mql4grec.report import prefix_lines

    lines = []
    if facts["reconstruction"]:
        lost = facts["reconstruction"]
        lines.append(("items looked at closely", f"{lost['n_items']:,}"))
        for name, of in (
            ("without_codes", "error without codes, of the variance"),
            ("before", "error by nearest codes"),
            ("after", "error after repair"),
        ):
            lines.append((of, f"{lost[name]:.2%}"))
    for name, shares in prefix_lines(facts):
        lines.append((name, " ".join(f"{share:.2%}" for share in shares)))
    if facts["cobought"]:
        lines.append(("such pairs of histories", f"{facts['cobought']['n_pairs']:,}"))
    return lines


def print_results(settings: Settings) -> None:
    """Print the table of metrics, generative rankings first."""
    from mql4grec import artifacts
    from mql4grec.runtime import is_main_process
    from mql4grec.stages.context import parts_of

    if not is_main_process():
        return
    path = settings.folder / "evaluation" / "metrics.json"
    found = artifacts.read_json(path, made_by="evaluate")
    title = f"{settings.target.name}: {found['n_users']:,} users, {found['n_items']:,} items"
    for part in parts_of(settings):
        _print_rankings(found[part] if part else found, title=_part_title(title, part))
    print(f"metrics: {path}")
    page = settings.folder / "report" / "index.html"
    if page.exists():
        print(f"report:  {page}")


def _print_rankings(found: Mapping[str, Any], *, title: str) -> None:
    """Print figures, and how the rankings that are no baselines differ from the best that is.

    Figures that a run of an earlier version lacks are left out.
    """
    _print_metrics(found["rankings"], title=title)
    if "twin_level" in found:
        told = found["twin_level"]
        sharing = ", ".join(f"{n:,} by {m} codes" for m, n in told["n_users"].items())
        _print_metrics(told["rankings"], title=f"{title}: counted by codes before repair")
        print(f"users whose target shared its codes before repair: {sharing}")
    if "by_training_events" in found:
        _print_by_events(found["by_training_events"], title=title)
    _print_significance(found.get("significance", {}))
    _print_notes(found)


def print_seeds(settings: Settings) -> None:
    """Print means and standard deviations over the seeds of a run."""
    from mql4grec import artifacts, seeds
    from mql4grec.runtime import is_main_process
    from mql4grec.stages.context import parts_of

    if not is_main_process():
        return
    path = settings.folder / seeds.RESULT
    found = artifacts.read_json(path, made_by="run --seeds")
    title = f"{settings.target.name}: {found['n_users']:,} users, {found['n_items']:,} items"
    numbers = ", ".join(map(str, found["seeds"]))
    for part in parts_of(settings):
        figures = found[part] if part else found
        _print_spreads(figures, title=_part_title(title, part), seeds=numbers)
    print(f"seeds:   {path}")


def _print_notes(found: Mapping[str, Any]) -> None:
    """Print which rankings were fitted on more than papers do, and which were left out."""
    from mql4grec.report import left_out_note, refit_note

    for note in (refit_note(found), left_out_note(found)):
        if note:
            print(note.strip())


def _print_spreads(found: Mapping[str, Any], *, title: str, seeds: str) -> None:
    """Print means and deviations, and how rankings that are no baselines differ from the best."""
    from rich.table import Table

    table = Table("ranking", title=f"{title}; mean and standard deviation of seeds {seeds}")
    for name in METRICS:
        table.add_column(name, justify="right")
    for ranking, values in found["rankings"].items():
        cells = [f"{values[name]['mean']:.4f}\n\u00b1{values[name]['std']:.4f}" for name in METRICS]
        table.add_row(ranking, *cells)
    console().print(table)
    _print_significance(found["significance"])
    _print_notes(found)


def _part_title(title: str, part: str) -> str:
    """Name a table of a part of the figures, by how it differs from the main one."""
    told = [name.replace("seen_", "seen items ").replace("_", " ") for name in part.split(".")]
    return ", ".join([title, *told]) if part else title


def _print_significance(found: Mapping[str, Any]) -> None:
    """Print how each ranking that is no baseline differs from the best that is."""
    for ranking, told in found.items():
        parts = []
        for metric, one in told.items():
            low, high = one["interval"]
            parts.append(
                f"{metric} {one['difference']:+.4f} ({low:+.4f} to {high:+.4f}, "
                f"p {one['p_value']:.3f}) to {one['baseline']}"
            )
        print(f"{ranking}, beside the best baseline: {'; '.join(parts)}")


def _print_metrics(rankings: Mapping[str, Any], *, title: str) -> None:
    """Print HR and NDCG of rankings as a table."""
    from rich.table import Table

    table = Table("ranking", title=title)
    for name in METRICS:
        table.add_column(name, justify="right")
    for ranking, values in rankings.items():
        table.add_row(ranking, *(f"{values[name]:.4f}" for name in METRICS))
    console().print(table)


def _print_by_events(told: Mapping[str, Any], *, title: str) -> None:
    """Print figures of users by how often their target occurs in training."""
    from rich.table import Table

    table = Table("ranking", title=f"{title}: by events of the target in training")
    for key, n_users in told["n_users"].items():
        for metric in ("HR@10", "NDCG@10"):
            table.add_column(f"{key}\n{n_users:,} users\n{metric}", justify="right")
    for ranking, groups in told["rankings"].items():
        values = (value for group in groups.values() for value in group.values())
        table.add_row(ranking, *("-" if value is None else f"{value:.4f}" for value in values))
    console().print(table)


def print_recommendation(found: Recommendation) -> None:
    """Print the items recommended for one history, or that there are none."""
    from rich.markup import escape
    from rich.table import Table

    title = " ".join(found.history)
    if found.user_id is not None:
        title = f"{found.user_id}: {title}"
    table = Table("rank", "item", "title", "score", title=escape(plain(title)))
    items = zip(found.item_ids, found.titles, found.scores, strict=True)
    for place, (item_id, name, score) in enumerate(items, start=1):
        table.add_row(str(place), escape(plain(item_id)), escape(plain(name)), f"{score:.3f}")
    console().print(table)
    if not found.item_ids:
        print("no item is left: the filters close all of them, or no item of the history is known")
