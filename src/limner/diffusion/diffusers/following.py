"""A given picture, followed by a pipeline of diffusers as words of its prompt change.

Kulikov, Kleiner, Huberman-Spiegelglas, Michaeli (2024). FlowEdit. arXiv:2412.08629; the same walk
as in `limner.diffusion.prompt_to_prompt`. The pipeline that begins from a picture runs the network;
its scheduler says where the walk is, and what clean pictures are to be expected, but not where it
goes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Images
from limner.contract.noise import Noise
from limner.diffusion.diffusers.painter import Painter, expected
from limner.diffusion.diffusers.shared_attention import RewordingPainter, sharing
from limner.diffusion.prompt_to_prompt import SharedAttention


@dataclass(frozen=True)
class FollowingPainter(RewordingPainter):
    """A pipeline that follows given pictures, of which half stay as they are."""

    def painted(self, asked: dict[str, Any], noise: Noise, shape: tuple[int, ...]) -> Images:
        """The given pictures, and what becomes of them: `Painter`."""
        shared = SharedAttention(self.change, shape[0] // 2)
        walk = _Walk(self.pipeline.scheduler, shared)
        with walk.noted(), sharing(self.pipeline, shared, walk.step):
            return Painter.painted(self, asked, noise, shape)


class _Walk:
    """From given pictures x to others z, by what is expected of both prompts.

    Args:
        scheduler: the pipeline's.
        shared: attention, by which expectations are blended.
    """

    def __init__(self, scheduler: Any, shared: SharedAttention) -> None:
        self.scheduler, self.shared = scheduler, shared
        self.x = self.z = torch.empty(0)
        self.ahead: Iterator[tuple[float, float]] = iter(())
        self.here = (0.0, 0.0)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note the pictures, or their maps, when the pipeline adds noise to them."""
        add_noise = self.scheduler.add_noise

        def noting(samples: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self.x = self.z = samples.chunk(2)[0]
            return add_noise(samples, *args, **kwargs)

        self.scheduler.add_noise = noting
        try:
            yield
        finally:
            del self.scheduler.add_noise

    def step(self, F: Tensor, t: Any, x_t: Tensor, made: Any) -> Tensor:
        """Both with the noise of the next time."""
        if not self.here[0]:
            first = int((self.scheduler.timesteps == t).nonzero()[0])
            self.ahead = iter(_places(self.scheduler)[first:])
            self.here = next(self.ahead)
        (alpha, sigma), (alpha_s, sigma_s) = self.here, next(self.ahead)
        self.here = alpha_s, sigma_s
        x_hat = self.shared.blended(expected(self.scheduler, F, t, x_t, made))
        told, asked = x_hat.to(self.x).chunk(2)
        k = sigma_s * alpha / (alpha_s * sigma)
        self.z = self.x + k * (self.z - self.x) + (1 - k) * (asked - told)
        source = self.x
        if sigma_s:
            noise = torch.randn_like(x_t).chunk(2)[0]
            source = alpha_s * self.x + sigma_s * noise.to(self.x)
        return torch.cat([source, source + alpha_s * (self.z - self.x)]).to(x_t)


def _places(scheduler: Any) -> list[tuple[float, float]]:
    """alpha and sigma at each of a scheduler's times, and at the end.

    Raises:
        LimnerError: it does not say them.
    """
    times, sigmas = scheduler.timesteps.tolist(), getattr(scheduler, "sigmas", None)
    if hasattr(scheduler, "alphas_cumprod") and float(scheduler.init_noise_sigma) == 1:
        kept = [float(scheduler.alphas_cumprod[int(t)]) for t in times]
        return [*((k**0.5, (1 - k) ** 0.5) for k in kept), (1.0, 0.0)]
    if sigmas is not None and len(sigmas) == len(times) + 1 and float(sigmas[-1]) == 0:
        return [(1.0, float(sigma)) for sigma in sigmas]
    raise LimnerError(
        f"{type(scheduler).__name__} does not say how much noise there is at a step; save the "
        "pipeline with a DDIMScheduler"
    )
