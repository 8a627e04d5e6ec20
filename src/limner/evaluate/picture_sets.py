"""Sets of numbered uint8 pictures: the subject and the reference of an evaluation.

A model is judged by pictures that it paints under the conditions of the real data: picture i gets
the class, the caption or the conditioning image of real picture i. A folder is judged by its
pictures. Both are a `PictureSet`, like the real data, so metrics treat them in the same way.
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

from limner.contract.bundled import model_digest
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images, ImageSpec, to_uint8
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise, Purpose
from limner.contract.options import names_a_file
from limner.contract.text import Tokenizer
from limner.contract.upscaling import Upscales
from limner.data.dataset import Dataset, check_dataset
from limner.evaluate.metrics.statistics import random_order
from limner.runtime.cache import cache_key

Numbers = Int[Tensor, "b"]
Pixels = UInt8[Tensor, "b c h w"]
_ORDER_SEED = 0  # the seed of the order of real pictures
_MAX_ENDLESS_PICTURES = 10_000  # pictures that are used of endless data
_COLOUR_PICTURES = 100  # real pictures that define the colours for histogram matching


_P = TypeVar("_P", bound="PictureSet")


class PictureSet(ABC):
    """A set of numbered pictures; the same number always gives the same picture.

    Attributes:
        name: the name of the set in reports.
        fingerprint: a hash of everything that affects the pictures and their order.
        spec: the specification of the pictures.
    """

    name: str
    fingerprint: str
    spec: ImageSpec

    _n: int

    def __len__(self) -> int:
        return self._n

    def first(self: _P, n: int) -> _P:
        """Return the set of the first n pictures, or of all if there are fewer."""
        subset = copy.copy(self)
        subset._n = min(n, len(self))
        return subset

    @abstractmethod
    def pictures(self, numbers: Numbers) -> Pixels:
        """Return the pictures with these numbers."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; () if the pictures have none."""

    @abstractmethod
    def labels(self, numbers: Numbers) -> Numbers | None:
        """Return the classes that the pictures should show; None if there are none."""

    @abstractmethod
    def captions(self, numbers: Numbers) -> list[str] | None:
        """Return the captions that the pictures should show; None if there are none."""

    @abstractmethod
    def groups(self, numbers: Numbers) -> Numbers | None:
        """Return the same number for variants of one thing; None if the variants are unknown."""

    def title(self, number: int) -> str:
        """Return the name of a picture for messages."""
        return f"picture {number} of {self.name}"


class RealPictures(PictureSet):
    """The pictures of a data set, each once, in a random order that depends only on their number.

    So the first n are a random sample, independent of the order of the files.

    Args:
        dataset: the data set; its pictures are neither mirrored nor drawn by weight.
        n: the number of pictures; None for all.
        name: the name of the set in reports; None for the source as it was typed.
    """

    def __init__(self, dataset: Dataset, n: int | None = None, name: str | None = None) -> None:
        check_dataset(dataset)
        self.dataset = dataset
        self.spec = dataset.spec
        self.name = name or dataset.source or "the data"
        total = _MAX_ENDLESS_PICTURES if dataset.endless else len(dataset)
        self._order = torch.arange(total) if dataset.endless else random_order(total, _ORDER_SEED)
        self._n = total if n is None else min(n, total)
        self.fingerprint = cache_key("real", dataset.digest or _digest(dataset), _ORDER_SEED)

    def indices(self, numbers: Numbers) -> Numbers:
        """Return the indices in the data set; numbers beyond the end start again at the first."""
        return self._order[numbers % len(self._order)]

    def pictures(self, numbers: Numbers) -> Pixels:
        """Return pictures in uint8, requantised and binarised like the data set."""
        return to_uint8(self.images(numbers))

    def images(self, numbers: Numbers) -> Images:
        """Return the same pictures in [-1, 1]."""
        indices = self.indices(numbers)
        return self.dataset.images(indices, Noise.keyed(_ORDER_SEED, Purpose.BINARISE, indices))

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the data set."""
        return () if self.dataset.labels is None else self.spec.labels

    def labels(self, numbers: Numbers) -> Numbers | None:
        """Return the classes of the pictures."""
        labels = self.dataset.labels
        return None if labels is None else labels[self.indices(numbers)]

    def captions(self, numbers: Numbers) -> list[str] | None:
        """Return a caption of each picture, drawn as the data set draws them.

        Numbers beyond the end, which repeat pictures, get other captions.
        """
        streams = Noise.keyed(_ORDER_SEED, Purpose.REFERENCE_CAPTION, numbers)
        return self.dataset.captions(self.indices(numbers), streams)

    def groups(self, numbers: Numbers) -> Numbers | None:
        """Return the groups of the data set."""
        groups = self.dataset.groups
        return None if groups is None else groups[self.indices(numbers)]

    def condition(self, numbers: Numbers, spec: ImageSpec) -> Condition:
        """Return the conditions of the pictures that a model with this specification takes."""
        captions = self.captions(numbers) if spec.text else None
        has_labels = spec.labels and spec.labels == self.spec.labels
        return Condition(
            label=self.labels(numbers) if has_labels else None,
            text=Tokenizer(spec.text).encode(captions) if spec.text and captions else None,
            image=self.dataset.hints(self.indices(numbers), numbers, _ORDER_SEED)
            if spec.hint
            else None,
        )

    def title(self, number: int) -> str:
        """Return the name of a picture for messages, with its file name."""
        return f"'{self.dataset.name(int(self.indices(torch.tensor([number]))))}' of {self.name}"


class PaintedPictures(PictureSet):
    """Pictures that a model paints under the conditions of real pictures; picture i from seed + i.

    Args:
        model: the model.
        real: the real pictures with the conditions.
        n: the number of pictures.
        seed: the seed of the first picture.
        options: options of the model's sampler.
        name: the name of the set in reports.
        fingerprint: a hash of the model.

    Attributes:
        named_models: hashes of other models that options name, such as a guide, by option.
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
        properties = model.sample_schema()["properties"]
        names = [
            name
            for name, schema in properties.items()
            if names_a_file(schema) and self.options.get(name)
        ]
        self.named_models = {name: model_digest(self.options[name]) for name in names}
        sampling = {name: repr(value) for name, value in self.options.items()} | self.named_models
        platform = [model.device.type, str(torch.__version__)]
        self.fingerprint = cache_key(
            "painted", fingerprint, sampling, seed, real.fingerprint, platform
        )
        hint = model.spec.hint
        real_hint = real.spec.hint
        reduction = real.spec.height / real_hint.height if real_hint else None
        if isinstance(model, Upscales) and reduction != model.factor:
            raise LimnerError(
                f"{name} enlarges pictures {model.factor} times; give data.hint=bicubic "
                f"data.reduction={model.factor}"
            )
        if model.condition == "required" and hint and real.spec.hint is None:
            raise LimnerError(
                f"{name} paints from a picture; give --against unpaired:A,B, where A has the "
                "pictures that it paints from"
            )

    def pictures(self, numbers: Numbers) -> Pixels:
        """Paint the pictures with these numbers.

        Raises:
            LimnerError: see `to_pixels`.
        """
        c = self.real.condition(numbers, self.spec)
        seeds = [self.seed + number for number in numbers.tolist()]
        x = self.model.sample(len(numbers), c, seed=seeds, **self.options)
        return self.to_pixels(x)

    def to_pixels(self, x: Images) -> Pixels:
        """Convert what the model painted to uint8.

        Raises:
            LimnerError: the pictures have another size.
        """
        if tuple(x.shape[1:]) != self.spec.shape:
            raise LimnerError(
                f"{self.name} is judged by pictures of {self.spec.height} x {self.spec.width}, and "
                f"these are {x.shape[2]} x {x.shape[3]}; leave their size out"
            )
        return to_uint8(x).cpu()

    def without_hints(self) -> "PaintedPictures":
        """Return the pictures of the same model and seeds, without conditioning images."""
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
        condition = self.real.condition(torch.arange(1), self.spec)
        return () if condition.label is None and condition.text is None else self.real.classes

    def labels(self, numbers: Numbers) -> Numbers | None:
        """Return the requested classes, also if the request was a caption."""
        return self.real.labels(numbers) if self.classes else None

    def captions(self, numbers: Numbers) -> list[str] | None:
        """Return the prompts; None for a model without captions."""
        return self.real.captions(numbers) if self.spec.text else None

    def groups(self, numbers: Numbers) -> Numbers | None:
        """Return the groups of the real pictures, if the model gets their captions or hints."""
        return self.real.groups(numbers) if self.spec.text or self.spec.hint else None


