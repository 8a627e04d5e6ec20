"""A picture as the hint that steers a model: its edges, scribble, lines or low resolution."""

from collections.abc import Iterator
from typing import cast, get_args

from limner.commands.task import Task, Work
from limner.contract.image import Images, ImageSpec
from limner.data.hints import PictureHint, draw_hint


def outline(work: Work) -> Iterator[Images]:
    """The hint of a picture, computed as for the pictures that the model was trained with."""
    hint = work.model.spec.hint
    assert hint is not None
    yield draw_hint(cast("PictureHint", hint.domain), work.pictures["image"])


def _computed(spec: ImageSpec) -> bool:
    """Whether hints of any picture are computed, in the shape that the model knows."""
    hint = spec.hint
    if hint is None or hint.domain not in get_args(PictureHint):
        return False
    return hint.channels == spec.channels if hint.domain == "lowres" else hint.channels == 1


OUTLINE = Task(
    "Hint of a picture",
    outline,
    inputs={"image": True},
    several=False,
    shows="maps",
    fits=_computed,
)
