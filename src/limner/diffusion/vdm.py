"""Variational diffusion models: the noise schedule is learned, and the likelihood is the loss.

Kingma, Salimans, Poole, Ho (2021). Variational diffusion models. arXiv:2107.00630.

    z_t = alpha x + sigma eps,   sigma^2 = sigmoid(g(t)),   alpha^2 = sigmoid(-g(t))
    -log P(x) <= KL(q(z_1 | x) || N(0, I)) - E log P(x | z_0) + 1/2 E_t g'(t) |eps - eps_hat|^2

with g increasing from g(0) to g(1). The last term does not depend on how g goes from one end to the
other. So the ends are learned from the bound, and the path between them is learned to give this
term, at one random t for each picture, a low variance (appendix H). With T steps instead of
continuous time the term is T/2 E_i (exp(g(t_i) - g(s_i)) - 1) |eps - eps_hat|^2, which falls as T
grows (section 4).

Kept: the monotone network and its ends, P(x | z_0) proportional to q(z_0 | x) in each number,
Fourier features of z_t. Different: the times of a batch are independent, where the paper spreads
them evenly over it. The features have all wavelengths from one level to the whole range of 256, and
are weighted by the time; the paper's two alone leave a gap between them and the information in z_t
itself (2.4 bits/dim of digits instead of 1.3 after 96,000 of them). The U-Net works on 2 x 2
patches. The last step of a sampler returns x_hat, instead of samples of z_0 and then of x.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec, to_levels
from limner.contract.likelihood import Likelihood, LikelihoodModel
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, Fourier, Share
from limner.contract.registry import Paper, register
from limner.diffusion.denoising_model import DenoisingModel
from limner.maths.denoisers import Parametrisation, epsilon, per_image
from limner.maths.schedules import LogSNR, Times
from limner.nn.unet import PatchOptions, UNet

_LIKELIHOOD_TIMES = 8  # number of times at which a likelihood evaluates each picture
_MAX_DEVIATIONS = 16  # deviations of z_0; it cannot come from levels that are farther away


class Way(nn.Module):
    """u(t), increasing from 0 to 1: a monotone network, normalised.

    u~ = l_1(t) + l_3(sigmoid(l_2(l_1(t)))) with positive weights; appendix H.

    Args:
        hidden: width of the inner layer.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.slopes = nn.Parameter(torch.randn(hidden, dtype=torch.float64))
        self.shifts = nn.Parameter(torch.randn(hidden, dtype=torch.float64))
        self.weights = nn.Parameter(torch.full((hidden,), -6.0, dtype=torch.float64))

    def forward(self, t: Times) -> tuple[Times, Times]:
        """Return u, and its derivative in t."""
        raw, slope = self._raw(t)
        ends, _ = self._raw(t.new_tensor([0.0, 1.0]))
        return (raw - ends[0]) / (ends[1] - ends[0]), slope / (ends[1] - ends[0])

    def _raw(self, t: Times) -> tuple[Times, Times]:
        rate = F.softplus(self.rate)
        slopes, weights = F.softplus(self.slopes), F.softplus(self.weights)
        inner = torch.sigmoid(8 * slopes * (rate * t)[..., None] + self.shifts - 4 * slopes)
        raw = rate * t + (weights * inner).sum(-1)
        return raw, rate * (1 + (weights * 8 * slopes * inner * (1 - inner)).sum(-1))


@dataclass(frozen=True)
class LearnedLogSNR(LogSNR):
    """Learned schedule of a variational diffusion model: l(t) = -g(t).

    Args:
        model: model that has g.
    """

    model: "VDM | None" = None

    def log_snr(self, t: Times) -> Times:
        """Return -g(t)."""
        assert self.model is not None
        return -self.model.gamma(t)[0]

    def time_of(self, s: Times) -> Times:
        """Return the time at which g is 2 ln s, with bisection."""
        low, high = torch.zeros_like(s, dtype=torch.float64), torch.ones_like(s)
        for _ in range(50):
            middle = (low + high) / 2
            below = -self.log_snr(middle) < 2 * s.log()
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


