"""How near are pictures to the true ones, where these are known? Of each made from a picture whose
counterpart the data have (`paired:A,B`): a translation, an enlargement, a drawing from edges.

    PSNR       -10 log10 E (x - x*)^2, x and x* in [0, 1], the mean over pictures
    distance   1 - cosine of the two pictures' features
    R@1        how often a picture's own counterpart is the nearest of 100 by features

A rank counts ties against: a model that paints one picture of everything finds nothing.

References:
    Hore, Ziou (2010). Image quality metrics: PSNR vs. SSIM. doi:10.1109/ICPR.2010.579.
    Zhang, Isola, Efros, Shechtman, Wang (2018). The unreasonable effectiveness of deep features as
    a perceptual metric. arXiv:1801.03924. (Features in place of pixels.)
"""

from functools import cached_property
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from limner.contract.image import from_uint8
from limner.contract.registry import Paper
from limner.evaluate.metric import FeatureMetric, NotApplicable, metric
from limner.evaluate.metrics.statistics import percentiles, resampled, shuffled
from limner.evaluate.passes import Columns, Observer, Seen
from limner.evaluate.picture_sets import (
    Numbers,
    PaintedPictures,
    PictureSet,
    Pixels,
    RealPictures,
    SourcePictures,
)
from limner.evaluate.report import SUBJECT, Number

PAPER = Paper(
    "Image quality metrics: PSNR vs. SSIM", "Hore, Ziou", 2010, doi="10.1109/ICPR.2010.579"
)
GALLERY = 100
"""Counterparts of which one is a picture's own."""
_DARKEST = 1e-10  # of a mean squared error, for pictures that are equal


def psnr(x: UInt8[Tensor, "n c h w"], true: UInt8[Tensor, "n c h w"]) -> Float64[Tensor, "n"]:
    """The peak signal-to-noise ratio of each picture, in decibels; at most 100."""
    error = ((from_uint8(x) - from_uint8(true)) / 2).double().square().flatten(1).mean(1)
    return -10 * error.clamp(min=_DARKEST).log10()


def found_among(
    features: Float[Tensor, "n d"], true: Float[Tensor, "n d"], gallery: int, seed: int = 0
) -> Bool[Tensor, "n"]:
    """Whether each picture is nearer to its own counterpart than to those of gallery - 1 others.

    Args:
        features: of pictures.
        true: of their counterparts.
        gallery: how many there are to choose from; all, where there are fewer.
        seed: of who the others are.
    """
    n = len(features)
    similar = F.normalize(features.double(), dim=1) @ F.normalize(true.double(), dim=1).T
    order = shuffled(n, seed)
    place = torch.empty_like(order)
    place[order] = torch.arange(n)
    others = order[(place[:, None] + torch.arange(1, min(gallery, n))) % n]
    return (similar.gather(1, others) < similar.diagonal()[:, None]).all(1)


class SeenErrors(Observer):
    """The PSNR of each picture to the real one of the same number.

    Args:
        true: the real pictures.
    """

    name = "psnr"

    def __init__(self, true: RealPictures) -> None:
        self.true = true
        self.fingerprint = f"psnr {true.fingerprint}"

    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """`psnr`, in decibels."""
        return {"psnr": psnr(pixels, self.true.pictures(numbers))}


@metric("counterpart", paper=PAPER)
class Counterpart(FeatureMetric):
    """PSNR, distance and R@1 of the true picture, beside those of what pictures are made from."""

    summary = "how near pictures are to the true ones, where the data are pairs"
    reads = ("conditioning pictures", "features")
    better = "higher"
    least = 2
    redrawn = ("subject",)

    @cached_property
    def errors(self) -> SeenErrors:
        """What compares pictures with the true ones."""
        return SeenErrors(self.setting.reference)

    @cached_property
    def rows(self) -> dict[str, PictureSet]:
        """The subject and, where these look like pictures, what it was made from: as it is, and
        with the colours that the true pictures have (scikit-image, where it is installed)."""
        s = self.setting
        found: dict[str, PictureSet] = {SUBJECT: s.subject}
        hint, n = s.reference.spec.hint, len(s.subject)
        if hint and hint.channels in (1, s.reference.spec.channels):
            found["source"] = SourcePictures(s.reference, n)
            if find_spec("skimage"):
                found["source, colours matched"] = SourcePictures(s.reference, n, matched=True)
        return found

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Errors of the subject; the features of it and of the reference.

        Raises:
            NotApplicable: the reference has no pairs, or the subject was not made from them.
        """
        s = self.setting
        if not (isinstance(s.subject, PaintedPictures) and s.subject.spec.hint):
            raise NotApplicable(f"{s.subject.name} is not made from pictures")
        if not s.reference.dataset.paired:
            raise NotApplicable(
                f"{s.reference.name} has no true counterparts; judge --against paired:A,B"
            )
        super().needs()
        seen: list[tuple[PictureSet, Observer]] = [(s.reference, self.observer)]
        for pictures in self.rows.values():
            seen += [(pictures, self.errors), (pictures, self.observer)]
        return seen

    def numbers(self, seen: Seen) -> list[Number]:
        """Means over the pictures of each row, with intervals over them."""
        true = seen.of(self.setting.reference, self.observer)["features"]
        found: list[Number] = []
        for row, pictures in self.rows.items():
            errors = seen.of(pictures, self.errors)["psnr"].double()
            own = seen.of(pictures, self.observer)["features"][: len(true)]
            n, m = len(errors), len(own)
            apart = 1 - F.cosine_similarity(own.double(), true[:m].double())
            right = found_among(own, true[:m], GALLERY)
            error, distance = (
                percentiles(float(e.mean()), e[resampled(len(e), self.setting.seed)].mean(1))
                for e in (errors, apart)
            )
            more: dict[str, Any] = {"row": row, "better": "higher"}
            interval = {"low": error.low, "high": error.high}
            found += [
                Number(self.name, "PSNR", error.value, n, **interval, **more),
                self.number("distance", distance, m, **more | {"better": "lower"}),
                self.share(f"R@1 of {min(GALLERY, m)}", float(right.double().mean()), m, **more),
            ]
        return found
