"""The contract. A generative model is two iterators.

`turns(batch, step)` yields losses, one per turn of the training game; `frames(n, c)` yields
pictures, from first sketch to finished image. The loop, the metrics, the command line and the page
treat all models alike, whether they have one player or two, one step or a thousand.

A coroutine computes, hands over a value, and is resumed later: when `turns` is resumed after a
yield, the player named in that turn has been updated. So a GAN's generator loss, which needs the
updated critic, is written on the line after the critic's:

    yield Turn(critic_loss, of="critic")
    yield Turn(generator_loss, of="generator")

Three rules for `turns`: never yield inside a `with`; the order of turns may depend on `step`, never
on data; the batch must not be changed.
"""

import copy
import functools
import inspect
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limner.contract.attributes import check_attributes, check_players, check_spec, super_first
from limner.contract.errors import LimnerError
from limner.contract.evaluation_mode import evaluation_mode
from limner.contract.frames import check_end, check_frame, finish_frames
from limner.contract.image import Batch, Condition, Images, ImageSpec, check_images, one_for_each
from limner.contract.noise import Noise, Seeds, as_seeds
from limner.contract.number_types import one_line_types
from limner.contract.options import (
    json_schema,
    kinds_of,
    option_names,
    parameters_of,
    plain,
    shared_defaults,
    validate_options,
)

_L = TypeVar("_L", bound="Learner")
Part = Literal["labels", "text", "hint"]
_PARTS: dict[Part, str] = {
    "labels": "labels; leave them out: data.label=none, or of a folder data.labels=false",
    "text": "captions; leave them out: data.text=false, or of a folder data.captions=false",
    "hint": "conditioning images; leave data.hint out, or give a source without them",
}
_NOT_OPTIONS = ("n", "c", "noise", "preview", "given", "style_of")
SAMPLE_BATCH = 64


class Turn(NamedTuple):
    """One turn of a player in the training game.

    Args:
        loss: a scalar; the player's parameters take one optimiser step against its gradient.
        of: the player's name; None for the only player.
        logs: values to log, as scalar tensors. They are averaged over micro-batches and processes;
            NaN, as for no pictures, is left out of the average.
    """

    loss: Float[Tensor, ""]
    of: str | None = None
    logs: Mapping[str, Tensor] = {}


def is_nested(option: inspect.Parameter) -> bool:
    """Return whether an option of a constructor is itself a model."""
    kinds = kinds_of(option.annotation)
    return all(isinstance(kind, type) and issubclass(kind, Learner) for kind in kinds)


