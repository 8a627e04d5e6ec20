"""Paint with a diffusers pipeline: with given noise, and with a preview at every step."""

import inspect
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from limner.contract.errors import LimnerError, first_line
from limner.contract.image import Images
from limner.contract.noise import Noise
from limner.diffusion.diffusers.callback_iterator import iterate_callback
from limner.diffusion.diffusers.folder import CODECS, guidance
from limner.maths.denoisers import PREDICTIONS, Prediction, per_image

# Those with simple decoding.
_SIMPLE_DECODERS = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC")
_PREDICTIONS: dict[str, Prediction] = {"epsilon": "epsilon", "sample": "x", "v_prediction": "v"}
See = Callable[[Tensor], None]


@dataclass(frozen=True)
class PipelinePainter:
    """Wrapper of a pipeline that paints with it, and knows its arguments.

    Args:
        pipeline: pipeline of diffusers.
        device: device of its networks.
    """

    pipeline: Any
    device: torch.device

    @property
    def name(self) -> str:
        """The pipeline's class, for messages."""
        return type(self.pipeline).__name__

    @property
    def inputs(self) -> Mapping[str, inspect.Parameter]:
        """Arguments of the pipeline."""
        return inspect.signature(self.pipeline.__call__).parameters

    def default(self, name: str) -> Any:
        """Return the default of an argument; None if there is none."""
        return self.inputs[name].default if name in self.inputs else None

    @property
    def codec(self) -> Any:
        """The autoencoder, if the pipeline paints in its latent space; None if in pixels."""
        parts = (getattr(self.pipeline, name, None) for name in CODECS)
        return next((part for part in parts if part is not None), None)

    @property
    def unit(self) -> int:
        """Number of pixels that the sides of a picture are multiples of."""
        factor = 2 if hasattr(self.pipeline, "_pack_latents") else 1
        return factor * getattr(self.pipeline, "vae_scale_factor", 1)

    def call_options(self, **options: float | None) -> dict[str, Any]:
        """Return steps and scale under the pipeline's own names.

        Raises:
            LimnerError: the pipeline has no such option.
        """
        steps = "num_inference_steps" if "num_inference_steps" in self.inputs else None
        names = {"steps": steps, "scale": guidance(self.inputs)}
        values = {option: value for option, value in options.items() if value is not None}
        for option in values:
            if names[option] is None:
                raise LimnerError(f"this pipeline has no such option; leave sampler.{option} out")
        return {str(names[option]): value for option, value in values.items()}

    def count(self, steps: int | None, strength: float = 1.0) -> int:
        """Return the number of the scheduler's steps, which may be more than the requested one."""
        requested: int = steps or self.default("num_inference_steps") or 1
        kind = type(self.pipeline.scheduler)
        scheduler = kind.from_config(self.pipeline.scheduler.config)
        try:
            scheduler.set_timesteps(requested)
            total = len(scheduler.timesteps)
        except (TypeError, ValueError):  # times that depend on the picture's size
            total = requested
        left_out = (requested - min(int(requested * strength), requested)) * getattr(
            scheduler, "order", 1
        )
        return max(1, total - left_out)

    def paint(self, call_arguments: dict[str, Any], noise: Noise, shape: tuple[int, ...]) -> Images:
        """Return the pipeline's pictures.

        Args:
            call_arguments: arguments of the call.
            noise: a random stream for each picture.
            shape: shape of the pictures, "n c h w".

        Raises:
            LimnerError: the pipeline refuses the arguments, or makes pictures of another shape.
        """
        try:
            with OwnStreams(noise):
                output = self.pipeline(**call_arguments, output_type="np")
        except (TypeError, ValueError) as error:
            text = first_line(error)
            raise LimnerError(f"{self.name} refuses this: {text}") from None
        images = getattr(output, "images", None)  # "b h w c" in [0, 1]
        x = torch.as_tensor(images if isinstance(images, np.ndarray) else np.zeros((0, 0, 0)))
        x = x.movedim(-1, -3)
        if x.shape != shape:
            text = "x".join(map(str, x.shape)) if x.numel() else "no pictures"
            raise LimnerError(f"{self.name} makes {text}, not {'x'.join(map(str, shape))}")
        return 2 * x.to(self.device) - 1

    def forming(
        self,
        call_arguments: dict[str, Any],
        noise: Noise,
        shape: tuple[int, ...],
        count: int,
        views: int,
    ) -> Iterator[Images]:
        """Yield `count` estimates of the clean pictures, then the pictures.

        Args:
            call_arguments, noise, shape: as for `paint`.
            count: number of steps to report.
            views: number of these steps to decode, if there is an autoencoder.
        """
        decoded_steps = self._decoded_steps(count, views)
        grey = torch.zeros(shape, device=self.device)

        def run(report: See) -> None:
            frames = [grey]

            def see(z: Tensor) -> None:
                i = len(frames) - 1
                if i < count:
                    frames.append(
                        self._decode(z[: shape[0]], shape) if i in decoded_steps else frames[-1]
                    )
                    report(frames[-1])

            with watching(self.pipeline.scheduler, see):
                picture = self.paint(call_arguments, noise, shape)
            for _ in range(count + 1 - len(frames)):  # if the scheduler left steps out
                report(picture)
            report(picture)

        return iterate_callback(run, self.device)

    def reconstruct(self, x: Images, noise: Noise) -> Images:
        """Return reconstructions of the autoencoder; without one, the pictures themselves."""
        codec = self.codec
        if codec is None:
            return x
        with OwnStreams(noise), torch.no_grad():
            output = codec.encode(x.to(codec.dtype))
            z = output.latents if hasattr(output, "latents") else output.latent_dist.sample()
        with torch.no_grad():
            return codec.decode(z).sample.to(x)

    def _decoded_steps(self, count: int, views: int) -> Container[int]:
        """Return the numbers of the steps to decode."""
        if self.codec is None:
            return range(count)
        is_decodable = type(self.codec).__name__ in _SIMPLE_DECODERS
        return {round(i * count / views) for i in range(views)} if is_decodable else ()

    def _decode(self, z: Tensor, shape: tuple[int, ...]) -> Images:
        """Return the picture of a latent map."""
        vae = self.codec
        if vae is None:
            return z
        if z.ndim == 3:
            z = self.pipeline._unpack_latents(z, *shape[2:], self.pipeline.vae_scale_factor)
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        mean, deviation = (getattr(vae.config, f"latents_{name}", None) for name in ("mean", "std"))
        z = z / vae.config.scaling_factor
        if mean is not None and deviation is not None:
            z = z * z.new_tensor(deviation).view(1, -1, 1, 1) + z.new_tensor(mean).view(1, -1, 1, 1)
        return vae.decode(z.to(vae.dtype) + shift).sample


