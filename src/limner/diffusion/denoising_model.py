"""Base class of models that denoise along a Gaussian path: training, sampling and inversion.

A paper adds its schedule, its parametrisation and its distribution of times. The way from noise to
pictures, and from pictures to noise, is the same for all.
"""

import copy
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.bundled import AVERAGE_FILE, find_model
from limner.contract.checkpoint import load, load_tensors, model_file, with_current_names
from limner.contract.codes import Encodes
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import Learner, Turn
from limner.contract.noise import Noise
from limner.diffusion.attention_maps import Attending
from limner.diffusion.prompt_to_prompt import PromptToPrompt
from limner.diffusion.sampling import Plan, Scale, WalkOptions
from limner.maths.denoisers import (
    Autoguided,
    Clipped,
    Denoiser,
    Estimate,
    Guided,
    Parametrisation,
    per_image,
    target_weights,
)
from limner.maths.samplers.euler import Euler
from limner.maths.samplers.sampler import SAMPLERS, SamplerName
from limner.maths.samplers.steps import check_interval
from limner.maths.schedules import Schedule, Spacing, Times, check_schedule
from limner.nn.plain_unet import PlainUNet
from limner.nn.unet import UNet

_CODE_STEPS = 50  # between a picture and its code
_INVERSION_EVALUATIONS = 4  # evaluations for the inverse of one step
_MAX_ERROR_FACTOR = 10.0  # largest factor by which one step may enlarge an error of the network


class Example(NamedTuple):
    """Training example of a denoising network.

    Args:
        x_t: noisy pictures.
        t: time of each picture, which sets its amount of noise.
        c: condition of the pictures, where it is not hidden.
        target: target of the network's output F.
    """

    x_t: Images
    t: Times
    c: Condition
    target: Images


