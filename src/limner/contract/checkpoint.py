"""Model files: a `model.safetensors` holds the weights, and a JSON header to rebuild the network.

Loading a file cannot run code: safetensors holds numbers only, the size of the header is checked
before it is parsed, and a model is built by its registered name, never by a class named in the
file.
"""

import hashlib
import itertools
import json
import os
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file, save  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

import limner
from limner.contract.abilities import Foreign
from limner.contract.atomic_files import write_durably
from limner.contract.devices import find_device
from limner.contract.errors import LimnerError, first_line
from limner.contract.header import FORMAT, Header
from limner.contract.model import GenerativeModel, Learner
from limner.contract.package_errors import changed_package_hint, place_of_error
from limner.contract.packing import pack, unpack
from limner.contract.registry import build, entry_of, foreign
from limner.contract.torch_defaults import usual_defaults

MODEL_FILE = "model.safetensors"
MAX_HEADER_BYTES = 8 * 2**20
MAX_TENSORS = 20_000
_ZOO = Path(__file__).parents[1] / "zoo"

RENAMED_PARTS: dict[str, tuple[str, ...]] = {
    "along": ("horizontal",),
    "cross": ("cross_attention",),
    "enter": ("conv_in", "linear_in"),
    "enter_above": ("conv_above",),
    "enter_left": ("conv_left",),
    "enter_rows": ("conv_rows",),
    "fall": ("fc_2",),
    "grow": ("upsample",),
    "itself": ("self_attention", "colours"),
    "joint": ("conv",),
    "leave": ("conv_out", "linear_out"),
    "look": ("conv", "conv_in", "linear_in"),
    "narrow": ("reduce",),
    "nothing": ("null",),
    "of_row": ("stream_right",),
    "of_rows": ("stream_down",),
    "past": ("skip",),
    "rise": ("fc_1",),
    "rising": ("up_layers",),
    "say": ("conv_out", "linear_out"),
    "seams": ("deblock",),
    "shrink": ("downsample",),
    "start": ("constant",),
    "steady": ("layers",),
    "strength": ("noise_strength",),
    "take": ("combine",),
    "think": ("conv_hidden", "linear_hidden"),
    "told": ("condition_bias",),
    "widen": ("expand",),
}
"""Names of layers in older files -> the names that they may have now."""
NEW_BUFFERS: dict[str, bool] = {"seen": True}
"""Buffers that older files lack -> the value that they get."""


def _foreign(file: Path) -> type[Foreign] | None:
    """Return the class that reads the folder identified by a file; None for limner's own model
    files."""
    model_entry = None if file.suffix == ".safetensors" else foreign().get(file.name)
    if model_entry is None:
        return None
    assert issubclass(model_entry.model, Foreign)
    return model_entry.model


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weight_files(file: Path) -> list[Path]:
    """Return the files that hold a model's weights, given its `model_file`."""
    if opener := _foreign(file):
        return opener.weight_files(file.parent)
    sources = _shared_sources(read_header(file), file).values()
    return [file, *sorted({source for source, _ in sources})]


def digest_tensors(tensors: Mapping[str, Shaped[Tensor, "..."]], about: str = "") -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of tensors.

    Args:
        tensors: weights, or other tensors with names.
        about: a text that is hashed with them, if more than the tensors decides what they are for.
    """
    content = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().view(-1)
        content.update(flat.view(torch.uint8).numpy().data)
    return content.hexdigest()


def digest(file: Path) -> str:
    """Return a hash of a whole model, given its `model_file`."""
    parts, folder = weight_files(file), file.parent
    if _foreign(file):
        parts += sorted(folder.rglob("*.json"))
    elif len(parts) == 1:
        return sha256(file)
    lines = [f"{os.path.relpath(part, folder)} {sha256(part)}" for part in parts]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Save tensors and string metadata as a safetensors file, durably."""
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    write_durably(path, save(plain, metadata))


