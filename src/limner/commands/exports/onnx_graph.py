"""Parts of models as ONNX graphs, and a walk of a denoiser as one graph of many calls of it."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from limner.contract.errors import LimnerError, install
from limner.diffusion.unrolled import Look

try:
    import onnx
    import onnx.checker
    import onnx.helper as make
    import onnxscript  # noqa: F401  # pyright: ignore  (torch writes with it)
    from onnx import TensorProto, numpy_helper
except ModuleNotFoundError as error:
    raise LimnerError(f"ONNX files need {error.name}; type: {install('onnx')}") from None

Stored = Literal["float32", "float16", "int8"]
"""How large weights are stored."""
OPSET = 20
_DOMAIN = "limner"
_LARGE = 1024  # numbers, from which on weights are worth fewer bits


def traced(part: nn.Module, inputs: Mapping[str, Tensor], output: str) -> onnx.ModelProto:
    """A part of a model as a graph.

    Args:
        part: forward(*inputs) -> one tensor; in evaluation mode.
        inputs: by their names: examples, whose shapes are the graph's.
        output: the name of what it gives.

    Raises:
        LimnerError: it does something that a graph cannot, such as to stop when a number is small,
            or to invert a matrix.
    """
    try:
        with _quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                part,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=[output],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # torch raises many kinds
        if type(error).__name__ == "ConversionError":
            raise LimnerError(
                "this model has a step that ONNX does not know, such as to invert a matrix; "
                "export another model"
            ) from None
        raise LimnerError(
            "what this model does with these options depends on numbers as it goes, and cannot be "
            f"written as a graph ({type(error).__name__}); leave sampler options out"
        ) from None
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of torch's own code about itself."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        unheard = io.StringIO()
        with (
            contextlib.redirect_stdout(unheard),
            contextlib.redirect_stderr(unheard),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def walk_graph(
    looks: Sequence[Look],
    view: onnx.ModelProto,
    picture: onnx.ModelProto,
    noises: Sequence[str],
) -> onnx.ModelProto:
    """A whole walk as a graph that calls the denoiser again and again.

    Args:
        looks: the table of the walk, see `limner.diffusion.unrolled`.
        view: (x, t, parts of a condition ...) -> what the denoiser expects.
        picture: (x) -> the picture of where the walk ends.
        noises: names of the inputs with the first noise and with the further ones.
    """
    own: list[Any] = []
    functions, weights, kinds = list[Any](), list[Any](), dict[str, list[str]]()
    for name, part in (("View", view), ("Picture", picture)):
        function, kept = _function(name, part)
        functions.append(function)
        weights += kept
        kinds[name] = [each.name for each in kept]
    x_input, _, *parts = view.graph.input
    shape = _shape(x_input)
    element = x_input.type.tensor_type.elem_type

    def constant(name: str, value: float, of: int = element) -> str:
        tensor = make.make_tensor(name, of, [], [value])
        own.append(make.make_node("Constant", [], [name], value=tensor))
        return name

    vectors, drawn = [noises[0]], 0
    further = noises[1:]
    for k, look in enumerate(looks):
        vectors += further[drawn : look.drawn]
        drawn = look.drawn
        terms: list[str] = []
        for j, (number, vector) in enumerate(zip(look.sums, vectors, strict=True)):
            if number:
                scale = constant(f"a_{k}_{j}", number)
                own.append(make.make_node("Mul", [vector, scale], [f"term_{k}_{j}"]))
                terms.append(f"term_{k}_{j}")
        own.append(make.make_node("Sum", terms, [f"x_{k}"]))
        if look.t is None:
            given = [f"x_{k}", *kinds["Picture"]]
            own.append(make.make_node("Picture", given, ["picture"], domain=_DOMAIN))
            break
        t = constant(f"t_{k}", look.t, TensorProto.DOUBLE)
        given = [f"x_{k}", t, *(part.name for part in parts), *kinds["View"]]
        own.append(make.make_node("View", given, [f"view_{k}"], domain=_DOMAIN))
        vectors.append(f"view_{k}")
    inputs = [make.make_tensor_value_info(name, element, shape) for name in noises]
    graph = make.make_graph(
        own, "limner", [*inputs, *parts], list(picture.graph.output), initializer=weights
    )
    imports = [make.make_opsetid("", OPSET), make.make_opsetid(_DOMAIN, 1)]
    return make.make_model(
        graph, functions=functions, opset_imports=imports, ir_version=view.ir_version
    )


def _shape(value: Any) -> list[int]:
    return [each.dim_value for each in value.type.tensor_type.shape.dim]


def _function(name: str, part: onnx.ModelProto) -> tuple[Any, list[Any]]:
    """A graph as a function, and the weights that are its further inputs."""
    start = f"{name}."
    weights = list[Any]()
    renamed: dict[str, str] = {}
    for weight in part.graph.initializer:
        kept = onnx.TensorProto()
        kept.CopyFrom(weight)
        kept.name = start + weight.name
        renamed[weight.name] = kept.name
        weights.append(kept)
    nodes = list[Any]()
    for node in part.graph.node:
        kept_node = onnx.NodeProto()
        kept_node.CopyFrom(node)
        kept_node.input[:] = [renamed.get(each, each) for each in node.input]
        nodes.append(kept_node)
    ins = [each.name for each in part.graph.input] + [each.name for each in weights]
    outs = [renamed.get(each.name, each.name) for each in part.graph.output]
    imports = [make.make_opsetid(each.domain, each.version) for each in part.opset_import]
    return make.make_function(_DOMAIN, name, ins, outs, nodes, imports), weights


def stored(model: onnx.ModelProto, how: Stored) -> onnx.ModelProto:
    """The same with large weights stored in fewer bits; what is computed stays float32.

    Args:
        model: with float32 weights.
        how: float16 halves the file; int8 quarters it: each row or column of a weight has a scale
            of its own.
    """
    if how == "float32":
        return model
    small = onnx.ModelProto()
    small.CopyFrom(model)
    nodes, scales = list[Any](), list[Any]()
    for weight in small.graph.initializer:
        values = numpy_helper.to_array(weight)
        if weight.data_type != TensorProto.FLOAT or values.size < _LARGE:
            continue
        name, kept = weight.name, f"{weight.name}.{how}"
        if how == "float16" or values.ndim < 2:
            weight.CopyFrom(numpy_helper.from_array(values.astype("float16"), kept))
            nodes.append(make.make_node("Cast", [kept], [name], to=TensorProto.FLOAT))
            continue
        axis, whole, scale = _quantised(values)
        weight.CopyFrom(numpy_helper.from_array(whole, kept))
        scales.append(numpy_helper.from_array(scale, f"{name}.scale"))
        given = [kept, f"{name}.scale"]
        nodes.append(make.make_node("DequantizeLinear", given, [name], axis=axis))
    small.graph.initializer.extend(scales)
    own = list(small.graph.node)
    del small.graph.node[:]
    small.graph.node.extend([*nodes, *own])
    return small


def _quantised(values: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Along which of the first two axes a weight is cut into rows, the whole numbers, and scales:
    the axis that loses less."""
    found = list[tuple[float, int, np.ndarray, np.ndarray]]()
    for axis in (0, 1):
        others = tuple(i for i in range(values.ndim) if i != axis)
        scale = np.abs(values).max(others, keepdims=True) / 127
        scale = np.where(scale == 0, 1, scale).astype(np.float32)
        whole = np.clip(np.round(values / scale), -127, 127).astype(np.int8)
        lost = float(np.square(values - whole * scale).sum())
        found.append((lost, axis, whole, scale.reshape(-1)))
    _, axis, whole, scale = min(found, key=lambda each: each[0])
    return axis, whole, scale


def checked(model: onnx.ModelProto) -> bytes:
    """The bytes of a file.

    Raises:
        LimnerError: it is larger than 2 GB, which is the most that one file can be.
    """
    try:
        onnx.checker.check_model(model)
        return model.SerializeToString()
    except ValueError:
        raise LimnerError("an ONNX file is at most 2 GB; this model is larger") from None
