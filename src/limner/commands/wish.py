"""What is asked for: a model, words, seeds and options, as a PNG file remembers them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

import limner
from limner.contract.abilities import Controlled
from limner.contract.bundled import find_model
from limner.contract.checkpoint import load, model_file, read_header, usual_options
from limner.contract.emoji_names import spell_emoji
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.contract.model import GenerativeModel
from limner.contract.noise import Blend
from limner.contract.options import Share, option_names, read_size, validated
from limner.contract.registry import entry_of
from limner.contract.text import prompted
from limner.contract.wildcards import choose_words, word_lists
from limner.data import png
from limner.runtime import processes
from limner.runtime.allocator import keep_freed_memory
from limner.runtime.progress import say

_LARGEST_SIDE = 4096  # of a picture that is painted
_STRENGTHS = ("control_strength", "control_weights")  # as --strength gives them
_PAINTED = ("paint", "reword")  # what is painted again from its words and seeds alone
_Text = Annotated[str, Field(max_length=100_000)]


@dataclass(frozen=True)
class Wish:
    """Everything that decides a sheet of pictures, as a PNG remembers it.

    Args:
        model: as it was named; None for the bundled default.
        prompts: what to paint; a row of the sheet for each.
        negative: what to keep away from, by guidance.
        labels: class names, or "all"; a row for each.
        n: pictures of each row.
        seed: picture i of a row is drawn from seed + i, so that rows can be compared.
        vary: for above 0, the pictures after a row's first are variations of it, this far away.
        sampler: the model's own options.
        controls: models that conditioning pictures steer, whose controls are put over the model.
        hints: files of the conditioning pictures, one for each control.
        size: "HEIGHTxWIDTH" or one number, for pictures of another size than the model's own.
        dtype: what the networks compute in. "bfloat16" is quicker where the machine has it, and
            float32 where it has not; it paints slightly other pictures, which may depend on what
            else is in the batch.
        changes: of the prompt's words, one after the other, see `limner.commands.reword`.
    """

    model: str | None = None
    prompts: tuple[_Text, ...] = ()
    negative: _Text = ""
    labels: tuple[str, ...] = ()
    n: Annotated[int, Field(ge=1, le=10_000)] = 1
    seed: Annotated[int, Field(ge=-(2**62), le=2**62)] = 0
    vary: Share = 0.0
    sampler: dict[str, Any] = field(default_factory=dict[str, Any])
    controls: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    size: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    changes: tuple[_Text, ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Wish":
        """A wish from plain values, checked; its words are chosen by the seed, emoji spelled."""
        wish = cls(**validated(cls, {"sampler": {}, **values}, kind="setting"))
        lists = word_lists()
        words = [spell_emoji(choose_words(each, wish.seed, lists)) for each in wish.prompts]
        avoid = spell_emoji(choose_words(wish.negative, wish.seed, lists))
        return replace(wish, prompts=tuple(words), negative=avoid)

    @classmethod
    def single(
        cls, model: str | None, prompt: str | None, label: str | None, **settings: Any
    ) -> "Wish":
        """A wish with one prompt or label, or none, for all pictures."""
        asked = {"prompts": [prompt] if prompt else [], "labels": [label] if label else []}
        return cls.of({"model": model, **asked, **settings})

    @classmethod
    def read(cls, path: Path | str) -> "Wish":
        """The wish that a picture of limner remembers.

        Raises:
            LimnerError: not a PNG file, one that does not say how it was made, or one that was made
                of other pictures, which it does not hold.
        """
        settings = png.read_settings(path)
        if settings is None:
            raise LimnerError(
                f"{path} does not say how it was made; limner writes PNG files that do"
            )
        task, inputs = settings.get("task", "paint"), settings.get("inputs")
        if task not in _PAINTED or (isinstance(inputs, dict) and "image" in inputs):
            raise LimnerError(
                f"limner {task} made {path}, which its settings alone do not paint again; give "
                "the picture that it was made of, or one of limner sample"
            )
        known = {name: settings[name] for name in cls.__dataclass_fields__ if name in settings}
        return cls.of(known)

    def condition(self, spec: ImageSpec, report: Callable[[str], None] = say) -> Condition:
        """One row for each row of the sheet; no parts when nothing is asked for.

        Args:
            spec: the model's.
            report: told, in a line each, what of the prompts is left out.
        """
        labels = spec.labels if "all" in self.labels and "all" not in spec.labels else self.labels
        indices = torch.tensor([spec.label_index(name) for name in labels], dtype=torch.int64)
        if not self.prompts and not self.negative:
            return Condition(label=indices) if len(indices) else Condition()
        asked = prompted(spec, self.prompts or ("",), report)
        if self.negative:
            against = prompted(spec, self.negative, report)
            avoid = against.text
            assert avoid is not None
            if against.weight is not None:
                report("how much words count is left out of a negative prompt")
            asked = replace(asked, avoid=avoid.expand(len(asked), -1))
        if not len(indices):
            return asked
        each = asked.repeat(len(indices))
        return replace(each, label=indices.repeat(len(asked)))

    def seeds(self) -> list[int | Blend]:
        """The seeds of one row."""
        numbers = range(self.seed, self.seed + self.n)
        if not self.vary:
            return list(numbers)
        return [self.seed, *(Blend(self.seed, other, self.vary) for other in numbers[1:])]

    def alone(self, i: int) -> "Wish":
        """The wish for picture i of the sheet alone; a variation needs its row."""
        row, column = divmod(i, self.n)
        prompts, labels = self.prompts, self.labels
        if len(prompts) > 1 and not labels:
            prompts = prompts[row : row + 1]
        if len(labels) > 1 and not prompts:
            labels = labels[row : row + 1]
        wish = replace(self, prompts=prompts, labels=labels)
        return wish if wish.vary else replace(wish, n=1, seed=wish.seed + column)

    def filled(self, sampler: Mapping[str, Any]) -> "Wish":
        """The wish with every option of the sampler written out that has a value."""
        return replace(self, sampler={k: v for k, v in sampler.items() if v is not None})

    def settings(self) -> dict[str, Any]:
        """What a PNG remembers; the prompt also where other programs look for it."""
        values = {key: value for key, value in asdict(self).items() if value not in ((), "", None)}
        return {"prompt": "; ".join(self.prompts), "version": limner.__version__} | values


def options_it_has(model: str, remembered: Mapping[str, Any]) -> dict[str, Any]:
    """Those options of another model's sampler that a model has, too; the others are told of."""
    file = model_file(find_model(model))
    of_model = entry_of(read_header(file).model, file).model
    known = option_names(getattr(of_model, "frames", of_model))
    if unknown := [name for name in remembered if name not in known]:
        say(f"{model} has no {', '.join(f'sampler.{name}' for name in unknown)}: left out")
    return {name: value for name, value in remembered.items() if name in known}


