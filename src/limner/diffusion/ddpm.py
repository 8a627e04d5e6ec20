"""Denoising diffusion probabilistic models.

Ho, Jain, Abbeel (2020). Denoising diffusion probabilistic models. arXiv:2006.11239.

A picture is destroyed in T small steps of noise, q(x_k | x_{k-1}) = N(sqrt(1 - beta_k) x_{k-1},
beta_k I); a network learns to reverse them. It is trained with L_simple (equation 14): it predicts
the noise in x_k, for a random k.

The chain gives a bound on the likelihood (equation 5). Each term has a closed form, given a sample
of x_k:

    -log p(x_0) <= KL(q(x_T | x_0) || N(0, I)) + sum_{k=2}^T KL(q(x_{k-1} | x_k, x_0) || p(x_{k-1} |
    x_k)) - log p(x_0 | x_1).

Kept: linear betas, epsilon prediction, ancestral sampling with either of the paper's fixed
variances, x_hat clipped, the discretised decoder. Added from Nichol, Dhariwal (2021), Improved
denoising diffusion probabilistic models, arXiv:2102.09672: the cosine schedule, and a variance that
the network learns from the bound (the hybrid loss, in bits per dimension). Added from Kingma et al.
(2021), arXiv:2107.00630, for a tighter bound: steps of even log-SNR, which start from noise that
keeps the levels apart, and Fourier features. Also added: prediction of the picture or of v.
Different: by default the U-Net works on 2 x 2 patches, where the paper's is on pixels, and sampling
visits 250 of the 1,000 steps.
"""

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal, NamedTuple, Unpack

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from limner.contract.abilities import Exports
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec, to_levels
from limner.contract.likelihood import Likelihood, LikelihoodModel
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, Fourier, NonNegative, Positive, Share
from limner.contract.registry import Paper, register
from limner.diffusion import probability_flow
from limner.diffusion.denoising_model import DenoisingModel, errors_by_time
from limner.diffusion.diffusers.conversion import ddpm_pipeline
from limner.maths.denoisers import (
    PREDICTIONS,
    Estimate,
    Parametrisation,
    Prediction,
    Variance,
    per_image,
)
from limner.maths.flow_likelihood import discrete_protocol
from limner.maths.pixel_distributions import Gaussian
from limner.maths.schedules import (
    DiscreteSchedule,
    Times,
    cosine_betas,
    linear_betas,
    log_snr_betas,
    sigmoid_betas,
    zero_terminal,
)
from limner.nn.plain_unet import PlainUNet
from limner.nn.unet import UNet, UNetOptions

_BETAS = {
    "linear": linear_betas,
    "cosine": cosine_betas,
    "sigmoid": sigmoid_betas,
    "log-snr": log_snr_betas,
}
Way = Literal["chain", "flow"]
_LIKELIHOOD_STEPS = 100  # default number of steps of the chain in a likelihood


class Bound(NamedTuple):
    """Parts of the bound on -log P(x), in nats.

    Args:
        prior: L_T, the information about each picture that is left in the last x_T, "b".
        steps: the sum of L_{k-1} for k = 2 .. T.
        decoder: L_0, the term of the discrete picture given x_1.
    """

    prior: Float64[Tensor, "b"]
    steps: Float64[Tensor, "b"]
    decoder: Float64[Tensor, "b"]


