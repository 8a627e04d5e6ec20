"""Parametrisations, their losses, guidance and clipping, against closed forms."""

import math

import pytest
import torch
from analytic import Constant, Gaussian, TwoClasses, pictures, time
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import nn

from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.noise import Noise
from limner.diffusion.denoising_model import DenoisingModel
from limner.maths.denoisers import (
    Clipped,
    Estimate,
    Guided,
    GuidedByPicture,
    edm,
    epsilon,
    flow,
    per_image,
    picture,
    target_weights,
    velocity,
)
from limner.maths.schedules import DiscreteSchedule, LinearPath, VarianceExploding, linear_betas

PRESERVING = DiscreteSchedule(linear_betas())
EXPLODING = VarianceExploding()
LINE = LinearPath()
PAIRS = {
    "epsilon": (epsilon, PRESERVING),
    "x": (picture, PRESERVING),
    "v": (velocity, PRESERVING),
    "edm": (edm(0.4), EXPLODING),
    "edm, preserving": (edm(0.4), PRESERVING),
    "flow": (flow, LINE),
    "epsilon, line": (epsilon, LINE),
    "x, line": (picture, LINE),
}
every_pair = pytest.mark.parametrize(("parametrisation", "schedule"), PAIRS.values(), ids=PAIRS)
TIMES = torch.tensor([0.002, 0.1, 0.37, 0.5, 0.9], dtype=torch.float64)


class AtOneTime(DenoisingModel):
    """A denoising model with given time, schedule, parametrisation and network."""

    default_sampler = "euler"
    default_steps = 8
    parametrisation = staticmethod(epsilon)
    time = 0.5

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__(spec, nn.Identity(), 0.0)

    def draw_times(self, noise: Noise) -> torch.Tensor:
        return torch.full((len(noise),), self.time, dtype=torch.float64)


class Recorder(nn.Module):
    """A network that returns 0 and records its inputs."""

    def forward(self, x, label, c):
        self.x, self.label, self.c = x, label, c
        return torch.zeros_like(x)


class Answer(nn.Module):
    """A network F that makes a parametrisation's D equal to a given denoiser."""

    def __init__(self, D, k, t: float) -> None:
        super().__init__()
        self.D, self.k, self.t = D, k, time(t)

    def forward(self, x, label, c):
        x_t = x / self.k.inn
        return (self.D(x_t, self.t, c).x_hat - self.k.skip * x_t) / self.k.out


def at_one_time(parametrisation, schedule, t: float, network=None, pixels=(1, 2, 2)):
    model = AtOneTime(ImageSpec(*pixels))
    model.parametrisation, model.schedule, model.time = parametrisation, schedule, t
    model.network = Recorder() if network is None else network
    return model


def mean_loss(model, x, seed=0) -> float:
    noise = Noise.keyed(seed, 0, torch.arange(len(x)))
    (turn,) = model.turns(Batch(x, Condition()), 0, noise)
    return float(turn.loss)


@every_pair
def test_a_network_that_equals_its_target_gives_the_picture(parametrisation, schedule):
    """skip x_t + out (a x + b eps) = x for any x and eps."""
    alpha, sigma = schedule(TIMES)
    k = parametrisation(alpha, sigma)
    a, b = target_weights(alpha, sigma, k)
    x, eps = torch.randn(2, len(TIMES), dtype=torch.float64)
    torch.testing.assert_close(k.skip * (alpha * x + sigma * eps) + k.out * (a * x + b * eps), x)


@pytest.mark.parametrize("t", TIMES.tolist())
def test_epsilon_x_and_v_are_equivalent(t):
    """x = alpha x_t - sigma v and eps = sigma x_t + alpha v, and the inverse."""
    alpha, sigma = PRESERVING(time(t))
    x, eps = torch.randn(2, 50, dtype=torch.float64)
    x_t, v = alpha * x + sigma * eps, alpha * eps - sigma * x
    for F, parametrisation in ((eps, epsilon), (x, picture), (v, velocity)):
        k = parametrisation(alpha, sigma)
        x_hat = k.skip * x_t + k.out * F
        torch.testing.assert_close(x_hat, x, rtol=0, atol=1e-11)
        eps_hat = (x_t - alpha * x_hat) / sigma
        torch.testing.assert_close(eps_hat, eps, rtol=0, atol=1e-11)
        torch.testing.assert_close(alpha * eps_hat - sigma * x_hat, v, rtol=0, atol=1e-11)
    torch.testing.assert_close(sigma * x_t + alpha * v, eps, rtol=0, atol=1e-11)


