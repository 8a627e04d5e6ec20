"""Conditioning augmentation: an upsampler sees the small picture with noise of a known level.

Ho, Saharia, Chan, Fleet, Norouzi, Salimans (2021). Cascaded diffusion models for high fidelity
image generation. arXiv:2106.15282, section 4.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.noise import Noise


def augment(
    z: Float[Tensor, "b c h w"], level: Float[Tensor, "b"], largest: float, noise: Noise
) -> Float[Tensor, "b c+1 h w"]:
    """Return noisy small pictures z + s eps, with s as their last channel.

    The pictures may leave [-1, 1]; s is given from -1 (no noise) to 1 (the largest s). This is
    conditioning augmentation, section 4.

    Args:
        z: small pictures.
        level: standard deviation s of each picture's noise, in [0, largest].
        largest: largest s in training.
        noise: random streams of the noise.
    """
    s = level.to(z).view(-1, 1, 1, 1)
    noisy = z + s * noise.normal(*z.shape[1:]).to(z)
    plane = 2 * s / (largest or 1.0) - 1
    return torch.cat([noisy, plane.expand_as(z[:, :1])], dim=1)


def augmentation_level(requested: float | None, usual: float, largest: float) -> float:
    """Return the standard deviation of the noise on the small pictures in sampling.

    Raises:
        LimnerError: it exceeds the largest one in training.
    """
    level = usual if requested is None else requested
    if level > largest:
        raise LimnerError(
            f"sampler option level={level:g} is above the largest level in this model's training; "
            f"give at most {largest:g}"
        )
    return level
