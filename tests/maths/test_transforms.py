"""Transforms, elementwise maps in couplings, dequantisation: inverses, Jacobians, closed forms."""

import math

import pytest
import torch
from torch import nn

from limner.contract.errors import LimnerError
from limner.contract.image import from_levels
from limner.contract.noise import Noise
from limner.maths.couplings import Additive, Affine, Spline
from limner.maths.dequantisation import Uniform, Variational
from limner.maths.fixed_transforms import without_inversions
from limner.maths.transforms import (
    ActNorm,
    Chain,
    Coupling,
    Inverse,
    InvertibleConv,
    Logit,
    MaskedCoupling,
    NormalCDF,
    Permutation,
    Split,
    Squeeze,
    checkerboard,
    log_normal,
)
from limner.nn.condition import Signal

SHAPE = (3, 2, 2)


class Network(nn.Module):
    """A nonlinear network for theta: a random 3 x 3 convolution and tanh."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, padding=1)

    def forward(self, x, s):
        return 1.5 * self.conv(x).tanh()


def coupling(f, inputs: int = 1, mapped: int = 2) -> Coupling:
    return Coupling(Network(inputs, f.size * mapped), f)


def masked(f, odd: bool) -> MaskedCoupling:
    return MaskedCoupling(Network(3, f.size * 3), f, checkerboard(2, 2, odd))


TRANSFORMS = {
    "squeeze": lambda: Squeeze(),
    "squeeze, one side": lambda: Squeeze(1, 2),
    "unsqueeze": lambda: Chain(Squeeze(), Inverse(Squeeze())),
    "permutation": lambda: Permutation((2, 0, 1)),
    "logit": lambda: Logit(0.05),
    "logit of almost all": lambda: Logit(1e-6),
    "normal distribution function": lambda: NormalCDF(),
    "activation norm": lambda: ActNorm(3),
    "1 x 1 convolution": lambda: InvertibleConv(3),
    "additive coupling": lambda: coupling(Additive()),
    "affine coupling": lambda: coupling(Affine()),
    "spline coupling": lambda: coupling(Spline(bins=5, reach=2.0)),
    "checkerboard, affine": lambda: masked(Affine(), odd=True),
    "checkerboard, spline": lambda: masked(Spline(bins=4, reach=2.0), odd=False),
    "split": lambda: Split(ActNorm(1)),
    "chain": lambda: Chain(
        ActNorm(3), Squeeze(), InvertibleConv(12), Split(ActNorm(6)), Inverse(Squeeze())
    ),
}
each = pytest.mark.parametrize("make", TRANSFORMS.values(), ids=TRANSFORMS)


def randomised(make, dtype=torch.float64) -> nn.Module:
    """Build a transform and change its initial weights."""
    transform = make().to(dtype)
    for p in transform.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return transform


def numbers(n: int = 4, dtype=torch.float64) -> torch.Tensor:
    """Return numbers in (0, 1), the domain of a logit."""
    return torch.rand(n, *SHAPE, dtype=dtype)


@each
def test_the_inverse_returns_the_input(make):
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        transform, x = randomised(make, dtype), numbers(dtype=dtype)
        with torch.no_grad():
            z, log_c = transform(x)
            assert z.dtype == log_c.dtype == dtype
            assert z[0].numel() == x[0].numel()
            torch.testing.assert_close(transform.inverse(z), x, rtol=0, atol=tolerance)


@each
def test_log_c_equals_the_log_determinant_of_autograds_jacobian(make):
    transform, x = randomised(make), numbers(2)
    _, log_c = transform(x)
    for i in range(2):

        def flat(v: torch.Tensor) -> torch.Tensor:
            return transform(v.view(1, *SHAPE))[0].flatten()

        J = torch.autograd.functional.jacobian(flat, x[i].flatten())
        expected = torch.linalg.slogdet(J).logabsdet
        torch.testing.assert_close(log_c[i], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("f", [Additive(), Affine(), Spline()], ids=repr)
def test_maps_are_the_identity_if_theta_is_zero(f):
    x = 3 * torch.randn(2, *SHAPE, dtype=torch.float64)
    theta = x.new_zeros(2, f.size, *SHAPE)
    z, log_slope = f(x, theta)
    torch.testing.assert_close(z, x)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(f.inverse(x, theta), x)


def test_an_affine_map_has_its_formula():
    """The bound changes the shape of s only: its slope at 0 is 1."""
    theta, x = 3 * torch.randn(2, 2, *SHAPE, dtype=torch.float64), numbers(2)
    s = 1.5 * (theta[:, 1] / 1.5).tanh()
    z, log_slope = Affine(bound=1.5)(x, theta)
    torch.testing.assert_close(z, s.exp() * x + theta[:, 0])
    torch.testing.assert_close(log_slope, s)


def test_the_slope_of_an_affine_map_is_bounded():
    theta = torch.tensor([0.0, 1e6]).view(1, 2, 1, 1, 1)
    z, log_slope = Affine(bound=1.5)(torch.ones(1, 1, 1, 1), theta)
    assert float(log_slope) == pytest.approx(1.5)
    assert float(z) == pytest.approx(math.exp(1.5))


def test_a_spline_has_a_continuous_slope_that_is_one_at_its_ends():
    f = Spline(bins=6, reach=2.0)
    theta = torch.randn(1, f.size, 1, 1, 1, dtype=torch.float64).expand(-1, -1, 1, 1, 4001)
    x = torch.linspace(-2.5, 2.5, 4001, dtype=torch.float64).view(1, 1, 1, -1)
    z, log_slope = f(x, theta)
    assert (z.diff() > 0).all()
    assert (z.diff() / x.diff() - 1)[x[..., 1:] < -2].abs().max() < 1e-9
    middle = (log_slope[..., 1:] + log_slope[..., :-1]) / 2
    steps = (z.diff() / x.diff()).log()
    torch.testing.assert_close(steps, middle, rtol=0, atol=0.1)  # the slope is continuous


def test_a_spline_equals_that_of_neural_spline_flows():
    peer = pytest.importorskip("normflows.utils.splines")
    f = Spline(bins=7, reach=3.0)
    x = 2 * torch.randn(5, *SHAPE, dtype=torch.float64)
    theta = torch.randn(5, f.size, *SHAPE, dtype=torch.float64)
    widths, heights, slopes = theta.movedim(1, -1).split([7, 7, 6], -1)
    one = math.log(math.expm1(1 - 1e-3))  # our offset, with which zeros give the identity
    for inverse in (False, True):
        theirs, log_det = peer.unconstrained_rational_quadratic_spline(
            x, widths, heights, slopes + one, inverse=inverse, tail_bound=3.0
        )
        ours = f.inverse(x, theta) if inverse else f(x, theta)[0]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
        if not inverse:
            torch.testing.assert_close(f(x, theta)[1], log_det, rtol=0, atol=1e-10)


def test_the_gradients_of_a_spline_are_finite_outside_of_its_range():
    """There it is the identity, and theta has no effect; squares of large numbers overflow."""
    f = Spline(bins=4, reach=1.0)
    x = torch.tensor([-1e30, -7.0, -1.0, 1.0, 7.0, 1e30]).view(1, 1, 1, -1).requires_grad_()
    steep = torch.tensor([0.0] * 4 + [3.0, 0.0, 0.0, 3.0] + [-5.0] * 3)
    theta = steep.view(1, -1, 1, 1, 1).repeat(1, 1, 1, 1, 6).requires_grad_()
    z, log_slope = f(x, theta)
    for total in (z.sum() + log_slope.sum(), f.inverse(x, theta).sum()):
        d_x, d_theta = torch.autograd.grad(total, (x, theta))
        assert torch.equal(d_x, torch.ones_like(x))
        assert torch.equal(d_theta, torch.zeros_like(theta))


def test_the_inverse_of_a_spline_is_finite_for_extreme_bins():
    """In float32, rounding makes some of the quadratics' discriminants negative."""
    f = Spline()
    theta, z = 100 * torch.randn(100, f.size, 1, 1, 100), 8 * torch.rand(100, 1, 1, 100) - 4
    k = f._bin(z, theta, by_z=True)
    x = f.inverse(k.z + k.height, theta)  # at the end of a bin
    assert x.isfinite().all() and float(x.abs().max()) <= 4 + 1e-4