class SourcePictures(PictureSet):
    """The unchanged conditioning pictures of real ones: the output of a model that does nothing.

    Args:
        real: the real pictures; their conditioning pictures have 1 or the same number of channels.
        n: the number of pictures.
        matched: whether to match their colour histograms to those of the real pictures.
    """

    def __init__(self, real: RealPictures, n: int, matched: bool = False) -> None:
        self.real, self._n, self.is_matched = real, min(n, len(real)), matched
        self.spec = replace(real.spec, hint=None)
        self.name = f"the conditioning pictures of {real.name}"
        self.fingerprint = cache_key("source", real.fingerprint, matched)

    def pictures(self, numbers: Numbers) -> Pixels:
        """Return the conditioning pictures in the size of the real pictures."""
        x = self.real.condition(numbers, self.real.spec).image
        assert x is not None
        channels, *size = self.spec.shape
        if tuple(x.shape[2:]) != tuple(size):
            x = torch.nn.functional.interpolate(x, size, mode="bilinear", antialias=True)
        pixels = to_uint8(x.expand(-1, channels, -1, -1))
        return torch.from_numpy(self._match_colours(pixels)) if self.is_matched else pixels

    def _match_colours(self, pixels: Pixels) -> np.ndarray:
        from skimage.exposure import match_histograms  # pyright: ignore

        real = self.real.pictures(torch.arange(min(_COLOUR_PICTURES, len(self.real))))
        reference = real.permute(0, 2, 3, 1).flatten(0, 1).numpy()
        images = pixels.permute(0, 2, 3, 1).numpy()
        matched = [match_histograms(image, reference, channel_axis=-1) for image in images]
        return np.stack(matched).round().astype(np.uint8).transpose(0, 3, 1, 2)

    @property
    def classes(self) -> tuple[str, ...]:
        """The empty tuple: conditioning pictures have no classes."""
        return ()

    def labels(self, numbers: Numbers) -> Numbers | None:
        """Return None: conditioning pictures have no classes."""
        return None

    def captions(self, numbers: Numbers) -> list[str] | None:
        """Return None: conditioning pictures have no captions."""
        return None

    def groups(self, numbers: Numbers) -> Numbers | None:
        """Return the groups of the real pictures."""
        return self.real.groups(numbers)


def _digest(dataset: Dataset) -> str:
    """Compute a hash of the pictures of a data set that has no digest."""
    labels = [] if dataset.labels is None else dataset.labels.tolist()
    digest = hashlib.sha256(repr((dataset.spec, labels)).encode())
    for indices in torch.arange(len(dataset)).split(1024):
        digest.update(dataset.pixels(indices).contiguous().numpy().tobytes())
    return digest.hexdigest()