def load_painter(path: Path | str, device: str) -> GenerativeModel:
    """A model that is to paint.

    Raises:
        LimnerError: no such model, or one that does not paint.
    """
    model = load(path, device)
    if not isinstance(model, GenerativeModel):
        raise LimnerError(
            f"'{path}' paints nothing: its model is {model.name}; limner models lists generators"
        )
    return model


def sampler_options(model: GenerativeModel, path: Path | str, wish: Wish) -> dict[str, Any]:
    """The options of a model's sampler: those asked for over those of its recipe.

    Args:
        model: which.
        path: where it was loaded from.
        wish: what is asked for.

    Raises:
        LimnerError: an option that the model does not have, or a negative prompt without guidance.
    """
    known = model.sample_schema()["properties"]
    if any(name in wish.sampler and name not in known for name in _STRENGTHS):
        raise LimnerError(f"{model.name} models have no control; leave --strength out")
    file = model_file(path)
    usual = usual_options(model, read_header(file).recipe, file)
    options = model.sampler_options(usual | wish.sampler)
    if wish.negative and "scale" not in options:
        raise LimnerError(
            f"a negative prompt works through guidance, which {model.name} models do not have; "
            "leave --negative out"
        )
    if wish.negative and (options["scale"] or 1.0) <= 1:
        raise LimnerError(
            "a negative prompt works through guidance; give sampler.scale=3, and a model that is "
            "not distilled"
        )
    return options


def open_model(wish: Wish, device: str = "auto") -> tuple[GenerativeModel, dict[str, Any]]:
    """The model that is to paint, and the options of its sampler.

    Raises:
        LimnerError: as of `load_painter` and `sampler_options`.
    """
    keep_freed_memory()
    where = str(processes.device(device))
    controls = [_load_control(name, where) for name in wish.controls]
    path = find_model(wish.model or next(iter(wish.controls), None))
    base = load_painter(path, where) if wish.model or not controls else None
    model = with_controls(base, controls)
    if wish.size:
        model = at_size(model, wish.size)
    return model, sampler_options(model, path, wish)


def at_size(model: GenerativeModel, typed: str) -> GenerativeModel:
    """A model that is to paint in the size that was typed.

    Raises:
        LimnerError: it is none, or the model cannot.
    """
    try:
        size = read_size(typed)
    except ValueError:
        raise LimnerError(f"--size {typed}: give one number, or HEIGHTxWIDTH as in 48x80") from None
    if max(size) > _LARGEST_SIDE:
        raise LimnerError(f"--size {typed}: give sides up to {_LARGEST_SIDE}")
    try:
        return model.at_size(*size)
    except LimnerError as error:
        raise LimnerError(f"--size {typed}: {error}; else leave --size out") from None


def _load_control(name: str, device: str) -> Controlled:
    return as_control(name, load_painter(find_model(name), device))


def as_control(name: str, model: GenerativeModel) -> Controlled:
    """A model as one with controls.

    Raises:
        LimnerError: it has none.
    """
    if not isinstance(model, Controlled):
        raise LimnerError(
            f"'{name}' has no control: its model is {model.name}; limner train controlnet makes one"
        )
    return model


def with_controls(base: GenerativeModel | None, controls: Sequence[Controlled]) -> GenerativeModel:
    """A model with further controls; over the first one's own base, if none is given.

    Raises:
        LimnerError: they do not fit.
    """
    if not controls:
        assert base is not None, "there is something that paints"
        return base
    if isinstance(base, Controlled):
        return base.join(controls)
    return controls[0].join(controls[1:], base)
