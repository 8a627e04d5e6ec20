"""Base of the style-based GANs: truncation, codes, and style mixing.

A mapping network maps z to w. A synthesis network generates a picture from a w for each layer, from
coarse to fine. All these models share:

    truncation   w' = mean + psi (w - mean), in the first layers or in all
    code         w = mean + code * axes, where the axes are scaled so that codes have variance 1
    mixing       some layers use the w of another picture

Karras, Laine, Aila (2018). A style-based generator architecture for generative adversarial
networks. arXiv:1812.04948. Karras, Laine, Aittala, Hellsten, Lehtinen, Aila (2019). Analyzing and
improving the image quality of StyleGAN. arXiv:1912.04958.
"""

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from limner.contract.abilities import Mixes
from limner.contract.codes import Encodes
from limner.contract.image import Batch, Condition, Images, one_for_each
from limner.contract.noise import Blend, Noise, Purpose
from limner.contract.options import Natural
from limner.gans.adversarial_model import Adversarial
from limner.gans.resampling import downsample
from limner.gans.stylegan2_networks import Mapping, Styles

_MEAN_SAMPLES = 1024  # styles for the mean of w
_SEARCH_CANDIDATES = 64  # initial codes that are tried in a search
_SEARCH_STEPS, _SEARCH_RATE = 200, 0.1
_PRIOR_WEIGHT = 1e-3  # weight of the code's mean square in a search


class Other(NamedTuple):
    """The source of the styles of some layers.

    Args:
        noise: random streams of the z.
        c: condition of the styles.
        layers: the layers that use them.
    """

    noise: Noise
    c: Condition
    layers: slice