def test_the_normal_distribution_function_stays_below_one():
    """This includes numbers at which it rounds to 1; log C is finite."""
    x = torch.tensor([-40.0, -5.9, 0.0, 5.9, 40.0]).view(5, 1, 1, 1)
    for dtype, least in ((torch.float32, 2**-24), (torch.float64, 2**-53)):
        z, log_c = NormalCDF()(x.to(dtype))
        assert float(z.min()) >= 0
        assert 1 - float(z.max()) == least
        assert float(z[2]) == 0.5
        assert log_c.isfinite().all()


def test_activation_norm_is_initialised_with_statistics_of_the_data():
    x = 3 + 2 * torch.randn(8, 3, 4, 4) * torch.tensor([1.0, 5.0, 0.1]).view(3, 1, 1)
    norm = ActNorm(3)
    z = norm.prepare(x)
    torch.testing.assert_close(z, norm(x)[0])
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.var((0, 2, 3), correction=0), torch.ones(3), rtol=1e-4, atol=0)


def test_each_activation_norm_is_initialised_after_the_previous_one():
    first, second, third = ActNorm(3), ActNorm(12), ActNorm(6)
    chain = Chain(first, Permutation((1, 2, 0)), Squeeze(), second, Split(third))
    x = 5 + 3 * torch.randn(64, *SHAPE)
    h = Squeeze()(Permutation((1, 2, 0))(first.prepare(x))[0])[0]
    chain.prepare(x)
    z = second(h)[0]
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(12), rtol=0, atol=1e-4)
    assert float(third.b.detach().abs().max()) < 1e-4  # its input is normalised already


