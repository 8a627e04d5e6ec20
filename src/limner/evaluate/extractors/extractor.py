"""The interface of a feature extractor, which turns pictures into the features of metrics.

An extractor takes uint8 pictures of any size and resizes them in its own way. Numbers of different
extractors cannot be compared, so each has a name, reported with every number, and a fingerprint.
"""

from typing import Any, Literal, NamedTuple, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import TextSpec
from limner.contract.layout import COLOURS, NO_OBJECT, Objects
from limner.evaluate.judges.judge import Detections

Pixels = UInt8[Tensor, "b c h w"]
Precision = Literal["float32", "bfloat16"]
"""The precision in which a network computes; features are always float32."""

_REQUIRED_ATTRIBUTES: dict[str, tuple[type, str]] = {
    "name": (str, '"my-extractor"'),
    "fingerprint": (str, '"a text that changes with its weights"'),
    "dim": (int, "128"),
    "classes": (tuple, "()"),
}


class Features(NamedTuple):
    """The output of an extractor.

    Args:
        features: a row of features for each picture.
        logits: class scores, whose softmax is the probabilities; None without classes.
    """

    features: Float[Tensor, "b d"]
    logits: Float[Tensor, "b k"] | None = None


class Extractor(Protocol):
    """Protocol of a feature extractor.

    Attributes:
        name: the name that is reported with every number.
        fingerprint: a SHA-256 of weights and preprocessing; equal ones give equal features.
        dim: the number of features of a picture.
        classes: the names of the logits' classes; () if they have no names.
    """

    name: str
    fingerprint: str
    dim: int
    classes: tuple[str, ...]

    def __call__(self, images: Pixels) -> Features:
        """Compute the features of grey or RGB pictures of any size.

        Raises:
            LimnerError: pictures with another number of channels, or colour pictures for an
                extractor of grey ones.
        """
        ...


@runtime_checkable
class ImageText(Protocol):
    """Protocol of an extractor that also compares pictures with captions.

    Attributes:
        text: the specification of the tokens of captions, see `Tokenizer`.
    """

    text: TextSpec

    def similarity(self, images: Pixels, text: Int[Tensor, "k l"]) -> Float[Tensor, "b k"]:
        """Compute the similarity of each picture and each caption: cosines, from -1 to 1."""
        ...


@runtime_checkable
class Detects(Extractor, Protocol):
    """Protocol of an extractor that also finds objects.

    Attributes:
        kinds: the names of the kinds that it knows, in the order of their numbers.
    """

    kinds: tuple[str, ...]

    def detect(self, images: Pixels) -> Detections:
        """Find the objects in each picture, the highest score first."""
        ...


def check_attributes(extractor: object) -> None:
    """Check that an object is a usable extractor.

    Args:
        extractor: an extractor of your own.

    Raises:
        LimnerError: it is a class, lacks a required attribute, or is in training mode.
    """
    name = getattr(extractor, "__name__", type(extractor).__name__)
    if isinstance(extractor, type):
        raise LimnerError(f"the extractor {name} is a class; give an instance, as {name}()")
    if not callable(extractor):
        raise LimnerError(f"the extractor {extractor!r} is {name}; give its name, or an Extractor")
    for attribute, (kind, example) in _REQUIRED_ATTRIBUTES.items():
        value: object = getattr(extractor, attribute, None)
        if not isinstance(value, kind) or value == "":
            raise LimnerError(
                f"{attribute} of the extractor {name} is missing or of another type; write "
                f"self.{attribute} = {example}"
            )
    if getattr(extractor, "training", False):
        raise LimnerError(
            f"the extractor {name} is in training mode, where features may depend on the batch; "
            "type extractor.eval()"
        )


