"""Reflow: a flow along straighter lines, trained on pairs that another flow makes.

Liu, Gong, Liu (2022). Flow straight and fast: learning to generate and transfer data with rectified
flow. arXiv:2209.03003.

A flow that was trained on pictures with independent noise is curved where paths cross. But it
carries each noise eps to one picture x. Trained on these pairs, the next flow has no larger
transport cost, for any convex cost (theorem 3.5), and the straightest of K flows in a row has an S
of at most E ||x - eps||^2 / K (theorem 3.7):

    x = teacher(eps),   x_t = (1 - t) x + t eps,   L = E ||(eps - x) - F(x_t, t)||^2.

S measures how straight a flow is, along its own paths z_t from z_1 = eps to z_0:

    S = E int_0^1 ||(z_1 - z_0) - F(z_t, t)||^2 dt.

It is 0 where every path is a line; then one Euler step is enough. With only t = 1, the loss is that
of distillation: F learns the whole step.

Kept: the loss, t uniform, the teacher's weights as the initial ones. Different: time runs from
picture to noise, as in the rest of the library; pairs are made anew for each batch, instead of
millions of stored pairs; the distance of distillation is squared, not a perceptual one. A reflowed
model can be reflowed again, and then distilled.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel, Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, Natural, Share
from limner.contract.registry import Paper, register
from limner.diffusion.denoising_model import DenoisingModel
from limner.diffusion.sampling import Plan
from limner.diffusion.teachers import checked_teacher, student_network
from limner.maths.denoisers import Denoiser, Guided, Parametrisation, flow, per_image
from limner.maths.samplers.heun import Heun
from limner.maths.schedules import LinearPath, Times


@register(
    "reflow",
    family="diffusion",
    paper=Paper(
        "Flow straight and fast: learning to generate and transfer data with rectified flow",
        "Liu, Gong, Liu",
        2022,
        "2209.03003",
    ),
    tiny={
        "teacher": {"model": "flow-matching", "options": {"channels": (8, 16)}},
        "substeps": 2,
    },
    train={"lr": 2e-4, "clip": 1.0},
)
class Reflow(DenoisingModel):
    """Reflow: a straighter flow, or a single step, from the pairs of a trained flow.

    Args:
        spec: specification of the images.
        teacher: a trained `flow-matching` model, or a `reflow` one, of the same data; as in
            train.init.teacher="runs/NAME".
        goal: "straight" for the next rectified flow, "one-step" for the distillation of the whole
            way.
        substeps: number of Heun steps in which the teacher makes a pair.
        scale: guidance scale of the teacher when it makes pairs.
        rank: rank of the change to each of the teacher's weights; 0 for a whole network.
        condition_dropout: probability that training hides the condition.

    Raises:
        LimnerError: the teacher is not a flow along lines, trained on the same data.
    """

    default_sampler = "euler"
    default_steps = 1
    learns_pictures = False

    def __init__(
        self,
        spec: ImageSpec,
        teacher: GenerativeModel,
        goal: Literal["straight", "one-step"] = "straight",
        substeps: Count = 16,
        scale: Annotated[float, Field(ge=0, le=100)] = 1.0,
        rank: Natural = 0,
        condition_dropout: Share = 0.0,
    ) -> None:
        flow = checked_teacher(spec, teacher)
        if not isinstance(flow.schedule, LinearPath):
            raise LimnerError(
                f"only flows along lines can be straightened, not {teacher.name}; give a "
                "flow-matching or reflow model"
            )
        super().__init__(spec, student_network(flow, rank), condition_dropout)
        self.teacher = flow
        self.schedule = LinearPath()
        self.goal, self.substeps, self.scale = goal, substeps, scale

    def players(self) -> dict[str, nn.Module]:
        """Return the student as the only player; the teacher is frozen."""
        return {"student": self.network}

    @property
    def parametrisation(self) -> Parametrisation:
        """Prediction of the velocity."""
        return flow

    def draw_times(self, noise: Noise) -> Times:
        """Draw t uniform in (0, 1), or always 1 for one-step distillation."""
        u = noise.uniform(dtype=torch.float64).clamp_(min=1e-5)
        return u if self.goal == "straight" else torch.ones_like(u)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield one turn, on pairs with this batch's conditions; its pictures are not used."""
        eps = noise.normal(*self.spec.shape)
        with torch.no_grad():
            x = self.teacher_pictures(eps, batch.c, noise)
        t = self.draw_times(noise)
        x_t = per_image(1 - t, x) * x + per_image(t, x) * eps
        error = (self.output(x_t, t, batch.c).float() - (eps - x)).square().mean()
        yield Turn(error)

    def teacher_pictures(self, eps: Images, c: Condition, noise: Noise) -> Images:
        """Return the pictures that the teacher makes from noise."""
        D: Denoiser = self.teacher if self.scale == 1 else Guided(self.teacher, self.scale)
        times = self.teacher.schedule.times(self.substeps)
        return Plan(Heun(), D, times).end(eps, c, noise)


@torch.no_grad()
def straightness(
    model: DenoisingModel, c: Condition, *, noise: Noise, steps: int = 64
) -> Float[Tensor, "b"]:
    """Return S of each path, per number of a picture: 0 where the path is a line.

    Args:
        model: a flow along lines.
        c: condition, with b rows or no parts.
        noise: b random streams.
        steps: number of Euler steps of the path.
    """
    n, z = len(noise), noise.normal(*model.spec.shape)
    first, velocities = z, list[Tensor]()
    for i in range(steps, 0, -1):
        t = torch.full((n,), i / steps, dtype=torch.float64, device=z.device)
        velocities.append(model.output(z, t, c).to(z.dtype))
        z = z - velocities[-1] / steps
    displacement = first - z
    return torch.stack([(displacement - v).square().flatten(1).mean(1) for v in velocities]).mean(0)