class OwnStreams(TorchFunctionMode):
    """Mode in which torch's normal numbers are drawn from the pictures' own streams.

    Args:
        noise: a random stream for each picture.
    """

    def __init__(self, noise: Noise) -> None:
        super().__init__()
        self.noise = noise

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace `randn` and `randn_like`; call any other function of torch unchanged."""
        kwargs = kwargs or {}
        if func is torch.randn_like:
            tensor = args[0]
            options = {"dtype": tensor.dtype, "device": tensor.device} | kwargs
            return self._normal(tensor.shape, **options)
        if func is torch.randn:
            size = kwargs.pop("size", args[0] if args and not isinstance(args[0], int) else args)
            return self._normal(size, **kwargs)
        return func(*args, **kwargs)

    def _normal(self, size: Any, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
        """Return rows for all pictures, repeated with new numbers until the size is filled."""
        n = len(self.noise)
        if not size or size[0] % n:
            raise LimnerError(
                f"this pipeline draws noise of the shape {tuple(size)}, which does not fit {n} "
                "pictures, so limner cannot assign it to them; give another pipeline"
            )
        rows = [self.noise.normal(*size[1:]) for _ in range(size[0] // n)]
        return torch.cat(rows).to(device=device or "cpu", dtype=dtype or torch.float32)


@contextmanager
def watching(scheduler: Any, see: See) -> Iterator[None]:
    """Call a function with the estimate of the finished picture at each step of a scheduler.

    Pipelines differ in whether and how they call back, and report noisy pictures. But every
    pipeline calls its scheduler for each step, where the clean picture is known.
    """
    step = scheduler.step
    signature = inspect.signature(step)

    @wraps(step)
    def reporting(*args: Any, **kwargs: Any) -> Any:
        as_tuple = not kwargs.pop("return_dict", True)
        arguments = signature.bind(*args, **kwargs).arguments
        F, t, x_t = (arguments[name] for name in ("model_output", "timestep", "sample"))
        output = step(*args, **kwargs)
        see(expected_picture(scheduler, F, t, x_t, output))
        return output.to_tuple() if as_tuple else output

    scheduler.step = reporting
    try:
        yield
    finally:
        del scheduler.step


def expected_picture(scheduler: Any, F: Tensor, t: Any, x_t: Tensor, output: Any) -> Tensor:
    """Return x_hat at a step.

    It is the scheduler's own, or is computed from its configuration and noise levels, or, if these
    are unknown, is the next x_t.
    """
    for name in ("pred_original_sample", "denoised"):
        if (x_hat := getattr(output, name, None)) is not None:
            return x_hat
    prediction = getattr(scheduler.config, "prediction_type", "flow_prediction")
    F = F[:, : x_t.shape[1]]  # the rest are variances
    if prediction == "flow_prediction":
        return x_t - float(t) / scheduler.config.num_train_timesteps * F
    if hasattr(scheduler, "alphas_cumprod") and prediction in _PREDICTIONS:
        alpha_bar = scheduler.alphas_cumprod[int(t)].double().cpu()
        k = PREDICTIONS[_PREDICTIONS[prediction]](alpha_bar.sqrt(), (1 - alpha_bar).sqrt())
        return per_image(k.skip, x_t) * x_t + per_image(k.out, x_t) * F
    return output.prev_sample
