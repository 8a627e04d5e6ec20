"""Abilities to change a picture, and to draw a part of it given the rest.

    Completes   draws a part of a picture, given the rest
    Edits       paints a picture anew, or a part of it
    Rewords     paints a picture again with words of its prompt changed
    Follows     changes a picture as an instruction says

A mask is 1 where to paint, and 0 where to keep.
"""

from abc import abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images, ImageSpec, check_images
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise, Seeds, as_seeds
from limner.contract.rewording import Rewording


class Completes(GenerativeModel):
    """A model that draws a part of a picture from its law given the rest."""

    @abstractmethod
    def complete(
        self,
        image: Images,
        c: Condition = Condition(),
        *,
        mask: Float[Tensor, "b 1 h w"],
        rounds: int | None = None,
        seed: Seeds = 0,
        preview: bool = True,
        **options: Any,
    ) -> Iterator[Images]:
        """Yield pictures that keep what a mask keeps, as `watch` yields pictures.

        Args:
            image: the pictures, "b c h w" in [-1, 1].
            mask: 1 where to paint, 0 where to keep.
            rounds: of inference, where the law cannot be drawn from at once.
            c, seed, preview, options: as for `GenerativeModel.watch`.
        """

    @abstractmethod
    def complete_count(
        self, mask: Float[Tensor, "b 1 h w"], rounds: int | None = None, **options: Any
    ) -> int:
        """How many frames `complete` yields with a preview."""


def check_mask(spec: ImageSpec, image: Tensor, mask: Tensor | None) -> None:
    """Refuse pictures and masks that are not of a model.

    Raises:
        LimnerError: they are of another shape, or their numbers are of another kind.
    """
    check_images(image)
    if tuple(image.shape[1:]) != spec.shape:
        shape, given = (" x ".join(map(str, s)) for s in (spec.shape, image.shape[1:]))
        raise LimnerError(f"this model edits {shape} pictures, not {given}")
    if mask is None:
        return
    if mask.shape != (len(image), 1, *spec.shape[1:]):
        raise LimnerError(f"a mask is 1 x {spec.height} x {spec.width} for each picture")
    if not mask.is_floating_point() or not bool(((mask >= 0) & (mask <= 1)).all()):
        raise LimnerError(
            "a mask is of floats from 0, where to keep, to 1, where to paint; "
            "give for example (mask > 0).float()"
        )


class Edits(GenerativeModel):
    """A model that can repaint a picture, or a part of it."""

    @abstractmethod
    def edit(
        self,
        image: Images,
        c: Condition = Condition(),
        *,
        mask: Float[Tensor, "b 1 h w"] | None = None,
        strength: float = 1.0,
        seed: Seeds = 0,
        preview: bool = True,
        **options: Any,
    ) -> Iterator[Images]:
        """Yield pictures that are made from given ones, as `watch` yields pictures.

        Args:
            image: the pictures, "b c h w" in [-1, 1].
            mask: 1 where to paint, 0 where to keep; everywhere by default.
            strength: how much of what is painted over may change, in (0, 1].
            c, seed, preview, options: as for `GenerativeModel.watch`.
        """

    @abstractmethod
    def edit_count(self, strength: float = 1.0, **options: Any) -> int:
        """How many frames `edit` yields with a preview."""

    def effective_strength(self, strength: float, **options: Any) -> float:
        """The strength that an edit has, which models that take steps round to whole ones."""
        return strength


class Rewords(GenerativeModel):
    """A model whose pictures follow a change of their prompt, and stay as they are elsewhere."""

    def check_words(self, before: Condition, after: Condition) -> None:
        """Refuse prompts without words; a model that may look at none adds that.

        Raises:
            LimnerError: there is no word to change, or the model looks at none.
        """
        if before.text is None or after.text is None:
            raise LimnerError("there is no word to change; give a prompt")

    def reword(
        self,
        before: Condition,
        after: Condition,
        change: Rewording,
        *,
        image: Images | None = None,
        strength: Annotated[float, Field(gt=0, le=1)] = 1.0,
        seed: Seeds = 0,
        preview: bool = True,
        **options: Any,
    ) -> Iterator[Images]:
        """Yield pictures before and after words of their prompt changed, as `watch` does: "2 n c h
        w", the first n of the one prompt, then those of the other.

        Args:
            before, after: both prompts, a row each, with texts of the same length.
            change: what stays and what changes between them.
            image: pictures that `before` describes, one or one for each seed; else the pictures of
                the seeds are painted.
            strength: of given pictures: how far to go back into noise, in (0, 1].
            seed: for each picture.
            preview, options: as for `GenerativeModel.watch`.

        Raises:
            LimnerError: there is no text, the model looks at no words, or pictures or a strength
                that cannot be.
        """
        self.check_words(before, after)
        if not 0 < strength <= 1:
            raise LimnerError(f"strength={strength:g} is not above 0 and at most 1")
        given = as_seeds(seed)
        seeds = [given] if isinstance(given, int) else given
        c = Condition.cat([before.repeat(len(seeds)), after.repeat(len(seeds))])
        if image is not None:
            check_mask(self.spec, image, None)
            if len(image) not in (1, len(seeds)):
                raise LimnerError(f"{len(image)} pictures for {len(seeds)} seeds; give one for all")
            image = image.to(self.device, torch.float32)
        painted = partial(self.reworded, change, image, strength)
        yield from self.run_frames(painted, len(c), c, seeds * 2, preview, options)

    @abstractmethod
    def reworded(
        self,
        change: Rewording,
        image: Images | None,
        strength: float,
        n: int,
        c: Condition,
        *,
        noise: Noise,
        preview: bool,
        **options: Any,
    ) -> Iterator[Images]:
        """What `reword` yields, of checked arguments: n pictures, half of them before the change.

        Args:
            change, image, strength: see `reword`.
            n, c, noise, preview, options: see `GenerativeModel.frames`.
        """

    @abstractmethod
    def reconstruct_for_edit(self, image: Images, seed: Seeds = 0) -> Images:
        """What `reword` leaves of given pictures where no word changes, "b c h w" in [-1, 1].

        Args:
            image: the pictures, "b c h w" in [-1, 1].
            seed: of the first picture, or of each.
        """


def reconstruction_error(image: Images, reconstruction: Images) -> float:
    """The mean absolute difference of two pictures' numbers, as a share of the range [-1, 1].

    Args:
        image: what was given.
        reconstruction: what is left of it, see `Rewords.reconstruct_for_edit`.
    """
    return float((image - reconstruction.to(image)).abs().mean()) / 2


class Follows(GenerativeModel):
    """A model that changes a picture as an instruction says; the picture is the condition's image,
    and the instruction its text."""

    @abstractmethod
    def follow(
        self,
        image: Images,
        c: Condition,
        *,
        seed: Seeds = 0,
        preview: bool = True,
        **options: Any,
    ) -> Iterator[Images]:
        """Yield pictures after an instruction, as `watch` yields pictures.

        Args:
            image: the pictures before, "b c h w" in [-1, 1].
            c: the instructions: a row for each picture, or one for all.
            seed, preview, options: as for `GenerativeModel.watch`.

        Raises:
            LimnerError: there is no instruction, or pictures of another shape.
        """
