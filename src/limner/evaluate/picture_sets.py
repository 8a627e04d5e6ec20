"""What is judged and what it is judged against: numbered pictures in uint8.

A model is judged by pictures that it paints under the conditions of the real data: picture i gets
the class, the caption or the conditioning image of real picture i. A folder is judged by its
pictures. Both are `PictureSet`s, as the real data are, and no metric can tell them apart.
"""

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images, ImageSpec, to_uint8
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise, Purpose
from limner.contract.text import Tokenizer
from limner.contract.upscaling import Upscales
from limner.data.dataset import Dataset, check_dataset
from limner.evaluate.metrics.statistics import random_order
from limner.runtime.cache import key

Numbers = Int[Tensor, "b"]
Pixels = UInt8[Tensor, "b c h w"]
_ORDER = 0  # the seed of the order of real pictures
_MOST_OF_ENDLESS = 10_000  # pictures of data without an end that are looked at
_LOOKED_AT = 100  # real pictures whose colours sources are moved to


_P = TypeVar("_P", bound="PictureSet")


class PictureSet(ABC):
    """Numbered pictures, the same under a number whenever they are asked for.

    Attributes:
        name: what the report calls them.
        fingerprint: of everything that decides the pictures and their order.
        spec: what the pictures are.
    """

    name: str
    fingerprint: str
    spec: ImageSpec

    _n: int

    def __len__(self) -> int:
        return self._n

    def first(self: _P, n: int) -> _P:
        """The first n of them, or all if there are fewer."""
        fewer = copy.copy(self)
        fewer._n = min(n, len(self))
        return fewer

    @abstractmethod
    def pictures(self, numbers: Numbers) -> Pixels:
        """The pictures with these numbers."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """The names of their classes; () where they are of none."""

    @abstractmethod
    def labels(self, numbers: Numbers) -> Numbers | None:
        """The classes that they are to be of; None where there are none."""

    @abstractmethod
    def captions(self, numbers: Numbers) -> list[str] | None:
        """What they are to show; None where nothing was said."""

    @abstractmethod
    def groups(self, numbers: Numbers) -> Numbers | None:
        """Which of them are variants of one thing; None where that is unknown."""

    def title(self, number: int) -> str:
        """A picture in a message."""
        return f"picture {number} of {self.name}"


class RealPictures(PictureSet):
    """The pictures of a data set, each once, in an order that depends on how many there are alone.

    So the first n are a fair sample, whatever the order of the files.

    Args:
        dataset: where they come from; neither mirrored nor drawn by weight.
        n: how many of them; None for all.
        name: what the report calls them; None for the source as it was typed.
    """

    def __init__(self, dataset: Dataset, n: int | None = None, name: str | None = None) -> None:
        check_dataset(dataset)
        self.dataset = dataset
        self.spec = dataset.spec
        self.name = name or dataset.source or "the data"
        whole = _MOST_OF_ENDLESS if dataset.endless else len(dataset)
        self._order = torch.arange(whole) if dataset.endless else random_order(whole, _ORDER)
        self._n = whole if n is None else min(n, whole)
        self.fingerprint = key("real", dataset.digest or _digest(dataset), _ORDER)

    def indices(self, numbers: Numbers) -> Numbers:
        """Where the pictures with these numbers are in the data set, round and round."""
        return self._order[numbers % len(self._order)]

    def pictures(self, numbers: Numbers) -> Pixels:
        """In uint8, requantised and binarised as the data set is."""
        return to_uint8(self.images(numbers))

    def images(self, numbers: Numbers) -> Images:
        """The same in [-1, 1]."""
        indices = self.indices(numbers)
        return self.dataset.images(indices, Noise.keyed(_ORDER, Purpose.BINARISE, indices))

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the data set."""
        return () if self.dataset.labels is None else self.spec.labels

    def labels(self, numbers: Numbers) -> Numbers | None:
        """Their classes."""
        known = self.dataset.labels
        return None if known is None else known[self.indices(numbers)]

    def captions(self, numbers: Numbers) -> list[str] | None:
        """A caption of each, drawn as the data draw them; on a second round, another one."""
        streams = Noise.keyed(_ORDER, Purpose.REFERENCE_CAPTION, numbers)
        return self.dataset.captions(self.indices(numbers), streams)

    def groups(self, numbers: Numbers) -> Numbers | None:
        """As the data set says."""
        known = self.dataset.groups
        return None if known is None else known[self.indices(numbers)]

    def condition(self, numbers: Numbers, spec: ImageSpec) -> Condition:
        """What these pictures are of, as far as a model of such a specification is told."""
        captions = self.captions(numbers) if spec.text else None
        labelled = spec.labels and spec.labels == self.spec.labels
        return Condition(
            label=self.labels(numbers) if labelled else None,
            text=Tokenizer(spec.text).encode(captions) if spec.text and captions else None,
            image=self.dataset.hints(self.indices(numbers), numbers, _ORDER) if spec.hint else None,
        )

    def title(self, number: int) -> str:
        """A picture in a message, by its file's name."""
        return f"'{self.dataset.name(int(self.indices(torch.tensor([number]))))}' of {self.name}"