def save_model(
    model: Learner,
    path: Path | str,
    *,
    images_seen: int = 0,
    recipe: Mapping[str, Any] | None = None,
    shared: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Save a model to one file.

    Args:
        model: a registered learner.
        path: the file, or a folder, to which `model.safetensors` is added.
        images_seen: the number of training images that the weights have seen.
        recipe: the recipe of the training.
        shared: the tensors to leave out of the file, see `Header`.
        dtype: the type of the stored floating-point weights: `torch.float16` halves a file,
            `torch.int8` quarters it, see `limner.contract.packing`; None leaves each unchanged.

    Raises:
        LimnerError: the class of the model, or of a model in it, is not registered.
    """
    if not isinstance(model, Learner):  # pyright: ignore[reportUnnecessaryIsInstance]
        kind = type(model).__name__
        raise LimnerError(f"{kind} is not a model; give one that limner.build or load returns")
    _check_registered(model.description(), type(model).__name__)
    if isinstance(dtype, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LimnerError(f"dtype='{dtype}' is text; give a type of torch, as torch.float16")
    path = Path(path)
    if path.is_dir() or not path.suffix:
        path = path / MODEL_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    shared = dict(shared or {})
    header = Header(model.name, model.spec, model.config, images_seen, dict(recipe or {}), shared)
    weights = {k: t for k, t in model.state_dict().items() if not k.startswith(tuple(shared))}
    if dtype == torch.int8:
        weights = pack(weights)
    elif dtype:
        weights = {k: t.to(dtype) if t.is_floating_point() else t for k, t in weights.items()}
    save_tensors(weights, path, {"limner": header.to_json()})


def _check_registered(description: Mapping[str, Any], name: str) -> None:
    """Refuse to save a model whose file could not be loaded.

    Args:
        description: the value of `Learner.description`.
        name: the class of the model, or the option that it was given as, for the message.

    Raises:
        LimnerError: the model, or a model in it, has no registered name.
    """
    if not description["model"]:
        raise LimnerError(
            f"{name} is not registered, so that its file could not be loaded; write "
            "@register(NAME, ...) above its class, with a name of its own"
        )
    for option, value in description["config"].items():
        if isinstance(value, dict) and value.keys() == {"model", "spec", "config"}:  # pyright: ignore
            _check_registered(value, f"the model given as {option}")  # pyright: ignore


def _raw_header(path: Path) -> dict[str, Any]:
    """Return the safetensors header; its size is checked before it is parsed."""
    message = f"{path} is not a safetensors file"
    if path.suffix == ".safetensors":
        message += ", or is cut short; make or copy it again"
    else:
        message += "; models are read from .safetensors files, such as those of limner train"
    try:
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8:
                raise LimnerError(message)
            (size,) = struct.unpack("<Q", start)
            if size > path.stat().st_size - 8:
                raise LimnerError(message)
            if size > MAX_HEADER_BYTES:
                raise LimnerError(
                    f"{path} has a header of {size:,} bytes; at most {MAX_HEADER_BYTES:,} are read"
                )
            content: object = json.loads(file.read(size))
    except FileNotFoundError:
        raise LimnerError(f"there is no file {path}") from None
    except OSError as error:
        raise LimnerError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise LimnerError(message) from None
    if not isinstance(content, dict):
        raise LimnerError(message)
    header = cast("dict[str, Any]", content)
    if len(header) > MAX_TENSORS:
        raise LimnerError(f"{path} names {len(header):,} tensors; at most {MAX_TENSORS:,} are read")
    return header


def load_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Load the tensors of a safetensors file, after checking its header."""
    _raw_header(path)
    try:
        return load_file(path, device=device)
    except (SafetensorError, OSError, ValueError) as error:
        raise LimnerError(f"{path} is damaged ({error}); make or copy it again") from None


def _read_weights(file: Path) -> dict[str, Tensor]:
    """Load the weights of a model file."""
    try:
        return unpack(load_tensors(file))
    except ValueError as error:
        raise LimnerError(f"{file} is damaged ({error}); make or copy it again") from None


def read_header(path: Path) -> Header:
    """Return the header of a model file, without reading the weights.

    Raises:
        LimnerError: there is no such file, limner did not write it, or a newer limner did.
    """
    if opener := _foreign(path):
        return opener.header(path.parent)
    metadata: object = _raw_header(path).get("__metadata__")
    if not isinstance(metadata, dict) or "limner" not in metadata:
        if path.parent.parent.name == "state":
            run = path.parents[2]
            raise LimnerError(f"{path.parent} is a state of the run {run}; give the run instead")
        raise LimnerError(f"{path} was not written by limner; `limner train` makes such files")
    text = cast("dict[str, str]", metadata)["limner"]
    try:
        values = json.loads(text)
        format_number, version = int(values["format"]), values["version"]
        if format_number > FORMAT:
            raise LimnerError(
                f"{path} was written by limner {version}, newer than this one "
                f"({limner.__version__}); type: pip install -U limner"
            )
        return Header.from_json(text)
    except (LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise LimnerError(
            f"the header of {path} is damaged ({first_line(error)}); copy it again"
        ) from None


def model_file(path: Path | str) -> Path:
    """Return the model file that a path means: the file itself, or the one in a run or model
    folder.

    For a folder of another program, it is the file that identifies the folder.
    """
    path = Path(path)
    if not path.is_dir() or (path / MODEL_FILE).is_file():
        return path / MODEL_FILE if path.is_dir() else path
    files = (path / name for name in foreign())
    return next((file for file in files if file.is_file()), path / MODEL_FILE)


@usual_defaults()
def load(path: Path | str, device: str = "cpu") -> Learner:
    """Load a model from its file, or from a run or model folder.

    The model is in evaluation mode.

    Raises:
        LimnerError: not a model file, a newer format, an unknown model, weights that do not fit it,
            or a device that this machine does not have.
    """
    target = find_device(device)
    file = model_file(path)
    header = read_header(file)
    advice = changed_package_hint(entry_of(header.model, file).model)
    try:
        model = build(header.model, header.spec, **header.config)
    except LimnerError as error:
        if _foreign(file):
            raise
        origin = f", by limner {header.version} (this is {limner.__version__})"
        origin = "" if header.version == limner.__version__ else origin
        raise LimnerError(f"{file}{origin}: {error}{advice}") from None
    except Exception as error:  # a constructor may raise anything for damaged options
        why = place_of_error(error) or first_line(error)
        raise LimnerError(
            f"the model '{header.model}' that {file} describes cannot be built ({why})"
        ) from None
    if _foreign(file) is None:
        load_weights(model, _read_weights(file) | _shared_tensors(header, file), file)
    return model.to(target).eval()


def usual_options(
    model: GenerativeModel, recipe: Mapping[str, Any], name: str | Path
) -> dict[str, Any]:
    """Return the options of the sampler with which a model was trained to paint.

    Args:
        model: a generative model.
        recipe: the recipe in its header.
        name: the name of its file, for the message.

    Raises:
        LimnerError: the model does not have one of the options, for example because the file is of
            a later version.
    """
    options: dict[str, Any] = recipe.get("sampler", {})
    try:
        model.sampler_options(options)
    except LimnerError as error:
        raise LimnerError(f"the recipe in {name}: {error}") from None
    return options


def _shared_sources(header: Header, file: Path) -> dict[str, tuple[Path, str]]:
    """Find, in the bundled models, the weights that a model file leaves out.

    Returns the start of their names in the model -> the bundled model's file, and the start of
    their names there.
    """
    bundled = {path.parent.name: path for path in _ZOO.glob(f"*/{MODEL_FILE}")}
    sources: dict[str, tuple[Path, str]] = {}
    for start, source in header.shared.items():
        name, _, prefix = str(source).partition(":")
        if name not in bundled:
            raise LimnerError(
                f"{file} shares weights with '{name}', which is not a bundled model; "
                "it may come from another version of limner"
            )
        sources[start] = bundled[name], prefix
    return sources


def _shared_tensors(header: Header, file: Path) -> dict[str, Tensor]:
    """Load the weights that a model file leaves out from the bundled models that have them."""
    tensors: dict[str, Tensor] = {}
    for start, (source, prefix) in _shared_sources(header, file).items():
        weights = _read_weights(source)
        tensors |= {start + k[len(prefix) :]: t for k, t in weights.items() if k.startswith(prefix)}
    return tensors


def current_name(name: str, own: Collection[str]) -> str:
    """Return the name that a weight of a file has in a model.

    Args:
        name: the name in the file, such as "network.enter.weight".
        own: the names of the model's weights, such as "network.conv_in.weight".

    Returns:
        the same name if the model has it, or if no current name of its layers fits.
    """
    if name in own:
        return name
    options = [(part, *RENAMED_PARTS.get(part, ())) for part in name.split(".")]
    candidates = (".".join(parts) for parts in itertools.product(*options))
    return next((candidate for candidate in candidates if candidate in own), name)


def with_current_names(weights: Mapping[str, Tensor], own: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of a file with the names of a model, and the buffers that older files
    lack.

    Args:
        weights: the weights of the file.
        own: the model's weights, by name.
    """
    current = {current_name(name, own): weight for name, weight in weights.items()}
    for name in own.keys() - current.keys():
        value = NEW_BUFFERS.get(name.rpartition(".")[2])
        if value is not None:
            current[name] = torch.full_like(own[name], value)
    return current


def load_weights(model: Learner, weights: Mapping[str, Tensor], source: Path) -> None:
    """Load weights into a model; it needs all of them and accepts no others."""
    state = model.state_dict()
    weights = with_current_names(weights, state)
    missing, extra = state.keys() - weights.keys(), weights.keys() - state.keys()
    shapes = [k for k in state.keys() & weights.keys() if state[k].shape != weights[k].shape]
    kinds = {"lacks": missing, "has the unknown": extra, "has a misshapen": shapes}
    for kind, names in kinds.items():
        if names:
            advice = (
                changed_package_hint(type(model)) or "; it may come from another version of limner"
            )
            raise LimnerError(
                f"{source} does not fit the model '{model.name}': it {kind} tensor "
                f"'{min(names)}' ({len(names)} such){advice}"
            )
    model.load_state_dict(weights)