def _check_nested_model(init: Callable[..., None], name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse a missing model or a judge where a constructor needs a trained generator."""
    parameter = parameters_of(init).get(name)
    if parameter is None:  # an option that several models share
        return
    kinds = (*kinds_of(parameter.annotation), type(None))
    if is_nested(parameter) and not isinstance(arguments.get(name, parameter.default), kinds):
        raise LimnerError(
            f"model.{name} is a trained generator; give the run that it comes from: "
            f"train.init.{name}=runs/NAME"
        )


def _check_conditions(model: type["Learner"], spec: ImageSpec) -> None:
    """Refuse data with a condition that a model would ignore."""
    for part, advice in _PARTS.items():
        if getattr(spec, part) and part not in model.takes:
            raise LimnerError(f"{model.name or model.__name__} models take no {advice}")


def _record_config(init: Callable[..., None]) -> Callable[..., None]:
    """Make a constructor validate its arguments and store them as `config`."""

    @functools.wraps(init)
    def recording_init(self: "Learner", spec: ImageSpec, *args: Any, **kwargs: Any) -> None:
        if type(self).__init__ is not recording_init:  # a base class's, called by a subclass
            init(self, spec, *args, **(shared_defaults(init) | kwargs))
            return
        check_spec(spec, type(self).__name__)
        names = [name for name in option_names(init) if name not in ("self", "spec")]
        places = [name for name in parameters_of(init) if name in names]  # shared ones have none
        if len(args) > len(places):
            raise LimnerError(f"{type(self).__name__} takes {len(places)} options, not {len(args)}")
        arguments = dict(zip(places, args)) | kwargs
        for name in names:
            _check_nested_model(init, name, arguments)
        values = validate_options(
            init, arguments, kind="model option", prefix="model.", skip=("spec",)
        )
        nested = {k: v.description() for k, v in values.items() if isinstance(v, Learner)}
        options = {k: v for k, v in values.items() if k not in nested}
        _check_conditions(type(self), spec)
        object.__setattr__(self, "spec", spec)
        config = plain(init, options, ("spec", *nested)) | nested
        object.__setattr__(self, "config", config)
        with super_first(self):
            init(self, spec, **values)
        check_attributes(self, config)
        check_players(self.players(), self)

    return recording_init


class Learner(nn.Module, ABC):
    """A model that the training loop can train: a generator, a classifier, a judge, an encoder.

    The constructor takes an `ImageSpec` first. Its other arguments are plain values (or other
    learners); they are validated, and are the model's configuration.
    """

    config: dict[str, Any]
    spec: ImageSpec
    name: ClassVar[str] = ""
    """The registered name."""
    takes: ClassVar[tuple[Part, ...]] = ("labels", "text", "hint")
    """The conditions of the data that it learns; it cannot be built for data with another one."""
    couples_batch: bool = False
    """Whether one image's loss depends on the others' (batch norm, minibatch statistics)."""
    condition_dropout: float = 0.0
    """How often training hides an image's whole condition; the loop does this before `turns`."""
    loss_compares: bool = True
    """Whether losses of different steps can be compared: not if the model makes its own target."""
    batches_per_round: int = 1
    """The number of batches that `turns` gets as one: k + 1 for k of the critic and one more."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _record_config(cls.__init__)

    def formula(self) -> list[str]:
        """Return the mathematics in a few lines, for `repr`; if empty, `repr` lists the layers."""
        return []

    def __repr__(self) -> str:
        """Return the name, the image shape and the number of parameters, then the mathematics."""
        if not (lines := self.formula()):
            return super().__repr__()
        shape = " x ".join(map(str, self.spec.shape))
        size = sum(p.numel() for p in self.parameters())
        title = f"{self.name or type(self).__name__}: x of {shape}, {size:,} parameters"
        return "\n    ".join([title, *lines])

    @property
    def size_unit(self) -> int:
        """The number that picture sides are multiples of; 0 if only the size of `spec` is valid."""
        return 0

    def at_size(self: _L, height: int, width: int) -> _L:
        """Return the model for pictures of another size: a view that shares all weights.

        Args:
            height, width: the size of the pictures, in pixels.

        Raises:
            LimnerError: the model has one size only, or does not support this one.
        """
        if (height, width) == self.spec.shape[1:]:
            return self
        unit = self.size_unit
        if not unit:
            raise LimnerError(
                f"{self.name} models learn and paint pictures of one size; use a model that can "
                "change it, such as flow-matching, edm or latent-diffusion"
            )
        if height % unit or width % unit:
            nearest = "x".join(str(max(1, round(side / unit)) * unit) for side in (height, width))
            raise LimnerError(f"sides must be multiples of {unit}; try {nearest}")
        view = copy.copy(self)
        view.spec = replace(self.spec, height=height, width=width)
        return view

    @abstractmethod
    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield the losses of a step, one per turn; the player is updated before the next turn."""

    def players(self) -> dict[str, nn.Module]:
        """Return the parts that are trained, by name; parameters in no player are frozen."""
        return {"model": self}

    def prepare(self, batches: Iterator[Batch]) -> None:
        """Initialise from data, once, before step 0 (activation norms, a latent's scale)."""

    def calibrate(self, batches: Iterator[Batch]) -> None:
        """Re-estimate buffers of the averaged weights from data (batch-norm statistics)."""

    def memory(self) -> dict[str, Tensor]:
        """Return the non-persistent buffers that are needed to continue training, by name.

        No model file has them. By default they are those of nested learners that a player trains.
        """
        trained = {id(p) for part in self.players().values() for p in part.parameters()}
        buffers = dict[str, Tensor]()
        for name, part in cast("Iterator[tuple[str, nn.Module]]", self.named_modules()):
            if not isinstance(part, Learner) or part is self:
                continue
            if any(id(p) in trained for p in part.parameters()):
                buffers |= {f"{name}.{key}": buffer for key, buffer in part.memory().items()}
        return buffers

    def remarks(self, rows: Sequence[Mapping[str, float | None]]) -> list[str]:
        """Return messages for the user, given the log's rows so far; called after each row."""
        return []

    def train(self, mode: bool = True) -> "Learner":
        """Set training mode, except for nested learners that no player trains."""
        super().train(mode)
        if mode:
            trained = {id(p) for part in self.players().values() for p in part.parameters()}
            for part in self.modules():
                if isinstance(part, Learner) and part is not self:
                    part.train(any(id(p) in trained for p in part.parameters()))
        return self

    def description(self) -> dict[str, Any]:
        """Return what rebuilds this model without its weights: name, specification, configuration.

        The name is empty if the class itself is not registered, even if its base class is.
        """
        name = vars(type(self)).get("name", "")
        return {"model": name, "spec": self.spec.to_json(), "config": self.config}

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(iter(self.parameters()), torch.empty(0)).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the largest parameter, in which networks compute; not that of schedules."""
        return max(self.parameters(), key=Tensor.numel, default=torch.empty(0)).dtype

    def parameter_count(self) -> int:
        """Return the number of trained parameters."""
        parts = {id(p): p for part in self.players().values() for p in part.parameters()}
        return sum(p.numel() for p in parts.values())


class GenerativeModel(Learner):
    """A model that paints pictures.

    The arguments of `frames` beyond `n`, `c`, `noise` and `preview` are the model's own options
    (steps, guidance scale, temperature, ...): its signature is their schema.
    """

    condition: Literal["optional", "required"] = "optional"
    """required: without a condition, labels are drawn with the data's frequencies."""
    hint_command: ClassVar[str] = "give sample --hint FILE"
    """How its conditioning image is given on the command line."""
    at_once: int = SAMPLE_BATCH
    """The largest number of pictures that are painted together."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "frames" in cls.__dict__:
            cls.frames = finish_frames(cls.frames)

    @abstractmethod
    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        """Yield n pictures as they form; the last frame is the sample.

        Args:
            n: the number of pictures.
            c: their condition; n rows, or no parts.
            noise: n random streams; picture i depends only on stream i.
            preview: whether to yield intermediate frames; if not, only the last one is needed.
        """

    def watch(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        seed: Seeds = 0,
        preview: bool = True,
        **options: Any,
    ) -> Iterator[Images]:
        """Run `frames` in evaluation mode, after checking and filling in condition and options.

        Args:
            n: the number of pictures, at least 1.
            c: their condition; n rows, one row for all, or no parts.
            seed: picture i is drawn from stream seed + i, for any n; or a seed for each.
            preview: whether to yield intermediate frames.
            options: sampling options of the model, see the signature of `frames`.

        Raises:
            LimnerError: an unknown or wrong option, a condition that does not fit, or a result that
                is not n pictures of the model's size or is not finite.
        """
        return self.run_frames(self.frames, n, c, seed, preview, options)

    def run_frames(
        self,
        frames: Callable[..., Iterator[Images]],
        n: int,
        c: Condition,
        seed: Seeds,
        preview: bool,
        options: Mapping[str, Any],
    ) -> Iterator[Images]:
        """Do what `watch` does with another function, such as one that edits pictures.

        Args:
            frames: a function that takes and yields what the model's own `frames` does.
            n, c, seed, preview, options: as for `watch`.

        Raises:
            LimnerError: as `watch` does.
        """
        c = one_for_each(n, c)
        values = self.sampler_options(options)
        noise = Noise.sampling(seed, n, str(self.device))
        c = self.fill_condition(c.to(self.device), noise)
        frame, name = None, type(self).__name__
        with evaluation_mode(self), one_line_types(self.dtype):
            for following in frames(n, c, noise=noise, preview=preview, **values):
                check_frame(following, n, self.spec.channels, name, frame)
                yield (frame := following)
        check_end(frame, self.spec, values, self.dtype, name)

    def sample(
        self, n: int, c: Condition = Condition(), *, seed: Seeds = 0, **options: Any
    ) -> Images:
        """Return n pictures, "n c h w" in [-1, 1]; picture i of seed s is picture 0 of s + i."""
        c, seeds = one_for_each(n, c), as_seeds(seed, n)
        parts: list[Images] = []
        for first in range(0, n, self.at_once):
            rows = slice(first, min(first + self.at_once, n))
            part_seeds = seeds + first if isinstance(seeds, int) else seeds[rows]
            painting = self.run_frames(
                self.frames, rows.stop - first, c.rows(rows), part_seeds, False, options
            )
            parts.append(deque(painting, maxlen=1).pop())
        return torch.cat(parts)

    def frame_count(self, **options: Any) -> int:
        """Return the number of frames that `frames` yields with a preview, for a progress bar."""
        return 1

    def fill_condition(self, c: Condition, noise: Noise) -> Condition:
        """Check a condition, and return it with required labels drawn, one from each stream."""
        self.check_condition(c)
        spec = self.spec
        if self.condition == "required":
            if spec.hint is not None and c.image is None:
                advice = self.hint_command
                raise LimnerError(f"this model paints from a conditioning image; {advice}")
            if spec.labels and c.label is None:
                return replace(c, label=draw_labels(spec, noise))
        return c

    def check_condition(self, c: Condition) -> None:
        """Refuse conditions that the model cannot use.

        Raises:
            LimnerError: the model was trained without such a part, or with other values of it.
        """
        spec = self.spec
        for part, part_spec in (("label", spec.labels), ("text", spec.text), ("image", spec.hint)):
            if getattr(c, part) is not None and not part_spec:
                raise LimnerError(f"this model was trained without {part}s; leave the {part} out")
        if c.label is not None and int(c.label.max()) >= len(spec.labels):
            raise LimnerError(
                f"label {int(c.label.max())} is beyond the {len(spec.labels)} classes of this model"
            )
        if c.label is not None and int(c.label.min()) < -1:
            raise LimnerError(f"label {int(c.label.min())} is not a class; -1 means none")
        if c.image is not None and spec.hint:
            check_images(c.image)
            if c.image.shape[1] != spec.hint.channels:
                raise LimnerError(
                    f"the conditioning image has {c.image.shape[1]} channels, "
                    f"and this model was trained with {spec.hint.channels}"
                )
        if c.avoid is not None and c.text is None:
            raise LimnerError("avoid needs a text; give one, which may be empty")
        if c.weight is not None and (c.text is None or c.weight.shape != c.text.shape):
            raise LimnerError("weight must have a number for each token of text, in the same shape")
        if c.text is not None and spec.text:
            is_valid = (c.text >= 0) & (c.text < spec.text.vocabulary)
            if c.text.shape[1] > spec.text.length or not is_valid.all():
                raise LimnerError(
                    "these tokens belong to another model; "
                    "limner.text_condition(model.spec, prompts) makes fitting ones"
                )

    @classmethod
    def sampler_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the model's own sampling options, checked, with defaults filled in.

        Raises:
            LimnerError: an unknown or wrong option; the message names the nearest one.
        """
        return validate_options(cls.frames, options, kind="sampler option", skip=_NOT_OPTIONS)

    @classmethod
    def is_random(cls, config: Mapping[str, Any]) -> bool:
        """Return whether the seed changes what is painted, for the constructor's arguments."""
        return True

    @classmethod
    def has_ability(cls, ability: type, config: Mapping[str, Any]) -> bool:
        """Return whether it has an ability, such as `Edits`, for the constructor's arguments."""
        return issubclass(cls, ability)

    @classmethod
    def sample_schema(cls, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the JSON schema of the sampling options, for all configurations or for one."""
        return json_schema(cls.frames, skip=_NOT_OPTIONS)


def draw_labels(spec: ImageSpec, noise: Noise) -> Int[Tensor, "b"]:
    """Draw one class for each stream, with the data's frequencies."""
    shares = torch.tensor(spec.frequencies or [1.0] * len(spec.labels), dtype=torch.float64)
    edges = (shares.cumsum(0) / shares.sum()).to(noise.streams.device)
    labels = torch.searchsorted(edges, noise.uniform(dtype=torch.float64), right=True)
    return labels.clamp_(max=len(spec.labels) - 1)
