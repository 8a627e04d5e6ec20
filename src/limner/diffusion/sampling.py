"""Painting along a plan from noise to picture, and over pictures: from the middle of that plan."""

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, NamedTuple, TypedDict, get_type_hints

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from limner.contract.editing import Edits, check_mask
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel, finished
from limner.contract.noise import Noise, Seeds
from limner.contract.options import Count, NonNegative, RunName, Share
from limner.contract.registry import entry
from limner.maths.denoisers import Conditional, Denoiser, KnownPixels, per_image
from limner.maths.samplers import Sampler, SamplerName, State
from limner.maths.schedules import Spacing, Times

Steps = Annotated[int, Field(ge=1, le=4000)]
Scale = Annotated[float, Field(ge=0, le=100)]
_ROUNDS = 4  # of an edit with a mask


class WalkOptions(TypedDict, total=False):
    """How to walk from noise to picture: options of every model that denoises, by itself, among
    the maps of an autoencoder, or within another model. What is left out is as the model has it.

    Args:
        sampler: how to walk from noise to picture; the paper's own by default.
        steps: how many steps from noise to picture; more take longer and are finer (Heun
            evaluates the network twice in each); the paper's own by default.
        spacing: how the steps are spread from noise to picture: which of a discrete schedule's
            are visited, see `schedules.Spacing`.
        interval: between which amounts of noise the prompt or class guides (classifier-free
            guidance): the least and the greatest sigma / alpha, see `Guided`.
        rescale: against colours that are too strong where guidance is: a share of the picture
            gets back the standard deviation that guidance raised, see `Guided`; 0 by default.
        guide: a worse version of the model, away from which it is guided: a smaller run, or an
            earlier state of its own, as in runs/NAME/state/step-00002000; see `Autoguided`.
        guide_scale: how far to go from the guide, 2 by default; 1 is the model itself.
        eta: how much fresh noise each step adds, for "ddim": 0 is deterministic, 1 adds the
            noise of ancestral sampling.
        churn: how much fresh noise all steps together put back, for "heun" (S_churn).
        churn_interval, churn_noise: between which amounts of noise (sigma) churn acts, and the
            deviation of its noise, 1 by default (S_tmin, S_tmax, S_noise).
        variance: how much noise each step adds, for "ancestral": from the least that can be
            right, 0, to the largest, 1; the model's own by default.
        order: how many estimates of the picture each step combines, for "dpm++" and "unipc";
            2 by default.
    """

    sampler: SamplerName | None
    steps: Steps | None
    spacing: Spacing | None
    interval: tuple[float, float] | None
    rescale: Share | None
    guide: RunName | None
    guide_scale: Scale | None
    eta: Share | None
    churn: NonNegative | None
    churn_interval: tuple[float, float] | None
    churn_noise: NonNegative | None
    variance: Share | None
    order: Annotated[int, Field(ge=1, le=3)] | None


OF_BASE = ("scale", "clip", *get_type_hints(WalkOptions))
"""Options that a model which paints by another one passes on to it."""


def taken_by_base(schema: dict[str, Any], config: Mapping[str, Any] | None) -> dict[str, Any]:
    """The schema of a model's sampling options without those that its base does not take.

    Args:
        schema: of all that such a model can have.
        config: the constructor's arguments, with the base's name and configuration; None leaves
            the schema as it is.
    """
    if config is None:
        return schema
    base = entry(config["base"]["model"]).model
    assert issubclass(base, GenerativeModel)
    known = base.sample_schema(config["base"]["config"])["properties"]
    fields = schema["properties"].items()
    kept = {name: of for name, of in fields if name not in OF_BASE or name in known}
    return schema | {"properties": kept}


class Plan(NamedTuple):
    """How to go from noise to a picture.

    Args:
        sampler: how to take a step.
        D: the denoiser, guided and clipped.
        times: to visit.
        rounds: how often each step is taken.
    """

    sampler: Sampler
    D: Denoiser
    times: Times
    rounds: int = 1

    def walked(self, x: Images, c: Condition, noise: Noise, preview: bool) -> Iterator[Images]:
        """Yield the denoiser's view at every step if there is a preview, then the picture.

        Args:
            x: where to begin.
            c: what the pictures are of.
            noise: random streams.
            preview: whether views are wanted.
        """
        D, state = Conditional(self.D, c), State(x, x)
        for t, s in pairwise(self.times):
            state = self._next_state(self.sampler.step(D, state, t, s, noise), x)
            for _ in range(self.rounds - 1):
                again = State(self._noised(state.x, s, t, noise), state.sketch)
                state = self._next_state(self.sampler.step(D, again, t, s, noise), x)
            if preview:
                yield state.sketch
        yield state.x

    def _next_state(self, found: object, x: Images) -> State:
        """What a step of the sampler gave.

        Raises:
            LimnerError: it is something else than a `State`, or of another shape than x.
        """
        name = type(self.sampler).__name__
        if not isinstance(found, State):
            kind = type(found).__name__
            raise LimnerError(f"step of {name} returns {kind}; return State(x, x_hat)")
        if found.x.shape != x.shape:
            seen, given = (" x ".join(map(str, each.shape)) for each in (found.x, x))
            raise LimnerError(f"step of {name} makes {seen} of {given}; return x as large as at.x")
        return found

    def end(self, x: Images, c: Condition, noise: Noise) -> Images:
        """The picture alone."""
        return deque(self.walked(x, c, noise, False), maxlen=1).pop()

    def _noised(self, x: Images, s: Times, t: Times, noise: Noise) -> Images:
        """x_t of x_s, t > s, by the forward process."""
        (alpha_s, sigma_s), (alpha_t, sigma_t) = (self.D.schedule(each) for each in (s, t))
        keep = alpha_t / alpha_s
        added = (sigma_t**2 - keep**2 * sigma_s**2).clamp(min=0).sqrt()
        return per_image(keep, x) * x + per_image(added, x) * noise.normal(*x.shape[1:]).to(x)


