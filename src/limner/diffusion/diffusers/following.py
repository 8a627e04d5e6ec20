"""Change words of the prompt of a given picture, with a pipeline of diffusers.

Kulikov, Kleiner, Huberman-Spiegelglas, Michaeli (2024). FlowEdit. arXiv:2412.08629; the same steps
as in `limner.diffusion.prompt_to_prompt`. The image-to-image pipeline runs the network. Its
scheduler gives the times and the estimates of the clean pictures, but not the steps.
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
from limner.diffusion.diffusers.painter import PipelinePainter, expected_picture
from limner.diffusion.diffusers.shared_attention import RewordingPainter, sharing
from limner.diffusion.prompt_to_prompt import SharedAttention


@dataclass(frozen=True)
class FollowingPainter(RewordingPainter):
    """Pipeline that follows given pictures; the first half stays unchanged."""

    def paint(self, call_arguments: dict[str, Any], noise: Noise, shape: tuple[int, ...]) -> Images:
        """Return the given pictures, and their changed versions: `PipelinePainter`."""
        shared = SharedAttention(self.change, shape[0] // 2)
        walk = _Walk(self.pipeline.scheduler, shared)
        with walk.record_noise(), sharing(self.pipeline, shared, walk.step):
            return PipelinePainter.paint(self, call_arguments, noise, shape)


class _Walk:
    """Steps from given pictures x to others z, with the estimates for both prompts.

    Args:
        scheduler: the pipeline's scheduler.
        shared: shared attention, which also blends the estimates.
    """

    def __init__(self, scheduler: Any, shared: SharedAttention) -> None:
        self.scheduler, self.shared = scheduler, shared
        self.x = self.z = torch.empty(0)
        self.next_coefficients: Iterator[tuple[float, float]] = iter(())
        self.coefficients = (0.0, 0.0)

    @contextmanager
    def record_noise(self) -> Iterator[None]:
        """Record the pictures, or their latent maps, when the pipeline adds noise to them."""
        add_noise = self.scheduler.add_noise

        def noting(samples: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self.x = self.z = samples.chunk(2)[0]
            return add_noise(samples, *args, **kwargs)

        self.scheduler.add_noise = noting
        try:
            yield
        finally:
            del self.scheduler.add_noise

    def step(self, F: Tensor, t: Any, x_t: Tensor, output: Any) -> Tensor:
        """Return both pictures with the noise of the next time."""
        if not self.coefficients[0]:
            first = int((self.scheduler.timesteps == t).nonzero()[0])
            self.next_coefficients = iter(_places(self.scheduler)[first:])
            self.coefficients = next(self.next_coefficients)
        (alpha, sigma), (alpha_s, sigma_s) = self.coefficients, next(self.next_coefficients)
        self.coefficients = alpha_s, sigma_s
        x_hat = self.shared.blend(expected_picture(self.scheduler, F, t, x_t, output))
        before, after = x_hat.to(self.x).chunk(2)
        k = sigma_s * alpha / (alpha_s * sigma)
        self.z = self.x + k * (self.z - self.x) + (1 - k) * (after - before)
        source = self.x
        if sigma_s:
            noise = torch.randn_like(x_t).chunk(2)[0]
            source = alpha_s * self.x + sigma_s * noise.to(self.x)
        return torch.cat([source, source + alpha_s * (self.z - self.x)]).to(x_t)


def _places(scheduler: Any) -> list[tuple[float, float]]:
    """Return alpha and sigma at each of a scheduler's times, and at the end.

    Raises:
        LimnerError: the scheduler does not have them.
    """
    times, sigmas = scheduler.timesteps.tolist(), getattr(scheduler, "sigmas", None)
    if hasattr(scheduler, "alphas_cumprod") and float(scheduler.init_noise_sigma) == 1:
        alpha_bars = [float(scheduler.alphas_cumprod[int(t)]) for t in times]
        return [*((k**0.5, (1 - k) ** 0.5) for k in alpha_bars), (1.0, 0.0)]
    if sigmas is not None and len(sigmas) == len(times) + 1 and float(sigmas[-1]) == 0:
        return [(1.0, float(sigma)) for sigma in sigmas]
    raise LimnerError(
        f"{type(scheduler).__name__} does not say how much noise there is at a step; save the "
        "pipeline with a DDIMScheduler"
    )
