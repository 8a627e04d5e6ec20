"""Cases for the contract's checks: each model, small, on each kind of data that it takes."""

import contextlib
import copy
import inspect
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec, from_levels
from limner.contract.layout import layout_spec
from limner.contract.likelihood import Likelihood, LikelihoodModel
from limner.contract.model import GenerativeModel, Learner
from limner.contract.noise import Noise
from limner.contract.registry import ModelEntry, entry
from limner.contract.text import text_spec

_LABELS = {"labels": ("one", "two", "three"), "frequencies": (0.5, 0.3, 0.2)}
_DATA = {
    "grey": ImageSpec(1, 8, 8),
    "labelled": ImageSpec(3, 8, 8, **_LABELS),
    "captioned": ImageSpec(3, 8, 8, text=text_spec(5)),
    "translating": ImageSpec(3, 8, 8, hint=ImageSpec(1, 8, 8)),
}
_REDUCED_DATA = {  # for models that enlarge
    "reduced": ImageSpec(3, 8, 8, hint=ImageSpec(3, 4, 4)),
    "captioned": ImageSpec(3, 8, 8, text=text_spec(5), hint=ImageSpec(3, 4, 4)),
}
_LAYOUTS = {  # for detectors, and for readers of captions
    "layouts": ImageSpec(3, 8, 8, hint=layout_spec(("dog", "cat", "cup"), 4)),
    "read": ImageSpec(3, 8, 8, text=text_spec(5), hint=layout_spec(("dog", "cat", "cup"), 4)),
}
_SIZES = (8, 16, 32)
_LEVELS = (256, 2)
_QUICK_SAMPLING = {"steps": 3}  # sampling options for models that have them
_QUICK_LIKELIHOOD = {"tolerance": 1e-2}  # options of `log_prob` for models that have them
_PERTURBATION = 0.05
SEED = 11


@dataclass(frozen=True)
class Case:
    """A model class with a small configuration, on a small specification.

    Args:
        name: the name in messages.
        model: the class.
        spec: the specification of the images.
        config: its options; a nested learner is given as another case.
    """

    name: str
    model: type[Learner]
    spec: ImageSpec
    config: Mapping[str, Any]

    def __str__(self) -> str:
        return self.name

    def build(self) -> Learner:
        """Build the model with initial weights, which are the same each time."""
        options = {k: v.build() if isinstance(v, Case) else v for k, v in self.config.items()}
        with _seed_torch():
            return self.model(self.spec, **options)

    def build_with_defaults(self) -> Learner:
        """Build the model without options."""
        try:
            return self.model(self.spec)
        except LimnerError as error:
            raise AssertionError(f"it cannot be built with its defaults: {error}") from error

    def ready(self) -> Any:
        """Return the prepared model, with every weight perturbed, calibrated and in evaluation
        mode.

        Many networks end in a layer of zeros, which would hide mistakes before it. The model is
        made once; each call returns a copy.
        """
        return copy.deepcopy(self._ready)

    @cached_property
    def _ready(self) -> Learner:
        model = self.build()
        with _seed_torch(), torch.no_grad():
            model.train().prepare(self.batches())
            for i, p in enumerate(model.parameters()):
                noise = Noise.keyed(SEED, 0, [i]).normal(p.numel(), dtype=torch.float64)
                p += (_PERTURBATION * noise).view(p.shape).to(p.dtype)
            model.eval().calibrate(itertools.islice(self.batches(), 2))
        return model.eval()

    def oblong(self) -> "Case":
        """Return the case on pictures that are twice as wide."""
        hint, parts = self.spec.hint, self.config.items()
        wide = hint and hint.with_size(hint.height, 2 * hint.width)
        config = {k: v.oblong() if isinstance(v, Case) else v for k, v in parts}
        spec = replace(self.spec, width=2 * self.spec.width, hint=wide)
        return replace(self, spec=spec, config=config)

    def batches(self) -> Iterator[Batch]:
        """Yield random data without end."""
        return (toy_data(self.spec, first, 8) for first in itertools.count(0, 8))


@contextlib.contextmanager
def _seed_torch() -> Iterator[None]:
    """Seed torch's global generator within a `with`, and restore it after it."""
    generator = torch.default_generator  # torch.manual_seed formats a stack trace each time
    state = generator.get_state()
    generator.manual_seed(SEED)
    try:
        yield
    finally:
        generator.set_state(state)


def toy_data(spec: ImageSpec, first: int, n: int) -> Batch:
    """Return random images and conditions with the global numbers first .. first + n - 1."""
    noise = Noise.keyed(SEED, 1, range(first, first + n))
    x = from_levels(noise.integers(spec.levels, *spec.shape), spec.levels)
    return Batch(x, random_conditions(spec, noise))


