"""Latent diffusion: a denoiser in the latent space of an autoencoder.

Rombach, Blattmann, Lorenz, Esser, Ommer (2021). High-resolution image synthesis with latent
diffusion models. arXiv:2112.10752.

    z = (draw of q(z | x) - mean) / deviation     the first stage, trained before, is frozen
    z ~ p(z | c)                                  any denoising model, of z instead of pictures
    x = D(mean + deviation z)

z is a map of latents. Mean and deviation of each channel are measured in `prepare`; the paper's
appendix G has one scale for all. Maps may leave [-1, 1], so nothing is clipped on the way.

Kept: both stages, cross-attention to the caption in the denoiser. Different: the denoiser may be
most denoising models of this library, by default flow matching; but not those with a bound as loss,
which needs pictures of discrete levels, because maps have none.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.abilities import Attends, FirstStage, Latents
from limner.contract.bundled import AVERAGE_FILE, find_model
from limner.contract.codes import Encodes
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec, check_images
from limner.contract.model import GenerativeModel, Turn
from limner.contract.noise import Noise, Purpose
from limner.contract.options import option_names
from limner.contract.registry import Paper, build, entry, register
from limner.contract.upscaling import Upscales
from limner.diffusion.denoising_model import DenoisingModel, load_guide
from limner.diffusion.prompt_to_prompt import PromptToPrompt
from limner.diffusion.sampling import Plan, Scale, WalkOptions

_M = TypeVar("_M", bound="LatentDiffusion")

_MEASURED_BATCHES = 16
# How far mean and deviation of 64 pictures may be from the data's, in deviations.
_MAX_DIFFERENCE = 0.25


@register(
    "latent-diffusion",
    family="diffusion",
    paper=Paper(
        "High-resolution image synthesis with latent diffusion models",
        "Rombach, Blattmann, Lorenz, Esser, Ommer",
        2021,
        "2112.10752",
    ),
    tiny={
        "first_stage": {
            "model": "kl-autoencoder",
            "spec": {"labels": (), "frequencies": (), "text": None, "hint": None},
        },
        "options": {"channels": (8, 16)},
    },
    train={"lr": 5e-4, "betas": (0.9, 0.99), "weight_decay": 0.01, "clip": 1.0},
)
class LatentDiffusion(PromptToPrompt, Encodes, Attends):
    """Latent diffusion: a denoiser in the latent space of a frozen autoencoder.

    Args:
        spec: specification of the images.
        first_stage: a trained `kl-autoencoder` of the same data; as in
            train.init.first_stage="runs/NAME".
        denoiser: registered name of a denoising model: any except `vdm`, and those that need a
            teacher or a small picture; `ddpm` only with a fixed variance.
        options: the denoiser's own options, with its defaults, except that model.patch is 1.
    """

    latent_mean: Float[Tensor, "d 1 1"]
    latent_deviation: Float[Tensor, "d 1 1"]

    def __init__(
        self,
        spec: ImageSpec,
        first_stage: GenerativeModel,
        denoiser: str = "flow-matching",
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(first_stage, FirstStage):
            raise LimnerError(
                f"{first_stage.name} models have no latent maps; train a kl-autoencoder, and "
                "give train.init.first_stage=runs/NAME"
            )
        if first_stage.spec.shape != spec.shape:
            raise LimnerError(
                f"the first stage was trained on {' x '.join(map(str, first_stage.spec.shape))} "
                f"pictures; give {first_stage.spec.shape_options}"
            )
        kind = entry(denoiser)
        is_other = not issubclass(kind.model, DenoisingModel) or issubclass(kind.model, Upscales)
        if is_other or kind.nested_options:
            raise LimnerError(
                f"model.denoiser={denoiser} is not a denoising model that learns from maps alone; "
                "try flow-matching"
            )
        channels, height, width = first_stage.latent_shape
        denoiser_options = dict(options or {})
        if "patch" in option_names(kind.model.__init__):
            denoiser_options.setdefault("patch", 1)
        latent_spec = replace(spec, channels=channels, height=height, width=width, levels=256)
        model = build(denoiser, latent_spec, **denoiser_options)
        assert isinstance(model, DenoisingModel)
        if model.needs_levels:
            raise LimnerError(
                f"the loss of {denoiser} with these options needs discrete levels, and latent maps "
                "have none; give model.denoiser=ddpm with a fixed variance, or flow-matching"
            )
        self.first_stage, self.denoiser = first_stage, model
        self.couples_batch = model.couples_batch
        self.condition_dropout = model.condition_dropout
        self.register_buffer("latent_mean", torch.zeros(channels, 1, 1))
        self.register_buffer("latent_deviation", torch.ones(channels, 1, 1))

    def formula(self) -> list[str]:
        """Return formulas of the first stage, and those of the denoiser with z instead of x."""
        shape = " x ".join(map(str, self.stage.latent_shape))
        return [
            f"z = (draw of q(z | x) - mean) / deviation, of {shape}; q of {self.first_stage.name}",
            *(re.sub(r"\bx(?![a-z])", "z", line) for line in self.denoiser.formula()),
        ]

    @property
    def size_unit(self) -> int:
        """Unit of a picture's sides, in pixels, from the unit of the latent maps' sides."""
        return self.stage.size_unit * self.denoiser.size_unit

    def at_size(self: _M, height: int, width: int) -> _M:
        """Return both stages for pictures of another size: `Learner.at_size`."""
        view = super().at_size(height, width)
        if view is self:
            return self
        stage = self.stage.at_size(height, width)
        vars(view)["_modules"] = {
            **self._modules,
            "first_stage": stage,
            "denoiser": self.denoiser.at_size(*stage.latent_shape[1:]),
        }
        return view

    def players(self) -> dict[str, nn.Module]:
        """Return the players of the denoiser; the first stage is frozen."""
        return self.denoiser.players()

    @property
    def stage(self) -> FirstStage:
        """The first stage, with its type."""
        assert isinstance(self.first_stage, FirstStage)
        return self.first_stage

    @torch.no_grad()
    def prepare(self, batches: Iterator[Batch]) -> None:
        """Measure mean and deviation of the latent maps, then prepare the denoiser."""
        latents = [
            self._latent_batch(i, batch)
            for i, batch in enumerate(islice(batches, _MEASURED_BATCHES))
        ]
        values = torch.cat([batch.x.movedim(1, 0).flatten(1) for batch in latents], 1).double()
        deviation, mean = torch.std_mean(values, dim=1)
        self.latent_mean.copy_(mean[:, None, None])
        self.latent_deviation.copy_(deviation.clamp(min=1e-6)[:, None, None])
        self.denoiser.prepare(Batch(self._normalise(b.x), b.c) for b in latents)

    def _latent_batch(self, i: int, batch: Batch) -> Batch:
        n = len(batch.x)
        numbers = range(i * n, (i + 1) * n)
        noise = Noise.keyed(0, Purpose.PREPARATION, numbers, str(batch.x.device))
        stage = self.stage.at_size(*batch.x.shape[2:])
        return Batch(stage.latents(batch.x, noise), batch.c)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield the denoiser's turns, on latent maps."""
        with torch.no_grad():
            z = self._map(batch.x, noise)
        yield from self.denoiser.turns(Batch(z, batch.c), step, noise)

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        scale: Scale = 1.0,
        **options: Unpack[WalkOptions],
    ) -> Iterator[Images]:
        """Yield the decoded estimate of the denoiser at every step, then the decoded latent map.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            scale: guidance scale: how closely pictures follow the prompt or class, at some cost of
                variety (classifier-free guidance): 1 is the conditional model, 0 the unconditional
                one.
            options: see `WalkOptions`.
        """
        plan = self.plan(scale=scale, **options)
        yield from map(self._picture, plan.trajectory(self.first(noise), c, noise, preview))

    def first(self, noise: Noise) -> Images:
        """Draw the noise that sampling starts from."""
        return self.denoiser.first(noise)

    def plan(self, **options: Any) -> Plan:
        """Return the denoiser's sampling plan, without clipping.

        Raises:
            LimnerError: a guide in the latent space of another first stage.
        """
        plan = self.denoiser.plan(clip=False, **options)
        guide = options.get("guide")
        if guide is not None and not (Path(guide) / AVERAGE_FILE).is_file():
            parts = load_guide(str(find_model(guide)), str(self.device)).modules()
            if not any(isinstance(m, LatentDiffusion) and m.shares_stage(self) for m in parts):
                raise LimnerError(
                    f"sampler.guide={guide} has the latent maps of another first stage, or of "
                    "other data; give a run with the first stage and the data of this model"
                )
        return plan

    def shares_stage(self, other: "LatentDiffusion") -> bool:
        """Return whether equal latent maps of both models stand for the same pictures.

        Small differences are allowed: weights may be rounded, and mean and deviation vary with the
        pictures on which they are measured.
        """
        weights, other_weights = self.first_stage.state_dict(), other.first_stage.state_dict()
        deviation = self.latent_deviation
        return (
            weights.keys() == other_weights.keys()
            and all(
                weight.shape == other_weights[name].shape
                and torch.allclose(weight, other_weights[name], rtol=0, atol=0.02)
                for name, weight in weights.items()
            )
            and bool(
                ((other.latent_mean - self.latent_mean).abs() <= _MAX_DIFFERENCE * deviation).all()
            )
            and torch.allclose(other.latent_deviation, deviation, rtol=_MAX_DIFFERENCE, atol=0)
        )

    def to_latent(
        self, image: Images, mask: Float[Tensor, "b 1 h w"] | None, noise: Noise
    ) -> tuple[Latents, Tensor | None]:
        """Return the latent map, and its mask: a place is repainted if any of its pixels is."""
        z = self._map(image, noise)
        return z, None if mask is None else F.adaptive_max_pool2d(mask.to(z), z.shape[2:])

    def to_image(
        self, x: Latents, image: Images | None = None, mask: Float[Tensor, "b 1 h w"] | None = None
    ) -> Images:
        """Decode a latent map; where the mask is 0, the pixels of `image` are kept exactly."""
        picture = self._picture(x)
        return (
            picture
            if image is None or mask is None
            else torch.lerp(image, picture, mask.to(picture))
        )

    def encode(self, x: Images, c: Condition = Condition()) -> Float[Tensor, "b d"]:
        """Return the noise that the probability flow carries to each picture's latent map."""
        return self.denoiser.encode(self._fixed_map(x), c)

    def decode(self, z: Float[Tensor, "b d"], c: Condition = Condition()) -> Images:
        """Return the picture of the latent map that the probability flow carries noise to."""
        return self._picture(self.denoiser.decode(z, c))

    def traverse(self, *args: Any, **kwargs: Any) -> Any:
        """Raise an error, as the denoiser does."""
        return self.denoiser.traverse(*args, **kwargs)

    def _map(self, x: Images, noise: Noise) -> Latents:
        return self._normalise(self.stage.latents(x, noise))

    def _normalise(self, z: Latents) -> Latents:
        return (z - self.latent_mean) / self.latent_deviation

    def _fixed_map(self, x: Images) -> Latents:
        """Return a latent map of each picture, always with the same noise."""
        return self._map(x, Noise.sampling([0] * len(x), len(x), str(x.device)))

    def _picture(self, z: Latents) -> Images:
        return self.stage.pictures(self.latent_mean + self.latent_deviation * z)

    def frame_count(self, **options: Any) -> int:
        """Return the number of frames of the denoiser."""
        return self.denoiser.frame_count(steps=options.get("steps"))

    @torch.no_grad()
    def attention_maps(self, x: Images, c: Condition) -> Float[Tensor, "b l h w"]:
        """Return the denoiser's attention maps over pictures: `Attends`."""
        check_images(x)
        maps = self.denoiser.maps_of(self._fixed_map(x), c)
        return F.interpolate(maps, x.shape[-2:], mode="bilinear")
