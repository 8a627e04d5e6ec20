"""Flow matching on the straight line between picture and noise, also known as rectified flow.

Lipman, Chen, Ben-Hamu, Nickel, Le (2022). Flow matching for generative modeling. arXiv:2210.02747.
Liu, Gong, Liu (2022). Flow straight and fast: learning to generate and transfer data with rectified
flow. arXiv:2209.03003.

x_t = (1 - t) x + t eps; a network learns the velocity dx_t/dt = eps - x, averaged over all pairs
through x_t; the ordinary differential equation dx/dt = F(x, t) carries noise (t = 1) to pictures (t
= 0).

Kept: the optimal-transport path with sigma_min = 0, the plain squared error. Different: time runs
from picture to noise, as in the rest of the library; t may be drawn logit-normally (Esser et al.
(2024), arXiv:2403.03206).
"""

from typing import Annotated, Literal

import torch
from pydantic import Field

from limner.denoising import DenoisingModel, Parametrisation, flow
from limner.image import ImageSpec
from limner.nn.unet import UNet
from limner.noise import Noise
from limner.registry import Paper, register
from limner.schedules import LinearPath, Times


def _uniform(noise: Noise) -> Times:
    return noise.uniform(dtype=torch.float64)


def _logit_normal(noise: Noise) -> Times:
    return noise.normal(dtype=torch.float64).sigmoid()


_TIMES = {"uniform": _uniform, "logit-normal": _logit_normal}


@register(
    "flow-matching",
    family="flows",
    paper=Paper(
        "Flow matching for generative modeling",
        "Lipman, Chen, Ben-Hamu, Nickel, Le",
        2022,
        "2210.02747",
    ),
    tiny={"channels": (8, 16)},
)
class FlowMatching(DenoisingModel):
    """Flow matching: a velocity field carries noise to pictures along straight lines.

    Args:
        spec: what the images are.
        channels, blocks, attention, patch, dropout: of the `UNet`.
        time: the law of t in training.
        condition_dropout: how often training hides the condition.
    """

    default_sampler = "heun"
    default_steps = 15

    def __init__(
        self,
        spec: ImageSpec,
        channels: tuple[int, ...] = (64, 128),
        blocks: Annotated[int, Field(ge=1)] = 1,
        attention: Annotated[int, Field(ge=0)] = 1,
        patch: Annotated[int, Field(ge=1)] = 2,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        time: Literal["uniform", "logit-normal"] = "logit-normal",
        condition_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ) -> None:
        network = UNet(spec, channels, blocks, attention, patch, dropout)
        super().__init__(spec, network, condition_dropout)
        self.schedule = LinearPath()
        self.time = time

    @property
    def parametrisation(self) -> Parametrisation:
        """The velocity."""
        return flow

    def draw_times(self, noise: Noise) -> Times:
        """t in (0, 1)."""
        return _TIMES[self.time](noise).clamp_(min=1e-5)
