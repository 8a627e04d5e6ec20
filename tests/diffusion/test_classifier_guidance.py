"""Classifier guidance: against Bayes' rule, and with a tiny trained classifier."""

from dataclasses import dataclass

import pytest
import torch
from analytic import Constant, Fixed, TwoClasses, one_step, pictures, time
from toy import SPEC, batches, colours_are_right, one_thread, trained

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.diffusion.classifier_guidance import Classified, Classifier, Gradient
from limner.diffusion.ddpm import DDPM
from limner.diffusion.edm import EDM
from limner.diffusion.flow_matching import FlowMatching
from limner.maths.samplers.ancestral import Ancestral, GuidedAncestral
from limner.maths.samplers.sampler import SAMPLERS, sampler
from limner.maths.schedules import (
    DiscreteSchedule,
    LinearPath,
    LogSNR,
    VarianceExploding,
    linear_betas,
)

SCHEDULES = {
    "vp": DiscreteSchedule(linear_betas()),
    "line": LinearPath(),
    "ve": VarianceExploding(),
}


def bayes(D: TwoClasses):
    """Return the function log p(y | x_t) of two Gaussian classes."""

    def log_probs(x_t, t):
        alpha, sigma = (level.view(-1, 1, 1, 1) for level in D.schedule(t))
        total = alpha**2 * D.variance + sigma**2
        joint = [-((x_t - side * alpha * D.mean) ** 2) / (2 * total) for side in (-1, 1)]
        return torch.stack([log_p.flatten(1).sum(1) for log_p in joint], 1).log_softmax(1)

    return log_probs


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
def test_bayes_classifier_at_scale_1_gives_the_conditional_denoiser(schedule, t):
    D = TwoClasses(schedule)

    class Unconditional(TwoClasses):
        def expected(self, x_t, t, c):
            return super().expected(x_t, t, Condition(label=torch.full_like(c.label, -1)))

    guided = Classified(Unconditional(schedule), Gradient(bayes(D)), 1.0)
    x_t = torch.randn(6, 1, 2, 2, dtype=torch.float64)
    c = Condition(label=torch.tensor([0, 1, 0, 1, 0, 1]))
    torch.testing.assert_close(
        guided(x_t, time(t), c).x_hat, D.expected(x_t, time(t), c), rtol=0, atol=1e-10
    )
    null = Condition(label=torch.full((6,), -1))
    torch.testing.assert_close(guided(x_t, time(t), null).x_hat, D.expected(x_t, time(t), null))


@pytest.mark.parametrize("schedule", [LinearPath(), LogSNR(-20.0, 20.0)], ids=["line", "cosine"])
def test_at_pure_noise_the_classifier_is_ignored(schedule):
    """The exact gradient is 0 there; a network's is not, and sigma^2 / alpha is huge."""
    D = TwoClasses(schedule)
    guided = Classified(D, lambda x, t, c: 0.05 * torch.ones_like(x), 1.0)
    x_t, c = torch.randn(4, 1, 2, 2, dtype=torch.float64), Condition(label=torch.full((4,), -1))
    first, *_, late, _ = schedule.times(20)
    assert torch.equal(guided(x_t, first, c).x_hat, D.expected(x_t, first, c))
    times = torch.stack([first, late, first, late])
    shift = guided(x_t, times, c).x_hat - D.expected(x_t, times, c)
    assert [bool(row.any()) for row in shift] == [False, True, False, True]


def test_ancestral_steps_shift_the_mean_by_variance_times_gradient():
    schedule = SCHEDULES["vp"]
    D, g = Constant(schedule, pictures(0.3)), pictures(1.0, -2.0)
    x, t, s = pictures(0.5, 0.7), time(0.6), time(0.5)
    for variance in (0.0, 1.0):
        plain = Ancestral(variance)
        guided = GuidedAncestral(variance, lambda x, t, c: g, 3.0)
        mean, noisy, shifted = (
            one_step(sampler, D, x, t, s, Fixed(2, z)).x
            for sampler, z in ((plain, 0.0), (plain, 1.0), (guided, 0.0))
        )
        sigma = noisy - mean
        torch.testing.assert_close(shifted, mean + 3.0 * sigma**2 * g)
        last = [one_step(each, D, x, t, time(0.0), Fixed(2, 1.0)).x
                for each in (plain, guided)]  # fmt: skip
        assert torch.equal(*last)


def test_the_gradient_does_not_depend_on_the_batch():
    model = Classifier(SPEC, base=DDPM(SPEC, channels=(4,)), channels=(4,), attention=0).eval()
    with torch.no_grad():
        model.network.linear_out.weight.normal_()
    x = torch.randn(3, *SPEC.shape)
    gradient, t = Gradient(model.log_probs), torch.tensor([0.2, 0.5, 0.9]).double()
    c = Condition(label=torch.tensor([0, -1, 1]))
    gradients = gradient(x, t, c)
    assert float(gradients[1].abs().max()) == 0
    for i in (0, 2):
        rows = slice(i, i + 1)
        torch.testing.assert_close(gradient(x[rows], t[rows], c.rows(rows)), gradients[rows])
    step = 1e-2 * gradients[2:]
    before, after = (model.log_probs(point, t[2:])[0, 1] for point in (x[2:], x[2:] + step))
    assert after > before


