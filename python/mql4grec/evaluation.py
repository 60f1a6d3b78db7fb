"""Item-level HR@k and NDCG@k, late fusion of rankings, and how sure the figures are.

This room knows rankings, targets and the rules by which two rankings become one. It does not know
how a ranking was made. Every user counts: one whose target is not listed is a miss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mql4grec.catalog import Histories
from mql4grec.config import EvaluationSettings, Modality
from mql4grec.decoding import Rankings

METRICS = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10")
CONFIDENCE = 0.95
AUTHORS_N_TOKENS = 5  # of a generated sequence: 4 codes and eos

Interval = tuple[float, float]


def metrics(rankings: Rankings, targets: NDArray[np.int32]) -> dict[str, float]:
    """Average HR and NDCG over all users.

    Args:
        rankings: Items (U, M).
        targets: int32 (U,), the item row that each user took next.

    Returns:
        "HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10" (NDCG@1 is HR@1).

    Raises:
        ValueError: If the number of users differs or a target is negative.

    Source:
        The metrics of MQL4GRec, but at item level: its code compares code strings, so that an item
        which shares its codes with the target counts as a hit there and as a miss here.
    """
    return dict(zip(METRICS, gains(rankings, targets).mean(axis=0).tolist(), strict=True))


def gains(rankings: Rankings, targets: NDArray[np.int32]) -> NDArray[np.float64]:
    """Give each user's share in every metric, float64 (U, 5), in the order of `METRICS`.

    Raises:
        ValueError: If the number of users differs or a target is negative.
    """
    n_users = len(rankings.items)
    if targets.shape != (n_users,):
        raise ValueError(
            f"`targets`: expected shape ({n_users},) to match `rankings`, got {targets.shape}; "
            "give one target per ranked user"
        )
    if n_users == 0:
        raise ValueError("`rankings`: expected at least one user, got 0; nothing to evaluate")
    if targets.min() < 0:
        raise ValueError(
            f"`targets`: expected item rows >= 0, got {int(targets.min())}; "
            "leave out users without a target"
        )
    hits = rankings.items == targets[:, None]  # (U, M)
    place = np.where(hits.any(axis=1), hits.argmax(axis=1), np.inf)  # (U,), 0 is the best
    discount = 1.0 / np.log2(place + 2.0)
    columns = [place < k for k in (1, 5, 10)]
    columns += [np.where(place < k, discount, 0.0) for k in (5, 10)]
    return np.stack(columns, axis=1).astype(np.float64)


def fuse(
    text: Rankings,
    image: Rankings,
    *,
    rule: Literal["alpha", "authors"] = "alpha",
    alpha: float = 0.5,
    top_k: int = 20,
    n_tokens: int = AUTHORS_N_TOKENS,
) -> Rankings:
    """Merge the text and the image ranking of the same users at item level.

    Rule "alpha": `alpha * text + (1 - alpha) * image` over log-probabilities. An item that only one
    list holds is given, in the other, half the probability of that list's last item: the list kept
    the best, so an unlisted item can hardly rank above its end, and half makes "listed last" better
    than "not listed". A user without any item in one modality keeps the other's list. The sum is
    linear in log-probabilities, so normalising each list of a user first (a softmax over it) would
    shift all scores alike and change no ranking; none is done.

    Rule "authors": an item in both lists gets the mean of its two scores plus 1, others keep their
    score; a score is the mean log-probability per token.

    Args:
        text: Items (U, M1) with the log-probabilities of their sequences.
        image: Items (U, M2), likewise.
        rule: "alpha" or "authors".
        alpha: Weight of the text ranking, 0 to 1; rule "alpha" only.
        top_k: Length of the fused lists.
        n_tokens: Tokens of a sequence, L codes and eos; rule "authors" only.

    Returns:
        Items (U, top_k), best first, ties by the lower row. `certified` where both lists are: then
        they are what exact scoring would give, and so is what was made of them; items that neither
        list has room for are not looked at.

    Raises:
        ValueError: If the numbers of users differ or a value is out of range.

    Source:
        The ensemble of the authors' code; its scores come from `generate` with the default length
        penalty, that is, divided by the number of tokens.
    """
    _check_fusion(text, image, alpha=alpha, top_k=top_k)
    items, text_scores, image_scores = _align(text, image)
    if rule == "authors":
        scores = _authors_rule(text_scores / n_tokens, image_scores / n_tokens)
    elif rule == "alpha":
        scores = _alpha_rule(text_scores, image_scores, alpha=alpha)
    else:
        raise ValueError(f"`rule`: expected 'alpha' or 'authors', got {rule!r}; choose one")
    fused = _best_first(items, scores, top_k=top_k)
    if text.certified is None or image.certified is None:
        return fused
    return replace(fused, certified=text.certified & image.certified)


def _check_fusion(text: Rankings, image: Rankings, *, alpha: float, top_k: int) -> None:
    if len(text.items) != len(image.items):
        raise ValueError(
            f"`image`: expected {len(text.items)} users to match `text`, got {len(image.items)}; "
            "rank the same users in both"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"`alpha`: expected a weight from 0 to 1, got {alpha!r}; change it")
    if top_k < 1:
        raise ValueError(f"`top_k`: expected at least 1, got {top_k}; change it")


def _align(
    text: Rankings, image: Rankings
) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
    """Bring the scores of both lists side by side.

    Returns:
        Items (U, M1 + M2) in ascending order, each once, -1 elsewhere; their scores in the text and
        in the image list, NaN where the list lacks the item.
    """
    items = np.concatenate([text.items, image.items], axis=1)
    order = np.argsort(items, axis=1, kind="stable")
    items = np.take_along_axis(items, order, axis=1)
    from_text = np.full(items.shape, np.nan)
    from_text[:, : text.items.shape[1]] = text.scores
    from_text = np.take_along_axis(from_text, order, axis=1)
    from_image = np.full(items.shape, np.nan)
    from_image[:, text.items.shape[1] :] = image.scores
    from_image = np.take_along_axis(from_image, order, axis=1)
    # A list holds an item at most once, so the two places of an item are neighbours, text first.
    user, place = np.nonzero((items[:, :-1] == items[:, 1:]) & (items[:, :-1] >= 0))
    from_image[user, place] = from_image[user, place + 1]
    items[user, place + 1] = -1
    from_text[items < 0] = np.nan
    from_image[items < 0] = np.nan
    return items, from_text, from_image


def _authors_rule(text: NDArray[np.float64], image: NDArray[np.float64]) -> NDArray[np.float64]:
    either = np.where(np.isnan(text), image, text)
    return np.where(np.isnan(text + image), either, (text + image) / 2 + 1)


def _alpha_rule(
    text: NDArray[np.float64], image: NDArray[np.float64], *, alpha: float
) -> NDArray[np.float64]:
    no_text = np.isnan(text).all(axis=1, keepdims=True)
    no_image = np.isnan(image).all(axis=1, keepdims=True)
    weight = np.where(no_text, 0.0, np.where(no_image, 1.0, alpha))  # (U, 1)
    return weight * _with_floor(text) + (1 - weight) * _with_floor(image)


def _with_floor(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace NaN by half the probability of the user's lowest score, 0 where there is none."""
    lowest = np.fmin.reduce(scores, axis=1, keepdims=True)  # (U, 1), NaN for an empty list
    return np.where(np.isnan(scores), np.nan_to_num(lowest - np.log(2.0)), scores)


