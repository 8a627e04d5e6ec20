"""Pipelines of diffusers as models: Stable Diffusion and its kin.

Rombach, Blattmann, Lorenz, Esser, Ommer (2021). High-resolution image synthesis with latent
diffusion models. arXiv:2112.10752; and whatever else a pipeline of the diffusers library (von
Platen et al., 2022) paints with.

The pipeline itself does the painting. What makes a model of it:

    noise    every normal number that it draws comes from the pictures' own streams, so that a
             picture is the same in any batch, and seeds blend
    frames   at each step of its scheduler, the clean picture that is to be expected by then
    text     the prompt as it is written, character by character; the pipeline has its tokenizer

`limner` neither trains nor changes it.
"""

import inspect
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from limner.checkpoint import Header
from limner.denoising import PREDICTIONS, Prediction, per_image
from limner.diffusion.pipeline_folder import (
    CODECS,
    INDEX,
    guidance,
    image_spec,
    open_pipeline,
    usual_options,
    weight_files,
)
from limner.errors import LimnerError
from limner.image import Batch, Condition, Images, ImageSpec
from limner.model import SAMPLE_BATCH, GenerativeModel, Turn
from limner.noise import Noise
from limner.registry import Paper, register
from limner.relay import relayed
from limner.text import Tokenizer

