"""What a data set is: pixels by number, and what the pictures are of.

A data set has no order and no randomness of its own: a `Stream` orders it, and hands it random
streams for whatever is drawn anew each time (captions, binarisation).
"""

import functools
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Images, ImageSpec, from_levels, from_uint8, to_levels
from limner.contract.noise import Noise, Purpose
from limner.data.agreement import (
    Check,
    check_captions,
    check_hints,
    check_images,
    check_pixels,
    kind_of,
)
from limner.data.hints import REDUCTION, Hint, PictureHint, draw_hint, hint_spec
from limner.data.order import Anything, ByWeight, Order, Shuffled

_WHOLE = (torch.uint8, torch.int16, torch.int32, torch.int64)
_FIXED_SEED = 0  # of the one binarisation that a held-out split has


_CHECKS: dict[str, Check] = {
    "pixels": check_pixels,
    "parts": check_pixels,
    "images": check_images,
    "captions": check_captions,
    "hints": check_hints,
}
"""Of what a data set gives, by its methods."""


class View(NamedTuple):
    """How training looks at pictures.

    Args:
        mirrored: which of them are mirrored.
        corner: where the part lies that is seen of pictures that are larger than they should be:
            its upper left corner, from (0, 0) to (1, 1).
    """

    mirrored: Bool[Tensor, "b"]
    corner: Float[Tensor, "b 2"]


