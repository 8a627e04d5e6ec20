"""Adaptive augmentation: random changes of the critic's input, so that it cannot memorise a small
data set.

Each change is applied with probability p, to real and to generated pictures alike. If p is well
below 1, the generator still learns the data, not the changes (appendix C). The critic's
overfitting is measured by r_t = E[sign s(x)] on real pictures: p rises while r_t is above its
target, and falls while it is below (section 3).

Karras, Aittala, Hellsten, Laine, Lehtinen, Aila (2020). Training generative adversarial networks
with limited data. arXiv:2006.06676, appendix B.

Kept: the changes "bgc" (blits, geometry, colour), in their order and strength, twice
differentiable. Different: pictures are resampled bilinearly, not with a wavelet filter.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.image import Images
from limner.contract.noise import Noise
from limner.runtime import processes

Matrices = Float[Tensor, "b n n"]
_SCALE, _SHIFT = 0.2, 0.125  # deviations of log2 of a scale, and of a shift / side
_BRIGHTNESS, _CONTRAST, _SATURATION = 0.2, 0.5, 1.0
_MAX_RANDOM_NUMBERS = 24  # random numbers of each kind that the changes of a picture need at most


class Chances:
    """Random parameters of changes: each is drawn with probability p, otherwise it is neutral.

    Args:
        p: probability of each change.
        noise: a random stream for each picture. All numbers are drawn at once, since drawing them
            one by one takes longer than the changes themselves.
    """

    def __init__(self, p: Float[Tensor, ""], noise: Noise) -> None:
        self.p, self.noise = p, noise
        self.uniforms, self.normals = (
            iter(numbers.unbind(1))
            for numbers in (noise.uniform(_MAX_RANDOM_NUMBERS), noise.normal(_MAX_RANDOM_NUMBERS))
        )

    def uniform(self) -> Float[Tensor, "b"]:
        """Return numbers that are uniform in [0, 1)."""
        return next(self.uniforms)

    def normal(self, scale: float) -> Float[Tensor, "b"]:
        """Return draws from N(0, scale^2), or 0."""
        return torch.where(self.happens(self.p), scale * next(self.normals), 0.0)

    def angle(self, p: Float[Tensor, ""]) -> Float[Tensor, "b"]:
        """Return angles that are uniform in [-pi, pi), or 0."""
        return torch.where(self.happens(p), math.pi * (2 * self.uniform() - 1), 0.0)

    def choice(self, k: int) -> Float[Tensor, "b"]:
        """Return one of 0 .. k - 1, or 0."""
        return torch.where(self.happens(self.p), (k * self.uniform()).floor(), 0.0)

    def happens(self, p: Float[Tensor, ""]) -> Tensor:
        """Return whether a change is made, for each picture."""
        return self.uniform() < p


class Augmentation(nn.Module):
    """Random changes of pictures, with an adaptive probability.

    Args:
        target: target of r_t; 0 turns augmentation off.
        images: number of pictures in which p rises from 0 to 1, if it always rises.
        every: steps between updates of p.

    Attributes:
        p: the probability of each change, a buffer.
    """

    p: Tensor
    signs: Tensor

    def __init__(self, target: float, images: int, every: int) -> None:
        super().__init__()
        self.target, self.images, self.every = target, images, every
        self.register_buffer("p", torch.zeros(()))
        self.register_buffer("signs", torch.zeros(2))  # the sum of signs, and their number

    def forward(self, x: Images, noise: Noise) -> Images:
        """Return changed pictures."""
        if not self.target:
            return x
        with torch.autocast(x.device.type, enabled=False):  # positions need full precision
            chances = Chances(self.p, noise)
            x = resample(x.float(), placements(chances, x.shape[2], x.shape[3]))
            return recolour(x, colours(chances)) if x.shape[1] in (1, 3) else x

    @torch.no_grad()
    def update(self, real: Float[Tensor, "b"], step: int) -> None:
        """Count the signs of scores of real pictures, and update p every `every` steps from the
        counts of all processes.

        Args:
            real: scores of real pictures.
            step: step of training.
        """
        if not self.target:
            return
        self.signs += torch.stack([real.float().sign().sum(), self.signs.new_tensor(len(real))])
        if (step + 1) % self.every == 0:
            total, count = processes.sum_(self.signs)
            self.p += (total / count - self.target).sign() * count / self.images
            self.p.clamp_(0, 1)
            self.signs.zero_()


def placements(chances: Chances, h: int, w: int) -> Matrices:
    """Return the random geometric transform of each picture: "b 3 3", in pixels from the centre.

    Args:
        chances: the random parameters.
        h, w: height and width of the pictures.
    """
    m = scaling(1 - 2 * chances.choice(2), torch.ones(()))  # a mirror image
    m = m @ rotation(chances.choice(4) * (math.pi / 2))
    happens = chances.happens(chances.p)
    shifts = [(2 * chances.uniform() - 1) * _SHIFT * side for side in (w, h)]
    m = m @ translation(*(torch.where(happens, shift.round(), 0.0) for shift in shifts))
    scale = torch.exp2(chances.normal(_SCALE))
    m = m @ scaling(scale, scale)
    p_each = 1 - (1 - chances.p.clamp(max=1)).sqrt()  # so that one of two rotations happens with p
    m = m @ rotation(chances.angle(p_each))
    scale = torch.exp2(chances.normal(_SCALE))
    m = m @ scaling(scale, 1 / scale) @ rotation(chances.angle(p_each))
    happens = chances.happens(chances.p)
    shifts = [next(chances.normals) * _SHIFT * side for side in (w, h)]
    return m @ translation(*(torch.where(happens, shift, 0.0) for shift in shifts))


def colours(chances: Chances) -> Matrices:
    """Return the random colour transform of each picture: "b 4 4", of (red, green, blue, 1)."""
    luma = torch.ones(4, device=chances.p.device) / math.sqrt(3)  # the axis of greys, a unit vector
    luma[3] = 0
    projection = luma.outer(luma)
    eye = torch.eye(4, device=chances.p.device)
    m = eye.repeat(len(chances.noise), 1, 1)
    brightness = chances.normal(_BRIGHTNESS)
    m[:, :3, 3] = brightness[:, None]
    contrast = torch.exp2(chances.normal(_CONTRAST))
    m = torch.stack([contrast, contrast, contrast, torch.ones_like(contrast)], 1)[:, :, None] * m
    m = (eye - 2 * projection * chances.choice(2)[:, None, None]) @ m  # invert lightness
    m = _about(luma, chances.angle(chances.p)) @ m
    saturation = torch.exp2(chances.normal(_SATURATION))[:, None, None]
    return (projection + (eye - projection) * saturation) @ m


def recolour(x: Images, m: Matrices) -> Images:
    """Apply colour transforms; for grey pictures, their mean over the three channels."""
    if x.shape[1] == 1:
        m = m[:, :3].mean(1, keepdim=True)
        m = torch.stack([m[..., :3].sum(2), m[..., 3]], 2)
    linear, offset = m[:, : x.shape[1], : x.shape[1]], m[:, : x.shape[1], -1]
    y = torch.einsum("bij,bjhw->bihw", linear.to(x), x)
    return y + offset.to(x)[:, :, None, None]


def resample(x: Images, m: Matrices) -> Images:
    """Return y with y(u) = x(m u), bilinear between pixels; outside, the picture is reflected.

    Args:
        x: pictures.
        m: matrices "b 3 3" on (right, down, 1), in pixels from the centre.
    """
    b, c, h, w = x.shape
    down, right = torch.meshgrid(
        torch.arange(h, device=x.device) - (h - 1) / 2,
        torch.arange(w, device=x.device) - (w - 1) / 2,
        indexing="ij",
    )
    u = torch.stack([right.flatten(), down.flatten(), torch.ones_like(right).flatten()])
    positions = m.to(u) @ u  # b 3 h*w
    column, row = (
        _reflect(positions[:, i] + (side - 1) / 2, side) for i, side in enumerate((w, h))
    )
    left, top = column.floor(), row.floor()
    y = torch.zeros_like(x).flatten(2)
    pixels = x.flatten(2)
    for i, share_i in ((0, 1 - (row - top)), (1, row - top)):
        for j, share_j in ((0, 1 - (column - left)), (1, column - left)):
            index = (top + i).clamp(max=h - 1) * w + (left + j).clamp(max=w - 1)
            values = pixels.gather(2, index.long()[:, None].expand(b, c, h * w))
            y = y + values * (share_i * share_j).to(x)[:, None]
    return y.unflatten(2, (h, w))


def _reflect(position: Float[Tensor, "b n"], side: int) -> Float[Tensor, "b n"]:
    """Map positions to 0 .. side - 1, reflecting them at the outermost pixels."""
    if side == 1:
        return torch.zeros_like(position)
    return (side - 1) - (position.remainder(2 * (side - 1)) - (side - 1)).abs()


def scaling(right: Float[Tensor, "b"], down: Float[Tensor, "*b"]) -> Matrices:
    """Return the matrices diag(right, down, 1)."""
    down = down.expand_as(right).to(right)
    return torch.stack([right, down, torch.ones_like(right)], 1).diag_embed()


def translation(right: Float[Tensor, "b"], down: Float[Tensor, "b"]) -> Matrices:
    """Return matrices that shift by given numbers of pixels."""
    m = torch.eye(3, device=right.device).repeat(len(right), 1, 1)
    m[:, 0, 2], m[:, 1, 2] = right, down
    return m


def rotation(angle: Float[Tensor, "b"]) -> Matrices:
    """Return matrices that rotate about the centre, by angles in radians."""
    m = torch.eye(3, device=angle.device).repeat(len(angle), 1, 1)
    m[:, 0, 0] = m[:, 1, 1] = angle.cos()
    m[:, 1, 0] = angle.sin()
    m[:, 0, 1] = -angle.sin()
    return m


def _about(axis: Float[Tensor, "4"], angle: Float[Tensor, "b"]) -> Matrices:
    """Return Rodrigues' rotation about an axis in colour space, "b 4 4"."""
    x, y, z, _ = axis
    nil = torch.zeros_like(x)
    cross = torch.stack([nil, -z, y, nil, z, nil, -x, nil, -y, x, nil, nil, nil, nil, nil, nil])
    cross = cross.view(4, 4)
    a = angle[:, None, None]
    eye = torch.eye(4, device=axis.device)
    return eye + a.sin() * cross + (1 - a.cos()) * cross @ cross
