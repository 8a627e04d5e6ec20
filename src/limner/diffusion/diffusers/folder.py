"""The folder of a diffusers pipeline: read its configuration, and open it.

    model_index.json     the pipeline's class, and the library and class of each component
    unet/, vae/, ...     one component each: config.json, and weights

No code from a folder is run: weights are read only from safetensors files, classes are only those
of diffusers and transformers, and folders with code are refused. Nothing is downloaded.
"""

import contextlib
import inspect
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from limner.contract.errors import LimnerError, first_line, install_command
from limner.contract.image import ImageSpec
from limner.contract.text import character_spec

INDEX = "model_index.json"
CONFIG = "config.json"
_CONTROLNET_CLASS = "ControlNetModel"
_LIBRARIES = ("diffusers", "transformers")
_NETWORKS = ("unet", "transformer")
CODECS = ("vae", "vqvae", "movq")
# Side of a latent map, if the configuration does not give it (Flux, Qwen-Image).
_DEFAULT_LATENT_SIDE = 128
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".msgpack")
_KNOWN_INPUTS = ("self", "prompt", "class_labels", "args", "kwargs")


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        LimnerError: the file is missing, or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LimnerError(f"{path} is damaged ({error}); copy it again") from None
    if not isinstance(value, dict):
        raise LimnerError(f"{path} is damaged (it holds no object); copy it again")
    return value


def components(folder: Path) -> dict[str, tuple[str, str]]:
    """Return the library and class of each component of a pipeline.

    Raises:
        LimnerError: the index is damaged, or names classes outside of diffusers and transformers.
    """
    classes: dict[str, tuple[str, str]] = {}
    for name, value in _json(folder / INDEX).items():
        if name.startswith("_") or not isinstance(value, list) or value == [None, None]:
            continue
        if len(value) != 2 or not all(isinstance(part, str) for part in value):
            continue  # an option that is a list
        library = value[0]
        if not re.fullmatch(r"[A-Za-z]\w*", name) or not _is_allowed_library(library):
            raise LimnerError(
                f"{folder} has its own code for '{name}' ({library}), which limner does not "
                "run; save the pipeline with classes of diffusers and transformers"
            )
        classes[name] = (library, value[1])
    return classes


def _is_allowed_library(library: str) -> bool:
    import diffusers

    module = getattr(diffusers.pipelines, library, None)
    return library in _LIBRARIES or getattr(module, "__name__", "").startswith(
        "diffusers.pipelines."
    )


def pipeline_class(folder: Path) -> Any:
    """Return the class of a folder's pipeline.

    Raises:
        LimnerError: diffusers is not installed, or has no such class.
    """
    for library in _LIBRARIES:
        if find_spec(library) is None:
            raise LimnerError(
                f"{folder} is a diffusers pipeline, which needs {library}; type: "
                f"{install_command('diffusers')}"
            )
    import diffusers
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    name = _json(folder / INDEX).get("_class_name")
    if not isinstance(name, str) or any(folder.glob("*.py")):
        raise LimnerError(
            f"{folder} has its own code, which limner does not run; save the pipeline as one of "
            "diffusers' classes"
        )
    kind = getattr(diffusers, name, None) if name.endswith("Pipeline") else None
    if not inspect.isclass(kind) or not issubclass(kind, DiffusionPipeline):
        raise LimnerError(
            f"{folder} needs {name}, which diffusers {diffusers.__version__} does not have; type: "
            "pip install -U diffusers"
        )
    inputs = inspect.signature(kind.__call__).parameters.values()
    needed = [p.name for p in inputs if p.default is p.empty and p.name not in _KNOWN_INPUTS]
    if needed:
        raise LimnerError(
            f"{name} of {folder} needs {' and '.join(needed)}, and limner gives pipelines only a "
            "prompt or a class; give another pipeline"
        )
    return kind