class DenoisingModel(Attending, PromptToPrompt, Encodes):
    """Generator that denoises along a Gaussian path.

    A subclass sets `schedule` after it has called this constructor, and defines `parametrisation`
    and `draw_times`.

    Args:
        spec: specification of the images.
        network: F(x, label, c), with a picture-shaped output for each input.
        condition_dropout: probability that training hides the whole condition; guidance needs the
            unconditional model that this trains.
    """

    schedule: Schedule
    default_sampler: ClassVar[SamplerName]
    default_steps: ClassVar[int]
    learns_pictures: ClassVar[bool] = True
    """Whether `turns` learns from the pictures of the batch; some models that call it need this."""

    def __init__(self, spec: ImageSpec, network: nn.Module, condition_dropout: float) -> None:
        super().__init__()
        self.network = network
        self.condition_dropout = condition_dropout

    def formula(self) -> list[str]:
        """Return formulas of the noisy picture, the denoiser, and its network's prediction."""
        size = sum(p.numel() for p in self.network.parameters())
        target = (self.parametrisation.__doc__ or "").split(". ")[0].rstrip(".")
        return [
            f"x_t = alpha(t) x + sigma(t) eps,  (alpha, sigma) = {type(self.schedule).__name__}(t)",
            "D(x_t, t, c) = skip x_t + out F(inn x_t, t, c),  the mean of x given x_t and c",
            f"F = {type(self.network).__name__} of {size:,} parameters; {target}",
        ]

    @property
    @abstractmethod
    def parametrisation(self) -> Parametrisation:
        """Parametrisation of the network: what F predicts."""

    @property
    def needs_levels(self) -> bool:
        """Whether the loss needs pictures of discrete levels, as a bound on the likelihood does."""
        return False

    @abstractmethod
    def draw_times(self, noise: Noise) -> Times:
        """Draw a training time for each image, float64 "b"."""

    @property
    def size_unit(self) -> int:
        """Unit of a picture's sides for the U-Net; 0 (a fixed size) with conditioning pictures."""
        network = self.network
        if self.spec.hint is None and isinstance(network, UNet | PlainUNet):
            return network.size_unit
        return 0

    def draw_noise(self, batch: Batch, noise: Noise) -> Images:
        """Draw the noise that each picture is paired with in training: here independent noise."""
        return noise.normal(*self.spec.shape)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield one turn: the mean squared error of F at random times, which is logged by time."""
        e = self.example(batch, noise)
        error = (self.output(e.x_t, e.t, e.c).float() - e.target).square()
        yield Turn(self.mean_error(error, e.t), logs=errors_by_time(error.detach(), e.t))

    def mean_error(self, error: Images, t: Times) -> Float[Tensor, ""]:
        """Return the mean of squared errors of F, with the same weight at each time."""
        return error.mean()

    def example(self, batch: Batch, noise: Noise) -> Example:
        """Return the network's training example from a batch: noisy pictures and targets of F."""
        t = self.draw_times(noise)
        alpha, sigma = self.schedule(t)
        a, b = target_weights(alpha, sigma, self.parametrisation(alpha, sigma))
        x, eps = batch.x, self.draw_noise(batch, noise)
        x_t = per_image(alpha, x) * x + per_image(sigma, x) * eps
        target = per_image(a, x) * x + per_image(b, x) * eps
        return Example(x_t, t, batch.c, target)

    def output(self, x_t: Images, t: Times, c: Condition) -> Tensor:
        """Return the network's F(inn x_t, label(t), c), with a time for each picture."""
        inn = self.parametrisation(*self.schedule(t)).inn
        return self.network(per_image(inn, x_t) * x_t, self.schedule.label(t), c)

    def combine(self, F: Images, x_t: Images, t: Times) -> Images:
        """Return D = skip x_t + out F."""
        k = self.parametrisation(*self.schedule(t))
        return per_image(k.skip, x_t) * x_t + per_image(k.out, x_t) * F.to(x_t.dtype)

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """Return D(x_t, t, c), as a `Denoiser`; in a few papers also a variance."""
        return Estimate(self.combine(self.output(x_t, t.expand(len(x_t)), c), x_t, t))

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        scale: Scale = 1.0,
        clip: bool = True,
        **options: Unpack[WalkOptions],
    ) -> Iterator[Images]:
        """Yield the denoiser's estimate of the finished picture at every step, then the picture.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            scale: guidance scale: how closely pictures follow the prompt or class, at some cost of
                variety (classifier-free guidance): 1 is the conditional model, 0 the unconditional
                one.
            clip: keep estimates within the range of colours: clamp x_hat to [-1, 1] at each step.
            options: see `WalkOptions`.
        """
        plan = self.plan(scale=scale, clip=clip, **options)
        return plan.trajectory(self.first(noise), c, noise, preview)

    def first(self, noise: Noise) -> Images:
        """Draw the noise that sampling starts from."""
        return self.schedule.prior_deviation * noise.normal(*self.spec.shape)

    def plan(
        self,
        *,
        sampler: SamplerName | None = None,
        steps: int | None = None,
        spacing: Spacing | None = None,
        shift: float | None = None,
        scale: float = 1.0,
        interval: tuple[float, float] | None = None,
        rescale: float | None = None,
        guide: str | None = None,
        guide_scale: float | None = None,
        clip: bool = True,
        **of_sampler: Any,
    ) -> Plan:
        """Return the sampling plan for options of `frames`.

        Raises:
            LimnerError: an option that the sampler does not have; a guide for other data or with
                another schedule; or a schedule that no sampler can follow.
        """
        if interval is not None:
            check_interval("interval", interval)
        steps = steps or self.default_steps
        times = self.schedule.times(steps, spacing, shift)
        check_schedule(self.schedule, times, steps)
        walk = SAMPLERS.make(sampler or self.default_sampler, **of_sampler)
        D: Denoiser = self
        if guide is not None:
            D = Autoguided(D, self.guide_of(guide), 2.0 if guide_scale is None else guide_scale)
        elif guide_scale is not None:
            raise LimnerError("sampler.guide_scale needs a guide; give sampler.guide=RUN")
        D = D if scale == 1 else Guided(D, scale, interval, rescale or 0.0)
        return Plan(walk.for_steps(len(times) - 1), Clipped(D) if clip else D, times)

    def guide_of(self, name: str) -> "DenoisingModel":
        """Load the worse version of this model that serves as its guide.

        Raises:
            LimnerError: it is not a denoising model with the same data and schedule, or it is a
                student that contains one as its teacher.
        """
        if (Path(name) / AVERAGE_FILE).is_file():  # a state of this model's own training
            guide = earlier_weights(self, Path(name) / AVERAGE_FILE)
        else:
            model = load_guide(str(find_model(name)), str(self.device))
            if hasattr(model, "teacher") and not isinstance(model, DenoisingModel):
                raise LimnerError(
                    f"sampler.guide={name} is a student, and only its teacher could guide; "
                    "give a smaller run of this recipe, or an earlier state"
                )
            denoisers = (m for m in model.modules() if isinstance(m, DenoisingModel))
            _, height, width = self.spec.shape
            matches = (
                m for m in denoisers if replace(m.spec, height=height, width=width) == self.spec
            )
            guide = next(matches, None)
            if guide is None:
                raise LimnerError(
                    f"sampler.guide={name} holds no denoising model of the same data; give a "
                    "smaller run of this recipe, or an earlier state"
                )
            if model.spec.hint is not None and guide.spec.hint is None:
                raise LimnerError(
                    f"sampler.guide={name} needs conditioning pictures, and the denoiser inside it "
                    "takes none; give a run of its base"
                )
            guide = guide.at_size(height, width)
        times = self.schedule.times(8)
        own_levels, levels = (torch.stack(m.schedule(times)) for m in (self, guide))
        if not torch.allclose(own_levels, levels, atol=1e-6):
            raise LimnerError(
                f"sampler.guide={name} has another noise schedule; give one with the "
                "schedule of this model"
            )
        return guide

    def encode(self, x: Images, c: Condition = Condition()) -> Float[Tensor, "b d"]:
        """Return the noise that the probability flow carries to each picture, by DDIM inversion.

        Each step from x_t to x_s, s < t, is solved for x_t with fixed-point iteration, so that
        `decode` takes the same steps back, except for its last step to the clean picture. Song,
        Meng, Ermon (2020), arXiv:2010.02502, section 4.3.
        """
        times = self._code_times().flip(0)[1:]
        alpha, sigma = (level.tolist() for level in self.schedule(times))
        x_s = alpha[0] * x
        for i, t in enumerate(times[1:], start=1):
            x_s = self._before(x_s, t, (alpha[i - 1], sigma[i - 1]), (alpha[i], sigma[i]), c)
        return (x_s / self.schedule.prior_deviation).flatten(1)

    def _before(
        self,
        x_s: Images,
        t: Times,
        levels_s: tuple[float, float],
        levels_t: tuple[float, float],
        c: Condition,
    ) -> Images:
        """Return the x_t from which DDIM's step leads to x_s.

        It is the fixed point of two iterations. x_t = (x_s - a x_hat) / k, k = sigma_s / sigma_t,
        contracts where k is near 1. x_t = x_s alpha_t / alpha_s + b eps_hat contracts where there
        is so little noise that x_hat follows x_t.
        """
        (alpha_s, sigma_s), (alpha_t, sigma_t) = levels_s, levels_t
        k, x_t = sigma_s / sigma_t, x_s
        for _ in range(_INVERSION_EVALUATIONS):
            x_hat = self(x_t, t, c).x_hat
            if k > 0.5:
                x_t = (x_s - (alpha_s - k * alpha_t) * x_hat) / k
            else:
                eps_hat, ratio = (x_t - alpha_t * x_hat) / sigma_t, alpha_t / alpha_s
                x_t = ratio * x_s + (sigma_t - sigma_s * ratio) * eps_hat
        return x_t

    def decode(self, z: Float[Tensor, "b d"], c: Condition = Condition()) -> Images:
        """Return the picture that the probability flow carries noise to, with DDIM's steps."""
        x = self.schedule.prior_deviation * z.unflatten(1, self.spec.shape)
        plan = Plan(Euler(), self, self._code_times())
        return plan.end(x, c, Noise.sampling(0, len(x)))

    def _code_times(self) -> Times:
        """Return the times between a picture and its code, with the least trained noise.

        Times with so much noise that a step would enlarge the network's errors are left out: where
        noise is predicted and alpha is near 0, x_hat = (x_t - sigma eps) / alpha. The last step
        always stays.
        """
        times, min_time = self.schedule.code_times(_CODE_STEPS), self.schedule.ends[:1]
        times = torch.cat([times[:-1][times[:-1] > min_time], min_time, times[-1:]])
        alpha, sigma = self.schedule(times)
        weight = alpha[1:] - sigma[1:] / sigma[:-1] * alpha[:-1]
        is_enlarged = (
            self.parametrisation(alpha, sigma).out[:-1] * weight
        ).abs() > _MAX_ERROR_FACTOR
        return times[min(int(is_enlarged.long().cumprod(0).sum()), len(times) - 2) :]

    def traverse(self, *args: Any, **kwargs: Any) -> Any:
        """Refused.

        Raises:
            LimnerError: always; a code is noise, and its single numbers have no meaning.
        """
        raise LimnerError(
            f"codes of {self.name} models are noise, and their single numbers have no meaning; "
            "give two pictures to go from one to the other"
        )

    def frame_count(self, **options: Any) -> int:
        """Return the number of frames: one for each step, and the picture."""
        return (options.get("steps") or self.default_steps) + 1


