"""Progressive distillation: a student takes in one step what its teacher takes in several.

Salimans, Ho (2022). Progressive distillation for fast sampling of diffusion models.
arXiv:2202.00512. Meng, Rombach, Gao, Kingma, Ermon, Ho, Salimans (2022). On distillation of guided
diffusion models. arXiv:2210.03142.

From x_t, at one of the student's few times, the teacher walks to x_s, s being the next one. The
student's step is DDIM's, so the picture to see at t is the one with which that step leads there
(algorithm 2 of the first paper):

    x~ = (x_s - k x_t) / (alpha_s - k alpha_t),    k = sigma_s / sigma_t,
    L  = max(alpha_t^2 / sigma_t^2, 1) ||x_hat(x_t, t, c) - x~||^2.

The teacher is guided (the second paper), so that the student paints what guidance would, without a
second evaluation of the network.

Kept: the target, the truncated weight of the loss, noise added to real pictures as the place to
start from, the teacher's weights as the student's first ones. Different: there is one round, from
the teacher's many steps to the student's few, in place of one for each halving; the guidance scale
is fixed; the teacher may walk with any sampler that draws no noise, for of random ends a student
would learn the mean, one picture for all seeds; of the weights a change of low rank is learnt (Hu
et al. (2021), arXiv:2106.09685), so that teacher and student are little more to store than one of
them.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from limner.contract.abilities import Latents
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel, Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, Share
from limner.contract.registry import Paper, register
from limner.diffusion.attention_maps import Attending
from limner.diffusion.denoising_model import DenoisingModel
from limner.diffusion.frozen_base import denoiser_of
from limner.diffusion.latent_diffusion import LatentDiffusion
from limner.diffusion.prompt_to_prompt import PromptToPrompt
from limner.diffusion.sampling import Plan
from limner.diffusion.teachers import check_first_time, checked_teacher
from limner.maths.denoisers import Clipped, Denoiser, Estimate, Guided, per_image
from limner.maths.samplers import SAMPLERS
from limner.maths.schedules import Times
from limner.nn.low_rank import LowRank

Walk = Literal["ddim", "euler", "heun", "dpm++", "unipc"]
"""The samplers that draw no noise."""


@register(
    "distilled",
    family="diffusion",
    paper=Paper(
        "Progressive distillation for fast sampling of diffusion models",
        "Salimans, Ho",
        2022,
        "2202.00512",
    ),
    tiny={"teacher": {"model": "flow-matching", "options": {"channels": (8, 16)}}, "steps": 2},
    train={"lr": 1e-3, "betas": (0.9, 0.99), "clip": 1.0, "ema": 0.99},
)
class Distilled(Attending, PromptToPrompt):
    """Progressive distillation: paint in a few steps, without guidance, what a teacher paints.

    Args:
        spec: specification of the images.
        teacher: a trained model of the same data that denoises, pictures or maps; as in
            train.init.teacher="runs/NAME".
        steps: in how many steps to paint.
        substeps: how many of the teacher's steps one of them stands for.
        sampler: how the teacher takes them, without drawing noise.
        scale: the teacher's guidance.
        rank: of the change to each of the teacher's weights.
        condition_dropout: probability that training hides the condition.

    Raises:
        LimnerError: the teacher is no denoising model of the same data, or one whose x_hat divides
            by next to nothing at the first time, as where noise is predicted (section 4).
    """

    loss_compares = False  # each step of training is at another of its times

    def __init__(
        self,
        spec: ImageSpec,
        teacher: GenerativeModel,
        steps: Annotated[int, Field(ge=1, le=64)] = 4,
        substeps: Annotated[int, Field(ge=1, le=256)] = 4,
        sampler: Walk = "dpm++",
        scale: Annotated[float, Field(ge=0, le=100)] = 1.0,
        rank: Count = 16,
        condition_dropout: Share = 0.05,
    ) -> None:
        super().__init__()
        self.in_maps = isinstance(teacher, LatentDiffusion)
        if isinstance(teacher, LatentDiffusion):
            checked_teacher(teacher.denoiser.spec, teacher.denoiser)
            if teacher.spec != spec:
                raise LimnerError("the teacher was trained on other data; give the same [data]")
            self.teacher = teacher
        else:
            self.teacher = checked_teacher(spec, teacher)
        own = self.denoiser
        self.schedule = own.schedule
        self.change = LowRank(own.network, rank)
        self.steps, self.substeps = steps, substeps
        self.sampler: Walk = sampler
        self.scale = scale
        self.condition_dropout = condition_dropout
        check_first_time(own, self._all_times[0])

    def formula(self) -> list[str]:
        """What the student is to see, and how it differs from its teacher."""
        size = sum(p.numel() for p in self.change.parameters())
        return [
            f"min E w(t) |x_hat(x_t, t, c) - x~|^2,  t of {self.steps} steps",
            f"x~: DDIM's step to it is {self.substeps} steps of the teacher, guided at "
            f"{self.scale:g}",
            f"x_hat of {self.teacher.name} whose weights change by A B, {size:,} parameters",
        ]

    def players(self) -> dict[str, nn.Module]:
        """The change of the weights; the teacher is frozen."""
        return {"student": self.change}

    @property
    def denoiser(self) -> DenoisingModel:
        """The teacher, or the one among its maps."""
        return denoiser_of(self.teacher)

    def _bounded(self, D: Denoiser) -> Denoiser:
        """The denoiser, clipped where it sees pictures; maps have no range."""
        return D if self.in_maps else Clipped(D)

    def to_latent(
        self, image: Images, mask: Float[Tensor, "b 1 h w"] | None, noise: Noise
    ) -> tuple[Latents, Tensor | None]:
        """What the teacher denoises, pictures or their maps: `Repaints`."""
        return self.teacher.to_latent(image, mask, noise)

    def to_image(
        self, x: Latents, image: Images | None = None, mask: Float[Tensor, "b 1 h w"] | None = None
    ) -> Images:
        """The pictures of that: `Repaints`."""
        return self.teacher.to_image(x, image, mask)

    @property
    def _all_times(self) -> Times:
        """The teacher's; the student's are each `substeps`-th of them."""
        return self.schedule.times(self.steps * self.substeps)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """One move: what the teacher reaches from one of the student's times, the same for the
        whole batch and the next one in the next step.
        """
        first = step % self.steps * self.substeps
        times = self._all_times[first : first + self.substeps + 1]
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (
            map(float, self.schedule(times[end])) for end in (0, -1)
        )
        c = batch.c
        D = self._bounded(Guided(self.denoiser, self.scale))
        with torch.no_grad():
            x, _ = self.to_latent(batch.x, None, noise)
            x_t = alpha_t * x + sigma_t * noise.normal(*self.denoiser.spec.shape)
            x_s = Plan(SAMPLERS[self.sampler], D, times).end(x_t, c, noise)
        k = sigma_s / sigma_t
        target = (x_s - k * x_t) / (alpha_s - k * alpha_t)
        error = (self(x_t, times[0], c).x_hat - target).square().mean()
        yield Turn(max((alpha_t / sigma_t) ** 2, 1.0) * error)

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """The student's denoiser; the model is one.

        Raises:
            LimnerError: there is something to avoid.
        """
        if c.avoid is not None:
            raise LimnerError(
                "this model was distilled at a fixed guidance scale, so --negative has no effect; "
                "leave it out"
            )
        t = t.expand(len(x_t))
        inn = self.denoiser.parametrisation(*self.schedule(t)).inn
        label = self.schedule.label(t)
        F = self.change(self.denoiser.network, per_image(inn, x_t) * x_t, label, c)
        own = F[:, : self.denoiser.spec.channels]  # the rest tells variances
        return Estimate(self.denoiser.denoised(own, x_t, t))

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
    ) -> Iterator[Images]:
        """Yield the student's view of the finished picture at every step, then the picture.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
        """
        yield from map(self.to_image, self.plan().walked(self.first(noise), c, noise, preview))

    def first(self, noise: Noise) -> Images:
        """The noise that a walk begins with."""
        return self.teacher.first(noise)

    def plan(self, **options: Any) -> Plan:
        """The student's own few steps; there is nothing to choose."""
        return Plan(SAMPLERS["ddim"], self._bounded(self), self._all_times[:: self.substeps])

    def frame_count(self, **options: Any) -> int:
        """One for each step, and the picture."""
        return self.steps + 1