@pytest.mark.parametrize("schedule", [PRESERVING, EXPLODING], ids=["vp", "ve"])
def test_edms_network_has_inputs_and_targets_of_variance_1(schedule):
    """This holds at every noise level, for data of the standard deviation that it is given."""
    alpha, sigma = schedule(TIMES)
    k = edm(0.4)(alpha, sigma)
    a, b = target_weights(alpha, sigma, k)
    one = torch.ones_like(alpha)
    torch.testing.assert_close(k.inn**2 * (0.4**2 * alpha**2 + sigma**2), one)
    torch.testing.assert_close(0.4**2 * a**2 + b**2, one)


def test_the_targets_are_those_of_the_papers():
    alpha, sigma = PRESERVING(TIMES)
    one, zero = torch.ones_like(alpha), torch.zeros_like(alpha)
    for parametrisation, levels, expected in (
        (epsilon, (alpha, sigma), (zero, one)),
        (picture, (alpha, sigma), (one, zero)),
        (velocity, (alpha, sigma), (-sigma, alpha)),
        (flow, LINE(TIMES), (-one, one)),
    ):
        weights = target_weights(*levels, parametrisation(*levels))
        for weight, target in zip(weights, expected):
            torch.testing.assert_close(weight, target, rtol=0, atol=1e-9)


@pytest.mark.parametrize("t", [0.05, 0.3, 0.8])
@pytest.mark.parametrize("name", ["epsilon", "v", "edm", "edm, preserving", "flow"])
def test_each_loss_is_the_error_of_the_picture_times_the_papers_weight(name, t):
    """epsilon: SNR; v: SNR + 1; EDM: (s^2 + sd^2) / (s sd)^2 = SNR + 1 / sd^2; flow: 1 / t^2."""
    parametrisation, schedule = PAIRS[name]
    alpha, sigma = map(float, schedule(time(t)))
    snr = (alpha / sigma) ** 2
    weight = {"epsilon": snr, "v": snr + 1, "flow": 1 / t**2}.get(name, snr + 1 / 0.4**2)
    D = Gaussian(schedule, mean=0.1, variance=0.5)
    x = torch.randn(64, 1, 2, 2).double()

    def loss(parametrisation):
        k = parametrisation(*schedule(time(t)))
        return mean_loss(at_one_time(parametrisation, schedule, t, Answer(D, k, t)), x)

    assert loss(parametrisation) == pytest.approx(weight * loss(picture), rel=1e-5)


@every_pair
def test_the_denoiser_is_skip_plus_out_times_network(parametrisation, schedule):
    D = Gaussian(schedule, mean=0.1, variance=0.5)
    t = time(0.37)
    network = Answer(D, parametrisation(*schedule(t)), 0.37)
    model = at_one_time(parametrisation, schedule, 0.37, network)
    x_t = torch.randn(5, 1, 2, 2, dtype=torch.float64)
    expected = D(x_t, t, Condition()).x_hat
    torch.testing.assert_close(model(x_t, t, Condition()).x_hat, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        model(x_t, t.expand(5), Condition()).x_hat, expected, rtol=0, atol=1e-10
    )


