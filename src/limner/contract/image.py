"""Images as tensors in [-1, 1], the specification of a data set, conditions, and batches.

Images are uint8 in files and in the metrics. They are converted to [-1, 1] and back only here:
nothing else in the library uses the number 127.5.
"""

import contextlib
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from operator import index
from typing import Any, NamedTuple, SupportsIndex, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer, UInt8
from torch import Tensor

from limner.contract.errors import LimnerError, is_utf8
from limner.contract.noise import Noise

Images = Float[Tensor, "b c h w"]
"""A batch of images in [-1, 1]; float32 wherever one part of the library passes it to another."""


Rows = Sequence[Sequence[int]]
_MAX_VALUE = 2.0  # largest absolute value of a picture, as a filter may overshoot 1


@dataclass(frozen=True)
class TextSpec:
    """How captions become tokens: at most `length` of them, out of `vocabulary`, with a package
    asset."""

    length: int
    vocabulary: int
    asset: str
    sha256: str


@dataclass(frozen=True)
class ImageSpec:
    """What the data are: read from the data set and stored in the checkpoint, so never typed twice.

    Args:
        channels, height, width: the shape of one image.
        levels: the number of values per channel; likelihoods are probabilities of these.
        labels: the names of the classes; empty if the data have no classes.
        frequencies: the share of each class in the data; labels are drawn with them if none is
            given.
        text: how captions become tokens; None if the data have no captions.
        hint: the specification of the conditioning images (another domain, edges, low resolution);
            None without them.
        domain: the name of such pictures where they are translated; "" if they have no name.
    """

    channels: int
    height: int
    width: int
    levels: int = 256
    labels: tuple[str, ...] = ()
    frequencies: tuple[float, ...] = ()
    text: TextSpec | None = None
    hint: "ImageSpec | None" = None
    domain: str = ""

    def __post_init__(self) -> None:
        for name in ("channels", "height", "width", "levels"):
            object.__setattr__(self, name, _whole(name, getattr(self, name)))
        names = cast("Sequence[object]", self.labels)
        if not isinstance(names, tuple | list) or not all(isinstance(each, str) for each in names):
            raise LimnerError(f"labels={names!r} are not names; give text, as ('cat', 'dog')")
        for name in ("labels", "frequencies"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if wrong := [label for label in self.labels if not is_utf8(label)]:
            raise LimnerError(f"the label {wrong[0]!a} is not valid UTF-8; rename the class")
        if min(self.channels, self.height, self.width) < 1:
            raise LimnerError(
                f"an image needs at least one channel and one pixel, not {self.channels} x "
                f"{self.height} x {self.width}"
            )
        if not 2 <= self.levels <= 256:
            raise LimnerError(f"levels must be between 2 and 256, not {self.levels}")
        if self.frequencies and len(self.frequencies) != len(self.labels):
            raise LimnerError(
                f"{len(self.frequencies)} label frequencies for {len(self.labels)} labels"
            )
        if len({*self.labels}) < len(self.labels):
            duplicate = next(name for name in self.labels if self.labels.count(name) > 1)
            raise LimnerError(f"the label '{duplicate}' comes twice; give each name once")
        if self.frequencies and not (min(self.frequencies) >= 0 < sum(self.frequencies)):
            raise LimnerError(
                f"label frequencies must be 0 or more, with a sum above 0, not {self.frequencies}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.height, self.width

    @property
    def dimensions(self) -> int:
        """The number of values of one image: channels x height x width."""
        return self.channels * self.height * self.width

    @property
    def shape_options(self) -> str:
        """The options that give data this shape.

        >>> ImageSpec(3, 8, 16).shape_options
        'data.size=8x16 data.channels=3'
        """
        size = f"{self.height}" if self.height == self.width else f"{self.height}x{self.width}"
        return f"data.size={size} data.channels={self.channels}"

    def with_size(self, height: int, width: int) -> "ImageSpec":
        """Return the specification of the same data at another size."""
        return replace(self, height=height, width=width)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without the fields at their defaults."""
        values = asdict(self) | {
            "labels": list(self.labels),
            "frequencies": list(self.frequencies),
        }
        if self.hint is not None:
            values["hint"] = self.hint.to_json()
        return {f.name: values[f.name] for f in fields(self) if getattr(self, f.name) != f.default}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ImageSpec":
        """Invert `to_json`."""
        arguments = dict(values)
        for name in ("labels", "frequencies"):
            if name in arguments:
                arguments[name] = tuple(arguments[name])
        if arguments.get("text"):
            arguments["text"] = TextSpec(**arguments["text"])
        if arguments.get("hint"):
            arguments["hint"] = cls.from_json(arguments["hint"])
        return cls(**arguments)

    def label_index(self, name: str | SupportsIndex) -> int:
        """Return the number of a class, given its name, a unique part of its name, or its number.

        Raises:
            LimnerError: the data have no classes, or none has this name; the message lists them.
        """
        if not self.labels:
            raise LimnerError("this model has no classes; leave the label out")
        if not isinstance(name, str):
            number = _whole("label", name)
            if not 0 <= number < len(self.labels):
                raise LimnerError(f"label {number} is not one of 0 to {len(self.labels) - 1}")
            return number
        key = name.strip().lower()
        lowered = [label.lower() for label in self.labels]
        matches = [i for i, label in enumerate(lowered) if label == key]
        if not matches and key.isdecimal() and int(key) < len(lowered):
            matches = [int(key)]
        if not matches and key:
            matches = [i for i, label in enumerate(lowered) if key in label]
        if len(matches) == 1:
            return matches[0]
        problem = "fits several classes" if matches else "is not a class of this model"
        labels = [self.labels[i] for i in matches] if matches else list(self.labels)
        names = ", ".join(labels[:20]) + (", ..." if len(labels) > 20 else "")
        raise LimnerError(f"label '{name}' {problem}; choose one of: {names}")


def _whole(name: str, value: object) -> int:
    """Return a whole number of any type, such as numpy's, as an int.

    Raises:
        LimnerError: it is another kind of value.
    """
    if not isinstance(value, SupportsIndex):
        raise LimnerError(f"{name}={value!r} is not a whole number; give one, as {name}=3")
    return index(value)


def to_levels(x: Images, levels: int) -> Int[Tensor, "b c h w"]:
    """Round to `levels` equally spaced values from -1 to 1; return integers 0 .. levels - 1."""
    return ((x.float() + 1) * ((levels - 1) / 2)).round_().clamp_(0, levels - 1).long()


def from_levels(k: Int[Tensor, "b c h w"] | UInt8[Tensor, "b c h w"], levels: int) -> Images:
    """Return level k of `levels` as the value 2 k / (levels - 1) - 1 in [-1, 1]."""
    return (2 * k.float() - (levels - 1)) / (levels - 1)  # exactly -1 and 1 at the ends


def to_uint8(x: Images) -> UInt8[Tensor, "b c h w"]:
    """Return images as a file stores them: rounded to 0 .. 255, clamped."""
    return ((x.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)


def from_uint8(pixels: UInt8[Tensor, "b c h w"]) -> Images:
    """Return a file's pixels as images in [-1, 1]."""
    return from_levels(pixels, 256)


def check_images(x: object) -> None:
    """Refuse anything but a tensor of floats in [-1, 1], such as the whole numbers of a file.

    Raises:
        LimnerError: x is not a tensor of floats, or some values are far outside [-1, 1].
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = str(x.dtype).removeprefix("torch.") if isinstance(x, Tensor) else type(x).__name__
        raise LimnerError(
            f"pictures must be a tensor of floats in [-1, 1], not {kind}; "
            "limner.contract.image.from_uint8 converts bytes"
        )
    if not x.numel() or torch.compiler.is_exporting():  # graphs read no number of a tensor
        return
    if not float(x.detach().abs().max()) <= _MAX_VALUE:  # nor NaN
        low, high = (float(end) for end in x.detach().aminmax())
        raise LimnerError(
            f"pictures must be floats in [-1, 1], and these go from {low:g} to {high:g}; "
            "limner.contract.image.from_uint8 converts bytes"
        )


def _is_int64(dtype: torch.dtype) -> bool:
    return dtype == torch.int64


def _is_float(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point


def _is_bool(dtype: torch.dtype) -> bool:
    return dtype == torch.bool


_CONDITION: dict[str, tuple[str, int, Callable[[torch.dtype], bool], str]] = {
    "label": ("class numbers, one for each picture", 1, _is_int64, "as label=[3, 5]"),
    "text": (
        "token numbers, a row for each picture", 2, _is_int64, "limner.text_condition reads words"
    ),
    "image": (
        'floats in [-1, 1], "b c h w"', 4, _is_float, "limner.contract.image.from_uint8 makes them"
    ),
    "present": ("true or false, one for each picture", 1, _is_bool, "as torch.tensor([True])"),
    "avoid": (
        "token numbers, a row for each picture", 2, _is_int64, "limner.text_condition reads words"
    ),
    "weight": ("floats, one for each token of the text", 2, _is_float, "as torch.ones(text.shape)"),
}  # fmt: skip
"""For each part of a condition: what it is, its number of dimensions, a check of its type, and what
to type."""


def _as_part(name: str, value: object) -> Tensor:
    """Return a part of a condition as a tensor, converting lists, arrays and other types of
    integers.

    Raises:
        LimnerError: it cannot be that part; the message says what can.
    """
    description, dimensions, accepts, hint = _CONDITION[name]
    if isinstance(value, Tensor) and value.ndim == dimensions and accepts(value.dtype):
        return value
    part = value
    if not isinstance(value, str):
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            part = torch.as_tensor(value)
    if isinstance(part, Tensor) and part.ndim == dimensions:
        is_whole = not (part.is_floating_point() or part.is_complex() or part.dtype == torch.bool)
        if is_whole and accepts(torch.int64):
            return part.long()
        if accepts(part.dtype):
            return part
    actual = type(value).__name__
    if isinstance(part, Tensor):
        kind = str(part.dtype).removeprefix("torch.")
        actual = f"{kind} of {part.ndim} dimension{'s' * (part.ndim != 1)}"
    raise LimnerError(f"{name} must be {description} ({hint}), not {actual}")


@dataclass(frozen=True, init=False)
class Condition:
    """What a picture should show: meanings, not mechanisms. Every part may be absent, for all rows
    or for some.

    Args:
        label: class numbers, int64 "b"; -1 where a row has none. Lists and arrays of whole numbers
            become tensors, also in `text` and `avoid`.
        text: token numbers, int64 "b l"; 0 is padding, and a row of padding has no text.
        image: conditioning images in [-1, 1], "b k hh ww".
        present: bool "b", whether each row has its conditioning image; None means all.
        avoid: tokens of what the picture should not show, int64 "b m"; guidance moves away from
            them.
        weight: the weight of each token of the text, "b l", 0 or more; 1 is the usual weight, and
            None means 1 for all.
    """

    label: Int[Tensor, "b"] | None = None
    text: Int[Tensor, "b l"] | None = None
    image: Float[Tensor, "b k hh ww"] | None = None
    present: Bool[Tensor, "b"] | None = None
    avoid: Int[Tensor, "b m"] | None = None
    weight: Float[Tensor, "b l"] | None = None

    def __init__(
        self,
        label: Integer[Tensor, "b"] | Integer[np.ndarray, "b"] | Sequence[int] | None = None,
        text: Integer[Tensor, "b l"] | Integer[np.ndarray, "b l"] | Rows | None = None,
        image: Float[Tensor, "b k hh ww"] | None = None,
        present: Bool[Tensor, "b"] | None = None,
        avoid: Integer[Tensor, "b m"] | Integer[np.ndarray, "b m"] | Rows | None = None,
        weight: Float[Tensor, "b l"] | None = None,
    ) -> None:
        parts = (label, text, image, present, avoid, weight)
        for name, value in zip(_CONDITION, parts, strict=True):
            part = None if value is None else _as_part(name, value)
            object.__setattr__(self, name, part)
        sizes = {len(part) for part in self._parts().values()}
        if len(sizes) > 1:
            raise LimnerError(
                f"the parts of a condition have different batch sizes: {sorted(sizes)}"
            )

    def _parts(self) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: part for name, part in values.items() if part is not None}

    def __len__(self) -> int:
        """Return the number of rows; 0 for a condition without parts, which fits any batch."""
        return next((len(part) for part in self._parts().values()), 0)

    def null(self) -> "Condition":
        """Return the same rows without any condition: label -1, text all padding, image absent."""
        drop = torch.ones(len(self), dtype=torch.bool, device=self._device())
        return self._with_null_rows(drop)

    def guidance_pair(self) -> "tuple[Condition, Condition]":
        """Return the condition to guide towards, and the one to guide away from: null, or
        `avoid`."""
        positive, null = replace(self, avoid=None), self.null()
        if self.avoid is None or positive.text is None:
            return positive, null
        length = max(positive.text.shape[1], self.avoid.shape[1])
        negative = replace(null, text=self.avoid, weight=None if self.weight is None else
                           torch.ones(self.avoid.shape).to(self.weight))  # fmt: skip
        return positive.pad(length), negative.pad(length)

    def pad(self, length: int) -> "Condition":
        """Return the same condition with texts of `length` tokens, which must not be shorter than
        theirs."""
        if self.text is None or (extra := length - self.text.shape[1]) == 0:
            return self
        weight = self.weight
        if weight is not None:
            weight = torch.nn.functional.pad(weight, (0, extra), value=1.0)
        return replace(self, text=torch.nn.functional.pad(self.text, (0, extra)), weight=weight)

    def drop(self, p: float, noise: Noise) -> "Condition":
        """Return the condition with each row, as a whole, made null with probability p (joint
        training for guidance)."""
        if p == 0 or not len(self):
            return self
        return self._with_null_rows(noise.uniform() < p)

    def _with_null_rows(self, drop: Bool[Tensor, "b"]) -> "Condition":
        label = None if self.label is None else self.label.masked_fill(drop, -1)
        text = None if self.text is None else self.text.masked_fill(drop[:, None], 0)
        present = self.present
        if self.image is not None:
            present = ~drop if present is None else present & ~drop
        return Condition(label, text, self.image, present, weight=self.weight)

    def is_null(self) -> Bool[Tensor, "b"]:
        """Return which rows are null: without label, text and image."""
        asks = torch.zeros(len(self), dtype=torch.bool, device=self._device())
        if self.label is not None:
            asks = asks | (self.label >= 0)
        if self.text is not None:
            asks = asks | (self.text != 0).any(1)
        if self.image is not None:
            asks = asks | (torch.ones_like(asks) if self.present is None else self.present)
        return ~asks

    def _device(self) -> torch.device | None:
        return next((part.device for part in self._parts().values()), None)

    def rows(self, rows: slice | Int[Tensor, "r"]) -> "Condition":
        """Return some of the rows."""
        return Condition(**{name: part[rows] for name, part in self._parts().items()})

    def to(self, device: torch.device | str) -> "Condition":
        """Return the same condition on another device."""
        return Condition(**{name: part.to(device) for name, part in self._parts().items()})

    def repeat(self, k: int) -> "Condition":
        """Return every row k times, kept together: a, a, b, b, ..."""
        parts = self._parts().items()
        return Condition(**{name: part.repeat_interleave(k, 0) for name, part in parts})

    @staticmethod
    def cat(conditions: Sequence["Condition"]) -> "Condition":
        """Concatenate conditions with the same parts; only `present` may be missing in some."""
        if any(c.present is not None for c in conditions):
            conditions = [
                c
                if c.present is not None or c.image is None
                else replace(c, present=torch.ones(len(c), dtype=torch.bool, device=c.image.device))
                for c in conditions
            ]
        names = [set(c._parts()) for c in conditions]
        if any(n != names[0] for n in names):
            raise LimnerError("conditions with different parts cannot be joined")
        return Condition(
            **{name: torch.cat([getattr(c, name) for c in conditions]) for name in names[0]}
        )


def one_for_each(n: int, c: Condition) -> Condition:
    """Return a condition of n rows, or without parts; one row is repeated n times."""
    if not isinstance(c, Condition):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LimnerError(
            f"{reprlib.repr(c)} is not a limner.Condition; limner.text_condition(model.spec, "
            "['a word']) makes one from words, limner.Condition(label=[3]) from labels"
        )
    if not isinstance(n, SupportsIndex):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LimnerError(f"the number of pictures must be a whole number, not {n!r}")
    if n < 1:
        raise LimnerError(f"the number of pictures must be at least 1, not {n}")
    if len(c) == 1:
        c = c.repeat(n)
    if len(c) not in (0, n):
        raise LimnerError(f"{len(c)} conditions for {n} pictures; give one, or one for each")
    return c


class Batch(NamedTuple):
    """The input of one training step: images and their conditions."""

    x: Images
    c: Condition

    def rows(self, rows: slice) -> "Batch":
        """Return some of the rows."""
        return Batch(self.x[rows], self.c.rows(rows))

    def to(self, device: torch.device | str) -> "Batch":
        """Return the same batch on another device."""
        return Batch(self.x.to(device), self.c.to(device))
