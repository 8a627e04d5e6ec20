"""Flows as densities of few numbers: they integrate to 1; Glow's step equals normflows' block."""

import math
from typing import Any, TypeVar

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chi2, kstest
from torch import nn

from limner.contract.image import Batch, Condition, ImageSpec, from_levels
from limner.contract.noise import Noise
from limner.flows.glow import Glow, step
from limner.flows.normalizing import NormalizingFlow
from limner.flows.realnvp import RealNVP
from limner.maths.couplings import Affine, Spline
from limner.maths.dequantisation import Uniform
from limner.maths.transforms import (
    NO_SIGNAL,
    ActNorm,
    Chain,
    Coupling,
    InvertibleConv,
    MaskedCoupling,
    checkerboard,
    log_normal,
)
from limner.nn.condition import Signal

PLANE = ImageSpec(2, 1, 1)  # a picture of one pixel with two numbers
FLOWS = {
    "glow": lambda: Glow(PLANE, L=1, K=4, hidden=16),
    "glow of splines": lambda: Glow(PLANE, L=1, K=3, hidden=16, coupling="spline"),
    "realnvp": lambda: RealNVP(PLANE, L=1, features=8, blocks=1, alpha=None),
}
M = TypeVar("M", bound=nn.Module)
each = pytest.mark.parametrize("make", FLOWS.values(), ids=FLOWS)


def randomised(model: M) -> M:
    """Randomise the weights, since a new flow is linear at most; return the model."""
    for p in model.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return model.double().eval().requires_grad_(False)


def points(x: torch.Tensor) -> torch.Tensor:
    """Convert points of the plane to pictures."""
    return x.reshape(-1, 2, 1, 1)


@each
def test_the_density_integrates_to_1_and_draws_follow_it(make):
    """The density integrates to 1 within 1e-3; a chi-squared test of draws in cells of the plane
    against its integral over them."""
    model, n, cells, fine = randomised(make()), 40_000, 16, 16
    x = model.flow.inverse(points(Noise.sampling(0, n).normal(2, dtype=torch.float64))).view(n, 2)
    margin = 0.25 * (x.amax(0) - x.amin(0))
    low, high = x.amin(0) - margin, x.amax(0) + margin
    side = cells * fine
    centres = (torch.arange(side) + 0.5) / side
    grid = low + (high - low) * torch.cartesian_prod(centres, centres)
    density = torch.cat([model.log_density(points(p), NO_SIGNAL) for p in grid.split(2**17)]).exp()
    mass = density.view(cells, fine, cells, fine).sum((1, 3)) * ((high - low) / side).prod()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-3)
    cell = ((x - low) / (high - low) * cells).long()
    counts = torch.bincount(cell[:, 0] * cells + cell[:, 1], minlength=cells**2)
    expected = n * mass.flatten()
    full = expected >= 5
    rest = torch.stack([counts[~full].sum(), expected[~full].sum()])
    statistic = ((counts - expected).square() / expected)[full].sum()
    statistic = statistic + (rest[0] - rest[1]).square() / rest[1]
    assert int(full.sum()) > 20
    assert float(statistic) < chi2.isf(1e-4, int(full.sum()))


@pytest.mark.parametrize("name", ["glow", "realnvp"])
def test_a_trained_flow_reaches_the_entropy_of_normal_data(name):
    """1/2 ln((2 pi e)^2 |Sigma|) nats within 3 standard errors; the mean of log p - log q over
    draws of p is a divergence, never below 0."""
    A = torch.tensor([[1.0, 0.0], [1.2, 0.5]])
    true = torch.distributions.MultivariateNormal(torch.tensor([0.5, -1.0]), A @ A.T)
    model = FLOWS[name]()
    model.flow.prepare(points(true.sample((1000,))))
    optimiser = torch.optim.Adam(model.flow.parameters(), lr=1e-2)
    steps = 120
    for i in range(steps):
        optimiser.param_groups[0]["lr"] = 1e-2 * (1 - i / steps)
        loss = -model.log_density(points(true.sample((128,))), NO_SIGNAL).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x = true.sample((20_000,))
    with torch.no_grad():
        log_q = model.log_density(points(x), NO_SIGNAL)
    error = float(log_q.std()) / math.sqrt(len(x))
    assert abs(float(-log_q.mean() - true.entropy())) < 3 * error
    gap = true.log_prob(x) - log_q
    assert float(gap.mean()) > -3 * float(gap.std()) / math.sqrt(len(x))


