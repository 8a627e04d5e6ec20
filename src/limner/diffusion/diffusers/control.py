"""A separate ControlNet of diffusers: a folder to use with a pipeline, which is given, too.

Zhang, Rao, Agrawala (2023). Adding conditional control to text-to-image diffusion models.
arXiv:2302.05543; as `ControlNetModel.save_pretrained` writes it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from limner.contract.abilities import Controlled, Foreign
from limner.contract.errors import LimnerError
from limner.contract.header import Header
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel, Turn
from limner.contract.noise import Noise
from limner.contract.registry import Paper, register
from limner.contract.text import character_spec
from limner.diffusion.diffusers.folder import (
    CONFIG,
    control_config,
    network_files,
    open_control,
)

_DEFAULT_SIDE = 512  # pixels; a separate ControlNet does not give its size
_NO_PIPELINE = "a ControlNet of diffusers needs a pipeline; give its folder, too, as -m PIPELINE"


@register(
    "diffusers-controlnet",
    family="diffusion",
    paper=Paper(
        "Adding conditional control to text-to-image diffusion models",
        "Zhang, Rao, Agrawala",
        2023,
        "2302.05543",
    ),
    file=CONFIG,
)
class DiffusersControl(Foreign, Controlled):
    """ControlNet of diffusers from its folder, to use with a pipeline.

    Args:
        spec: specification of its hints, as `header` reads it from the folder.
        folder: folder that `save_pretrained` wrote, with weights as safetensors.
    """

    command_arguments = "-m PIPELINE --control FOLDER"

    def __init__(self, spec: ImageSpec, folder: str) -> None:
        super().__init__()
        self.network = open_control(Path(folder)).requires_grad_(False)

    @classmethod
    def header(cls, folder: Path) -> Header:
        """Read a folder's configuration: `Foreign`."""
        channels = control_config(folder).get("conditioning_channels", 3)
        hint = ImageSpec(channels, _DEFAULT_SIDE, _DEFAULT_SIDE)
        spec = ImageSpec(3, _DEFAULT_SIDE, _DEFAULT_SIDE, hint=hint, text=character_spec())
        return Header(cls.name, spec, {"folder": str(folder)})

    @classmethod
    def weight_files(cls, folder: Path) -> list[Path]:
        """Return the weight files to read: `Foreign`."""
        return network_files(folder)

    @property
    def hints(self) -> Sequence[ImageSpec]:
        """Specification of its hints: `Controlled`."""
        assert self.spec.hint is not None
        return [self.spec.hint]

    def join(self, others: Sequence[Controlled], base: GenerativeModel | None = None) -> Controlled:
        """Return a pipeline with this control and others: `Controlled`.

        Raises:
            LimnerError: there is no pipeline to use them with.
        """
        if not isinstance(base, Controlled):
            raise LimnerError(_NO_PIPELINE)
        return base.join([self, *others])

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Refuse to train.

        Raises:
            LimnerError: always.
        """
        raise LimnerError("limner can paint with a ControlNet of diffusers, but not train it")

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        """Refuse to paint.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.

        Raises:
            LimnerError: always; it cannot paint without a pipeline.
        """
        raise LimnerError(_NO_PIPELINE)
