"""What a judge is: a learner that makes features of pictures, and classes or captions of these."""

from abc import abstractmethod
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from limner.contract.abilities import Features
from limner.contract.image import Images
from limner.contract.layout import Objects


class Judge(Features):
    """A learner that sees features in pictures."""

    @abstractmethod
    def logits(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"] | None:
        """A score for each of `spec.labels`, of which softmax makes probabilities; None without."""


class ImageTextJudge(Judge):
    """A judge that also compares pictures with captions."""

    @abstractmethod
    def cosines(
        self, features: Float[Tensor, "b d"], text: Int[Tensor, "k l"]
    ) -> Float[Tensor, "b k"]:
        """How well each picture, by its features, shows what each text says: from -1 to 1."""


class Detections(NamedTuple):
    """The objects that a detector finds in pictures, the surest first; k places for each picture.

    Args:
        objects: what is where, each with the likeliest of `COLOURS`; where less is found, places at
            the end are empty.
        score: from 0 to 1, how sure each is; 0 where a place is empty.
    """

    objects: Objects
    score: Float[Tensor, "b k"]


class Detector(Judge):
    """A judge that says which objects are where; `spec.hint.labels` are their kinds."""

    @abstractmethod
    def detect(self, x: Images) -> Detections:
        """The objects in pictures of the size and channels of `spec`."""

    def logits(self, features: Float[Tensor, "b d"]) -> None:
        """It knows no classes of whole pictures."""
