"""Text and image rankings become one: the authors' rule, or a mean of log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mql4grec.catalog import Histories
from mql4grec.config import EvaluationSettings, Modality
from mql4grec.decoding import Rankings
from mql4grec.evaluation.lists import align, best_first, remove_seen

AUTHORS_N_TOKENS = 5  # of a generated sequence: 4 codes and eos


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
    items, (text_scores, image_scores) = align([text, image])
    if rule == "authors":
        scores = _authors_rule(text_scores / n_tokens, image_scores / n_tokens)
    elif rule == "alpha":
        scores = _alpha_rule(text_scores, image_scores, alpha=alpha)
    else:
        raise ValueError(f"`rule`: expected 'alpha' or 'authors', got {rule!r}; choose one")
    fused = best_first(items, scores, top_k=top_k)
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
