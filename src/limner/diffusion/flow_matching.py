"""Flow matching on the straight line between picture and noise, also known as rectified flow.

Lipman, Chen, Ben-Hamu, Nickel, Le (2022). Flow matching for generative modeling. arXiv:2210.02747.
Liu, Gong, Liu (2022). Flow straight and fast: learning to generate and transfer data with rectified
flow. arXiv:2209.03003.

x_t = (1 - t) x + t eps; a network learns the velocity dx_t/dt = eps - x, averaged over all pairs
through x_t; the ordinary differential equation dx/dt = F(x, t) carries noise (t = 1) to pictures (t
= 0).

Kept: the optimal-transport path with sigma_min = 0, the plain squared error, the likelihood by the
instantaneous change of variables. Different: time runs from picture to noise, as in the rest of the
library; t is drawn logit-normally by default (Esser et al. (2024), arXiv:2403.03206); the pictures
of a batch may be paired with its noise at least squared distance (Tong et al. (2023),
arXiv:2302.00482, algorithm 3; Pooladian et al. (2023), arXiv:2304.14772), but only among those that
are of the same thing, for else the noise would tell what a picture is of. Of such pairs x_hat is no
longer E[x | x_t] for noise of a picture's own: what adds some on the way, as ancestral steps, eta,
and edits, ends nearer to the mean.
"""

from typing import Annotated, Literal, Unpack

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.noise import Noise
from limner.contract.options import Share
from limner.contract.registry import Paper, register
from limner.diffusion.probability_flow import FlowLikelihood
from limner.maths.assignment import assignment
from limner.maths.denoisers import Parametrisation, flow
from limner.maths.flow_likelihood import log_density
from limner.maths.schedules import LinearPath, Times
from limner.nn.unet import PatchOptions, UNet


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
    train={"lr": 5e-4, "clip": 1.0},
)
class FlowMatching(FlowLikelihood):
    """Flow matching: a velocity field carries noise to pictures along straight lines.

    Args:
        spec: specification of the images.
        time: the law of t in training, before the shift: logit-normal, which looks most at the
            middle of the way and paints better, or uniform, as in the papers above, whose
            likelihoods it is needed for.
        shift: of times towards noise, in training and sampling: 1 for small pictures, 3 where a
            model of large ones must learn what stands where (Esser et al., equation 23).
        pairing: of pictures and noise in a training batch: each picture has noise of its own, or
            that which is nearest for all together; paint these with samplers that draw no noise.
        condition_dropout: probability that training hides the condition.
        unet: see `PatchOptions`.
    """

    default_sampler = "heun"
    default_steps = 15

    def __init__(
        self,
        spec: ImageSpec,
        time: Literal["uniform", "logit-normal"] = "logit-normal",
        shift: Annotated[float, Field(gt=0, le=100)] = 1.0,
        pairing: Literal["independent", "optimal"] = "independent",
        condition_dropout: Share = 0.1,
        **unet: Unpack[PatchOptions],
    ) -> None:
        network = UNet(spec, **unet)
        super().__init__(spec, network, condition_dropout)
        self.schedule = self.path = LinearPath(shift)
        self.time = time
        self.couples_batch = pairing == "optimal"

    @property
    def parametrisation(self) -> Parametrisation:
        """The velocity."""
        return flow

    def draw_times(self, noise: Noise) -> Times:
        """t in (0, 1)."""
        return self.path.shifted(_TIMES[self.time](noise)).clamp_(min=1e-5)

    def draw_noise(self, batch: Batch, noise: Noise) -> Images:
        """Noise of each picture's own, or the batch's, exchanged among pictures of one thing."""
        eps = super().draw_noise(batch, noise)
        if not self.couples_batch:
            return eps
        x, paired = batch.x.flatten(1), eps.clone()
        for rows in _alike(batch.c, len(x)):
            cost = torch.cdist(x[rows].double(), eps[rows].flatten(1).double()).square()
            paired[rows] = eps[rows[assignment(cost)]]
        return paired

    def velocity(self, x: Images, t: Times, c: Condition) -> Images:
        """dx/dt at times t, one for each picture."""
        return self.network(x, self.schedule.label(t), c).to(x.dtype)

    def log_density(
        self, x: Images, noise: Noise | None, c: Condition, tolerance: float
    ) -> Float[Tensor, "b"]:
        """log p(x) in nats, by the change of variables along the flow itself.

        Args:
            x, c, noise, tolerance: see `probability_flow.log_density`.
        """

        def velocity(x: Images, t: Tensor, rows: Tensor) -> Images:
            return self.velocity(x, t, c.rows(rows))

        return log_density(velocity, x, noise=noise, tolerance=tolerance)[0]


def _alike(c: Condition, n: int) -> list[Tensor]:
    """The numbers of rows that are of the same thing, together."""
    told = [part for part in (c.label, c.text) if part is not None]
    told += [part.flatten(1) for part in (c.image,) if part is not None]
    if not told:
        return [torch.arange(n)]
    keys = torch.cat([part.reshape(n, -1).double() for part in told], 1)
    _, group = torch.unique(keys, dim=0, return_inverse=True)
    return [(group == g).nonzero().flatten() for g in range(int(group.max()) + 1)]