def _best_first(items: NDArray[np.int32], scores: NDArray[np.float64], *, top_k: int) -> Rankings:
    """Sort lists whose items ascend by score; stable, so that ties go to the lower row."""
    scores = np.where(items < 0, -np.inf, scores)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    padding = ((0, 0), (0, top_k - order.shape[1]))
    best = np.take_along_axis(items, order, axis=1)
    best_scores = np.take_along_axis(scores, order, axis=1).astype(np.float32)
    return Rankings(
        items=np.pad(best, padding, constant_values=-1),
        scores=np.pad(best_scores, padding, constant_values=-np.inf),
    )


def remove_seen(rankings: Rankings, histories: Histories) -> Rankings:
    """Take the items of each user's history out of the list; what follows moves up.

    Args:
        rankings: Items (U, M).
        histories: The same users' histories, without their targets.

    Returns:
        Items (U, M), padded at the end by -1; `certified` as before, since what is left of an exact
        list is exact.

    Raises:
        ValueError: If the numbers of users differ.
    """
    n_users = len(rankings.items)
    if histories.n_users != n_users:
        raise ValueError(
            f"`histories`: expected {n_users} users to match `rankings`, got {histories.n_users}; "
            "give the histories of the ranked users"
        )
    users = np.repeat(np.arange(n_users), np.diff(histories.offsets))
    # One number per pair of user and item; -1 (no item) cannot meet another user's pair.
    width = 2 + max(rankings.items.max(initial=0), histories.items.max(initial=0))
    ranked = np.arange(n_users)[:, None] * width + rankings.items
    seen = np.isin(ranked, users * width + histories.items) | (rankings.items < 0)
    order = np.argsort(seen, axis=1, kind="stable")
    gone = np.take_along_axis(seen, order, axis=1)
    return Rankings(
        items=np.where(gone, -1, np.take_along_axis(rankings.items, order, axis=1)),
        scores=np.where(gone, -np.inf, np.take_along_axis(rankings.scores, order, axis=1)),
        certified=rankings.certified,
    )


