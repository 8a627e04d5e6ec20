"""Gradient-based learning applied to document recognition.

LeCun, Bottou, Bengio, Haffner (1998). Proceedings of the IEEE 86(11). doi:10.1109/5.726791.

LeNet-5: two convolutions, each followed by a pooling that halves the picture, then fully connected
layers; cross-entropy. The digits are moved a little each time they are seen, like the distortions
of the paper.

Different: padded convolutions of 32 and 64 channels with ReLU and max-pooling, one hidden layer of
128, softmax in place of radial basis functions. Its hidden layer and its class probabilities are
used to evaluate generators of digits.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Images, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, NonNegative
from limner.contract.registry import Paper, register
from limner.evaluate.judges.augmentation import move_pictures
from limner.evaluate.judges.judge import Judge


@register(
    "lenet",
    family="judges",
    paper=Paper(
        "Gradient-based learning applied to document recognition",
        "LeCun, Bottou, Bengio, Haffner",
        1998,
        doi="10.1109/5.726791",
    ),
    tiny={"channels": (4, 8), "hidden": 16},
    train={"lr": 2e-3, "weight_decay": 0.01, "batch": 128},
)
class LeNet(Judge):
    """A small convolutional classifier of digits.

    Args:
        spec: the specification of the images; they have classes, and at least 4 x 4 pixels.
        channels: the channels of the two convolutions.
        hidden: the size of the hidden layer, which is the number of features.
        shift: the largest shift in training, in pixels.
        stretch: the largest scale factor in training, up or down.
        turn: the largest rotation in training, in degrees.

    Raises:
        LimnerError: the data have no classes, or are too small.
    """

    def __init__(
        self,
        spec: ImageSpec,
        channels: tuple[int, int] = (32, 64),
        hidden: Count = 128,
        shift: NonNegative = 2.0,
        stretch: Annotated[float, Field(ge=1)] = 1.1,
        turn: NonNegative = 10.0,
    ) -> None:
        super().__init__()
        if not spec.labels:
            raise LimnerError("this model learns classes, and the data have none; give others")
        if min(spec.height, spec.width) < 4:
            raise LimnerError("this model needs pictures of at least 4 x 4 pixels")
        self.spec = replace(spec, text=None, hint=None)
        self.shift, self.stretch, self.turn = shift, stretch, turn
        first, second = channels
        self.trunk = nn.Sequential(
            nn.Conv2d(spec.channels, first, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(second * (spec.height // 4) * (spec.width // 4), hidden),
            nn.ReLU(),
        )
        self.head = nn.Linear(hidden, len(spec.labels))

    def features(self, x: Images) -> Float[Tensor, "b d"]:
        """Compute the hidden layer."""
        return self.trunk(x)

    def logits(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Compute a score for each class."""
        return self.head(features)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield one turn: the cross-entropy on augmented pictures."""
        x = move_pictures(batch.x, noise, self.shift, self.stretch, self.turn)
        scores, label = self.logits(self.features(x)).float(), batch.c.label
        assert label is not None, "data with classes have labels"
        accuracy = (scores.detach().argmax(1) == label).float().mean()
        yield Turn(F.cross_entropy(scores, label), logs={"accuracy": accuracy})
