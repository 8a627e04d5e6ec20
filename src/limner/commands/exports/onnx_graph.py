"""Parts of models as ONNX graphs, and a walk of a denoiser as one graph of many calls of it."""

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

from limner.contract.errors import LimnerError, install
from limner.diffusion.unrolled import Look

try:
    import onnx
    import onnx.checker
    import onnx.helper as make
    from onnx import TensorProto, numpy_helper

    from limner.commands.exports.onnx_functions import translations
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
        LimnerError: it does something that a graph cannot, such as to stop when a number is small.
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
                "this model has a step that ONNX does not know; export another model"
            ) from None
        raise LimnerError(
            "what this model does with these options depends on numbers as it goes, and cannot be "
            f"written as a graph ({type(error).__name__}); leave options of the sampler "
            "out, if there are any"
        ) from None
    model = program.model_proto
    for node in model.graph.node:  # which line of which program made it
        node.doc_string = ""
        del node.metadata_props[:]
    return model


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


class Joined:
    """Graphs that call one another, as one graph; each of them is in it once."""

    def __init__(self) -> None:
        self._nodes = list[Any]()
        self._functions = list[Any]()
        self._weights: dict[bytes, Any] = {}  # by their content: what is equal is kept once
        self._kept: dict[str, list[str]] = {}
        self._inputs: dict[str, Any] = {}

    def add(self, name: str, part: onnx.ModelProto) -> None:
        """Know a graph by a name."""
        function, weights = _function(name, part)
        self._functions.append(function)
        self._kept[name] = [
            self._weights.setdefault(_content(weight), weight).name for weight in weights
        ]

    def call(self, name: str, given: Sequence[str], output: str) -> str:
        """The name of what a graph makes of something."""
        ins = [*given, *self._kept[name]]
        self._nodes.append(make.make_node(name, ins, [output], domain=_DOMAIN))
        return output

    def input(self, name: str, like: Any) -> str:
        """The name of an input of the whole, of the type and shape of one of a part's."""
        element = like.type.tensor_type.elem_type
        self._inputs[name] = make.make_tensor_value_info(name, element, _shape(like))
        return name

    def walk(
        self,
        name: str,
        looks: Sequence[Look],
        view: onnx.ModelProto,
        picture: onnx.ModelProto,
        noises: Sequence[str],
        known: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """The picture at the end of a walk, which calls the denoiser again and again.

        Args:
            name: of the walk, which no other one has.
            looks: the table of the walk, see `limner.diffusion.unrolled`.
            view: (x, t, parts of a condition ...) -> what the denoiser expects.
            picture: (x) -> the picture of where the walk ends.
            noises: names of the inputs with the first noise and with the further ones.
            known: parts of the condition that are no inputs, with the names of what they are.
        """
        viewing, painting = f"{name}View", f"{name}Picture"
        self.add(viewing, view)
        self.add(painting, picture)
        x_input, _, *others = view.graph.input
        element = x_input.type.tensor_type.elem_type
        for noise in noises:
            self.input(noise, x_input)
        parts = [known.get(each.name) or self.input(each.name, each) for each in others]
        vectors, drawn = [noises[0]], 0
        further = noises[1:]
        for k, look in enumerate(looks):
            vectors += further[drawn : look.drawn]
            drawn = look.drawn
            terms: list[str] = []
            for j, (number, vector) in enumerate(zip(look.sums, vectors, strict=True)):
                if number:
                    scale = self._constant(f"{name}a_{k}_{j}", number, element)
                    term = f"{name}term_{k}_{j}"
                    self._nodes.append(make.make_node("Mul", [vector, scale], [term]))
                    terms.append(term)
            x = f"{name}x_{k}"
            self._nodes.append(make.make_node("Sum", terms, [x]))
            if look.t is None:
                return self.call(painting, [x], f"{name}end")
            t = self._constant(f"{name}t_{k}", look.t, TensorProto.DOUBLE)
            vectors.append(self.call(viewing, [x, t, *parts], f"{name}view_{k}"))
        raise AssertionError("a walk ends in a picture")

    def _constant(self, name: str, value: float, element: int) -> str:
        tensor = make.make_tensor(name, element, [], [value])
        self._nodes.append(make.make_node("Constant", [], [name], value=tensor))
        return name

    def model(self, last: onnx.ModelProto, output: str) -> onnx.ModelProto:
        """The whole.

        Args:
            last: the graph that makes the output.
            output: the name of what that was called to make; it is called `picture` outside.
        """
        self._nodes.append(make.make_node("Identity", [output], ["picture"]))
        shown = onnx.ValueInfoProto()
        shown.CopyFrom(last.graph.output[0])
        shown.name = "picture"
        ins = list(self._inputs.values())
        weights = list(self._weights.values())
        graph = make.make_graph(self._nodes, "limner", ins, [shown], initializer=weights)
        imports = [make.make_opsetid("", OPSET), make.make_opsetid(_DOMAIN, 1)]
        version = last.ir_version
        return make.make_model(
            graph, functions=self._functions, opset_imports=imports, ir_version=version
        )


def _content(weight: Any) -> bytes:
    """A digest of a weight's numbers, their type and shape."""
    values = numpy_helper.to_array(weight)
    return hashlib.sha256(f"{values.dtype} {values.shape}".encode() + values.tobytes()).digest()


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


def has_float64(model: onnx.ModelProto) -> bool:
    """Whether some of a graph is computed in float64."""
    nodes = [*model.graph.node, *(node for each in model.functions for node in each.node)]
    told = [(a.name, a.i, a.t.data_type) for node in nodes for a in node.attribute]
    types = [each.type.tensor_type.elem_type for each in model.graph.input]
    types += [each.data_type for each in model.graph.initializer]
    types += [kind for name, to, tensor in told for kind in (to if name == "to" else 0, tensor)]
    return TensorProto.DOUBLE in types


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