def extract(extractor: Extractor, images: Pixels) -> Features:
    """Apply an extractor and check its output: a row of `dim` features, and of class scores.

    Raises:
        LimnerError: the extractor returns something else, or raises an error itself.
    """
    output: object = extractor(images)
    if not isinstance(output, Features):
        kind = type(output).__name__
        raise LimnerError(
            f"the extractor {extractor.name} returns {kind}; return Features(features, logits)"
        )
    for name, rows, width in (
        ("features", output.features, extractor.dim),
        ("logits", output.logits, len(extractor.classes)),
    ):
        value: object = rows
        if value is None and name == "logits" and not width:
            continue
        shape = tuple(value.shape) if isinstance(value, Tensor) else None
        dims = (len(images), width or (shape or (0,))[-1])  # scores may be of classes without names
        if shape != dims:
            actual = " x ".join(map(str, shape)) if shape else type(value).__name__
            raise LimnerError(
                f"the {name} of the extractor {extractor.name} are {actual}; give a tensor of "
                f"{' x '.join(map(str, dims))}: a row for each picture, as dim and classes say"
            )
    return output


def find_objects(detector: Detects, images: Pixels) -> Detections:
    """Apply a detector to pictures and check its output.

    Each picture has the same number of places. Kinds and colours are numbers, boxes are shares of a
    side, and scores are from 0 to 1.

    Raises:
        LimnerError: the detector returns something else, or raises an error itself.
    """
    output: object = detector.detect(images)
    call = f"detect of {detector.name}"
    parts = cast("tuple[Any, ...]", output) if isinstance(output, tuple) else ()
    if (
        len(parts) != 2
        or not isinstance(parts[0], Objects)
        or not all(isinstance(part, Tensor) for part in (*parts[0], parts[1]))
    ):
        raise LimnerError(f"{call} does not return objects; return Detections(Objects(...), score)")
    (kind, colour, box), score = detections = Detections(*parts)
    places = (len(images), score.shape[-1] if score.dim() else 0)
    for name, part, shape in (
        ("kind", kind, places),
        ("colour", colour, places),
        ("score", score, places),
        ("box", box, (*places, 4)),
    ):
        if part.shape != shape:
            raise LimnerError(
                f"{name} by {call} has the shape {tuple(part.shape)}; "
                f"give one for each of {len(images)} pictures, with as many places as scores"
            )
    is_object = kind != NO_OBJECT
    for name, part, minimum, maximum in (
        ("kind", kind, NO_OBJECT, len(detector.kinds) - 1),
        ("colour", colour[is_object], NO_OBJECT, len(COLOURS) - 1),
        ("score", score, 0, 1),
        ("box", box[is_object], -1, 2),
    ):
        if not ((part >= minimum) & (part <= maximum)).all() or (
            name in ("kind", "colour") and part.is_floating_point()
        ):
            raise LimnerError(
                f"{name} by {call} is not valid; return kinds and colours as integers, boxes as "
                "shares of a side, and scores from 0 to 1"
            )
    return detections


def to_rgb(images: Pixels, name: str) -> UInt8[Tensor, "b 3 h w"]:
    """Convert pictures to RGB; a grey channel is repeated three times.

    Raises:
        LimnerError: the pictures are neither grey nor RGB.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise LimnerError(f"{name} judges grey or RGB pictures, and these have {channels} channels")
    return images.expand(-1, 3, -1, -1)


def grey(images: Pixels, name: str) -> UInt8[Tensor, "b 1 h w"]:
    """Convert pictures to one grey channel, also if grey pictures were saved as RGB.

    Raises:
        LimnerError: the pictures have colours; the message names the extractor.
    """
    if images.shape[1] not in (1, 3) or not torch.equal(images[:, :1].expand_as(images), images):
        raise LimnerError(
            f"{name} judges grey pictures, and these have colours; choose another extractor, or "
            "make them grey with data.channels=1"
        )
    return images[:, :1]


def name_at_precision(name: str, dtype: Precision) -> str:
    """Return an extractor's name, with the precision if it is not float32."""
    return name if dtype == "float32" else f"{name} ({dtype})"
