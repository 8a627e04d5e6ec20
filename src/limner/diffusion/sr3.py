"""SR3: super-resolution with a denoiser that is conditioned on the small picture.

Saharia, Ho, Chan, Salimans, Fleet, Norouzi (2021). Image super-resolution via iterative refinement.
arXiv:2104.07636.

    min  E || f(x~, sqrt(g) y + sqrt(1 - g) eps, g) - eps ||^2         (equation 6, p = 2)

y is the large picture, and x~ the small one, enlarged with the bicubic filter. The network sees x~
in channels next to the noisy picture. Its time input is the noise level g (alpha-bar) itself, not
the number of a step, so that a picture can be made in any number of steps. In training a step k is
drawn from 1 .. T, and g from between g_k and g_{k-1} (section 2.4), as in Chen et al. (2020),
WaveGrad, arXiv:2009.00713.

Kept: conditioning with channels, the continuous noise level, T = 2000 steps of linear betas, random
refinement in at most 100 steps. Different: the network takes sqrt(g), as WaveGrad's does; the steps
of refinement are evenly spaced in time and not searched, and have the posterior variance, where the
paper has the largest one (`sampler.variance=1`); the U-Net works on 2 x 2 patches. Also here,
optional: noise on the small picture (`conditioning_augmentation`); labels and captions, which
training sometimes hides (it never hides the small picture); and prediction of v. Where little of a
picture is left, predicted noise gives little information about it, alpha x = x_t - sigma eps,
although the small picture gives much; there v is the picture. A small network that predicts noise
starts with wrong colours.

A picture that is larger than the model's own is refined as a whole: at each step the denoiser's
estimates of its tiles are blended (Bar-Tal, Yariv, Lipman, Dekel (2023), MultiDiffusion,
arXiv:2302.08113), so that all tiles share one noise and there are no seams.
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
from limner.diffusion.conditioning_augmentation import augment, augmentation_level
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
    """Discrete schedule whose network takes the signal level sqrt(g) instead of the step."""

    def label(self, t: Times) -> Times:
        """Return 1000 sqrt(g)."""
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
    """SR3: super-resolution with a denoiser that is conditioned on the small picture.

    Args:
        spec: specification of the images; their `hint` is the small picture.
        T: number of steps that destroy a picture.
        augmentation: largest standard deviation of the noise on the small picture in training.
        prediction: what the network predicts: the noise, the picture or v.
        words_dropout: probability that training hides label and caption; it never hides the small
            picture.
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
        hint = replace(spec.hint, channels=spec.hint.channels + 1) if augmentation else spec.hint
        network = UNet(replace(spec, hint=hint), **unet)
        super().__init__(spec, network, 0.0)
        self.schedule, self.T = NoiseLevels(linear_betas(T)), T
        self.augmentation = augmentation
        self.prediction: Prediction = prediction
        self.words_dropout = words_dropout

    @property
    def parametrisation(self) -> Parametrisation:
        """Parametrisation that belongs to `prediction`."""
        return PREDICTIONS[self.prediction]

    def draw_times(self, noise: Noise) -> Times:
        """Draw the time of a noise level g.

        g is uniform between the levels of steps k - 1 and k, and k is uniform on 1 .. T.
        """
        k = noise.integers(self.T) + 1
        ends = torch.stack([k - 1, k]).double() / self.T
        before, after = self.schedule(ends)[0].square()
        g = torch.lerp(before, after, noise.uniform(dtype=torch.float64).clamp_(min=1e-6))
        return self.schedule.time_of(((1 - g) / g).sqrt())

    def example(self, batch: Batch, noise: Noise) -> Example:
        """Return the training example, with words sometimes hidden, and a noisy small picture."""
        c = batch.c
        assert c.image is not None
        words = replace(c, image=None, present=None).drop(self.words_dropout, noise)
        c = replace(words, image=c.image, present=c.present)
        level = self.augmentation * noise.uniform()
        return super().example(Batch(batch.x, self._network_condition(c, level, noise)), noise)

    def output(self, x_t: Images, t: Times, c: Condition) -> Tensor:
        """Return the network's F; a small picture that is not enlarged yet is enlarged here."""
        if c.image is not None and c.image.shape[-2:] != x_t.shape[-2:]:
            level = torch.zeros(len(x_t), device=x_t.device)
            streams = Noise.sampling([0] * len(x_t), len(x_t), str(x_t.device))
            c = self._network_condition(
                replace(c, image=resize(c.image, *self.tile)), level, streams
            )
        return super().output(x_t, t, c)

    def _network_condition(
        self, c: Condition, level: Float[Tensor, "b"], noise: Noise
    ) -> Condition:
        """Return the network's condition: the small picture with noise, enlarged."""
        assert c.image is not None
        z = augment(c.image, level, self.augmentation, noise) if self.augmentation else c.image
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
        """Yield the denoiser's estimate of the large picture at every step, then the picture.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`; the small pictures may be of any
                size, and are refined as a whole.
            clip: keep estimates within the range of colours: clamp x_hat to [-1, 1] at each step.
            level: standard deviation of the noise on the small picture; none by default. More noise
                hides more of its mistakes, and more of the picture itself.
            options: see `WalkOptions`; interval and rescale are refused, because no prompt guides.

        Raises:
            LimnerError: an option of guidance, or of another sampler.
        """
        assert c.image is not None
        s = augmentation_level(level, 0.0, self.augmentation)
        height, width = c.image.shape[-2:]
        rows, columns = max(height, self.tile[0]), max(width, self.tile[1])
        padded = F.pad(c.image, (0, columns - width, 0, rows - height), mode="replicate")
        levels = torch.full((n,), s, device=padded.device)
        condition = self._network_condition(replace(c, image=padded), levels, noise)
        assert condition.image is not None
        plan = self.plan(clip=clip, **options)
        tiles = Tiles(rows, columns, self.tile, self.margin, self.factor)
        if len(tiles) > 1:
            plan = plan._replace(D=Tiled(plan.D, tiles, self.at_once))
        size = self.spec.channels, *condition.image.shape[-2:]
        x = self.schedule.prior_deviation * noise.normal(*size).to(padded)
        for frame in plan.trajectory(x, condition, noise, preview):
            yield frame[..., : height * self.factor, : width * self.factor]

    def plan(self, *, level: float | None = None, **options: Any) -> Plan:
        """Return the sampling plan.

        Raises:
            LimnerError: an option of guidance, or of another sampler; or a level, which only
                `frames` applies to the small picture.
        """
        for name in ("interval", "rescale"):
            if options.get(name) is not None:
                raise LimnerError(
                    f"sampler.{name} belongs to guidance with a prompt or a class, which "
                    f"{self.name} models do not have; leave it out"
                )
        if level:
            raise LimnerError(
                "sampler.level adds noise to the small picture, which edits and exported graphs do "
                "not; leave it out"
            )
        return super().plan(**options)

    def stage(
        self, x: Float[Tensor, "b c h w"], c: Condition, noise: Noise, **options: Any
    ) -> Float[Tensor, "b c hh ww"]:
        """Enlarge pictures of any size, as a whole: `Upscales`."""
        condition = replace(c, image=x.to(self.dtype))
        frames = self.frames(len(x), condition, noise=noise, preview=False, **options)
        return deque(frames, maxlen=1).pop()

    enlargement = stage


