"""The hint of a picture for a conditioned model: edges, scribble, lines or low resolution."""

from collections.abc import Iterator

from limner.commands.task import Task, Work
from limner.contract.image import Images
from limner.data.hints import computed_kind, draw_hint


def outline(work: Work) -> Iterator[Images]:
    """Compute the hint of a picture as for the training pictures of the model."""
    hint, kind = work.model.spec.hint, computed_kind(work.model.spec)
    assert hint is not None and kind is not None
    yield draw_hint(kind, work.pictures["image"], hint.shape[1:])


OUTLINE = Task(
    "Hint of a picture",
    outline,
    inputs={"image": True},
    several=False,
    shows="maps",
    fits=lambda spec: computed_kind(spec) is not None,
)
