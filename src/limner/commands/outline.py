"""The hint of a picture for a conditioned model: edges, scribble, lines or low resolution."""

from collections.abc import Iterator
from typing import cast, get_args

from limner.commands.task import Task, Work
from limner.contract.image import Images, ImageSpec
from limner.data.hints import REDUCED, PictureHint, draw_hint


def outline(work: Work) -> Iterator[Images]:
    """Compute the hint of a picture as for the training pictures of the model."""
    hint = work.model.spec.hint
    assert hint is not None
    yield draw_hint(cast("PictureHint", hint.domain), work.pictures["image"], hint.shape[1:])


def _is_computable(spec: ImageSpec) -> bool:
    """Whether the hint can be computed from any picture, in the shape that the model expects."""
    hint = spec.hint
    if hint is None or hint.domain not in get_args(PictureHint):
        return False
    return hint.channels == (spec.channels if hint.domain in REDUCED else 1)


OUTLINE = Task(
    "Hint of a picture",
    outline,
    inputs={"image": True},
    several=False,
    shows="maps",
    fits=_is_computable,
)