def random_conditions(spec: ImageSpec, noise: Noise) -> Condition:
    """Return random labels, text and conditioning images, as far as the data have them."""
    label = noise.integers(len(spec.labels)) if spec.labels else None
    text = 1 + noise.integers(spec.text.vocabulary - 1, spec.text.length) if spec.text else None
    image = noise.uniform(*spec.hint.shape) * 2 - 1 if spec.hint else None
    return Condition(label, text, image)


def conditions_for(model: Learner, n: int) -> Condition:
    """Return n conditions that the model can be sampled with."""
    return random_conditions(model.spec, Noise.keyed(SEED, 2, range(n)))


def paint(model: GenerativeModel, n: int, c: Condition = Condition(), seed: int = 5) -> Images:
    """Return a sample, in few steps if the model takes steps."""
    try:
        return model.sample(n, c, seed=seed, **quick_options(model))
    except LimnerError as error:
        if model.dtype != torch.float64 or not isinstance(error.__cause__, RuntimeError):
            raise
        raise AssertionError(
            "autoregressive models are checked with weights of float64, and this one makes tensors "
            f"of another type ({error.__cause__}); give those that `frames` makes dtype=self.dtype"
        ) from error


def check_oblong(case: Case) -> None:
    """Check that a model can paint pictures that are not square, or refuses their specification.

    Raises:
        AssertionError: it can be built for them, but not paint them.
    """
    try:
        model = case.oblong().ready()
    except LimnerError:
        return
    try:
        paint(model, 2, conditions_for(model, 2))
    except (LimnerError, RuntimeError) as error:
        raise AssertionError(
            f"it is built for pictures of {model.spec.height} x {model.spec.width} (height x "
            f"width), and cannot paint them ({error}); raise a LimnerError in its constructor if "
            "it needs square ones"
        ) from error


def quick_options(model: GenerativeModel) -> dict[str, int]:
    """Return the sampling options that make a model fast."""
    options = model.sample_schema()["properties"]
    return {name: value for name, value in _QUICK_SAMPLING.items() if name in options}


def likelihood(model: LikelihoodModel, x: Images, c: Condition, noise: Noise) -> Likelihood:
    """Return log p(x), with options that make it fast."""
    parameters = inspect.signature(model.log_prob).parameters
    options = {name: value for name, value in _QUICK_LIKELIHOOD.items() if name in parameters}
    return model.log_prob(x, c, noise=noise, **options)


def cases(of: ModelEntry) -> list[Case]:
    """Return a registered model on each kind of data that it takes, at the smallest possible size.

    The configuration is the `tiny` of its registration, where {"model": NAME} means a nested
    model with its own tiny configuration on the same data, and {"model": NAME, "spec": {...}} one
    on data with these changes.
    """
    for data in (_DATA, _REDUCED_DATA, _LAYOUTS):
        matches: list[Case] = []
        for kind, spec in data.items():
            case, model = _smallest(of, kind, spec)
            if model is not None and (not matches or _uses(model.spec, spec)):
                matches.append(case)
        if matches:
            return matches
    return [case_of(of, "grey", _DATA["grey"])]


def _smallest(of: ModelEntry, kind: str, spec: ImageSpec) -> tuple[Case, Learner | None]:
    case = case_of(of, kind, spec)
    for size, levels in itertools.product(_SIZES, _LEVELS):
        side = spec.hint and size * spec.hint.height // spec.height
        hint = side and spec.hint and spec.hint.with_size(side, side)
        case = case_of(of, kind, replace(spec.with_size(size, size), levels=levels, hint=hint))
        try:
            return case, case.build()
        except LimnerError:
            continue
    return case, None


def case_of(of: ModelEntry, kind: str, spec: ImageSpec) -> Case:
    """Return a registered model, small, on data with a specification.

    Args:
        of: the model.
        kind: the kind of data, for the name of the case.
        spec: the specification of the data.
    """
    config = {
        key: case_of(entry(value["model"]), kind, replace(spec, **value.get("spec", {})))
        if isinstance(value, Mapping) and "model" in value
        else value
        for key, value in of.tiny.items()
    }
    return Case(f"{of.name}-{kind}", of.model, spec, config)


def _uses(model: ImageSpec, data: ImageSpec) -> bool:
    """Return whether the model uses the parts that distinguish these data."""
    parts = [(model.labels, data.labels), (model.text, data.text), (model.hint, data.hint)]
    return all(k == g for k, g in parts)
