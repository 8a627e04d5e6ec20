"""Abilities to change a picture, and to paint a part of it given the rest.

    Completes   draws a part of a picture from its distribution given the rest
    Edits       repaints a picture, or a part of it
    Rewords     paints a picture again after some words of its prompt changed
    Follows     changes a picture according to an instruction

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
    """A model that draws a part of a picture from its distribution given the rest."""

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
        """Yield pictures that are unchanged where a mask is 0, in the way `watch` yields pictures.

        Args:
            image: the pictures, "b c h w" in [-1, 1].
            mask: 1 where to paint, 0 where to keep.
            rounds: rounds of inference, for models that cannot draw from the distribution directly.
            c, seed, preview, options: as for `GenerativeModel.watch`.
        """

    @abstractmethod
    def complete_count(
        self, mask: Float[Tensor, "b 1 h w"], rounds: int | None = None, **options: Any
    ) -> int:
        """Return the number of frames that `complete` yields with a preview."""


def check_mask(spec: ImageSpec, image: Tensor, mask: Tensor | None) -> None:
    """Refuse pictures and masks that do not fit a model.

    Raises:
        LimnerError: they have another shape, or numbers of another type or range.
    """
    check_images(image)
    if tuple(image.shape[1:]) != spec.shape:
        shape, actual = (" x ".join(map(str, s)) for s in (spec.shape, image.shape[1:]))
        raise LimnerError(f"this model edits {shape} pictures, not {actual}")
    if mask is None:
        return
    if mask.shape != (len(image), 1, *spec.shape[1:]):
        raise LimnerError(f"a mask must be 1 x {spec.height} x {spec.width} for each picture")
    is_float = isinstance(mask, Tensor) and mask.is_floating_point()  # pyright: ignore
    if not is_float or not bool(((mask >= 0) & (mask <= 1)).all()):
        raise LimnerError(
            "a mask must have floats from 0 (keep) to 1 (paint); "
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
        """Yield pictures made from given ones, in the way `watch` yields pictures.

        Args:
            image: the pictures, "b c h w" in [-1, 1].
            mask: 1 where to paint, 0 where to keep; everywhere by default.
            strength: how much the repainted area may change, in (0, 1].
            c, seed, preview, options: as for `GenerativeModel.watch`.
        """

    @abstractmethod
    def edit_count(self, strength: float = 1.0, **options: Any) -> int:
        """Return the number of frames that `edit` yields with a preview."""

    def effective_strength(self, strength: float, **options: Any) -> float:
        """Return the strength that an edit really has; models with steps round it to whole
        steps."""
        return strength


class Rewords(GenerativeModel):
    """A model that changes a picture with its prompt and leaves the rest of the picture
    unchanged."""

    def check_words(self, before: Condition, after: Condition) -> None:
        """Refuse prompts without words; a model that may not attend to words also refuses that.

        Raises:
            LimnerError: there is no word to change, or the model does not attend to words.
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
        """Yield pictures before and after a change of words in their prompt, in the way `watch`
        does.

        They are "2 n c h w": the first n have the first prompt, the others the second one.

        Args:
            before, after: the two prompts, one row each, with texts of the same length.
            change: which words stay, and which change.
            image: pictures that `before` describes, one for all or one for each seed; None paints
                them from the seeds.
            strength: for given pictures, how far to go back into noise, in (0, 1].
            seed: a seed for each picture.
            preview, options: as for `GenerativeModel.watch`.

        Raises:
            LimnerError: there is no text, the model does not attend to words, pictures have another
                shape, or the strength is out of range.
        """
        self.check_words(before, after)
        if not 0 < strength <= 1:
            raise LimnerError(f"strength={strength:g} is not above 0 and at most 1")
        value = as_seeds(seed)
        seeds = [value] if isinstance(value, int) else value
        c = Condition.cat([before.repeat(len(seeds)), after.repeat(len(seeds))])
        if image is not None:
            check_mask(self.spec, image, None)
            if len(image) not in (1, len(seeds)):
                raise LimnerError(
                    f"{len(image)} pictures for {len(seeds)} seeds; give one for all, or one each"
                )
            image = image.to(self.device, torch.float32)
        frames = partial(self.reword_frames, change, image, strength)
        yield from self.run_frames(frames, len(c), c, seeds * 2, preview, options)

    @abstractmethod
    def reword_frames(
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
        """Yield what `reword` yields, given checked arguments: n pictures, half of them before the
        change.

        Args:
            change, image, strength: see `reword`.
            n, c, noise, preview, options: see `GenerativeModel.frames`.
        """

    def reword_count(self, is_given: bool = False, **options: Any) -> int:
        """Return the largest number of frames that `reword` yields with a preview.

        Args:
            is_given: whether the pictures are given.
            options: checked options of the sampler.
        """
        return self.frame_count(**options)

    @abstractmethod
    def reconstruct_for_edit(self, image: Images, seed: Seeds = 0) -> Images:
        """Return what `reword` makes of given pictures if no word changes, "b c h w" in [-1, 1].

        Args:
            image: the pictures, "b c h w" in [-1, 1].
            seed: the seed of the first picture, or a seed for each.
        """


def reconstruction_error(image: Images, reconstruction: Images) -> float:
    """Return the mean absolute difference of two pictures, as a share of the range [-1, 1].

    Args:
        image: the given pictures.
        reconstruction: their reconstruction, see `Rewords.reconstruct_for_edit`.
    """
    return float((image - reconstruction.to(image)).abs().mean()) / 2


class Follows(GenerativeModel):
    """A model that changes a picture according to an instruction. The picture is the condition's
    image, the instruction is its text."""

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
        """Yield pictures changed according to an instruction, in the way `watch` yields pictures.

        Args:
            image: the given pictures, "b c h w" in [-1, 1].
            c: the instructions; one row for each picture, or one for all.
            seed, preview, options: as for `GenerativeModel.watch`.

        Raises:
            LimnerError: there is no instruction, or pictures have another shape.
        """
