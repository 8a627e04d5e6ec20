"""Editing by the codes of pictures."""

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
from limner.contract.model import finished
from limner.contract.noise import Noise, Seeds
from limner.contract.options import Count

_FRAMES = 10  # of an edit


class EditsCodes(Encodes, Edits):
    """A model whose codes are standard normal, which edits by them.

    All of a picture is painted anew by moving its code along the circle through it and a draw,
    z = sqrt(1 - strength^2) encode(x) + strength eps. A part of it is drawn from its law given the
    rest, by a Markov chain that leaves this law as it is.
    """

    inference_rounds: int = 100
    """How many steps the chain takes by default."""

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
        """Paint pictures anew, or what a mask says; see `Edits`.

        Args:
            image, c, seed, preview, options: as for `Edits.edit`.
            mask: 1 where to paint, 0 where to keep; everywhere by default.
            strength: how far the code moves; with a mask, the share of the rounds that are taken,
                and below 1 the chain begins with what the picture has there.
            rounds: of the chain, with a mask.

        Raises:
            LimnerError: pictures or a mask of another shape, a strength that cannot be, or an
                option that does not go with a mask.
        """
        check_mask(self.spec, image, mask)
        if not 0 < strength <= 1:
            raise LimnerError(f"strength={strength:g} is not above 0 and at most 1")
        image = image.to(self.device, self.dtype)
        if mask is None:
            if rounds is not None:
                raise LimnerError("rounds are of the part that a mask marks; leave rounds out")
            frames = partial(self._moved, image=image, strength=strength)
        else:
            steps = max(1, round(strength * (rounds or self.inference_rounds)))
            painted = (mask > 0.5).to(image)
            begin = None if strength == 1 else image
            frames = partial(self._drawn, image=image, mask=painted, begin=begin, steps=steps)
        yield from self.run_frames(frames, len(image), c, seed, preview, options)

    def edit_count(self, strength: float = 1.0, **options: Any) -> int:
        """Always as many."""
        return _FRAMES

    @finished
    def _moved(
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
        """Yield pictures whose codes go from the given picture's to a random one."""
        z = self.encode(image, c)
        eps = temperature * noise.normal(z.shape[1], dtype=z.dtype)
        for i in range(1 if preview else _FRAMES, _FRAMES + 1):
            s = strength * i / _FRAMES
            yield self.decode(math.sqrt(1 - s**2) * z + s * eps, c)

    @finished
    def _drawn(
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
        """The picture now and then while the chain goes, then its last one."""
        if temperature != 1:
            raise LimnerError("a part is drawn from its law given the rest; leave temperature out")
        if begin is None:
            *_, begin = self.frames(n, c, noise=noise, preview=False)
        x = torch.where(mask > 0, begin.to(image), image)
        shown = {round((i + 1) * steps / _FRAMES) for i in range(_FRAMES)}
        chain = self.chain(x, mask, c, noise, steps, **options)
        for step, x in enumerate(chain, start=1):
            if step == steps or (preview and step in shown):
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
        """Yield the pictures after each step of a Markov chain, whose law tends to that of the
        part that is painted, given the rest.

        Args:
            x: where it begins.
            mask: 1 where to paint, 0 where to keep.
            c: what the pictures are of.
            noise: random streams.
            steps: how many.
            options: the model's own, see the signature of `frames`.
        """
