"""What metrics of pairs share: each picture beside the real one of the same number, row by row."""

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
from limner.evaluate.passes import Columns, Observer, Seen
from limner.evaluate.picture_sets import Numbers, PictureSet, Pixels, RealPictures
from limner.evaluate.report import Number

Measure = Callable[[Pixels, Pixels], Float64[Tensor, "n"]]
"""A number for each of some pictures and the true ones."""
_LEAST_ERROR = 1e-10  # a mean squared error, for pictures that are equal


def psnr(x: Pixels, true: Pixels) -> Float64[Tensor, "n"]:
    """The peak signal-to-noise ratio of each picture, in decibels; at most 100."""
    error = ((from_uint8(x) - from_uint8(true)) / 2).double().square().flatten(1).mean(1)
    return -10 * error.clamp(min=_LEAST_ERROR).log10()


class PairObserver(Observer):
    """Measures of each picture beside the real one of the same number.

    Args:
        true: the real pictures.
        measures: what is measured, by name.
    """

    name = "pairs"

    def __init__(self, true: RealPictures, measures: Mapping[str, Measure]) -> None:
        self.true, self.measures = true, measures
        self.fingerprint = f"{' '.join(measures)} {true.fingerprint}"

    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """A column for each measure."""
        true = self.true.pictures(numbers)
        return {name: measure(pixels, true) for name, measure in self.measures.items()}


class PairMetric(FeatureMetric):
    """A metric of pairs: the means of its measures, the distance of features, and what else it
    makes of these.
    """

    reads = ("conditioning pictures", "features")
    better = "higher"
    redrawn = ("subject",)
    measures: ClassVar[Mapping[str, Measure]]

    @cached_property
    def pairs(self) -> PairObserver:
        """What compares pictures with the real ones."""
        return PairObserver(self.setting.reference, self.measures)

    @cached_property
    @abstractmethod
    def rows(self) -> dict[str, PictureSet]:
        """The pictures that are measured, the subject's first."""

    @abstractmethod
    def check(self) -> None:
        """Refuse a subject or a reference without pairs.

        Raises:
            NotApplicable: there are none.
        """

    @abstractmethod
    def numbers_of_features(
        self, own: Float[Tensor, "m d"], true: Float[Tensor, "m d"], row: str
    ) -> list[Number]:
        """Further numbers of a row, by the features of its pictures and of the true ones."""

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Measures and features of each row, and the features of the reference.

        Raises:
            NotApplicable: there are no pairs, no extractor, or too few pictures.
        """
        self.check()
        super().needs()
        needed: list[tuple[PictureSet, Observer]] = [(self.setting.reference, self.observer)]
        for pictures in self.rows.values():
            needed += [(pictures, self.pairs), (pictures, self.observer)]
        return needed

    def numbers(self, seen: Seen) -> list[Number]:
        """Means over the pictures of each row, with intervals over them; of one real picture the
        first that was made counts, so that all are independent.
        """
        true = seen.of(self.setting.reference, self.observer)["features"]
        found: list[Number] = []
        for row, pictures in self.rows.items():
            own = seen.of(pictures, self.observer)["features"][: len(true)]
            for name, values in seen.of(pictures, self.pairs).items():
                values = values[: len(self.setting.reference)]
                groups = pictures.groups(torch.arange(len(values)))
                mean = self.mean(name, values, groups=groups, row=row, better="higher")
                found.append(replace(mean, extractor=""))
            distance = 1 - F.cosine_similarity(own.double(), true[: len(own)].double())
            groups = pictures.groups(torch.arange(len(own)))
            mean = self.mean("distance", distance, 0, groups=groups, row=row, better="lower")
            found.append(mean)
            found += self.numbers_of_features(own, true[: len(own)], row)
        return found
