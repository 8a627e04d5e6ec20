"""DMD2: a one-step generator, trained with a model of its pictures, a critic and a frozen teacher.

Yin, Gharbi, Park, Zhang, Shechtman, Durand, Freeman (2024). Improved distribution matching
distillation for fast image synthesis. arXiv:2405.14867.

A generator x = G(eps) is trained to have the distribution p of its teacher. Under noise, x_t =
alpha x + sigma eps', the gradient of KL(q_t, p_t) in x is given by the difference of two scores
(equation 2; DMD, Yin et al. 2023, arXiv:2311.18828, equations 7 and 8). The score of the generated
pictures is not known, so a second denoiser learns it during training.

    generator    descends  (D_score(x_t, t) - D_teacher(x_t, t)) / mean |x - D_teacher(x_t, t)|,
                 and lowers weight E softplus(-s(x_t, t))
    score        lowers    the teacher's own training loss, on generated pictures
    critic       lowers    E softplus(-s(y_t, t)) + E softplus(s(x_t, t)),   y real pictures

The critic, which learns from real pictures, lets the generator surpass its teacher (section 4.3).

Kept: no pairs of noise and picture; two time scales, so that the generator has a turn only at
every fifth step (section 4.2); all three see noisy pictures; generator and score start from the
teacher's weights; the teacher is guided. Different: the critic is a separate network, not a branch
of the score, and does not see the condition; there is only one step; times are drawn as in the
teacher's training.
"""

import copy
from collections.abc import Iterator
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel, Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, Natural, NonNegative, Share, Widths
from limner.contract.registry import Paper, register
from limner.diffusion.teachers import (
    check_first_time,
    check_learns_pictures,
    checked_teacher,
    student_network,
)
from limner.maths.denoisers import Denoiser, Guided, per_image
from limner.maths.schedules import Times
from limner.nn.unet import HalfUNet
from limner.nn.weight_average import without_dropout