@register(
    "ddpm",
    family="diffusion",
    paper=Paper("Denoising diffusion probabilistic models", "Ho, Jain, Abbeel", 2020, "2006.11239"),
    tiny={"channels": (8, 16), "T": 20},
    train={"lr": 5e-4, "clip": 1.0},
)
class DDPM(DenoisingModel, LikelihoodModel, Exports):
    """Denoising diffusion: noise is removed in small random steps.

    Args:
        spec: specification of the images.
        patch: side of the patches of the network on patches, 2 by default.
        T: number of steps that destroy a picture.
        schedule: noise schedule; the model `vdm` learns its schedule.
        terminal: whether the last step leaves nothing of the picture (zero terminal SNR), see
            `schedules.zero_terminal`; for prediction of v or x.
        prediction: what the network predicts: the noise, the picture or v.
        variance: variance of a reverse step: "small" is the posterior variance, "large" the largest
            one, and "learned" lets the network choose between them.
        bound_weight: weight of the bound, in bits per dimension, added to L_simple where the
            variance is learned.
        condition_dropout: probability that training hides the condition.
        network: a `UNet` on patches, which is fast, or the paper's `PlainUNet` on pixels, which
            can be exported to diffusers (`limner export`).
        min_snr: limit of the weight alpha^2 / sigma^2 of x_hat's error in the loss, e.g. 5, so that
            times of little noise do not outweigh the others (Hang et al., 2023, arXiv:2303.09556);
            None leaves the loss of F unchanged.
        fourier: number of pairs of Fourier features that the network on patches takes as further
            input; for likelihoods, see `vdm`.
        unet: see `UNetOptions`.
    """

    default_sampler = "ancestral"
    default_steps = 250
    likelihood_is_slow = True

    def __init__(
        self,
        spec: ImageSpec,
        patch: Count | None = None,
        T: Count = 1000,
        schedule: Literal["linear", "cosine", "sigmoid", "log-snr"] = "linear",
        terminal: bool = False,
        prediction: Prediction = "epsilon",
        variance: Literal["small", "large", "learned"] = "small",
        bound_weight: NonNegative = 0.001,
        condition_dropout: Share = 0.1,
        network: Literal["patches", "plain"] = "patches",
        min_snr: Positive | None = None,
        fourier: Fourier = 0,
        **unet: Unpack[UNetOptions],
    ) -> None:
        out = spec.channels * (2 if variance == "learned" else 1)
        if network == "plain":
            if (patch or 1) > 1:
                raise LimnerError("the plain U-Net works on pixels; leave model.patch out")
            if fourier:
                raise LimnerError("the plain U-Net works on pixels alone; leave model.fourier out")
            F = PlainUNet(spec, **unet, out=out)
        else:
            F = UNet(spec, **unet, patch=patch or 2, out=out, fourier=fourier)
        super().__init__(spec, F, condition_dropout)
        betas = _BETAS[schedule](T)
        if terminal:
            if prediction == "epsilon":
                raise LimnerError(
                    "at zero terminal SNR the picture cannot be recovered from predicted noise; "
                    "with model.terminal=true give model.prediction=v"
                )
            betas = zero_terminal(betas)
        self.schedule, self.T = DiscreteSchedule(betas), T
        self.prediction: Prediction = prediction
        self.variance = variance
        self.bound_weight = bound_weight
        self.min_snr = min_snr

    @property
    def parametrisation(self) -> Parametrisation:
        """Parametrisation that belongs to `prediction`."""
        return PREDICTIONS[self.prediction]

    @property
    def needs_levels(self) -> bool:
        """Whether the variance is learned, which needs the bound."""
        return self.variance == "learned"

    def to_diffusers(self) -> Any:
        """Return the model as a pipeline of diffusers: `Exports`."""
        return ddpm_pipeline(self, self.variance)

    def draw_times(self, noise: Noise) -> Times:
        """Draw times k / T with k uniform on 1 .. T."""
        return (noise.integers(self.T) + 1).double() / self.T

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield one turn: L_simple; plus the bound, which trains only the variance, if learned."""
        if self.variance != "learned":
            yield from super().turns(batch, step, noise)
            return
        e = self.example(batch, noise)
        F, raw = self.output(e.x_t, e.t, e.c).float().chunk(2, dim=1)
        error = (F - e.target).square()
        simple = self.mean_error(error, e.t)
        x_hat = self.combine(F.detach(), e.x_t, e.t).clamp(-1, 1)
        terms = self._terms(batch.x, x_hat, _share(raw), e.t)
        bits = self.T * terms.mean() / (self.spec.dimensions * math.log(2))
        loss = simple + self.bound_weight * bits
        logs = {"simple": simple.detach(), "bits_per_dim": bits.detach()}
        yield Turn(loss, logs=logs | errors_by_time(error.detach(), e.t))

    def mean_error(self, error: Images, t: Times) -> Float[Tensor, ""]:
        """Return the mean of squared errors of F, weighted if there is a limit `min_snr`.

        The weight is out^2 min(alpha^2 / sigma^2, min_snr), which weights the error of x_hat. Where
        alpha = 0 it is out^2; otherwise this time would never be learnt.
        """
        if self.min_snr is None:
            return error.mean()
        alpha, sigma = self.schedule(t)
        out = self.parametrisation(alpha, sigma).out
        snr = (alpha / sigma).square().clamp(max=self.min_snr)
        weight = out.square() * torch.where(alpha > 0, snr, 1.0)
        return (per_image(weight, error) * error).mean()

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """Return x_hat, and v: 0 for the smallest variance, 1 for the largest, or as learned."""
        out = self.output(x_t, t.expand(len(x_t)), c)
        if self.variance == "learned":
            out, raw = out.chunk(2, dim=1)
            return Estimate(self.combine(out, x_t, t), _share(raw.to(x_t.dtype)))
        v = x_t.new_full((1, 1, 1, 1), float(self.variance == "large"))
        return Estimate(self.combine(out, x_t, t), v)

    def likelihood_protocol(self, terms: int = _LIKELIHOOD_STEPS, way: Way = "chain") -> str:
        """Return how many steps of the chain are evaluated, or how the flow is followed."""
        if way == "flow":
            return discrete_protocol(self.spec)
        return f"{min(terms, self.T):,} of {self.T:,} steps, one draw each"

    def log_prob(
        self,
        x: Images,
        c: Condition = Condition(),
        *,
        noise: Noise,
        terms: Count = _LIKELIHOOD_STEPS,
        way: Way = "chain",
    ) -> Likelihood:
        """Return a lower bound of log P(x), from `terms` steps of the chain.

        Args:
            x, c, noise: see `LikelihoodModel.log_prob`.
            terms: number of steps, see `bound`.
            way: "chain" for the bound; "flow" for an estimate along the probability flow, see
                `probability_flow`.
        """
        if way == "flow":
            return probability_flow.log_prob(self, x, c, noise=noise)
        bound = self.bound(x, c, noise=noise, terms=terms)
        return Likelihood(-torch.stack(bound).sum(0), "lower", bound._asdict())

    def bound(
        self, x: Images, c: Condition = Condition(), *, noise: Noise, terms: int | None = None
    ) -> Bound:
        """Return the parts of the variational bound of -log P(x).

        Args:
            x, c, noise: see `LikelihoodModel.log_prob`.
            terms: number of steps to draw from the T - 1 steps between the first and the last, one
                from each of as many equal parts of the chain, for an unbiased estimate; by default
                all of them.
        """
        alpha, sigma = (
            float(level) for level in self.schedule(torch.ones((), dtype=torch.float64))
        )
        squares = x.double().square().flatten(1)
        prior = 0.5 * (alpha**2 * squares + sigma**2 - 1 - 2 * math.log(sigma)).sum(1)
        first = torch.full((len(x),), 1 / self.T, dtype=torch.float64, device=x.device)
        decoder = self._draw_terms(x, c, first, noise)
        inner = self.T - 1
        count = min(terms or inner, inner)
        steps = torch.zeros_like(prior)
        for part in range(count):
            u = noise.uniform(dtype=torch.float64)
            k = 2 + ((part + u) * inner / count).floor().clamp(max=inner - 1)
            if count == inner:
                k = torch.full_like(u, 2 + part)
            steps += self._draw_terms(x, c, k / self.T, noise) * inner / count
        return Bound(prior, steps, decoder)

    @torch.no_grad()
    def _draw_terms(self, x: Images, c: Condition, t: Times, noise: Noise) -> Float64[Tensor, "b"]:
        """Return the term of one step for each picture, at one sample of x_t."""
        alpha, sigma = self.schedule(t)
        eps = noise.normal(*self.spec.shape).to(x)
        x_t = per_image(alpha, x) * x + per_image(sigma, x) * eps
        x_hat, v = self(x_t, t, c)
        return self._terms(x, x_hat.clamp(-1, 1), v, t).double()

    def _terms(self, x: Images, x_hat: Images, v: Variance, t: Times) -> Float[Tensor, "b"]:
        """Return KL(q(x_s | x_t, x) || p(x_s | x_t)) of each picture in nats.

        For s = 0 it is -log p(x | x_t), the decoder's term. The two means differ by a multiple of
        x - x_hat. The smallest variance of the decoder would be 0, so that of step k = 2 is used;
        also with "large", as in the authors' fixedlarge.
        """
        large, small, weight = (self._steps.to(x.device)[:, (t * self.T).round().long() - 1]).to(x)
        large, small, weight = (per_image(each, x) for each in (large, small, weight))
        log_variance = torch.lerp(small.log(), large.log(), v.to(x) if v is not None else 0 * small)
        error = (weight * (x - x_hat)).square()
        kl = 0.5 * (log_variance - small.log() + (small + error) / log_variance.exp() - 1)
        distribution = Gaussian(self.spec.channels, self.spec.levels)
        theta = torch.cat([x_hat, (log_variance / 2).expand_as(x_hat)], 1).movedim(1, -1)
        k = to_levels(x, self.spec.levels).movedim(1, -1)
        decoder = -distribution.log_prob(theta, k).flatten(1).sum(1)
        return torch.where(t * self.T > 1.5, kl.flatten(1).sum(1), decoder)

    @cached_property
    def _steps(self) -> Float64[Tensor, "3 T"]:
        """sigma_{t|s}^2, the posterior's variance, and the weight of x in its mean, by step."""
        alpha, sigma = self.schedule(torch.arange(self.T + 1, dtype=torch.float64) / self.T)
        large = sigma[1:] ** 2 - (alpha[1:] / alpha[:-1]) ** 2 * sigma[:-1] ** 2
        small = large * (sigma[:-1] / sigma[1:]) ** 2
        if self.T > 1:
            small[0] = small[1]
        else:
            small[0] = large[0]
        weight = alpha[:-1] * large / sigma[1:] ** 2
        if self.variance == "large":
            large[0] = small[0]
        return torch.stack([large, small, weight])


def _share(raw: Images) -> Images:
    """Return v, which is 0 at -1 and 1 at 1. Nichol, Dhariwal (2021), arXiv:2102.09672, eq. 15."""
    return (raw + 1) / 2
