"""Start training from another model's weights: `train.init.model` and `train.init.text`."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from limner.contract.bundled import load
from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.model import Learner
from limner.contract.registry import build
from limner.nn.text import TextEncoder
from limner.runtime.progress import say
from limner.training.data_record import DataRecord

# Weights of a text encoder that do not encode tokens.
_NON_ENCODING_WEIGHTS = ("pool", "null", "seen")


def build_from(path: str, name: str, spec: ImageSpec, options: Mapping[str, Any]) -> Learner:
    """Build a model for new data with the weights of a trained one, where their shapes agree.

    Weights of other shapes (such as a table of other labels) stay random; a message says so.

    Args:
        path: a run, a model folder or file, or a bundled model's name.
        name: registered name of the model to train; must be that of the trained model.
        spec: specification of the new data.
        options: the model's own options; options not given are those of the trained model.

    Raises:
        LimnerError: the trained model has another name, or fewer than half of its weights fit.
    """
    trained = load_part("model", path)
    if trained.name != name:
        raise LimnerError(
            f"train.init.model={path} holds weights of {trained.name}, which cannot start {name}; "
            f"train {trained.name}, or leave train.init.model out"
        )
    model = build(name, spec, **trained.config | dict(options))
    state = model.state_dict()
    matches = {
        k: w for k, w in trained.state_dict().items() if k in state and state[k].shape == w.shape
    }
    if 2 * _size(matches) < _size(state):
        remedy = "leave the model.* options out to use those of the trained model"
        if not options:
            before, now = (DataRecord("", 0, "", each) for each in (trained.spec, spec))
            remedy = f"give data like its own, not other ones: {'; '.join(before.changes(now))}"
        raise LimnerError(
            f"fewer than half of the weights of train.init.model={path} fit this model; {remedy}"
        )
    model.load_state_dict(state | matches)
    new = [name for name in state if name not in matches]
    if new:
        names = ", ".join(new[:3]) + (", ..." if len(new) > 3 else "")
        say(f"{len(new)} of {len(state)} tensors are not taken from {path} but start anew: {names}")
    return model


def copy_text_encoder(path: str, model: Learner) -> None:
    """Copy the weights with which a trained model's text encoder reads tokens.

    The models may be of different kinds. The weights for the vector of a whole text are not copied.

    Args:
        path: a run, a model folder or file, or a bundled model's name.
        model: model to train, changed in place.

    Raises:
        LimnerError: one of the models does not have exactly one text encoder, or their sizes
            differ.
    """
    source = load_part("text", path)
    token_weights = _read_tokens(
        _text_encoder(source, f"train.init.text={path}", list(source.parameters()))
    )
    parameters = [p for part in model.players().values() for p in part.parameters()]
    encoder = _text_encoder(model, "the model to train", parameters)
    weights = encoder.state_dict()
    if {k: w.shape for k, w in token_weights.items()} != {
        k: w.shape for k, w in _read_tokens(encoder).items()
    }:
        length, dim = encoder.positions.shape
        raise LimnerError(
            f"the text encoder of {path} has another size; train a caption-reader with "
            f"model.words={dim} model.layers={len(encoder.layers)} on captions of {length} tokens"
        )
    encoder.load_state_dict(weights | token_weights)


def load_part(key: str, name: str) -> Learner:
    """Load a trained model that `train.init` names: a run's or a bundled one.

    Raises:
        LimnerError: there is no such model.
    """
    try:
        return load(name)
    except LimnerError as error:
        raise LimnerError(f"train.init.{key}: {error}") from None


def _read_tokens(encoder: TextEncoder) -> dict[str, Tensor]:
    """Return the weights that encode tokens."""
    state = encoder.state_dict()
    return {k: w for k, w in state.items() if k.split(".")[0] not in _NON_ENCODING_WEIGHTS}


def _text_encoder(model: Learner, description: str, parameters: list[nn.Parameter]) -> TextEncoder:
    """Return the only text encoder of a model that has some of these parameters."""
    ids = {id(p) for p in parameters}
    encoders = [encoder for encoder in model.modules() if isinstance(encoder, TextEncoder)]
    matches = [encoder for encoder in encoders if any(id(p) in ids for p in encoder.parameters())]
    if len(matches) != 1:
        problem = "no captions" if not matches else f"captions with {len(matches)} encoders"
        raise LimnerError(f"{description} reads {problem}; leave train.init.text out")
    return matches[0]


def _size(weights: Mapping[str, Tensor]) -> int:
    return sum(weight.numel() for weight in weights.values())
