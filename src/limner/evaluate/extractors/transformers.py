"""Extractors DINOv2 and CLIP, with the library transformers: `pip install 'limner[transformers]'`.

Oquab et al. (2023). DINOv2: learning robust visual features without supervision. arXiv:2304.07193.
Radford et al. (2021). Learning transferable visual models from natural language supervision (CLIP).
arXiv:2103.00020.
Stein et al. (2023). Exposing flaws of generative model evaluation metrics and their unfair
treatment of diffusion models. arXiv:2306.04675: distances on DINOv2's features agree best with
human judgement.

Whole pictures are stretched to the model's size, bicubic and antialiased; nothing is cropped.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limner.contract.checkpoint import digest_tensors
from limner.contract.errors import LimnerError, first_line, install_command
from limner.contract.image import from_uint8
from limner.evaluate.extractors.extractor import (
    Features,
    Pixels,
    Precision,
    name_at_precision,
    to_rgb,
)


@dataclass(frozen=True)
class _Kind:
    """A model of transformers, and the preprocessing of its training.

    Args:
        home: its usual weights on the Hugging Face hub.
        types: its types in the configuration.
        model: its class in transformers.
        features: the name of the output with the features.
        side: the side of its input, in pixels; None for the value in the configuration.
        mean, deviation: the normalisation of red, green and blue in [0, 1].
    """

    home: str
    types: tuple[str, ...]
    model: str
    features: str
    side: int | None
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


_KINDS = {
    "dinov2": _Kind(
        "facebook/dinov2-large",  # as in Stein et al.
        ("dinov2",),
        "Dinov2Model",
        "pooler_output",  # the class token after the last norm
        224,
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    ),
    "clip": _Kind(
        "openai/clip-vit-large-patch14",
        ("clip", "clip_vision_model"),
        "CLIPVisionModelWithProjection",
        "image_embeds",
        None,
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
}


def open_pretrained(
    name: str,
    weights: Path | str | None = None,
    device: str | torch.device = "cpu",
    dtype: Precision = "float32",
) -> "Pretrained":
    """Open a model of transformers as an extractor.

    Args:
        name: "dinov2" or "clip".
        weights: a folder, or a name on the Hugging Face hub, from where it is downloaded; None for
            the usual weights.
        device: the device to compute on.
        dtype: the precision of the computation.

    Raises:
        LimnerError: transformers is missing, or the weights cannot be read.
    """
    kind = _KINDS[name]
    source = str(weights or kind.home)
    try:
        import transformers
    except ImportError:
        raise LimnerError(
            f"{name} needs transformers; type: {install_command('transformers')}"
        ) from None
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # or it lists CLIP's text encoder as unused
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        if config.model_type not in kind.types:
            raise ValueError(f"its type is {config.model_type}")
        model, report = getattr(transformers, kind.model).from_pretrained(
            source, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
        if missing := sorted(map(str, report["missing_keys"])):
            raise ValueError(f"it lacks the tensor '{missing[0]}'")
    except (OSError, ValueError, RuntimeError) as error:
        reason = first_line(error)
        raise LimnerError(
            f"there are no weights of {name} in '{source}' ({reason}); give a folder with "
            "config.json and model.safetensors, or a name on the Hugging Face hub"
        ) from None
    finally:
        transformers.logging.set_verbosity(verbosity)
    return Pretrained(
        name_at_precision(f"{name} ({Path(source).name})", dtype), kind, model, device, dtype
    )


class Pretrained:
    """An extractor that uses a vision model of transformers; it has no logits.

    Args:
        name: the name of the extractor.
        kind: the kind of the model, with its preprocessing.
        model: the model with its weights.
        device: the device to compute on.
        dtype: the precision of the computation.
    """

    classes: tuple[str, ...] = ()

    def __init__(
        self, name: str, kind: _Kind, model: Any, device: str | torch.device, dtype: Precision
    ) -> None:
        self.name, self.kind = name, kind
        self.side = kind.side or int(model.config.image_size)
        preprocessing = f"{self.side}, bicubic, {kind.mean}, {kind.deviation}, {dtype}"
        self.fingerprint = digest_tensors(model.state_dict(), preprocessing)
        self.device = torch.device(device)
        self.half = dtype == "bfloat16"
        self.model: nn.Module = model.to(self.device).eval()
        self.dim = int(getattr(model.config, "projection_dim", model.config.hidden_size))

    @torch.inference_mode()
    def __call__(self, images: Pixels) -> Features:
        """Compute the features of grey or RGB pictures of any size."""
        x = (from_uint8(to_rgb(images.to(self.device), self.name)) + 1) / 2
        x = F.interpolate(x, (self.side, self.side), mode="bicubic", antialias=True).clamp(0, 1)
        x = (x - self._row(self.kind.mean)) / self._row(self.kind.deviation)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            output = self.model(pixel_values=x)
        return Features(getattr(output, self.kind.features).float(), None)

    def _row(self, channels: tuple[float, float, float]) -> Tensor:
        return torch.tensor(channels, device=self.device)[:, None, None]
