"""DCGAN: convolutional networks for stable adversarial training.

Radford, Metz, Chintala (2015). Unsupervised representation learning with deep convolutional
generative adversarial networks. arXiv:1511.06434.

Kept: strided and transposed convolutions, without pooling or fully connected hidden layers; batch
norm; ReLU and tanh in the generator, leaky ReLU in the critic; weights from N(0, 0.02).
Different: 4 x 4 kernels; the number of halvings leaves at least four pixels, so that any size works
(pictures are cropped from the centre of the next size that can be generated); classes and text.
The condition is concatenated to z in the generator, and enters the critic through a projection:
s(x, c) = w . h(x) + v(c) . h(x) / sqrt(d) (Miyato, Koyama, 2018, arXiv:1802.05637, without the
label's own term).
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.noise import Noise, Purpose
from limner.gans.adversarial_model import Adversarial, by_pixel
from limner.nn.condition import Conditioner
from limner.nn.standing_statistics import standing_statistics

NormName = Literal["batch", "layer", "none"]
_DEVIATION = 0.02


def halvings(spec: ImageSpec) -> int:
    """Return how often a picture is halved so that at least four pixels are left; at least 1."""
    return max(1, int(math.log2(min(spec.height, spec.width) / 4)))


class Generator(nn.Module):
    """Generator: maps z and a condition to a picture.

    Args:
        spec: specification of the images.
        latent: dimension of z.
        channels: channels before the last layer; doubled with each halving.
    """

    def __init__(self, spec: ImageSpec, latent: int, channels: int) -> None:
        super().__init__()
        k = halvings(spec)
        self.size = spec.height, spec.width
        self.smallest = math.ceil(spec.height / 2**k), math.ceil(spec.width / 2**k)
        widths = [channels * 2**i for i in reversed(range(k))]
        self.conditioner = Conditioner(spec, latent)
        extra = latent if spec.labels or spec.text else 0
        self.first = nn.Linear(latent + extra, widths[0] * math.prod(self.smallest), bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[0]), nn.ReLU()]
        for before, after in pairwise(widths):
            layers += [
                nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        layers += [nn.ConvTranspose2d(widths[-1], spec.channels, 4, 2, 1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, z: Float[Tensor, "b d"], c: Condition) -> Images:
        """Return pictures in [-1, 1]."""
        vector = self.conditioner(c, len(z)).vector
        h = self.first(z if vector is None else torch.cat([z, vector], dim=1))
        x = self.layers(h.unflatten(1, (*self.smallest, -1)).movedim(-1, 1))  # channels last
        top, left = ((length - size) // 2 for length, size in zip(x.shape[-2:], self.size))
        return x[..., top : top + self.size[0], left : left + self.size[1]]


class Critic(nn.Module):
    """Critic: maps a picture and its condition to a score; higher means more real.

    Args:
        spec: specification of the images.
        channels: channels of the first layer; doubled with each halving.
        norm: normalisation of the other layers; "batch" makes a score depend on the whole batch.
    """

    def __init__(self, spec: ImageSpec, channels: int, norm: NormName) -> None:
        super().__init__()
        k = halvings(spec)
        widths = [spec.channels, *(channels * 2**i for i in range(k))]
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(widths)):
            has_norm = norm != "none" and i > 0
            layers.append(nn.Conv2d(before, after, 4, 2, 1, bias=not has_norm))
            if has_norm:
                layers.append(nn.BatchNorm2d(after) if norm == "batch" else nn.GroupNorm(1, after))
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers)
        features = widths[-1] * (spec.height // 2**k) * (spec.width // 2**k)
        self.last = nn.Linear(features, 1)
        self.conditioner = Conditioner(spec, features)
        self.apply(_initialise)

    def forward(self, x: Images, c: Condition) -> Float[Tensor, "b"]:
        """Return a score for each picture."""
        h = self.layers(by_pixel(x)).movedim(1, -1).flatten(1)
        score = self.last(h)[:, 0]
        vector = self.conditioner(c, len(x)).vector
        if vector is not None:
            score = score + (vector * h).sum(1) / math.sqrt(h.shape[1])
        return score


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(layer.weight, 0.0, _DEVIATION)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, _DEVIATION)


class DCGAN(Adversarial):
    """Base of GANs with DCGAN's networks; a subclass defines the objective in `turns`.

    Args:
        spec: specification of the images; at least 8 x 8 pixels.
        latent: dimension of z.
        channels: channels of the layers next to the image, in both networks.
        norm: normalisation of the critic.
        condition_dropout: probability of hiding label and text from both networks in training.
    """

    def __init__(
        self, spec: ImageSpec, latent: int, channels: int, norm: NormName, condition_dropout: float
    ) -> None:
        super().__init__()
        if min(spec.height, spec.width) < 8:
            raise LimnerError("this model needs pictures of at least 8 x 8 pixels")
        self.latent, self.condition_dropout = latent, condition_dropout
        if spec.labels:
            self.condition = "required"
        self.generator = Generator(self.spec, latent, channels)
        self.critic = Critic(self.spec, channels, norm)

    def paint(self, noise: Noise, c: Condition) -> Images:
        """Return G(z, c) for the next z of each stream."""
        return self.generator(noise.normal(self.latent), c)

    def calibrate(self, batches: Iterator[Batch]) -> None:
        """Measure batch norm's statistics in the generator, with the data's labels and text."""
        with standing_statistics(self.generator):
            for i, (x, c) in enumerate(batches):
                numbers = range(i * len(x), (i + 1) * len(x))
                noise = Noise.keyed(0, Purpose.CALIBRATION, numbers, str(self.device))
                self.paint(noise, c)

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        """Yield the pictures, generated in one pass.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
        """
        yield self.paint(noise, c)
