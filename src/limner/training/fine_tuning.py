"""Begin training where another model ended: `train.init.model` and `train.init.text`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from limner.contract.bundled import bundled
from limner.contract.checkpoint import load, model_file, read_header
from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.model import Learner
from limner.contract.registry import build
from limner.nn.text import TextEncoder
from limner.runtime.progress import say

_NOT_READING = ("pool", "null", "seen")  # what else a text encoder keeps


def build_from(path: str, name: str, spec: ImageSpec, options: Mapping[str, Any]) -> Learner:
    """A model for new data with the weights of a trained one, where their shapes agree.

    Weights of other shapes (a table of other labels, say) stay random, and a line says so.

    Args:
        path: a run, a model folder or file, or a bundled model's name.
        name: the registered name of the model to train, which must be the trained one's.
        spec: of the new data.
        options: the model's own options; those not given are the trained model's.

    Raises:
        LimnerError: the trained model is another one, or fewer than half of its weights fit.
    """
    file = model_file(bundled().get(path, Path(path)))
    header = read_header(file)
    if header.model != name:
        raise LimnerError(
            f"train.init.model={path} is of {header.model} and cannot start {name}; "
            f"train {header.model}, or leave train.init.model out"
        )
    model = build(name, spec, **header.config | dict(options))
    trained, own = load(file).state_dict(), model.state_dict()
    known = {k: w for k, w in trained.items() if k in own and own[k].shape == w.shape}
    if 2 * _size(known) < _size(own):
        raise LimnerError(
            f"fewer than half of the weights of train.init.model={path} fit this model; leave the "
            "model.* options out, they are then those of the trained model"
        )
    model.load_state_dict(own | known)
    new = [name for name in own if name not in known]
    if new:
        shown = ", ".join(new[:3]) + (", ..." if len(new) > 3 else "")
        say(f"{len(new)} of {len(own)} tensors do not come from {path} but start anew: {shown}")
    return model


def copy_text_encoder(path: str, model: Learner) -> None:
    """Let a model read captions as a trained one does, whatever either is for.

    Args:
        path: a run, a model folder or file, or a bundled model's name.
        model: what is to be trained, in place.

    Raises:
        LimnerError: one of them reads no captions, or their encoders are of other sizes.
    """
    taught = _text_encoder(load(model_file(bundled().get(path, Path(path)))))
    own = _text_encoder(model)
    if taught is None or own is None:
        which = f"train.init.text={path}" if taught is None else "the model to train"
        raise LimnerError(f"{which} reads no captions; leave train.init.text out")
    read = {k: w for k, w in taught.state_dict().items() if k.split(".")[0] not in _NOT_READING}
    known = own.state_dict()
    if any(name not in known or known[name].shape != w.shape for name, w in read.items()):
        raise LimnerError(
            f"the text encoder of {path} has {_size_in_words(taught)}, that of the model to train "
            f"{_size_in_words(own)}; train one of the same size"
        )
    own.load_state_dict(known | read)


def _size_in_words(encoder: TextEncoder) -> str:
    length, dim = encoder.positions.shape
    return f"{len(encoder.layers)} layers of {dim} for {length} tokens"


def _text_encoder(model: Learner) -> TextEncoder | None:
    return next((each for each in model.modules() if isinstance(each, TextEncoder)), None)


def _size(weights: Mapping[str, Tensor]) -> int:
    return sum(weight.numel() for weight in weights.values())
