"""The folder of a diffusers pipeline: what it says of itself, and how it is opened.

    model_index.json     the pipeline's class, and the library and class of each component
    unet/, vae/, ...     a component each: config.json, and weights

Nothing in a folder is run: weights are read from safetensors files only, classes are those of
diffusers and transformers themselves, and folders that bring code are refused. Nothing is fetched.
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

from limner.contract.errors import LimnerError, install
from limner.contract.image import ImageSpec
from limner.contract.text import character_spec

INDEX = "model_index.json"
CONFIG = "config.json"
_CONTROL = "ControlNetModel"
_LIBRARIES = ("diffusers", "transformers")
_NETWORKS = ("unet", "transformer")
CODECS = ("vae", "vqvae", "movq")
_ALONE = 128  # maps a side, where no configuration says it (Flux, Qwen-Image)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".msgpack")
_KNOWN_INPUTS = ("self", "prompt", "class_labels", "args", "kwargs")


def _json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        LimnerError: there is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LimnerError(f"{path} is damaged ({error}); copy it again") from None
    if not isinstance(found, dict):
        raise LimnerError(f"{path} is damaged (it holds no object); copy it again")
    return found


def components(folder: Path) -> dict[str, tuple[str, str]]:
    """The library and class of each component that a pipeline has.

    Raises:
        LimnerError: the index is damaged, or names what diffusers and transformers do not have.
    """
    found: dict[str, tuple[str, str]] = {}
    for name, value in _json(folder / INDEX).items():
        if name.startswith("_") or not isinstance(value, list) or value == [None, None]:
            continue
        if len(value) != 2 or not all(isinstance(part, str) for part in value):
            continue  # an option that is a list
        library = value[0]
        if not re.fullmatch(r"[A-Za-z]\w*", name) or not _is_known(library):
            raise LimnerError(
                f"{folder} brings code of its own for '{name}' ({library}), which limner does not "
                "run; save the pipeline with classes of diffusers and transformers"
            )
        found[name] = (library, value[1])
    return found


def _is_known(library: str) -> bool:
    import diffusers

    part = getattr(diffusers.pipelines, library, None)
    return library in _LIBRARIES or getattr(part, "__name__", "").startswith("diffusers.pipelines.")


def pipeline_class(folder: Path) -> Any:
    """The class of a folder's pipeline.

    Raises:
        LimnerError: diffusers is not installed, or has no such class.
    """
    for library in _LIBRARIES:
        if find_spec(library) is None:
            raise LimnerError(
                f"{folder} is a diffusers pipeline, which needs {library}; type: "
                f"{install('diffusers')}"
            )
    import diffusers
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    name = _json(folder / INDEX).get("_class_name")
    if not isinstance(name, str) or any(folder.glob("*.py")):
        raise LimnerError(
            f"{folder} brings code of its own, which limner does not run; save the pipeline as one "
            "of diffusers' classes"
        )
    found = getattr(diffusers, name, None) if name.endswith("Pipeline") else None
    if not inspect.isclass(found) or not issubclass(found, DiffusionPipeline):
        raise LimnerError(
            f"{folder} needs {name}, which diffusers {diffusers.__version__} does not have; type: "
            "pip install -U diffusers"
        )
    inputs = inspect.signature(found.__call__).parameters.values()
    needed = [p.name for p in inputs if p.default is p.empty and p.name not in _KNOWN_INPUTS]
    if needed:
        raise LimnerError(
            f"{name} of {folder} needs {' and '.join(needed)}; limner gives pipelines a "
            "prompt or a class"
        )
    return found


def _configs(folder: Path) -> dict[str, dict[str, Any]]:
    """What each network says of itself."""
    found: dict[str, dict[str, Any]] = {}
    for name in components(folder):
        if not (folder / name).is_dir():
            raise LimnerError(f"{folder} lacks its part {name}/; copy it again")
        if (folder / name / CONFIG).is_file():
            found[name] = _json(folder / name / CONFIG)
    return found


def image_spec(folder: Path) -> ImageSpec:
    """What a pipeline paints, by the configurations of its parts.

    Raises:
        LimnerError: a part is missing or damaged.
    """
    inputs = inspect.signature(pipeline_class(folder).__call__).parameters
    configs = _configs(folder)
    network = next((configs[name] for name in _NETWORKS if name in configs), {})
    codec = next((configs[name] for name in CODECS if name in configs), None)
    size = network.get("sample_size") or _ALONE
    sides = (size, size) if isinstance(size, int) else tuple(size)
    channels = network.get("in_channels", 3) if codec is None else codec.get("out_channels", 3)
    height, width = (side * _enlarging(codec or {}) for side in sides)
    hint = None
    if "controlnet" in configs:
        told = configs["controlnet"].get("conditioning_channels", 3)
        hint = ImageSpec(told, height, width)
    return ImageSpec(
        channels,
        height,
        width,
        hint=hint,
        labels=_labels(folder, network) if "class_labels" in inputs else (),
        text=character_spec() if "prompt" in inputs else None,
    )


def _enlarging(codec: Mapping[str, Any]) -> int:
    """How many pixels a side a number of an autoencoder's map stands for."""
    for key in ("encoder_block_out_channels", "block_out_channels", "dim_mult"):
        if key in codec:
            return 2 ** (len(codec[key]) - 1)
    return 1


