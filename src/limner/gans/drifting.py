"""Drifting models: in training, generated pictures drift towards the data and away from each other.

Deng, Li, Li, Du, He (2026). Generative modeling via drifting. arXiv:2602.04770.

A generator makes x = G(z) in one step. The target of each generated picture in training is the
picture moved by a field V (equation 6):

    L = E |phi(x) - stopgrad(phi(x) + V(phi(x)))|^2,
    V(x) = 1 / (Z_p Z_q) E k(x, y+) k(x, y-) (y+ - y-),    k(x, y) = exp(-|x - y| / tau),

where y+ are real pictures and y- other generated pictures. Generated pictures move to real ones and
away from each other. If real and generated pictures are exchanged, V changes its sign; so V is 0 if
both have the same distribution. There is no critic and no teacher.

Kept: the field of algorithm 2, with weights that are the geometric mean of two softmaxes, one over
the real and generated pictures and one over the points that move; three values of tau, relative to
the mean distance; features scaled to a mean distance of sqrt(C), fields to a mean square of 1; a
generated picture is attracted and repelled by pictures of its own class only. Different: features
are pixels, at full size and averaged over squares of 2 and 4, and the features of a judge if one is
given, instead of a masked autoencoder's; the generator is DCGAN's; no guidance.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from limner.contract.abilities import ExtractsFeatures
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel, Learner, Turn
from limner.contract.noise import Noise, Purpose
from limner.contract.options import Count
from limner.contract.registry import Paper, register
from limner.gans.adversarial_model import variety
from limner.gans.dcgan import Generator
from limner.nn.standing_statistics import standing_statistics

TAUS = (0.02, 0.05, 0.2)
_SQUARE_SIDES = (1, 2, 4)  # sides of the squares that are averaged, in pixels
_ZERO_LOG_WEIGHT = -1e9  # the logarithm of a weight of 0

Points = Float[Tensor, "_ d"]


@register(
    "drifting",
    family="gans",
    paper=Paper("Generative modeling via drifting", "Deng, Li, Li, Du, He", 2026, "2602.04770"),
    tiny={"latent": 4, "channels": 4},
    train={"lr": 1e-3, "betas": (0.9, 0.95), "batch": 128, "clip": 2.0},
)
class Drifting(GenerativeModel):
    """Drifting: a one-step generator that follows a field of attraction and repulsion.

    Args:
        spec: specification of the images; at least 8 x 8 pixels.
        judge: a trained judge, for additional features to drift in; as in
            train.init.judge="runs/NAME". Do not evaluate the model with the same judge.
        positives: batches of real pictures for each batch of generated ones.
        latent: dimension of z.
        channels: channels of the generator's last layer; doubled with each halving.

    Raises:
        LimnerError: the pictures are too small, or the judge does not fit.
    """

    takes = ("labels",)
    couples_batch = True
    loss_compares = False

    def __init__(
        self,
        spec: ImageSpec,
        judge: Learner | None = None,
        positives: Count = 2,
        latent: Count = 64,
        channels: Count = 32,
    ) -> None:
        super().__init__()
        if min(spec.height, spec.width) < 8:
            raise LimnerError("this model needs pictures of at least 8 x 8 pixels")
        if judge is not None and not isinstance(judge, ExtractsFeatures):
            raise LimnerError(f"{judge.name} models see no features; give a judge, such as a lenet")
        if judge is not None and judge.spec.channels != spec.channels:
            raise LimnerError("the judge sees pictures with other channels; give data.channels")
        if spec.labels:
            self.condition = "required"
        self.batches_per_round, self.latent = positives, latent
        self.generator = Generator(spec, latent, channels)
        self.judge = judge

    def players(self) -> dict[str, torch.nn.Module]:
        """Return the generator; a judge is frozen."""
        return {"generator": self.generator}

    def formula(self) -> list[str]:
        """Return the formulas of the loss and of the field."""
        return [
            "L = E |phi(x) - stopgrad(phi(x) + V(phi(x)))|^2,  x = G(z)",
            "V(x) = E k(x, y+) k(x, y-) (y+ - y-) / (Z_p Z_q),  k(x, y) = exp(-|x - y| / tau)",
        ]

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield one turn: the distance to the moved pictures, averaged over kinds of features."""
        n = len(batch.x) // self.batches_per_round
        condition = batch.c.rows(slice(0, n))
        x = self.paint(noise.rows(slice(0, n)), condition).float()
        mask = torch.ones(n, len(batch.x) + n, dtype=torch.bool, device=x.device)
        if batch.c.label is not None and condition.label is not None:
            mask = condition.label[:, None] == torch.cat([batch.c.label, condition.label])
        losses, sizes = list[Tensor](), list[Tensor]()
        for phi, real in zip(self.features(x), self.features(batch.x)):
            step_to = drift(phi, real, mask)
            target = (step_to.unit * phi + step_to.shift).detach()
            losses.append((step_to.unit * phi - target).square().mean())
            sizes.append(step_to.size)
        logs = {"drift": torch.stack(sizes).mean(), "variety": variety(batch.x[:n], x)}
        yield Turn(torch.stack(losses).mean(), logs=logs)

    def features(self, x: Images) -> list[Points]:
        """Return the kinds of features: pixels, means of squares of pixels, a judge's features."""
        kinds = [F.avg_pool2d(x, side).flatten(1) for side in _SQUARE_SIDES]
        if isinstance(self.judge, ExtractsFeatures):
            kinds.append(self.judge.features(x).float())
        return kinds

    def paint(self, noise: Noise, c: Condition) -> Images:
        """Return G(z, c) for the next z of each stream."""
        return self.generator(noise.normal(self.latent), c)

    def calibrate(self, batches: Iterator[Batch]) -> None:
        """Measure batch norm's statistics in the generator, with the data's labels."""
        with standing_statistics(self.generator):
            for i, (x, c) in enumerate(batches):
                numbers = range(i * len(x), (i + 1) * len(x))
                self.paint(Noise.keyed(0, Purpose.CALIBRATION, numbers, str(self.device)), c)

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        """Yield the pictures, generated in one pass.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
        """
        yield self.paint(noise, c)


