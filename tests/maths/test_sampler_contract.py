"""Every sampler keeps its promises, and the checks find samplers that do not."""

from dataclasses import dataclass, make_dataclass, replace

import pytest
import torch
from analytic import Fixed

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.noise import Noise
from limner.contract.options import json_schema, validate_options
from limner.contract.registry import build
from limner.diffusion.ddpm import DDPM
from limner.maths.denoisers import Conditional
from limner.maths.samplers.ancestral import Ancestral
from limner.maths.samplers.euler import Euler
from limner.maths.samplers.sampler import SAMPLERS, Sampler, State, Time, sampler
from limner.maths.samplers.steps import levels_at
from limner.testing.sampler_checks import check_sampler


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let samplers that a test registers vanish after it."""
    monkeypatch.setattr(SAMPLERS, "_classes", SAMPLERS.classes)


@pytest.mark.parametrize("name", SAMPLERS.classes)
def test_a_sampler_keeps_its_promises(name: str):
    assert len([*check_sampler(name)]) == 3


class Wrong(Euler):
    """Euler's method with a fault."""


class DrawsForAll(Wrong):
    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        state = super().step(D, at, t, s, noise)
        return state._replace(x=state.x + 1e-3 * torch.randn_like(state.x))


class DividesByAlpha(Wrong):
    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        alpha, _ = levels_at(D, t)
        state = super().step(D, at, t, s, noise)
        return state._replace(x=torch.tensor(alpha).reciprocal() * alpha * state.x)


class GoesTooFar(Wrong):
    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        state = super().step(D, at, t, s, noise)
        return state._replace(x=at.x + 1.1 * (state.x - at.x))


class AddsTooMuchNoise(Ancestral):
    """Ancestral sampling with a tenth more noise in each step."""

    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        mean = super().step(D, at, t, s, Fixed(len(noise), 0.0)).x
        state = super().step(D, at, t, s, noise)
        return state._replace(x=mean + 1.1 * (state.x - mean))


class AddsTooLittleNoise(Ancestral):
    """Ancestral sampling with a tenth less noise in each step."""

    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        mean = super().step(D, at, t, s, Fixed(len(noise), 0.0)).x
        state = super().step(D, at, t, s, noise)
        return state._replace(x=mean + 0.9 * (state.x - mean))


class NeverArrives(Wrong):
    """Euler's method with an error that does not fall with more steps."""

    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        state = super().step(D, at, t, s, noise)
        (alpha_t, _), (alpha_s, _) = levels_at(D, t), levels_at(D, s)
        return state._replace(x=state.x + 0.04 * (alpha_s - alpha_t))


class ReturnsPictures(Wrong):
    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        return super().step(D, at, t, s, noise).x  # pyright: ignore


class RoundsOff(Wrong):
    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        state = super().step(D, at, t, s, noise)
        return state._replace(x=state.x.float())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (DrawsForAll, "draw all random numbers from noise"),
        (DividesByAlpha, "flow matching's line leads to infinite or missing numbers, steps=1"),
        (
            GoesTooFar,
            "on a cosine schedule, the mean is .*, not 0.3; does a step .* or go too far?",
        ),
        (
            AddsTooMuchNoise,
            r"the deviation is .* approaches 0\.54\d, not 0.5; does a step add too m",
        ),
        (AddsTooLittleNoise, "the deviation is .*, not 0.5"),
        (
            NeverArrives,
            r"the mean is .* after 50 steps and .* after 200; .* approaches 0\.32\d, not",
        ),
        (ReturnsPictures, r"step returns Tensor; return State\(x, x_hat\)"),
        (RoundsOff, "x of the state is torch.float32, not torch.float64 like at.x"),
    ],
)
def test_a_wrong_sampler_is_found(kind: type[Sampler], message: str):
    sampler("wrong")(dataclass(frozen=True)(kind))
    with pytest.raises(AssertionError, match=message):
        [*check_sampler("wrong")]


@dataclass(frozen=True)
class Halfway(Euler):
    """Euler's method that goes a share of each step.

    Args:
        share: the share of each step.
    """

    share: float = 0.5

    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        state = super().step(D, at, t, s, noise)
        return state._replace(x=at.x + self.share * (state.x - at.x))


def test_a_registered_sampler_is_an_option_of_every_model_that_denoises():
    sampler("halfway")(Halfway)
    spec = ImageSpec(1, 8, 8)
    model = build("ddpm", spec, channels=8)
    assert isinstance(model, DDPM)
    options = {"steps": 3, "clip": False}
    whole, half, euler = (
        model.sample(1, seed=3, sampler=name, **more, **options)
        for name, more in (("halfway", {"share": 1.0}), ("halfway", {}), ("euler", {}))
    )
    torch.testing.assert_close(whole, euler)
    assert not torch.allclose(half, euler)
    schema = DDPM.sample_schema()["properties"]
    assert schema["share"]["description"] == "for halfway: the share of each step."
    assert "halfway" in schema["sampler"]["anyOf"][0]["enum"]
    with pytest.raises(LimnerError, match="the sampler euler has no option share; it belongs to h"):
        model.sample(1, sampler="euler", share=0.3)


def test_options_of_a_sampler_that_is_gone_are_unknown():
    assert "share" not in json_schema(DDPM.frames, skip=("n", "c", "noise"))["properties"]
    with pytest.raises(LimnerError, match=r"unknown sampler option 'sampler\.share'"):
        validate_options(
            DDPM.frames,
            {"share": 1.0},
            kind="sampler option",
            prefix="sampler.",
            skip=("self", "n", "c", "noise", "preview"),
        )


def test_the_name_of_a_shared_option_is_refused():
    @sampler("slow")
    @dataclass(frozen=True)
    class Slow(Euler):
        steps: int = 1

    assert Slow() == replace(Slow(), steps=1)
    with pytest.raises(LimnerError, match="the option steps of the sampler slow is one that all"):
        DDPM.sample_schema()


@pytest.mark.parametrize("name", ["seed", "mask", "strength", "rounds", "before", "for_steps"])
def test_the_name_of_an_argument_of_sampling_or_editing_is_refused(name: str):
    with pytest.raises(LimnerError, match=f"the option {name} of Own has a reserved name"):
        sampler("own")(make_dataclass("Own", [(name, int, 1)], bases=(Euler,), frozen=True))


def test_the_option_of_a_sampler_may_be_several_values_that_are_not_a_range():
    @sampler("own")
    @dataclass(frozen=True)
    class Own(Euler):
        parts: tuple[str, ...] = ("a", "b")

    model = build("ddpm", ImageSpec(1, 8, 8), channels=8)
    assert isinstance(model, DDPM)
    for parts in (("b", "a"), ("a",)):
        assert model.plan(sampler="own", parts=parts, steps=2).sampler == Own(parts)


@pytest.mark.parametrize("ends", [(5.0, 0.3), (1.0, 1.0), (-1.0, 2.0)])
def test_a_range_of_noise_goes_from_less_to_more(ends: tuple[float, float]):
    with pytest.raises(
        LimnerError, match=r"sampler option churn_interval=.*give the least and the"
    ):
        SAMPLERS.make("heun", churn_interval=ends)