class Repaints(Edits):
    """A generator that goes from noise to a picture by a plan, and so can begin within it."""

    @abstractmethod
    def plan(self, **options: Any) -> Plan:
        """What the options of `frames` mean."""

    @abstractmethod
    def first(self, noise: Noise) -> Images:
        """The noise that a walk begins with, in the space where denoising happens."""

    def edit(
        self,
        image: Images,
        c: Condition = Condition(),
        *,
        mask: Float[Tensor, "b 1 h w"] | None = None,
        strength: Annotated[float, Field(gt=0, le=1)] = 1.0,
        rounds: Count | None = None,
        seed: Seeds = 0,
        preview: bool = True,
        **options: Any,
    ) -> Iterator[Images]:
        """Paint from a picture under noise, and keep of it what a mask says: `Edits`.

        The last `strength` of the steps are walked, from x_t = alpha_t image + sigma_t eps (Meng et
        al. (2021), SDEdit, arXiv:2108.01073). Where the mask is 0 the denoiser is told the image,
        so that every step of a random sampler is drawn given it. With `rounds` above 1 each step is
        undone by as much noise and taken again, so that both parts agree (Lugmayr et al. (2022),
        RePaint, arXiv:2201.09865, algorithm 1): in 50 steps of two pixels of correlation
        0.95, the mean of one given the other is 0.62 of the right one with 1 round, and 0.85 with
        4.

        Args:
            image: the pictures, "b c h w" in [-1, 1].
            c, seed, preview, options: as for `GenerativeModel.watch`.
            mask: 1 where to paint, 0 where to keep; everywhere by default.
            strength: how far to go back into noise, in (0, 1].
            rounds: how often each step is taken; by default 4 times with a mask, else once.

        Raises:
            LimnerError: pictures or a mask of another shape, or a strength or a number of rounds
                that cannot be: of a single step there is no part.
        """
        rounds = check_edit(self.spec, image, mask, strength, rounds)
        image = image.to(self.device, torch.float32)
        edited = partial(self.edited, image, mask, strength, rounds)
        yield from self.run_frames(edited, len(image), c, seed, preview, options)

    @finished
    def edited(
        self,
        image: Images,
        mask: Float[Tensor, "b 1 h w"] | None,
        strength: float,
        rounds: int,
        n: int,
        c: Condition,
        *,
        noise: Noise,
        preview: bool,
        **options: Any,
    ) -> Iterator[Images]:
        """What `edit` yields, of checked arguments."""
        plan = self.plan(**options)
        steps = len(plan.times) - 1
        if steps == 1 and strength < 1:
            raise LimnerError(
                f"a walk of one step begins with noise alone, and strength={strength:g} asks for a "
                "part of it; give more sampler.steps, or strength=1"
            )
        times = plan.times[steps - steps_of(strength, steps) :]
        x, painted = self.to_latent(image, mask, noise)
        D = plan.D if painted is None else KnownPixels(plan.D, x, painted.to(x))
        alpha, sigma = map(float, D.schedule(times[0]))
        x_t = alpha * x + sigma * noise.normal(*x.shape[1:])
        for state in Plan(plan.sampler, D, times, rounds).walked(x_t, c, noise, preview):
            yield self.to_image(state, image, mask)

    def to_latent(
        self, image: Images, mask: Float[Tensor, "b 1 h w"] | None, noise: Noise
    ) -> tuple[Images, Tensor | None]:
        """Picture and mask in the space where denoising happens: unchanged here."""
        return image, mask

    def to_image(
        self, x: Images, image: Images | None = None, mask: Float[Tensor, "b 1 h w"] | None = None
    ) -> Images:
        """The inverse of `to_latent`, for an edit of `image` if there is a mask: unchanged here."""
        return x

    def edit_count(self, strength: float = 1.0, **options: Any) -> int:
        """How many frames `edit` yields with a preview."""
        return steps_of(strength, self.frame_count(**options) - 1) + 1

    def effective_strength(self, strength: float, **options: Any) -> float:
        """The share of the steps that are walked."""
        steps = self.frame_count(**options) - 1
        return steps_of(strength, steps) / steps


def steps_of(strength: float, steps: int) -> int:
    """How many of the steps an edit walks: a whole number, at least one."""
    return max(1, round(strength * steps))


def check_edit(
    spec: ImageSpec, image: Tensor, mask: Tensor | None, strength: float, rounds: int | None
) -> int:
    """Refuse an edit that cannot be; else give the number of rounds, filled in.

    Raises:
        LimnerError: what is wrong with it.
    """
    check_mask(spec, image, mask)
    if not 0 < strength <= 1:
        raise LimnerError(f"strength={strength:g} is not above 0 and at most 1")
    rounds = (1 if mask is None else _ROUNDS) if rounds is None else rounds
    if rounds < 1:
        raise LimnerError(f"rounds={rounds}: each step is taken at least once")
    return rounds
