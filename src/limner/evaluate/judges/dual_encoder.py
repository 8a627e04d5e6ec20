"""Learning transferable visual models from natural language supervision (CLIP).

Radford et al. (2021). arXiv:2103.00020.

Two networks encode a picture and its caption as two vectors of length 1. They are trained together:
in a batch, each picture has to find its own caption among all captions, and each caption its
picture (InfoNCE). So the cosine of the two vectors measures how well a picture shows what a text
says.

Kept: the symmetric cross-entropy on cosines, divided by a learned temperature. Different: small
networks, a residual one for pictures of about 32 x 32 and a transformer on frozen word vectors;
pictures with the same caption all count as correct (Yang et al. (2022), arXiv:2204.03610); if the
data have classes, a linear layer on the picture's features learns them as well. In training,
pictures are moved, blurred and mixed with noise, so that a judge ignores the small artefacts of
generators.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Images, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, Natural, NonNegative, Rate, Widths
from limner.contract.registry import Paper, register
from limner.evaluate.judges.augmentation import move_pictures, spoil_pictures
from limner.evaluate.judges.judge import ImageTextJudge
from limner.nn.norm import NormSiLU
from limner.nn.residual import ResidualBlock
from limner.nn.text import TextEncoder
from limner.nn.wide_convolution import StridedConv2d

_INITIAL_TEMPERATURE = 0.07  # section 2.5
_MAX_SCALE = 100.0  # section 2.5: more made training unstable


@register(
    "dual-encoder",
    family="judges",
    paper=Paper(
        "Learning transferable visual models from natural language supervision",
        "Radford et al.",
        2021,
        "2103.00020",
    ),
    tiny={"channels": (8, 16), "vector": 8, "words": 8},
    train={"lr": 1e-3, "weight_decay": 0.05, "batch": 256, "clip": 1.0},
)
class DualEncoder(ImageTextJudge):
    """An image-text judge, which learns the similarity of pictures and captions.

    Args:
        spec: the specification of the images; they have captions.
        channels: the channels of the picture's network at a half, a quarter, ... of the size.
        blocks: the number of residual blocks at each size.
        vector: the dimension of the vectors that are compared.
        words: the dimension of a word's vector.
        layers: the number of layers of the transformer for captions.
        dropout: the dropout rate in the residual blocks.
        shift, stretch, turn: the largest shift in training, in pixels, scale factor, and rotation,
            in degrees.
        blur, grain: the largest deviation of the blur in training, in pixels, and of the noise, for
            pixels in [-1, 1].

    Raises:
        LimnerError: the data have no captions.
    """

    couples_batch = True

    def __init__(
        self,
        spec: ImageSpec,
        channels: Widths = (48, 96, 192),
        blocks: Count = 1,
        vector: Count = 128,
        words: Count = 128,
        layers: Natural = 1,
        dropout: Rate = 0.1,
        shift: NonNegative = 3.0,
        stretch: Annotated[float, Field(ge=1)] = 1.2,
        turn: NonNegative = 10.0,
        blur: NonNegative = 1.0,
        grain: NonNegative = 0.2,
    ) -> None:
        super().__init__()
        if spec.text is None:
            raise LimnerError("this model learns captions, and the data have none; give others")
        self.spec = replace(spec, hint=None)
        self.moving = {"shift": shift, "stretch": stretch, "turn": turn}
        self.spoiling = {"blur": blur, "grain": grain}
        parts: list[nn.Module] = []
        for previous, width in zip((spec.channels, *channels), channels):
            parts.append(StridedConv2d(previous, width, 3, stride=2, padding=1))
            parts += [ResidualBlock(width, width, dropout=dropout) for _ in range(blocks)]
        self.trunk = nn.Sequential(*parts, NormSiLU(channels[-1]))
        self.project = nn.Linear(channels[-1], vector, bias=False)
        self.head = nn.Linear(channels[-1], len(spec.labels)) if spec.labels else None
        self.text = TextEncoder(spec.text, words, vector, layers)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(_INITIAL_TEMPERATURE)))

    def features(self, x: Images) -> Float[Tensor, "b d"]:
        """Compute the mean of the network's last layer over the picture."""
        return self.trunk(x).float().mean((2, 3))

    def logits(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"] | None:
        """Compute a score for each class; None if the data have no classes."""
        return None if self.head is None else self.head(features)

    def cosines(
        self, features: Float[Tensor, "b d"], text: Int[Tensor, "k l"]
    ) -> Float[Tensor, "b k"]:
        """Compute the cosines of the pictures' vectors and the texts' vectors."""
        images = F.normalize(self.project(features).float(), dim=1)
        texts = F.normalize(self.text(text).vector.float(), dim=1)
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 would keep three digits
            return images @ texts.T

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield one turn: the contrastive loss, plus the cross-entropy of classes, if any."""
        text, label = batch.c.text, batch.c.label
        assert text is not None, "data with captions have tokens"
        features = self.features(
            spoil_pictures(move_pictures(batch.x, noise, **self.moving), noise, **self.spoiling)
        )
        scale = self.log_scale.exp().clamp(max=_MAX_SCALE)
        scores = scale * self.cosines(features, text)
        same = (text[:, None] == text).all(-1).float()
        target = same / same.sum(1, keepdim=True)  # symmetric: equal captions have equally many
        loss = (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
        recall = same.gather(1, scores.detach().argmax(1, keepdim=True)).mean()
        logs = {"contrastive": loss.detach(), "found": recall, "scale": scale.detach()}
        classes = self.logits(features)
        if classes is not None and label is not None:
            classes = classes.float()
            loss = loss + F.cross_entropy(classes, label)
            logs["accuracy"] = (classes.detach().argmax(1) == label).float().mean()
        yield Turn(loss, logs=logs)
