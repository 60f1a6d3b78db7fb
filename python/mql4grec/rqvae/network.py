"""The RQ-VAE: two MLPs with a residual quantizer between them, and its losses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mql4grec.rqvae.assignment import nearest, sinkhorn, squared_distances
from mql4grec.rqvae.kmeans import kmeans


class Losses(NamedTuple):
    """What one batch costs.

    Attributes:
        total: Reconstruction + quant_loss_weight x quantization; has a gradient.
        reconstruction: Mean squared error of the decoder.
        quantization: Mean over levels of codebook loss + beta x commitment loss.
    """

    total: Tensor
    reconstruction: Tensor
    quantization: Tensor


class RQVAE(nn.Module):
    """Turn an embedding into L codes, and learn to turn the codes back into the embedding.

    The codebooks are zero until `initialise_codebooks` has seen some latents.

    Source:
        MQL4GRec, section 3.2; sizes and losses as in the authors' code.
    """

    def __init__(
        self,
        *,
        in_dim: int,
        layers: Sequence[int],
        e_dim: int,
        num_emb_list: Sequence[int],
        sk_epsilons: Sequence[float],
        sk_iters: int = 50,
        beta: float = 0.25,
        quant_loss_weight: float = 1.0,
        dropout: float = 0.0,
        unit_latents: bool = False,
        rotation: bool = False,
        seed: int = 0,
    ) -> None:
        """Build the network with Xavier-normal weights and zero biases.

        Args:
            in_dim: Width D of an embedding.
            layers: Hidden widths of the encoder; the decoder has them in reverse.
            e_dim: Width E of a latent and of a codebook's rows.
            num_emb_list: Number of codes K of each level.
            sk_epsilons: Sinkhorn's epsilon of each level while training; 0: the nearest code.
            sk_iters: Sinkhorn's iterations, a part of the recipe rather than convergence.
            beta: Weight of the commitment loss.
            quant_loss_weight: Weight of the quantization loss.
            dropout: Share of inputs dropped before every linear layer.
            unit_latents: Scale every latent to length 1, so that the first level goes by angles.
            rotation: Let the gradient pass the codes by the rotation from a latent to its codes'
                sum, instead of straight through.
            seed: Of the weights.

        Raises:
            ValueError: If the levels of `num_emb_list` and `sk_epsilons` differ in number.
        """
        super().__init__()
        if len(sk_epsilons) != len(num_emb_list):
            raise ValueError(
                f"`sk_epsilons`: expected {len(num_emb_list)} values, one per level of "
                f"`num_emb_list`, got {len(sk_epsilons)}"
            )
        self.in_dim, self.layers, self.e_dim = in_dim, tuple(layers), e_dim
        self.num_emb_list = tuple(num_emb_list)
        self.sk_epsilons, self.sk_iters = tuple(sk_epsilons), sk_iters
        self.beta, self.quant_loss_weight = beta, quant_loss_weight
        self.dropout, self.unit_latents, self.rotation = dropout, unit_latents, rotation
        widths = (in_dim, *layers, e_dim)
        generator = torch.Generator().manual_seed(seed)
        self.encoder = build_mlp(widths, dropout=dropout, generator=generator)
        if unit_latents:
            self.encoder.append(ToUnitLength())
        self.decoder = build_mlp(widths[::-1], dropout=dropout, generator=generator)
        self.codebooks = nn.ParameterList(torch.zeros(n, e_dim) for n in num_emb_list)

    @property
    def n_levels(self) -> int:
        """Number of levels L."""
        return len(self.num_emb_list)

    def arguments(self) -> dict[str, object]:
        """Give what rebuilds this network (weights aside), as keyword arguments that JSON can hold.

        The seed is not among them: weights are loaded over whatever it gave.
        """
        return {
            "in_dim": self.in_dim,
            "layers": list(self.layers),
            "e_dim": self.e_dim,
            "num_emb_list": list(self.num_emb_list),
            "sk_epsilons": list(self.sk_epsilons),
            "sk_iters": self.sk_iters,
            "beta": self.beta,
            "quant_loss_weight": self.quant_loss_weight,
            "dropout": self.dropout,
            "unit_latents": self.unit_latents,
            "rotation": self.rotation,
        }

    def forward(self, embeddings: Tensor) -> Losses:
        """Encode, quantize, decode, and say what it costs.

        Under autocast only the two MLPs run in lower precision.

        Args:
            embeddings: float32 (B, D).
        """
        latents = self.encoder(embeddings).float()  # (B, E)
        codes = self.assign(latents.detach())
        return self.losses(embeddings, latents, codes, n_rows=len(embeddings))

    def losses(
        self, embeddings: Tensor, latents: Tensor, codes: Tensor | None, *, n_rows: int
    ) -> Losses:
        """Say what some rows of a batch cost; the costs of all its rows add up to the batch's.

        Args:
            embeddings: float32 (R, D).
            latents: float32 (R, E), the encoder's, with their gradient.
            codes: int64 (R, L); None: the decoder gets the latents as they are, as in the steps
                before the codebooks exist.
            n_rows: B, rows of the whole batch.
        """
        decoded_from, quantization = latents, latents.new_zeros(())
        if codes is not None:
            with torch.autocast(latents.device.type, enabled=False):
                decoded_from, quantization = self.quantize(latents, codes, n_rows=n_rows)
        decoded = self.decoder(decoded_from).float()  # (R, D)
        reconstruction = _mean_square(decoded - embeddings, n_rows=n_rows)
        total = reconstruction + self.quant_loss_weight * quantization
        return Losses(total, reconstruction.detach(), quantization.detach())

    def quantize(self, latents: Tensor, codes: Tensor, *, n_rows: int) -> tuple[Tensor, Tensor]:
        """Replace each latent by the sum of its codes' vectors, one code per level.

        Args:
            latents: float32 (R, E).
            codes: int64 (R, L).
            n_rows: B, rows of the whole batch.

        Returns:
            The sums (R, E), whose gradient goes to `latents`; and the quantization loss.

        Source:
            The authors' code. There the straight-through estimator stands inside every level, so
            a residual after the first level has no gradient: the encoder gets the commitment loss
            of the first level only, each codebook the codebook loss of its own level only. The
            rotation is that of Fifty and others (arXiv 2410.06424).
        """
        residual = latents
        losses = []
        for level, codebook in enumerate(self.codebooks):
            chosen = codebook[codes[:, level]]  # (R, E)
            codebook_loss = _mean_square(chosen - residual.detach(), n_rows=n_rows)
            commitment = _mean_square(residual - chosen.detach(), n_rows=n_rows)
            losses.append(codebook_loss + self.beta * commitment)
            residual = (residual - chosen).detach()
        quantized = latents.detach() - residual
        pass_gradient = _rotate if self.rotation else _pass_straight
        return pass_gradient(latents, quantized), torch.stack(losses).mean()

    @torch.no_grad()
    def assign(self, latents: Tensor) -> Tensor:
        """Choose the codes of a whole batch, level by level, as `choose` does.

        Args:
            latents: float32 (B, E).

        Returns:
            Codes, int64 (B, L).
        """
        return self._level_by_level(latents, lambda rows, level: self.choose(rows, level=level))

    @torch.no_grad()
    def choose(self, residual: Tensor, *, level: int) -> Tensor:
        """Choose a code per row: the nearest; balanced by Sinkhorn while training, if asked for.

        Args:
            residual: float32 (B, E), what the levels above left over.
            level: Which codebook.

        Returns:
            Codes, int64 (B,).
        """
        distances = squared_distances(residual, self.codebooks[level])  # (B, K)
        epsilon = self.sk_epsilons[level]
        if not self.training or epsilon == 0:
            return distances.argmin(1)
        return sinkhorn(distances, epsilon=epsilon, n_iters=self.sk_iters).argmax(1)

    @torch.no_grad()
    def nearest_codes(self, latents: Tensor) -> Tensor:
        """Find the nearest code at every level, whatever the mode: Sinkhorn is for training.

        Args:
            latents: float32 (N, E).

        Returns:
            Codes, int64 (N, L).
        """
        return self._level_by_level(
            latents, lambda rows, level: nearest(rows, self.codebooks[level])[1]
        )

    def _level_by_level(self, latents: Tensor, choose: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Choose a code for what the levels above leave over of latents (N, E), on every level."""
        residual = latents
        codes = []
        for level, codebook in enumerate(self.codebooks):
            codes.append(choose(residual, level))
            residual = residual - codebook[codes[-1]]
        return torch.stack(codes, dim=1)

    @torch.no_grad()
    def set_components(self, mean: Tensor, components: Tensor) -> None:
        """Make the encoder project on E directions, and the decoder put embeddings back together.

        Args:
            mean: float32 (D,), which becomes latent 0.
            components: float32 (E, D), unit vectors at right angles.

        Raises:
            ValueError: If the network has hidden layers.
        """
        if self.layers:
            raise ValueError(
                f"`layers`: expected none for principal components, got {self.layers}; leave them "
                "out"
            )
        encoder, decoder = self.encoder[-1], self.decoder[-1]
        assert isinstance(encoder, nn.Linear)
        assert isinstance(decoder, nn.Linear)
        encoder.weight.copy_(components)
        encoder.bias.copy_(-(components @ mean))
        decoder.weight.copy_(components.T)
        decoder.bias.copy_(mean)

    @torch.no_grad()
    def initialise_codebooks(
        self,
        latents: Tensor,
        *,
        n_iters: int,
        seed: int,
        balance: float = 0.0,
        anew: bool = True,
        after_level: Callable[[], None] = lambda: None,
    ) -> None:
        """Set each codebook to the k-means centres of what the levels above leave over.

        Args:
            latents: float32 (N, E), of a batch or of all rows.
            n_iters: The most iterations of k-means.
            seed: Of the first centres.
            balance: As in `kmeans`.
            anew: False: k-means begins with the codebooks as they are.
            after_level: Called when a level is done.
        """
        generator = torch.Generator(latents.device).manual_seed(seed)
        residual = latents
        for codebook in self.codebooks:
            centres, labels = kmeans(
                residual,
                n_clusters=len(codebook),
                n_iters=n_iters,
                generator=generator,
                start=None if anew else codebook.detach(),
                balance=balance,
            )
            codebook.copy_(centres)
            residual = residual - centres[labels]
            after_level()


