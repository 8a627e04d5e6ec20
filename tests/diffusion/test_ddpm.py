"""DDPM: times and labels, the bound, sampling options, and a tiny trained model."""

import inspect
import math

import pytest
import torch
from analytic import Fixed as Always
from torch import nn
from toy import SPEC, Recorder, batches, colours_are_right, one_thread, trained

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec, from_levels
from limner.contract.noise import Noise
from limner.diffusion.ddpm import DDPM
from limner.maths.samplers.sampler import SAMPLERS

GREY = ImageSpec(1, 4, 4)


def tiny(**config) -> DDPM:
    return DDPM(GREY, channels=(4,), **config)


def test_training_draws_all_T_steps_uniformly():
    model, n = tiny(T=10), 20_000
    k = model.draw_times(Noise.keyed(0, 0, torch.arange(n))) * 10
    counts = torch.stack([(k == step).sum() for step in range(1, 11)])
    assert int(counts.sum()) == n
    expected = n / 10
    # 27.9 is the 0.999 quantile of chi-squared with 9 degrees of freedom.
    assert float(((counts - expected) ** 2 / expected).sum()) < 27.9


def test_the_network_gets_the_number_of_the_step():
    model = DDPM(SPEC, channels=(4,))
    model.network = Recorder()
    next(model.turns(batches(0, 64), 0, Noise.keyed(0, 0, torch.arange(64))))
    ((_, label, _),) = model.network.calls
    k = model.draw_times(Noise.keyed(0, 0, torch.arange(64))) * 1000
    assert torch.equal(label, k)
    assert torch.equal(k, k.round())
    assert 1 <= int(k.min()) < int(k.max()) <= 1000


def test_the_first_loss_is_the_variance_of_the_noise():
    """A new network returns F = 0: E |eps - 0|^2 = 1."""
    n = 2000
    model = tiny()
    x = torch.zeros(n, 1, 4, 4)
    batch = Batch(x, Condition())
    (turn,) = model.turns(batch, 0, Noise.keyed(0, 0, torch.arange(n)))
    assert float(turn.loss.detach()) == pytest.approx(1, abs=3 * math.sqrt(2 / x.numel()))