def assemble(
    generated: Mapping[Modality, Rankings],
    histories: Histories,
    *,
    settings: EvaluationSettings,
    n_tokens: int = AUTHORS_N_TOKENS,
) -> dict[str, Rankings]:
    """Make the list of generated rankings complete: seen items removed if asked, "fused" added.

    Args:
        generated: "text", "image" or both.
        histories: The inputs that were ranked from, used when `settings.remove_seen`.
        settings: Of this room.
        n_tokens: Tokens of a sequence, L codes and eos.

    Returns:
        The rankings by name; "fused" only where both modalities are there.
    """
    rankings: dict[str, Rankings] = {
        name: remove_seen(ranking, histories) if settings.remove_seen else ranking
        for name, ranking in generated.items()
    }
    if "text" in rankings and "image" in rankings:
        text, image = rankings["text"], rankings["image"]
        rankings["fused"] = fuse(
            text,
            image,
            rule=settings.fusion,
            alpha=settings.alpha,
            top_k=max(text.items.shape[1], image.items.shape[1]),
            n_tokens=n_tokens,
        )
    return rankings


def bootstrap(
    rankings: Rankings, targets: NDArray[np.int32], *, n_bootstrap: int = 1000, seed: int
) -> dict[str, Interval]:
    """Give 95 % percentile intervals of every metric, users drawn with replacement.

    Args:
        rankings: Items (U, M).
        targets: int32 (U,).
        n_bootstrap: Number of draws of U users.
        seed: Of the draws.

    Returns:
        (low, high) by metric.
    """
    means = _resampled_means(gains(rankings, targets), n_bootstrap=n_bootstrap, seed=seed)
    return _intervals(means)


def bootstrap_difference(
    first: Rankings,
    second: Rankings,
    targets: NDArray[np.int32],
    *,
    n_bootstrap: int = 1000,
    seed: int,
) -> dict[str, Interval]:
    """Give 95 % intervals of `first - second`, paired: both on the same draws of users.

    An interval that lies on one side of 0 says that the two differ beyond chance; whether their
    single intervals overlap does not, since the same users are easy for both.
    """
    paired = gains(first, targets) - gains(second, targets)
    return _intervals(_resampled_means(paired, n_bootstrap=n_bootstrap, seed=seed))


def _resampled_means(
    values: NDArray[np.float64], *, n_bootstrap: int, seed: int
) -> NDArray[np.float64]:
    """Average the columns of `values` (U, C) over `n_bootstrap` draws of U users: (n, C)."""
    n_users = len(values)
    generator = np.random.default_rng(seed)
    means = np.empty((n_bootstrap, values.shape[1]))
    for draw in range(n_bootstrap):
        users = generator.integers(n_users, size=n_users)
        # How often each user was drawn, so that the mean is one product and no gather.
        means[draw] = np.bincount(users, minlength=n_users) @ values / n_users
    return means


def _intervals(means: NDArray[np.float64]) -> dict[str, Interval]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return dict(zip(METRICS, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def evaluate(
    rankings: Mapping[str, Rankings],
    targets: NDArray[np.int32],
    *,
    n_items: int,
    settings: EvaluationSettings,
    seed: int,
) -> dict[str, Any]:
    """Build what `evaluation/metrics.json` holds.

    Args:
        rankings: By name: "text", "image", "fused", "popular", "item_knn", "ease".
        targets: int32 (U,), every test user's target.
        n_items: N, to say what the rankings chose from.
        settings: Of this room.
        seed: Of the bootstrap.

    Returns:
        "n_users", "n_items", "rankings" (metrics by name), "intervals" (95 %, [low, high] by name
        and metric), "differences" (of "fused", or else the first ranking, minus each other one:
        95 %, paired), "settings".

    Raises:
        ValueError: If there is no ranking, or one does not match `targets`.
    """
    if not rankings:
        raise ValueError("`rankings`: expected at least one, got none; rank before evaluating")
    names = list(rankings)
    best = "fused" if "fused" in rankings else names[0]
    values = np.concatenate([gains(rankings[name], targets) for name in names], axis=1)
    # All rankings on the same draws: that is what makes the differences paired.
    means = _resampled_means(values, n_bootstrap=settings.n_bootstrap, seed=seed)
    drawn = dict(zip(names, np.split(means, len(names), axis=1), strict=True))
    return {
        "n_users": len(targets),
        "n_items": n_items,
        "rankings": {name: metrics(rankings[name], targets) for name in names},
        "intervals": {name: _intervals(drawn[name]) for name in names},
        "differences": {
            f"{best} - {name}": _intervals(drawn[best] - drawn[name])
            for name in names
            if name != best
        },
        "settings": settings.model_dump(mode="json"),
    }
