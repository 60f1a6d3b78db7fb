"""The network of the translator: codes, losses and gradients against references written here."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional

from mql4grec.rqvae import RQVAE, kmeans, nearest, sinkhorn, squared_distances


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny_network(**changes: object) -> RQVAE:
    arguments = {
        "in_dim": 12,
        "layers": (16, 8),
        "e_dim": 4,
        "num_emb_list": (6, 5, 4),
        "sk_epsilons": (0.0, 0.0, 0.0),
        "seed": 3,
    }
    network = RQVAE(**{**arguments, **changes})  # type: ignore[arg-type]
    for level, codebook in enumerate(network.codebooks):
        codebook.data = torch.randn(codebook.shape, generator=seeded(level)) / (level + 1)
    return network


def plain_sinkhorn(distances: Tensor, *, epsilon: float, n_iters: int) -> Tensor:
    """Do it by the formula in float64, as the published recipe has it."""
    distances = distances.double()
    middle = (distances.max() + distances.min()) / 2
    centred = (distances - middle) / (distances.max() - middle + 1e-5)
    plan = torch.exp(-centred / epsilon)
    plan = plan / plan.sum()
    n_rows, n_codes = plan.shape
    for _ in range(n_iters):
        plan = plan / plan.sum(1, keepdim=True) / n_rows
        plan = plan / plan.sum(0, keepdim=True) / n_codes
    return plan


def latents_and_codes(kind: str, *, n_rows: int, n_codes: int) -> tuple[Tensor, Tensor]:
    generator = seeded(7)
    rows = torch.randn(n_rows, 16, generator=generator)
    codes = torch.randn(n_codes, 16, generator=generator)
    if kind == "clustered":
        rows = codes[torch.randint(0, 9, (n_rows,), generator=generator)] + 0.1 * rows
    if kind == "far from zero":
        rows, codes = 0.05 * rows + 10, 0.05 * codes + 10
    if kind == "outlier":
        rows[0] *= 30
    return rows, codes


@pytest.mark.parametrize("kind", ["normal", "clustered", "far from zero", "outlier"])
def test_sinkhorn_agrees_with_float64(kind: str) -> None:
    distances = squared_distances(*latents_and_codes(kind, n_rows=1000, n_codes=64))
    expected = plain_sinkhorn(distances, epsilon=0.003, n_iters=50).argmax(1)
    found = sinkhorn(distances, epsilon=0.003, n_iters=50).argmax(1)
    assert (found == expected).float().mean() >= 0.999


def test_sinkhorn_with_more_codes_than_rows() -> None:
    """A row may then own several codes alike, so the choice among those is free."""
    distances = squared_distances(*latents_and_codes("normal", n_rows=40, n_codes=64))
    plan = plain_sinkhorn(distances, epsilon=0.003, n_iters=50)
    found = sinkhorn(distances, epsilon=0.003, n_iters=50).argmax(1, keepdim=True)
    torch.testing.assert_close(plan.gather(1, found)[:, 0], plan.amax(1), rtol=1e-3, atol=0)


def test_sinkhorn_by_products_equals_the_log_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    distances = squared_distances(*latents_and_codes("clustered", n_rows=512, n_codes=64))
    fast = sinkhorn(distances, epsilon=0.003, n_iters=50)
    monkeypatch.setattr("mql4grec.rqvae.assignment.CALM", 0.0)
    slow = sinkhorn(distances, epsilon=0.003, n_iters=50)
    best = slow.argmax(1)
    assert torch.equal(fast.argmax(1), best)
    picked = torch.arange(len(best)), best
    torch.testing.assert_close(fast[picked], slow[picked], atol=1e-3, rtol=0)


@pytest.mark.parametrize("epsilon", [1e-6, 0.003, 10.0])
def test_sinkhorn_is_finite_and_balances(epsilon: float) -> None:
    distances = squared_distances(*latents_and_codes("clustered", n_rows=512, n_codes=64))
    scores = sinkhorn(distances, epsilon=epsilon, n_iters=50)
    assert torch.isfinite(scores).all()
    torch.testing.assert_close(scores.exp().sum(0), torch.ones(64))
    if epsilon == 0.003:
        balanced, plain = (x.unique().numel() for x in (scores.argmax(1), distances.argmin(1)))
        assert balanced > 2 * plain


def test_sinkhorn_with_one_row_or_equal_distances() -> None:
    assert torch.isfinite(sinkhorn(torch.rand(1, 8), epsilon=0.003, n_iters=50)).all()
    assert torch.isfinite(sinkhorn(torch.ones(5, 8), epsilon=0.003, n_iters=50)).all()


def test_squared_distances_keep_their_digits_far_from_zero() -> None:
    rows, codes = latents_and_codes("far from zero", n_rows=50, n_codes=20)
    exact = (rows.double()[:, None] - codes.double()).square().sum(2)
    torch.testing.assert_close(squared_distances(rows, codes).double(), exact, rtol=2e-7, atol=0)


def test_nearest_in_chunks_takes_the_lower_of_equals(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, codes = latents_and_codes("normal", n_rows=33, n_codes=7)
    codes[4] = codes[2]
    whole = nearest(rows, codes)
    monkeypatch.setattr("mql4grec.rqvae.assignment.CHUNK_CELLS", 10)
    for found, expected in zip(nearest(rows, codes), whole, strict=True):
        assert torch.equal(found, expected)
    assert 4 not in whole[1]


def test_nearest_codes_equal_brute_force() -> None:
    network = tiny_network(sk_epsilons=(0.0, 0.0, 0.003)).train()  # no Sinkhorn in nearest codes
    latents = torch.randn(50, 4, generator=seeded())
    codes = network.nearest_codes(latents).numpy()
    for row, latent in enumerate(latents.double().numpy()):
        residual = latent
        for level, codebook in enumerate(network.codebooks):
            table = codebook.detach().double().numpy()
            best = int(np.argmin(((residual - table) ** 2).sum(1)))
            assert codes[row, level] == best
            residual = residual - table[best]


def test_sinkhorn_in_training_only() -> None:
    network = tiny_network(sk_epsilons=(0.003, 0.0, 0.0))
    residual = 0.1 * torch.randn(60, 4, generator=seeded())
    plain = nearest(residual, network.codebooks[0])[1]
    assert torch.equal(network.eval().choose(residual, level=0), plain)
    balanced = network.train().choose(residual, level=0)
    assert balanced.bincount(minlength=6).min() > 0
    assert not torch.equal(balanced, plain)


def test_losses_by_hand() -> None:
    network = tiny_network(beta=0.25, quant_loss_weight=0.7).eval()
    batch = torch.randn(9, 12, generator=seeded())
    losses = network(batch)
    latents = network.encoder(batch)
    codes = network.nearest_codes(latents)
    residual, per_level = latents, []
    for level, codebook in enumerate(network.codebooks):
        residual = residual - codebook[codes[:, level]]
        per_level.append(1.25 * residual.square().mean())  # both losses have the same value
    quantization = sum(per_level) / 3
    reconstruction = (network.decoder(latents - residual) - batch).square().mean()
    torch.testing.assert_close(losses.quantization, quantization.detach())
    torch.testing.assert_close(losses.reconstruction, reconstruction.detach())
    torch.testing.assert_close(losses.total, reconstruction + 0.7 * quantization)
    plain = network.losses(batch, latents, None, n_rows=len(batch))
    torch.testing.assert_close(plain.total, functional.mse_loss(network.decoder(latents), batch))
    assert plain.quantization == 0


def test_gradient_goes_straight_through() -> None:
    network = tiny_network().eval()
    latents = torch.randn(9, 4, generator=seeded()).requires_grad_()
    weights = torch.randn(9, 4, generator=seeded(1))
    quantized, _ = network.quantize(latents, network.nearest_codes(latents), n_rows=9)
    (quantized * weights).sum().backward()
    assert torch.equal(latents.grad, weights)
    assert all(codebook.grad is None for codebook in network.codebooks)


def test_gradients_of_the_quantization_loss() -> None:
    """The encoder gets the first level's commitment; each codebook its own level's loss."""
    network = tiny_network(beta=0.5).eval()
    latents = torch.randn(9, 4, generator=seeded()).requires_grad_()
    codes = network.nearest_codes(latents.detach())
    network.quantize(latents, codes, n_rows=9)[1].backward()
    residual = latents.detach()
    for level, codebook in enumerate(network.codebooks):
        missing = residual - codebook.detach()[codes[:, level]]
        if level == 0:
            torch.testing.assert_close(latents.grad, 0.5 * 2 * missing / missing.numel() / 3)
        expected = torch.zeros_like(codebook).index_add_(0, codes[:, level], -2 * missing)
        torch.testing.assert_close(codebook.grad, expected / missing.numel() / 3)
        residual = missing


def test_bf16_touches_the_mlps_only() -> None:
    network = tiny_network().eval()
    batch = torch.randn(9, 12, generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = network(batch)
        latents = network.encoder(batch).float()
        quantized, _ = network.quantize(latents, network.assign(latents), n_rows=9)
    assert {losses.total.dtype, losses.quantization.dtype, quantized.dtype} == {torch.float32}
    torch.testing.assert_close(losses.total, network(batch).total, rtol=0.05, atol=0)


def test_first_weights() -> None:
    state = torch.get_rng_state()
    network = RQVAE(
        in_dim=300, layers=(200,), e_dim=100, num_emb_list=(4, 4), sk_epsilons=(0, 0), seed=1
    )
    assert torch.equal(torch.get_rng_state(), state)
    for linear, width in ((network.encoder[0], 500), (network.decoder[0], 300)):
        assert linear.weight.std().item() == pytest.approx((2 / width) ** 0.5, rel=0.03)
        assert not linear.bias.any()
    names = [type(module).__name__ for module in network.encoder]
    assert names == ["Linear", "ReLU", "Linear"]
    again = RQVAE(**network.arguments(), seed=1)  # type: ignore[arg-type]
    assert torch.equal(again.encoder[0].weight, network.encoder[0].weight)


def test_dropout_while_training() -> None:
    network = tiny_network(dropout=0.5)
    batch = torch.randn(9, 12, generator=seeded())
    assert torch.equal(network.eval().encoder(batch), network.encoder(batch))
    assert not torch.equal(network.train().encoder(batch), network.encoder(batch))


def test_epsilons_must_fit_the_levels() -> None:
    with pytest.raises(ValueError, match=r"`sk_epsilons`: expected 3 values, one per level of "):
        tiny_network(sk_epsilons=(0.0,))


def test_codebooks_are_set_level_by_level() -> None:
    network = tiny_network().eval()
    latents = torch.randn(200, 4, generator=seeded())
    network.initialise_codebooks(latents, n_iters=50, seed=5)
    codes = network.nearest_codes(latents)
    residual, before = latents, latents.square().sum()
    for level, codebook in enumerate(network.codebooks):
        assert codes[:, level].unique().numel() == len(codebook)  # no dead codes
        residual = residual - codebook[codes[:, level]]
        after = residual.square().sum()
        assert after < 0.8 * before
        before = after


@pytest.mark.parametrize("clustered", [False, True])
def test_kmeans_is_as_good_as_scikit_learn(clustered: bool) -> None:
    kind = "clustered" if clustered else "normal"
    rows, _ = latents_and_codes(kind, n_rows=600, n_codes=30)
    centres, labels = kmeans(rows, n_clusters=30, n_iters=100, generator=seeded())
    inertia = (rows - centres[labels]).square().sum().item()
    theirs = KMeans(30, n_init=1, random_state=0).fit(rows.numpy()).inertia_
    assert inertia <= 1.05 * theirs
    assert torch.equal(labels, nearest(rows, centres)[1])
    assert labels.unique().numel() == 30
    again, _ = kmeans(rows, n_clusters=30, n_iters=100, generator=seeded())
    assert torch.equal(again, centres)


def test_kmeans_finds_separate_clusters() -> None:
    truth = torch.arange(8).repeat(20)
    rows = 100 * functional.one_hot(truth).float()
    rows = rows + 0.1 * torch.randn(rows.shape, generator=seeded())
    centres, labels = kmeans(rows, n_clusters=8, n_iters=100, generator=seeded())
    means = torch.stack([rows[truth == cluster].mean(0) for cluster in range(8)])
    torch.testing.assert_close(centres[labels], means[truth], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("n_rows", [1, 5])
def test_kmeans_with_fewer_rows_than_clusters(n_rows: int) -> None:
    rows = torch.randn(n_rows, 4, generator=seeded())
    centres, labels = kmeans(rows, n_clusters=12, n_iters=10, generator=seeded())
    assert torch.isfinite(centres).all()
    torch.testing.assert_close(centres[labels], rows)
    assert labels.unique().numel() == n_rows
    distances, _ = nearest(centres, rows)  # those left over lie close to some row
    assert distances.max() <= 0.1 * rows.var(0, correction=0).sum() + 1e-9


def test_kmeans_with_few_distinct_rows() -> None:
    rows = torch.randn(3, 4, generator=seeded()).repeat(50, 1)
    centres, labels = kmeans(rows, n_clusters=12, n_iters=10, generator=seeded())
    torch.testing.assert_close(centres[labels], rows)