class ToUnitLength(nn.Module):
    """Scale rows to length 1."""

    def forward(self, rows: Tensor) -> Tensor:
        """Scale rows float32 (B, E)."""
        return functional.normalize(rows.float(), dim=1)


def _mean_square(differences: Tensor, *, n_rows: int) -> Tensor:
    """Give the share of rows (R, W) in the mean square of `n_rows` rows."""
    return differences.square().sum() / (n_rows * differences.shape[1])


def _pass_straight(latents: Tensor, quantized: Tensor) -> Tensor:
    """Give `quantized` (R, E), with its gradient passed to `latents` as it is."""
    return latents + (quantized - latents).detach()


def _rotate(latents: Tensor, quantized: Tensor) -> Tensor:
    """Give `quantized` (R, E) as a rotation and a scaling, both constant, of `latents`."""
    lengths = latents.detach().norm(dim=1, keepdim=True), quantized.norm(dim=1, keepdim=True)
    source, target = (
        rows / length.clamp_min(1e-12)
        for rows, length in zip((latents.detach(), quantized), lengths, strict=True)
    )
    between = functional.normalize(source + target, dim=1)
    mirrored = latents - 2 * (latents * between).sum(1, keepdim=True) * between
    rotated = mirrored + 2 * (latents * source).sum(1, keepdim=True) * target
    scaled = rotated * (lengths[1] / lengths[0].clamp_min(1e-12))
    return _pass_straight(scaled, quantized)  # to the last bit, opposite vectors too


def build_mlp(
    widths: Sequence[int], *, dropout: float, generator: torch.Generator
) -> nn.Sequential:
    """Stack linear layers with ReLU between them and none after the last.

    Args:
        widths: Of the input and of every layer's output.
        dropout: Share of inputs dropped before every layer; 0 adds nothing.
        generator: Of the Xavier-normal weights.
    """
    modules: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(widths):
        linear = nn.Linear(n_in, n_out, device="meta").to_empty(
            device="cpu"
        )  # not from torch's seed
        nn.init.xavier_normal_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        modules += [nn.Dropout(dropout)] if dropout else []
        modules += [linear, nn.ReLU(inplace=True)]
    return nn.Sequential(*modules[:-1])
