"""Autoencoder: a low-dimensional code from which the picture is reconstructed.

Hinton, Salakhutdinov (2006). Reducing the dimensionality of data with neural networks. Science 313,
504-507. doi:10.1126/science.1127647.

    minimise  E |x - D(E(x))|^2

It does not model p(x): it does not learn which codes belong to pictures, and it has no likelihood.
To generate pictures, `calibrate` fits a Gaussian N(m, V diag(l) V^T) to the codes of the data, and
`frames` decodes draws from it. The closer the codes are to a normal distribution, the better the
pictures. `encode` returns whitened codes, u = diag(l)^(-1/2) V^T (E(x) - m): uncorrelated, of
variance 1, the direction of largest variance first.

Different from the paper: residual convolutions by default, with MLPs as an option; all layers are
trained together from random weights; squared error. Encoder and decoder are conditioned on labels
and captions; the Gaussian is fitted to the codes of all pictures together.
"""

from collections.abc import Iterator
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from limner.autoencoders.encoders import CONDITION_SIZE, centre, coders
from limner.contract.codes import Encodes
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, Layers, Natural, Share, Widths
from limner.contract.registry import Paper, register
from limner.nn.condition import Conditioner

_MIN_VARIANCE_SHARE = 1e-6  # of the largest variance, for directions in which codes do not vary


@register(
    "autoencoder",
    family="autoencoders",
    paper=Paper(
        "Reducing the dimensionality of data with neural networks",
        "Hinton, Salakhutdinov",
        2006,
        doi="10.1126/science.1127647",
    ),
    tiny={"latent": 3, "channels": (8,)},
    train={"lr": 1e-3},
)
class Autoencoder(Encodes):
    """Autoencoder: reconstruction without p(x); samples come from a Gaussian fitted to its codes.

    Args:
        spec: specification of the images.
        latent: dimension of a code.
        channels: channels per resolution, finest first; each resolution halves height and width.
        blocks: residual blocks at each resolution.
        hidden: widths of the hidden layers of MLPs that replace the convolutions, from the picture
            to the code.
        condition_dropout: probability of hiding the condition from both networks in training.
    """

    takes = ("labels", "text")
    spherical = False
    code_mean: Float[Tensor, "d"]
    code_axes: Float[Tensor, "d d"]

    def __init__(
        self,
        spec: ImageSpec,
        latent: Count = 32,
        channels: Widths = (32, 64),
        blocks: Natural = 1,
        hidden: Layers | None = None,
        condition_dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        self.condition_dropout = condition_dropout
        self.conditioner = Conditioner(spec, CONDITION_SIZE)
        self.encoder, self.decoder = coders(
            spec,
            latent,
            latent,
            spec.channels,
            channels=channels,
            blocks=blocks,
            hidden=hidden,
            vector=CONDITION_SIZE if spec.labels or spec.text else 0,
        )
        self.register_buffer("code_mean", torch.zeros(latent))
        self.register_buffer("code_axes", torch.eye(latent))

    def formula(self) -> list[str]:
        """Return the formulas of the loss and of the codes that are sampled."""
        size = len(self.code_mean)
        return [
            "min E |x - decoder(encoder(x))|^2",
            f"x = decoder(m + A u),  u ~ N(0, I) of {size},  N(m, A A^T) fitted to encoder(x)",
        ]

    def prepare(self, batches: Iterator[Batch]) -> None:
        """Measure the mean picture, which an MLP encoder subtracts from its input."""
        centre(self.encoder, batches)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield one turn: the squared error, averaged over all channels of all pixels."""
        vector = self._vector(batch.c, len(batch.x))
        x_hat = self.decoder(self.encoder(batch.x, vector), vector).permute(0, 3, 1, 2)
        error = (x_hat - batch.x).square().mean()
        yield Turn(error, logs={"squared_error": error.detach()})

    @torch.no_grad()
    def calibrate(self, batches: Iterator[Batch]) -> None:
        """Fit the Gaussian to the codes: m, and V diag(l)^(1/2), the axes of its ellipsoid."""
        codes = [self.encoder(x, self._vector(c, len(x))) for x, c in batches]
        z = torch.cat(codes).double()
        mean = z.mean(0)
        covariance = (z - mean).T @ (z - mean) / max(1, len(z) - 1)
        variances, directions = torch.linalg.eigh(covariance)
        variances = variances.flip(0).clamp(
            min=_MIN_VARIANCE_SHARE * float(variances.max()) + 1e-12
        )
        self.code_mean.copy_(mean)
        self.code_axes.copy_(directions.flip(1) * variances.sqrt())

    def encode(self, x: Images, c: Condition = Condition()) -> Float[Tensor, "b d"]:
        """Return the whitened codes."""
        z = self.encoder(x, self._vector(c, len(x))) - self.code_mean
        return z @ self.code_axes / self.code_axes.square().sum(0)

    def decode(self, z: Float[Tensor, "b d"], c: Condition = Condition()) -> Images:
        """Return the picture of each whitened code."""
        code = self.code_mean + z @ self.code_axes.T
        theta = self.decoder(code, self._vector(c, len(z)))
        return theta.permute(0, 3, 1, 2)

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        temperature: Annotated[float, Field(ge=0, le=10)] = 1.0,
    ) -> Iterator[Images]:
        """Yield the decoded pictures of codes drawn from the fitted Gaussian.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            temperature: factor by which the noise of the code is scaled; below 1, codes are nearer
                to the mean code.
        """
        u = noise.normal(len(self.code_mean), dtype=self.code_mean.dtype)
        yield self.decode(temperature * u, c)

    def _vector(self, c: Condition, n: int) -> Float[Tensor, "b v"] | None:
        return self.conditioner(c, n).vector
