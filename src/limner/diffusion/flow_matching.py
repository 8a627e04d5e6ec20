"""Flow matching on straight lines between pictures and noise, also known as rectified flow.

Lipman, Chen, Ben-Hamu, Nickel, Le (2022). Flow matching for generative modeling. arXiv:2210.02747.
Liu, Gong, Liu (2022). Flow straight and fast: learning to generate and transfer data with rectified
flow. arXiv:2209.03003.

x_t = (1 - t) x + t eps; a network learns the velocity dx_t/dt = eps - x, averaged over all pairs
through x_t; the ordinary differential equation dx/dt = F(x, t) carries noise (t = 1) to pictures (t
= 0).

Kept: the optimal-transport path with sigma_min = 0, the plain squared error, the likelihood from
the instantaneous change of variables. Different: time runs from picture to noise, as in the rest of
the library; t is drawn from a logit-normal distribution by default (Esser et al. (2024),
arXiv:2403.03206). Optionally, the pictures of a batch are paired with its noise at the least
squared distance (Tong et al. (2023), arXiv:2302.00482, algorithm 3; Pooladian et al. (2023),
arXiv:2304.14772). Pairs are exchanged only among pictures with the same condition, because
otherwise the noise would reveal the condition. With such pairs x_hat is no longer E[x | x_t] for
independent noise. So samplers that add noise on the way (ancestral steps, eta, edits) end nearer to
the mean.
"""

from typing import Literal, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.noise import Noise
from limner.contract.options import Share
from limner.contract.registry import Paper, register
from limner.diffusion.probability_flow import FlowLikelihood
from limner.diffusion.sampling import PathShift
from limner.maths.assignment import assignment
from limner.maths.denoisers import Parametrisation, flow
from limner.maths.flow_likelihood import log_density
from limner.maths.schedules import LinearPath, Times
from limner.nn.unet import PatchOptions, UNet


def _uniform(noise: Noise) -> Times:
    return noise.uniform(dtype=torch.float64)


def _logit_normal(noise: Noise) -> Times:
    return noise.normal(dtype=torch.float64).sigmoid()


_TIME_LAWS = {"uniform": _uniform, "logit-normal": _logit_normal}


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
        time: distribution of t in training, before the shift: logit-normal, which draws mostly
            times in the middle and gives better pictures, or uniform, as in the papers above;
            likelihoods as in these papers need it.
        shift: shift of times towards noise, in training and sampling: 1 for small pictures, 3 where
            a model of large ones must learn their layout (Esser et al., equation 23).
        pairing: pairs of pictures and noise in a training batch: independent noise for each
            picture, or the assignment with the least total squared distance; sample a model of such
            pairs with samplers that draw no noise.
        condition_dropout: probability that training hides the condition.
        unet: see `PatchOptions`.
    """

    default_sampler = "heun"
    default_steps = 15

    def __init__(
        self,
        spec: ImageSpec,
        time: Literal["uniform", "logit-normal"] = "logit-normal",
        shift: PathShift = 1.0,
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
        """Prediction of the velocity."""
        return flow

    def draw_times(self, noise: Noise) -> Times:
        """Draw t in (0, 1)."""
        return self.path.shift_times(_TIME_LAWS[self.time](noise)).clamp_(min=1e-5)

    def draw_noise(self, batch: Batch, noise: Noise) -> Images:
        """Draw independent noise, or assign it among the batch's pictures with one condition."""
        eps = super().draw_noise(batch, noise)
        if not self.couples_batch:
            return eps
        x, paired = batch.x.flatten(1), eps.clone()
        for rows in _rows_by_condition(batch.c, len(x)):
            cost = torch.cdist(x[rows].double(), eps[rows].flatten(1).double()).square()
            paired[rows] = eps[rows[assignment(cost)]]
        return paired

    def velocity(self, x: Images, t: Times, c: Condition) -> Images:
        """Return dx/dt at times t, one for each picture."""
        return self.network(x, self.schedule.label(t), c).to(x.dtype)

    def log_density(
        self, x: Images, noise: Noise | None, c: Condition, tolerance: float
    ) -> Float[Tensor, "b"]:
        """Return log p(x) in nats, with the change of variables along the flow itself.

        Args:
            x, c, noise, tolerance: see `probability_flow.log_density`.
        """

        def velocity(x: Images, t: Tensor, rows: Tensor) -> Images:
            return self.velocity(x, t, c.rows(rows))

        return log_density(velocity, x, noise=noise, tolerance=tolerance)[0]


def _rows_by_condition(c: Condition, n: int) -> list[Tensor]:
    """Return groups of rows with the same condition, as row numbers."""
    parts = [part for part in (c.label, c.text) if part is not None]
    parts += [part.flatten(1) for part in (c.image,) if part is not None]
    if not parts:
        return [torch.arange(n)]
    keys = torch.cat([part.reshape(n, -1).double() for part in parts], 1)
    _, group = torch.unique(keys, dim=0, return_inverse=True)
    return [(group == g).nonzero().flatten() for g in range(int(group.max()) + 1)]
