"""Every model that walks from noise to picture takes all options of the walk."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_type_hints

import pytest
import torch
from toy import SPEC

from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise
from limner.contract.registry import build, models
from limner.diffusion.progressive_distillation import Distilled
from limner.diffusion.sampling import Plan, Repaints, WalkOptions
from limner.maths.denoisers import Conditional, Estimate
from limner.maths.samplers.euler import Euler
from limner.maths.samplers.sampler import SAMPLERS, Sampler, State, Time
from limner.maths.schedules import LinearPath, Times

TINY = {"channels": (4,)}
LABELS = Condition(label=torch.tensor([0, 1]))
WALKING = [
    of.model
    for of in models().values()
    if issubclass(of.model, Repaints) and not issubclass(of.model, Distilled)
]


@pytest.mark.parametrize("model", [*WALKING, models()["cascade"].model], ids=lambda of: of.name)
def test_every_option_of_the_walk_is_in_the_schema(model: type[GenerativeModel]):
    properties = model.sample_schema()["properties"]
    assert set(get_type_hints(WalkOptions)) < set(properties)
    assert properties["order"] == models()["ddpm"].model.sample_schema()["properties"]["order"]


def latent() -> GenerativeModel:
    plain = replace(SPEC, labels=(), frequencies=())
    stage = build("kl-autoencoder", plain, channels=(4,))
    assert isinstance(stage, GenerativeModel)
    return _generator("latent-diffusion", first_stage=stage, denoiser="edm", options=TINY)


def classifier() -> GenerativeModel:
    return _generator("classifier", base=build("edm", SPEC, **TINY), **TINY)


def cascade() -> GenerativeModel:
    base = build("edm", SPEC.with_size(4, 4), patch=1, **TINY)
    return _generator("cascade", base=base, options=TINY)


def _generator(name: str, **options: object) -> GenerativeModel:
    model = build(name, SPEC, **options)
    assert isinstance(model, GenerativeModel)
    return model


@pytest.mark.parametrize("make", [latent, classifier, cascade])
def test_edm_inside_another_model_takes_churn_and_guidance_options(make):
    """An option that is not passed on would change no picture."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    guidance = "base_scale" if make is classifier else "scale"

    def sample_with(**options: object) -> Images:
        return model.sample(2, LABELS, seed=1, steps=3, **{guidance: 3.0}, **options)

    plain = sample_with()
    assert torch.equal(plain, sample_with(interval=None, churn=None))
    churned = sample_with(churn=2.0)
    for other in (
        churned,
        sample_with(interval=(1.0, 50.0)),
        sample_with(rescale=0.7),
    ):
        assert not torch.equal(other, plain)
    assert torch.equal(plain, sample_with(churn=2.0, churn_interval=(100.0, 200.0)))
    assert not torch.equal(churned, sample_with(churn=2.0, churn_noise=1.3))


@dataclass(frozen=True)
class Own(Sampler):
    """A user's own sampler with a mistake."""

    mistake: Callable[[State], Any]

    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        return self.mistake(Euler().step(D, at, t, s, noise))


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda to: to.x, "step of Own returns Tensor; return State(x, x_hat)"),
        (lambda to: None, "step of Own returns NoneType; return State(x, x_hat)"),
        (lambda to: State(to.x, None), "step of Own returns NoneType in State; return State(x, x"),
        (lambda to: State(to.x, to.x[:1]), "step of Own turns 2 x 3 x 8 x 8 into 1 x 3 x 8 x 8"),
        (lambda to: State(to.x[:1], to.x), "step of Own turns 2 x 3 x 8 x 8 into 1 x 3 x 8 x 8"),
        (lambda to: State(to.x.double(), to.x), "step of Own turns float32 into float64; keep"),
        (lambda to: State(to.x.half(), to.x), "step of Own turns float32 into float16; keep"),
    ],
)
def test_a_mistake_in_a_sampler_gives_one_line(mistake: Any, message: str):
    model: Any = build("edm", SPEC, **TINY)
    plan = model.plan(steps=2).with_sampler(Own(mistake))
    noise = Noise.sampling(0, 2)
    with pytest.raises(LimnerError, match=re.escape(message)):
        plan.end(model.first(noise), LABELS, noise)


def test_a_sampler_of_a_plan_is_spread_over_its_steps():
    model: Any = build("edm", SPEC, **TINY)
    plan, heun = model.plan(steps=4), SAMPLERS.make("heun", churn=1.0)
    assert plan.with_sampler(heun).sampler == heun.for_steps(4) != heun
    assert plan.with_sampler(heun).sampler == model.plan(steps=4, sampler="heun", churn=1.0).sampler


def test_each_step_is_taken_as_often_as_there_are_rounds():
    evaluated: list[float] = []

    class Counting:
        schedule = LinearPath()

        def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
            evaluated.append(float(t))
            return Estimate(x_t)

    x = torch.zeros(1, 1, 2, 2)
    times = LinearPath().times(4)
    Plan(Euler(), Counting(), times, rounds=3).end(x, Condition(), Noise.sampling(0, 1))
    assert evaluated == [1.0] * 3 + [0.75] * 3 + [0.5] * 3 + [0.25] * 3


class Line(LinearPath):
    """A user's own schedule with a mistake."""

    def __init__(self, times: Any = None, levels: Any = None) -> None:
        super().__init__()
        object.__setattr__(self, "changed", (times, levels))

    changed: tuple[Any, Any]

    def own_times(self, steps: int) -> Any:
        times = super().own_times(steps)
        return self.changed[0](times) if self.changed[0] else times

    def __call__(self, t: Times) -> Any:
        levels = super().__call__(t)
        return self.changed[1](*levels) if self.changed[1] else levels


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Line(times=lambda t: t[:-1]), "own_times of Line does not return 4 falling times"),
        (Line(times=lambda t: t.flip(0)), "own_times of Line does not return 4 falling times"),
        (Line(times=lambda t: t.tolist()), "own_times of Line does not return 4 falling times"),
        (Line(levels=lambda a, s: (a, s, s)), "Line(t) does not return (alpha, sigma) as two"),
        (Line(levels=lambda a, s: (s, a)), "Line(t) does not return (alpha, sigma) as two"),
        (
            Line(levels=lambda a, s: (a * math.nan, s)),
            "Line(t) does not return (alpha, sigma) as two",
        ),
        (Line(levels=lambda a, s: (-a, s)), "Line(t) does not return (alpha, sigma) as two"),
        (Line(levels=lambda a, s: (a, s[:1])), "Line(t) does not return (alpha, sigma) as two"),
    ],
)
def test_a_mistake_in_a_schedule_gives_one_line(schedule: Line, message: str):
    model: Any = build("flow-matching", SPEC, **TINY)
    model.schedule = schedule
    with pytest.raises(LimnerError, match=re.escape(message)):
        model.sample(2, LABELS, steps=3)
