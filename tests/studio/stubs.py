"""Stub models with every task that paint immediately, optionally slow down or crash; and a worker
with these models: `python stubs.py DEVICE`.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from limner.contract.abilities import Attends, Mixes
from limner.contract.codes import Encodes
from limner.contract.editing import Completes, Edits
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Blend, Noise
from limner.contract.registry import Paper, register


@register("toy-canvas", family="diffusion", paper=Paper("A stub", "Nobody", 2026, "0000.00000"))
class Canvas(Encodes, Edits, Mixes, Attends):
    """A stub that paints two colours, which depend on the seed and the condition."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.brightness = nn.Parameter(torch.zeros(()))

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        yield Turn(self.brightness.square())

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        steps: Annotated[int, Field(ge=1, le=4000)] = 4,
        pause: Annotated[float, Field(ge=0, le=5)] = 0.0,
        scale: Annotated[float, Field(ge=0, le=20)] = 2.0,
        colour: Literal["warm", "cool"] = "warm",
        clip: bool = True,
        crash: bool = False,
    ) -> Iterator[Images]:
        """Yield noise that becomes two colours.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            steps: number of frames.
            pause: seconds between two frames.
            scale: how strong the colours are.
            colour: colour of the picture's left half.
        """
        del clip
        start = noise.normal(*self.spec.shape)
        rgb = noise.normal(3).erf() / 2 + 0.5
        x = self._colours(rgb, colour) * (scale / 2)
        for part, weight in ((c.label, 0.05), (c.text, 0.0001)):
            if part is not None:
                x = x + weight * part.float().reshape(n, -1).sum(1).view(-1, 1, 1, 1)
        if c.image is not None:
            x = -torch.nn.functional.interpolate(c.image, x.shape[-2:])
        for step in range(1, steps + 1):
            time.sleep(pause)
            if crash and step > 1:
                os.kill(os.getpid(), signal.SIGKILL)
            yield torch.lerp(start, x, step / steps)

    def frame_count(self, **options: Any) -> int:
        return options.get("steps", 4)

    def _colours(self, rgb: Tensor, colour: str) -> Images:
        side = 0.4 if colour == "warm" else -0.4
        x = (rgb - 0.5).view(-1, 3, 1, 1).expand(-1, *self.spec.shape).clone()
        x[:, 0, :, : self.spec.width // 2] += side
        return x

    def encode(self, x: Images, c: Condition = Condition()) -> Tensor:
        return x.mean((2, 3))

    def decode(self, z: Tensor, c: Condition = Condition()) -> Images:
        return z[:, :, None, None].expand(-1, *self.spec.shape)

    def edit(
        self,
        image: Images,
        c: Condition = Condition(),
        *,
        mask: Tensor | None = None,
        strength: float = 1.0,
        seed: Any = 0,
        **options: Any,
    ) -> Iterator[Images]:
        region = torch.ones_like(image[:, :1]) if mask is None else mask
        for new in self.watch(len(image), c, seed=seed, **options):
            yield torch.lerp(image, new, strength * region)

    def edit_count(self, strength: float = 1.0, **options: Any) -> int:
        return self.frame_count(**options)

    def attention_maps(self, x: Images, c: Condition) -> Tensor:
        """Return maps in which token k has weight only in the k-th quarter of the width."""
        assert c.text is not None
        maps = torch.zeros(len(x), c.text.shape[1], *x.shape[-2:])
        for token, columns in enumerate(torch.arange(x.shape[-1]).chunk(4)):
            maps[:, token : token + 1, :, columns] = 0.5
        return maps

    style_layers = 6

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
        a = self.sample(len(seed), c, seed=list(seed), **options)
        b = self.sample(len(other), of or c, seed=list(other), **options)
        return torch.lerp(a, b, len(range(self.style_layers)[layers]) / self.style_layers)


@register("toy-rows", family="autoregressive", paper=Paper("A stub", "Nobody", 2026, "0000.00000"))
class Rows(Canvas, Completes):
    """A stub that completes a part of a picture row by row."""

    def complete(
        self,
        image: Images,
        c: Condition = Condition(),
        *,
        mask: Tensor,
        rounds: int | None = None,
        seed: Any = 0,
        **options: Any,
    ) -> Iterator[Images]:
        for x in self.watch(len(image), c, seed=seed, **options):
            yield torch.where(mask > 0, x, image)

    def complete_count(self, mask: Tensor, rounds: int | None = None, **options: Any) -> int:
        return self.frame_count(**options)


@register("toy-negative", family="gans", paper=Paper("A stub", "Nobody", 2026, "0000.00000"))
class Negative(Canvas):
    """A stub that translates: it requires a picture and paints its negative."""

    condition = "required"


if __name__ == "__main__":
    from limner.studio.worker import main

    main(sys.argv[1])