@register(
    "dmd2",
    family="diffusion",
    paper=Paper(
        "Improved distribution matching distillation for fast image synthesis",
        "Yin, Gharbi, Park, Zhang, Shechtman, Durand, Freeman",
        2024,
        "2405.14867",
    ),
    tiny={
        "teacher": {"model": "flow-matching", "options": {"channels": (8,), "attention": 0}},
        "channels": (8,),
        "every": 2,
    },
    train={"lr": 1e-4, "betas": (0.9, 0.999), "clip": 10.0},
)
class DMD2(GenerativeModel):
    """DMD2: a teacher's pictures in one step, by matching distributions and by a critic.

    Args:
        spec: specification of the images.
        teacher: a trained denoising model of the same data; as in train.init.teacher="runs/NAME".
        scale: guidance scale of the teacher.
        every: number of steps of score and critic for one step of the generator.
        weight: weight of the critic in the generator's loss; 0 matches distributions only.
        channels: channels of the critic, a half of a `UNet`.
        rank: rank of the changes to the teacher's weights that generator and score learn; 0 for
            whole networks.
        condition_dropout: probability that training hides the condition.

    Raises:
        LimnerError: the teacher is not a denoising model of the same data; its x_hat divides by
            almost 0 where sampling starts, as where noise is predicted; or it does not learn from
            pictures.
    """

    def __init__(
        self,
        spec: ImageSpec,
        teacher: GenerativeModel,
        scale: Annotated[float, Field(ge=0, le=100)] = 1.0,
        every: Count = 5,
        weight: NonNegative = 0.01,
        channels: Widths = (32, 64),
        rank: Natural = 0,
        condition_dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        teacher = checked_teacher(spec, teacher, spans=True)
        check_learns_pictures(teacher)
        self.schedule = teacher.schedule
        check_first_time(teacher, self.first_time)
        if rank and teacher.memory():
            raise LimnerError(
                f"{teacher.name} models learn from an average of their own weights, which a "
                "low-rank change does not have; give model.rank=0"
            )
        self.teacher = teacher
        self.generator, self.score = copy.deepcopy(teacher), copy.deepcopy(teacher)
        for student in (self.generator, self.score):
            student.network = student_network(teacher, rank)
        unit = 2 ** len(channels)  # of sides that fit patches of 2 x 2 and the critic's halvings
        patch = 1 if spec.height % unit or spec.width % unit else 2
        self.critic = HalfUNet(spec, channels, 1, 0, patch, 0.0, 1)
        self.scale, self.every, self.weight = scale, every, weight
        self.couples_batch = teacher.couples_batch
        self.condition_dropout = condition_dropout

    def players(self) -> dict[str, nn.Module]:
        """Return score, critic, and generator, whose turn is last; the teacher is frozen."""
        return {
            "score": self.score.network,
            "critic": self.critic,
            "generator": self.generator.network,
        }

    def formula(self) -> list[str]:
        """Return the losses of generator, score and critic."""
        return [
            "generator:  (D_score(x_t, t) - D_teacher(x_t, t)) x / mean |x - D_teacher(x_t, t)|"
            f" + {self.weight:g} E softplus(-s(x_t, t)),  x = G(eps)",
            "score:      the teacher's loss, on x",
            "critic:     E softplus(-s(y_t, t)) + E softplus(s(x_t, t)),  y real",
        ]

    @property
    def first_time(self) -> Times:
        """Time of pure noise, where sampling starts."""
        return self.schedule.times(1)[0]

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield turns of score and critic, and at every `every`-th step one of the generator."""
        y, c = batch
        with torch.no_grad():
            x = self.paint(noise, c)
        (turn,) = self.score.turns(Batch(x, c), step, noise)
        yield Turn(turn.loss, of="score")
        t = self.teacher.draw_times(noise)
        on_real, on_fake = (self.critic_scores(images, t, noise) for images in (y, x))
        loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        logs = {
            "D(real)": on_real.detach().sigmoid().mean(),
            "D(fake)": on_fake.detach().sigmoid().mean(),
        }
        yield Turn(loss, of="critic", logs=logs)
        if step % self.every == 0:
            x = self.paint(noise, c)
            t = self.teacher.draw_times(noise)
            gradient = self.gradient(x.detach(), t, c, noise)
            matching = (x * gradient).flatten(1).mean(1).mean()
            loss = matching
            if self.weight:
                loss = loss + self.weight * F.softplus(-self.critic_scores(x, t, noise)).mean()
            yield Turn(loss, of="generator", logs={"matching": gradient.square().mean().sqrt()})

    def paint(self, noise: Noise, c: Condition) -> Images:
        """Return G(eps), in float32."""
        eps = self.schedule.prior_deviation * noise.normal(*self.spec.shape)
        return self.generator(eps, self.first_time.to(eps.device), c).x_hat.float()

    @torch.no_grad()
    def gradient(self, x: Images, t: Times, c: Condition, noise: Noise) -> Images:
        """Return the gradient for generated pictures: score's minus teacher's x_hat, normalised."""
        alpha, sigma = self.schedule(t)
        x_t = per_image(alpha, x) * x + per_image(sigma, x) * noise.normal(*self.spec.shape)
        real: Denoiser = self.teacher if self.scale == 1 else Guided(self.teacher, self.scale)
        with without_dropout(self.score.network):
            x_real, x_fake = real(x_t, t, c).x_hat, self.score(x_t, t, c).x_hat
        size = (x - x_real).abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-3)
        return (x_fake - x_real).to(x) / size

    def critic_scores(self, x: Images, t: Times, noise: Noise) -> Float[Tensor, "b"]:
        """Return the critic's scores of pictures, to which noise is added."""
        alpha, sigma = self.schedule(t)
        x_t = per_image(alpha, x) * x + per_image(sigma, x) * noise.normal(*self.spec.shape)
        inn = self.teacher.parametrisation(alpha, sigma).inn
        return self.critic(per_image(inn, x) * x_t, self.schedule.label(t))[:, 0].float()

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        """Yield the pictures, generated in one step.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.

        Raises:
            LimnerError: the condition has a negative prompt.
        """
        if c.avoid is not None:
            raise LimnerError(
                "this model was distilled at a fixed guidance scale, so --negative has no effect; "
                "leave it out"
            )
        yield self.paint(noise, c)
