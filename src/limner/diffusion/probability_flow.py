"""The likelihood of a denoiser: the change of variables along its probability flow.

Along a Gaussian path, x_t = alpha x + sigma eps, an ordinary differential equation carries the
density of x_t from each time to the next. In y = x_t / alpha and s = sigma / alpha it is dy/ds =
eps_hat for every schedule. Here it is in u = y / sqrt(1 + s^2), which is x_t itself where variance
is preserved, and in the logarithm of s, which puts more steps where pictures are decided:

    du/d ln s = u / (1 + s^2) - x_hat / sqrt(1 + s^2).

It starts at the least noise that the denoiser knows, where pictures are almost unchanged, and ends
where sampling starts.

References:
    Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole (2020). Score-based generative modeling
    through stochastic differential equations. arXiv:2011.13456, section 4.3 and appendix D.2.
    Karras, Aittala, Aila, Laine (2022). arXiv:2206.00364, equation 4 for the change to y and s.
"""

import math
from functools import partial

from jaxtyping import Float
from torch import Tensor

from limner.contract.image import Condition, Images
from limner.contract.likelihood import Likelihood, LikelihoodModel
from limner.contract.noise import Noise
from limner.contract.options import Positive
from limner.diffusion.denoising_model import DenoisingModel
from limner.maths.denoisers import Denoiser, per_image
from limner.maths.flow_likelihood import (
    Divergence,
    discrete_log_prob,
    discrete_protocol,
    solve_flow,
)
from limner.maths.transforms import log_normal


def log_density(
    D: Denoiser, x: Images, c: Condition, *, noise: Noise | None, tolerance: float
) -> Float[Tensor, "b"]:
    """Return log p(x) in nats under the distribution that the probability flow samples from.

    Args:
        D: the denoiser.
        x: pictures, or any numbers of their shape, at the least noise.
        c: condition of the pictures.
        noise: streams for the signs of Hutchinson's estimate; None for the exact divergence.
        tolerance: see `flow_likelihood.solve_flow`.
    """
    schedule, dimensions = D.schedule, x[0].numel()
    alpha, sigma = schedule(schedule.ends)
    first, last = (sigma / alpha).log().tolist()
    before, after = (math.sqrt(1 + math.exp(2 * end)) for end in (first, last))
    scale = float(alpha[1]) * after / schedule.prior_deviation  # gives u unit variance at the end

    def velocity(u: Images, ln_s: Tensor, rows: Tensor) -> Images:
        s = ln_s.double().exp()
        norm = (1 + s**2).sqrt()
        t = schedule.time_of(s)
        x_t = per_image(schedule(t)[0] * norm, u) * u
        x_hat = D(x_t, t, c.rows(rows)).x_hat
        return per_image(norm**-2, u) * u - per_image(1 / norm, u) * x_hat

    u, log_det, _ = solve_flow(velocity, x / before, first, last, noise=noise, tolerance=tolerance)
    log_scale = dimensions * (math.log(scale) - math.log(before))
    return log_normal(scale * u) + log_det + log_scale


def log_prob(
    model: DenoisingModel,
    x: Images,
    c: Condition,
    *,
    noise: Noise,
    divergence: Divergence | None = None,
    tolerance: float = 1e-4,
) -> Likelihood:
    """Return log P of pictures with discrete levels, uniformly dequantised.

    Args:
        model: the denoiser.
        x: pictures on the grid of the model's levels.
        c: condition of the pictures.
        noise: random streams.
        divergence: see `flow_likelihood.discrete_log_prob`.
        tolerance: error tolerance of the steps; each picture has its own step lengths.
    """

    def density(y: Images, signs: Noise | None) -> Tensor:
        return log_density(model, y, c, noise=signs, tolerance=tolerance)

    return discrete_log_prob(density, x, model.spec, noise=noise, divergence=divergence)


class FlowLikelihood(DenoisingModel, LikelihoodModel):
    """Denoising model with the likelihood of its probability flow."""

    likelihood_is_slow = True

    def likelihood_protocol(
        self, divergence: Divergence | None = None, tolerance: float = 1e-4
    ) -> str:
        """Return how pictures are dequantised, and how the divergence is computed."""
        return discrete_protocol(self.spec, divergence)

    def log_prob(
        self,
        x: Images,
        c: Condition = Condition(),
        *,
        noise: Noise,
        divergence: Divergence | None = None,
        tolerance: Positive = 1e-4,
    ) -> Likelihood:
        """Return log P(x) along the probability flow; arguments as for the function `log_prob`."""
        density = partial(self.log_density, c=c, tolerance=tolerance)
        return discrete_log_prob(density, x, self.spec, noise=noise, divergence=divergence)

    def log_density(
        self, x: Images, noise: Noise | None, c: Condition, tolerance: float
    ) -> Float[Tensor, "b"]:
        """Return log p(x) in nats; arguments as for the function `log_density`."""
        return log_density(self, x, c, noise=noise, tolerance=tolerance)
