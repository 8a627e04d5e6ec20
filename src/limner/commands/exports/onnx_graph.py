"""Parts of models as ONNX graphs, and the sampling loop of a denoiser as one unrolled graph."""

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from limner.contract.errors import LimnerError, install_command
from limner.diffusion.sampling_table import Row

try:
    import onnx
    import onnx.checker
    import onnx.helper as make
    import onnxruntime  # noqa: F401 (otherwise it would be missing after minutes of conversion)
    from onnx import TensorProto, numpy_helper

    from limner.commands.exports.onnx_functions import translations
except ModuleNotFoundError as error:
    raise LimnerError(f"ONNX files need {error.name}; type: {install_command('onnx')}") from None

WeightFormat = Literal["float32", "float16", "int8"]
"""Number format in which large weights are stored."""
OPSET = 20
_DOMAIN = "limner"
_MIN_HALF_SIZE = 1024  # weights with fewer numbers stay float32, since they save little space


def trace(part: nn.Module, inputs: Mapping[str, Tensor], output: str) -> onnx.ModelProto:
    """Trace a part of a model into a graph.

    Args:
        part: forward(*inputs) -> one tensor; in evaluation mode.
        inputs: name -> example; the graph has the shapes of the examples.
        output: name of the output.

    Raises:
        LimnerError: the part does something that a graph cannot, such as to stop when a number is
            small.
    """
    try:
        with _quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                part,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=[output],
                opset_version=OPSET,
                custom_translation_table=translations(),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # torch raises many kinds
        if type(error).__name__ == "ConversionError":
            raise LimnerError(
                "this model has an operation that ONNX lacks; export another model"
            ) from None
        raise LimnerError(
            "with these options the control flow of this model depends on numbers, which a graph "
            f"cannot express ({type(error).__name__}); leave sampler options out, if there are any"
        ) from None
    model = program.model_proto
    for node in model.graph.node:  # drop the source locations that torch records
        node.doc_string = ""
        del node.metadata_props[:]
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the log messages, output and warnings of torch's exporter."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        ignored = io.StringIO()
        with (
            contextlib.redirect_stdout(ignored),
            contextlib.redirect_stderr(ignored),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


class JoinedGraph:
    """One graph built from several graphs that it calls; each is stored once, as a function."""

    def __init__(self) -> None:
        self._nodes = list[Any]()
        self._functions = list[Any]()
        self._weights: dict[bytes, Any] = {}  # by content, so that equal weights are stored once
        self._kept: dict[str, list[str]] = {}
        self._inputs: dict[str, Any] = {}

    def add(self, name: str, part: onnx.ModelProto) -> None:
        """Add a graph as a function under a name."""
        function, weights = _function(name, part)
        self._functions.append(function)
        self._kept[name] = [
            self._weights.setdefault(_content(weight), weight).name for weight in weights
        ]

    def call(self, name: str, given: Sequence[str], output: str) -> str:
        """Call a function with named values, and return the name of its output."""
        inputs = [*given, *self._kept[name]]
        self._nodes.append(make.make_node(name, inputs, [output], domain=_DOMAIN))
        return output

    def input(self, name: str, like: Any) -> str:
        """Add an input with the type and shape of `like`, and return its name."""
        element = like.type.tensor_type.elem_type
        self._inputs[name] = make.make_tensor_value_info(name, element, _shape(like))
        return name

    def unroll(
        self,
        name: str,
        table: Sequence[Row],
        networks: Mapping[str, onnx.ModelProto],
        noises: Sequence[str],
        known: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """Unroll a sampling loop, which calls the denoiser in each step.

        Args:
            name: prefix for the names of this loop; must be unique.
            table: the table of the steps, see `limner.diffusion.sampling_table`.
            networks: "view", a graph (x, t, parts of a condition ...) -> the denoiser's estimate;
                and "finish", a graph (x) -> the picture of the last x.
            noises: names of the inputs with the first noise and with the further noise.
            known: part of the condition -> name of the value, for parts that are not inputs.

        Returns:
            the name of the picture.
        """
        view_name, picture_name = f"{name}View", f"{name}Picture"
        self.add(view_name, networks["view"])
        self.add(picture_name, networks["finish"])
        x_input, _, *part_inputs = networks["view"].graph.input
        element = x_input.type.tensor_type.elem_type
        for noise in noises:
            self.input(noise, x_input)
        parts = [known.get(value.name) or self.input(value.name, value) for value in part_inputs]
        vectors, count = [noises[0]], 0
        later_noises = noises[1:]
        for k, row in enumerate(table):
            vectors += later_noises[count : row.drawn]
            count = row.drawn
            terms: list[str] = []
            for j, (coefficient, vector) in enumerate(zip(row.sums, vectors, strict=True)):
                if coefficient:
                    scale = self._constant(f"{name}a_{k}_{j}", coefficient, element)
                    term = f"{name}term_{k}_{j}"
                    self._nodes.append(make.make_node("Mul", [vector, scale], [term]))
                    terms.append(term)
            x = f"{name}x_{k}"
            self._nodes.append(make.make_node("Sum", terms, [x]))
            if row.t is None:
                return self.call(picture_name, [x], f"{name}end")
            t = self._constant(f"{name}t_{k}", row.t, TensorProto.DOUBLE)
            vectors.append(self.call(view_name, [x, t, *parts], f"{name}view_{k}"))
        raise AssertionError("the last row of a table has no time")

    def _constant(self, name: str, value: float, element: int) -> str:
        tensor = make.make_tensor(name, element, [], [value])
        self._nodes.append(make.make_node("Constant", [], [name], value=tensor))
        return name

    def model(self, last: onnx.ModelProto, output: str) -> onnx.ModelProto:
        """Return the complete model.

        Args:
            last: the graph that computes the output.
            output: name of the value that becomes the output `picture`.
        """
        self._nodes.append(make.make_node("Identity", [output], ["picture"]))
        picture = onnx.ValueInfoProto()
        picture.CopyFrom(last.graph.output[0])
        picture.name = "picture"
        inputs = list(self._inputs.values())
        weights = list(self._weights.values())
        graph = make.make_graph(self._nodes, "limner", inputs, [picture], initializer=weights)
        imports = [make.make_opsetid("", OPSET), make.make_opsetid(_DOMAIN, 1)]
        version = last.ir_version
        return make.make_model(
            graph, functions=self._functions, opset_imports=imports, ir_version=version
        )


def _content(weight: Any) -> bytes:
    """Return a hash of a weight's numbers, type and shape."""
    values = numpy_helper.to_array(weight)
    return hashlib.sha256(f"{values.dtype} {values.shape}".encode() + values.tobytes()).digest()


def _shape(value: Any) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _function(name: str, part: onnx.ModelProto) -> tuple[Any, list[Any]]:
    """Convert a graph to a function, and return its weights, which become further inputs."""
    prefix = f"{name}."
    weights = list[Any]()
    new_names: dict[str, str] = {}
    for weight in part.graph.initializer:
        tensor = onnx.TensorProto()
        tensor.CopyFrom(weight)
        tensor.name = prefix + weight.name
        new_names[weight.name] = tensor.name
        weights.append(tensor)
    nodes = list[Any]()
    for node in part.graph.node:
        new_node = onnx.NodeProto()
        new_node.CopyFrom(node)
        new_node.input[:] = [new_names.get(item, item) for item in node.input]
        nodes.append(new_node)
    inputs = [item.name for item in part.graph.input] + [item.name for item in weights]
    outputs = [new_names.get(item.name, item.name) for item in part.graph.output]
    imports = [make.make_opsetid(item.domain, item.version) for item in part.opset_import]
    return make.make_function(_DOMAIN, name, inputs, outputs, nodes, imports), weights


def reduce_weights(model: onnx.ModelProto, store: WeightFormat) -> onnx.ModelProto:
    """Return a model with its large weights stored in fewer bits; it still computes in float32.

    Args:
        model: a model with float32 weights.
        store: Number format. float16 halves the file. int8 quarters it, with one scale for each row
            or column of a weight.
    """
    if store == "float32":
        return model
    small = onnx.ModelProto()
    small.CopyFrom(model)
    nodes, scales = list[Any](), list[Any]()
    for weight in small.graph.initializer:
        values = numpy_helper.to_array(weight)
        if weight.data_type != TensorProto.FLOAT or values.size < _MIN_HALF_SIZE:
            continue
        name, stored_name = weight.name, f"{weight.name}.{store}"
        if store == "float16" or values.ndim < 2:
            weight.CopyFrom(numpy_helper.from_array(values.astype("float16"), stored_name))
            nodes.append(make.make_node("Cast", [stored_name], [name], to=TensorProto.FLOAT))
            continue
        axis, integers, scale = _quantise(values)
        weight.CopyFrom(numpy_helper.from_array(integers, stored_name))
        scales.append(numpy_helper.from_array(scale, f"{name}.scale"))
        inputs = [stored_name, f"{name}.scale"]
        nodes.append(make.make_node("DequantizeLinear", inputs, [name], axis=axis))
    small.graph.initializer.extend(scales)
    old_nodes = list(small.graph.node)
    del small.graph.node[:]
    small.graph.node.extend([*nodes, *old_nodes])
    return small


def _quantise(values: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Quantise a weight to int8, along its first or second axis, whichever loses less.

    Returns:
        the axis, the whole numbers, and the scales.
    """
    candidates = list[tuple[float, int, np.ndarray, np.ndarray]]()
    for axis in (0, 1):
        other_axes = tuple(i for i in range(values.ndim) if i != axis)
        scale = np.abs(values).max(other_axes, keepdims=True) / 127
        scale = np.where(scale == 0, 1, scale).astype(np.float32)
        integers = np.clip(np.round(values / scale), -127, 127).astype(np.int8)
        loss = float(np.square(values - integers * scale).sum())
        candidates.append((loss, axis, integers, scale.reshape(-1)))
    _, axis, integers, scale = min(candidates, key=lambda candidate: candidate[0])
    return axis, integers, scale


def has_float64(model: onnx.ModelProto) -> bool:
    """Whether a graph computes anything in float64."""
    nodes = [*model.graph.node, *(node for each in model.functions for node in each.node)]
    attributes = [(a.name, a.i, a.t.data_type) for node in nodes for a in node.attribute]
    types = [each.type.tensor_type.elem_type for each in model.graph.input]
    types += [each.data_type for each in model.graph.initializer]
    types += [
        kind for name, to, tensor in attributes for kind in (to if name == "to" else 0, tensor)
    ]
    return TensorProto.DOUBLE in types


def file_content(model: onnx.ModelProto) -> bytes:
    """Check a model, and return it as the bytes of a file.

    Raises:
        LimnerError: it is larger than 2 GB, the limit of one file.
    """
    try:
        onnx.checker.check_model(model)
        return model.SerializeToString()
    except ValueError:
        raise LimnerError("an ONNX file is at most 2 GB; this model is larger") from None