class Terms(NamedTuple):
    """Terms of the bound on -log P(x), in nats.

    Args:
        prior: the information about each picture that is left in z_1, "b".
        diffusion: the term of the path between z_1 and z_0, at one time for each picture.
        decoder: -log P(x | z_0).
    """

    prior: Float[Tensor, "b"]
    diffusion: Float[Tensor, "b"]
    decoder: Float[Tensor, "b"]


@register(
    "vdm",
    family="diffusion",
    paper=Paper("Variational diffusion models", "Kingma, Salimans, Poole, Ho", 2021, "2107.00630"),
    tiny={"channels": (8, 16), "hidden": 8},
    train={"lr": 2e-4, "betas": (0.9, 0.99), "weight_decay": 0.01},
)
class VDM(DenoisingModel, LikelihoodModel):
    """Variational diffusion: the likelihood's bound is the loss, and the noise schedule is learned.

    Args:
        spec: specification of the images.
        start, end: g(0) and g(1) before training; g rises.
        hidden: width of the monotone network.
        fourier: number of pairs of Fourier features that the network takes in addition to z_t: the
            first has a period of one level, each further one twice that of the previous one.
        condition_dropout: probability that training hides the condition.
        unet: see `PatchOptions`.

    Raises:
        LimnerError: start is not below end.
    """

    default_sampler = "ancestral"
    default_steps = 100
    likelihood_is_slow = True

    def __init__(
        self,
        spec: ImageSpec,
        start: float = -13.3,
        end: float = 5.0,
        hidden: Count = 256,
        fourier: Fourier = 9,
        condition_dropout: Share = 0.0,
        **unet: Unpack[PatchOptions],
    ) -> None:
        if not start < end:
            raise LimnerError(
                f"model.start={start:g} is the least noise, and must be below model.end={end:g}"
            )
        network = UNet(spec, **unet, fourier=fourier)
        super().__init__(spec, network, condition_dropout)
        self.way = Way(hidden)
        self.bounds = nn.Parameter(torch.tensor([start, end], dtype=torch.float64))
        self.schedule = LearnedLogSNR(start, end, model=self)

    @property
    def parametrisation(self) -> Parametrisation:
        """Prediction of the noise."""
        return epsilon

    @property
    def needs_levels(self) -> bool:
        """True, because the loss is the bound."""
        return True

    def gamma(self, t: Times) -> tuple[Times, Times]:
        """Return g and g' at each time, float64."""
        u, slope = self.way(t.double())
        start, end = self.bounds
        return start + (end - start) * u, (end - start) * slope

    def draw_times(self, noise: Noise) -> Times:
        """Draw a uniform time for each picture."""
        return noise.uniform(dtype=torch.float64)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield one turn: the bound in bits per dimension; its variance trains g's path."""
        terms = self.terms(batch.x, batch.c, self.draw_times(noise), noise, steady=True)
        scale = 1 / (self.spec.dimensions * math.log(2))
        bits = [scale * term.mean() for term in terms]
        logs = {f"{name}_bits": value.detach() for name, value in zip(Terms._fields, bits)}
        loss = bits[0] + bits[1] + bits[2]
        yield Turn(loss.float(), logs=logs | {"bits_per_dim": loss.detach()})

    def terms(
        self, x: Images, c: Condition, t: Times, noise: Noise, *, steady: bool = False
    ) -> Terms:
        """Return the bound's terms at one time for each picture.

        Args:
            x: pictures on the grid of levels.
            c: condition of the pictures.
            t: times, "b".
            noise: random streams.
            steady: whether the path between g's ends gets the gradient of the squared term, which
                lowers the term's variance.
        """
        x = x.double()
        u, slope = self.way(t.double())
        start, end = self.bounds
        weight: list[Tensor] = []
        if steady and u.requires_grad:
            for value in (u, slope):
                value.register_hook(lambda g: 2 * weight[0] * g)
        g, rate = start + (end - start) * u, (end - start) * slope
        alpha, sigma = (-g).sigmoid().sqrt(), g.sigmoid().sqrt()
        eps = noise.normal(*self.spec.shape, dtype=torch.float64)
        z = per_image(alpha, x) * x + per_image(sigma, x) * eps
        eps_hat = self.network(z.float(), (50 * g).to(z.device), c).double()
        diffusion = 0.5 * rate * (eps - eps_hat).square().flatten(1).sum(1)
        weight.append(diffusion.detach() / self.spec.dimensions)
        return Terms(self.prior_term(x), diffusion, self.decoder_term(x, noise))

    def prior_term(self, x: Images) -> Float64[Tensor, "b"]:
        """Return KL(q(z_1 | x) || N(0, I)) of each picture."""
        g = self.bounds[1]
        variance = g.sigmoid()
        squares = (-g).sigmoid() * x.double().square().flatten(1)
        return 0.5 * (squares + variance - 1 - F.logsigmoid(g)).sum(1)

    def decoder_term(self, x: Images, noise: Noise) -> Float64[Tensor, "b"]:
        """Return -log P(x | z_0) at one sample of z_0.

        For a level that is j steps (u_j deviations of z_0 / alpha_0) from x, the density of z_0 is
        that for x times exp(u_j eps - u_j^2 / 2); only few levels are near enough to count.
        """
        levels = self.spec.levels
        eps = noise.normal(*self.spec.shape, dtype=torch.float64)
        deviation = (self.bounds[0] / 2).exp().to(eps.device)  # of z_0 / alpha_0
        step = 2 / (levels - 1)
        reach = math.ceil(min(levels - 1, _MAX_DEVIATIONS * float(deviation.detach()) / step))
        j = torch.arange(-reach, reach + 1, device=eps.device)
        k = to_levels(x.float(), levels)[..., None] + j
        u = j.double() * step / deviation
        log_ratio = (eps[..., None] * u - u.square() / 2).masked_fill(
            (k < 0) | (k >= levels), -math.inf
        )
        return log_ratio.logsumexp(-1).flatten(1).sum(1)

    def likelihood_protocol(self, terms: int = _LIKELIHOOD_TIMES) -> str:
        """Return how often each picture is evaluated."""
        return f"continuous time, {terms} times each"

    @torch.no_grad()
    def log_prob(
        self,
        x: Images,
        c: Condition = Condition(),
        *,
        noise: Noise,
        terms: Count = _LIKELIHOOD_TIMES,
    ) -> Likelihood:
        """Return a lower bound of log P(x), from `terms` times spread evenly over [0, 1].

        Args:
            x, c, noise: see `LikelihoodModel.log_prob`.
            terms: number of times at which each picture is evaluated.
        """
        first = noise.uniform(dtype=torch.float64)
        samples = [self.terms(x, c, (first + i / terms) % 1, noise) for i in range(terms)]
        means = Terms(*(torch.stack(term).mean(0) for term in zip(*samples, strict=True)))
        return Likelihood(-torch.stack(means).sum(0), "lower", means._asdict())

    @torch.no_grad()
    def discrete_bound(
        self, x: Images, c: Condition = Condition(), *, noise: Noise, T: int
    ) -> Float64[Tensor, "b"]:
        """Return the bound on -log P(x) from all T steps, in nats (section 4, equation 13)."""
        x = x.double()
        total = self.prior_term(x) + self.decoder_term(x, noise)
        for i in range(1, T + 1):
            t, s = (x.new_full((len(x),), k / T) for k in (i, i - 1))
            (g, _), (g_s, _) = self.gamma(t), self.gamma(s)
            alpha, sigma = (-g).sigmoid().sqrt(), g.sigmoid().sqrt()
            eps = noise.normal(*self.spec.shape, dtype=torch.float64)
            z = per_image(alpha, x) * x + per_image(sigma, x) * eps
            eps_hat = self.network(z.float(), (50 * g).to(z.device), c).double()
            gain = 0.5 * torch.expm1(g - g_s)
            total += gain * (eps - eps_hat).square().flatten(1).sum(1)
        return total
