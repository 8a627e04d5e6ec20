"""Editing of pictures through their codes."""

import math
from abc import abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limner.contract.codes import Encodes
from limner.contract.editing import Edits, check_mask
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images
from limner.contract.model import finish_frames
from limner.contract.noise import Noise, Seeds
from limner.contract.options import Count

_FRAMES = 10  # frames of an edit


class EditsCodes(Encodes, Edits):
    """A model with standard normal codes that edits pictures through them.

    A whole picture is repainted by moving its code along the circle through it and a random
    code, z = sqrt(1 - strength^2) encode(x) + strength eps. A part of a picture is drawn from its
    distribution given the rest, by a Markov chain that leaves this distribution unchanged.
    """

    inference_rounds: int = 100
    """Default number of steps of the chain."""

    def edit(
        self,
        image: Images,
        c: Condition = Condition(),
        *,
        mask: Float[Tensor, "b 1 h w"] | None = None,
        strength: float = 1.0,
        rounds: Count | None = None,
        seed: Seeds = 0,
        preview: bool = True,
        **options: Any,
    ) -> Iterator[Images]:
        """Repaint pictures, or the part that a mask marks; see `Edits`.

        Args:
            image, c, seed, preview, options: as for `Edits.edit`.
            mask: 1 where to paint, 0 where to keep; everywhere by default.
            strength: how far the code moves; with a mask, the share of the rounds that are run, and
                below 1 the chain starts from what the picture has there.
            rounds: with a mask, the number of rounds of the chain.

        Raises:
            LimnerError: pictures or a mask of another shape, a strength out of range, or an option
                that cannot be used with a mask.
        """
        check_mask(self.spec, image, mask)
        if not 0 < strength <= 1:
            raise LimnerError(f"strength={strength:g} is not above 0 and at most 1")
        image = image.to(self.device, self.dtype)
        if mask is None:
            if rounds is not None:
                raise LimnerError("rounds needs a mask; give one, or leave rounds out")
            frames = partial(self._move_codes, image=image, strength=strength)
        else:
            steps = max(1, round(strength * (rounds or self.inference_rounds)))
            region = (mask > 0.5).to(image)
            begin = None if strength == 1 else image
            frames = partial(self._run_chain, image=image, mask=region, begin=begin, steps=steps)
        yield from self.run_frames(frames, len(image), c, seed, preview, options)

    def edit_count(self, strength: float = 1.0, **options: Any) -> int:
        """Return the number of frames, which is the same for all edits."""
        return _FRAMES

    @finish_frames
    def _move_codes(
        self,
        n: int,
        c: Condition,
        *,
        noise: Noise,
        preview: bool,
        image: Images,
        strength: float,
        temperature: float,
        **options: Any,
    ) -> Iterator[Images]:
        """Yield pictures whose codes move from the given picture's code to a random one."""
        z = self.encode(image, c)
        eps = temperature * noise.normal(z.shape[1], dtype=z.dtype)
        for i in range(1 if preview else _FRAMES, _FRAMES + 1):
            s = strength * i / _FRAMES
            yield self.decode(math.sqrt(1 - s**2) * z + s * eps, c)

    @finish_frames
    def _run_chain(
        self,
        n: int,
        c: Condition,
        *,
        noise: Noise,
        preview: bool,
        image: Images,
        mask: Images,
        begin: Images | None,
        steps: int,
        temperature: float,
        **options: Any,
    ) -> Iterator[Images]:
        """Yield the picture at some steps of the chain, then the last one."""
        if temperature != 1:
            raise LimnerError("temperature cannot be used with a mask; leave temperature out")
        if begin is None:
            *_, begin = self.frames(n, c, noise=noise, preview=False)
        x = torch.where(mask > 0, begin.to(image), image)
        frame_steps = {round((i + 1) * steps / _FRAMES) for i in range(_FRAMES)}
        chain = self.chain(x, mask, c, noise, steps, **options)
        for step, x in enumerate(chain, start=1):
            if step == steps or (preview and step in frame_steps):
                yield torch.where(mask > 0, x, image)

    @abstractmethod
    def chain(
        self,
        x: Images,
        mask: Float[Tensor, "b 1 h w"],
        c: Condition,
        noise: Noise,
        steps: int,
        **options: Any,
    ) -> Iterator[Images]:
        """Yield the pictures after each step of a Markov chain.

        Its distribution tends to that of the masked part given the rest.

        Args:
            x: the pictures that the chain starts from.
            mask: 1 where to paint, 0 where to keep.
            c: the condition of the pictures.
            noise: random streams.
            steps: the number of steps.
            options: sampling options of the model, see the signature of `frames`.
        """