def test_gaussian_data_have_a_closed_form_for_the_noise():
    """eps_hat = sigma (alpha^2 S + sigma^2 I)^-1 (x_t - alpha mu) for correlated dimensions."""
    root = torch.randn(4, 4, dtype=torch.float64)
    S, mu = root @ root.T, torch.randn(4, dtype=torch.float64)
    x_t = torch.randn(4, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(S)
    for t in TIMES:
        alpha, sigma = PRESERVING(t)
        closed = sigma * torch.linalg.solve(
            alpha**2 * S + sigma**2 * torch.eye(4).double(), x_t - alpha * mu
        )
        coordinates = vectors.T @ x_t, vectors.T @ mu
        x_hat = torch.stack(
            [
                Gaussian(PRESERVING, float(m), float(v))
                .expected(x.view(1, 1, 1, 1), t, Condition())
                .squeeze()
                for x, m, v in zip(*coordinates, values)
            ]
        )
        eps_hat = (x_t - alpha * (vectors @ x_hat)) / sigma
        torch.testing.assert_close(eps_hat, closed, rtol=0, atol=1e-10)


@pytest.mark.parametrize("t", [0.1, 0.3, 0.6])
def test_the_lowest_error_of_the_noise_on_gaussian_data(t):
    """E |eps - eps_hat|^2 = alpha^2 variance / (alpha^2 variance + sigma^2) in each dimension."""
    alpha, sigma = map(float, PRESERVING(time(t)))
    D = Gaussian(PRESERVING)
    network = Answer(D, epsilon(*PRESERVING(time(t))), t)
    model = at_one_time(epsilon, PRESERVING, t, network, (1, 8, 8))
    x = (0.7 + math.sqrt(2.5) * Noise.sampling(5, 1000).normal(1, 8, 8)).double()
    least = alpha**2 * 2.5 / (alpha**2 * 2.5 + sigma**2)
    standard_error = least * math.sqrt(2 / x.numel())
    assert mean_loss(model, x) == pytest.approx(least, abs=3 * standard_error)


class Linear(nn.Module):
    """An affine network on the two numbers of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(2, 2)

    def forward(self, x, label, c):
        return self.map(x.flatten(1)).view_as(x)


def test_a_trained_linear_denoiser_reaches_the_lowest_error():
    """It is the mean of alpha^2 l / (alpha^2 l + sigma^2) over eigenvalues l of the covariance."""
    t, n = 0.4, 4096
    alpha, sigma = map(float, PRESERVING(time(t)))
    root = torch.tensor([[1.2, 0.0], [0.9, 0.3]])
    variances = torch.linalg.eigvalsh(root @ root.T)
    least = float((alpha**2 * variances / (alpha**2 * variances + sigma**2)).mean())

    def draw(seed):
        z = Noise.keyed(seed, 1, torch.arange(n)).normal(2)
        return (z @ root.T + torch.tensor([0.5, -0.2])).view(n, 1, 1, 2)

    model = at_one_time(epsilon, PRESERVING, t, Linear(), (1, 1, 2))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=30)

    def closure():
        optimizer.zero_grad()
        (turn,) = model.turns(Batch(draw(0), Condition()), 0, Noise.keyed(0, 0, torch.arange(n)))
        turn.loss.backward()
        return turn.loss

    start = float(closure().detach())
    optimizer.step(closure)
    with torch.no_grad():
        losses = torch.tensor([mean_loss(model, draw(seed), seed) for seed in range(1, 21)])
    standard_error = float(losses.std()) / math.sqrt(len(losses))
    assert start > 2 * least
    # Fitting 3 weights per output to n pictures has an error about 3 / n above the lowest.
    assert float(losses.mean()) == pytest.approx(least, abs=3 * standard_error + 6 * least / n)


def conditional(y: float, n: int = 1) -> Condition:
    return Condition(label=torch.full((n,), int(y), dtype=torch.int64))


@pytest.mark.parametrize("schedule", [PRESERVING, LINE, EXPLODING], ids=["vp", "line", "ve"])
def test_guidance_on_two_gaussian_classes_has_a_closed_form(schedule):
    """D_guided = (x_t + sigma^2 grad [log p(x_t) + scale log p(y | x_t)]) / alpha (autograd)."""
    D = TwoClasses(schedule)
    t = time(0.3)
    alpha, sigma = schedule(t)
    total = alpha**2 * D.variance + sigma**2
    x_t = torch.tensor([-1.1, -0.2, 0.4, 1.5], dtype=torch.float64).view(4, 1, 1, 1)
    for y in (0, 1):
        for scale in (0.0, 0.5, 1.0, 3.0, 7.5):
            x = x_t.clone().requires_grad_()
            joint = torch.cat(
                [-((x - side * alpha * D.mean) ** 2) / (2 * total) for side in (-1, 1)], dim=1
            ).flatten(1)
            log_p = joint.logsumexp(1)
            objective = (log_p + scale * joint.log_softmax(1)[:, y]).sum()
            (score,) = torch.autograd.grad(objective, x)
            expected = (x_t + sigma**2 * score) / alpha
            x_hat = Guided(D, scale)(x_t, t, conditional(y, 4)).x_hat
            torch.testing.assert_close(x_hat, expected, rtol=0, atol=1e-12)


def test_guidance_is_conditional_at_scale_1_and_unconditional_at_0():
    D = TwoClasses(PRESERVING)
    x_t, t = torch.randn(4, 1, 1, 1, dtype=torch.float64), time(0.3)
    c = conditional(1, 4)
    assert torch.equal(Guided(D, 1.0)(x_t, t, c).x_hat, D(x_t, t, c).x_hat)
    assert torch.equal(Guided(D, 0.0)(x_t, t, c).x_hat, D(x_t, t, c.null()).x_hat)


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 4.0, 50.0])
def test_without_a_condition_guidance_changes_nothing(scale):
    D = TwoClasses(PRESERVING)
    x_t, t = torch.randn(4, 1, 1, 1, dtype=torch.float64), time(0.3)
    null = conditional(-1, 4)
    assert torch.equal(Guided(D, scale)(x_t, t, null).x_hat, D(x_t, t, null).x_hat)
    assert torch.equal(Guided(D, scale)(x_t, t.expand(4), null).x_hat, D(x_t, t, null).x_hat)
    constant = Constant(PRESERVING, pictures(0.5))
    assert torch.equal(
        Guided(constant, scale)(x_t, t, Condition()).x_hat, constant(x_t, t, Condition()).x_hat
    )


def test_guidance_is_limited_to_its_interval_of_noise():
    D, x_t, c = TwoClasses(PRESERVING), pictures(0.4, -1.0), conditional(1, 2)
    limited = Guided(D, 4.0, interval=(0.5, 2.0))
    for t in torch.linspace(0.02, 0.98, 25, dtype=torch.float64):
        alpha, sigma = PRESERVING(t)
        scale = 4.0 if 0.5 <= sigma / alpha <= 2 else 1.0
        assert torch.equal(limited(x_t, t, c).x_hat, Guided(D, scale)(x_t, t, c).x_hat)


@pytest.mark.parametrize("schedule", [LINE, PRESERVING], ids=["line", "vp"])
def test_an_interval_without_upper_end_guides_from_the_first_time(schedule):
    """On the linear path alpha = 0 there, so the ratio of noise to picture is infinite."""
    D, x_t, c = TwoClasses(schedule), pictures(0.4, -1.0), conditional(1, 2)
    first = schedule.times(3)[0]
    guided, limited = (Guided(D, 4.0, interval=ends) for ends in (None, (0.0, math.inf)))
    assert torch.equal(limited(x_t, first, c).x_hat, guided(x_t, first, c).x_hat)
    finite = Guided(D, 4.0, interval=(0.0, 0.1))
    assert torch.equal(finite(x_t, first, c).x_hat, D(x_t, first, c).x_hat)


class OfClass:
    """A denoiser that gives each class, and pictures without one, another picture and variance."""

    schedule = PRESERVING

    def __init__(self, *shape: int) -> None:
        self.x_hat = torch.randn(3, *shape, dtype=torch.float64)
        self.variance = torch.randn(3, *shape, dtype=torch.float64)

    def __call__(self, x_t, t, c):
        return Estimate(self.x_hat[c.label], self.variance[c.label])


def test_the_variance_of_guidance_is_the_conditional_one():
    D, c = OfClass(1, 2, 2), conditional(1, 4)
    variance = Guided(D, 4.0)(torch.zeros(4, 1, 2, 2, dtype=torch.float64), time(0.3), c).variance
    assert torch.equal(variance, D.variance[1].expand(4, 1, 2, 2))


def test_the_variance_of_guidance_by_a_picture_is_the_conditional_one():
    D, x = OfClass(1, 2, 2), torch.zeros(4, 1, 2, 2, dtype=torch.float64)
    c = Condition(label=torch.ones(4, dtype=torch.int64), image=x.float())
    for picture_scale in (1.0, 1.5):
        guided = GuidedByPicture(D, 4.0, picture_scale=picture_scale)
        assert torch.equal(guided(x, time(0.3), c).variance, D.variance[1].expand(4, 1, 2, 2))


def test_both_ends_of_an_interval_belong_to_it():
    limited = Guided(TwoClasses(LINE), 4.0, interval=(1.0, 3.0))
    assert limited.guides(time(0.5))
    assert limited.guides(time(0.75))
    assert not limited.guides(time(0.49))
    assert not limited.guides(time(0.76))


@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_rescaled_guidance_equals_diffusers(rescale):
    D = OfClass(3, 5, 5)
    x_t, t = torch.randn(4, 3, 5, 5, dtype=torch.float64), time(0.3)
    c = conditional(1, 4)
    guided, plain = Guided(D, 4.0)(x_t, t, c).x_hat, D(x_t, t, c).x_hat
    theirs = rescale_noise_cfg(guided, plain, rescale)
    ours = Guided(D, 4.0, rescale=rescale)(x_t, t, c).x_hat
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    if rescale == 1:
        torch.testing.assert_close(ours.std((1, 2, 3)), plain.std((1, 2, 3)))


def test_guidance_by_a_picture_is_rescaled_to_the_conditional_deviation():
    D, x_t, t = OfClass(3, 5, 5), torch.zeros(2, 3, 5, 5, dtype=torch.float64), time(0.3)
    c = Condition(label=torch.ones(2, dtype=torch.int64), image=x_t.float())
    guided, ours = (
        GuidedByPicture(D, 4.0, rescale=rescale, picture_scale=1.5)(x_t, t, c).x_hat
        for rescale in (0.0, 0.7)
    )
    theirs = rescale_noise_cfg(guided, D(x_t, t, c).x_hat, 0.7)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_rescaling_leaves_pictures_of_one_number_unchanged():
    """They have no standard deviation."""
    D, x_t, t, c = TwoClasses(PRESERVING), pictures(2.0, -3.0), time(0.3), conditional(1, 2)
    rescaled = Guided(D, 4.0, rescale=0.7)(x_t, t, c).x_hat
    assert torch.equal(rescaled, Guided(D, 4.0)(x_t, t, c).x_hat)


def test_rescaling_leaves_pictures_of_one_colour_finite():
    D, c = Constant(PRESERVING, torch.full((1, 2, 2), 0.5)), conditional(1)
    x_hat = Guided(D, 4.0, rescale=0.7)(torch.zeros(1, 1, 2, 2), time(0.3), c).x_hat
    assert x_hat.isfinite().all()


def test_clipping_applies_after_guidance():
    D = TwoClasses(PRESERVING)
    x_t, t, c = pictures(2.0, -3.0), time(0.3), conditional(1, 2)
    guided = Guided(D, 5.0)
    clipped = Clipped(guided)
    assert clipped.schedule is PRESERVING
    assert torch.equal(clipped(x_t, t, c).x_hat, guided(x_t, t, c).x_hat.clamp(-1, 1))
    assert float(guided(x_t, t, c).x_hat.abs().max()) > 1


def test_a_model_of_gaussian_data_has_samples_with_their_moments():
    """`frames` of flow matching with the optimal network has the distribution of the data."""
    model = at_one_time(flow, LINE, 0.5, pixels=(1, 4, 4))
    D = Gaussian(LINE, mean=0.1, variance=0.04)

    class Optimal(nn.Module):
        def forward(self, x, label, c):
            t = label[0].double() / 1000
            return (x - D(x, t, c).x_hat) / per_image(t, x)

    model.network = Optimal()
    x = model.sample(64, sampler="heun", steps=32)
    assert float(x.mean()) == pytest.approx(0.1, abs=3 * 0.2 / 32)
    assert float(x.var()) == pytest.approx(0.04, abs=3 * 0.04 * math.sqrt(2 / 1024))
