"""Backward passes written by hand, beside what autograd makes of the same in plain operations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mql4grec.recommender import multiplied
from mql4grec.recommender.dropout import Dropout, make_dropout

ASKING, ASKED = [(2, 3), (1, 4), (3, 1)], [(2, 5), (1, 2), (3, 6)]  # of several groups
D, H = 4, 3
generator = torch.Generator().manual_seed(5)


def drawn(*shape: int) -> Tensor:
    """Draw float64 numbers."""
    return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)


def masks(rate: float) -> Dropout | None:
    return make_dropout(rate, seed=3, device=torch.device("cpu"))


def assert_same(own: Callable[..., Tensor], plain: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Compare results, and gradients of a weighted sum of them."""
    found, expected = own(*inputs), plain(*inputs)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape, generator=generator, dtype=found.dtype)
    for one, other in zip(
        torch.autograd.grad(found, inputs, weights),
        torch.autograd.grad(expected, inputs, weights),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_norm() -> None:
    def plain(hidden: Tensor) -> Tensor:
        return functional.rms_norm(hidden, hidden.shape[1:], None, 0.01)

    def own(hidden: Tensor) -> Tensor:
        return multiplied.norm(hidden, eps=0.01, dtype=torch.float64)

    assert_same(own, plain, drawn(7, D))


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_feed_forward(rate: float) -> None:
    def plain(normed: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
        kept, dropout = functional.linear(normed, inner).relu(), masks(rate)
        return functional.linear(kept * dropout.mask(kept) if dropout else kept, outer)

    def own(normed: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
        return multiplied.feed_forward(normed, inner, outer, dropout=masks(rate))

    assert_same(own, plain, drawn(7, D), drawn(9, D), drawn(D, 9))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_attention(rate: float, biased: bool) -> None:
    """The plain one goes through samples and heads one by one."""

    def plain(queries: Tensor, states: Tensor, *biases: Tensor) -> Tensor:
        seen, dropout, s0, t0 = [], masks(rate), 0, 0
        for index, ((n, s), (_, t)) in enumerate(zip(ASKING, ASKED, strict=True)):
            mask = dropout.mask(states.new_empty(n, H, s, t)) if dropout else torch.ones(n, H, s, t)
            for sample in range(n):
                asks, knows = queries[s0 : s0 + s].view(s, H, D), states[t0 : t0 + t]
                scores = [asks[:, head] @ knows.T for head in range(H)]
                if biases:
                    scores = [a + b for a, b in zip(scores, biases[index], strict=True)]
                shares = [a.softmax(1) * b for a, b in zip(scores, mask[sample], strict=True)]
                seen.append(torch.cat([each @ knows for each in shares], dim=1))
                s0, t0 = s0 + s, t0 + t
        return torch.cat(seen)

    def own(queries: Tensor, states: Tensor, *biases: Tensor) -> Tensor:
        return multiplied.attend(
            queries,
            states,
            biases or [None] * len(ASKING),
            asking=ASKING,
            asked=ASKED,
            dropout=masks(rate),
        )

    n_asking, n_asked = (sum(n * length for n, length in sizes) for sizes in (ASKING, ASKED))
    biases = [drawn(H, s, t) for (_, s), (_, t) in zip(ASKING, ASKED, strict=True)]
    assert_same(own, plain, drawn(n_asking, H * D), drawn(n_asked, D), *(biases if biased else []))
