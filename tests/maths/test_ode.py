"""The solver of differential equations, and densities along its flows."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec, from_levels
from limner.contract.noise import Noise
from limner.diffusion.flow_matching import FlowMatching
from limner.maths.dequantisation import Uniform
from limner.maths.flow_likelihood import divergence, hutchinson, log_density
from limner.maths.ode import solve

A = torch.tensor([[-0.5, 2.0, 0.3], [-1.5, 0.2, 0.0], [0.4, -0.7, 0.6]], dtype=torch.float64)


def linear(t, x, rows):
    return x @ A.T


def test_the_solution_of_a_linear_equation_is_the_matrix_exponential():
    x = torch.randn(5, 3, dtype=torch.float64)
    end, _ = solve(linear, x, 0.0, 2.0, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(end, x @ torch.linalg.matrix_exp(2 * A).T, rtol=0, atol=1e-8)
    start, _ = solve(linear, end, 2.0, 0.0, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(start, x, rtol=0, atol=1e-7)


def test_error_follows_tolerance_and_work_its_fifth_root():
    x = torch.randn(1, 3, dtype=torch.float64)
    exact = x @ torch.linalg.matrix_exp(4 * A).T
    error, counts = [], []
    for tolerance in (1e-4, 1e-9):
        end, evaluations = solve(linear, x, 0.0, 4.0, rtol=tolerance, atol=tolerance)
        error.append(float((end - exact).abs().max()))
        counts.append(int(evaluations[0]))
    assert 1e-7 < error[0] < 1e-2 and error[1] < 1e-6 * max(error[0] * 1e3, 1)
    assert 5 < counts[1] / counts[0] < 15  # (1e-4 / 1e-9)^(1 / 5) = 10


def test_each_row_has_its_own_steps():
    """dx/dt = -r x: accuracy and cost of a row do not depend on a stiff row in the batch."""
    rate = torch.tensor([0.1, 1.0, 300.0], dtype=torch.float64)
    x = torch.ones(3, 2, dtype=torch.float64)

    def decay(t, x, rows, rate=rate):
        return -rate[rows, None] * x

    end, evaluations = solve(decay, x, 0.0, 1.0, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(end[:, 0], (-rate).exp(), rtol=0, atol=1e-5)
    assert evaluations[0] < evaluations[1] < evaluations[2] / 5
    for i in range(3):
        single, count = solve(
            lambda t, x, rows, i=i: -rate[i] * x, x[i : i + 1], 0.0, 1.0, rtol=1e-6, atol=1e-9
        )
        assert torch.equal(single[0], end[i])
        assert count[0] == evaluations[i]


def test_each_row_has_its_own_time():
    """dx/dt = 3 t^2 r has x(2) = 8 r, independent of the steps of other rows."""
    rate = torch.tensor([1.0, -200.0], dtype=torch.float64)

    def grow(t, x, rows):
        return (3 * t.square() * rate[rows])[:, None]

    end, _ = solve(grow, torch.zeros(2, 1, dtype=torch.float64), 0.0, 2.0)
    torch.testing.assert_close(end[:, 0], 8 * rate)


def test_it_equals_torchdiffeqs_dopri5():
    peer = pytest.importorskip("torchdiffeq")
    x = torch.randn(1, 2, dtype=torch.float64)

    def pendulum(t, x):
        return torch.stack([x[:, 1], -x[:, 0].sin() - 0.1 * x[:, 1] + t.sin()], 1)

    times = torch.tensor([0.0, 5.0], dtype=torch.float64)
    theirs = peer.odeint(pendulum, x, times, rtol=1e-9, atol=1e-9, method="dopri5")[1]
    ours, _ = solve(lambda t, x, rows: pendulum(t, x), x, 0.0, 5.0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("start", "rtol", "atol"),
    [([1.0, -0.5], 1e-5, 1e-5), ([1.0, -0.5], 1e-9, 1e-9), ([0.0, 1.0], 1e-5, 1e-12)],
)
def test_it_takes_as_many_evaluations_as_scipys_method(start, rtol, atol):
    """A worse choice of the steps' lengths takes more. A number that starts at 0 is compared with
    its size at the end of the step."""

    def pendulum(t, x):
        return [x[1], -math.sin(x[0]) - 0.1 * x[1] + math.sin(t)]

    theirs = solve_ivp(pendulum, (0, 20), start, rtol=rtol, atol=atol).nfev
    x = torch.tensor([start], dtype=torch.float64)
    _, ours = solve(
        lambda t, x, rows: x.new_tensor([pendulum(float(t), x[0].tolist())]),
        x, 0.0, 20.0, rtol=rtol, atol=atol,
    )  # fmt: skip
    assert int(ours) == pytest.approx(theirs, rel=0.05)


def test_equations_without_a_solution_are_refused():
    x = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(LimnerError, match="not finite"):
        solve(lambda t, x, rows: x / 0, x, 0.0, 1.0)
    with pytest.raises(LimnerError, match="no solution in 20 steps"):
        solve(lambda t, x, rows: x.square(), x, 0.0, 2.0, max_steps=20)  # infinite at t = 1


def test_the_exact_divergence_equals_the_trace():
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    v = torch.tanh(x @ A.T)
    slope = 1 - v.detach().square()
    torch.testing.assert_close(divergence(v, x), slope @ A.diagonal())


def test_hutchinsons_estimate_has_its_theoretical_mean_and_variance():
    """Mean tr A and variance 2 sum_{i != j} S_ij^2, S the symmetric part of A, for random signs."""
    n = 4000
    signs = 2.0 * Noise.sampling(0, n).integers(2, 3).double() - 1
    x = torch.zeros(n, 3, dtype=torch.float64, requires_grad=True)
    estimate = hutchinson(x @ A.T, x, signs)
    S = (A + A.T) / 2
    variance = 2 * float((S - S.diag().diag()).square().sum())
    assert float(estimate.mean()) == pytest.approx(
        float(A.trace()), abs=3 * math.sqrt(variance / n)
    )
    assert float(estimate.var()) == pytest.approx(variance, rel=0.1)


def test_hutchinsons_estimate_does_not_depend_on_other_rows():
    """Rows arrive after different numbers of steps, and each keeps its own signs."""
    rate, noise = torch.tensor([9.0, 0.1, 1.0], dtype=torch.float64), Noise.sampling(0, 3)
    x = torch.randn(3, 3, 1, 1, dtype=torch.float64)

    def velocity(x, t, rows, rate=rate):
        return (rate[rows, None] * (x.flatten(1) @ A.T).tanh()).view_as(x)

    together, _ = log_density(velocity, x, noise=noise, tolerance=1e-6)
    for i in range(3):
        single, _ = log_density(
            lambda x, t, rows, i=i: velocity(x, t, rows + i), x[i : i + 1],
            noise=Noise.sampling(0, 3).rows(slice(i, i + 1)), tolerance=1e-6,
        )  # fmt: skip
        torch.testing.assert_close(single, together[i : i + 1])


class Straight:
    """The exact velocity of flow matching for pictures from N(m, S).

    E[eps - x | x_t] = -m + (t - (1 - t) S) ((1 - t)^2 S + t^2)^-1 (x_t - (1 - t) m).
    """

    def __init__(self, d: int) -> None:
        self.m = torch.linspace(-0.5, 0.5, d, dtype=torch.float64)
        B = torch.randn(d, d, dtype=torch.float64)
        self.S = 0.3 * B @ B.T + 0.2 * torch.eye(d, dtype=torch.float64)
        self.one = torch.eye(d, dtype=torch.float64)

    def __call__(self, x, t, rows=None):
        t = t.double().view(-1, 1, 1)
        marginal = (1 - t) ** 2 * self.S + t**2 * self.one
        gain = torch.linalg.solve(marginal, t * self.one - (1 - t) * self.S).transpose(1, 2)
        centred = x.flatten(1).double() - (1 - t[:, :, 0]) * self.m
        v = -self.m + (gain @ centred[..., None]).squeeze(-1)
        return v.view_as(x).to(x.dtype)

    def log_prob(self, x):
        return torch.distributions.MultivariateNormal(self.m, self.S).log_prob(x.flatten(1))


def test_the_density_of_a_gaussian_is_computed_along_its_flow():
    v = Straight(4)
    x = 0.7 * torch.randn(6, 1, 2, 2, dtype=torch.float64)
    nats, path = log_density(v, x, noise=None, tolerance=1e-8)
    torch.testing.assert_close(nats, v.log_prob(x), rtol=0, atol=1e-6)
    L = torch.linalg.cholesky(v.S)
    white = torch.linalg.solve_triangular(L, (x.flatten(1) - v.m).T, upper=False)
    length = white.square().sum(0)  # of a picture's noise, up to rotation
    torch.testing.assert_close(path.x[:, :-1].square().sum(1), length, rtol=0, atol=1e-5)


class Linear(torch.nn.Module):
    """The velocity A x for pictures of three numbers."""

    def forward(self, x, label, c):
        return (x.flatten(1) @ A.T).view_as(x)


def test_along_a_linear_flow_the_density_changes_by_the_trace():
    """x(1) = e^A x(0), log p(x(1)) = log p(x(0)) - tr A, for an A that is not symmetric."""
    spec = ImageSpec(1, 1, 3, levels=5)
    model = FlowMatching(spec, channels=(4,), patch=1).double()
    model.network = Linear()
    k = Noise.sampling(1, 6).integers(5, *spec.shape)
    x = from_levels(k, 5).double()
    likelihood = model.log_prob(x, noise=Noise.sampling(0, 6), divergence="exact", tolerance=1e-9)
    y, _ = Uniform(5)(x, noise=Noise.sampling(0, 6))
    start = (x + (y * 5 - k - 0.5) / 2).flatten(1)  # a point in the bin of its level
    end = torch.distributions.Normal(0.0, 1.0).log_prob(start @ torch.linalg.matrix_exp(A).T)
    expected = end.sum(1) + A.trace() + 3 * math.log(1 / 2)
    torch.testing.assert_close(likelihood.nats, expected, rtol=0, atol=1e-7)


def test_hutchinsons_density_is_unbiased():
    v, n = Straight(4), 1500
    x = (0.7 * torch.randn(1, 1, 2, 2, dtype=torch.float64)).expand(n, -1, -1, -1)
    nats, _ = log_density(v, x, noise=Noise.sampling(0, n), tolerance=1e-5)
    gap = nats - v.log_prob(x)
    assert float(gap.std()) > 0.05  # the estimate is random
    assert abs(float(gap.mean())) < 3 * float(gap.std()) / math.sqrt(n)
