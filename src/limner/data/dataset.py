"""Data sets: numbered pictures with labels, captions and conditioning images.

A data set has no order and no randomness of its own. A `Stream` orders it, and passes it random
streams for what is drawn at each use (captions, binarisation).
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
from limner.data.dataset_checks import (
    Check,
    check_captions,
    check_hints,
    check_images,
    check_pixels,
    kind_of,
)
from limner.data.hints import REDUCTION, Hint, PictureHint, draw_hint, hint_spec
from limner.data.order import Anything, ByWeight, Order, Shuffled

_INTEGER_TYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)
_BINARISATION_SEED = 0  # held-out splits are binarised once, with this seed


_CHECKS: dict[str, Check] = {
    "pixels": check_pixels,
    "parts": check_pixels,
    "images": check_images,
    "captions": check_captions,
    "hints": check_hints,
}
"""Method of a data set -> check of its result."""


class View(NamedTuple):
    """The augmentation of pictures in training.

    Args:
        mirrored: whether each picture is mirrored.
        corner: upper left corner of the crop from larger pictures, from (0, 0) to (1, 1).
    """

    mirrored: Bool[Tensor, "b"]
    corner: Float[Tensor, "b 2"]


class Dataset(ABC):
    """A data set: pictures, numbered from 0.

    Args:
        spec: specification of the pictures.
        source: the source as it was typed, for messages and model cards.
        digest: sha256 of pictures, captions, labels and options; equal digests mean equal data.
        labels: class of each picture; None without classes.
        weights: relative sampling weight of each picture; None if each is seen once an epoch.
        groups: group number of each picture, equal for variants of one thing; None if unknown.
        skipped: files left out, with reasons.
        training: whether this split is for training; other splits are never flipped, and are
            binarised once.
        flip: whether the stream mirrors every second picture.
        dynamic: whether each pixel is drawn with its intensity as probability (dynamic
            binarisation).
        floors: whether each level has equally many of the 256 values; else the nearest is used.
        endless: whether there are so many pictures that none is seen twice; they have no order.
        paired: whether a picture and its conditioning image show the same thing.
        sizes: (height, width) of the pictures, if they differ; the first is that of `spec`.
        hint: kind of the conditioning images that are computed from the pictures; None if none are.
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
        """Return the order of the pictures: once an epoch, by weight, or any of endless data.

        Args:
            seed: random seed.
            together: number of consecutive images that have one size.
        """
        if self.endless:
            return Anything(len(self), seed)
        return Shuffled(len(self), seed) if self.weights is None else ByWeight(self.weights, seed)

    def compute_hints(self, kind: Hint, reduction: int = REDUCTION) -> None:
        """Compute a conditioning image from each picture from now on.

        Args:
            kind: kind of conditioning image.
            reduction: factor between the sides of a picture and of its low resolution.

        Raises:
            LimnerError: this kind needs the positions of objects, which only scenes have.
        """
        if kind in ("mask", "boxes", "objects"):
            raise LimnerError(
                f"data.hint={kind} needs the positions of objects, which only scenes have; give "
                "data.hint=edges, scribble, line, lowres or bicubic"
            )
        self.hint = kind
        self.spec = replace(self.spec, hint=hint_spec(kind, self.spec, reduction))
        hint_name = kind if reduction == REDUCTION else f"{kind} {reduction}"
        self.digest = hashlib.sha256(f"{self.digest} {hint_name}".encode()).hexdigest()

    @abstractmethod
    def pixels(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """Return pictures with the pixels of their files, neither requantised nor binarised."""

    def parts(
        self, indices: Int[Tensor, "b"], corner: Float[Tensor, "b 2"]
    ) -> UInt8[Tensor, "b c h w"]:
        """Return pictures as `pixels` does, but larger ones cropped at a corner."""
        return self.pixels(indices)

    def images(self, indices: Int[Tensor, "b"], noise: Noise, view: View | None = None) -> Images:
        """Return pictures in [-1, 1] on the grid of `spec.levels`, binarised if requested.

        Dynamic binarisation draws each pixel with p(x = 1) = intensity. Training data use `noise`;
        held-out data use one fixed seed, so that all models are scored on the same set.

        Reference: Burda, Grosse, Salakhutdinov (2016). Importance weighted autoencoders.
        arXiv:1509.00519.

        Args:
            indices: indices of the pictures.
            noise: b random streams.
            view: augmentation; None for a centre crop, not mirrored.
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
                noise
                if self.training
                else Noise.keyed(_BINARISATION_SEED, Purpose.BINARISE, indices)
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
        """Return one caption per picture, drawn with b random streams; None without captions."""
        return None

    def hints(
        self,
        indices: Int[Tensor, "b"],
        numbers: Int[Tensor, "b"],
        seed: int,
        view: View | None = None,
        x: Images | None = None,
    ) -> Float[Tensor, "b k hh ww"] | None:
        """Return conditioning images of some pictures; None without conditioning images.

        Args:
            indices: indices of the pictures.
            numbers: their global numbers, which determine unpaired images.
            seed: seed of the order of the data.
            view: augmentation; None for unchanged pictures.
            x: the augmented pictures themselves, if already computed.
        """
        if self.hint is None or self.spec.hint is None:
            return None
        if x is None:
            x = self.images(indices, Noise.keyed(seed, Purpose.BINARISE, numbers), view)
        return draw_hint(self.hint, x, self.spec.hint.shape[1:])

    def name(self, index: int) -> str:
        """Return the name of a picture: that of its file, if it has one."""
        return str(index)

    def overview(self, n: int) -> Int[Tensor, "n"]:
        """Return n indices: the first pictures of each class in turn, or evenly spread ones.

        If there are fewer than n pictures, they repeat.
        """
        if self.endless:
            return torch.arange(n)
        order = torch.arange(len(self))
        if self.labels is None and n < len(self):
            return torch.arange(n) * len(self) // n
        if self.labels is not None:
            labels = self.labels.long() % (len(self.spec.labels) + 1)  # -1, no class, comes last
            by_class = torch.argsort(labels, stable=True)
            counts = torch.bincount(labels)
            starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
            rank = torch.empty_like(order)
            rank[by_class] = order - starts  # number of earlier pictures of its class
            order = torch.argsort(rank * len(counts) + labels)
        return order[torch.arange(n) % len(order)]


def _checking(method: Callable[..., Any], name: str, check: Check) -> Callable[..., Any]:
    """Wrap a method of a data set with a check of its result."""

    @functools.wraps(method)
    def wrapper(self: Dataset, indices: Int[Tensor, "b"], *args: Any, **kwargs: Any) -> Any:
        result = method(self, indices, *args, **kwargs)
        who = f"{name} of {type(self).__name__}"
        check(result, len(indices), who, self.spec, bool(self.sizes))
        return result

    return wrapper


def check_dataset(data: object) -> None:
    """Check that an object is a consistent data set.

    Raises:
        LimnerError: it has another type, no pictures, no specification, or labels, weights,
            captions or conditioning images that do not agree with the specification.
    """
    who = type(data).__name__
    if isinstance(data, type):
        raise LimnerError(f"{data.__name__} is a class; give a data set, as {data.__name__}()")
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
        raise LimnerError(
            f"len() of {who} fails ({error}); return the number of pictures"
        ) from None
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
            f"spec.hint and hint of {who} do not agree; set both with compute_hints('edges'), or "
            "write hints(self, indices, numbers, seed, view, x)"
        )


def _check_labels(data: Dataset, n: int, who: str) -> None:
    """Check that labels are class numbers of the specification, one for each picture."""
    labels: object = data.labels
    count = len(data.spec.labels)
    if (labels is None) != (not count):
        has, lacks = ("spec.labels", "labels")[:: 1 if labels is None else -1]
        raise LimnerError(
            f"{who} has {has} but no {lacks}; give both, class names in spec.labels and a tensor "
            "of their numbers in labels, or neither"
        )
    if labels is None:
        return
    if not isinstance(labels, Tensor) or labels.dtype not in _INTEGER_TYPES or labels.ndim != 1:
        raise LimnerError(
            f"the labels of {who} are {kind_of(labels)}; give class numbers, one for each picture, "
            "as torch.tensor([0, 2, 1])"
        )
    if len(labels) != n and not data.endless:
        raise LimnerError(f"{who} has {len(labels)} labels for {n} pictures; give one for each")
    low, high = int(labels.min()), int(labels.max())
    if low < -1 or high >= count:
        raise LimnerError(
            f"{who} has the label {low if low < -1 else high}, but its spec has {count} classes; "
            f"give 0 to {count - 1}, or -1 for no class"
        )


def _check_weights(weights: Any, n: int, who: str) -> None:
    """Check that weights can be used for sampling."""
    if weights is None:
        return
    is_valid = isinstance(weights, Tensor) and weights.shape == (n,) and weights.is_floating_point()
    if not (is_valid and weights.min() >= 0 and 0 < weights.sum() < math.inf):
        raise LimnerError(
            f"the weights of {who} are not a tensor of {n} non-negative numbers with a positive "
            "sum; give a float for each picture, or leave them out"
        )
