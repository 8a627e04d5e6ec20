"""Conditioning pictures that are computed from pictures: `data.hint=edges|scribble|line|lowres|
bicubic`.

    edges      Canny's: white where the brightness changes at once, one pixel wide
    scribble   the edges of a blurred picture, as thick as a felt pen
    line       soft lines where it is darker than around, by a difference of Gaussians,
               tanh(20 max(G_1.6s * x - G_s * x, 0))
    lowres     the means of blocks of pixels, an eighth of the side, or `data.reduction`
    bicubic    the same by the antialiased bicubic filter that data are read with

Lines are white on black. Widths are in sixty-fourths of a side, so that a hint of a picture looks
the same at any size. `scenes` also know `mask` and `boxes`, exactly.

References:
    Canny (1986). A computational approach to edge detection. IEEE TPAMI 8(6).
    Winnemöller, Kyprianidis, Olsen (2012). XDoG: an eXtended difference-of-Gaussians compendium
    including advanced image stylization. Computers & Graphics 36(6).
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limner.contract.errors import LimnerError, install, unknown
from limner.contract.image import Images, ImageSpec
from limner.contract.upscaling import resize

PictureHint = Literal["edges", "scribble", "line", "lowres", "bicubic"]
"""Hints of any picture."""
Hint = Literal[PictureHint, "mask", "boxes", "objects"]
"""All hints; the last three are of pictures of which it is known what stands where."""
DRAWINGS = ("edges", "scribble", "line")
"""Hints that are white lines on black."""
Hints = Float[Tensor, "b k hh ww"]
REDUCED = ("lowres", "bicubic")
"""Hints that are the pictures at a lower resolution."""
BINARY = ("edges", "scribble", "mask", "boxes")
"""Hints of two levels."""
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_LOW, _HIGH = 0.1, 0.2  # Canny's thresholds, of gradients of brightness from 0 to 1
_SLOPE, _WIDE = 20.0, 1.6  # XDoG's phi, and its k
REDUCTION = 8
"""How many times smaller the side of a low resolution is, by default."""
_LEAST = 4  # side of a low resolution


def hint_spec(kind: Hint, spec: ImageSpec, reduction: int = REDUCTION) -> ImageSpec:
    """What the hints of pictures look like; their domain is the kind.

    Args:
        kind: of hints.
        spec: of the pictures.
        reduction: how many times smaller the side of a low resolution is.

    Raises:
        LimnerError: what finds edges is not installed.
    """
    if kind in REDUCED:
        height, width = (max(side // reduction, _LEAST) for side in spec.shape[1:])
        return ImageSpec(spec.channels, height, width, domain=kind)
    if kind in ("edges", "scribble"):
        _canny()
    return ImageSpec(1, spec.height, spec.width, 2 if kind in BINARY else 256, domain=kind)


def draw_hint(kind: PictureHint, x: Images, size: tuple[int, int] | None = None) -> Hints:
    """The hints of pictures, in [-1, 1]; see `hint_spec` for their shape.

    Args:
        kind: of hints.
        x: the pictures.
        size: height and width of a low resolution, if not an eighth of theirs.

    Raises:
        LimnerError: there is no such kind.
    """
    if kind in REDUCED:
        height, width = size or [max(side // REDUCTION, _LEAST) for side in x.shape[2:]]
        if kind == "bicubic":
            return resize(x, height, width)
        return F.adaptive_avg_pool2d(x, (height, width))
    if kind not in _DRAWN:
        raise unknown("hint", kind, [*_DRAWN, *REDUCED])
    return _DRAWN[kind](x)


def edges(x: Images) -> Float[Tensor, "b 1 h w"]:
    """Canny's edges: 1 on them, -1 elsewhere."""
    return _edges(x, max(0.6, x.shape[-1] / 64))


def scribble(x: Images) -> Float[Tensor, "b 1 h w"]:
    """Edges of the blurred picture, three sixty-fourths wide."""
    unit = x.shape[-1] / 64
    return _widened(_edges(x, max(1.0, 2 * unit), 0.5), max(1, round(unit)))


def line(x: Images) -> Float[Tensor, "b 1 h w"]:
    """Soft lines: 1 on them, -1 elsewhere."""
    s = max(0.5, 0.7 * x.shape[-1] / 64)
    grey = (_grey(x) + 1) / 2
    darker = (_blurred(grey, _WIDE * s) - _blurred(grey, s)).clamp(min=0)
    return 2 * torch.tanh(_SLOPE * darker) - 1


_DRAWN: dict[PictureHint, Callable[[Images], Hints]] = {
    "edges": edges,
    "scribble": scribble,
    "line": line,
}
assert {*_DRAWN, *REDUCED} == set(get_args(PictureHint))


def _grey(x: Images) -> Float[Tensor, "b 1 h w"]:
    if x.shape[1] != len(_LUMA):
        return x.mean(1, keepdim=True)
    return (x * x.new_tensor(_LUMA).view(1, -1, 1, 1)).sum(1, keepdim=True)


def _canny() -> Callable[..., np.ndarray]:
    try:
        from skimage.feature import canny  # pyright: ignore
    except ModuleNotFoundError:
        raise LimnerError(f"edges need scikit-image; type: {install('control')}") from None
    return canny


def _edges(x: Images, sigma: float, least: float = 1.0) -> Float[Tensor, "b 1 h w"]:
    """Canny's edges of a picture that is blurred so far, by shares of the thresholds."""
    canny, limits = _canny(), (least * _LOW, least * _HIGH)
    grey = ((_grey(x.detach()) + 1) / 2)[:, 0].cpu().double().numpy()
    found = [canny(one, sigma, *limits, mode="nearest") for one in grey]
    return 2 * torch.from_numpy(np.stack(found))[:, None].to(x) - 1


def _widened(drawn: Float[Tensor, "b 1 h w"], radius: int) -> Float[Tensor, "b 1 h w"]:
    """The greatest value within a square of so many pixels to each side."""
    return F.max_pool2d(drawn, 2 * radius + 1, stride=1, padding=radius)


def _blurred(x: Images, sigma: float) -> Images:
    """A Gaussian blur; the borders go on outwards."""
    radius = max(1, round(3 * sigma))
    at = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    weights = torch.exp(-(at**2) / (2 * sigma**2))
    weights = (weights / weights.sum()).expand(x.shape[1], 1, 1, -1)
    for kernel, pad in (
        (weights, (radius, radius, 0, 0)),
        (weights.mT.contiguous(), (0, 0, radius, radius)),
    ):
        x = F.conv2d(F.pad(x, pad, mode="replicate"), kernel, groups=x.shape[1])
    return x
