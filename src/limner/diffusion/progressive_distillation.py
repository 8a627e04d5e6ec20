"""Progressive distillation: one step of a student replaces several steps of its teacher.

Salimans, Ho (2022). Progressive distillation for fast sampling of diffusion models.
arXiv:2202.00512. Meng, Rombach, Gao, Kingma, Ermon, Ho, Salimans (2022). On distillation of guided
diffusion models. arXiv:2210.03142.

From x_t, at one of the student's few times, the teacher steps to x_s, at the student's next time.
The student's step is DDIM's, so its target at t is the picture with which that step leads to x_s
(algorithm 2 of the first paper):

    x~ = (x_s - k x_t) / (alpha_s - k alpha_t),    k = sigma_s / sigma_t,
    L  = max(alpha_t^2 / sigma_t^2, 1) ||x_hat(x_t, t, c) - x~||^2.

The teacher is guided (the second paper), so that the student gives guided pictures without a second
evaluation of the network.

Kept: the target, the truncated weight of the loss, noisy real pictures to start from, the teacher's
weights as the student's initial ones. Different: there is one round, from the teacher's many steps
to the student's few, instead of one for each halving; the guidance scale is fixed. The teacher may
use any sampler that draws no noise; with random ends a student would learn the mean, one picture
for all seeds. Only a low-rank change of the weights is trained (Hu et al. (2021),
arXiv:2106.09685), so that teacher and student together take little more space than one of them.
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
from limner.maths.samplers.ddim import DDIM
from limner.maths.samplers.sampler import SAMPLERS
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
        teacher: a trained model of the same data that denoises pictures or the maps of latent
            diffusion; as in train.init.teacher="runs/NAME".
        steps: number of the student's steps.
        substeps: number of the teacher's steps that one step of the student replaces.
        sampler: the teacher's sampler, one that draws no noise.
        scale: guidance scale of the teacher.
        rank: rank of the change to each of the teacher's weights.
        condition_dropout: probability that training hides the condition.

    Raises:
        LimnerError: the teacher is not a denoising model of the same data; or its x_hat divides by
            almost 0 at the first time, as where noise is predicted (section 4).
    """

    loss_compares = False  # consecutive training steps are at different times

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
        denoiser = self.denoiser
        self.schedule = denoiser.schedule
        self.change = LowRank(denoiser.network, rank)
        self.steps, self.substeps = steps, substeps
        self.sampler: Walk = sampler
        self.scale = scale
        self.condition_dropout = condition_dropout
        check_first_time(denoiser, self._all_times[0])

    def formula(self) -> list[str]:
        """Return formulas of the student's target, and of its difference from the teacher."""
        size = sum(p.numel() for p in self.change.parameters())
        return [
            f"min E w(t) |x_hat(x_t, t, c) - x~|^2,  t of {self.steps} steps",
            f"x~: DDIM's step to it is {self.substeps} steps of the teacher, guided at "
            f"{self.scale:g}",
            f"x_hat of {self.teacher.name} with weights changed by A B, {size:,} parameters",
        ]

    def players(self) -> dict[str, nn.Module]:
        """Return the change of the weights as the only player; the teacher is frozen."""
        return {"student": self.change}

    @property
    def denoiser(self) -> DenoisingModel:
        """The teacher, or the denoiser within it if the teacher is latent diffusion."""
        return denoiser_of(self.teacher)

    def _clip(self, D: Denoiser) -> Denoiser:
        """Clip a denoiser of pictures; maps of latent diffusion have no fixed range."""
        return D if self.in_maps else Clipped(D)

    def to_latent(
        self, image: Images, mask: Float[Tensor, "b 1 h w"] | None, noise: Noise
    ) -> tuple[Latents, Tensor | None]:
        """Map pictures to what the teacher denoises, pictures or latent maps: `Repaints`."""
        return self.teacher.to_latent(image, mask, noise)

    def to_image(
        self, x: Latents, image: Images | None = None, mask: Float[Tensor, "b 1 h w"] | None = None
    ) -> Images:
        """Invert `to_latent`: `Repaints`."""
        return self.teacher.to_image(x, image, mask)

    @property
    def _all_times(self) -> Times:
        """The teacher's times; every `substeps`-th of them is one of the student's."""
        return self.schedule.times(self.steps * self.substeps)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield one turn: the error of the student's step from one of its times.

        The time is the same for the whole batch; the next training step uses the next time.
        """
        first = step % self.steps * self.substeps
        times = self._all_times[first : first + self.substeps + 1]
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (
            map(float, self.schedule(times[end])) for end in (0, -1)
        )
        c = batch.c
        D = self._clip(Guided(self.denoiser, self.scale))
        with torch.no_grad():
            x, _ = self.to_latent(batch.x, None, noise)
            x_t = alpha_t * x + sigma_t * noise.normal(*self.denoiser.spec.shape)
            x_s = Plan(SAMPLERS.make(self.sampler), D, times).end(x_t, c, noise)
        k = sigma_s / sigma_t
        target = (x_s - k * x_t) / (alpha_s - k * alpha_t)
        error = (self(x_t, times[0], c).x_hat - target).square().mean()
        yield Turn(max((alpha_t / sigma_t) ** 2, 1.0) * error)

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """Return the student's estimate, as a `Denoiser`.

        Raises:
            LimnerError: the condition has a negative prompt.
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
        output = F[:, : self.denoiser.spec.channels]  # the rest are variances
        return Estimate(self.denoiser.combine(output, x_t, t))

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
    ) -> Iterator[Images]:
        """Yield the student's estimate of the finished picture at every step, then the picture.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
        """
        yield from map(self.to_image, self.plan().trajectory(self.first(noise), c, noise, preview))

    def first(self, noise: Noise) -> Images:
        """Draw the noise that sampling starts from."""
        return self.teacher.first(noise)

    def plan(self, **options: Any) -> Plan:
        """Return the plan of the student's own few steps, which has no options."""
        return Plan(DDIM(), self._clip(self), self._all_times[:: self.substeps])

    def frame_count(self, **options: Any) -> int:
        """Return the number of frames: one for each step, and the picture."""
        return self.steps + 1
