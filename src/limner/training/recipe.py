"""Recipes: TOML files that say which model to train on which data and how.

    # The header comment: what this trains, the command, hardware and time, the expected number.
    [model]
    name = "pixelcnn"
    channels = 64
    [data]
    source = "emoji"
    [train]
    steps = 20_000
    [sampler]
    temperature = 0.9

Every value can be given on the command line as `section.key=value`, which overrides the file.
"""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from limner.contract.atomic_files import write_durably
from limner.contract.errors import LimnerError, unknown
from limner.contract.image import ImageSpec
from limner.contract.model import Learner
from limner.contract.names import SECTIONS
from limner.contract.options import parse_assignments
from limner.contract.registry import build, entry, foreign, models
from limner.data.sources import has_option, one_source, source_types
from limner.runtime.progress import say
from limner.runtime.seeding import seed_torch
from limner.training.bundled_recipes import PREFIX, bundled_recipes, header_comment
from limner.training.fine_tuning import build_from, copy_text_encoder, load_part
from limner.training.options import TrainOptions

RECIPE_FILE = "recipe.toml"
"""Name of the recipe's file in a run's folder."""
Section = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """Recipe of a training run: model, data and options.

    Args:
        model: the registered `name` of the model, and its own options.
        data: the `source`, or a list of several, and the options of `open_data`.
        train: training options, see `TrainOptions`.
        sampler: options of the model's `frames` for sample sheets.
        evaluate: evaluation during training, see `EvaluateOptions`.
        about: header comment of the file.
    """

    model: Section
    data: Section
    train: Section = field(default_factory=dict)
    sampler: Section = field(default_factory=dict)
    evaluate: Section = field(default_factory=dict)
    about: str = ""

    def __post_init__(self) -> None:
        for section, key, example in (("model", "name", "edm"), ("data", "source", "emoji")):
            if key not in getattr(self, section):
                raise LimnerError(
                    f"the recipe has no {section}.{key}; write {section}={{'{key}': '{example}'}}"
                )

    @classmethod
    def of(cls, model: str, source: str, assignments: Iterable[str] = ()) -> "Recipe":
        """Return a recipe without a file, as in `limner train pixelcnn emoji train.steps=2000`.

        Raises:
            LimnerError: a folder or a model of another program instead of a model's name.
        """
        if model not in models():
            is_trained = model in {e.name for e in foreign().values()}
            if is_trained or Path(model).exists():
                raise LimnerError(
                    f"'{model}' is not the name of a model to train (limner models lists them); to "
                    "paint with it: limner sample -m FOLDER; to continue a run: limner resume RUN"
                )
        return cls({"name": model}, {"source": source}).with_values(assignments)

    @classmethod
    def read(cls, path: Path | str, assignments: Iterable[str] = ()) -> "Recipe":
        """Read a recipe from a file, with values from the command line.

        Raises:
            LimnerError: no such file, invalid TOML, an unknown section, or no model or source.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")  # some editors write a byte-order mark
            sections = tomllib.loads(text)
        except FileNotFoundError:
            advice = "limner recipes lists those that come with limner"
            if path.stem in bundled_recipes():
                advice = f"one of this name comes with limner: type {PREFIX}{path.stem}"
            raise LimnerError(f"there is no recipe {path}; {advice}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise LimnerError(f"cannot read the recipe {path}: {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise LimnerError(f"{path} is not valid TOML: {error}") from None
        for name, section in sections.items():
            if not isinstance(section, dict):
                raise LimnerError(
                    f"'{name}' in {path} is not in a section; write it below one of "
                    f"{', '.join(f'[{s}]' for s in SECTIONS)}"
                )
            if name not in SECTIONS:
                raise unknown("section", name, SECTIONS, str(path))
        for section, key in (("model", "name"), ("data", "source")):
            if not isinstance(sections.get(section, {}).get(key), str | list):
                raise LimnerError(f'{path} does not say {section}.{key}; write {key} = "..."')
        recipe = cls(**sections, about=header_comment(text))
        updated = recipe.with_values(assignments := list(assignments))
        return updated._for_other_data(recipe, parse_assignments(assignments, SECTIONS))

    def _for_other_data(self, file: "Recipe", typed: Mapping[str, Section]) -> "Recipe":
        """Return a copy for a source that was typed, without the file's options of its own source.

        Args:
            file: the recipe as it is in the file.
            typed: the typed options, by section.
        """
        kinds = [source_types(one_source(recipe.data["source"])) for recipe in (file, self)]
        if "source" not in typed.get("data", {}) or kinds[0] == kinds[1]:
            return self
        has = partial(has_option, self.data["source"])
        data = {k for k in file.data if not has(k)} - typed["data"].keys()
        evaluate = {"against", "split"} & file.evaluate.keys() - typed.get("evaluate", {}).keys()
        if left_out := [*(f"data.{k}" for k in data), *(f"evaluate.{k}" for k in evaluate)]:
            source = self.data["source"]
            say(f"data.source={source} goes without the recipe's {', '.join(sorted(left_out))}")
        return replace(
            self,
            data={k: v for k, v in self.data.items() if k not in data},
            evaluate={k: v for k, v in self.evaluate.items() if k not in evaluate},
        )

    def with_values(self, assignments: Iterable[str]) -> "Recipe":
        """Return a copy with typed values: `train.lr=1e-4`, `train.players.critic.lr=4e-4`."""
        sections = self.sections()
        for section, values in parse_assignments(assignments, SECTIONS).items():
            for path, value in values.items():
                *parents, key = path.split(".")
                table = sections.setdefault(section, {})
                for parent in parents:
                    table = table.setdefault(parent, {})
                    if not isinstance(table, dict):
                        raise LimnerError(f"{section}.{path}: {section}.{parent} has no parts")
                table[key] = value
        for section, key, types, example in (
            ("model", "name", str, "edm"),
            ("data", "source", (str, Path, list), "emoji"),
        ):
            value = sections[section].get(key, "")
            if not isinstance(value, types):
                option = f"{section}.{key}"
                raise LimnerError(
                    f"{option}={value!r} is not a name; write one, e.g. {option}={example}"
                )
        if isinstance(sections["data"].get("source"), list):
            sections["data"]["source"] = one_source(sections["data"]["source"])
        return Recipe(**sections, about=self.about)

    def sections(self) -> dict[str, Section]:
        """Return copies of the sections, as plain values."""
        return {name: _plain_copy(getattr(self, name)) for name in SECTIONS}

    def options(self) -> TrainOptions:
        """Return the validated training options, with the model's defaults where left out."""
        return TrainOptions.of(_with_usual(entry(self.model["name"]).train, self.train))

    def effective(self) -> "Recipe":
        """Return a copy with every training option written out, because defaults may change."""
        values = {k: v for k, v in vars(self.options()).items() if v is not None}
        return replace(self, train=_plain_copy(values))

    def build(self, spec: ImageSpec) -> Learner:
        """Build the model with random weights from the seed, or those of models in `train.init`.

        Raises:
            LimnerError: an unknown model or option.
        """
        options = self.options()
        model_options = {key: value for key, value in self.model.items() if key != "name"}
        parts = dict(options.init or {})
        start, text = parts.pop("model", None), parts.pop("text", None)
        known = entry(self.model["name"]).nested_options
        for key in parts.keys() - known:
            names = [f"train.init.{k}" for k in (*known, "model", "text")]
            raise unknown("option", f"train.init.{key}", names)
        if start is not None:
            for key in parts:
                say(f"train.init.{key} is not used: train.init.model={start} has its own {key}")
            parts.clear()
        nested = {key: load_part(key, path) for key, path in parts.items()}
        with seed_torch((options.seed, "weights")):
            if start is not None:
                model = build_from(start, self.model["name"], spec, model_options)
            else:
                model = build(self.model["name"], spec, **model_options | nested)
        if text is not None:
            copy_text_encoder(text, model)
        return model

    def to_toml(self) -> str:
        """Return the file's text."""
        lines = [f"# {line}".rstrip() for line in self.about.splitlines()]
        for name, section in self.sections().items():
            lines += _table([name], section)
        return "\n".join(lines).strip() + "\n"

    def write(self, path: Path) -> None:
        """Write the file, durably."""
        write_durably(path, self.to_toml().encode())


