"""What `limner export --format onnx` does: all of a painting as one graph.

    inputs    noise, noise_1, ...   the random numbers that painting draws, each with its law
              label, text, image    what the picture should be of, as far as the model is told
    output    picture               "n c h w" in [-1, 1]

A model that paints pixel by pixel is a loop; of it the network is written, whose input is a picture
and whose output `theta` says the law of each pixel given those before it.
"""

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import limner
from limner.autoregressive.autoregressive_model import AutoregressiveModel
from limner.commands.exports.onnx_graph import OPSET, Joined, Stored, checked, stored, traced
from limner.contract.abilities import Controlled
from limner.contract.checkpoint import write_durably
from limner.contract.editing import Follows
from limner.contract.errors import LimnerError
from limner.contract.given_noise import Draw, GivenNoise, RecordingNoise
from limner.contract.image import Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise
from limner.diffusion.best_of_n import BestOfN
from limner.diffusion.cascade import Cascade
from limner.diffusion.frozen_base import ExtendsBase
from limner.diffusion.sampling import Plan, Repaints
from limner.diffusion.unrolled import Look, unrolled
from limner.maths.fixed_transforms import without_inversions

_CLOSE: dict[Stored, float] = {"float32": 1e-4, "float16": 0.02, "int8": 0.1}
"""How far a graph may be from the model: root of the mean squared difference, of [-1, 1]."""


_UNSURE = "few steps enlarge rounding: give more sampler.steps, or please report it"


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
    if isinstance(model, Cascade):
        return _cascade(model, c, options, n)
    if isinstance(model, ExtendsBase):
        return _extended(model, c, options, n)
    if isinstance(model, Controlled | Follows):
        raise LimnerError(f"{model.name} models encode their picture first; export the base")
    if isinstance(model, BestOfN):
        raise LimnerError(f"{model.name} models look at what they painted; export the base")
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
    draws, inputs, expected = _recorded(model, c, options, n)
    parts = parts_of(c)
    whole = Whole(without_inversions(model), len(draws), list(parts), options).eval()
    inputs |= parts
    return Exported(traced(whole, inputs, "picture"), inputs, expected, "picture", draws)


class View(nn.Module):
    """forward(x, t, *parts of a condition) -> the guided, clipped view of a denoiser."""

    def __init__(self, model: GenerativeModel, D: Any, c: Condition) -> None:
        super().__init__()
        self.model, self.D, self.present = model, D, c.present
        self.parts = tuple(parts_of(c))

    def forward(self, x: Tensor, t: Tensor, *rest: Tensor) -> Tensor:
        """The expected picture."""
        parts: dict[str, Any] = dict(zip(self.parts, rest, strict=True))
        return self.D(x, t, Condition(**parts, present=self.present)).x_hat


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

    @property
    def scaled(self) -> list[Look]:
        """Its table where the first noise has deviation 1."""
        firsts = [look.sums[0] * self.deviation for look in self.looks]
        return [
            look._replace(sums=(first, *look.sums[1:])) for look, first in zip(self.looks, firsts)
        ]

    @property
    def draws(self) -> int:
        """How often it draws noise."""
        return 1 + self.looks[-1].drawn


def walk_of(model: Repaints, plan: Plan, c: Condition, n: int) -> Walk:
    """The parts of a walk.

    Args:
        model: begins the walk, and makes a picture of its end.
        plan: of the walk.
        c: what the denoiser is told.
        n: how many pictures.

    Raises:
        LimnerError: it has no table.
    """
    first = model.first(Noise.sampling(0, n))
    unit = model.first(GivenNoise([torch.ones_like(first)], n))
    with torch.no_grad():
        variance = plan.D(first, plan.times[0], c).variance
    view = View(model, plan.D, c).eval()
    deviation = float(unit.flatten()[0])
    looks = unrolled(plan, variance)
    return Walk(looks, view, Finish(model).eval(), first, deviation, plan.times[0])


def _networks(walk: Walk, c: Condition) -> dict[str, Any]:
    """The two networks of a walk as graphs."""
    return {
        "view": traced(walk.view, {"x": walk.first, "t": walk.t, **parts_of(c)}, "expected"),
        "finish": traced(walk.finish, {"x": walk.first}, "picture"),
    }


def _recorded(
    model: GenerativeModel, c: Condition, options: Mapping[str, Any], n: int
) -> tuple[dict[str, Draw], dict[str, Tensor], Tensor]:
    """What painting draws, by the names of the inputs: laws and an example; and its picture."""
    noise = RecordingNoise(Noise.sampling(0, n))
    with torch.no_grad():
        frames = model.frames(n, c, noise=noise, preview=False, **options)
        expected = deque(frames, maxlen=1).pop()
    names = [f"noise_{i}" if i else "noise" for i in range(len(noise.made))]
    laws = {name: draw for name, (draw, _) in zip(names, noise.made)}
    return laws, {name: drawn for name, (_, drawn) in zip(names, noise.made)}, expected


def _split(names: Iterable[str], counts: Sequence[int], model: GenerativeModel) -> list[list[str]]:
    """The names of noise, so many for each stage.

    Raises:
        LimnerError: painting draws more or less than that.
    """
    left = list(names)
    if len(left) != sum(counts):
        raise LimnerError(
            f"{model.name} models draw more noise than that of a walk; export another model"
        )
    ends = list(accumulate(counts))
    return [left[end - count : end] for end, count in zip(ends, counts)]