def _labels(folder: Path, network: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes by name, or else by number; of ImageNet's two cranes the second has it, too."""
    named = _json(folder / INDEX).get("id2label")
    if isinstance(named, dict) and named:
        names = [str(named.get(str(i), i)) for i in range(len(named))]
        return tuple(f"{n} ({i})" if n in names[:i] else n for i, n in enumerate(names))
    return tuple(map(str, range(network.get("num_embeds_ada_norm") or 0)))


def usual_options(folder: Path) -> dict[str, Any]:
    """How many steps a pipeline takes by itself, and how strongly it guides."""
    inputs = inspect.signature(pipeline_class(folder).__call__).parameters
    steps, scale = inputs.get("num_inference_steps"), guidance(inputs)
    usual = {"steps": steps and steps.default, "scale": scale and inputs[scale].default}
    return {key: value for key, value in usual.items() if isinstance(value, (int, float))}


def guidance(inputs: Mapping[str, inspect.Parameter]) -> str | None:
    """What a pipeline calls the scale of its guidance; None without guidance."""
    known = (name for name in ("guidance_scale", "true_cfg_scale") if name in inputs)
    return next((name for name in known if inputs[name].default is not None), None)


def weight_files(folder: Path) -> list[Path]:
    """The files that weights are read from: of half precision only where there are no others.

    Raises:
        LimnerError: a part that has no safetensors file.
    """
    return [file for name in _configs(folder) for file in network_files(folder / name)]


def network_files(folder: Path) -> list[Path]:
    """The files that the weights of one network are read from: of half precision only where there
    are no others.

    Raises:
        LimnerError: there is no safetensors file.
    """
    files = sorted(folder.glob("*.safetensors"))
    whole = [file for file in files if "." not in file.stem]
    half = [file for file in files if file.stem.split(".")[1:] == ["fp16"]]
    if not whole and not half:
        pickles = [f for f in folder.iterdir() if f.suffix in _PICKLES]
        held = f"only {pickles[0].name}, which may run code" if pickles else "no weights"
        raise LimnerError(
            f"{folder} has {held}; limner reads safetensors files: get those, or write them with "
            "save_pretrained(..., safe_serialization=True)"
        )
    return whole or half


def open_pipeline(folder: Path) -> Any:
    """The pipeline, in float32 on the CPU.

    Raises:
        LimnerError: it cannot be opened, or would have to run code.
    """
    pipeline = _opened(pipeline_class(folder), folder, weight_files(folder))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _opened(kind: Any, folder: Path, files: Sequence[Path]) -> Any:
    """What a class of diffusers makes of a folder with some files of weights.

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
    except Exception as error:  # whatever the libraries make of a folder
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise LimnerError(f"diffusers cannot open {folder} ({said}); copy it again") from None


def control_config(folder: Path) -> dict[str, Any]:
    """What the folder of a ControlNet says of itself.

    Raises:
        LimnerError: it is another part of a pipeline, or damaged.
    """
    config = _json(folder / CONFIG)
    if config.get("_class_name") != _CONTROL:
        raise LimnerError(
            f"{folder} is neither a model nor a ControlNet of diffusers; a pipeline is named by "
            f"the folder with its {INDEX}"
        )
    return config


def open_control(folder: Path) -> Any:
    """The ControlNet in a folder, in float32 on the CPU.

    Raises:
        LimnerError: diffusers is not installed, or cannot open it.
    """
    control_config(folder)
    if find_spec("diffusers") is None:
        raise LimnerError(f"{folder} is a ControlNet of diffusers; type: {install('diffusers')}")
    import diffusers

    return _opened(getattr(diffusers, _CONTROL), folder, network_files(folder))


def controlled_pipeline(pipeline: Any, controls: Sequence[Any]) -> Any:
    """The pipeline of the same parts that ControlNets steer.

    Raises:
        LimnerError: diffusers has none, or they are of another network's shape.
    """
    from diffusers.pipelines.auto_pipeline import AutoPipelineForText2Image

    network = getattr(pipeline, "unet", None)
    for control in controls:
        for name in ("in_channels", "block_out_channels", "cross_attention_dim"):
            own, its = (getattr(each, "config", {}).get(name) for each in (control, network))
            if network is not None and own != its:
                raise LimnerError(
                    f"this ControlNet goes over a network of {name}={own}, and the pipeline's has "
                    f"{its}; take one that was trained for this pipeline"
                )
    try:
        with quietly():
            given = controls[0] if len(controls) == 1 else list(controls)
            found = AutoPipelineForText2Image.from_pipe(pipeline, controlnet=given)
    except ValueError:
        raise LimnerError(
            f"diffusers has no {type(pipeline).__name__} with a ControlNet; Stable Diffusion has"
        ) from None
    found.set_progress_bar_config(disable=True)
    return found


def editing_pipeline(pipeline: Any, masked: bool) -> Any:
    """The pipeline of the same parts that begins from a picture, or paints where a mask says.

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
            found = kind.from_pipe(pipeline)
    except ValueError:
        raise LimnerError(
            f"diffusers has no {type(pipeline).__name__} that edits pictures"
            f"{' under a mask' if masked else ''}; Stable Diffusion has"
        ) from None
    found.set_progress_bar_config(disable=True)
    return found


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the bars and the advice that both libraries print as they load."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    both = (of_diffusers, of_transformers)
    before = [(each.get_verbosity(), each.is_progress_bar_enabled()) for each in both]
    for each in both:
        each.set_verbosity(logging.ERROR)
        each.disable_progress_bar()
    try:
        yield
    finally:
        for each, (verbosity, bar) in zip(both, before):
            each.set_verbosity(verbosity)
            if bar:
                each.enable_progress_bar()
