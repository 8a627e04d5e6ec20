"""From whom a model can learn that denoises in fewer steps."""

import copy

from torch import nn

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.model import GenerativeModel
from limner.diffusion.denoising_model import DenoisingModel
from limner.nn.low_rank import LowRankCopy
from limner.nn.span_unet import SpanUNet


def checked_teacher(
    spec: ImageSpec, teacher: GenerativeModel, spans: bool = False
) -> DenoisingModel:
    """The teacher, if it denoises these data.

    Args:
        spec: what the images are.
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


def student_network(teacher: DenoisingModel, rank: int) -> nn.Module:
    """A network that begins as the teacher's.

    Args:
        teacher: which stays as it is.
        rank: of the changes that the student learns; 0 for a copy, all of which learns.
    """
    network = teacher.network
    return LowRankCopy(network, rank) if rank else copy.deepcopy(network)