def test_training_uses_the_noise_of_the_base_and_does_not_change_it():
    base = DDPM(SPEC, channels=(4,), T=10)
    model = Classifier(SPEC, base=base, channels=(4,))
    inputs = []
    model.network.register_forward_pre_hook(lambda module, args: inputs.append(args))
    n = 64
    batch = Batch(torch.zeros(n, *SPEC.shape), Condition(label=torch.zeros(n, dtype=torch.long)))
    (turn,) = model.turns(batch, 0, Noise.keyed(0, 0, range(n)))
    turn.loss.backward()
    ((x_t, label),) = inputs
    assert set((label / 100).round().long().tolist()) == set(range(1, 11))
    sigma = base.schedule(label / 1000)[1]
    torch.testing.assert_close(x_t.std((1, 2, 3)) / sigma, torch.ones(n).double(), atol=0.4, rtol=0)
    assert all(p.grad is None for p in base.parameters())
    assert turn.of == "classifier" and 0 <= float(turn.logs["accuracy"]) <= 1


def test_a_tiny_one_makes_an_unconditional_model_paint_the_colour_of_each_class():
    with one_thread():
        torch.manual_seed(0)
        base = trained(FlowMatching(SPEC, channels=(16,), condition_dropout=1.0))
        classifier = Classifier(SPEC, base=base, channels=(16,), attention=0, dropout=0.0)
        model = trained(classifier, steps=200)
        assert not colours_are_right(model, sampler="ddim", steps=20, scale=0.0)
        assert colours_are_right(model, sampler="ddim", steps=20, scale=4.0)
        x, label = (batch := batches(0, 32)).x, batch.c.label
        (*_, edited) = model.edit(
            x, Condition(label=1 - label), strength=0.9, sampler="ddim", steps=20, scale=4.0
        )
        redness = (edited[:, 0] - edited[:, 2]).mean((1, 2))
        assert ((redness > 0).long() == label).sum() >= 26, "the edit ignores the requested colour"


@pytest.mark.parametrize(
    ("spec", "base", "message"),
    [
        (ImageSpec(3, 8, 8), "ddpm", "needs data with labels"),
        (SPEC, "vae", "not vae; give another base"),
    ],
)
def test_unsuitable_bases_are_refused(spec, base, message):
    with pytest.raises(LimnerError, match=message):
        Classifier(spec, base=build(base, spec))
    with pytest.raises(LimnerError, match=r"give data\.size=4"):
        Classifier(SPEC, base=EDM(ImageSpec(3, 4, 4, labels=SPEC.labels), channels=(4,)))
    with pytest.raises(LimnerError, match=r"paints 1 x 8 x 8 pictures, .* data\.channels=1"):
        Classifier(SPEC, base=EDM(ImageSpec(1, 8, 8, labels=SPEC.labels), channels=(4,)))


class Recorder(torch.nn.Module):
    """A network that predicts 0 and records its labels."""

    def __init__(self):
        super().__init__()
        self.labels = []

    def forward(self, x, label, c):
        self.labels.append(None if c.label is None else c.label.tolist())
        return torch.zeros_like(x)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_without_base_scale_the_base_gets_no_labels(sampler):
    base = DDPM(SPEC, channels=(4,), T=20)
    model = Classifier(SPEC, base=base, channels=(4,), attention=0)
    base.network, c = Recorder(), Condition(label=torch.tensor([1]))
    options = {"sampler": sampler, "steps": 5, "interval": (0.5, 5.0)}
    model.sample(1, c, **options)
    assert base.network.labels == [[-1]] * 5
    base.network.labels.clear()
    model.sample(1, c, base_scale=2.0, **options)
    assert [1, -1] in base.network.labels and [1] in base.network.labels, (
        "base guidance needs both predictions inside its interval"
    )


def test_guided_ancestral_steps_keep_the_variance_that_is_given():
    model = Classifier(SPEC, DDPM(SPEC, channels=(4,), T=20), channels=(4,))
    options = {"scale": 1.0, "base_scale": 0.0, "clip": True, "sampler": "ancestral"}
    assert model.plan(**options, variance=0.7).sampler.variance == 0.7
    assert model.plan(**options).sampler.variance is None


def test_a_sampler_that_inherits_from_ancestral_keeps_its_own_step(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(SAMPLERS, "_classes", SAMPLERS.classes)

    @sampler("own")
    @dataclass(frozen=True)
    class Own(Ancestral):
        pace: float = 1.0

    model = Classifier(SPEC, DDPM(SPEC, channels=(4,), T=20), channels=(4,))
    plan = model.plan(scale=1.0, base_scale=0.0, clip=False, sampler="own", pace=0.5)
    assert plan.sampler == Own(pace=0.5)
    assert isinstance(plan.D, Classified)


def test_too_few_steps_for_a_classifier_are_refused():
    base = build("meanflow", SPEC, channels=(4,), attention=0)
    model = Classifier(SPEC, base=base, channels=(4,), attention=0)
    c = Condition(label=torch.tensor([0]))
    with pytest.raises(LimnerError, match=r"see only noise.* give sampler\.steps=4 or more"):
        model.sample(1, c)
    assert model.sample(1, c, steps=2).isfinite().all()
    assert model.sample(1, c, scale=0.0).isfinite().all()
    chain = Classifier(SPEC, base=DDPM(SPEC, channels=(4,)), channels=(4,), attention=0)
    with pytest.raises(LimnerError, match=r"see only noise.* give sampler\.steps=4 or more"):
        chain.sample(1, c, steps=1)
    assert chain.sample(1, c, steps=1, sampler="ddim").isfinite().all()
    assert chain.sample(1, c, steps=2).isfinite().all()
