"""Sampling with a plan from noise to picture, and editing, which starts within such a plan."""

from abc import abstractmethod
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, NamedTuple, TypedDict, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from limner.contract.abilities import Attends
from limner.contract.editing import Edits, Rewords, check_mask
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images
from limner.contract.model import GenerativeModel, finish_frames
from limner.contract.noise import Noise, Seeds
from limner.contract.options import Count, RunName, Share, shared_types
from limner.contract.registry import entry
from limner.maths.denoisers import Conditional, Denoiser, KnownPixels, per_image
from limner.maths.samplers.sampler import Sampler, SamplerName, State
from limner.maths.schedules import Spacing, Times

Steps = Annotated[int, Field(ge=1, le=4000)]
Scale = Annotated[float, Field(ge=0, le=100)]
PathShift = Annotated[float, Field(gt=0, le=100)]
_DEFAULT_ROUNDS = 4  # default number of an edit with a mask


class Edit(NamedTuple):
    """What an edit paints anew, see `Repaints.edit`.

    Args:
        image: the pictures, "b c h w" in [-1, 1].
        mask: 1 where to paint, 0 where to keep; None to paint everywhere.
        strength: how far to go back into noise, in (0, 1].
        rounds: how often each step is taken.
    """

    image: Images
    mask: Float[Tensor, "b 1 h w"] | None
    strength: float = 1.0
    rounds: int = 1


class WalkOptions(TypedDict, total=False):
    """Sampling options of every model that denoises, also in latent space or within another model.

    An option that is left out has the model's default. The options of all samplers belong to these
    as well.

    Args:
        sampler: method that takes the steps from noise to picture; the paper's own by default.
        steps: number of steps from noise to picture; more take longer and are finer (Heun
            evaluates the network twice in each); the paper's own by default.
        spacing: how the steps are spread from noise to picture: which steps of a discrete schedule
            are visited, see `schedules.Spacing`.
        shift: how far the times of the steps are shifted towards noise, for flow matching, see
            `LinearPath`; 1 is evenly spaced; model.shift, as in training, by default.
        interval: range of noise in which the prompt or class guides (classifier-free guidance):
            the least and the greatest sigma / alpha, see `Guided`; none guides everywhere, also
            where the recipe has a range.
        rescale: how far to restore the standard deviation of the picture, which guidance raises,
            from 0 (not at all) to 1; against colours that are too strong, see `Guided`; 0 by
            default.
        guide: a worse version of the model, away from which it is guided: a smaller run, or an
            earlier state of its own, as in runs/NAME/state/step-00002000; see `Autoguided`.
        guide_scale: how far to go from the guide, 2 by default; 1 is the model itself.
    """

    sampler: SamplerName | None
    steps: Steps | None
    spacing: Spacing | None
    shift: PathShift | None
    interval: tuple[float, float] | None
    rescale: Share | None
    guide: RunName | None
    guide_scale: Scale | None


def walk_options() -> list[str]:
    """Return the names of all options of `WalkOptions`, with those of the samplers."""
    return list(shared_types(WalkOptions))


