"""Checks of teachers, and networks of students, for distillation to fewer steps."""

import copy

from torch import nn

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.model import GenerativeModel
from limner.diffusion.denoising_model import DenoisingModel
from limner.maths.schedules import Times
from limner.nn.low_rank import LowRankCopy
from limner.nn.span_unet import SpanUNet

_MAX_ERROR_FACTOR = 100  # largest factor between a network's error and that of x_hat


def checked_teacher(
    spec: ImageSpec, teacher: GenerativeModel, spans: bool = False
) -> DenoisingModel:
    """Return the teacher, if it denoises these data.

    Args:
        spec: specification of the images.
        teacher: a trained model.
        spans: whether its network may take the length of a step as input.

    Raises:
        LimnerError: it cannot teach; the message gives the reason.
    """
    if not isinstance(teacher, DenoisingModel):
        raise LimnerError(
            f"only denoising models can teach, not {teacher.name}; give one, such as flow-matching"
        )
    if isinstance(teacher.network, SpanUNet) and not spans:
        raise LimnerError(
            f"{teacher.name} models paint in few steps already, and their networks take the length "
            "of a step as input; give another teacher, such as flow-matching"
        )
    check_whole(teacher)
    if teacher.spec != spec:
        raise LimnerError("the teacher was trained on other data; give the same [data]")
    return teacher


def check_whole(model: DenoisingModel) -> None:
    """Refuse a model that holds only low-rank changes of another model's weights.

    Raises:
        LimnerError: the model is one.
    """
    if isinstance(model.network, LowRankCopy):
        raise LimnerError(
            f"this {model.name} model holds only changes to its own teacher's weights; give one "
            "that was trained with model.rank=0"
        )


def check_learns_pictures(model: DenoisingModel) -> None:
    """Refuse a model whose training does not use the pictures of its batches.

    Raises:
        LimnerError: the model is one.
    """
    if not model.learns_pictures:
        raise LimnerError(
            f"{model.name} models learn from pairs that their teacher makes, not from pictures; "
            "give the flow-matching model that was the teacher of this one"
        )


def check_first_time(model: DenoisingModel, t: Times) -> None:
    """Refuse a model whose x_hat divides by almost 0 at the time where sampling starts.

    Salimans, Ho (2022), arXiv:2202.00512, section 4.

    Raises:
        LimnerError: the model is one, such as a model that predicts noise.
    """
    out = float(model.parametrisation(*model.schedule(t)).out.detach().abs())
    if not out <= _MAX_ERROR_FACTOR:
        raise LimnerError(
            "the teacher predicts noise where almost nothing of a picture is left, and no step "
            "can be learnt from that; distil a teacher with model.prediction=v or x"
        )


def student_network(teacher: DenoisingModel, rank: int) -> nn.Module:
    """Return a student's network, which starts from the teacher's weights.

    Args:
        teacher: the teacher, which is not changed.
        rank: rank of the changes that the student learns; 0 for a whole copy.
    """
    network = teacher.network
    return LowRankCopy(network, rank) if rank else copy.deepcopy(network)
