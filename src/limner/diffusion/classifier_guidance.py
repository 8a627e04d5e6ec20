"""Classifier guidance: a classifier of noisy pictures guides a diffusion model.

Dhariwal, Nichol (2021). Diffusion models beat GANs on image synthesis. arXiv:2105.05233.

    grad log p(x_t | y) = grad log p(x_t) + s grad log p(y | x_t)

The classifier is trained on x_t at the times, and with the noise, of a diffusion model of the same
data, which is frozen. It then moves the mean of each ancestral step by s Sigma grad log p(y | x_t)
(algorithm 1); for all other samplers it changes the predicted noise (algorithm 2), which gives

    x_hat + s sigma_t^2 / alpha_t grad log p(y | x_t).

Kept: both algorithms, the half U-Net of section 4.1. Different: features are averaged over places
before the last layer; by default the base paints without its own condition.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel, Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, Natural, Rate, Widths
from limner.contract.registry import Paper, register
from limner.diffusion.denoising_model import DenoisingModel
from limner.diffusion.sampling import Plan, Repaints, Scale, WalkOptions
from limner.maths.denoisers import Clipped, DenoiserWrapper, Estimate, per_image
from limner.maths.samplers.ancestral import Ancestral, GuidedAncestral
from limner.maths.schedules import Times
from limner.nn.unet import HalfUNet

_MAX_NOISE_RATIO = 1000  # sigma / alpha above which a picture is only noise


@dataclass(frozen=True)
class Classified(DenoiserWrapper):
    """Denoiser whose x_hat is moved by scale sigma^2 / alpha g, which adds scale g to the score.

    Where almost nothing of the picture is left, alpha < sigma / 1,000, as at the first time of flow
    matching, x_hat is not moved: g of Bayes' rule goes to 0 with alpha, but a network's g does not.

    Args:
        gradient: g(x_t, t, c), the gradient of log p(y | x_t).
        scale: s of the paper.
    """

    gradient: Callable[[Images, Times, Condition], Images]
    scale: float

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """Return the moved x_hat."""
        x_hat, v = self.denoiser(x_t, t, c)
        alpha, sigma = self.schedule(t)
        factor = (sigma**2 / alpha).where(alpha >= sigma / _MAX_NOISE_RATIO, 0.0)
        g = self.gradient(x_t, t, c)
        return Estimate(x_hat + self.scale * per_image(factor, x_t) * g, v)


@dataclass(frozen=True)
class Unconditional(DenoiserWrapper):
    """Unconditional denoiser D(x_t, t, null), which ignores the condition."""

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """Return the unconditional estimate."""
        return self.denoiser(x_t, t, c.null())


@dataclass(frozen=True)
class Gradient:
    """Gradient grad_x log p(y | x_t) for the label y of a condition; 0 where there is none.

    Args:
        log_probs: function of pictures and times that returns log p(y | x_t) of all y, "b y".
    """

    log_probs: Callable[[Images, Times], Tensor]

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Images:
        """Return the gradient for each picture separately."""
        if c.label is None:
            return torch.zeros_like(x_t)
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            log_p = self.log_probs(x, t.expand(len(x)))
            label = c.label.clamp(min=0)[:, None]
            log_p_label = log_p.gather(1, label)[:, 0] * (c.label >= 0)
            (g,) = torch.autograd.grad(log_p_label.sum(), x)
        return g


@register(
    "classifier",
    family="diffusion",
    paper=Paper(
        "Diffusion models beat GANs on image synthesis", "Dhariwal, Nichol", 2021, "2105.05233"
    ),
    tiny={"base": {"model": "ddpm"}, "channels": (8, 16)},
    train={"lr": 3e-4, "weight_decay": 0.05, "batch": 128},
)
class Classifier(Repaints):
    """Classifier guidance: a classifier of noisy pictures guides a trained diffusion model.

    Args:
        spec: specification of the images; they must have labels.
        base: a trained diffusion model of the same data; as in train.init.base="runs/NAME".
        channels, blocks, attention, patch, dropout: options of the classifier, see `HalfUNet`.
    """

    takes = ("labels",)
    condition = "required"

    def __init__(
        self,
        spec: ImageSpec,
        base: GenerativeModel,
        channels: Widths = (64, 128),
        blocks: Count = 1,
        attention: Natural = 1,
        patch: Count = 2,
        dropout: Rate = 0.1,
    ) -> None:
        super().__init__()
        if not spec.labels:
            raise LimnerError(
                "a classifier needs data with labels; give data.label, or a folder for each class"
            )
        if not isinstance(base, DenoisingModel):
            raise LimnerError(
                f"a classifier guides diffusion models, not {base.name}; give another base"
            )
        if base.spec.shape != spec.shape:
            base_shape, shape = (" x ".join(map(str, s.shape)) for s in (base.spec, spec))
            raise LimnerError(
                f"the base paints {base_shape} pictures, and the data have {shape}; give "
                f"{base.spec.shape_options}"
            )
        self.base = base
        out = len(spec.labels)
        self.network = HalfUNet(spec, channels, blocks, attention, patch, dropout, out)

    def formula(self) -> list[str]:
        """Return formulas of the guidance, the classifier and the base."""
        size, frozen = (
            sum(p.numel() for p in part.parameters()) for part in (self.network, self.base)
        )
        return [
            "grad log p(x_t | y) = grad log p(x_t) + s grad log p(y | x_t)",
            f"p(y | x_t) = softmax(F(x_t, t)),  {len(self.spec.labels)} classes,  F of {size:,}",
            f"p(x_t) of a frozen {self.base.name}: {frozen:,} parameters",
        ]

    def players(self) -> dict[str, nn.Module]:
        """Return the classifier as the only player; the base is frozen."""
        return {"classifier": self.network}

    def log_probs(self, x_t: Images, t: Times) -> Float[Tensor, "b y"]:
        """Return log p(y | x_t) of every class, with a time for each picture."""
        alpha, sigma = self.base.schedule(t)
        inn = self.base.parametrisation(alpha, sigma).inn
        out = self.network(per_image(inn, x_t) * x_t, self.base.schedule.label(t))
        return out.float().log_softmax(1)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield one turn: the cross-entropy of the labels, at the base's times."""
        assert batch.c.label is not None
        t = self.base.draw_times(noise)
        alpha, sigma = self.base.schedule(t)
        eps = noise.normal(*self.spec.shape)
        x_t = per_image(alpha, batch.x) * batch.x + per_image(sigma, batch.x) * eps
        log_p = self.log_probs(x_t, t)
        accuracy = (log_p.argmax(1) == batch.c.label).float().mean()
        yield Turn(F.nll_loss(log_p, batch.c.label), "classifier", {"accuracy": accuracy})

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        scale: Annotated[float, Field(ge=0, le=1000)] = 1.0,
        base_scale: Scale = 0.0,
        clip: bool = True,
        **options: Unpack[WalkOptions],
    ) -> Iterator[Images]:
        """Yield the guided denoiser's estimate of the picture at every step, then the picture.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            scale: how strongly the classifier guides, with its gradient; 0 paints without it.
            base_scale: scale of the base's own classifier-free guidance; at 0 only the classifier
                guides.
            clip: keep estimates within the range of colours: clamp x_hat to [-1, 1] at each step.
            options: options of the base, see `WalkOptions`; interval and rescale belong to the
                base's own guidance, and have no effect where base_scale is 0 or 1.
        """
        plan = self.plan(scale=scale, base_scale=base_scale, clip=clip, **options)
        yield from plan.trajectory(self.first(noise), c, noise, preview)

    def first(self, noise: Noise) -> Images:
        """Draw the noise that sampling starts from."""
        return self.base.first(noise)

    def plan(self, *, scale: float, base_scale: float, clip: bool, **of_base: Any) -> Plan:
        """Return the base's plan with guidance, in ancestral steps, or else in the denoiser.

        Raises:
            LimnerError: the classifier would have no effect, because there are too few steps.
        """
        plan = self.base.plan(scale=base_scale or 1.0, clip=False, **of_base)
        sampler, gradient = plan.sampler, Gradient(self.log_probs)
        D = plan.D if base_scale else Unconditional(plan.D)
        is_ancestral = type(sampler) is Ancestral  # one that inherits from it may step otherwise
        # the last ancestral step has no variance, so guidance cannot move it
        times = plan.times[: -2 if is_ancestral else -1]
        alpha, sigma = self.base.schedule(times)
        if scale and not bool((alpha >= sigma / _MAX_NOISE_RATIO).any()):
            raise LimnerError(
                f"sampler.steps={len(plan.times) - 1}: the classifier would see only noise, and "
                "the label would change nothing; give sampler.steps=4 or more"
            )
        if is_ancestral:
            sampler = GuidedAncestral(sampler.variance, gradient, scale)
        else:
            D = Classified(D, gradient, scale)
        return Plan(sampler, Clipped(D) if clip else D, plan.times)

    def frame_count(self, **options: Any) -> int:
        """Return the number of frames of the base."""
        return self.base.frame_count(steps=options.get("steps"))
