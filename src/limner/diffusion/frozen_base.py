"""Base classes for models that extend the network of a trained denoising model."""

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
"""A model that denoises, on pixels or in the latent space of an autoencoder."""
_M = TypeVar("_M", bound=nn.Module)


class ExtendsBase(Repaints, Encodes, Attends):
    """Generator that extends the network of a trained one, and otherwise works like it."""

    base: Base

    @abstractmethod
    def base_for(self, c: Condition, n: int) -> tuple[Base, Condition]:
        """Return the base with the extended network, and its condition; weights are shared.

        Args:
            c: condition of the pictures.
            n: number of pictures.
        """

    @abstractmethod
    def base_condition(self, c: Condition, n: int) -> Condition:
        """Return the condition with the image as the extended network takes it.

        Args:
            c, n: as for `base_for`.
        """

    @abstractmethod
    def base_plan(self, c: Condition, n: int, **options: Any) -> tuple[Plan, Condition]:
        """Return the sampling plan, and the condition of its denoiser, as from `base_condition`.

        Args:
            c: condition of the pictures.
            n: number of pictures.
            options: options of the sampler, checked.
        """

    @property
    def denoiser(self) -> DenoisingModel:
        """The base, or the denoiser within it if the base is latent diffusion."""
        return denoiser_of(self.base)

    @property
    def base_network(self) -> UNet | PlainUNet:
        """The base's own network."""
        return network_of(self.base)

    def prepare(self, batches: Iterator[Batch]) -> None:
        """Check that the base can be trained on pictures; there is nothing to prepare.

        Raises:
            LimnerError: the base does not learn from the pictures of its batches.
        """
        check_learns_pictures(self.denoiser)

    def first(self, noise: Noise) -> Images:
        """Draw the noise that sampling starts from."""
        return self.base.first(noise)

    def frame_count(self, **options: Any) -> int:
        """Return the number of frames of the base."""
        return self.base.frame_count(steps=options.get("steps"))

    def encode(self, x: Images, c: Condition = Condition()) -> Float[Tensor, "b d"]:
        """Return the noise that the probability flow carries to each picture."""
        base, c = self.base_for(c, len(x))
        return base.encode(x, c)

    def decode(self, z: Float[Tensor, "b d"], c: Condition = Condition()) -> Images:
        """Return the picture that the probability flow carries noise to."""
        base, c = self.base_for(c, len(z))
        return base.decode(z, c)

    def traverse(self, *args: Any, **kwargs: Any) -> Any:
        """Raise an error, as the base does."""
        return self.base.traverse(*args, **kwargs)

    def attention_maps(self, x: Images, c: Condition) -> Float[Tensor, "b l h w"]:
        """Return the base's attention maps for each word: `Attends`."""
        base, c = self.base_for(c, len(x))
        return base.attention_maps(x, c)


def checked_base(spec: ImageSpec, base: GenerativeModel) -> Base:
    """Return the base, if it can be controlled on these data.

    Raises:
        LimnerError: it cannot; the message gives the reason.
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
            f"networks of {denoiser.name} models take the length of a step, which a control does "
            "not pass on; train ddpm, edm, flow-matching or latent-diffusion, and give "
            "train.init.base=runs/NAME"
        )
    if base.spec.hint is not None:
        raise LimnerError(
            f"this {base.name} model takes conditioning pictures already; give a base without them"
        )
    if base.spec.shape != spec.shape:
        suffix = " in the latent space of an autoencoder" if base is not denoiser else ""
        raise LimnerError(
            f"the base paints {' x '.join(map(str, base.spec.shape))} pictures{suffix}, and a "
            f"control works at that size only; give {base.spec.shape_options}"
        )
    if base.spec.text and spec.text and base.spec.text.length != (length := spec.text.length):
        raise LimnerError(
            f"the base reads {base.spec.text.length} tokens of a caption, not {length}; give "
            f"data.tokens={base.spec.text.length}"
        )
    for name in ("levels", "labels", "text"):
        if getattr(base.spec, name) != getattr(spec, name):
            raise LimnerError(
                f"the base was trained on data with other {name}; give the same [data] as for it, "
                "and data.hint in addition"
            )
    return base


def denoiser_of(base: Base) -> DenoisingModel:
    """Return the base, or the denoiser within it if the base is latent diffusion."""
    denoiser = base.denoiser if isinstance(base, LatentDiffusion) else base
    assert isinstance(denoiser, DenoisingModel)
    return denoiser


def network_of(base: Base) -> UNet | PlainUNet:
    """Return the network of a checked base."""
    network = denoiser_of(base).network
    assert isinstance(network, UNet | PlainUNet)
    return network


def with_network(base: Base, network: nn.Module) -> Base:
    """Return a view of a base with another network; the rest is shared."""
    view = _with_part(denoiser_of(base), "network", network)
    return _with_part(base, "denoiser", view) if isinstance(base, LatentDiffusion) else view


def _with_part(model: _M, name: str, part: nn.Module) -> _M:
    """Return a view of a model with another part under a name; the rest is shared."""
    view = copy.copy(model)
    view.__dict__["_modules"] = {**model._modules, name: part}
    return view
