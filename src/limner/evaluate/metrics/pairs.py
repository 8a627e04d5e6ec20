"""Base class of metrics of pairs: each picture is compared with the real one of the same number."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from limner.contract.image import from_uint8
from limner.evaluate.metric import FeatureMetric
from limner.evaluate.passes import Columns, Observations, Observer
from limner.evaluate.picture_sets import Numbers, PictureSet, Pixels, RealPictures
from limner.evaluate.report import Number

Measure = Callable[[Pixels, Pixels], Float64[Tensor, "n"]]
"""A function that returns a number for each pair of a picture and the true one."""
_MIN_ERROR = 1e-10  # the smallest mean squared error, used for equal pictures


def psnr(x: Pixels, true: Pixels) -> Float64[Tensor, "n"]:
    """Compute the peak signal-to-noise ratio of each picture, in decibels; at most 100."""
    error = ((from_uint8(x) - from_uint8(true)) / 2).double().square().flatten(1).mean(1)
    return -10 * error.clamp(min=_MIN_ERROR).log10()


class PairObserver(Observer):
    """Observer that compares each picture with the real one of the same number.

    Args:
        true: the real pictures.
        measures: the measures by name.
    """

    name = "pairs"

    def __init__(self, true: RealPictures, measures: Mapping[str, Measure]) -> None:
        self.true, self.measures = true, measures
        self.fingerprint = f"{' '.join(measures)} {true.fingerprint}"

    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """Return a column for each measure."""
        true = self.true.pictures(numbers)
        return {name: measure(pixels, true) for name, measure in self.measures.items()}


class PairMetric(FeatureMetric):
    """Base class of metrics of pairs: means of measures, and numbers based on features.

    Attributes:
        measures: the measures of a picture and the true one, by name.
    """

    reads = ("conditioning pictures", "features")
    better = "higher"
    redrawn = ("subject",)
    measures: ClassVar[Mapping[str, Measure]]

    @cached_property
    def pairs(self) -> PairObserver:
        """The observer that compares pictures with the real ones."""
        return PairObserver(self.setting.reference, self.measures)

    @cached_property
    @abstractmethod
    def rows(self) -> dict[str, PictureSet]:
        """The sets of pictures that are measured, by the row's name, the subject first."""

    @abstractmethod
    def check(self) -> None:
        """Check that the subject and the reference have pairs.

        Raises:
            NotApplicable: there are no pairs.
        """

    @abstractmethod
    def numbers_of_features(
        self, own: Float[Tensor, "m d"], true: Float[Tensor, "m d"], row: str
    ) -> list[Number]:
        """Compute further numbers of a row from the features of its pictures and the true ones."""

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Request measures and features of each row, and the features of the reference.

        Raises:
            NotApplicable: there are no pairs, no extractor, or too few pictures.
        """
        self.check()
        super().needs()
        needs: list[tuple[PictureSet, Observer]] = [(self.setting.reference, self.observer)]
        for pictures in self.rows.values():
            needs += [(pictures, self.pairs), (pictures, self.observer)]
        return needs

    def numbers(self, observations: Observations) -> list[Number]:
        """Compute means over the pictures of each row, with their intervals.

        For each real picture only the first generated one counts, so that all are independent.
        """
        true = observations.of(self.setting.reference, self.observer)["features"]
        numbers: list[Number] = []
        for row, pictures in self.rows.items():
            features = observations.of(pictures, self.observer)["features"][: len(true)]
            for name, values in observations.of(pictures, self.pairs).items():
                values = values[: len(self.setting.reference)]
                groups = pictures.groups(torch.arange(len(values)))
                mean = self.mean(name, values, groups=groups, row=row, better="higher")
                numbers.append(replace(mean, extractor=""))
            distance = 1 - F.cosine_similarity(features.double(), true[: len(features)].double())
            groups = pictures.groups(torch.arange(len(features)))
            mean = self.mean("distance", distance, 0, groups=groups, row=row, better="lower")
            numbers.append(mean)
            numbers += self.numbers_of_features(features, true[: len(features)], row)
        return numbers
