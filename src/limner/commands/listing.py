"""Lists of models, their options, and metrics, as text and as plain values."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from limner.contract.abilities import Foreign
from limner.contract.bundled import bundled_names_of
from limner.contract.errors import LimnerError, unknown
from limner.contract.image import ImageSpec
from limner.contract.model import GenerativeModel
from limner.contract.options import json_schema, typed_value
from limner.contract.registry import ModelEntry, build
from limner.data.sources import NON_OPTION_FIELDS, PAIRS, source_kinds, source_types
from limner.evaluate.metric import NEEDS, Metric
from limner.evaluate.tables import align_columns
from limner.runtime.progress import say_error
from limner.training.bundled_recipes import PREFIX, bundled_recipes
from limner.training.evaluation import EvaluateOptions
from limner.training.options import TrainOptions
from limner.training.recipe import Recipe

_INDENT = " " * 6  # of an option's description
_SECTIONS: dict[str, type] = {"train": TrainOptions, "evaluate": EvaluateOptions}


def describe_model(entry: ModelEntry) -> dict[str, Any]:
    """Return name, family, paper, bundled weights and option schemas of a model as plain values."""
    document: dict[str, Any] = {
        "name": entry.name,
        "family": entry.family,
        "summary": entry.summary,
        "paper": vars(entry.paper),
        "model": {} if entry.file else json_schema(entry.model, skip=("spec",)),
        "train": dict(entry.train),
        "bundled": bundled_names_of(entry.name),
    }
    if issubclass(entry.model, GenerativeModel):
        document["sampler"] = entry.model.sample_schema()
    return document


def describe_models(entries: Iterable[ModelEntry]) -> list[dict[str, Any]]:
    """Return models as plain values; one that cannot be described is left out and reported."""
    documents: list[dict[str, Any]] = []
    for entry in entries:
        try:
            documents.append(describe_model(entry))
        except Exception as error:  # a model of another package may raise anything
            say_error(f"left out: {entry.name}", error)
    return documents


def models_text(entries: Sequence[ModelEntry]) -> str:
    """Return one line per model: name, family, summary, paper and bundled weights."""
    rows = [
        (e.name, e.family, e.summary, e.paper.identifier, ", ".join(bundled_names_of(e.name)))
        for e in entries
    ]
    return "\n".join(
        align_columns([("model", "family", "what it is", "paper", "ready to use"), *rows])
    )


def options_text(entry: ModelEntry) -> str:
    """Return a model's paper and options, as they are typed, with defaults."""
    document = describe_model(entry)
    lines = [f"{entry.name}: {entry.summary}", f"  {entry.paper}"]
    for section in ("model", "sampler"):
        lines += _option_lines(section, document.get(section, {}))
    if entry.train:
        training = [f"  {line}" for line in assignments("train", entry.train)]
        lines += ["", "  its usual training:", *training]
    usage = "\n".join(_training_lines(entry))
    if names := bundled_names_of(entry.name):
        usage += f"\nready to use: -m {' or -m '.join(names)}"
    if entry.file:
        assert issubclass(entry.model, Foreign)
        arguments = entry.model.command_arguments
        usage = f"paint with it: limner sample {arguments}, where FOLDER contains {entry.file}"
    lines += ["", usage]
    return "\n".join(lines)


def sections_text() -> str:
    """Return what `limner options` explains, one line each."""
    return "\n".join(
        align_columns(
            [
                *((f"limner options {name}", _summary(kind)) for name, kind in _SECTIONS.items()),
                ("limner options SOURCE", f"Data from a source: {', '.join(source_kinds())}."),
                ("limner options MODEL", "A model and its sampling; limner models lists them."),
            ]
        )
    )


def has_section(name: str) -> bool:
    """Whether a name, or a typed source such as folder:PATH, has options outside of models."""
    return name.partition(":")[0] in _SECTIONS | source_kinds()


def describe_section(name: str) -> dict[str, Any]:
    """Return the options of a recipe's section, or of a data source, as plain values.

    Raises:
        LimnerError: there is neither a section nor a source with this name.
    """
    kinds = _SECTIONS | source_kinds()
    kind = kinds.get(name.partition(":")[0])
    if not kind:
        raise unknown("section, source or model", name, kinds, "limner models")
    skip = () if name in _SECTIONS else NON_OPTION_FIELDS
    return {"name": name, "summary": _summary(kind), "options": json_schema(kind, skip=skip)}


def section_text(name: str) -> str:
    """Return the options of a recipe's section, or of a data source, as they are typed."""
    document = describe_section(name)
    section = name if name in _SECTIONS else "data"
    return "\n".join([document["summary"], *_option_lines(section, document["options"])])