_PIXELS_AT_ONCE = 2**20  # of all pictures that are painted together
_DECODED = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC")  # of those that decode simply
_PREDICTIONS: dict[str, Prediction] = {"epsilon": "epsilon", "sample": "x", "v_prediction": "v"}
See = Callable[[Tensor], None]


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
class DiffusersPipeline(GenerativeModel):
    """A pipeline of diffusers, such as Stable Diffusion, from its folder.

    Args:
        spec: what it paints, as `header` reads it off the folder.
        folder: that `save_pretrained` wrote, with weights as safetensors.
    """

    def __init__(self, spec: ImageSpec, folder: str) -> None:
        super().__init__()
        self.pipeline = open_pipeline(Path(folder))
        parts = self.pipeline.components.items()
        self.parts = nn.ModuleDict({k: part for k, part in parts if isinstance(part, nn.Module)})
        self.requires_grad_(False)
        self.at_once = max(1, min(SAMPLE_BATCH, _PIXELS_AT_ONCE // (spec.height * spec.width)))
        if spec.labels:
            self.condition = "required"
        if hasattr(self._codec, "enable_slicing"):
            self._codec.enable_slicing()  # picture by picture: maps are small, what is within not

    @classmethod
    def header(cls, folder: Path) -> Header:
        """What a folder says of itself: `checkpoint.Foreign`."""
        config, sampler = {"folder": str(folder)}, usual_options(folder)
        return Header(cls.name, image_spec(folder), config, recipe={"sampler": sampler})

    @classmethod
    def weight_files(cls, folder: Path) -> list[Path]:
        """The files of the weights that are read: `checkpoint.Foreign`."""
        return weight_files(folder)

    def players(self) -> dict[str, nn.Module]:
        """None: nothing is trained."""
        return {}

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Refused.

        Raises:
            LimnerError: always.
        """
        raise LimnerError("a diffusers pipeline is painted with, not trained, by limner")

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
    ) -> Iterator[Images]:
        """Yield the clean picture to be expected at every step, then the picture.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            steps: how many steps; the pipeline's own number by default.
            scale: classifier-free guidance as the pipeline has it, where 1 and below is none; its
                own by default.
            height, width: of the pictures, in pixels; what the network was trained on by default.
            views: of a pipeline that paints in the maps of an autoencoder, how many steps are
                shown; others repeat the last one, or are grey. To decode a map takes the arithmetic
                of 1.6 guided steps of Stable Diffusion 1.
        """
        size = self._size(height, width)
        asked = self._asked(n, c, steps, scale) | self._sized(size)
        paint = partial(self._painted, asked, noise, (n, self.spec.channels, *size))
        if not preview:
            yield paint()
            return
        count = self.frame_count(steps=steps) - 1
        shown = self._shown(count, views)
        grey = torch.zeros(n, self.spec.channels, *size, device=self.device)

        def run(tell: See) -> None:
            told = [grey]

            def see(z: Tensor) -> None:
                i = len(told) - 1
                if i < count:
                    told.append(self._decoded(z[:n], size) if i in shown else told[-1])
                    tell(told[-1])

            with _watched(self.pipeline.scheduler, see):
                picture = paint()
            for _ in range(count + 1 - len(told)):  # of a scheduler that left steps out
                tell(picture)
            tell(picture)

        yield from relayed(run, self.device)

    def frame_count(self, **options: Any) -> int:
        """One for each step of the scheduler, which may take a few more than asked for, and one."""
        steps = options.get("steps") or self._default("num_inference_steps") or 1
        scheduler = type(self.pipeline.scheduler).from_config(self.pipeline.scheduler.config)
        try:
            scheduler.set_timesteps(steps)
            return len(scheduler.timesteps) + 1
        except (TypeError, ValueError):  # times that depend on the picture's size
            return steps + 1

    @property
    def inputs(self) -> Mapping[str, inspect.Parameter]:
        """What the pipeline can be given."""
        return inspect.signature(self.pipeline.__call__).parameters

    def _default(self, name: str) -> Any:
        return self.inputs[name].default if name in self.inputs else None

    @property
    def _codec(self) -> Any:
        """The autoencoder in whose maps it paints; None where it paints pixels."""
        known = (getattr(self.pipeline, name, None) for name in CODECS)
        return next((part for part in known if part is not None), None)

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width, checked."""
        own = self.spec.height, self.spec.width
        size = height or own[0], width or own[1]
        if size != own and "height" not in self.inputs:
            raise LimnerError(
                f"this pipeline paints {own[1]} x {own[0]} pictures only; leave sampler.height and "
                "sampler.width out"
            )
        unit = getattr(self.pipeline, "vae_scale_factor", 1)
        unit *= 2 if hasattr(self.pipeline, "_pack_latents") else 1
        for name, side in zip(("height", "width"), size):
            if side % unit:
                raise LimnerError(
                    f"sampler option {name}={side}: this pipeline paints multiples of {unit}; give "
                    f"{name}={-(-side // unit) * unit}"
                )
        return size

    def _sized(self, size: tuple[int, int]) -> dict[str, Any]:
        """What a pipeline is told of the size."""
        asked = {"height": size[0], "width": size[1], "use_resolution_binning": False}
        return {name: value for name, value in asked.items() if name in self.inputs}

    def _asked(
        self, n: int, c: Condition, steps: int | None, scale: float | None
    ) -> dict[str, Any]:
        """What a pipeline is told of the rest."""
        asked: dict[str, Any] = {"output_type": "np"}
        if self.spec.text is not None:
            asked["prompt"] = [""] * n if c.text is None else self._written(c.text)
        if c.avoid is not None:
            if "negative_prompt" not in self.inputs or self._default("true_cfg_scale") == 1:
                raise LimnerError("this pipeline takes no negative prompt; leave it out")
            asked["negative_prompt"] = self._written(c.avoid)
        if c.label is not None:
            none = len(self.spec.labels)
            asked["class_labels"] = [k if k >= 0 else none for k in c.label.tolist()]
        if "batch_size" in self.inputs:
            asked["batch_size"] = n
        for option, name, value in (
            ("steps", "num_inference_steps" if "num_inference_steps" in self.inputs else "", steps),
            ("scale", guidance(self.inputs), scale),
        ):
            if value is not None and not name:
                raise LimnerError(f"this pipeline has no such option; leave sampler.{option} out")
            if value is not None:
                asked[str(name)] = value
        return asked

    def _written(self, text: Int[Tensor, "b l"]) -> list[str]:
        assert self.spec.text is not None
        tokenizer = Tokenizer(self.spec.text)
        return ["".join(tokenizer.words(row)) for row in text]

    def _painted(self, asked: dict[str, Any], noise: Noise, shape: tuple[int, ...]) -> Images:
        """The pipeline's own pictures.

        Raises:
            LimnerError: it refuses what it is asked for, or makes no such pictures.
        """
        try:
            with _Drawn(noise):
                made = self.pipeline(**asked)
        except (TypeError, ValueError) as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise LimnerError(f"{type(self.pipeline).__name__} refuses this: {said}") from None
        images = getattr(made, "images", None)  # "b h w c" in [0, 1]
        x = torch.as_tensor(images if isinstance(images, np.ndarray) else np.zeros((0, 0, 0)))
        x = x.movedim(-1, -3)
        if x.shape != shape:
            said = "x".join(map(str, x.shape)) if x.numel() else "no pictures"
            wanted = "x".join(map(str, shape))
            raise LimnerError(f"{type(self.pipeline).__name__} makes {said}, not {wanted}")
        return 2 * x.to(self.device) - 1

    def _shown(self, count: int, views: int) -> Container[int]:
        """The steps whose views are decoded."""
        if self._codec is None:
            return range(count)
        known = type(self._codec).__name__ in _DECODED
        return {round(i * count / views) for i in range(views)} if known else ()

    def _decoded(self, z: Tensor, size: tuple[int, int]) -> Images:
        """The picture of a map."""
        vae = self._codec
        if vae is None:
            return z
        if z.ndim == 3:
            z = self.pipeline._unpack_latents(z, *size, self.pipeline.vae_scale_factor)
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        mean, deviation = (getattr(vae.config, f"latents_{of}", None) for of in ("mean", "std"))
        z = z / vae.config.scaling_factor
        if mean is not None and deviation is not None:
            z = z * z.new_tensor(deviation).view(1, -1, 1, 1) + z.new_tensor(mean).view(1, -1, 1, 1)
        return vae.decode(z.to(vae.dtype) + shift).sample


class _Drawn(TorchFunctionMode):
    """Normal numbers that are drawn within come from the pictures' own streams.

    Args:
        noise: a stream for each picture.
    """

    def __init__(self, noise: Noise) -> None:
        super().__init__()
        self.noise = noise

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Any function of torch, but for those that draw."""
        kwargs = kwargs or {}
        if func is torch.randn_like:
            like = args[0]
            asked = {"dtype": like.dtype, "device": like.device} | kwargs
            return self._normal(like.shape, **asked)
        if func is torch.randn:
            size = kwargs.pop("size", args[0] if args and not isinstance(args[0], int) else args)
            return self._normal(size, **kwargs)
        return func(*args, **kwargs)

    def _normal(self, size: Any, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
        """Rows for all pictures, as often as the size has room for."""
        n = len(self.noise)
        if not size or size[0] % n:
            raise LimnerError(
                f"this pipeline draws noise of the shape {tuple(size)}, which is none of {n} "
                "pictures; limner cannot say which picture it is of"
            )
        rows = [self.noise.normal(*size[1:]) for _ in range(size[0] // n)]
        return torch.cat(rows).to(device=device or "cpu", dtype=dtype or torch.float32)


@contextmanager
def _watched(scheduler: Any, see: See) -> Iterator[None]:
    """Tell what a scheduler's steps let expect of the finished picture.

    Pipelines differ in whether and how they call back, and tell noisy pictures; but every one asks
    its scheduler for each step, and there the clean one is known.
    """
    step = scheduler.step
    takes = inspect.signature(step)

    @wraps(step)
    def watched(*args: Any, **kwargs: Any) -> Any:
        as_tuple = not kwargs.pop("return_dict", True)
        given = takes.bind(*args, **kwargs).arguments
        F, t, x_t = (given[name] for name in ("model_output", "timestep", "sample"))
        made = step(*args, **kwargs)
        see(_expected(scheduler, F, t, x_t, made))
        return made.to_tuple() if as_tuple else made

    scheduler.step = watched
    try:
        yield
    finally:
        del scheduler.step


def _expected(scheduler: Any, F: Tensor, t: Any, x_t: Tensor, made: Any) -> Tensor:
    """x_hat at a step: the scheduler's own, or by what it says of its network and noise, or, where
    it says nothing, the next x_t.
    """
    for name in ("pred_original_sample", "denoised"):
        if (x_hat := getattr(made, name, None)) is not None:
            return x_hat
    said = getattr(scheduler.config, "prediction_type", "flow_prediction")
    F = F[:, : x_t.shape[1]]  # the rest are variances
    if said == "flow_prediction":
        return x_t - float(t) / scheduler.config.num_train_timesteps * F
    if hasattr(scheduler, "alphas_cumprod") and said in _PREDICTIONS:
        kept = scheduler.alphas_cumprod[int(t)].double().cpu()
        k = PREDICTIONS[_PREDICTIONS[said]](kept.sqrt(), (1 - kept).sqrt())
        return per_image(k.skip, x_t) * x_t + per_image(k.out, x_t) * F
    return made.prev_sample