def _walk(model: Repaints, c: Condition, options: Mapping[str, Any], n: int) -> Exported:
    """A table of sums, and the denoiser, called again and again."""
    walk = walk_of(model, model.plan(**options), c, n)
    networks = _networks(walk, c)
    laws, drawn, expected = _recorded(model, c, options, n)
    [names] = _split(laws, [walk.draws], model)
    graph = Joined()
    picture = graph.walk("", walk.scaled, networks["view"], networks["finish"], names)
    whole = graph.model(networks["finish"], picture)
    return Exported(whole, drawn | parts_of(c), expected, "picture", laws, walk, networks)


class Seen(nn.Module):
    """forward(image) -> the image as the network of an extended base is told it."""

    def __init__(self, model: ExtendsBase) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Images) -> Tensor:
        """The features of the hint, or the picture where the denoiser works."""
        seen = self.model.told(Condition(image=image), len(image)).image
        assert seen is not None
        return seen


def _extended(model: ExtendsBase, c: Condition, options: Mapping[str, Any], n: int) -> Exported:
    """The picture that it is told, encoded once, and the walk of a denoiser that sees that."""
    plan, seen = model.told_plan(c, n, **options)
    if seen.image is None or c.image is None:
        raise LimnerError("the hint counts for nothing with these options; export the base")
    walk = walk_of(model.base, plan, seen, n)
    networks = _networks(walk, seen)
    encoding = traced(Seen(model).eval(), {"image": c.image}, "seen")
    laws, drawn, expected = _recorded(model, c, options, n)
    [names] = _split(laws, [walk.draws], model)
    graph = Joined()
    graph.add("Seen", encoding)
    told = graph.call("Seen", [graph.input("image", encoding.graph.input[0])], "seen")
    picture = graph.walk(
        "", walk.scaled, networks["view"], networks["finish"], names, {"image": told}
    )
    whole = graph.model(networks["finish"], picture)
    return Exported(whole, drawn | parts_of(c), expected, "picture", laws)


class Augmented(nn.Module):
    """forward(z, noise) -> the base's picture as the upsampler of a cascade is told it."""

    def __init__(self, model: Cascade, level: float) -> None:
        super().__init__()
        self.model, self.level = model, level

    def forward(self, z: Images, noise: Tensor) -> Tensor:
        """The picture under noise, and how much of that there is."""
        n = len(z)
        c = self.model.hinted(Condition(), z, torch.full((n,), self.level), GivenNoise([noise], n))
        assert c.image is not None
        return c.image


def _cascade(model: Cascade, c: Condition, options: Mapping[str, Any], n: int) -> Exported:
    """The walk of the base, and that of the upsampler, which is told where the first ends."""
    base, upsampler = model.base, model.upsampler
    if not isinstance(base, Repaints) or not isinstance(upsampler, Repaints):
        odd = upsampler if isinstance(base, Repaints) else base
        raise LimnerError(
            f"a stage of this cascade, {odd.name}, takes no steps, and both must; export the base"
        )
    given, further, level = model.stage_options(**options)
    z = Noise.sampling(0, n).normal(*base.spec.shape)
    noise, between = torch.zeros_like(z), Augmented(model, level).eval()
    seen = replace(c, image=between(z, noise))
    small = walk_of(base, base.plan(**given), c, n)
    large = walk_of(upsampler, upsampler.plan(**further), seen, n)
    laws, drawn, expected = _recorded(model, c, options, n)
    of_base, middle, of_upsampler = _split(laws, [small.draws, 1, large.draws], model)
    joining = traced(between, {"z": z, "noise": noise}, "seen")
    of_small, of_large = _networks(small, c), _networks(large, seen)
    graph = Joined()
    graph.add("Augmented", joining)
    picture = graph.walk("Base", small.scaled, of_small["view"], of_small["finish"], of_base)
    [name] = middle
    told = graph.call("Augmented", [picture, graph.input(name, joining.graph.input[1])], "seen")
    picture = graph.walk(
        "", large.scaled, of_large["view"], of_large["finish"], of_upsampler, {"image": told}
    )
    whole = graph.model(of_large["finish"], picture)
    return Exported(whole, drawn | parts_of(c), expected, "picture", laws)


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
        LimnerError: they differ by more than rounding, or ONNX Runtime cannot run the file.
    """
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session: Any = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    except Exception as error:  # it has a class of its own for each reason
        why = str(error).strip().splitlines()[0]
        raise LimnerError(f"ONNX Runtime cannot run this model ({why}); export another") from None
    given = {name: x.numpy() for name, x in made.inputs.items()}
    known = {each.name for each in session.get_inputs()}
    (found,) = session.run([made.output], {k: v for k, v in given.items() if k in known})
    apart = found - made.expected.numpy()
    if not np.sqrt(np.square(apart).mean()) <= _CLOSE[store]:
        raise LimnerError(
            f"the graph differs from the model by {np.abs(apart).max():.2g}, and is not written; "
            + (_UNSURE if store == "float32" else "give --store float32")
        )
    return float(np.abs(apart).max())