def _summary(kind: type) -> str:
    """Return the first sentence of a class's docstring."""
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def _option_lines(section: str, schema: Mapping[str, Any]) -> list[str]:
    """Return options as they are typed, with default, kind and description; empty without any."""
    properties: dict[str, Any] = schema.get("properties", {})
    width = max(map(len, properties), default=0)
    lines = [""] * bool(properties)
    for name, option in properties.items():
        default = option.get("default")
        value = "" if default is None else f"= {typed_value(default)}"
        lines.append(f"  {section}.{name.ljust(width)}  {value.ljust(14)} {_kind(option)}".rstrip())
        text = option.get("description", "")
        lines += textwrap.wrap(text, 92, initial_indent=_INDENT, subsequent_indent=_INDENT)
    return lines


def _training_lines(entry: ModelEntry) -> list[str]:
    """Return commands that train a model on the bundled data and on other data: on labelled emoji,
    from a recipe, or on emoji with fewer levels or without labels."""
    command, options = f"limner train {entry.name}", "data.size=16"
    labelled = ImageSpec(3, 16, 16, labels=("a", "b"))
    if not _can_learn(entry, labelled):
        for name, file in bundled_recipes().items():
            recipe = Recipe.read(file)
            if recipe.model["name"] == entry.name:
                command = f"limner train {PREFIX}{name}"
                return [f"train it: {command}", *_other_data_lines(command, recipe)]
        has_levels = _can_learn(entry, replace(labelled, levels=2))
        options += " data.levels=2" if has_levels else " data.label=none"
    other = options.replace("data.label=none", "data.labels=false")
    return [
        f"train it: {command} emoji {options}",
        f"on other data: {command} folder:FOLDER {other}",
    ]


def _other_data_lines(command: str, recipe: Recipe) -> list[str]:
    """Return how to train from a recipe on other data than its own."""
    data = recipe.data
    if data.get("hint") == "objects":
        return ["on other data: impossible; only scenes have the positions of objects"]
    kind, [first, *_] = data["source"].partition(":")[0], source_types(data["source"])
    sources = {name: f"{name}:folder:A,folder:B" for name in PAIRS}
    sources["instructions"] = "paired:folder:BEFORE,folder:AFTER"
    words = [command, f"data.source={sources.get(kind, 'folder:FOLDER')}"]
    if data.get("text", first.__dataclass_fields__["text"].default):
        words.append("data.text=true")
    if "size" not in data:
        words.append("data.size=SIZE")
    parts: dict[str, str] = recipe.train.get("init", {})
    lines = [" ".join([*words, *(f"train.init.{part}=RUN" for part in parts)])]
    if parts:
        names = [Path(run).name for run in parts.values() if Path(run).name in bundled_recipes()]
        example = (
            f", for example of {' and '.join(PREFIX + name for name in names)}" if names else ""
        )
        lines.append(f"RUN: a run on the same pictures{example}")
    return [f"on other data: {lines[0]}", *lines[1:]]


def _can_learn(entry: ModelEntry, spec: ImageSpec) -> bool:
    """Whether a model can be built for pictures with this specification."""
    try:
        build(entry.name, spec)
    except LimnerError:
        return False
    return True


def assignments(path: str, values: Mapping[str, Any]) -> list[str]:
    """Return values as they are typed."""
    lines: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += assignments(f"{path}.{key}", value)
        else:
            lines.append(f"{path}.{key}={typed_value(value)}")
    return lines


def _kind(schema: dict[str, Any]) -> str:
    """Describe a JSON schema in a few words."""
    if "anyOf" in schema:
        kinds = [_kind(item) for item in schema["anyOf"] if item.get("type") != "null"]
        return " or ".join(kinds)
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        item = schema.get("items") or schema.get("prefixItems", [{}])[0]
        return f"list of {_kind(item)}"
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]}" for key, sign in bounds.items() if key in schema]
    return " ".join([schema.get("type", ""), ", ".join(limits)]).strip()


def describe_metric(metric: type[Metric]) -> dict[str, Any]:
    """Return a metric as plain values."""
    return {
        "name": metric.name,
        "summary": metric.summary,
        "paper": vars(metric.paper),
        "reads": list(metric.reads),
        "needs": [NEEDS[kind] for kind in metric.reads],
        "min_pictures": metric.min_pictures,
        "better": metric.better,
        "interval": list(metric.redrawn),
    }


def metrics_text(metrics: Iterable[type[Metric]]) -> str:
    """Return one line per metric: name, meaning, needs, min n, better direction and paper."""
    header = ("name", "what it says", "needs", "min n", "better", "paper")
    return "\n".join(align_columns([header, *map(_metric_row, metrics)]))


def _metric_row(metric: type[Metric]) -> tuple[str, ...]:
    """Return the cells of a metric's line."""
    needs = ", ".join(NEEDS[kind] for kind in metric.reads)
    paper = metric.paper.identifier
    return metric.name, metric.summary, needs, str(metric.min_pictures), metric.better, paper
