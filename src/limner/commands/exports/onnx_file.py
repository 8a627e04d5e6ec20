"""Implementation of `limner export --format onnx`: the whole sampling process as one graph.

    inputs    noise, noise_1, ...   the random numbers that sampling draws, each with its law
              label, text, image    the parts of the condition that the model has
    output    picture               "n c h w" in [-1, 1]

An autoregressive model samples in a loop, so only its network is written. The input is a picture;
the output `theta` has the parameters of each pixel's distribution given the pixels before it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import limner
from limner.autoregressive.autoregressive_model import AutoregressiveModel
from limner.commands.exports.onnx_graph import (
    OPSET,
    JoinedGraph,
    WeightFormat,
    file_content,
    reduce_weights,
    trace,
)
from limner.commands.exports.onnx_networks import (
    Cleaning,
    EncodedInput,
    Finish,
    GuidedDenoiser,
    NoisyInput,
    Theta,
    Whole,
    parts_of,
)
from limner.contract.abilities import Controlled
from limner.contract.atomic_files import write_durably
from limner.contract.editing import Follows
from limner.contract.errors import LimnerError, writing
from limner.contract.frames import check_end, check_frame
from limner.contract.image import Condition, ImageSpec
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise
from limner.contract.noise_inputs import Draw, GivenNoise, RecordingNoise
from limner.diffusion.best_of_n import BestOfN
from limner.diffusion.cascade import Cascade
from limner.diffusion.denoising_model import DenoisingModel
from limner.diffusion.frozen_base import ExtendsBase
from limner.diffusion.sampling import Plan, Repaints
from limner.diffusion.sampling_table import Row, sampling_table
from limner.maths.fixed_transforms import without_inversions
from limner.runtime.progress import say

_Options = Mapping[str, Any]
_TOLERANCE: dict[WeightFormat, float] = {"float32": 1e-4, "float16": 0.02, "int8": 0.1}
"""Largest root mean square difference between graph and model, for pictures in [-1, 1]."""
_INACCURATE_HINT = "few steps amplify rounding errors: give more sampler.steps, or please report it"


class ExportedModel(NamedTuple):
    """A model as a graph, with an example.

    Args:
        graph: an `onnx.ModelProto`.
        inputs: name -> example input.
        expected: output of the model for the example.
        output: name of the output.
        draws: name -> law of the inputs that are random numbers.
        loop: the sampling loop of a denoising model; None for other models.
        networks: the graphs that the loop calls, `view` and `finish`.
    """

    graph: Any
    inputs: dict[str, Tensor]
    expected: Tensor
    output: str
    draws: dict[str, Draw]
    loop: "SamplingLoop | None" = None
    networks: Mapping[str, Any] = MappingProxyType({})


def example(spec: ImageSpec, n: int) -> Condition:
    """Return an example of a condition with every part that a model knows."""
    label = torch.zeros(n, dtype=torch.int64) if spec.labels else None
    text = None
    if spec.text:
        text = torch.zeros(n, spec.text.length, dtype=torch.int64)
        text[:, 0] = 1 + torch.arange(n) % (spec.text.vocabulary - 1)
    image = None
    if spec.hint:
        image = Noise.sampling(0, n).uniform(*spec.hint.shape) * 2 - 1
    return Condition(label, text, image)


def convert(model: GenerativeModel, options: _Options, n: int) -> ExportedModel:
    """Convert a model to a graph.

    Args:
        model: model in evaluation mode.
        options: checked sampler options.
        n: batch size.

    Raises:
        LimnerError: the model cannot be written as a graph.
    """
    c = example(model.spec, n)
    if isinstance(model, AutoregressiveModel):
        return _convert_network(model, c, n)
    if isinstance(model, Cascade):
        return _convert_cascade(model, c, options, n)
    if isinstance(model, ExtendsBase):
        return _convert_extended(model, c, options, n)
    if isinstance(model, Controlled | Follows):
        raise LimnerError(f"{model.name} models encode an input picture first; export the base")
    if isinstance(model, BestOfN):
        raise LimnerError(f"{model.name} models rank what they painted; export the base")
    if isinstance(model, Repaints):
        return _convert_denoiser(model, c, options, n)
    return _convert_all(model, c, options, n)


def _convert_all(model: GenerativeModel, c: Condition, options: _Options, n: int) -> ExportedModel:
    """Write all of `frames` as one graph."""
    draws, inputs, expected = _record_sampling(model, c, options, n)
    _announce()
    parts = parts_of(c)
    module = Whole(without_inversions(model), len(draws), list(parts), options).eval()
    inputs |= parts
    return ExportedModel(trace(module, inputs, "picture"), inputs, expected, "picture", draws)


class SamplingLoop(NamedTuple):
    """The parts of a denoiser's sampling loop.

    Args:
        table: the table of its steps.
        view, finish: the two networks.
        first: an example of the initial noise.
        deviation: standard deviation of the initial noise.
        t: an example of a time.
    """

    table: list[Row]
    view: GuidedDenoiser
    finish: Finish
    first: Tensor
    deviation: float
    t: Tensor

    @property
    def scaled(self) -> list[Row]:
        """The table for an initial noise of standard deviation 1."""
        firsts = [row.sums[0] * self.deviation for row in self.table]
        return [row._replace(sums=(first, *row.sums[1:])) for row, first in zip(self.table, firsts)]

    @property
    def draws(self) -> int:
        """How many times the loop draws noise."""
        return 1 + self.table[-1].drawn


def sampling_loop(model: Repaints, plan: Plan, c: Condition, n: int) -> SamplingLoop:
    """Return the parts of a sampling loop.

    Args:
        model: the model, which draws the initial noise and converts the last x to a picture.
        plan: times, sampler and denoiser of the loop.
        c: condition of the denoiser.
        n: batch size.

    Raises:
        LimnerError: the loop cannot be written as a table.
    """
    first = model.first(Noise.sampling(0, n))
    unit = model.first(GivenNoise([torch.ones_like(first)], n))
    with torch.no_grad():
        variance = plan.D(first, plan.times[0], c).variance
    view = GuidedDenoiser(model, plan.D, c).eval()
    deviation = float(unit.flatten()[0])
    table = sampling_table(plan, variance)
    return SamplingLoop(table, view, Finish(model).eval(), first, deviation, plan.times[0])


def _networks(loop: SamplingLoop, c: Condition) -> dict[str, Any]:
    """Trace the two networks of a sampling loop."""
    return {
        "view": trace(loop.view, {"x": loop.first, "t": loop.t, **parts_of(c)}, "expected"),
        "finish": trace(loop.finish, {"x": loop.first}, "picture"),
    }


def _record_sampling(
    model: GenerativeModel, c: Condition, options: _Options, n: int
) -> tuple[dict[str, Draw], dict[str, Tensor], Tensor]:
    """Sample once, and return by input name the laws and values of its noise, and the picture.

    Raises:
        LimnerError: the pictures are of another number or size, or not finite.
    """
    noise, name, expected = RecordingNoise(Noise.sampling(0, n)), type(model).__name__, None
    with torch.no_grad():
        for expected in model.frames(n, c, noise=noise, preview=False, **options):
            check_frame(expected, n, model.spec.channels, name)
    check_end(expected, model.spec, options, model.dtype, name)
    assert expected is not None, "check_end refuses it"
    names = [f"noise_{i}" if i else "noise" for i in range(len(noise.records))]
    laws = {name: draw for name, (draw, _) in zip(names, noise.records)}
    return laws, {name: value for name, (_, value) in zip(names, noise.records)}, expected


def _announce() -> None:
    """Tell that the slow part begins, after all checks that do not need the graph."""
    say("converting the networks; this can take some minutes")


def _split(names: Iterable[str], counts: Sequence[int], model: GenerativeModel) -> list[list[str]]:
    """Split the names of the noise inputs into one list per stage, by their number of draws.

    Raises:
        LimnerError: sampling draws more or fewer.
    """
    inputs = list(names)
    if len(inputs) != sum(counts):
        raise LimnerError(
            f"{model.name} models draw more noise than their steps do; export another model"
        )
    ends = list(accumulate(counts))
    return [inputs[end - count : end] for end, count in zip(ends, counts)]


def _convert_denoiser(model: Repaints, c: Condition, options: _Options, n: int) -> ExportedModel:
    """Write a denoising model: a table of sums, and calls of the denoiser."""
    loop = sampling_loop(model, model.plan(**options), c, n)
    laws, noises, expected = _record_sampling(model, c, options, n)
    [names] = _split(laws, [loop.draws], model)
    _announce()
    networks = _networks(loop, c)
    graph = JoinedGraph()
    picture = graph.unroll("", loop.scaled, networks, names)
    proto = graph.model(networks["finish"], picture)
    return ExportedModel(proto, noises | parts_of(c), expected, "picture", laws, loop, networks)


def _convert_extended(model: ExtendsBase, c: Condition, options: _Options, n: int) -> ExportedModel:
    """Write an extended base: encode its input picture once, then run the sampling loop."""
    plan, base_c = model.base_plan(c, n, **options)
    if base_c.image is None or c.image is None:
        raise LimnerError("with these options the hint has no effect; export the base")
    loop = sampling_loop(model.base, plan, base_c, n)
    laws, noises, expected = _record_sampling(model, c, options, n)
    [names] = _split(laws, [loop.draws], model)
    _announce()
    networks = _networks(loop, base_c)
    encoding = trace(EncodedInput(model).eval(), {"image": c.image}, "seen")
    graph = JoinedGraph()
    graph.add("Seen", encoding)
    hint = graph.call("Seen", [graph.input("image", encoding.graph.input[0])], "seen")
    picture = graph.unroll("", loop.scaled, networks, names, {"image": hint})
    proto = graph.model(networks["finish"], picture)
    return ExportedModel(proto, noises | parts_of(c), expected, "picture", laws)


def _convert_cascade(model: Cascade, c: Condition, options: _Options, n: int) -> ExportedModel:
    """Write a cascade: the sampling loop of the base, then the loop of the upsampler."""
    base, upsampler = model.base, model.upsampler
    if not isinstance(base, Repaints) or not isinstance(upsampler, Repaints):
        stage = upsampler if isinstance(base, Repaints) else base
        raise LimnerError(
            f"a stage of this cascade, {stage.name}, takes no steps, but both must; export the base"
        )
    base_options, upsampler_options, level = model.stage_options(**options)
    z = Noise.sampling(0, n).normal(*base.spec.shape)
    noise, augmented = torch.zeros_like(z), NoisyInput(model, level).eval()
    upsampler_c = replace(c, image=augmented(z, noise))
    small = sampling_loop(base, base.plan(**base_options), c, n)
    large = sampling_loop(upsampler, upsampler.plan(**upsampler_options), upsampler_c, n)
    laws, noises, expected = _record_sampling(model, c, options, n)
    first, middle, last = _split(laws, [small.draws, 1, large.draws], model)
    _announce()
    network = trace(augmented, {"z": z, "noise": noise}, "seen")
    small_nets, large_nets = _networks(small, c), _networks(large, upsampler_c)
    graph = JoinedGraph()
    graph.add("Augmented", network)
    picture = graph.unroll("Base", small.scaled, small_nets, first)
    [name] = middle
    hint = graph.call("Augmented", [picture, graph.input(name, network.graph.input[1])], "seen")
    picture = graph.unroll("", large.scaled, large_nets, last, {"image": hint})
    if (passes := options.get("clean")) and isinstance(upsampler, DenoisingModel):
        cleaning = Cleaning(upsampler, upsampler_c, passes).eval()
        network = trace(cleaning, {"x": expected, **parts_of(upsampler_c)}, "cleaned")
        graph.add("Cleaned", network)
        parts = [hint if value.name == "image" else value.name for value in network.graph.input[1:]]
        picture = graph.call("Cleaned", [picture, *parts], "cleaned")
    proto = graph.model(large_nets["finish"], picture)
    return ExportedModel(proto, noises | parts_of(c), expected, "picture", laws)


def _convert_network(model: AutoregressiveModel, c: Condition, n: int) -> ExportedModel:
    x = Noise.sampling(0, n).uniform(*model.spec.shape) * 2 - 1
    parts = parts_of(c)
    theta, inputs = Theta(model, list(parts)).eval(), {"x": x, **parts}
    with torch.no_grad():
        expected = theta(*inputs.values())
    _announce()
    return ExportedModel(trace(theta, inputs, "theta"), inputs, expected, "theta", {})


def write_onnx(
    model: GenerativeModel, options: _Options, file: Path, *, n: int, store: WeightFormat
) -> float:
    """Write a model as an ONNX file, after a check that ONNX Runtime gives the same result.

    Args:
        model: model in evaluation mode.
        options: checked sampler options.
        file: a new file.
        n: batch size.
        store: number format in which large weights are stored.

    Returns:
        the largest difference between the results of file and model, for pictures in [-1, 1].

    Raises:
        LimnerError: the model cannot be written as a graph, the results differ, or the file cannot
            be written.
    """
    if file.exists():
        raise LimnerError(f"{file} exists; name a new file")
    export = convert(model, options, n)
    graph = reduce_weights(export.graph, store)
    _describe(graph, model, options, export.draws)
    content = file_content(graph)
    largest = difference(content, export, store)
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(file, content)
    return largest


def _describe(
    graph: Any, model: GenerativeModel, options: _Options, draws: Mapping[str, Draw]
) -> None:
    """Describe the file in its metadata, as JSON under the key `limner`."""
    laws = {name: {"law": draw.law, "shape": list(draw.shape)} for name, draw in draws.items()}
    description = {
        "version": limner.__version__,
        "model": model.name,
        "opset": OPSET,
        "spec": model.spec.to_json(),
        "sampler": {k: v for k, v in options.items() if v is not None},
        "noise": laws,
    }
    entry = graph.metadata_props.add()
    entry.key, entry.value = "limner", json.dumps(description)


def difference(content: bytes, export: ExportedModel, store: WeightFormat) -> float:
    """Return the largest difference between the results of file and model for the example.

    Raises:
        LimnerError: they differ by more than rounding, are not finite, or ONNX Runtime fails.
    """
    if not export.expected.isfinite().all():
        raise LimnerError("the pictures are not finite; leave options out, or export another model")
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session: Any = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a separate exception class for each reason
        cause = str(error).strip().splitlines()[0]
        raise LimnerError(f"ONNX Runtime cannot run this model ({cause}); export another") from None
    inputs = {name: x.numpy() for name, x in export.inputs.items()}
    names = {value.name for value in session.get_inputs()}
    (output,) = session.run([export.output], {k: v for k, v in inputs.items() if k in names})
    delta = output - export.expected.numpy()
    if not np.sqrt(np.square(delta).mean()) <= _TOLERANCE[store]:
        raise LimnerError(
            f"the graph differs from the model by {np.abs(delta).max():.2g} and was not written; "
            + (_INACCURATE_HINT if store == "float32" else "give --store float32")
        )
    return float(np.abs(delta).max())
