"""From whom a model can learn that denoises in fewer steps."""

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.model import GenerativeModel
from limner.diffusion.denoising_model import DenoisingModel
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
    if teacher.spec != spec:
        raise LimnerError("the teacher was trained on other data; give the same [data]")
    return teacher
