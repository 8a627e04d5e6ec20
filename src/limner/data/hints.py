"""Conditioning pictures computed from pictures: `data.hint=edges|scribble|line|lowres|bicubic`.

    edges      Canny edges: white where the brightness changes sharply, one pixel wide
    scribble   edges of the blurred picture, as thick as a felt pen
    line       soft lines where the picture is darker than its surroundings, by a difference of
               Gaussians, tanh(20 max(G_1.6s * x - G_s * x, 0))
    lowres     means of blocks of pixels, with an eighth of the side, or by `data.reduction`
    bicubic    the same size, with the antialiased bicubic filter that also reads the data

Lines are white on black. Widths are in sixty-fourths of a side, so that a hint of a picture looks
the same at any size. `scenes` also have exact hints `mask` and `boxes`.

References:
    Canny (1986). A computational approach to edge detection. IEEE TPAMI 8(6).
    Winnemöller, Kyprianidis, Olsen (2012). XDoG: an eXtended difference-of-Gaussians compendium
    including advanced image stylization. Computers & Graphics 36(6).
"""

from collections.abc import Callable
from typing import Literal, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limner.contract.errors import LimnerError, install_command, unknown
from limner.contract.image import Images, ImageSpec
from limner.contract.upscaling import resize

PictureHint = Literal["edges", "scribble", "line", "lowres", "bicubic"]
"""Hints that can be computed from any picture."""
Hint = Literal[PictureHint, "mask", "boxes", "objects"]
"""All hints; the last three need the positions of objects, which only scenes have."""
DRAWINGS = ("edges", "scribble", "line")
"""Hints with white lines on black."""
Hints = Float[Tensor, "b k hh ww"]
REDUCED_HINTS = ("lowres", "bicubic")
"""Hints with the pictures at a lower resolution."""
BINARY = ("edges", "scribble", "mask", "boxes")
"""Hints with two levels."""
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_LOW, _HIGH = 0.1, 0.2  # Canny's thresholds for gradients of the brightness, which is in [0, 1]
_SLOPE, _WIDE = 20.0, 1.6  # XDoG's phi, and its k
REDUCTION = 8
"""Default factor between the sides of a picture and of its low resolution."""
_MIN_SIDE = 4  # smallest side of a low resolution