class Always(nn.Module):
    """A network that returns the same theta for every input."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(size, 1, 1))

    def forward(self, x: torch.Tensor, _: Signal) -> torch.Tensor:
        return self.theta.expand(len(x), -1, -1, -1)


class Independent(NormalizingFlow):
    """A flow with an independent spline for each of two numbers."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__(spec, 1, None, "uniform", 8, 0.0)
        f, mask = Spline(), torch.zeros(2, 1, 1, dtype=torch.bool)
        self.flow = Chain(ActNorm(2), MaskedCoupling(Always(2 * f.size), f, mask))


def test_a_single_picture_costs_a_quarter_bit_and_about_0_after_training():
    """Its numbers are uniform in their bins. A normal distribution with their moments costs
    log2(2 pi e / 12) / 2 bits; a flow that learns the bins approaches 0 from above."""
    x = from_levels(torch.tensor([3, 200]).view(1, 2, 1, 1), 256).expand(256, -1, -1, -1)
    model = Independent(PLANE)
    model.prepare(iter([Batch(x, Condition())]))

    def bits() -> tuple[float, float]:
        many = x[:1].expand(4096, -1, -1, -1)
        with torch.no_grad():
            nats = model.bits_per_dim(many, noise=Noise.sampling(9, 4096)).nats
        return float(nats.mean()), float(nats.std()) / 64

    mean, error = bits()
    assert abs(mean - math.log2(2 * math.pi * math.e / 12) / 2) < 3 * error
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for i in range(200):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - i / 200)
        (turn,) = model.turns(Batch(x, Condition()), i, Noise.keyed(0, i, torch.arange(256)))
        optimiser.zero_grad()
        turn.loss.backward()
        optimiser.step()
    mean, error = bits()
    assert -3 * error < mean < 0.1
    assert (model.eval().sample(1000) == x[:1]).double().mean() > 0.95


FOUR = ImageSpec(1, 1, 2, levels=4)
EVERY = torch.cartesian_prod(torch.arange(4), torch.arange(4)).view(-1, 1, 1, 2)  # 16 pictures


def dequantised(law: str) -> NormalizingFlow:
    """Return a flow of pictures of two numbers, nonlinear within bins, with uniform or variational
    dequantisation."""
    torch.manual_seed(0)
    model = RealNVP(FOUR, L=1, features=8, blocks=1, alpha=None, dequantisation="variational")
    model.flow.prepare(0.5 + 0.3 * torch.randn(64, *FOUR.shape))
    randomised(model.flow)
    if law == "uniform":
        model.dequantise = Uniform(4)
    return model.double()


def bounds(model: NormalizingFlow, n: int) -> torch.Tensor:
    """Return n draws of the bound of each picture, in nats."""
    x = from_levels(EVERY, 4).double().repeat(n, 1, 1, 1)
    return model.log_prob(x, noise=Noise.sampling(0, len(x))).nats.view(n, 16)


@torch.no_grad()
@pytest.mark.parametrize("law", ["uniform", "variational"])
def test_bounds_are_below_the_probability_from_quadrature(law):
    """P is the integral of the density over a bin. E log(p(y) C) <= log P and E p(y) C = P for any
    distribution of y."""
    model, n = dequantised(law), 600
    for p in model.dequantise.parameters():
        p += 0.05 * torch.randn_like(p)
    centres = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    offsets = torch.cartesian_prod(centres, centres).view(-1, 1, 1, 1, 2)
    y = (EVERY + offsets).flatten(0, 1) / 4
    P = model.log_density(y, NO_SIGNAL).exp().view(-1, 16).mean(0) / 16
    gain = bounds(model, n) - P.log()
    assert bool((gain.mean(0) <= 3 * gain.std(0) / math.sqrt(n)).all())
    assert float(gain.mean(0).min()) < -0.05  # the bound is not tight
    ratio = gain.exp()
    assert bool(((ratio.mean(0) - 1).abs() <= 4 * ratio.std(0) / math.sqrt(n)).all())
    assert float(ratio.mean()) == pytest.approx(1, abs=0.02)


@torch.no_grad()
def test_a_variational_dequantisation_starts_as_the_uniform_one():
    uniform, variational, n = dequantised("uniform"), dequantised("variational"), 300
    x = from_levels(EVERY, 4).double().repeat(n, 1, 1, 1)
    y, log_c = variational.dequantise(x, noise=Noise.sampling(1, len(x)))
    torch.testing.assert_close(log_c, torch.full_like(log_c, -2 * math.log(4)))
    assert kstest(((y * 4) % 1).flatten().numpy(), "uniform").pvalue > 1e-3
    nats = [bounds(model, n) for model in (uniform, variational)]
    error = torch.stack([part.std(0) for part in nats]).norm(dim=0) / math.sqrt(n)
    assert bool(((nats[1] - nats[0]).mean(0).abs() <= 4 * error).all())


