"""What an extractor is: pictures to the numbers that metrics are made of.

An extractor takes uint8 pictures of any size and resizes them as it says. Numbers of different
extractors cannot be compared, so each has a name, to stand beside every number, and a fingerprint.
"""

from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import TextSpec
from limner.evaluate.judges.judge import Detections

Pixels = UInt8[Tensor, "b c h w"]
Precision = Literal["float32", "bfloat16"]
"""In which a network computes; features are float32 anyway."""


class Features(NamedTuple):
    """What an extractor sees in pictures.

    Args:
        features: a row for each.
        logits: scores of classes, of which softmax makes probabilities; None without classes.
    """

    features: Float[Tensor, "b d"]
    logits: Float[Tensor, "b k"] | None


class Extractor(Protocol):
    """Pictures to features.

    Attributes:
        name: stands beside every number.
        fingerprint: a SHA-256 of weights and preprocessing; equal ones give equal features.
        dim: how many features a picture has.
        classes: the names of the logits' classes; () where they have none.
    """

    name: str
    fingerprint: str
    dim: int
    classes: tuple[str, ...]

    def __call__(self, images: Pixels) -> Features:
        """The features of grey or RGB pictures of any size.

        Raises:
            LimnerError: pictures of other channels, or of colours where the extractor knows none.
        """
        ...


@runtime_checkable
class ImageText(Protocol):
    """What an extractor has that also compares pictures with captions.

    Attributes:
        text: how captions become tokens, see `Tokenizer`.
    """

    text: TextSpec

    def similarity(self, images: Pixels, text: Int[Tensor, "k l"]) -> Float[Tensor, "b k"]:
        """How well each picture shows what each caption says: cosines, from -1 to 1."""
        ...


@runtime_checkable
class Detects(Extractor, Protocol):
    """An extractor that also finds objects.

    Attributes:
        kinds: the names of the kinds that it knows, by number.
    """

    kinds: tuple[str, ...]

    def detect(self, images: Pixels) -> Detections:
        """The objects in each picture, the surest first."""
        ...


def to_rgb(images: Pixels, name: str) -> UInt8[Tensor, "b 3 h w"]:
    """RGB pictures: grey ones three times over, as a grey file is shown.

    Raises:
        LimnerError: the pictures are neither grey nor RGB.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise LimnerError(f"{name} judges grey or RGB pictures, and these have {channels} channels")
    return images.expand(-1, 3, -1, -1)


def grey(images: Pixels, name: str) -> UInt8[Tensor, "b 1 h w"]:
    """Grey pictures, also where each was saved as RGB.

    Raises:
        LimnerError: pictures with colours; the message is in the extractor's name.
    """
    if images.shape[1] not in (1, 3) or not torch.equal(images[:, :1].expand_as(images), images):
        raise LimnerError(
            f"{name} judges grey pictures, and these have colours; choose another extractor, or "
            "make them grey with data.channels=1"
        )
    return images[:, :1]


def name_at_precision(name: str, dtype: Precision) -> str:
    """An extractor's name, which says when it computes in another precision than usual."""
    return name if dtype == "float32" else f"{name} ({dtype})"