def test_a_split_initialises_its_rest_from_the_first_half():
    norm, x = ActNorm(2), 5 + 3 * torch.randn(64, 4, 2, 2)
    z = Split(norm).prepare(x)
    torch.testing.assert_close(z[:, :2], ActNorm(2).prepare(x[:, :2]))
    assert torch.equal(z[:, 2:], x[:, 2:])


def test_activation_norm_of_a_constant_channel_is_finite():
    z = ActNorm(1).prepare(torch.full((4, 1, 2, 2), 7.0))
    assert z.isfinite().all()


def test_a_1x1_convolution_starts_as_a_rotation_in_its_lu_form():
    conv = InvertibleConv(6).double()
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(conv.W @ conv.W.T, torch.eye(6).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(conv(x)[1], x.new_zeros(2), rtol=0, atol=1e-5)
    for p in conv.parameters():
        p.data += 0.2 * torch.randn_like(p)
    z, log_c = conv(x)
    torch.testing.assert_close(z, torch.einsum("oi,bihw->bohw", conv.W, x))
    expected = 3 * 5 * torch.linalg.slogdet(conv.W).logabsdet
    torch.testing.assert_close(log_c, expected.expand(2))


def test_a_1x1_convolution_with_a_fixed_inverse_is_the_same_map():
    flow = Chain(randomised(lambda: InvertibleConv(3)), Split(ActNorm(1)))
    fixed, x = without_inversions(flow), numbers()
    (z, log_c), (fixed_z, fixed_log_c) = flow(x), fixed(x)
    torch.testing.assert_close(fixed_z, z)
    torch.testing.assert_close(fixed_log_c, log_c)
    torch.testing.assert_close(fixed.inverse(z), x)
    assert isinstance(next(iter(flow)), InvertibleConv)  # it is not changed itself
    assert without_inversions(fixed) is fixed


def test_the_flow_of_a_variational_dequantisation_is_initialised_from_its_noise():
    norm = ActNorm(3)
    dequantise, x = Variational(4, Chain(norm, NormalCDF())), torch.ones(4, *SHAPE)
    y = dequantise.prepare(x, Signal(), noise=Noise.sampling(0, 4))
    other = ActNorm(3)
    other.prepare(Noise.sampling(0, 4).normal(*SHAPE))
    assert (other.b != 0).all()
    torch.testing.assert_close(norm.b.detach(), other.b.detach())
    assert torch.equal(y, dequantise(x, noise=Noise.sampling(0, 4))[0])


def test_a_coupling_does_not_change_half_of_the_numbers():
    x = numbers()
    z, _ = randomised(TRANSFORMS["affine coupling"])(x)
    assert torch.equal(z[:, :1], x[:, :1])
    assert (z[:, 1:] != x[:, 1:]).all()
    z, _ = randomised(TRANSFORMS["checkerboard, affine"])(x)
    mask = checkerboard(2, 2, odd=True).expand(4, 3, 2, 2)
    assert torch.equal(z[mask], x[mask])
    assert (z[~mask] != x[~mask]).all()


def test_an_order_that_is_not_a_permutation_is_refused():
    with pytest.raises(LimnerError, match="not a permutation of 3 channels"):
        Permutation((0, 0, 1))


@pytest.mark.parametrize("levels", [2, 4, 256])
def test_dequantised_numbers_lie_in_their_level(levels):
    k = Noise.sampling(0, 8).integers(levels, *SHAPE)
    x = from_levels(k, levels)
    dequantise = Uniform(levels)
    y, log_c = dequantise(x, noise=Noise.sampling(0, 8))
    assert torch.equal((y * levels).floor(), k.float())
    assert torch.equal(dequantise.inverse(y), x)
    torch.testing.assert_close(log_c, torch.full((8,), -12 * math.log(levels)))
    assert (y * levels - k).std() == pytest.approx(1 / math.sqrt(12), rel=0.2)


def test_uniform_data_cost_eight_bits():
    """The density of uniform numbers is 1: log P = log C, 8 bits for each of 256 levels."""
    x = torch.zeros(1, *SHAPE)
    _, log_c = Uniform(256)(x, noise=Noise.sampling(0, 1))
    assert -float(log_c) / (12 * math.log(2)) == pytest.approx(8)


def variational() -> Variational:
    class OfLevel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x, s):
            return self.conv(torch.cat([x, s.planes], 1))

    steps = [MaskedCoupling(OfLevel(), Affine(), checkerboard(2, 2, odd)) for odd in (True, False)]
    return Variational(4, Chain(*steps, NormalCDF()))


def test_a_variational_dequantisation_returns_the_density_of_its_draws():
    """q(u | x) is the density of normal numbers divided by the Jacobian of the flow."""
    dequantise = variational().double()
    x = from_levels(Noise.sampling(0, 2).integers(4, *SHAPE), 4).double()
    y, log_c = dequantise(x, noise=Noise.sampling(0, 2))
    assert torch.equal(dequantise.inverse(y), x.float())
    eps = Noise.sampling(0, 2).normal(*SHAPE, dtype=torch.float64)
    for i in range(2):

        def flat(v: torch.Tensor, i: int = i) -> torch.Tensor:
            signal = Signal(planes=x[i : i + 1])
            return dequantise.flow(v.view(1, *SHAPE), signal)[0].flatten()

        J = torch.autograd.functional.jacobian(flat, eps[i].flatten())
        log_q = log_normal(eps[i : i + 1]) - torch.linalg.slogdet(J).logabsdet
        torch.testing.assert_close(log_c[i : i + 1], -log_q - 12 * math.log(4))
