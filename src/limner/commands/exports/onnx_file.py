"""What `limner export --format onnx` does: all of a painting as one graph.

    inputs    noise, noise_1, ...   the random numbers that painting draws, each with its law
              label, text, image    what the picture should be of, as far as the model is told
    output    picture               "n c h w" in [-1, 1]

A model that paints pixel by pixel is a loop; of it the network is written, whose input is a picture
and whose output `theta` says the law of each pixel given those before it.
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import limner
from limner.autoregressive.autoregressive_model import AutoregressiveModel
from limner.commands.exports.onnx_graph import OPSET, Stored, checked, stored, traced, walk_graph
from limner.contract.abilities import Controlled
from limner.contract.checkpoint import write_durably
from limner.contract.editing import Follows
from limner.contract.errors import LimnerError
from limner.contract.given_noise import Draw, GivenNoise, RecordingNoise
from limner.contract.image import Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise
from limner.diffusion.sampling import Repaints
from limner.diffusion.unrolled import Look, unrolled

_CLOSE: dict[Stored, float] = {"float32": 1e-4, "float16": 0.02, "int8": 0.1}
"""How far a graph may be from the model: root of the mean squared difference, of [-1, 1]."""


class Exported(NamedTuple):
    """A model as a graph.

    Args:
        graph: an `onnx.ModelProto`.
        inputs: examples, by their names.
        expected: what the model makes of them.
        output: what that is called.
        draws: the laws of the inputs that are random numbers.
        walk: of a model that denoises.
        networks: the graphs that the walk calls, `view` and `finish`.
    """

    graph: Any
    inputs: dict[str, Tensor]
    expected: Tensor
    output: str
    draws: dict[str, Draw]
    walk: "Walk | None" = None
    networks: Mapping[str, Any] = MappingProxyType({})


def example(spec: ImageSpec, n: int) -> Condition:
    """A condition with every part that a model knows."""
    label = torch.zeros(n, dtype=torch.int64) if spec.labels else None
    text = None
    if spec.text:
        text = torch.zeros(n, spec.text.length, dtype=torch.int64)
        text[:, 0] = 1 + torch.arange(n) % (spec.text.vocabulary - 1)
    image = None
    if spec.hint:
        image = Noise.sampling(0, n).uniform(*spec.hint.shape) * 2 - 1
    return Condition(label, text, image)


def parts_of(c: Condition) -> dict[str, Tensor]:
    """The parts that a condition has, by name."""
    named = {"label": c.label, "text": c.text, "image": c.image}
    return {name: part for name, part in named.items() if part is not None}


def exported(model: GenerativeModel, options: Mapping[str, Any], n: int) -> Exported:
    """A model as a graph.

    Args:
        model: in evaluation mode.
        options: of its sampler, checked.
        n: how many pictures it paints at once.

    Raises:
        LimnerError: no graph can say what it does.
    """
    c = example(model.spec, n)
    if isinstance(model, AutoregressiveModel):
        return _network(model, c, n)
    if isinstance(model, Controlled | Follows):
        raise LimnerError(f"{model.name} models encode their picture first; export the base")
    if isinstance(model, Repaints):
        return _walk(model, c, options, n)
    return _whole(model, c, options, n)


class Whole(nn.Module):
    """forward(*draws, *parts of a condition) -> the last frame."""

    def __init__(
        self, model: GenerativeModel, draws: int, parts: Sequence[str], options: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.model, self.draws = model, draws
        self.parts, self.options = tuple(parts), dict(options)

    def forward(self, *inputs: Tensor) -> Images:
        """The pictures."""
        given, rest = inputs[: self.draws], inputs[self.draws :]
        c = Condition(**dict(zip(self.parts, rest, strict=True)))
        n = len(inputs[0])
        noise = GivenNoise(given, n)
        frames = self.model.frames(n, c, noise=noise, preview=False, **self.options)
        return deque(frames, maxlen=1).pop()


def _whole(model: GenerativeModel, c: Condition, options: Mapping[str, Any], n: int) -> Exported:
    """All that `frames` do, as one graph."""
    noise = RecordingNoise(Noise.sampling(0, n))
    with torch.no_grad():
        frames = model.frames(n, c, noise=noise, preview=False, **options)
        expected = deque(frames, maxlen=1).pop()
    draws = {f"noise_{i}" if i else "noise": draw for i, (draw, _) in enumerate(noise.made)}
    inputs = {name: drawn for name, (_, drawn) in zip(draws, noise.made)}
    parts = parts_of(c)
    whole = Whole(model, len(draws), list(parts), options).eval()
    inputs |= parts
    return Exported(traced(whole, inputs, "picture"), inputs, expected, "picture", draws)


class View(nn.Module):
    """forward(x, t, *parts of a condition) -> the guided, clipped view of a denoiser."""

    def __init__(self, model: GenerativeModel, D: Any, parts: Sequence[str]) -> None:
        super().__init__()
        self.model, self.D, self.parts = model, D, tuple(parts)

    def forward(self, x: Tensor, t: Tensor, *rest: Tensor) -> Tensor:
        """The expected picture."""
        return self.D(x, t, Condition(**dict(zip(self.parts, rest, strict=True)))).x_hat


class Finish(nn.Module):
    """forward(x) -> the picture of where a walk ends."""

    def __init__(self, model: Repaints) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Images:
        """The picture."""
        return self.model.to_image(x).float().clamp(-1, 1)


class Walk(NamedTuple):
    """A denoiser's walk, in parts.

    Args:
        looks: its table.
        view, finish: the two networks.
        first: the noise that it begins with, of an example.
        deviation: of that noise.
        t: an example of a time.
    """

    looks: list[Look]
    view: View
    finish: Finish
    first: Tensor
    deviation: float
    t: Tensor


def walk_of(model: Repaints, c: Condition, options: Mapping[str, Any], n: int) -> Walk:
    """The parts of a walk.

    Raises:
        LimnerError: it has no table.
    """
    plan = model.plan(**options)
    first = model.first(Noise.sampling(0, n))
    unit = model.first(GivenNoise([torch.ones_like(first)], n))
    with torch.no_grad():
        variance = plan.D(first, plan.times[0], c).variance
    looks = unrolled(plan, variance)
    view = View(model, plan.D, list(parts_of(c))).eval()
    deviation = float(unit.flatten()[0])
    return Walk(looks, view, Finish(model).eval(), first, deviation, plan.times[0])


def _walk(model: Repaints, c: Condition, options: Mapping[str, Any], n: int) -> Exported:
    """A table of sums, and the denoiser, called again and again."""
    walk = walk_of(model, c, options, n)
    parts = parts_of(c)
    networks = {
        "view": traced(walk.view, {"x": walk.first, "t": walk.t, **parts}, "expected"),
        "finish": traced(walk.finish, {"x": walk.first}, "picture"),
    }
    count = 1 + walk.looks[-1].drawn
    names = [f"noise_{i}" if i else "noise" for i in range(count)]
    noise = RecordingNoise(Noise.sampling(0, n))
    with torch.no_grad():
        frames = model.frames(n, c, noise=noise, preview=False, **options)
        expected = deque(frames, maxlen=1).pop()
    draws = [replaced for replaced, _ in noise.made]
    if len(draws) != count:
        raise LimnerError(f"the walk of {model.name} models is not a table of sums")
    looks = [_scaled(look, walk.deviation) for look in walk.looks]
    inputs = dict(zip(names, (drawn for _, drawn in noise.made))) | parts
    graph = walk_graph(looks, networks["view"], networks["finish"], names)
    laws = dict(zip(names, draws))
    return Exported(graph, inputs, expected, "picture", laws, walk, networks)


def _scaled(look: Look, deviation: float) -> Look:
    """The same with the first vector of deviation 1."""
    first, *rest = look.sums
    return look._replace(sums=(deviation * first, *rest))


class Theta(nn.Module):
    """forward(x, *parts of a condition) -> the law of each pixel, "n h w p"."""

    def __init__(self, model: AutoregressiveModel, parts: Sequence[str]) -> None:
        super().__init__()
        self.model, self.parts = model, tuple(parts)

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        """What the network says."""
        c = Condition(**dict(zip(self.parts, rest, strict=True)))
        return self.model.theta(x, c)


def _network(model: AutoregressiveModel, c: Condition, n: int) -> Exported:
    x = Noise.sampling(0, n).uniform(*model.spec.shape) * 2 - 1
    parts = parts_of(c)
    theta, inputs = Theta(model, list(parts)).eval(), {"x": x, **parts}
    with torch.no_grad():
        expected = theta(*inputs.values())
    return Exported(traced(theta, inputs, "theta"), inputs, expected, "theta", {})


def write_onnx(
    model: GenerativeModel, options: Mapping[str, Any], file: Path, *, n: int, store: Stored
) -> float:
    """Write a model as an ONNX file, and run that.

    Args:
        model: in evaluation mode.
        options: of its sampler, checked.
        file: a new one.
        n: how many pictures it paints at once.
        store: how large weights are stored.

    Returns:
        the largest difference between what the file and the model paint, of pictures in [-1, 1].

    Raises:
        LimnerError: no graph can say what it does, it paints something else, or the file cannot
            be written.
    """
    if file.exists():
        raise LimnerError(f"{file} exists; name a new file")
    made = exported(model, options, n)
    graph = stored(made.graph, store)
    _describe(graph, model, options, made.draws)
    content = checked(graph)
    apart = difference(content, made, store)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(file, content)
    except OSError as error:
        raise LimnerError(f"cannot write {file}: {error.strerror or error}") from None
    return apart


def _describe(
    graph: Any, model: GenerativeModel, options: Mapping[str, Any], draws: Mapping[str, Draw]
) -> None:
    """Say in the file what it is, as JSON under `limner`."""
    laws = {name: {"law": draw.law, "shape": list(draw.shape)} for name, draw in draws.items()}
    told = {
        "version": limner.__version__,
        "model": model.name,
        "opset": OPSET,
        "spec": model.spec.to_json(),
        "sampler": {k: v for k, v in options.items() if v is not None},
        "noise": laws,
    }
    entry = graph.metadata_props.add()
    entry.key, entry.value = "limner", json.dumps(told)


def difference(content: bytes, made: Exported, store: Stored) -> float:
    """The largest difference between what a file makes of the example and what the model makes.

    Raises:
        LimnerError: they differ by more than rounding.
    """
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    given = {name: x.numpy() for name, x in made.inputs.items()}
    known = {each.name for each in session.get_inputs()}
    (found,) = session.run([made.output], {k: v for k, v in given.items() if k in known})
    apart = found - made.expected.numpy()
    if not np.sqrt(np.square(apart).mean()) <= _CLOSE[store]:
        raise LimnerError(
            f"the graph differs from the model by {np.abs(apart).max():.2g}, and is not written; "
            + ("please report it" if store == "float32" else "give --store float32")
        )
    return float(np.abs(apart).max())
