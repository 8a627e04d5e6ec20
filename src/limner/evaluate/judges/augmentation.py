"""Data augmentation of judges: small changes of pictures to which a judge should be invariant.

Every random number is drawn from the pictures' own random streams.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limner.contract.image import Images
from limner.contract.noise import Noise


def move_pictures(x: Images, noise: Noise, shift: float, stretch: float, turn: float) -> Images:
    """Shift, scale and rotate pictures about their centre; edge pixels are repeated outwards.

    Args:
        x: the pictures.
        noise: a random stream for each picture.
        shift: the largest shift along each axis, in pixels.
        stretch: the largest scale factor s; its logarithm is uniform on [-log s, log s].
        turn: the largest rotation, in degrees.
    """
    u = 2 * noise.uniform(4) - 1
    angle, factor = u[:, 0] * math.radians(turn), stretch ** u[:, 1]
    dx, dy = (u[:, 2 + i] * 2 * shift / x.shape[3 - i] for i in (0, 1))  # 2 is the whole side
    cos, sin = factor * angle.cos(), factor * angle.sin()
    affine = torch.stack([cos, -sin, dx, sin, cos, dy], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def spoil_pictures(x: Images, noise: Noise, blur: float, grain: float) -> Images:
    """Blur pictures with a Gaussian and add white noise, both of random strength.

    Args:
        x: the pictures.
        noise: a random stream for each picture.
        blur: the Gaussian's deviation in pixels is uniform on [0, blur].
        grain: the noise's deviation is uniform on [0, grain]; pixels lie in [-1, 1].
    """
    strength = noise.uniform(2)
    soft = _blur(x, blur * strength[:, 0])
    grains = noise.normal(*x.shape[1:])
    return (soft + grain * strength[:, 1, None, None, None] * grains).clamp(-1, 1)


def tint_pictures(x: Images, noise: Noise, contrast: float, tint: float) -> Images:
    """Change the contrast and brightness of each channel.

    Args:
        x: the pictures.
        noise: a random stream for each picture.
        contrast: each channel is multiplied by 1 plus a number that is uniform on +-contrast.
        tint: then a number that is uniform on +-tint is added.
    """
    u = 2 * noise.uniform(2, x.shape[1], 1, 1) - 1
    return ((1 + contrast * u[:, 0]) * x + tint * u[:, 1]).clamp(-1, 1)


def coarsen_pictures(x: Images, noise: Noise, share: float) -> Images:
    """Reduce random pictures to half the size, and enlarge them again.

    Args:
        x: the pictures.
        noise: a random stream for each picture.
        share: the probability of each picture to be changed.
    """
    mask = noise.uniform() < share
    small = F.interpolate(x[mask], scale_factor=0.5, mode="area")
    large = F.interpolate(small, x.shape[2:], mode="bicubic").clamp(-1, 1)
    return x.index_put((mask,), large)


def _blur(x: Images, deviation: Float[Tensor, "b"]) -> Images:
    """Blur each picture with its own Gaussian of seven pixels, along one axis after the other."""
    b, c, h, w = x.shape
    distance = torch.arange(-3, 4, device=x.device).square()
    weights = (-distance / (2 * deviation[:, None].square() + 1e-6)).softmax(1)
    kernels = weights.repeat_interleave(c, 0)[:, None]
    y = F.pad(x, (3, 3, 3, 3), mode="replicate").reshape(1, b * c, h + 6, w + 6)
    y = F.conv2d(y, kernels[:, :, :, None], groups=b * c)
    return F.conv2d(y, kernels[:, :, None, :], groups=b * c).view(b, c, h, w)
