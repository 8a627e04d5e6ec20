"""Base classes of judges: models that compute features of pictures, and predict from these."""

from abc import abstractmethod
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from limner.contract.abilities import ExtractsFeatures
from limner.contract.image import Images
from limner.contract.layout import Objects


class Judge(ExtractsFeatures):
    """Base class of judges: a model that computes features of pictures and class scores."""

    @abstractmethod
    def logits(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"] | None:
        """Compute the logits of `spec.labels`; None if the data have no labels."""


class ImageTextJudge(Judge):
    """Base class of judges that also compare pictures with captions."""

    @abstractmethod
    def cosines(
        self, features: Float[Tensor, "b d"], text: Int[Tensor, "k l"]
    ) -> Float[Tensor, "b k"]:
        """Compute the similarity of each picture, given its features, and each text: -1 to 1."""


class Detections(NamedTuple):
    """The objects that a detector finds in pictures, the highest score first; k places per picture.

    Args:
        objects: kinds, boxes and likeliest of `COLOURS`; if fewer than k are found, places at the
            end are empty.
        score: the confidence of each object, from 0 to 1; 0 for an empty place.
    """

    objects: Objects
    score: Float[Tensor, "b k"]


class Detector(Judge):
    """Base class of judges that detect objects; `spec.hint.labels` are the kinds of objects."""

    @abstractmethod
    def detect(self, x: Images) -> Detections:
        """Find the objects in pictures of the size and channels of `spec`."""

    def logits(self, features: Float[Tensor, "b d"]) -> None:
        """Return None: a detector does not classify whole pictures."""