class PaintedPictures(PictureSet):
    """What a model paints under the conditions of real pictures; picture i from seed + i.

    Args:
        model: it paints.
        real: where the conditions come from.
        n: how many pictures.
        seed: of the first one.
        options: of the model's sampler.
        name: what the report calls them.
        fingerprint: of the model.
    """

    def __init__(
        self,
        model: GenerativeModel,
        real: RealPictures,
        n: int,
        *,
        seed: int,
        options: Mapping[str, Any],
        name: str,
        fingerprint: str,
    ) -> None:
        self.model, self.real, self.seed, self.options = model, real, seed, dict(options)
        self.spec = model.spec
        self.name = name
        self._n = n
        self._of_model = fingerprint
        sampling = {option: repr(value) for option, value in self.options.items()}
        where = [model.device.type, str(torch.__version__)]
        self.fingerprint = key("painted", fingerprint, sampling, seed, real.fingerprint, where)
        hint = model.spec.hint
        small = real.spec.hint
        reduction = real.spec.height / small.height if small else None
        if isinstance(model, Upscales) and reduction != model.factor:
            raise LimnerError(
                f"{name} enlarges pictures {model.factor} times; give data.hint=bicubic "
                f"data.reduction={model.factor}"
            )
        if model.condition == "required" and hint and real.spec.hint is None:
            raise LimnerError(
                f"{name} paints from a picture; judge it --against unpaired:A,B, of which A has "
                "the pictures that it paints from"
            )

    def pictures(self, numbers: Numbers) -> Pixels:
        """Painted now.

        Raises:
            LimnerError: see `to_pixels`.
        """
        c = self.real.condition(numbers, self.spec)
        seeds = [self.seed + number for number in numbers.tolist()]
        x = self.model.sample(len(numbers), c, seed=seeds, **self.options)
        return self.to_pixels(x)

    def to_pixels(self, x: Images) -> Pixels:
        """What the model painted, in uint8.

        Raises:
            LimnerError: it is of another size.
        """
        if tuple(x.shape[1:]) != self.spec.shape:
            raise LimnerError(
                f"{self.name} is judged by pictures of {self.spec.height} x {self.spec.width}, and "
                f"these are {x.shape[2]} x {x.shape[3]}; leave their size out"
            )
        return to_uint8(x).cpu()

    def without_hints(self) -> "PaintedPictures":
        """What the same model paints from the same seeds without conditioning images."""
        other = PaintedPictures(
            self.model,
            self.real,
            self._n,
            seed=self.seed,
            options=self.options,
            name=f"{self.name} without hints",
            fingerprint=f"{self._of_model} without hints",
        )
        other.spec = replace(self.spec, hint=None)
        return other

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the real pictures, if the model is conditioned on classes or captions."""
        told = self.real.condition(torch.arange(1), self.spec)
        return () if told.label is None and told.text is None else self.real.classes

    def labels(self, numbers: Numbers) -> Numbers | None:
        """The classes that were asked for, if only in words."""
        return self.real.labels(numbers) if self.classes else None

    def captions(self, numbers: Numbers) -> list[str] | None:
        """The prompts."""
        return self.real.captions(numbers) if self.spec.text else None

    def groups(self, numbers: Numbers) -> Numbers | None:
        """The groups of the real pictures, if the model is told what these show."""
        return self.real.groups(numbers) if self.spec.text or self.spec.hint else None


class SourcePictures(PictureSet):
    """The conditioning pictures of real ones, as they are: what a model makes that does nothing.

    Args:
        real: whose conditioning pictures; all of one or as many channels.
        n: how many.
        matched: whether their colours are moved to be as frequent as those of the real pictures.
    """

    def __init__(self, real: RealPictures, n: int, matched: bool = False) -> None:
        self.real, self._n, self.matched = real, min(n, len(real)), matched
        self.spec = replace(real.spec, hint=None)
        self.name = f"the conditioning pictures of {real.name}"
        self.fingerprint = key("source", real.fingerprint, matched)

    def pictures(self, numbers: Numbers) -> Pixels:
        """In the size of the real pictures."""
        x = self.real.condition(numbers, self.real.spec).image
        assert x is not None
        channels, *size = self.spec.shape
        if tuple(x.shape[2:]) != tuple(size):
            x = torch.nn.functional.interpolate(x, size, mode="bilinear", antialias=True)
        pixels = to_uint8(x.expand(-1, channels, -1, -1))
        return torch.from_numpy(self._match_colours(pixels)) if self.matched else pixels

    def _match_colours(self, pixels: Pixels) -> np.ndarray:
        from skimage.exposure import match_histograms  # pyright: ignore

        goal = self.real.pictures(torch.arange(min(_LOOKED_AT, len(self.real))))
        flat = goal.permute(0, 2, 3, 1).flatten(0, 1).numpy()
        one_by_one = pixels.permute(0, 2, 3, 1).numpy()
        moved = [match_histograms(one, flat, channel_axis=-1) for one in one_by_one]
        return np.stack(moved).round().astype(np.uint8).transpose(0, 3, 1, 2)

    @property
    def classes(self) -> tuple[str, ...]:
        """None."""
        return ()

    def labels(self, numbers: Numbers) -> Numbers | None:
        """None."""
        return None

    def captions(self, numbers: Numbers) -> list[str] | None:
        """None."""
        return None

    def groups(self, numbers: Numbers) -> Numbers | None:
        """Those of the real pictures."""
        return self.real.groups(numbers)


def _digest(dataset: Dataset) -> str:
    """A hash of the pictures of a data set that has none of its own."""
    labels = [] if dataset.labels is None else dataset.labels.tolist()
    digest = hashlib.sha256(repr((dataset.spec, labels)).encode())
    for part in torch.arange(len(dataset)).split(1024):
        digest.update(dataset.pixels(part).contiguous().numpy().tobytes())
    return digest.hexdigest()