def _with_usual(defaults: Section | Mapping[str, Any], section: Section) -> Section:
    """Return a section [train] completed with a model's defaults.

    An option that the section sets for all players overrides a player's default.
    """
    typed_players: Any = section.get("players") or {}
    if not _is_table_of_tables(typed_players):
        return {**defaults, **section}  # "none", or what the validation refuses
    merged = {key: value for key, value in {**defaults, **section}.items() if key != "players"}
    players = {name: dict(values) for name, values in typed_players.items()}
    for name, values in defaults.get("players", {}).items():
        left_out = {key: value for key, value in values.items() if key not in section}
        if left_out:
            players[name] = left_out | players.get(name, {})
    return merged | {"players": players} if players else merged


def _is_table_of_tables(value: Any) -> bool:
    """Return whether a value has named parts that have named parts."""
    return isinstance(value, Mapping) and all(isinstance(v, Mapping) for v in value.values())


def _plain_copy(value: Any) -> Any:
    """Copy plain values: dictionaries and lists, with tuples as lists."""
    if isinstance(value, Mapping):
        return {key: _plain_copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_copy(item) for item in value]
    return value


def _table(path: list[str], values: Section) -> list[str]:
    """Return the lines of a TOML table, followed by its sub-tables."""
    inner = {key: value for key, value in values.items() if isinstance(value, dict)}
    plain = {k: v for k, v in values.items() if k not in inner and v is not None}
    lines = []
    if plain or not inner:
        lines = ["", f"[{'.'.join(map(_key, path))}]"]
        lines += [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    for key, value in inner.items():
        lines += _table([*path, key], value)
    return lines


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    """Return a plain value as TOML; JSON's escapes are valid in TOML, except surrogate pairs."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_key(k)} = {_value(v)}' for k, v in value.items())}}}"
    raise LimnerError(f"a recipe holds plain values, not {value!r}")
