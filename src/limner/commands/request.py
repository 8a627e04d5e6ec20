"""A request: model, words, seeds and options of a sheet, as stored in a PNG file."""

from collections.abc import Callable, Collection, Mapping, Sequence
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
from limner.contract.options import RunName, Share, read_size, validate_options
from limner.contract.registry import entry_of
from limner.contract.text import text_condition
from limner.contract.wildcards import choose_words, word_lists
from limner.data import png
from limner.runtime import processes
from limner.runtime.allocator import keep_freed_memory
from limner.runtime.progress import say

_MAX_SIDE = 4096  # pixels of a side of a painted picture
_CONTROLS = {  # the options of controls, with what a person types for them
    "control_strength": "--strength",
    "control_weights": "--strength",
    "control_interval": "sampler.control_interval",
}
_PAINTING_TASKS = ("paint", "reword")  # tasks that need only words and seeds to repeat
_Text = Annotated[str, Field(max_length=100_000)]
_Seed = Annotated[int, Field(ge=-(2**62), le=2**62)]


@dataclass(frozen=True)
class SamplingRequest:
    """All settings that determine a sheet of pictures, as stored in a PNG.

    Args:
        model: name of the model, as it was typed; None for the bundled default.
        prompts: the prompts; a row of the sheet for each.
        negative: negative prompt, which acts through guidance.
        labels: class names, or "all"; a row for each.
        n: number of pictures in each row.
        seed: picture i of a row is drawn from seed + i, so that rows can be compared.
        prompt_seeds: a seed for each prompt, in place of the common one.
        vary: if above 0, the later pictures of a row are variations of its first, at this distance.
        sampler: sampler options of the model.
        controls: models with conditioning pictures; their controls are added to the model.
        hints: files of the conditioning pictures, one for each control.
        size: "HEIGHTxWIDTH" or one number, for pictures of another size than the model's own.
        dtype: number format in which the networks compute. "bfloat16" is faster if the machine has
            it, and means float32 if not. It gives slightly different pictures, which may depend on
            the rest of the batch.
        changes: changes of the prompt's words, in order, see `limner.commands.sheets.reword`.
    """

    model: RunName | None = None
    prompts: tuple[_Text, ...] = ()
    negative: _Text = ""
    labels: tuple[str, ...] = ()
    n: Annotated[int, Field(ge=1, le=10_000)] = 1
    seed: _Seed = 0
    prompt_seeds: tuple[_Seed, ...] = ()
    vary: Share = 0.0
    sampler: dict[str, Any] = field(default_factory=dict[str, Any])
    controls: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    size: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    changes: tuple[_Text, ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "SamplingRequest":
        """Check plain values and make a request; the seed chooses words, and emoji become words."""
        request = cls(**validate_options(cls, {"sampler": {}, **values}, kind="setting"))
        if len(request.prompt_seeds) not in (0, len(request.prompts)):
            raise LimnerError(
                f"there are {len(request.prompt_seeds)} prompt seeds for {len(request.prompts)} "
                "prompts; give one for each prompt, or none"
            )
        lists = word_lists()
        prompts = [
            spell_emoji(choose_words(prompt, request.seed, lists)) for prompt in request.prompts
        ]
        negative = spell_emoji(choose_words(request.negative, request.seed, lists))
        return replace(request, prompts=tuple(prompts), negative=negative)

    @classmethod
    def single(
        cls, model: str | None, prompt: str | None, label: str | None, **settings: Any
    ) -> "SamplingRequest":
        """Make a request with at most one prompt and one label, for all pictures."""
        condition = {"prompts": [prompt] if prompt else [], "labels": [label] if label else []}
        return cls.of({"model": model, **condition, **settings})

    @classmethod
    def read(cls, path: Path | str) -> "SamplingRequest":
        """Read the request stored in a picture painted by limner.

        Raises:
            LimnerError: the file is not a PNG, stores no settings, or was made from other pictures,
                which it does not contain.
        """
        settings = png.read_settings(path)
        if settings is None:
            raise LimnerError(f"{path} stores no settings; give a PNG file that limner painted")
        task, inputs = settings.get("task", "paint"), settings.get("inputs")
        if task not in _PAINTING_TASKS or (isinstance(inputs, dict) and "image" in inputs):
            raise LimnerError(
                f"limner {task} made {path}, and its settings alone cannot repeat it; give the "
                "picture that it was made from, or one made with limner sample"
            )
        values = {name: settings[name] for name in cls.__dataclass_fields__ if name in settings}
        return cls.of(values)

    def condition(self, spec: ImageSpec, report: Callable[[str], None] = say) -> Condition:
        """Return a condition with one row per row of the sheet; without parts if none are given.

        Args:
            spec: specification of the model.
            report: called with one line for each part of the prompts that is left out.
        """
        labels = self.with_all_classes(spec).labels
        indices = torch.tensor([spec.label_index(name) for name in labels], dtype=torch.int64)
        if not self.prompts and not self.negative:
            return Condition(label=indices) if len(indices) else Condition()
        condition = text_condition(spec, self.prompts or ("",), report)
        if self.negative:
            negative = text_condition(spec, self.negative, report)
            avoid = negative.text
            assert avoid is not None
            if negative.weight is not None:
                report("weights of words in a negative prompt are ignored")
            condition = replace(condition, avoid=avoid.expand(len(condition), -1))
        if not len(indices):
            return condition
        repeated = condition.repeat(len(indices))
        return replace(repeated, label=indices.repeat(len(condition)))

    def with_all_classes(self, spec: ImageSpec) -> "SamplingRequest":
        """Return the request with the classes of a model in place of "all"."""
        is_all = spec.labels and "all" in self.labels and "all" not in spec.labels
        return replace(self, labels=spec.labels) if is_all else self

    def seeds(self, rows: int) -> list[int | Blend]:
        """Return the seeds of the pictures, one row after the other.

        Args:
            rows: number of rows, the same number for each prompt.
        """
        seeds = list[int | Blend]()
        for row in range(rows):
            first = self.first_seed(row, rows)
            others = range(first + 1, first + self.n)
            seeds += [first, *(Blend(first, s, self.vary) if self.vary else s for s in others)]
        return seeds

    def for_picture(self, i: int) -> "SamplingRequest":
        """Return the request for picture i of the sheet alone; a variation keeps its row."""
        row, column = divmod(i, self.n)
        prompts, labels = self.prompts, self.labels
        place, number = divmod(row, max(1, len(labels)))  # a prompt has a row for each class
        if len(prompts) > 1:
            prompts = prompts[place : place + 1]
        if len(labels) > 1:
            labels = labels[number : number + 1]
        seed = self.first_seed(row, max(1, len(self.prompts)) * max(1, len(self.labels)))
        n, seed = (self.n, seed) if self.vary else (1, seed + column)
        return replace(self, prompts=prompts, labels=labels, n=n, seed=seed, prompt_seeds=())

    def first_seed(self, row: int, rows: int) -> int:
        """Return the seed of the first picture of a row.

        Args:
            row: number of the row.
            rows: number of rows, the same number for each prompt.
        """
        if not self.prompt_seeds:
            return self.seed
        return self.prompt_seeds[row * len(self.prompt_seeds) // rows]

    def with_sampler(self, sampler: Mapping[str, Any]) -> "SamplingRequest":
        """Return the request with the sampler options that have a value or were typed as "none"."""
        values = {k: "none" if self.sampler.get(k) == "none" else v for k, v in sampler.items()}
        return replace(self, sampler={k: v for k, v in values.items() if v is not None})

    def settings(self) -> dict[str, Any]:
        """Return the settings to store in a PNG, with the prompt where other programs read it."""
        values = {key: value for key, value in asdict(self).items() if value not in ((), "", None)}
        return {"prompt": "; ".join(self.prompts), "version": limner.__version__} | values


def supported_options(
    model: str, remembered: Mapping[str, Any], controls: Collection[str] = ()
) -> dict[str, Any]:
    """Return the stored sampler options that a model has, too, and report the others.

    Args:
        model: name of the model.
        remembered: the stored options.
        controls: models whose controls are added to the model, with their own options.
    """
    names = option_names(find_model(model))
    if controls:
        names.update(name for name in remembered if name.startswith("control_"))
    if unknown := [name for name in remembered if name not in names]:
        say(f"{model} has no {', '.join(f'sampler.{name}' for name in unknown)}: left out")
    return {name: value for name, value in remembered.items() if name in names}


def option_names(path: Path) -> set[str]:
    """Return the names of a model's sampler options; none if it does not paint."""
    file = model_file(path)
    header = read_header(file)
    model_class = entry_of(header.model, file).model
    if not issubclass(model_class, GenerativeModel):
        return set()
    return {*model_class.sample_schema(header.config)["properties"]}


def load_painter(path: Path | str, device: str) -> GenerativeModel:
    """Load a model that paints.

    Raises:
        LimnerError: there is no such model, or it does not paint.
    """
    model = load(path, device)
    if not isinstance(model, GenerativeModel):
        raise LimnerError(
            f"'{path}' does not paint: its model is {model.name}; limner models lists generators"
        )
    return model


def sampler_options(
    model: GenerativeModel, path: Path | str, request: SamplingRequest
) -> dict[str, Any]:
    """Return the sampler options of a model: those of the request over those of its recipe.

    None means the recipe's value, as if the option were left out: a PNG file does not store it.

    Args:
        model: the model.
        path: path from which it was loaded.
        request: the request.

    Raises:
        LimnerError: the model does not have an option, or a negative prompt is given without
            guidance.
    """
    known = model.sample_schema()["properties"]
    for name in request.sampler:
        if name in _CONTROLS and name not in known:
            raise LimnerError(f"{model.name} models have no control; leave {_CONTROLS[name]} out")
    file = model_file(path)
    defaults = usual_options(model, read_header(file).recipe, file)
    given = {k: v for k, v in request.sampler.items() if v is not None or k not in defaults}
    options = model.sampler_options(defaults | given)
    if request.negative and "scale" not in options:
        raise LimnerError(
            f"a negative prompt works through guidance, which {model.name} models do not have; "
            "leave --negative out"
        )
    if request.negative and model.spec.text is None:
        raise LimnerError("this model was trained without text; leave --negative out")
    if request.negative and (options["scale"] or 1.0) <= 1:
        raise LimnerError(
            "a negative prompt works through guidance; give sampler.scale=3, and a model that was "
            "not distilled"
        )
    return options


def open_model(
    request: SamplingRequest, device: str = "auto"
) -> tuple[GenerativeModel, dict[str, Any]]:
    """Load the model of a request, and return it with its sampler options.

    Raises:
        LimnerError: see `load_painter` and `sampler_options`.
    """
    keep_freed_memory()
    device_name = str(processes.device(device))
    controls = [_load_control(name, device_name) for name in request.controls]
    path = find_model(request.model or next(iter(request.controls), None))
    base = load_painter(path, device_name) if request.model or not controls else None
    model = with_controls(base, controls)
    if request.size:
        model = at_size(model, request.size)
    return model, sampler_options(model, path, request)


def at_size(model: GenerativeModel, typed: str) -> GenerativeModel:
    """Return a model that paints in the typed size.

    Raises:
        LimnerError: this is not a size, or the model cannot paint in it.
    """
    try:
        size = read_size(typed)
    except ValueError:
        raise LimnerError(f"--size {typed}: give one number, or HEIGHTxWIDTH as in 48x80") from None
    if max(size) > _MAX_SIDE:
        raise LimnerError(f"--size {typed}: give sides up to {_MAX_SIDE}")
    try:
        return model.at_size(*size)
    except LimnerError as error:
        own = f"--size {model.spec.height}x{model.spec.width}"  # `typed` may be a stored size
        raise LimnerError(f"--size {typed}: {error}; or give {own}, the model's own") from None


def _load_control(name: str, device: str) -> Controlled:
    return as_control(name, load_painter(find_model(name), device))


def as_control(name: str, model: GenerativeModel) -> Controlled:
    """Return a model if it has controls.

    Raises:
        LimnerError: it has none.
    """
    if not isinstance(model, Controlled):
        raise LimnerError(
            f"'{name}' has no control: its model is {model.name}; limner train controlnet makes one"
        )
    return model


def with_controls(base: GenerativeModel | None, controls: Sequence[Controlled]) -> GenerativeModel:
    """Add controls to a model; without a model, to the base of the first control.

    Raises:
        LimnerError: they do not fit the model.
    """
    if not controls:
        assert base is not None, "a model or a control is given"
        return base
    if isinstance(base, Controlled):
        return base.join(controls)
    return controls[0].join(controls[1:], base)