def _configs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the configuration of each network."""
    configs: dict[str, dict[str, Any]] = {}
    for name in components(folder):
        if not (folder / name).is_dir():
            raise LimnerError(f"{folder} lacks its part {name}/; copy it again")
        if (folder / name / CONFIG).is_file():
            configs[name] = _json(folder / name / CONFIG)
    return configs


def image_spec(folder: Path) -> ImageSpec:
    """Return the specification of a pipeline's pictures, from the configurations of its parts.

    Raises:
        LimnerError: a part is missing or damaged.
    """
    inputs = inspect.signature(pipeline_class(folder).__call__).parameters
    configs = _configs(folder)
    network = next((configs[name] for name in _NETWORKS if name in configs), {})
    codec = next((configs[name] for name in CODECS if name in configs), None)
    size = network.get("sample_size") or _DEFAULT_LATENT_SIDE
    sides = (size, size) if isinstance(size, int) else tuple(size)
    channels = network.get("in_channels", 3) if codec is None else codec.get("out_channels", 3)
    height, width = (side * _enlarging(codec or {}) for side in sides)
    hint = None
    if "controlnet" in configs:
        planes = configs["controlnet"].get("conditioning_channels", 3)
        hint = ImageSpec(planes, height, width)
    return ImageSpec(
        channels,
        height,
        width,
        hint=hint,
        labels=_labels(folder, network) if "class_labels" in inputs else (),
        text=character_spec() if "prompt" in inputs else None,
    )


def _enlarging(codec: Mapping[str, Any]) -> int:
    """Return the number of pixels per side for each place of an autoencoder's latent map."""
    for key in ("encoder_block_out_channels", "block_out_channels", "dim_mult"):
        if key in codec:
            return 2 ** (len(codec[key]) - 1)
    return 1