class Drift(NamedTuple):
    """The drift of generated pictures.

    Args:
        unit: scale of the features, which makes the mean distance of comparable ones sqrt(C).
        shift: shift of the scaled features, the sum of the fields of each tau at mean square 1.
        size: root mean square of the fields before this normalisation, averaged over tau, in units
            of the features.
    """

    unit: Float[Tensor, ""]
    shift: Points
    size: Float[Tensor, ""]


@torch.no_grad()
def drift(x: Points, real: Points, mask: Bool[Tensor, "n m"]) -> Drift:
    """Return how generated pictures drift to real ones and away from all other generated ones.

    Args:
        x: features of n generated pictures.
        real: features of real pictures.
        mask: which real, then which generated pictures each generated picture is compared with.
    """
    with torch.autocast(x.device.type, enabled=False):  # fields are differences of large sums
        return _drift(x, real, mask)


def _drift(x: Points, real: Points, mask: Bool[Tensor, "n m"]) -> Drift:
    n, channels = x.shape
    itself = torch.cat([mask.new_zeros(n, len(real)), torch.eye(n).to(mask)], 1)
    mask = mask & ~itself
    distances = torch.cdist(x, torch.cat([real, x]))
    unit = channels**0.5 / (distances * mask).sum().div(mask.sum().clamp(min=1)).clamp(min=1e-6)
    fields = [field(unit * x, unit * real, unit * x, tau * channels**0.5, mask) for tau in TAUS]
    sizes = [V.square().mean().sqrt() for V in fields]
    shift = sum(V / size.clamp(min=1e-6) for V, size in zip(fields, sizes))
    assert isinstance(shift, Tensor)
    return Drift(unit, shift, torch.stack(sizes).mean())


def field(
    x: Points, real: Points, fake: Points, tau: float, mask: Bool[Tensor, "n m"] | None = None
) -> Points:
    """Return V at points x: the sum of A(x, y+) A(x, y-) (y+ - y-) over all pairs.

    A is the geometric mean of two softmaxes of -|x - y| / tau, over all y and over all x.

    Args:
        x: the points at which the field is computed.
        real, fake: the points that attract, and the points that repel.
        tau: the distance at which the kernel falls to 1 / e.
        mask: which of both count at each x; all by default.

    >>> one, two = torch.tensor([[0.0]]), torch.tensor([[1.0], [2.0]])
    >>> bool((field(one, two, one, 1.0) == -field(one, one, two, 1.0)).all())
    True
    """
    logits = -torch.cdist(x, torch.cat([real, fake])) / tau
    if mask is not None:
        logits = logits.masked_fill(~mask, _ZERO_LOG_WEIGHT)
    A = (logits.log_softmax(1) / 2 + logits.log_softmax(0) / 2).exp()
    if mask is not None:
        A = A * mask
    to, away = A.split([len(real), len(fake)], dim=1)
    return (to * away.sum(1, keepdim=True)) @ real - (away * to.sum(1, keepdim=True)) @ fake