def errors_by_time(error: Images, t: Times) -> dict[str, Tensor]:
    """Return the mean squared error of each quarter of a batch, from the least noise to the most.

    With fewer than four pictures there is none.
    """
    if len(t) < 4:
        return {}
    quarters = error.flatten(1).mean(1)[t.argsort()].tensor_split(4)
    return {f"error_{i}_of_4": quarter.mean() for i, quarter in enumerate(quarters, start=1)}


def load_guide(path: str, device: str) -> Learner:
    """Load a model that guides another one; it is cached until its file changes."""
    file = model_file(path)
    return _load_guide(path, device, file.stat().st_mtime_ns if file.is_file() else 0)


@lru_cache(maxsize=2)
def _load_guide(path: str, device: str, changed: int) -> Learner:
    return load(path, device).eval()


def earlier_weights(model: DenoisingModel, average: Path) -> DenoisingModel:
    """Return a copy of a model with the averaged weights of an earlier training state.

    It is cached until the file changes or the model moves to another device. The state may also be
    one of a larger model that this model is a part of.

    Raises:
        LimnerError: the state is of another model.
    """
    return _earlier_weights(model, average, str(model.device), average.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _earlier_weights(
    model: DenoisingModel, average: Path, device: str, changed: int
) -> DenoisingModel:
    earlier = copy.deepcopy(model).eval()
    weights, names = load_tensors(average), dict(earlier.named_parameters())
    first = next(iter(names))
    prefix = next((k.removesuffix(first) for k in weights if k.endswith(f".{first}")), "")
    weights = with_current_names({k.removeprefix(prefix): v for k, v in weights.items()}, names)
    state = earlier.state_dict()
    if odd := [k for k, v in weights.items() if k not in state or state[k].shape != v.shape]:
        raise LimnerError(f"{average.parent} is a state of another model: weight '{odd[0]}'")
    earlier.load_state_dict(weights, strict=False)
    return earlier.to(device)