def schema_for_base(
    schema: dict[str, Any], own: Collection[str], config: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the schema of a model's sampling options without those that its base does not take.

    Args:
        schema: schema of all options that such a model can have.
        own: names of the options that are not the base's.
        config: the constructor's arguments, with the base's name and configuration; None leaves
            the schema unchanged.
    """
    if config is None:
        return schema
    base = entry(config["base"]["model"]).model
    assert issubclass(base, GenerativeModel)
    base_fields = base.sample_schema(config["base"]["config"])["properties"]
    names = {*own, *base_fields}
    kept = {name: field for name, field in schema["properties"].items() if name in names}
    return schema | {"properties": kept}


def base_has_ability(ability: type, config: Mapping[str, Any], kind: type) -> bool:
    """Return whether a model's base has an ability.

    Args:
        ability: class of the models that have it.
        config: the model's configuration, with the base's name and configuration.
        kind: class that the base must have.
    """
    base = entry(config["base"]["model"]).model
    assert issubclass(base, GenerativeModel)
    return issubclass(base, kind) and base.has_ability(ability, config["base"]["config"])


class Plan(NamedTuple):
    """Sampling plan from noise to a picture.

    Args:
        sampler: method that takes a step.
        D: denoiser, guided and clipped.
        times: times to visit.
        rounds: number of times that each step is taken.
    """

    sampler: Sampler
    D: Denoiser
    times: Times
    rounds: int = 1

    def with_sampler(self, sampler: Sampler) -> "Plan":
        """Return the plan with another sampler, which need not be registered."""
        return self._replace(sampler=sampler.for_steps(len(self.times) - 1))

    def last(self, strength: float, options: Mapping[str, Any], name: str = "strength") -> "Plan":
        """Return the plan of the last steps, at least one.

        Args:
            strength: share of the steps, in (0, 1].
            options: sampling options of the model, which the error's advice depends on.
            name: name of the strength, for the error.

        Raises:
            LimnerError: there is one step, and a part of it is asked for.
        """
        steps = len(self.times) - 1
        if steps == 1 and strength < 1:
            more_steps = "more sampler.steps, or " if "steps" in options else ""
            raise LimnerError(
                f"one step starts from noise alone, and {name}={strength:g} asks for a part of "
                f"it; give {more_steps}{name}=1"
            )
        return self._replace(times=self.times[steps - steps_of(strength, steps) :])

    def trajectory(self, x: Images, c: Condition, noise: Noise, preview: bool) -> Iterator[Images]:
        """Yield the denoiser's estimate at every step if there is a preview, then the picture.

        Args:
            x: noisy pictures to start from.
            c: condition of the pictures.
            noise: random streams.
            preview: whether to yield estimates.
        """
        D, state = Conditional(self.D, c), State(x, x)
        for t, s in pairwise(self.times):
            state = self._next_state(self.sampler.step(D, state, t, s, noise), x)
            for _ in range(self.rounds - 1):
                noisy = State(self._add_noise(state.x, s, t, noise), state.sketch)
                state = self._next_state(self.sampler.step(D, noisy, t, s, noise), x)
            if preview:
                yield state.sketch
        yield state.x

    def _next_state(self, state: object, x: Images) -> State:
        """Check the result of a sampler's step.

        Raises:
            LimnerError: it is not a `State` of two tensors, their shapes differ from that of x, or
                the type of its x does.
        """
        name = type(self.sampler).__name__
        if not isinstance(state, State):
            kind = type(state).__name__
            raise LimnerError(f"step of {name} returns {kind}; return State(x, x_hat)")
        for images in cast("tuple[object, ...]", state[:2]):
            if not isinstance(images, Tensor):
                kind = type(images).__name__
                raise LimnerError(f"step of {name} returns {kind} in State; return State(x, x_hat)")
            if images.shape != x.shape:
                after, before = (" x ".join(map(str, each.shape)) for each in (images, x))
                raise LimnerError(
                    f"step of {name} turns {before} into {after}; keep the shape of at.x"
                )
        if state.x.dtype != x.dtype:
            after, before = (str(each.dtype).removeprefix("torch.") for each in (state.x, x))
            raise LimnerError(f"step of {name} turns {before} into {after}; keep the dtype of at.x")
        return state

    def end(self, x: Images, c: Condition, noise: Noise) -> Images:
        """Return the picture, without previews."""
        return deque(self.trajectory(x, c, noise, False), maxlen=1).pop()

    def _add_noise(self, x: Images, s: Times, t: Times, noise: Noise) -> Images:
        """Return x_t of x_s, t > s, with noise of the forward process."""
        (alpha_s, sigma_s), (alpha_t, sigma_t) = (self.D.schedule(time) for time in (s, t))
        keep = alpha_t / alpha_s
        added = (sigma_t**2 - keep**2 * sigma_s**2).clamp(min=0).sqrt()
        return per_image(keep, x) * x + per_image(added, x) * noise.normal(*x.shape[1:]).to(x)


def _has_attention(config: Mapping[str, Any]) -> bool:
    """Whether the network of a model, of its base, teacher or denoiser, has attention."""
    for name in ("base", "teacher"):
        if name in config:
            return _has_attention(config[name]["config"])
    return (config.get("options") or config).get("attention", 1) > 0


class Repaints(Edits):
    """Generator that samples with a plan, and edits pictures by starting within the plan."""

    @classmethod
    def has_ability(cls, ability: type, config: Mapping[str, Any]) -> bool:
        """Return whether it has an ability; changes and maps of words need cross-attention."""
        is_able = ability not in (Rewords, Attends) or _has_attention(config)
        return is_able and super().has_ability(ability, config)

    @abstractmethod
    def plan(self, **options: Any) -> Plan:
        """Return the sampling plan for options of `frames`."""

    @abstractmethod
    def first(self, noise: Noise) -> Images:
        """Draw the noise that sampling starts from, in the space where denoising happens."""

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
        """Paint from a noisy picture, and keep the parts of it where a mask is 0: `Edits`.

        Sampling starts from x_t = alpha_t image + sigma_t eps, and takes the last `strength` of the
        steps (Meng et al. (2021), SDEdit, arXiv:2108.01073). Where the mask is 0, the denoiser
        returns the image itself, so that every step of a random sampler is conditioned on it. With
        `rounds` above 1, each step is undone by adding noise and taken again, so that both parts
        agree (Lugmayr et al. (2022), RePaint, arXiv:2201.09865, algorithm 1): in 50 steps on two
        pixels of deviation 0.2 and correlation 0.95, the mean of one given the other is 0.62 of the
        right one with 1 round, and 0.85 with 4.

        Args:
            image: the pictures, "b c h w" in [-1, 1].
            c, seed, preview, options: as for `GenerativeModel.watch`.
            mask: 1 where to paint, 0 where to keep; everywhere by default.
            strength: how far to go back into noise, in (0, 1].
            rounds: how often each step is taken; by default 4 times with a mask, else once.

        Raises:
            LimnerError: pictures or a mask of another shape; or a strength or a number of rounds
                that is not possible (a single step cannot be divided).
        """
        frames = partial(self.edit_frames, make_edit(self, image, mask, strength, rounds))
        yield from self.run_frames(frames, len(image), c, seed, preview, options)

    @finish_frames
    def edit_frames(
        self, edit: Edit, n: int, c: Condition, *, noise: Noise, preview: bool, **options: Any
    ) -> Iterator[Images]:
        """Yield the frames of `edit`."""
        image, mask, strength, rounds = edit
        plan = self.plan(**options).last(strength, options)
        x, latent_mask = self.to_latent(image, mask, noise)
        D = plan.D if latent_mask is None else KnownPixels(plan.D, x, latent_mask.to(x))
        alpha, sigma = map(float, D.schedule(plan.times[0]))
        x_t = alpha * x + sigma * noise.normal(*x.shape[1:])
        for state in plan._replace(D=D, rounds=rounds).trajectory(x_t, c, noise, preview):
            yield self.to_image(state, image, mask)

    def to_latent(
        self, image: Images, mask: Float[Tensor, "b 1 h w"] | None, noise: Noise
    ) -> tuple[Images, Tensor | None]:
        """Map picture and mask to the space where denoising happens: unchanged here."""
        return image, mask

    def to_image(
        self, x: Images, image: Images | None = None, mask: Float[Tensor, "b 1 h w"] | None = None
    ) -> Images:
        """Invert `to_latent`, for an edit of `image` if there is a mask: unchanged here."""
        return x

    def edit_count(self, strength: float = 1.0, **options: Any) -> int:
        """Return the number of frames that `edit` yields with a preview."""
        return steps_of(strength, self.frame_count(**options) - 1) + 1

    def effective_strength(self, strength: float, **options: Any) -> float:
        """Return the share of the steps that an edit takes."""
        steps = self.frame_count(**options) - 1
        return steps_of(strength, steps) / steps


def steps_of(strength: float, steps: int) -> int:
    """Return the number of steps that an edit takes, at least one."""
    return max(1, round(strength * steps))


def make_edit(
    model: GenerativeModel,
    image: Images,
    mask: Float[Tensor, "b 1 h w"] | None,
    strength: float,
    rounds: int | None,
) -> Edit:
    """Return an edit on a model's device, with the default number of rounds.

    Raises:
        LimnerError: an argument is wrong.
    """
    check_mask(model.spec, image, mask)
    if not 0 < strength <= 1:
        raise LimnerError(f"strength={strength:g} is not above 0 and at most 1")
    rounds = (1 if mask is None else _DEFAULT_ROUNDS) if rounds is None else rounds
    if rounds < 1:
        raise LimnerError(f"rounds={rounds}: each step is taken at least once; give rounds=1")
    return Edit(image.to(model.device, torch.float32), mask, strength, rounds)