def hint_spec(kind: Hint, spec: ImageSpec, reduction: int = REDUCTION) -> ImageSpec:
    """Return the specification of the hints of pictures, with the kind as the domain.

    Args:
        kind: kind of hints.
        spec: specification of the pictures.
        reduction: factor between the sides of a picture and of its low resolution.

    Raises:
        LimnerError: the package that finds edges is not installed.
    """
    height, width = spec.shape[1:]
    if kind in REDUCED_HINTS:
        height, width = (max(side // reduction, _MIN_SIDE) for side in (height, width))
    if kind in ("edges", "scribble"):
        _canny()
    channels, levels = _format(kind, spec)
    return ImageSpec(channels, height, width, levels, domain=kind)


def hint_kind(spec: ImageSpec) -> Hint | None:
    """Return the kind of hints with which `data.hint` conditions a model, or None.

    Pairs of two domains are no such hints, even if the first one has the name of a kind, as in
    `paired:edges,photos`: then the pictures have the name of the second domain.

    Args:
        spec: specification of the pictures of the model.
    """
    hint = spec.hint
    if hint is None or spec.domain or hint.domain not in (*get_args(PictureHint), "mask", "boxes"):
        return None
    kind = cast("Hint", hint.domain)
    return kind if (hint.channels, hint.levels) == _format(kind, spec) else None


def computed_kind(spec: ImageSpec) -> PictureHint | None:
    """Return the kind of hints of a model if they can be computed from any picture, or None.

    Args:
        spec: specification of the pictures of the model.
    """
    kind = hint_kind(spec)
    return cast("PictureHint", kind) if kind in get_args(PictureHint) else None


def _format(kind: Hint, spec: ImageSpec) -> tuple[int, int]:
    """Return the channels and the levels of the hints of pictures."""
    return (spec.channels, 256) if kind in REDUCED_HINTS else (1, 2 if kind in BINARY else 256)


def draw_hint(kind: PictureHint, x: Images, size: tuple[int, int] | None = None) -> Hints:
    """Compute the hints of pictures, in [-1, 1]; see `hint_spec` for their shape.

    Args:
        kind: kind of hints.
        x: the pictures.
        size: (height, width) of a low resolution; by default, an eighth of the pictures' sides.

    Raises:
        LimnerError: there is no such kind.
    """
    if kind in REDUCED_HINTS:
        height, width = size or [max(side // REDUCTION, _MIN_SIDE) for side in x.shape[2:]]
        if kind == "bicubic":
            return resize(x, height, width)
        return F.adaptive_avg_pool2d(x, (height, width))
    if kind not in _DRAWING_FUNCTIONS:
        raise unknown("hint", kind, [*_DRAWING_FUNCTIONS, *REDUCED_HINTS])
    return _DRAWING_FUNCTIONS[kind](x)


def edges(x: Images) -> Float[Tensor, "b 1 h w"]:
    """Return Canny edges: 1 on edges, -1 elsewhere."""
    return _edges(x, max(0.6, x.shape[-1] / 64))


def scribble(x: Images) -> Float[Tensor, "b 1 h w"]:
    """Return edges of the blurred picture, one pixel and two sixty-fourths of the side wide."""
    unit = x.shape[-1] / 64
    return _widen(_edges(x, max(1.0, 2 * unit), 0.5), max(1, round(unit)))


def line(x: Images) -> Float[Tensor, "b 1 h w"]:
    """Return soft lines: 1 on lines, -1 elsewhere."""
    s = max(0.5, 0.7 * x.shape[-1] / 64)
    grey = (brightness(x) + 1) / 2
    darker = (_blur(grey, _WIDE * s) - _blur(grey, s)).clamp(min=0)
    return 2 * torch.tanh(_SLOPE * darker) - 1


_DRAWING_FUNCTIONS: dict[PictureHint, Callable[[Images], Hints]] = {
    "edges": edges,
    "scribble": scribble,
    "line": line,
}
assert {*_DRAWING_FUNCTIONS, *REDUCED_HINTS} == set(get_args(PictureHint))


def brightness(x: Images) -> Float[Tensor, "b 1 h w"]:
    """Return the brightness of pictures, in [-1, 1]."""
    if x.shape[1] != len(_LUMA):
        return x.mean(1, keepdim=True)
    return (x * x.new_tensor(_LUMA).view(1, -1, 1, 1)).sum(1, keepdim=True)


def _canny() -> Callable[..., np.ndarray]:
    try:
        from skimage.feature import canny  # pyright: ignore
    except ModuleNotFoundError:
        raise LimnerError(f"edges need scikit-image; type: {install_command('control')}") from None
    return canny


def _edges(x: Images, sigma: float, factor: float = 1.0) -> Float[Tensor, "b 1 h w"]:
    """Return Canny edges after a blur by `sigma`, with the thresholds multiplied by `factor`."""
    canny, limits = _canny(), (factor * _LOW, factor * _HIGH)
    grey = ((brightness(x.detach()) + 1) / 2)[:, 0].cpu().double().numpy()
    maps = [canny(image, sigma, *limits, mode="nearest") for image in grey]
    return 2 * torch.from_numpy(np.stack(maps))[:, None].to(x) - 1


def _widen(x: Float[Tensor, "b 1 h w"], radius: int) -> Float[Tensor, "b 1 h w"]:
    """Return the maximum over a square that extends `radius` pixels to each side."""
    return F.max_pool2d(x, 2 * radius + 1, stride=1, padding=radius)


def _blur(x: Float[Tensor, "b 1 h w"], sigma: float) -> Float[Tensor, "b 1 h w"]:
    """Apply a Gaussian blur, with replicated borders."""
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    weights = (weights / weights.sum()).view(1, 1, 1, -1)
    for kernel, pad in (
        (weights, (radius, radius, 0, 0)),
        (weights.mT.contiguous(), (0, 0, radius, radius)),
    ):
        x = F.conv2d(F.pad(x, pad, mode="replicate"), kernel)
    return x
