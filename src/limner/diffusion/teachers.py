"""From whom a model can learn that denoises in fewer steps."""

import copy

from torch import nn

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.model import GenerativeModel
from limner.diffusion.denoising_model import DenoisingModel
from limner.maths.schedules import Times
from limner.nn.low_rank import LowRankCopy
from limner.nn.span_unet import SpanUNet

_STRETCHED = 100  # how much larger than a network's error that of x_hat may be


def checked_teacher(
    spec: ImageSpec, teacher: GenerativeModel, spans: bool = False
) -> DenoisingModel:
    """The teacher, if it denoises these data.

    Args:
        spec: specification of the images.
        teacher: a trained model.
        spans: whether its network may be told the length of a step.

    Raises:
        LimnerError: why it cannot teach.
    """
    if not isinstance(teacher, DenoisingModel):
        raise LimnerError(
            f"only denoising models can teach, not {teacher.name}; give one, as flow-matching"
        )
    if isinstance(teacher.network, SpanUNet) and not spans:
        raise LimnerError(
            f"{teacher.name} models paint in few steps already, and their networks are told how "
            "long a step is; give another teacher, as flow-matching"
        )
    check_whole(teacher)
    if teacher.spec != spec:
        raise LimnerError("the teacher was trained on other data; give the same [data]")
    return teacher


def check_whole(model: DenoisingModel) -> None:
    """Refuse a model that holds low-rank changes of another one's weights.

    Raises:
        LimnerError: it does.
    """
    if isinstance(model.network, LowRankCopy):
        raise LimnerError(
            f"this {model.name} model holds only changes of its own teacher's weights; give one "
            "that was trained with model.rank=0"
        )


def check_learns_pictures(model: DenoisingModel) -> None:
    """Refuse a model whose training does not look at the pictures that it is given.

    Raises:
        LimnerError: it is one.
    """
    if not model.learns_pictures:
        raise LimnerError(
            f"{model.name} models learn from pairs that their teacher makes, and from no pictures; "
            "give the flow-matching model that this one learnt from"
        )


def check_first_time(model: DenoisingModel, t: Times) -> None:
    """Refuse a model whose x_hat divides by next to nothing at the time when sampling begins.

    Salimans, Ho (2022), arXiv:2202.00512, section 4.

    Raises:
        LimnerError: it does, as where noise is predicted.
    """
    out = float(model.parametrisation(*model.schedule(t)).out.detach().abs())
    if not out <= _STRETCHED:
        raise LimnerError(
            "the teacher predicts noise where next to no picture is left, from which no step can "
            "be learnt; distil a teacher with model.prediction=v or x"
        )


def student_network(teacher: DenoisingModel, rank: int) -> nn.Module:
    """A network that begins as the teacher's.

    Args:
        teacher: which stays as it is.
        rank: of the changes that the student learns; 0 for a copy, all of which learns.
    """
    network = teacher.network
    return LowRankCopy(network, rank) if rank else copy.deepcopy(network)
