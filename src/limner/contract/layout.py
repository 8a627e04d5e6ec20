"""Layouts: which objects a picture has and where, encoded as a conditioning image.

The image has a pixel for each object, in any order, and a plane for each property of the objects.
The labels of its specification are the names of all kinds of objects:

    object                    0 if empty, else 1 + its kind; divided by the number of kinds
    colour                    0 if none dominates, else 1 + its index in `COLOURS`; divided by
                              the number of colours
    left, top, right, bottom  the sides of its box, as shares of the picture's sides

All planes are scaled from [0, 1] to [-1, 1]. Two objects with the same centre thus stay distinct,
and boxes are exact for pictures of any size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limner.contract.image import Images, ImageSpec

PLANES = ("object", "colour", "left", "top", "right", "bottom")
"""The planes of a layout."""
COLOURS = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
    "gray",
)
"""The colours that an object can have."""
NO_OBJECT = -1
"""The kind of an empty place, and the colour of an object in which no colour dominates."""


class Objects(NamedTuple):
    """The objects of pictures, n places for each picture.

    Args:
        kind: the number of each object's kind; `NO_OBJECT` if a place is empty.
        colour: its index in `COLOURS`; `NO_OBJECT` if no colour dominates.
        box: left, top, right and bottom as shares of a side, y down.
    """

    kind: Int[Tensor, "b n"]
    colour: Int[Tensor, "b n"]
    box: Float[Tensor, "b n 4"]


def layout_spec(kinds: Sequence[str], places: int) -> ImageSpec:
    """Return the specification of layouts.

    Args:
        kinds: the names of all kinds of objects.
        places: the largest number of objects in a picture.
    """
    return ImageSpec(len(PLANES), 1, places, labels=tuple(kinds))


def is_layout(spec: ImageSpec | None) -> bool:
    """Return whether conditioning images are layouts."""
    return spec is not None and spec.channels == len(PLANES) and bool(spec.labels)


def write_layout(objects: Objects, kinds: int) -> Images:
    """Encode objects as conditioning images of 1 x n pixels.

    Args:
        objects: n places for each picture.
        kinds: the number of kinds.
    """
    kind, colour = (objects.kind + 1.0) / kinds, (objects.colour + 1.0) / len(COLOURS)
    planes = torch.stack([kind, colour, *objects.box.unbind(-1)], dim=1)
    empty = (objects.kind == NO_OBJECT)[:, None]
    return (2 * planes.masked_fill(empty, 0) - 1).clamp(-1, 1)[:, :, None]


def read_layout(layout: Images, kinds: int) -> Objects:
    """Invert `write_layout`; images of several rows are read row by row."""
    planes = (layout.flatten(2) + 1) / 2
    kind, colour = planes[:, 0] * kinds, planes[:, 1] * len(COLOURS)
    box = planes[:, 2:].movedim(1, 2)
    return Objects(kind.round().long() - 1, colour.round().long() - 1, box)