class StyleModel(Adversarial, Encodes, Mixes):
    """Base of GANs with a generator that maps z to w, and w to a picture.

    A subclass calls `remember_styles` in its constructor, and has `mapping`, `latent`,
    `style_layers` and `paint_sizes`.

    Attributes:
        w_mean: the mean of w over all conditions, then the mean of each class.
        w_axes: principal axes of w, one per row, as long as the standard deviation along them.
    """

    w_mean: Tensor
    w_axes: Tensor
    mapping: Mapping
    latent: int
    spherical: ClassVar[bool] = False

    def remember_styles(self, classes: int, style: int) -> None:
        """Register the buffers of the mean of w, and of its axes."""
        self.register_buffer("w_mean", torch.zeros(1 + classes, style))
        self.register_buffer("w_axes", torch.eye(style))

    @abstractmethod
    def paint_sizes(
        self, w: Styles, c: Condition, noise: Noise | None, other: Other | None = None
    ) -> Iterator[Images]:
        """Yield the picture at each size, smallest first.

        Args:
            w: a style for each layer.
            c: condition of the pictures.
            noise: random streams of the layers' noise; None for no noise.
            other: source of the styles of some layers, if it differs.
        """

    def styles(self, c: Condition, noise: Noise, psi: float, cutoff: int | None) -> Styles:
        """Return styles for sampling, of one z each, truncated by psi in the first layers."""
        w = self.mapping(noise.normal(self.latent), c).to(self.w_mean)
        centre = self.centre(c, len(w)).to(w)
        is_truncated = torch.arange(self.style_layers, device=w.device) < (
            self.style_layers if cutoff is None else cutoff
        )
        return torch.where(is_truncated[:, None], torch.lerp(centre, w, psi)[:, None], w[:, None])

    def centre(self, c: Condition, n: int) -> Float[Tensor, "b style"]:
        """Return the mean style of each row's class, or of all classes."""
        if c.label is None or len(self.w_mean) == 1:
            return self.w_mean[:1].expand(n, -1)
        return self.w_mean[c.label + 1]

    def calibrate(self, batches: Iterator[Batch]) -> None:
        """Estimate the mean style, of all and of each class, and the axes of its covariance."""
        conditions = Condition.cat([c for _, c in batches])
        n = max(len(conditions), 1)
        conditions = conditions.repeat(-(-_MEAN_SAMPLES // n)).rows(slice(0, _MEAN_SAMPLES))
        z = Noise.keyed(0, Purpose.CALIBRATION, range(_MEAN_SAMPLES), str(self.device)).normal(
            self.latent
        )
        w = self.mapping(z, conditions)
        self.w_mean[0] = w.mean(0)
        for label in range(len(self.w_mean) - 1):
            class_conditions = replace(
                conditions, label=torch.full((_MEAN_SAMPLES,), label, device=z.device)
            )
            self.w_mean[1 + label] = self.mapping(z, class_conditions).mean(0)
        variance, axes = torch.linalg.eigh(w.double().T.cov())
        deviation = variance.clamp(min=1e-6 * float(variance.max())).sqrt()
        self.w_axes.copy_((axes * deviation).T)

    @torch.no_grad()
    def encode(self, x: Images, c: Condition = Condition()) -> Float[Tensor, "b style"]:
        """Return the code with the nearest picture, by gradient descent from the best of several.

        w = mean + code * axes, where codes have variance 1 (Zhu, Abdal, Qin, Femiani, Wonka, 2020.
        Improved StyleGAN embedding: where are the good latents? arXiv:2012.09036). The loss is the
        squared error at all sizes, plus a small penalty on the length of the code. All layers use
        the same style, as in the model's own samples.
        """
        target = pyramid(x)
        code = self._start(target, c).requires_grad_()
        adam = torch.optim.Adam([code], lr=_SEARCH_RATE, betas=(0.9, 0.99))
        for step in range(_SEARCH_STEPS):
            adam.param_groups[0]["lr"] = _SEARCH_RATE * math.cos(math.pi / 2 * step / _SEARCH_STEPS)
            with torch.enable_grad():
                error = pyramid_distance(pyramid(soft_clamp(self.decode(code, c))), target)
                loss = (error + _PRIOR_WEIGHT * code.square().mean(1)).sum()
                (code.grad,) = torch.autograd.grad(loss, code)
            adam.step()
        return code.detach()

    def _start(self, target: list[Tensor], c: Condition) -> Float[Tensor, "b style"]:
        """Return for each picture the code of the nearest among pictures of random styles."""
        starts: list[Tensor] = []
        for i in range(len(target[0])):
            rows = slice(i, i + 1)
            noise = Noise.sampling(0, _SEARCH_CANDIDATES, str(self.device))
            conditions = self.fill_condition(c.rows(rows).repeat(_SEARCH_CANDIDATES), noise)
            w = self.mapping(noise.normal(self.latent).to(self.w_axes), conditions)
            code = (w - self.centre(c.rows(rows), 1)) @ torch.linalg.inv(self.w_axes)
            candidates = pyramid(soft_clamp(self.decode(code, c.rows(rows).repeat(len(code)))))
            nearest = pyramid_distance(candidates, [size[rows] for size in target]).argmin()
            starts.append(code[nearest])
        return torch.stack(starts)

    def decode(self, z: Float[Tensor, "b style"], c: Condition = Condition()) -> Images:
        """Return the picture of each code, without noise."""
        w = self.centre(c, len(z)) + z @ self.w_axes
        w = w[:, None].expand(-1, self.style_layers, -1)
        return deque(self.paint_sizes(w, c, None), maxlen=1).pop()

    def mix(
        self,
        other: Sequence[int | Blend],
        layers: slice,
        c: Condition = Condition(),
        *,
        of: Condition | None = None,
        seed: Sequence[int | Blend],
        **options: Any,
    ) -> Images:
        """Return pictures of seeds, with other seeds' styles in some layers; see `Mixes`."""
        n = len(other)
        other_noise = Noise.sampling(other, n, str(self.device))
        of = one_for_each(n, c if of is None else of).to(self.device)
        style_of = Other(other_noise, self.fill_condition(of, other_noise), layers)
        frames = partial(self.frames, style_of=style_of)
        *_, x = self.run_frames(frames, n, c, seed, False, options)
        return x

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        psi: Annotated[float, Field(ge=0, le=2)] = 1.0,
        cutoff: Natural | None = None,
        style_of: Other | None = None,
    ) -> Iterator[Images]:
        """Yield the pictures, from the smallest size to the full one.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            psi: truncation: factor of the distance of styles from their mean, 0 for the mean
                itself; below 1, pictures are better on average, but less varied.
            cutoff: number of layers that are truncated, coarsest first; None for all.
            style_of: source of some layers' styles.
        """
        w = self.styles(c, noise, psi, cutoff)
        if style_of is not None:
            other_noise, other_c, layers = style_of
            w[:, layers] = self.styles(other_c, other_noise, psi, cutoff)[:, layers]
        sizes = list(self.paint_sizes(w, c, noise, style_of))
        for x in sizes if preview else sizes[-1:]:
            yield F.interpolate(x, self.spec.shape[1:])

    def frame_count(self, **options: object) -> int:
        """Return one frame for each size."""
        return self.style_layers // 2


def soft_clamp(x: Images) -> Images:
    """Clamp a picture to [-1, 1], plus a tenth of the excess, so that gradients do not vanish."""
    return torch.lerp(x.clamp(-1, 1), x, 0.1)


def pyramid(x: Images) -> list[Tensor]:
    """Return a picture, and its halved versions as long as both sides are even."""
    sizes = [x]
    while not (sizes[-1].shape[2] % 2 or sizes[-1].shape[3] % 2):
        sizes.append(downsample(sizes[-1]))
    return sizes


def pyramid_distance(a: list[Tensor], b: list[Tensor]) -> Float[Tensor, "n"]:
    """Return the mean squared difference of two pyramids, with the same weight for each size."""
    errors = [(x - y).square().flatten(1).mean(1) for x, y in zip(a, b)]
    return torch.stack(errors).mean(0)
