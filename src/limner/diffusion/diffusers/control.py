"""A ControlNet of diffusers by itself: a folder that goes over a pipeline given beside it.

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

_SIDE = 512  # pixels; what a ControlNet by itself does not say
_ALONE = "a ControlNet of diffusers goes over a pipeline; give its folder, too, as -m PIPELINE"


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
    """A ControlNet of diffusers from its folder, to be put over a pipeline.

    Args:
        spec: what its hints are, as `header` reads it off the folder.
        folder: that `save_pretrained` wrote, with weights as safetensors.
    """

    named_by = "-m PIPELINE --control FOLDER"

    def __init__(self, spec: ImageSpec, folder: str) -> None:
        super().__init__()
        self.network = open_control(Path(folder)).requires_grad_(False)

    @classmethod
    def header(cls, folder: Path) -> Header:
        """What a folder says of itself: `Foreign`."""
        channels = control_config(folder).get("conditioning_channels", 3)
        hint = ImageSpec(channels, _SIDE, _SIDE)
        spec = ImageSpec(3, _SIDE, _SIDE, hint=hint, text=character_spec())
        return Header(cls.name, spec, {"folder": str(folder)})

    @classmethod
    def weight_files(cls, folder: Path) -> list[Path]:
        """The files of the weights that are read: `Foreign`."""
        return network_files(folder)

    @property
    def hints(self) -> Sequence[ImageSpec]:
        """What it is shown: `Controlled`."""
        assert self.spec.hint is not None
        return [self.spec.hint]

    def join(self, others: Sequence[Controlled], base: GenerativeModel | None = None) -> Controlled:
        """A pipeline with this control and others: `Controlled`.

        Raises:
            LimnerError: there is no pipeline to put them over.
        """
        if not isinstance(base, Controlled):
            raise LimnerError(_ALONE)
        return base.join([self, *others])

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Refused.

        Raises:
            LimnerError: always.
        """
        raise LimnerError("a ControlNet of diffusers is painted with, not trained, by limner")

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        """Refused.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.

        Raises:
            LimnerError: always; by itself it paints nothing.
        """
        raise LimnerError(_ALONE)
