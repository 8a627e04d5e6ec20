"""Pipelines of diffusers as models: Stable Diffusion and similar models.

Rombach, Blattmann, Lorenz, Esser, Ommer (2021). High-resolution image synthesis with latent
diffusion models. arXiv:2112.10752; and the other models that a pipeline of the diffusers library
(von Platen et al., 2022) paints with.

The pipeline itself paints. This file adds:

    noise    every normal number that it draws comes from the pictures' own streams, so that a
             picture is the same in any batch, and seeds blend
    frames   at each step of its scheduler, the present estimate of the clean picture
    text     the prompt as it is written, character by character; the pipeline has its tokenizer

`limner` neither trains nor changes the pipeline.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from limner.contract.abilities import Controlled, Foreign
from limner.contract.editing import Edits, Rewords
from limner.contract.errors import LimnerError
from limner.contract.header import Header
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import SAMPLE_BATCH, GenerativeModel, Turn, finish_frames
from limner.contract.noise import Noise, Seeds
from limner.contract.registry import Paper, register
from limner.contract.rewording import Rewording
from limner.contract.text import Tokenizer
from limner.diffusion.diffusers.control import DiffusersControl
from limner.diffusion.diffusers.folder import (
    INDEX,
    controlled_pipeline,
    editing_pipeline,
    image_spec,
    open_pipeline,
    usual_options,
    weight_files,
)
from limner.diffusion.diffusers.following import FollowingPainter
from limner.diffusion.diffusers.painter import PipelinePainter
from limner.diffusion.diffusers.shared_attention import (
    RewordingPainter,
    check_attention,
    of_tokens,
)
from limner.diffusion.sampling import Edit, make_edit

Strength = Annotated[float, Field(ge=0, le=2)]
_BATCH_PIXELS = 2**20  # number of pixels of a batch of pictures


@register(
    "diffusers",
    family="diffusion",
    paper=Paper(
        "High-resolution image synthesis with latent diffusion models",
        "Rombach, Blattmann, Lorenz, Esser, Ommer",
        2021,
        "2112.10752",
    ),
    file=INDEX,
)
class DiffusersPipeline(Edits, Rewords, Controlled, Foreign):
    """Pipeline of diffusers, such as Stable Diffusion, from its folder.

    Args:
        spec: specification of its pictures, as `header` reads it from the folder.
        folder: folder that `save_pretrained` wrote, with weights as safetensors.
    """

    def __init__(self, spec: ImageSpec, folder: str) -> None:
        super().__init__()
        self.at_once = max(1, min(SAMPLE_BATCH, _BATCH_PIXELS // (spec.height * spec.width)))
        self._planes = [spec.hint.channels] if spec.hint else []
        self._take(open_pipeline(Path(folder)))

    def _take(self, pipeline: Any) -> None:
        """Set the pipeline to paint with."""
        self.pipeline = pipeline
        parts = pipeline.components.items()
        self.parts = nn.ModuleDict({k: part for k, part in parts if isinstance(part, nn.Module)})
        self.requires_grad_(False)
        if self.spec.labels or self.spec.hint:
            self.condition = "required"
        if hasattr(self.painter.codec, "enable_slicing"):
            self.painter.codec.enable_slicing()  # picture by picture, because its layers are large

    @classmethod
    def header(cls, folder: Path) -> Header:
        """Read a folder's configuration: `Foreign`."""
        config, sampler = {"folder": str(folder)}, usual_options(folder)
        return Header(cls.name, image_spec(folder), config, recipe={"sampler": sampler})

    @classmethod
    def weight_files(cls, folder: Path) -> list[Path]:
        """Return the weight files to read: `Foreign`."""
        return weight_files(folder)

    @property
    def hints(self) -> Sequence[ImageSpec]:
        """Specification of each ControlNet's hints, if it has any: `Controlled`."""
        hint = self.spec.hint
        return [replace(hint, channels=k) for k in self._planes] if hint else []

    def join(
        self, others: Sequence[Controlled], base: GenerativeModel | None = None
    ) -> "DiffusersPipeline":
        """Return the pipeline with ControlNets of diffusers: `Controlled`; weights are shared.

        Raises:
            LimnerError: other controls, a pipeline that already has one, or one of another shape.
        """
        networks: list[Any] = []
        for other in others:
            if not isinstance(other, DiffusersControl):
                raise LimnerError(
                    f"{other.name} models cannot control a pipeline; give the folder of a "
                    "ControlNetModel of diffusers"
                )
            networks.append(other.network)
        if base is not None or self.spec.hint is not None:
            raise LimnerError(
                "this pipeline has a ControlNet already; give one without, or leave --control out"
            )
        planes = [hint.channels for other in others for hint in other.hints]
        hint = ImageSpec(sum(planes), self.spec.height, self.spec.width)
        model = copy.copy(self)
        object.__setattr__(model, "_modules", {})
        object.__setattr__(model, "spec", replace(self.spec, hint=hint))
        model._planes = planes
        model._take(controlled_pipeline(self.pipeline, networks))
        return model.to(self.device).eval()

    def players(self) -> dict[str, nn.Module]:
        """Return no players, because nothing is trained."""
        return {}

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Refuse to train.

        Raises:
            LimnerError: always.
        """
        raise LimnerError("limner can paint with a diffusers pipeline, but not train it")

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        steps: Annotated[int, Field(ge=1, le=4000)] | None = None,
        scale: Annotated[float, Field(ge=0, le=100)] | None = None,
        height: Annotated[int, Field(ge=1, le=8192)] | None = None,
        width: Annotated[int, Field(ge=1, le=8192)] | None = None,
        views: Annotated[int, Field(ge=0, le=4000)] = 4,
        control_strength: Strength | None = None,
        control_weights: tuple[Strength, ...] | None = None,
        control_interval: tuple[float, float] | None = None,
    ) -> Iterator[Images]:
        """Yield the estimate of the clean picture at every step, then the picture.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            steps: number of steps; the pipeline's own default if not given.
            scale: scale of the pipeline's classifier-free guidance, where 1 and below is none; its
                own default if not given.
            height, width: size of the pictures in pixels; the network's training size by default.
            views: number of steps that are shown, for a pipeline in the latent space of an
                autoencoder; other steps repeat the last shown one, or are grey. Decoding a latent
                map takes as much computation as 1.6 guided steps of Stable Diffusion 1.
            control_strength: for a pipeline with a ControlNet, how strongly the hint acts.
            control_weights: for several ControlNets, how strongly each acts; 1 by default.
            control_interval: part of the steps in which it acts, from 0 (noise) to 1 (picture).
        """
        size = self._size(height, width)
        arguments = self._call_arguments(self.painter, n, c, steps, scale, size)
        arguments |= self._control(
            self.painter, c, control_strength, control_weights, control_interval
        )
        yield from self._painting(self.painter, arguments, noise, size, steps, views, preview)

    def frame_count(self, **options: Any) -> int:
        """Return the number of frames: one for each step of the scheduler, and the picture."""
        return self.painter.count(options.get("steps")) + 1

    def edit(
        self,
        image: Images,
        c: Condition = Condition(),
        *,
        mask: Float[Tensor, "b 1 h w"] | None = None,
        strength: Annotated[float, Field(gt=0, le=1)] = 1.0,
        seed: Seeds = 0,
        preview: bool = True,
        **options: Any,
    ) -> Iterator[Images]:
        """Paint pictures or parts of them anew, with diffusers' editing pipelines: `Edits`.

        Args:
            image: the pictures, "b c h w" in [-1, 1].
            c, seed, preview, options: as for `GenerativeModel.watch`.
            mask: 1 where to paint, 0 where to keep; everywhere by default.
            strength: how far to go back into noise, in (0, 1].

        Raises:
            LimnerError: there is no such pipeline, or a picture or mask has another shape.
        """
        frames = partial(self._edit_frames, make_edit(self, image, mask, strength, 1))
        yield from self.run_frames(frames, len(image), c, seed, preview, options)

    @finish_frames
    def _edit_frames(
        self,
        edit: Edit,
        n: int,
        c: Condition,
        *,
        noise: Noise,
        preview: bool,
        steps: int | None,
        scale: float | None,
        height: int | None,
        width: int | None,
        views: int,
        control_strength: float | None,
        control_weights: tuple[float, ...] | None,
        control_interval: tuple[float, float] | None,
    ) -> Iterator[Images]:
        """Yield the frames of `edit`."""
        image, mask, strength, _ = edit
        size = self._own_size(height, width)
        painter = PipelinePainter(editing_pipeline(self.pipeline, mask is not None), self.device)
        arguments = self._call_arguments(painter, n, c, steps, scale, size)
        arguments |= self._control(painter, c, control_strength, control_weights, control_interval)
        arguments |= {"image": (image + 1) / 2, "strength": strength}
        if mask is not None:
            arguments["mask_image"] = mask = mask.to(image)
        for x in self._painting(painter, arguments, noise, size, steps, views, preview, strength):
            yield x if mask is None else torch.lerp(image, x.to(image), mask)

    def edit_count(self, strength: float = 1.0, **options: Any) -> int:
        """Return the number of frames that `edit` yields with a preview."""
        return self.painter.count(options.get("steps"), strength) + 1

    def effective_strength(self, strength: float, **options: Any) -> float:
        """Return the share of the steps that an edit takes, which diffusers rounds down."""
        steps = options.get("steps")
        return self.painter.count(steps, strength) / self.painter.count(steps)

    def check_words(self, before: Condition, after: Condition) -> None:
        """Refuse prompts without words, and a network without cross-attention: `Rewords`."""
        super().check_words(before, after)
        check_attention(self.pipeline)

    @finish_frames
    def reword_frames(
        self,
        change: Rewording,
        image: Images | None,
        strength: float,
        n: int,
        c: Condition,
        *,
        noise: Noise,
        preview: bool,
        steps: int | None,
        scale: float | None,
        height: int | None,
        width: int | None,
        views: int,
        control_strength: float | None,
        control_weights: tuple[float, ...] | None,
        control_interval: tuple[float, float] | None,
    ) -> Iterator[Images]:
        """Yield the pipeline's pictures of both prompts, painted together: `Rewords`."""
        assert c.text is not None
        prompts = self._prompt_texts(c.text[[0, -1]])
        change = of_tokens(self.pipeline.tokenizer, prompts, change)
        if image is None:
            painter, extra, strength = RewordingPainter(self.pipeline, self.device, change), {}, 1.0
            size = self._size(height, width)
        else:
            size = self._own_size(height, width)
            pipeline = editing_pipeline(self.pipeline, masked=False)
            painter = FollowingPainter(pipeline, self.device, change)
            extra = {
                "image": (image.repeat(n // len(image), 1, 1, 1) + 1) / 2,
                "strength": strength,
            }
        arguments = self._call_arguments(painter, n, c, steps, scale, size)
        arguments |= self._control(painter, c, control_strength, control_weights, control_interval)
        arguments |= extra
        yield from self._painting(painter, arguments, noise, size, steps, views, preview, strength)

    def reconstruct_for_edit(self, image: Images, seed: Seeds = 0) -> Images:
        """Return reconstructions of pictures by the pipeline's autoencoder: `Rewords`."""
        image = image.to(self.device)
        noise = Noise.sampling(seed, len(image), str(self.device))
        return self.painter.reconstruct(image, noise).float().clamp(-1, 1)

    @property
    def painter(self) -> PipelinePainter:
        """Painter with the pipeline, on the device of its networks."""
        return PipelinePainter(self.pipeline, self.device)

    def _painting(
        self,
        painter: PipelinePainter,
        arguments: dict[str, Any],
        noise: Noise,
        size: tuple[int, int],
        steps: int | None,
        views: int,
        preview: bool,
        strength: float = 1.0,
    ) -> Iterator[Images]:
        """Yield estimates of the picture if there is a preview, then the picture."""
        shape = (len(noise), self.spec.channels, *size)
        if preview:
            count = painter.count(steps, strength)
            yield from painter.forming(arguments, noise, shape, count, views)
        else:
            yield painter.paint(arguments, noise, shape)

    def _own_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Return the size of an edited picture, which cannot change."""
        size = self.spec.height, self.spec.width
        if (height or size[0], width or size[1]) != size:
            raise LimnerError(
                "an edited picture keeps its size; leave sampler.height and width out"
            )
        return size

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Return height and width, checked."""
        own, unit = (self.spec.height, self.spec.width), self.painter.unit
        size = height or own[0], width or own[1]
        if size != own and "height" not in self.painter.inputs:
            raise LimnerError(
                f"this pipeline paints only {own[1]} x {own[0]} pictures; leave sampler.height and "
                "sampler.width out"
            )
        for name, side in zip(("height", "width"), size):
            if side % unit:
                raise LimnerError(
                    f"sampler option {name}={side} is not a multiple of {unit}, as this pipeline "
                    f"needs; give {name}={-(-side // unit) * unit}"
                )
        return size

    def _call_arguments(
        self,
        painter: PipelinePainter,
        n: int,
        c: Condition,
        steps: int | None,
        scale: float | None,
        size: tuple[int, int],
    ) -> dict[str, Any]:
        """Return the arguments of a pipeline's call."""
        arguments = painter.call_options(steps=steps, scale=scale)
        if self.spec.text is not None:
            arguments["prompt"] = [""] * n if c.text is None else self._prompt_texts(c.text)
        if c.avoid is not None:
            if "negative_prompt" not in painter.inputs or painter.default("true_cfg_scale") == 1:
                raise LimnerError("this pipeline takes no negative prompt; leave it out")
            arguments["negative_prompt"] = self._prompt_texts(c.avoid)
        if c.label is not None:
            null_class = len(self.spec.labels)
            arguments["class_labels"] = [k if k >= 0 else null_class for k in c.label.tolist()]
        defaults = {"batch_size": n, "height": size[0], "width": size[1]}
        defaults |= {"use_resolution_binning": False}
        return arguments | {
            name: value for name, value in defaults.items() if name in painter.inputs
        }

    def _control(
        self,
        painter: PipelinePainter,
        c: Condition,
        strength: float | None,
        weights: tuple[float, ...] | None,
        interval: tuple[float, float] | None,
    ) -> dict[str, Any]:
        """Return the further arguments of a pipeline with ControlNets.

        Raises:
            LimnerError: it has no ControlNet, but options of one are given; or the number of
                weights is wrong.
        """
        if c.image is None:
            if (strength, weights, interval) != (None, None, None):
                raise LimnerError(
                    "this pipeline has no ControlNet; leave sampler.control_strength and "
                    "control_interval out"
                )
            return {}
        weights = self.weights_of_controls(weights)
        start, end = interval or (0.0, 1.0)
        scales = [(1.0 if strength is None else strength) * weight for weight in weights]
        images = [*((c.image + 1) / 2).split(self._planes, dim=1)]
        is_single = len(images) == 1
        name = "control_image" if "control_image" in painter.inputs else "image"
        return {
            name: images[0] if is_single else images,
            "controlnet_conditioning_scale": scales[0] if is_single else scales,
            "control_guidance_start": start,
            "control_guidance_end": end,
        }

    def _prompt_texts(self, text: Int[Tensor, "b l"]) -> list[str]:
        assert self.spec.text is not None
        tokenizer = Tokenizer(self.spec.text)
        return ["".join(tokenizer.words(row)) for row in text]