class Dataset(ABC):
    """Pictures, numbered from 0.

    Args:
        spec: what the pictures are.
        source: as it was typed, for messages and cards.
        digest: a sha256 of pictures, captions, labels and options; equal digests are equal data.
        labels: the class of each picture, or None.
        weights: how often each is drawn, relatively; None when every one is seen once an epoch.
        groups: which pictures are variants of one thing, as equal numbers; None where unknown.
        skipped: files left out, and why.
        training: whether this split is trained on; others are never flipped, and binarised once.
        flip: whether the stream mirrors every second picture.
        dynamic: whether pixels are coin flips of their intensity (dynamic binarisation).
        floors: whether each level is as many of the 256 values, else the nearest one is taken.
        endless: whether there are so many pictures that none is seen twice; they are in no order.
        paired: whether a picture's conditioning image shows the same thing.
        sizes: heights and widths, where pictures differ in them; the first are those of `spec`.
        hint: how conditioning images are computed from the pictures; None where they are not.
    """

    spec: ImageSpec
    source: str = ""
    digest: str = ""
    labels: Int[Tensor, "n"] | None = None
    weights: Float[Tensor, "n"] | None = None
    groups: Int[Tensor, "n"] | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    training: bool = True
    flip: bool = False
    dynamic: bool = False
    floors: bool = False
    endless: bool = False
    paired: bool = False
    sizes: tuple[tuple[int, int], ...] = ()
    hint: PictureHint | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, check in _CHECKS.items():
            if name in cls.__dict__:
                setattr(cls, name, _checking(getattr(cls, name), name, check))

    @abstractmethod
    def __len__(self) -> int: ...

    def order(self, seed: int, together: int = 1) -> Order:
        """Which picture comes when: each once an epoch, at the data's weights, or any of them.

        Args:
            seed: of whatever is drawn.
            together: of so many images that follow each other, all have one size.
        """
        if self.endless:
            return Anything(len(self), seed)
        return Shuffled(len(self), seed) if self.weights is None else ByWeight(self.weights, seed)

    def compute_hints(self, kind: Hint, reduction: int = REDUCTION) -> None:
        """From now on each picture has a conditioning image that is computed from it.

        Args:
            kind: what is computed.
            reduction: how many times smaller the side of a low resolution is.

        Raises:
            LimnerError: hints of pictures of which it would have to be known what stands where.
        """
        if kind in ("mask", "boxes", "objects"):
            raise LimnerError(
                f"data.hint={kind} is of scenes, of which it is known what stands where; give "
                "data.hint=edges, scribble, line, lowres or bicubic"
            )
        self.hint = kind
        self.spec = replace(self.spec, hint=hint_spec(kind, self.spec, reduction))
        said = kind if reduction == REDUCTION else f"{kind} {reduction}"
        self.digest = hashlib.sha256(f"{self.digest} {said}".encode()).hexdigest()

    @abstractmethod
    def pixels(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """Pictures as their files have them, neither requantised nor binarised."""

    def parts(
        self, indices: Int[Tensor, "b"], corner: Float[Tensor, "b 2"]
    ) -> UInt8[Tensor, "b c h w"]:
        """Pictures as `pixels`, but of those that are larger another part than the middle."""
        return self.pixels(indices)

    def images(self, indices: Int[Tensor, "b"], noise: Noise, view: View | None = None) -> Images:
        """Pictures in [-1, 1] on the grid of `spec.levels`, binarised where that is asked for.

        Dynamic binarisation draws each pixel, p(x = 1) = intensity: from `noise` where the data
        are trained on, from one fixed seed where they are held out, that all score the same set.

        Reference: Burda, Grosse, Salakhutdinov (2016). Importance weighted autoencoders.
        arXiv:1509.00519.

        Args:
            indices: which pictures.
            noise: b random streams.
            view: how they are looked at; None for the middle, not mirrored.
        """
        if view is None:
            return self._quantise(indices, self.pixels(indices), noise)
        x = self._quantise(indices, self.parts(indices, view.corner), noise)
        if view.mirrored.any():
            x = torch.where(view.mirrored[:, None, None, None], x.flip(-1), x)
        return x

    def _quantise(
        self, indices: Int[Tensor, "b"], pixels: UInt8[Tensor, "b c h w"], noise: Noise
    ) -> Images:
        x = from_uint8(pixels)
        if self.dynamic:
            streams = (
                noise if self.training else Noise.keyed(_FIXED_SEED, Purpose.BINARISE, indices)
            )
            ink = streams.uniform(*self.spec.shape) < (x + 1) / 2
            return from_levels(ink.long(), 2)
        levels = self.spec.levels
        if levels == 256:
            return x
        if self.floors:
            return from_levels(pixels.long() * levels // 256, levels)
        return from_levels(to_levels(x, levels), levels)

    def captions(self, indices: Int[Tensor, "b"], noise: Noise) -> list[str] | None:
        """One caption of each picture, drawn from b random streams; None when there are none."""
        return None

    def hints(
        self,
        indices: Int[Tensor, "b"],
        numbers: Int[Tensor, "b"],
        seed: int,
        view: View | None = None,
        x: Images | None = None,
    ) -> Float[Tensor, "b k hh ww"] | None:
        """Conditioning images of some pictures; None when there are none.

        Args:
            indices: which pictures.
            numbers: their global numbers, by which unpaired images go.
            seed: of the order of the data.
            view: how training looks at the pictures; None where they are looked at as they are.
            x: the pictures themselves, seen so, where they are at hand.
        """
        if self.hint is None or self.spec.hint is None:
            return None
        if x is None:
            x = self.images(indices, Noise.keyed(seed, Purpose.BINARISE, numbers), view)
        return draw_hint(self.hint, x, self.spec.hint.shape[1:])

    def name(self, index: int) -> str:
        """What a picture is called: its file's name where there is one."""
        return str(index)

    def overview(self, n: int) -> Int[Tensor, "n"]:
        """n pictures: the first of each class in turn, or without classes spread over the data.

        Where there are fewer, it begins again.
        """
        if self.endless:
            return torch.arange(n)
        order = torch.arange(len(self))
        if self.labels is None and n < len(self):
            return torch.arange(n) * len(self) // n
        if self.labels is not None:
            by_class = torch.argsort(self.labels, stable=True)
            counts = torch.bincount(self.labels)
            starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
            rank = torch.empty_like(order)
            rank[by_class] = order - starts  # how many of its class come before it
            order = torch.argsort(rank * len(counts) + self.labels)
        return order[torch.arange(n) % len(order)]


def _checking(method: Callable[..., Any], name: str, check: Check) -> Callable[..., Any]:
    """A method of a data set that refuses what does not agree with the specification."""

    @functools.wraps(method)
    def checked(self: Dataset, indices: Int[Tensor, "b"], *args: Any, **kwargs: Any) -> Any:
        found = method(self, indices, *args, **kwargs)
        who = f"{name} of {type(self).__name__}"
        check(found, len(indices), who, self.spec, bool(self.sizes))
        return found

    return checked


def check_dataset(data: object) -> None:
    """Refuse what is not a data set, or says of its pictures what cannot be.

    Raises:
        LimnerError: it has another type, no pictures, no specification, or labels, weights,
            captions or conditioning images that do not agree with it.
    """
    who = type(data).__name__
    if not isinstance(data, Dataset):
        raise LimnerError(
            f"{who} is not a data set; write a class with limner.data.Dataset as its base, with "
            "spec, __len__(self) and pixels(self, indices)"
        )
    if not isinstance(getattr(data, "spec", None), ImageSpec):
        raise LimnerError(
            f"{who} has no spec; write self.spec = ImageSpec(channels, height, width)"
        )
    try:
        n = len(data)
    except (TypeError, ValueError) as error:
        raise LimnerError(f"len() of {who} says how many pictures there are ({error})") from None
    if not n:
        raise LimnerError(f"{data.source or who} contains no pictures")
    _check_labels(data, n, who)
    _check_weights(data.weights, n, who)
    if data.spec.text and type(data).captions is Dataset.captions:
        raise LimnerError(
            f"the spec of {who} has text, but no captions; write captions(self, indices, noise), "
            "or leave text out"
        )
    own_hints = type(data).hints is not Dataset.hints
    if not own_hints and (data.spec.hint is None) != (data.hint is None):
        raise LimnerError(
            f"spec.hint and hint of {who} do not agree; compute_hints('edges') sets both, or write "
            "hints(self, indices, numbers, seed, view, x)"
        )


def _check_labels(data: Dataset, n: int, who: str) -> None:
    """Refuse labels that are no class numbers of the specification, one for each picture."""
    labels: object = data.labels
    known = len(data.spec.labels)
    if (labels is None) != (not known):
        has, lacks = ("spec.labels", "labels")[:: 1 if labels is None else -1]
        raise LimnerError(
            f"{who} has {has} and no {lacks}; give class names in spec.labels and, in labels, a "
            "tensor of their numbers, or neither"
        )
    if labels is None:
        return
    if not isinstance(labels, Tensor) or labels.dtype not in _WHOLE or labels.ndim != 1:
        raise LimnerError(
            f"the labels of {who} are {kind_of(labels)}; give class numbers, one for each picture, "
            "as torch.tensor([0, 2, 1])"
        )
    if len(labels) != n and not data.endless:
        raise LimnerError(f"{who} has {len(labels)} labels for {n} pictures; give one for each")
    low, high = int(labels.min()), int(labels.max())
    if low < -1 or high >= known:
        raise LimnerError(
            f"{who} has the label {low if low < -1 else high}, and its spec {known} classes; give "
            f"0 to {known - 1}, and -1 where there is none"
        )


def _check_weights(weights: Any, n: int, who: str) -> None:
    """Refuse weights by which nothing can be drawn."""
    if weights is None:
        return
    fits = isinstance(weights, Tensor) and weights.shape == (n,) and weights.is_floating_point()
    if not (fits and weights.min() >= 0 and 0 < weights.sum() < math.inf):
        raise LimnerError(
            f"the weights of {who} are not a tensor of {n} numbers from 0 with a sum above it; "
            "give a float for each picture, or leave them out"
        )
