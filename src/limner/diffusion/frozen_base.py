"""A trained denoising model as the base of another one, which adds to its network."""

import copy
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.abilities import Attends
from limner.contract.codes import Encodes
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise
from limner.diffusion.denoising_model import DenoisingModel
from limner.diffusion.latent_diffusion import LatentDiffusion
from limner.diffusion.sampling import Plan, Repaints
from limner.diffusion.teachers import check_learns_pictures, check_whole
from limner.nn.plain_unet import PlainUNet
from limner.nn.span_unet import SpanUNet
from limner.nn.unet import UNet

Base = LatentDiffusion | DenoisingModel
"""A model that denoises, on pixels or among the maps of an autoencoder."""
_M = TypeVar("_M", bound=nn.Module)


class ExtendsBase(Repaints, Encodes, Attends):
    """A generator that adds to the network of a trained one, and does all else as that does."""

    base: Base

    @abstractmethod
    def base_for(self, c: Condition, n: int) -> tuple[Base, Condition]:
        """The base with the longer network, and the condition for it; weights are shared.

        Args:
            c: what the pictures are of.
            n: how many.
        """

    @abstractmethod
    def told(self, c: Condition, n: int) -> Condition:
        """The condition whose image is what the longer network sees of it.

        Args:
            c, n: as for `base_for`.
        """

    @abstractmethod
    def told_plan(self, c: Condition, n: int, **options: Any) -> tuple[Plan, Condition]:
        """The plan of a walk, and what its denoiser is told: of the picture, what its network sees.

        Args:
            c: what the pictures are of.
            n: how many.
            options: of the sampler, checked.
        """

    @property
    def denoiser(self) -> DenoisingModel:
        """The base, or the one among its maps."""
        return denoiser_of(self.base)

    @property
    def base_network(self) -> UNet | PlainUNet:
        """The base's own network."""
        return network_of(self.base)

    def prepare(self, batches: Iterator[Batch]) -> None:
        """Nothing is learnt before training, for which not every base that paints is fit.

        Raises:
            LimnerError: the base learns from no pictures, so that none of them would be seen.
        """
        check_learns_pictures(self.denoiser)

    def first(self, noise: Noise) -> Images:
        """The noise that a walk begins with."""
        return self.base.first(noise)

    def frame_count(self, **options: Any) -> int:
        """The number of frames of the base."""
        return self.base.frame_count(steps=options.get("steps"))

    def encode(self, x: Images, c: Condition = Condition()) -> Float[Tensor, "b d"]:
        """The noise that the probability flow carries to each picture."""
        base, c = self.base_for(c, len(x))
        return base.encode(x, c)

    def decode(self, z: Float[Tensor, "b d"], c: Condition = Condition()) -> Images:
        """The picture that the probability flow carries noise to."""
        base, c = self.base_for(c, len(z))
        return base.decode(z, c)

    def traverse(self, *args: Any, **kwargs: Any) -> Any:
        """Refused, as by the base."""
        return self.base.traverse(*args, **kwargs)

    def attention_maps(self, x: Images, c: Condition) -> Float[Tensor, "b l h w"]:
        """Where the base looks for each word: `Attends`."""
        base, c = self.base_for(c, len(x))
        return base.attention_maps(x, c)


def checked_base(spec: ImageSpec, base: GenerativeModel) -> Base:
    """The base, if it can be controlled, on these data.

    Raises:
        LimnerError: why it cannot.
    """
    denoiser = base.denoiser if isinstance(base, LatentDiffusion) else base
    if isinstance(denoiser, DenoisingModel):
        check_whole(denoiser)
    if not isinstance(denoiser, DenoisingModel) or not isinstance(
        denoiser.network, UNet | PlainUNet
    ):
        raise LimnerError(
            f"{base.name} models have no U-Net to control; train ddpm, edm, flow-matching or "
            "latent-diffusion, and give train.init.base=runs/NAME"
        )
    assert isinstance(base, LatentDiffusion | DenoisingModel)
    if isinstance(denoiser.network, SpanUNet):
        raise LimnerError(
            f"networks of {denoiser.name} models are told the length of a step, which a control "
            "does not hand on; train ddpm, edm, flow-matching or latent-diffusion, and give "
            "train.init.base=runs/NAME"
        )
    if base.spec.hint is not None:
        raise LimnerError(
            f"this {base.name} model is told conditioning pictures already; a base has none"
        )
    if base.spec.shape != spec.shape:
        where = " in the maps of an autoencoder" if base is not denoiser else ""
        raise LimnerError(
            f"the base paints {base.spec.height} x {base.spec.width} pictures{where}, and a "
            f"control works at that size only; give data.size={base.spec.height}"
        )
    if base.spec.text and spec.text and base.spec.text.length != (given := spec.text.length):
        raise LimnerError(
            f"the base reads {base.spec.text.length} tokens of a caption, not {given}; give "
            f"data.tokens={base.spec.text.length}"
        )
    for name in ("levels", "labels", "text"):
        if getattr(base.spec, name) != getattr(spec, name):
            raise LimnerError(
                f"the base was trained on data of other {name}; give the same [data] as it had, "
                "and data.hint besides"
            )
    return base


def denoiser_of(base: Base) -> DenoisingModel:
    """The base, or the one among its maps."""
    found = base.denoiser if isinstance(base, LatentDiffusion) else base
    assert isinstance(found, DenoisingModel)
    return found


def network_of(base: Base) -> UNet | PlainUNet:
    """The network of a checked base."""
    network = denoiser_of(base).network
    assert isinstance(network, UNet | PlainUNet)
    return network


def with_network(base: Base, network: nn.Module) -> Base:
    """A view of a base that has another network, and shares the rest."""
    view = _with_part(denoiser_of(base), "network", network)
    return _with_part(base, "denoiser", view) if isinstance(base, LatentDiffusion) else view


def _with_part(model: _M, name: str, part: nn.Module) -> _M:
    """A view of a model that has another part under a name, and shares the rest."""
    view = copy.copy(model)
    view.__dict__["_modules"] = {**model._modules, name: part}
    return view
