"""SR3: a picture is made larger by denoising, given the small one.

Saharia, Ho, Chan, Salimans, Fleet, Norouzi (2021). Image super-resolution via iterative refinement.
arXiv:2104.07636.

    min  E || f(x~, sqrt(g) y + sqrt(1 - g) eps, g) - eps ||^2         (equation 6, p = 2)

y is the large picture, x~ the small one enlarged by the bicubic filter, which the network sees
beside the noisy picture, in channels of its own; it is told the noise level g (alpha-bar)
itself and not the number of a step, so that a picture can be made in any number of steps. In
training a step k is drawn from 1 .. T, and g from between g_k and g_{k-1} (section 2.4), as in Chen
et al. (2020), WaveGrad, arXiv:2009.00713.

Kept: conditioning by channels, the continuous noise level, T = 2000 steps of linear betas, random
refinement in at most 100 steps. Different: the network is told sqrt(g), as WaveGrad's is; the steps
of refinement are evenly spaced in time and not searched, and their variance is the least that can
be right, where the paper has the largest (`sampler.variance=1`); the U-Net works on 2 x 2 patches.
Also here, optional: noise on the small picture (`cascade.augmented`), labels and captions, which
training hides now and then, and the small picture never; and prediction of v. Where little of a
picture is left, predicted noise says little of it, alpha x = x_t - sigma eps, though the small
picture says much; v there is the picture. A small network that predicts noise begins with wrong
colours.

A picture that is larger than the model's own is refined as a whole: at each step the denoiser's
views of its tiles are blended (Bar-Tal, Yariv, Lipman, Dekel (2023), MultiDiffusion,
arXiv:2302.08113), so that there is one noise and there are no seams.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.noise import Noise
from limner.contract.options import Count, NonNegative, Share
from limner.contract.registry import Paper, register
from limner.contract.upscaling import Tiles, Upscales, check_small, resize
from limner.diffusion.cascade import augmentation_level, augmented
from limner.diffusion.denoising_model import DenoisingModel, Example
from limner.diffusion.sampling import Plan, WalkOptions
from limner.maths.denoisers import (
    PREDICTIONS,
    DenoiserWrapper,
    Estimate,
    Parametrisation,
    Prediction,
)
from limner.maths.schedules import DiscreteSchedule, Times, linear_betas
from limner.nn.unet import PatchOptions, UNet


@dataclass(frozen=True)
class NoiseLevels(DiscreteSchedule):
    """Discrete steps, of which a network is told how much picture is left."""

    def label(self, t: Times) -> Times:
        """1000 sqrt(g)."""
        return 1000 * self(t)[0]


@register(
    "sr3",
    family="diffusion",
    paper=Paper(
        "Image super-resolution via iterative refinement",
        "Saharia, Ho, Chan, Salimans, Fleet, Norouzi",
        2021,
        "2104.07636",
    ),
    tiny={"channels": (8, 16), "T": 20, "augmentation": 0.2, "prediction": "v"},
    train={"lr": 5e-4, "clip": 1.0},
)
class SR3(DenoisingModel, Upscales):
    """SR3: pictures are made larger by denoising, given the small one.

    Args:
        spec: specification of the images; their `hint` is the small picture.
        T: how many steps destroy a picture.
        augmentation: the largest deviation of the noise on the small picture in training.
        prediction: what the network is asked for.
        words_dropout: how often training hides label and caption; the small picture, never.
        unet: see `PatchOptions`.
    """

    condition_dropout = 0.0
    default_sampler = "ancestral"
    default_steps = 100

    def __init__(
        self,
        spec: ImageSpec,
        T: Count = 2000,
        augmentation: NonNegative = 0.0,
        prediction: Prediction = "epsilon",
        words_dropout: Share = 0.1,
        **unet: Unpack[PatchOptions],
    ) -> None:
        check_small(spec)
        assert spec.hint is not None
        told = replace(spec.hint, channels=spec.hint.channels + 1) if augmentation else spec.hint
        network = UNet(replace(spec, hint=told), **unet)
        super().__init__(spec, network, 0.0)
        self.schedule, self.T = NoiseLevels(linear_betas(T)), T
        self.augmentation = augmentation
        self.prediction: Prediction = prediction
        self.words_dropout = words_dropout

    @property
    def parametrisation(self) -> Parametrisation:
        """As `prediction` says."""
        return PREDICTIONS[self.prediction]

    def draw_times(self, noise: Noise) -> Times:
        """The time of a noise level g that is uniform between those of steps k - 1 and k, k uniform
        on 1 .. T.
        """
        k = noise.integers(self.T) + 1
        ends = torch.stack([k - 1, k]).double() / self.T
        before, after = self.schedule(ends)[0].square()
        g = torch.lerp(before, after, noise.uniform(dtype=torch.float64).clamp_(min=1e-6))
        return self.schedule.time_of(((1 - g) / g).sqrt())

    def example(self, batch: Batch, noise: Noise) -> Example:
        """What the network is taught, with words hidden now and then, and noise on the small
        picture.
        """
        c = batch.c
        assert c.image is not None
        words = replace(c, image=None, present=None).drop(self.words_dropout, noise)
        c = replace(words, image=c.image, present=c.present)
        level = self.augmentation * noise.uniform()
        return super().example(Batch(batch.x, self._seen(c, level, noise)), noise)

    def output(self, x_t: Images, t: Times, c: Condition) -> Tensor:
        """The network's F; a small picture that was not enlarged before is, without noise."""
        if c.image is not None and c.image.shape[-2:] != x_t.shape[-2:]:
            none = torch.zeros(len(x_t), device=x_t.device)
            streams = Noise.sampling([0] * len(x_t), len(x_t), str(x_t.device))
            c = self._seen(replace(c, image=resize(c.image, *self.tile)), none, streams)
        return super().output(x_t, t, c)

    def _seen(self, c: Condition, level: Float[Tensor, "b"], noise: Noise) -> Condition:
        """The condition that the network sees: the small picture under noise, and enlarged."""
        assert c.image is not None
        z = augmented(c.image, level, self.augmentation, noise) if self.augmentation else c.image
        return replace(c, image=bicubic(z, self.factor))

    def frames(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        clip: bool = True,
        level: NonNegative | None = None,
        **options: Unpack[WalkOptions],
    ) -> Iterator[Images]:
        """Yield the denoiser's view of the large picture at every step, then the picture.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`; the small pictures may be of any
                size, and are refined as a whole.
            clip: keep estimates within the range of colours: clamp x_hat to [-1, 1] at each step.
            level: the deviation of the noise on the small picture; none by default. More hides more
                of its mistakes, and of itself.
            options: see `WalkOptions`; without a prompt that guides, interval and rescale are
                refused.

        Raises:
            LimnerError: an option of guidance, or of another sampler.
        """
        for name in ("interval", "rescale"):
            if options.get(name) is not None:
                raise LimnerError(
                    f"sampler.{name} is of guidance by a prompt or a class, and nothing guides "
                    f"{self.name} models; leave it out"
                )
        assert c.image is not None
        s = augmentation_level(level, 0.0, self.augmentation)
        height, width = c.image.shape[-2:]
        rows, columns = max(height, self.tile[0]), max(width, self.tile[1])
        padded = F.pad(c.image, (0, columns - width, 0, rows - height), mode="replicate")
        levels = torch.full((n,), s, device=padded.device)
        seen = self._seen(replace(c, image=padded), levels, noise)
        assert seen.image is not None
        plan = self.plan(clip=clip, **options)
        tiles = Tiles(rows, columns, self.tile, self.margin, self.factor)
        if len(tiles) > 1:
            plan = plan._replace(D=Tiled(plan.D, tiles, self.at_once))
        size = self.spec.channels, *seen.image.shape[-2:]
        x = self.schedule.prior_deviation * noise.normal(*size).to(padded)
        for frame in plan.walked(x, seen, noise, preview):
            yield frame[..., : height * self.factor, : width * self.factor]

    def plan(self, *, level: float | None = None, **options: Any) -> Plan:
        """The walk, which `level` says nothing of."""
        return super().plan(**options)

    def stage(
        self, x: Float[Tensor, "b c h w"], c: Condition, noise: Noise, **options: Any
    ) -> Float[Tensor, "b c hh ww"]:
        """Pictures of any size enlarged, as a whole: `Upscales`."""
        seen = replace(c, image=x.to(self.dtype))
        frames = self.frames(len(x), seen, noise=noise, preview=False, **options)
        return deque(frames, maxlen=1).pop()

    enlargement = stage


@dataclass(frozen=True)
class Tiled(DenoiserWrapper):
    """D of a picture that is larger than its network takes: what it makes of tiles, blended.

    Args:
        tiles: of the small pictures.
        at_once: how many are looked at together.
    """

    tiles: Tiles
    at_once: int

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """The blended picture; the variance is not blended, and left to the sampler."""
        assert c.image is not None
        k, f = len(self.tiles), self.tiles.factor
        parts, seen = self.tiles.cut(x_t, f), self.tiles.cut(c.image, f)
        c = replace(replace(c, image=None).repeat(k), image=seen)
        t = t if t.ndim == 0 else t.repeat_interleave(k)
        cuts = [slice(i, i + self.at_once) for i in range(0, len(parts), self.at_once)]
        views = [
            self.denoiser(parts[rows], t if t.ndim == 0 else t[rows], c.rows(rows)).x_hat
            for rows in cuts
        ]
        return Estimate(self.tiles.join(torch.cat(views)))


def bicubic(x: Float[Tensor, "b c h w"], factor: int) -> Float[Tensor, "b c hh ww"]:
    """Pictures enlarged a whole number of times by the bicubic filter; they may leave [-1, 1]."""
    return F.interpolate(x, scale_factor=factor, mode="bicubic")
