"""What an extractor is: pictures to the numbers that metrics are made of.

An extractor takes uint8 pictures of any size and resizes them as it says. Numbers of different
extractors cannot be compared, so each has a name, to stand beside every number, and a fingerprint.
"""

from typing import Any, Literal, NamedTuple, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import TextSpec
from limner.contract.layout import COLOURS, NONE, Objects
from limner.evaluate.judges.judge import Detections

Pixels = UInt8[Tensor, "b c h w"]
Precision = Literal["float32", "bfloat16"]
"""In which a network computes; features are float32 anyway."""

_SAID: dict[str, tuple[type, str]] = {
    "name": (str, '"my-extractor"'),
    "fingerprint": (str, '"a text that changes with its weights"'),
    "dim": (int, "128"),
    "classes": (tuple, "()"),
}


class Features(NamedTuple):
    """What an extractor sees in pictures.

    Args:
        features: a row for each.
        logits: scores of classes, of which softmax makes probabilities; None without classes.
    """

    features: Float[Tensor, "b d"]
    logits: Float[Tensor, "b k"] | None


class Extractor(Protocol):
    """Pictures to features.

    Attributes:
        name: stands beside every number.
        fingerprint: a SHA-256 of weights and preprocessing; equal ones give equal features.
        dim: how many features a picture has.
        classes: the names of the logits' classes; () where they have none.
    """

    name: str
    fingerprint: str
    dim: int
    classes: tuple[str, ...]

    def __call__(self, images: Pixels) -> Features:
        """The features of grey or RGB pictures of any size.

        Raises:
            LimnerError: pictures of other channels, or of colours where the extractor knows none.
        """
        ...


@runtime_checkable
class ImageText(Protocol):
    """What an extractor has that also compares pictures with captions.

    Attributes:
        text: how captions become tokens, see `Tokenizer`.
    """

    text: TextSpec

    def similarity(self, images: Pixels, text: Int[Tensor, "k l"]) -> Float[Tensor, "b k"]:
        """How well each picture shows what each caption says: cosines, from -1 to 1."""
        ...


@runtime_checkable
class Detects(Extractor, Protocol):
    """An extractor that also finds objects.

    Attributes:
        kinds: the names of the kinds that it knows, by number.
    """

    kinds: tuple[str, ...]

    def detect(self, images: Pixels) -> Detections:
        """The objects in each picture, the surest first."""
        ...


def check_extractor(extractor: object) -> None:
    """Refuse what is not ready to see features.

    Args:
        extractor: one of your own.

    Raises:
        LimnerError: it is a class, lacks what an extractor says of itself, or is in training mode.
    """
    name = getattr(extractor, "__name__", type(extractor).__name__)
    if isinstance(extractor, type):
        raise LimnerError(f"the extractor {name} is a class; give one of it, as {name}()")
    if not callable(extractor):
        raise LimnerError(f"the extractor {extractor!r} is {name}; give its name, or an Extractor")
    for attribute, (kind, example) in _SAID.items():
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
    """What an extractor sees in pictures: a row of `dim` features, and of a score for each class.

    Raises:
        LimnerError: it returns something else; or as it does itself.
    """
    found: object = extractor(images)
    if not isinstance(found, Features):
        kind = type(found).__name__
        raise LimnerError(
            f"the extractor {extractor.name} returns {kind}; return Features(features, logits)"
        )
    for what, rows, width in (
        ("features", found.features, extractor.dim),
        ("logits", found.logits, len(extractor.classes)),
    ):
        seen: object = rows
        if seen is None and what == "logits" and not width:
            continue
        shape = tuple(seen.shape) if isinstance(seen, Tensor) else None
        due = (len(images), width or (shape or (0,))[-1])  # scores may be of classes without names
        if shape != due:
            given = " x ".join(map(str, shape)) if shape else type(seen).__name__
            raise LimnerError(
                f"the {what} by the extractor {extractor.name} are {given}; give a tensor of "
                f"{' x '.join(map(str, due))}: a row for each picture, by dim and classes"
            )
    return found


def find_objects(detector: Detects, images: Pixels) -> Detections:
    """What a detector finds in pictures: as many places for each, kinds and colours by number,
    boxes as shares of a side and scores from 0 to 1.

    Raises:
        LimnerError: it gives something else; or as it does itself.
    """
    found: object = detector.detect(images)
    where = f"detect of {detector.name}"
    parts = cast("tuple[Any, ...]", found) if isinstance(found, tuple) else ()
    if len(parts) != 2 or not isinstance(parts[0], Objects) or not isinstance(parts[1], Tensor):
        raise LimnerError(f"{where} gives no objects; return Detections(Objects(...), score)")
    (kind, colour, box), score = detections = Detections(*parts)
    places = (len(images), score.shape[-1] if score.dim() else 0)
    shapes = {"kind": kind, "colour": colour, "score": score, "box": box[..., 0]}
    for name, part in shapes.items():
        if part.shape != places or (name == "box" and box.shape[-1] != 4):
            raise LimnerError(
                f"{name} by {where} has the shape {tuple((box if name == 'box' else part).shape)}; "
                f"give one for each of {len(images)} pictures and as many places as scores"
            )
    there = kind != NONE
    for name, part, least, most in (
        ("kind", kind, NONE, len(detector.kinds) - 1),
        ("colour", colour[there], NONE, len(COLOURS) - 1),
        ("score", score, 0, 1),
        ("box", box[there], -1, 2),
    ):
        if not ((part >= least) & (part <= most)).all() or (
            name in ("kind", "colour") and part.is_floating_point()
        ):
            raise LimnerError(
                f"{name} by {where} is beyond what it can be; give kinds and colours by number, "
                "boxes as shares of a side, and scores from 0 to 1"
            )
    return detections


def to_rgb(images: Pixels, name: str) -> UInt8[Tensor, "b 3 h w"]:
    """RGB pictures: grey ones three times over, as a grey file is shown.

    Raises:
        LimnerError: the pictures are neither grey nor RGB.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise LimnerError(f"{name} judges grey or RGB pictures, and these have {channels} channels")
    return images.expand(-1, 3, -1, -1)


def grey(images: Pixels, name: str) -> UInt8[Tensor, "b 1 h w"]:
    """Grey pictures, also where each was saved as RGB.

    Raises:
        LimnerError: pictures with colours; the message is in the extractor's name.
    """
    if images.shape[1] not in (1, 3) or not torch.equal(images[:, :1].expand_as(images), images):
        raise LimnerError(
            f"{name} judges grey pictures, and these have colours; choose another extractor, or "
            "make them grey with data.channels=1"
        )
    return images[:, :1]


def name_at_precision(name: str, dtype: Precision) -> str:
    """An extractor's name, which says when it computes in another precision than usual."""
    return name if dtype == "float32" else f"{name} ({dtype})"