@pytest.mark.parametrize(
    ("options", "evaluations"),
    [
        ({}, 250),
        ({"steps": 1000}, 1000),
        ({"sampler": "ddim", "steps": 10}, 10),
        ({"sampler": "euler", "steps": 10}, 10),
        ({"sampler": "heun", "steps": 10}, 19),
        ({"sampler": "dpm++", "steps": 10}, 10),
    ],
)
def test_number_of_network_evaluations(options, evaluations):
    model = tiny()
    model.network = Recorder()
    model.sample(2, **options)
    assert len(model.network.calls) == evaluations
    assert float(model.network.calls[0][1][0]) == 1000  # starts at the last step, pure noise


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": 0.5}, "the sampler ancestral has no option eta; it belongs to ddim"),
        (
            {"sampler": "ddim", "churn": 1.0},
            "the sampler ddim has no option churn; it belongs to heun",
        ),
        ({"sampler": "heun", "churn": 1.0}, "churn is for models whose time is sigma"),
        ({"sampler": "heun", "churn_interval": (5.0, 0.3)}, "sampler option churn_interval=5,0.3"),
        ({"sampler": "ddmi"}, "sampler option sampler='ddmi'"),
        ({"step": 10}, "did you mean 'steps'"),
        ({"steps": 0}, "sampler option steps=0"),
        ({"eta": 1.5}, "sampler option eta=1.5"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(LimnerError, match=message):
        tiny().sample(1, **options)


@pytest.mark.parametrize("option", ["patch", "fourier"])
def test_the_papers_network_takes_only_pixels(option):
    with pytest.raises(LimnerError, match=rf"plain U-Net .* leave model\.{option} out"):
        DDPM(SPEC, channels=(4,), network="plain", **{option: 2})


def test_frames_are_previews_and_the_last_is_the_sample():
    model = tiny(T=20)
    frames = list(model.watch(2, steps=5))
    assert len(frames) == 6
    assert torch.equal(frames[-1], model.sample(2, steps=5))
    assert len(list(model.watch(2, steps=5, preview=False))) == 1


def test_the_call_stack_from_watch_to_the_network_is_at_most_8_deep():
    model, stacks = tiny(T=10).eval(), []

    def record_stack(*_):
        calls = [
            call.function for call in inspect.stack(context=0) if "/src/limner/" in call.filename
        ]
        stacks.append(calls)

    model.network.register_forward_pre_hook(record_stack)
    for _ in model.watch(1, steps=2):
        pass
    assert len(stacks) == 2
    assert max(map(len, stacks)) <= 8


def test_the_last_step_draws_no_noise_and_equals_the_last_preview():
    frames = list(tiny(T=20).watch(2, steps=20))
    assert torch.equal(frames[-1], frames[-2])


def test_a_tiny_one_learns_the_colour_of_each_class():
    with one_thread():
        torch.manual_seed(0)
        model = DDPM(SPEC, channels=(16,), T=50, schedule="cosine", prediction="v")
        model = trained(model)
        assert colours_are_right(model, steps=50)
        assert colours_are_right(model, sampler="ddim", steps=15, scale=2.0)


def published_terms(model: DDPM, x: torch.Tensor, eps: float, learned: torch.Tensor | None):
    """Return the terms of the bound as the papers write them, with alpha-bar and beta."""
    betas = model.schedule.betas
    bar = torch.cumprod(1 - betas, 0)
    before = torch.cat([bar.new_ones(1), bar[:-1]])
    posterior = betas * (1 - before) / (1 - bar)
    clipped = torch.cat([posterior[1:2], posterior[1:]])
    terms = []
    for k in range(len(betas)):
        x_t = bar[k].sqrt() * x + (1 - bar[k]).sqrt() * eps
        x_hat = model(x_t, torch.tensor((k + 1) / len(betas)).double(), Condition()).x_hat.clamp(
            -1, 1
        )
        weight_x = betas[k] * before[k].sqrt() / (1 - bar[k])
        weight_t = (1 - before[k]) * (1 - betas[k]).sqrt() / (1 - bar[k])
        true, mean = weight_x * x + weight_t * x_t, weight_x * x_hat + weight_t * x_t
        large = torch.cat([clipped[:1], betas[1:]])  # "fixedlarge" in the authors' code
        log_var = {"small": clipped[k].log(), "large": large[k].log()}.get(model.variance)
        if log_var is None:
            share = (learned + 1) / 2
            log_var = share * betas[k].log() + (1 - share) * clipped[k].log()
        p = torch.distributions.Normal(mean, (log_var / 2).exp().expand_as(mean))
        if k:
            q = torch.distributions.Normal(true, posterior[k].sqrt().expand_as(true))
            term = torch.distributions.kl_divergence(q, p)
        else:
            upper = torch.where(x > 0.999, 1.0, p.cdf(x + 1 / 255))
            lower = torch.where(x < -0.999, 0.0, p.cdf(x - 1 / 255))
            term = -(upper - lower).clamp(min=1e-300).log()
        terms.append(term.flatten(1).sum(1))
    return terms


class Fixed(nn.Module):
    """A network that computes a fixed, arbitrary function, with one value for every variance."""

    raw = 0.4

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.twice = twice

    def forward(self, x, label, c):
        F = 0.8 * x + 0.1 * x.roll(1, -1) + 1e-4 * label.view(-1, 1, 1, 1)
        return torch.cat([F, torch.full_like(F, self.raw)], 1) if self.twice else F


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
@pytest.mark.parametrize("T", [2, 30])
def test_the_terms_of_the_bound_are_the_papers(variance, T):
    model = tiny(T=T, variance=variance)
    model.network = Fixed(variance == "learned")
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (3, 1, 4, 4), generator=generator).double() / 127.5 - 1
    bound = model.bound(x, noise=Always(3, 0.6))
    first, *others = published_terms(model, x, 0.6, torch.tensor(0.4).double())
    torch.testing.assert_close(bound.decoder, first, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(bound.steps, sum(others, first * 0), rtol=1e-6, atol=1e-6)


def test_the_prior_term_of_the_linear_schedule():
    """It is 2.911e-5 bits per dimension if every number is 1 or -1."""
    x = torch.ones(2, 1, 4, 4) * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    prior = tiny().bound(x, noise=Noise.sampling(0, 2), terms=1).prior
    assert prior.tolist() == pytest.approx([2.911e-5 * 16 * math.log(2)] * 2, rel=1e-3)


def test_random_steps_estimate_the_sum_of_all_steps():
    model = tiny(T=20)
    model.network = Fixed(False)
    n = 3000
    x = torch.zeros(n, 1, 4, 4).double()
    total = model.bound(x, noise=Noise.sampling(0, n)).steps
    estimate = model.bound(x, noise=Noise.sampling(n, n), terms=3).steps
    error = math.sqrt(float(total.var() + estimate.var()) / n)
    assert float(estimate.std()) > float(total.std()), "no step was skipped"
    assert float(estimate.mean()) == pytest.approx(float(total.mean()), abs=3.5 * error)


def test_the_bound_holds_for_random_binary_pictures():
    """Of fair bits, the optimal denoiser is tanh(alpha x_t / sigma^2), and -log P = D ln 2."""
    spec = ImageSpec(1, 4, 4, levels=2)
    model = DDPM(spec, channels=(4,), T=200, prediction="x", schedule="cosine")

    class Optimal(nn.Module):
        def forward(self, x, label, c):
            alpha, sigma = model.schedule(label.double() / 1000)
            return (x * (alpha / sigma**2).view(-1, 1, 1, 1)).tanh()

    model.network = Optimal()
    x = (torch.arange(512 * 16) % 3 % 2 * 2.0 - 1).view(512, 1, 4, 4).double()
    nats, kind, _ = model.log_prob(x, noise=Noise.sampling(0, 512), terms=200)
    assert kind == "lower"
    expected, error = 16 * math.log(2), float(nats.std()) / math.sqrt(512)
    assert expected - 3 * error < -float(nats.mean()) < 1.1 * expected


@pytest.mark.parametrize(("schedule", "known"), [("cosine", 0.41), ("log-snr", 0.0)])
def test_the_decoder_term_of_a_perfect_denoiser(schedule, known):
    """Bits per pixel of a perfect denoiser; four in five pixels are black, the others grey."""
    spec = ImageSpec(1, 8, 8, levels=256)
    model = DDPM(spec, channels=(4,), prediction="x", schedule=schedule)
    k = (100 * (torch.arange(64) % 5 == 0)).view(1, 1, 8, 8)
    x = from_levels(k, 256).repeat(64, 1, 1, 1)

    class Perfect(nn.Module):
        def forward(self, x_t, label, c):
            return x

    model.network = Perfect()
    decoder = model.bound(x, noise=Noise.sampling(0, 64), terms=1).decoder
    assert float(decoder.mean()) / 64 / math.log(2) == pytest.approx(known, abs=0.02)


def test_a_terminal_schedule_samples_and_has_a_prior_term_of_0():
    model = tiny(T=10, terminal=True, prediction="v").eval()
    for sampler in SAMPLERS.classes:
        x = model.sample(2, sampler=sampler, steps=4)
        assert x.isfinite().all() and float(x.std()) > 0
    assert model.encode(x).isfinite().all()
    bound = model.bound(x, noise=Noise.sampling(0, 2))
    assert bound.prior.tolist() == [0, 0] and bound.steps.isfinite().all()


def test_a_terminal_schedule_with_noise_prediction_is_refused():
    with pytest.raises(LimnerError, match=r"give model\.prediction=v"):
        tiny(terminal=True)


def test_the_bound_trains_only_the_variance():
    model = tiny(T=10, variance="learned", bound_weight=7.0)
    x = torch.linspace(-1, 1, 64).round(decimals=1).view(4, 1, 4, 4)
    out = (0.1 * torch.randn(4, 2, 4, 4)).requires_grad_()
    model.output = lambda x_t, t, c: out
    batch = Batch(x, Condition())
    (turn,) = model.turns(batch, 0, Noise.keyed(0, 0, torch.arange(4)))
    (gradient,) = torch.autograd.grad(turn.loss, out)
    target = model.example(batch, Noise.keyed(0, 0, torch.arange(4))).target
    simple = (out[:, :1] - target).square()
    (simple_gradient,) = torch.autograd.grad(simple.mean(), out)
    torch.testing.assert_close(gradient[:, :1], simple_gradient[:, :1])
    assert float(gradient[:, 1:].abs().min()) > 0
    e = model.example(batch, Noise.keyed(0, 0, torch.arange(4)))
    x_hat = model.combine(out[:, :1], e.x_t, e.t).clamp(-1, 1)
    nats = 10 * model._terms(x, x_hat, (out[:, 1:] + 1) / 2, e.t).mean()  # of all 10 steps
    assert turn.logs["bits_per_dim"].item() == pytest.approx(nats.item() / 16 / math.log(2))
    total = turn.logs["simple"] + 7.0 * turn.logs["bits_per_dim"]
    assert turn.loss.item() == pytest.approx(total.item(), rel=1e-6)


def test_the_best_variance_is_the_posteriors_plus_the_squared_error():
    model = tiny(T=10, variance="learned")
    x, x_hat = torch.zeros(1, 1, 4, 4).double(), torch.full((1, 1, 4, 4), 0.3).double()
    v = torch.full_like(x, 0.5).requires_grad_()
    t = torch.tensor([0.6]).double()
    for _ in range(200):
        (slope,) = torch.autograd.grad(model._terms(x, x_hat, v, t).sum(), v)
        v = (v - 5 * slope).detach().requires_grad_()
    large, small, weight = model._steps[:, 5]
    variance = small ** (1 - v) * large**v
    torch.testing.assert_close(variance, (small + (0.3 * weight) ** 2).expand_as(v).detach())


def test_ancestral_steps_have_the_learned_variance():
    model = tiny(T=10, variance="learned")
    model.network = Fixed(True)
    default = model.sample(2, steps=10)
    explicit = model.sample(2, steps=10, variance=(Fixed.raw + 1) / 2)
    torch.testing.assert_close(default, explicit, rtol=0, atol=1e-5)
    assert not torch.equal(default, model.sample(2, steps=10, variance=0.0))
    model.sample(2, Condition(), steps=3, scale=2.0)
    assert model.sample(2, steps=3, sampler="ddim").shape == (2, 1, 4, 4)


@pytest.mark.parametrize("prediction", ["v", "x"])
def test_min_snr_leaves_the_weight_of_pure_noise_at_1(prediction):
    """alpha^2 / sigma^2 is 0 there, but the network still has to learn at pure noise."""
    model = tiny(T=10, terminal=True, prediction=prediction, min_snr=5.0)
    t, ones = torch.tensor([1.0, 0.9], dtype=torch.float64), torch.ones(2, *GREY.shape)
    last, before = (float(model.mean_error(ones[:1], time[None])) for time in t)
    alpha, sigma = (float(level) for level in model.schedule(t[1]))
    out = {"v": sigma, "x": 1.0}[prediction]
    assert last == 1.0
    assert before == pytest.approx((out * alpha / sigma) ** 2, rel=1e-5)