class AsNormflows(nn.Module):
    """normflows' network with its output converted to the parameters of our affine map.

    Theirs is z = sigmoid(p + 2) (x - t); ours, exp(s) x + t with s = 2 tanh(raw / 2).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, _: Signal) -> torch.Tensor:
        p = self.network(x)
        s = F.logsigmoid(p[:, 1::2] + 2)
        return torch.cat([-p[:, 0::2] * s.exp(), 2 * (s / 2).atanh()], 1)


@pytest.mark.filterwarnings("ignore:torch.lu is deprecated")
def test_a_step_of_flow_equals_normflows_glow_block():
    """Equal weights give the same z, log C and inverse."""
    normflows = pytest.importorskip("normflows")
    theirs: Any = normflows.flows.GlowBlock(6, 8).double()
    x = torch.randn(3, 6, 4, 4, dtype=torch.float64)
    theirs.inverse(x)  # initialises its activation norm
    for p in theirs.parameters():
        p.data += 0.2 * torch.randn_like(p)
    couple, mix, norm = theirs.flows
    ours = step(6, 8, 0, Affine()).double()
    own_norm, own_mix, own_coupling = ours
    assert isinstance(own_mix, InvertibleConv)
    assert isinstance(own_coupling, Coupling)
    with torch.no_grad():
        own_norm.log_s.copy_(-norm.s.flatten())
        own_norm.b.copy_(-(norm.t * (-norm.s).exp()).flatten())
        own_mix.P.copy_(mix.P)
        own_mix.sign.copy_(mix.sign_S)
        for name, part in (("log_s", mix.log_S), ("L", mix.L), ("U", mix.U)):
            getattr(own_mix, name).copy_(part)
    network: Any = own_coupling.network
    own_coupling.network = AsNormflows(couple.flows[1].param_map)
    with torch.no_grad():
        z, log_c = theirs.inverse(x)
        own_z, own_log_c = ours(x)
        torch.testing.assert_close(own_z, z, rtol=0, atol=1e-10)
        torch.testing.assert_close(own_log_c, log_c, rtol=0, atol=1e-10)
        torch.testing.assert_close(ours.inverse(z), theirs(z)[0], rtol=0, atol=1e-9)
        convolutions = [m for m in couple.flows[1].param_map.net if isinstance(m, nn.Conv2d)]
        for conv, other in zip(
            (network.conv_in, network.conv_hidden, network.conv_out), convolutions, strict=True
        ):
            conv.load_state_dict(other.state_dict())
        inputs = x[:, :3]
        torch.testing.assert_close(network(inputs, NO_SIGNAL), couple.flows[1].param_map(inputs))


class AsMaskedAffine(nn.Module):
    """normflows' two networks of a masked coupling, which maps data to noise with
    (x - t) exp(-s)."""

    def __init__(self, scale: nn.Module, shift: nn.Module) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: torch.Tensor, _: Signal) -> torch.Tensor:
        s = self.scale(x)
        return torch.cat([-self.shift(x) * (-s).exp(), -2 * (s / 2).atanh()], 1)


def test_a_chain_of_masked_couplings_equals_normflows_real_nvp():
    """Equal weights give the same log p, and the same draws from the same normal numbers."""
    normflows = pytest.importorskip("normflows")
    theirs: list[Any] = []
    ours = []
    for i in range(4):
        mask = checkerboard(2, 2, i % 2 == 1).expand(3, -1, -1)
        scale, shift = (nn.Conv2d(3, 3, 3, padding=1).double() for _ in range(2))
        theirs.append(normflows.flows.MaskedAffineFlow(mask.double(), shift, scale))
        ours.append(MaskedCoupling(AsMaskedAffine(scale, shift), Affine(), mask))
    model = normflows.NormalizingFlow(
        normflows.distributions.DiagGaussian((3, 2, 2), trainable=False).double(), theirs[::-1]
    )
    chain = Chain(*ours)
    x = 0.3 * torch.randn(5, 3, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        z, log_c = chain(x)
        torch.testing.assert_close(log_normal(z) + log_c, model.log_prob(x), rtol=0, atol=1e-10)
        torch.testing.assert_close(model.forward(z), chain.inverse(z), rtol=0, atol=1e-10)
