"""Masks for a GPU: kept as often as they should be, and nothing tells which."""

import pytest
import torch

from mql4grec.recommender.dropout import HashedDropout, RandomDropout


def test_dropout_keeps_the_mean() -> None:
    masks = RandomDropout(0.1)
    kept = masks.mask(torch.ones(200_000, dtype=torch.bfloat16))
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert kept.float().mean().item() * masks.scale == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_hashed_masks_are_as_good_as_drawn_ones(rate: float) -> None:
    """Neither row nor column, neighbours or another seed tell what is dropped."""
    masks, shape = HashedDropout(rate), (512, 1024)
    seeds = [0, 1, 2, -1, 123_456_789, -(2**31), 2**31 - 1, 1 << 16]
    drawn = [masks.mask(torch.ones(shape), torch.tensor(seed, dtype=torch.int32)) for seed in seeds]
    own = (1 - rate) * rate  # of a drawn one, variance
    for each in drawn:
        assert set(each.unique().tolist()) == {0.0, 1.0}
        assert abs(each.mean().item() - (1 - rate)) < 5 * (own / each.numel()) ** 0.5
        for dim in (0, 1):
            means = each.mean(dim)
            assert means.var().item() == pytest.approx(own / shape[dim], rel=0.25)
        flat = each.flatten() - (1 - rate)
        for shift in (1, 2, 4, 64, 128, 1024, 4096):
            along = (flat[shift:] * flat[:-shift]).mean().item() / own
            assert abs(along) < 5 / each.numel() ** 0.5
    centred = torch.stack(drawn).flatten(1) - (1 - rate)
    between = centred @ centred.T / (own * centred.shape[1])
    between.fill_diagonal_(0)
    assert between.abs().max().item() < 5 / centred.shape[1] ** 0.5


def test_all_or_nothing_is_dropped() -> None:
    seed = torch.tensor(5, dtype=torch.int32)
    assert not HashedDropout(1.0).mask(torch.ones(1000), seed).any()
    assert HashedDropout(0.0).mask(torch.ones(1000), seed).all()