def _labels(folder: Path, network: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the classes' names, or else their numbers.

    A repeated name also gets its number, such as the second of ImageNet's two cranes.
    """
    labels = _json(folder / INDEX).get("id2label")
    if isinstance(labels, dict) and labels:
        names = [str(labels.get(str(i), i)) for i in range(len(labels))]
        return tuple(f"{n} ({i})" if n in names[:i] else n for i, n in enumerate(names))
    return tuple(map(str, range(network.get("num_embeds_ada_norm") or 0)))


def usual_options(folder: Path) -> dict[str, Any]:
    """Return a pipeline's default number of steps, and its default guidance scale."""
    inputs = inspect.signature(pipeline_class(folder).__call__).parameters
    steps, scale = inputs.get("num_inference_steps"), guidance(inputs)
    defaults = {"steps": steps and steps.default, "scale": scale and inputs[scale].default}
    return {key: value for key, value in defaults.items() if isinstance(value, (int, float))}


def guidance(inputs: Mapping[str, inspect.Parameter]) -> str | None:
    """Return the pipeline's name of its guidance scale; None without guidance."""
    names = (name for name in ("guidance_scale", "true_cfg_scale") if name in inputs)
    return next((name for name in names if inputs[name].default is not None), None)


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files to read; those in half precision only where there are no others.

    Raises:
        LimnerError: a part has no safetensors file.
    """
    return [file for name in _configs(folder) for file in network_files(folder / name)]


def network_files(folder: Path) -> list[Path]:
    """Return the weight files of one network; those in half precision only if there are no others.

    Raises:
        LimnerError: there is no safetensors file.
    """
    files = sorted(folder.glob("*.safetensors"))
    full = [file for file in files if "." not in file.stem]
    half = [file for file in files if re.fullmatch(r"[^.]+\.fp16(-\d+-of-\d+)?", file.stem)]
    if not full and not half:
        pickles = [f for f in folder.iterdir() if f.suffix in _PICKLE_SUFFIXES]
        state = f"only {pickles[0].name}, which may run code" if pickles else "no weights"
        raise LimnerError(
            f"{folder} has {state}; limner reads safetensors files: get those, or write them with "
            "save_pretrained(..., safe_serialization=True)"
        )
    return full or half


def open_pipeline(folder: Path) -> Any:
    """Open the pipeline, in float32 on the CPU.

    Raises:
        LimnerError: it cannot be opened, or needs code that limner does not run.
    """
    pipeline = _open_with(pipeline_class(folder), folder, weight_files(folder))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _open_with(kind: Any, folder: Path, files: Sequence[Path]) -> Any:
    """Open a folder with a class of diffusers and some weight files.

    Raises:
        LimnerError: it cannot be opened.
    """
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    if any(".fp16" in file.name for file in files):
        options["variant"] = "fp16"
    if find_spec("accelerate") is None:
        options["low_cpu_mem_usage"] = False
    try:
        with quietly():
            return kind.from_pretrained(str(folder), **options)
    except Exception as error:  # the libraries raise many kinds of errors
        message = first_line(error)
        raise LimnerError(f"diffusers cannot open {folder} ({message}); copy it again") from None


def control_config(folder: Path) -> dict[str, Any]:
    """Return the configuration in a ControlNet's folder.

    Raises:
        LimnerError: the folder is another part of a pipeline, or damaged.
    """
    config = _json(folder / CONFIG)
    if config.get("_class_name") != _CONTROLNET_CLASS:
        raise LimnerError(
            f"{folder} is neither a model nor a ControlNet of diffusers; for a pipeline, give the "
            f"folder with its {INDEX}"
        )
    return config


def open_control(folder: Path) -> Any:
    """Open the ControlNet in a folder, in float32 on the CPU.

    Raises:
        LimnerError: diffusers is not installed, or cannot open it.
    """
    control_config(folder)
    if find_spec("diffusers") is None:
        raise LimnerError(
            f"{folder} is a ControlNet of diffusers; type: {install_command('diffusers')}"
        )
    import diffusers

    return _open_with(getattr(diffusers, _CONTROLNET_CLASS), folder, network_files(folder))


def controlled_pipeline(pipeline: Any, controls: Sequence[Any]) -> Any:
    """Return the pipeline of the same parts with ControlNets.

    Raises:
        LimnerError: diffusers has none, or the ControlNets are for a network of another shape.
    """
    from diffusers.pipelines.auto_pipeline import AutoPipelineForText2Image

    network = getattr(pipeline, "unet", None)
    for control in controls:
        for name in ("in_channels", "block_out_channels", "cross_attention_dim"):
            expected, actual = (
                getattr(model, "config", {}).get(name) for model in (control, network)
            )
            if network is not None and expected != actual:
                raise LimnerError(
                    f"this ControlNet is for a network with {name}={expected}, and the pipeline's "
                    f"has {actual}; take one that was trained for this pipeline"
                )
    try:
        with quietly():
            controlnet = controls[0] if len(controls) == 1 else list(controls)
            result = AutoPipelineForText2Image.from_pipe(pipeline, controlnet=controlnet)
    except ValueError:
        raise LimnerError(
            f"diffusers has no {type(pipeline).__name__} with a ControlNet; try Stable Diffusion"
        ) from None
    result.set_progress_bar_config(disable=True)
    return result


def editing_pipeline(pipeline: Any, masked: bool) -> Any:
    """Return the pipeline of the same parts that starts from a picture, or paints in a mask.

    Raises:
        LimnerError: diffusers has none.
    """
    from diffusers.pipelines.auto_pipeline import (
        AutoPipelineForImage2Image,
        AutoPipelineForInpainting,
    )

    kind = AutoPipelineForInpainting if masked else AutoPipelineForImage2Image
    try:
        with quietly():
            result = kind.from_pipe(pipeline)
    except ValueError:
        raise LimnerError(
            f"diffusers has no {type(pipeline).__name__} that edits pictures"
            f"{' under a mask' if masked else ''}; try Stable Diffusion"
        ) from None
    result.set_progress_bar_config(disable=True)
    return result


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Suppress the progress bars and the advice that both libraries print as they load."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    modules = (of_diffusers, of_transformers)
    states = [(module.get_verbosity(), module.is_progress_bar_enabled()) for module in modules]
    for module in modules:
        module.set_verbosity(logging.ERROR)
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module, (verbosity, bar) in zip(modules, states):
            module.set_verbosity(verbosity)
            if bar:
                module.enable_progress_bar()