@dataclass(frozen=True)
class Tiled(DenoiserWrapper):
    """Denoiser of pictures larger than the network's: blended estimates of their tiles.

    Args:
        tiles: tiles of the small pictures.
        at_once: number of tiles in one batch.
    """

    tiles: Tiles
    at_once: int

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """Return the blended x_hat; the variance is not blended, but left to the sampler."""
        assert c.image is not None
        k, f = len(self.tiles), self.tiles.factor
        parts, images = self.tiles.cut(x_t, f), self.tiles.cut(c.image, f)
        c = replace(replace(c, image=None).repeat(k), image=images)
        t = t if t.ndim == 0 else t.repeat_interleave(k)
        slices = [slice(i, i + self.at_once) for i in range(0, len(parts), self.at_once)]
        estimates = [
            self.denoiser(parts[rows], t if t.ndim == 0 else t[rows], c.rows(rows)).x_hat
            for rows in slices
        ]
        return Estimate(self.tiles.join(torch.cat(estimates)))


def bicubic(x: Float[Tensor, "b c h w"], factor: int) -> Float[Tensor, "b c hh ww"]:
    """Enlarge pictures by a whole factor with the bicubic filter; they may leave [-1, 1]."""
    return F.interpolate(x, scale_factor=factor, mode="bicubic")
