"""The quality of enlarged pictures, compared with interpolation filters.

For each real picture and the enlargement of its small copy:

    PSNR       -10 log10 E (x - x*)^2, x and x* in [0, 1], the mean over pictures
    SSIM       E (2 m m* + a) (2 s + b) / ((m^2 + m*^2 + a) (v + v* + b)), with the means m, the
               variances v and the covariance s in a Gaussian window of 1.5 pixels, a = 0.01^2,
               b = 0.03^2
    distance   1 - cosine of the two pictures' features
    FD         the Frechet distance between the features of both sets

The model is compared with Pillow's nearest-neighbour, bicubic and Lanczos filters. PSNR and SSIM
reward the mean of all plausible pictures, which is blurred; distance and FD reward what looks real.

References:
    Wang, Bovik, Sheikh, Simoncelli (2004). Image quality assessment: from error visibility to
    structural similarity. doi:10.1109/TIP.2003.819861.
    Blau, Michaeli (2018). The perception-distortion tradeoff. arXiv:1711.06077.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, UInt8
from PIL import Image
from torch import Tensor

from limner.contract.image import to_uint8
from limner.contract.registry import Paper
from limner.contract.upscaling import Upscales
from limner.evaluate.metric import NotApplicable, metric
from limner.evaluate.metrics.fid import distance_of_features, distance_of_pairs
from limner.evaluate.metrics.pairs import Measure, PairMetric, psnr
from limner.evaluate.picture_sets import (
    Numbers,
    PaintedPictures,
    PictureSet,
    Pixels,
    RealPictures,
    SourcePictures,
)
from limner.evaluate.report import SUBJECT, Number
from limner.runtime.cache import cache_key

PAPER = Paper(
    "Image quality assessment: from error visibility to structural similarity",
    "Wang, Bovik, Sheikh, Simoncelli",
    2004,
    doi="10.1109/TIP.2003.819861",
)
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bicubic": Image.Resampling.BICUBIC,
    "Lanczos": Image.Resampling.LANCZOS,
}
"""Interpolation filters, which need no training."""
_SIGMA, _RADIUS = 1.5, 5  # of SSIM's window, as in the authors' code
_A, _B = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(x: UInt8[Tensor, "n c h w"], true: UInt8[Tensor, "n c h w"]) -> Float64[Tensor, "n"]:
    """Compute the structural similarity of each picture, at most 1, over positions and channels.

    Args:
        x, true: pictures of at least 11 x 11.
    """
    offset = torch.arange(-_RADIUS, _RADIUS + 1, dtype=torch.float64)
    window = (-(offset**2) / (2 * _SIGMA**2)).exp()
    window /= window.sum()
    c = x.shape[1]
    kernel_y = window.view(1, 1, -1, 1).expand(c, 1, -1, 1)
    kernel_x = window.view(1, 1, 1, -1).expand(c, 1, 1, -1)

    def mean(y: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(y, kernel_y, groups=c), kernel_x, groups=c)

    u, v = x.double(), true.double()
    mu, mv = mean(u), mean(v)
    uu, vv, uv = mean(u * u) - mu**2, mean(v * v) - mv**2, mean(u * v) - mu * mv
    similarity = (2 * mu * mv + _A) * (2 * uv + _B) / ((mu**2 + mv**2 + _A) * (uu + vv + _B))
    return similarity.flatten(1).mean(1)


class Filtered(SourcePictures):
    """The small copies of real pictures, enlarged with a filter.

    Args:
        real: the real pictures.
        n: the number of pictures.
        method: one of `FILTERS`.
    """

    def __init__(self, real: RealPictures, n: int, method: str) -> None:
        super().__init__(real, n)
        self.method = method
        self.name = f"{method} of {real.name}"
        self.fingerprint = cache_key("filtered", real.fingerprint, method)

    def pictures(self, numbers: Numbers) -> Pixels:
        """Return the enlarged pictures, in the size of the real pictures."""
        small = self.real.condition(numbers, self.real.spec).image
        assert small is not None
        size = self.spec.width, self.spec.height
        planes = to_uint8(small).flatten(0, 1).numpy()
        large = [Image.fromarray(plane).resize(size, FILTERS[self.method]) for plane in planes]
        pixels = torch.from_numpy(np.stack([np.array(plane) for plane in large]))
        return pixels.unflatten(0, tuple(small.shape[:2]))


@metric("upscaling", paper=PAPER)
class Upscaling(PairMetric):
    """PSNR, SSIM, distance and FD of enlarged pictures, and the same for filters."""

    summary = "how good enlarged pictures are, compared with nearest, bicubic and Lanczos"
    measures: ClassVar[Mapping[str, Measure]] = {"PSNR": psnr, "SSIM": ssim}

    @cached_property
    def rows(self) -> dict[str, PictureSet]:
        """The subject, and the pictures enlarged with each filter."""
        s = self.setting
        filtered = {name: Filtered(s.reference, len(s.subject), name) for name in FILTERS}
        return {SUBJECT: s.subject, **filtered}

    def check(self) -> None:
        """Check that the subject enlarges pictures and that the reference has small copies.

        Raises:
            NotApplicable: it does not, it has none, or the pictures are too small for SSIM.
        """
        s = self.setting
        if not (isinstance(s.model, Upscales) and isinstance(s.subject, PaintedPictures)):
            raise NotApplicable(f"{s.subject.name} does not enlarge pictures")
        if s.reference.spec.hint is None or s.reference.dataset.hint not in ("lowres", "bicubic"):
            raise NotApplicable(f"{s.reference.name} has no small copies; give data.hint=bicubic")
        if min(s.reference.spec.shape[1:]) <= 2 * _RADIUS:
            raise NotApplicable(
                f"SSIM needs pictures of at least {2 * _RADIUS + 1} pixels per side"
            )

    def numbers_of_features(
        self, own: Float[Tensor, "m d"], true: Float[Tensor, "m d"], row: str
    ) -> list[Number]:
        """Compute FD, with an interval over the pictures."""
        is_small = len(own) < 3
        fd = distance_of_features(own, true) if is_small else distance_of_pairs(own, true)
        return [self.number("FD", fd, len(own), row=row, better="lower")]
