"""Networks that are converted to ONNX graphs: the parts of a model's sampling."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limner.autoregressive.autoregressive_model import AutoregressiveModel
from limner.contract.image import Condition, Images
from limner.contract.model import GenerativeModel
from limner.contract.noise_inputs import GivenNoise
from limner.diffusion.cascade import Cascade
from limner.diffusion.cleaning import clean_pictures, cleaning_passes
from limner.diffusion.denoising_model import DenoisingModel
from limner.diffusion.frozen_base import ExtendsBase
from limner.diffusion.sampling import Repaints


def parts_of(c: Condition) -> dict[str, Tensor]:
    """Return the parts of a condition that are not None, by name."""
    parts = {"label": c.label, "text": c.text, "image": c.image}
    return {name: part for name, part in parts.items() if part is not None}


class Whole(nn.Module):
    """forward(*draws, *parts of a condition) -> the last frame."""

    def __init__(
        self, model: GenerativeModel, draws: int, parts: Sequence[str], options: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.model, self.draws = model, draws
        self.parts, self.options = tuple(parts), dict(options)

    def forward(self, *inputs: Tensor) -> Images:
        """Return the pictures."""
        noises, rest = inputs[: self.draws], inputs[self.draws :]
        c = Condition(**dict(zip(self.parts, rest, strict=True)))
        n = len(inputs[0])
        noise = GivenNoise(noises, n)
        frames = self.model.frames(n, c, noise=noise, preview=False, **self.options)
        return deque(frames, maxlen=1).pop()


class GuidedDenoiser(nn.Module):
    """forward(x, t, *parts of a condition) -> the guided, clipped estimate of a denoiser."""

    def __init__(self, model: GenerativeModel, D: Any, c: Condition) -> None:
        super().__init__()
        self.model, self.D, self.present = model, D, c.present
        self.parts = tuple(parts_of(c))

    def forward(self, x: Tensor, t: Tensor, *rest: Tensor) -> Tensor:
        """Return the estimated clean picture."""
        parts: dict[str, Any] = dict(zip(self.parts, rest, strict=True))
        return self.D(x, t, Condition(**parts, present=self.present)).x_hat


class Finish(nn.Module):
    """forward(x) -> the picture of the last x of a sampling loop."""

    def __init__(self, model: Repaints) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Images:
        """Return the picture."""
        return self.model.to_image(x).float().clamp(-1, 1)


class EncodedInput(nn.Module):
    """forward(image) -> the image as the network of an extended base receives it."""

    def __init__(self, model: ExtendsBase) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Images) -> Tensor:
        """Return the features of the hint, or the picture in the space of the denoiser."""
        features = self.model.base_condition(Condition(image=image), len(image)).image
        assert features is not None
        return features


class NoisyInput(nn.Module):
    """forward(z, noise) -> the base's picture as the upsampler of a cascade receives it."""

    def __init__(self, model: Cascade, level: float) -> None:
        super().__init__()
        self.model, self.level = model, level

    def forward(self, z: Images, noise: Tensor) -> Tensor:
        """Return the noisy picture and its noise level."""
        n = len(z)
        c = self.model.with_hint(
            Condition(), z, torch.full((n,), self.level), GivenNoise([noise], n)
        )
        assert c.image is not None
        return c.image


class Theta(nn.Module):
    """forward(x, *parts of a condition) -> law parameters of each pixel, "n h w p"."""

    def __init__(self, model: AutoregressiveModel, parts: Sequence[str]) -> None:
        super().__init__()
        self.model, self.parts = model, tuple(parts)

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        """Return the output of the network."""
        c = Condition(**dict(zip(self.parts, rest, strict=True)))
        return self.model.theta(x, c)


class Cleaning(nn.Module):
    """forward(x, *parts of a condition) -> the picture after all passes of `cleaning`."""

    def __init__(self, upsampler: DenoisingModel, c: Condition, passes: int) -> None:
        super().__init__()
        self.upsampler = upsampler
        self.passes = cleaning_passes(upsampler.schedule, passes)
        self.parts = tuple(parts_of(c))

    def forward(self, x: Images, *rest: Tensor) -> Images:
        """Return the pictures."""
        c = Condition(**dict(zip(self.parts, rest, strict=True)))
        return deque(clean_pictures(x, self.upsampler, c, self.passes), maxlen=1).pop()
