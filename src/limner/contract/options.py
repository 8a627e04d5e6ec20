"""Options are a function's own arguments: validated, described, and read from `key=value`.

Options that several functions share are written once, as a `TypedDict` with `total=False`, and
taken as `**options: Unpack[...]`. The default of such an option is its `Field(default=...)`, or
else None, which its type must then include.
"""

import contextlib
import inspect
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Union, Unpack, get_args, get_origin, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticSerializationError

from limner.contract.choices import Choices
from limner.contract.docstrings import argument_descriptions
from limner.contract.errors import LimnerError, unknown

_VARIADIC = {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}


Count = Annotated[int, Field(ge=1)]
"""A number of things, at least 1."""
Natural = Annotated[int, Field(ge=0)]
"""A number of things, which may be 0."""
Fourier = Annotated[int, Field(ge=0, le=16)]
"""The number of pairs of Fourier features, see `limner.nn.fourier_features`."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A number above 0."""
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A number of 0 or more."""
Share = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1, both included."""
Rate = Annotated[float, Field(ge=0, lt=1)]
"""A number from 0 to below 1, such as a dropout rate."""

RunName = Annotated[str, Field(min_length=1, json_schema_extra={"format": "path"})]
"""A trained model, as the command line names one: a run, a model file, or a bundled model's
name."""


def names_a_file(schema: Mapping[str, Any]) -> bool:
    """Return whether an option's JSON schema says that its value is a path."""
    return any(kind.get("format") == "path" for kind in (schema, *schema.get("anyOf", ())))


def _several(value: object) -> object:
    return (value,) if isinstance(value, int) else value


def _one_name(value: object) -> object:
    return (value,) if isinstance(value, str) and value else value


Names = Annotated[tuple[str, ...], BeforeValidator(_one_name)]
"""Several names; a single one may be given by itself."""
Layers = Annotated[tuple[Count, ...], BeforeValidator(_several)]
"""A number for each of several layers, or none; a number by itself means a single layer."""
Widths = Annotated[Layers, Field(min_length=1)]
"""A number for each of one or more layers."""
Counts = Annotated[tuple[Natural, ...], BeforeValidator(_several), Field(min_length=1)]
"""A number of things in each of several places; a number by itself applies to all places."""


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return a function's parameters by name; text annotations are evaluated if the function's file
    knows their names."""
    parameters = dict(inspect.signature(function).parameters)
    namespace: dict[str, Any] = getattr(inspect.unwrap(function), "__globals__", {})
    for name, p in parameters.items():
        if isinstance(p.annotation, str):
            holder = SimpleNamespace(__annotations__={name: p.annotation})
            with contextlib.suppress(NameError):  # a name that only type checkers import
                hints = get_type_hints(holder, namespace, include_extras=True)
                parameters[name] = p.replace(annotation=hints[name])
    return parameters


def shared_options(function: Callable[..., Any]) -> type | None:
    """Return the `TypedDict` of options that a function takes as `**options: Unpack[...]`."""
    for p in parameters_of(function).values():
        if p.kind is inspect.Parameter.VAR_KEYWORD and get_origin(p.annotation) is Unpack:
            return get_args(p.annotation)[0]
    return None


def shared_types(shared: type) -> dict[str, Any]:
    """Return the types of shared options by name, with the options of classes in a `Choices`.

    Args:
        shared: the `TypedDict` of the options.

    Raises:
        LimnerError: an option of a class has the name of a shared option.
    """
    types = get_type_hints(shared, include_extras=True)
    for choices in _choices_of(shared).values():
        _check_free(choices, types, f"is one that all {choices.kind}s share")
        types |= choices.option_types()
    return types


def _shared_types(function: Callable[..., Any]) -> dict[str, Any]:
    """Return `shared_types` of a function.

    Raises:
        LimnerError: an option of a class has the name of an argument of the function.
    """
    shared = shared_options(function)
    if not shared:
        return {}
    for choices in _choices_of(shared).values():
        _check_free(choices, parameters_of(function), f"is also one of {function.__qualname__}")
    return shared_types(shared)


def _check_free(choices: Choices[Any], taken: Iterable[str], reason: str) -> None:
    """Refuse options of classes whose names are taken."""
    for name in choices.option_types().keys() & set(taken):
        owners = " and ".join(choices.classes_with(name))
        raise LimnerError(
            f"the option {name} of the {choices.kind} {owners} {reason}; give it another name"
        )


def _choices_of(shared: type | None) -> dict[str, Choices[Any]]:
    """Return the classes of which shared options choose, by the name of the option."""
    hints = get_type_hints(shared, include_extras=True) if shared else {}
    return {
        name: part
        for name, hint in hints.items()
        for kind in kinds_of(hint)
        for part in getattr(kind, "__metadata__", ())
        if isinstance(part, Choices)
    }


def read_size(typed: int | str) -> tuple[int, int]:
    """Return height and width in pixels, given one number or "HEIGHTxWIDTH".

    >>> read_size(32), read_size("48x80")
    ((32, 32), (48, 80))

    Raises:
        ValueError: it is neither.
    """
    match = re.fullmatch("0*([1-9][0-9]{0,4})(?:x0*([1-9][0-9]{0,4}))?", str(typed).strip().lower())
    if not match:
        raise ValueError("neither one number nor HEIGHTxWIDTH")
    return int(match[1]), int(match[2] or match[1])


def option_names(function: Callable[..., Any]) -> list[str]:
    """Return the names of all arguments of a function, shared options first."""
    parameters = parameters_of(function).values()
    names = [p.name for p in parameters if p.kind not in _VARIADIC]
    return [*_shared_types(function), *names]


def _fields(function: Callable[..., Any], skip: frozenset[str]) -> type[BaseModel]:
    """Return a pydantic model with one field for each argument of a function.

    Raises:
        LimnerError: the function's file does not know the type of an argument.
    """
    choices = _choices_of(shared_options(function)).values()
    registered = tuple(item for each in choices for item in each.classes.items())
    return _cached_fields(function, skip, registered)


@cache
def _cached_fields(
    function: Callable[..., Any],
    skip: frozenset[str],
    registered: tuple[tuple[str, type[Any]], ...],
) -> type[BaseModel]:
    """Return `_fields`, which depend on the classes that are registered in a `Choices`."""
    hints = _shared_types(function)
    fields: dict[str, Any] = {
        name: (hint, _shared_default(hint)) for name, hint in hints.items() if name not in skip
    }
    for p in parameters_of(function).values():
        if p.name in skip or p.name == "self" or p.kind in _VARIADIC:
            continue
        annotation = Any if p.annotation is p.empty else p.annotation
        fields[p.name] = (annotation, ... if p.default is p.empty else p.default)
    config = ConfigDict(
        extra="forbid",
        arbitrary_types_allowed=True,
        protected_namespaces=(),
        validate_default=True,  # a file with an invalid default could not be opened again
    )
    name = getattr(function, "__qualname__", "Options")
    schema = create_model(name, __config__=config, **fields)
    if not schema.__pydantic_complete__:
        raise LimnerError(
            f"an option of {name} has a type that is not known there; import it in that file, "
            "outside of functions and of if TYPE_CHECKING"
        )
    return schema


def shared_defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of the options that a function takes as `**options: Unpack[...]`."""
    return {name: _shared_default(hint) for name, hint in _shared_types(function).items()}


def _shared_default(annotation: Any) -> Any:
    """Return the default of a shared option, from its annotation."""
    field = FieldInfo.from_annotation(annotation)
    return None if field.is_required() else field.default


def _short_repr(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def kinds_of(annotation: Any) -> tuple[Any, ...]:
    """Return the types that an option's value may have, without None."""
    is_union = get_origin(annotation) in (Union, UnionType)
    kinds = get_args(annotation) if is_union else (annotation,)
    return tuple(kind for kind in kinds if kind is not NoneType)


def _is_text(annotation: Any) -> bool:
    """Return whether an option accepts text and does not accept lists."""
    kinds = kinds_of(annotation)
    return str in kinds and not {list, tuple} & {get_origin(kind) for kind in kinds}


def _is_optional(annotation: Any) -> bool:
    """Return whether an option may be None, which "none" then means unless it is a choice."""
    choices = [choice for kind in kinds_of(annotation) for choice in get_args(kind)]
    return NoneType in get_args(annotation) and "none" not in choices


def _fixed_length(annotation: Any) -> int | None:
    """Return how many values an option has, if it has several and their number is fixed."""
    tuples = [get_args(kind) for kind in kinds_of(annotation) if get_origin(kind) is tuple]
    return len(tuples[0]) if tuples and ... not in tuples[0] else None


def validate_options(
    function: Callable[..., Any],
    values: Mapping[str, Any],
    *,
    kind: str = "option",
    prefix: str = "",
    skip: Iterable[str] = (),
    hint: str = "",
) -> dict[str, Any]:
    """Return the arguments of `function` with `values` filled in, converted to their types, and
    with defaults for the others.

    Args:
        function: the function; its signature is the schema.
        values: the given values, by name.
        kind: the name of such an argument in messages, for example "model option".
        prefix: what a person types before the name, for example "model.".
        skip: arguments that are not options.
        hint: what to type for a list of the names.

    Raises:
        LimnerError: an unknown name (the nearest valid one is named), a missing one, or a wrong
            type.
    """
    schema = _fields(function, frozenset(skip))
    for name in values:
        if name not in schema.model_fields:
            _check_chosen(function, values, prefix + name, prefix)
            names = [prefix + key for key in schema.model_fields]
            raise unknown(kind, prefix + name, names, hint)
    arguments = dict(values)
    for name, value in values.items():
        annotation = schema.model_fields[name].annotation
        if isinstance(value, list) and _is_text(annotation):
            arguments[name] = typed_value(value)  # a text with commas, which `parse_value` split
        elif value == "none" and _is_optional(annotation):
            arguments[name] = None
    try:
        instance = schema(**arguments)
    except ValidationError as error:
        first = error.errors()[0]
        option, *path = first["loc"]
        table: Any = arguments.get(str(option))
        is_table = isinstance(table, Mapping)
        inside = [str(i) for i in path if isinstance(i, int) or (is_table and i in table)]
        name = prefix + ".".join([str(option), *inside])
        if first["type"] == "missing" and not path:
            raise LimnerError(f"{kind} {name} is missing; give it as {name}=VALUE") from None
        message = first["msg"][0].lower() + first["msg"][1:]
        message = message.removeprefix("value error, ").replace(" after validation", "")
        annotation = schema.model_fields[str(option)].annotation
        count = _fixed_length(annotation)
        if first["type"] == "tuple_type" or (count and first["type"] in ("missing", "too_long")):
            name = prefix + str(option)
            names = "names" if "str" in str(annotation) else "numbers"
            message = f"give {count or ''} {names} with commas".replace("  ", " ")
        elif first["type"].startswith("bool"):
            message = "give true or false"
        if option not in values:
            message += "; correct this default in its signature"
        raise LimnerError(f"{kind} {name}={_short_repr(first['input'])}: {message}") from None
    return {name: getattr(instance, name) for name in schema.model_fields}


def _check_chosen(
    function: Callable[..., Any], values: Mapping[str, Any], option: str, prefix: str
) -> None:
    """Refuse to choose a class that is not registered, to which an unknown option may belong."""
    for name, choices in _choices_of(shared_options(function)).items():
        value = values.get(name)
        if value is not None and value not in list(choices.classes):
            raise LimnerError(
                f"{prefix}{name}={value} is none of {', '.join(choices.classes)}, so {option} is "
                f"unknown, too; install the package that has this {choices.kind}, or leave both out"
            )


def json_schema(function: Callable[..., Any], skip: Iterable[str] = ()) -> dict[str, Any]:
    """Return the JSON schema of a function's arguments, with their descriptions."""
    schema = _fields(function, frozenset(skip)).model_json_schema(schema_generator=_Schemas)
    descriptions = option_help(function)
    for name, option in schema["properties"].items():
        if name in descriptions:
            option["description"] = descriptions[name]
    return schema


def option_help(function: Callable[..., Any]) -> dict[str, str]:
    """Return the description of each argument, from the docstrings of a function or class and of
    its shared options.

    >>> option_help(parse_assignments)["sections"]
    'names of the sections.'
    """
    shared = shared_options(function)
    descriptions = argument_descriptions(shared.__doc__) if shared else {}
    for choices in _choices_of(shared).values():
        descriptions |= choices.option_help()
    for owner in reversed(function.__mro__) if isinstance(function, type) else [function]:
        descriptions |= argument_descriptions(owner.__doc__)
    return descriptions


class _Schemas(GenerateJsonSchema):
    """JSON schemas in which a nested model is an object (its `description()`)."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        """Return the schema of a value that JSON cannot represent."""
        return {"type": "object"}


def plain(
    function: Callable[..., Any], values: Mapping[str, Any], skip: Iterable[str]
) -> dict[str, Any]:
    """Return validated arguments as JSON values.

    Raises:
        LimnerError: one has a value that JSON cannot represent.
    """
    fields = _fields(function, frozenset(skip))
    plain_values = dict[str, Any]()
    for name, value in values.items():
        instance = fields.model_construct(**{name: value})
        try:
            plain_values |= instance.model_dump(mode="json", include={name})
        except PydanticSerializationError:
            raise LimnerError(
                f"the option {name} is {type(value).__name__}, which a file cannot store; use a "
                "plain value instead: a number, a text, true or false, or several of these"
            ) from None
    return plain_values


def parse_value(text: str) -> Any:
    """Parse a value typed in a shell: a TOML value, a comma-separated list of values, or else a
    string.

    >>> parse_value("2e-4"), parse_value("64,128"), parse_value("cosine"), parse_value("true")
    (0.0002, [64, 128], 'cosine', True)
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        pass
    if "," in text and "\n" not in text:
        return [parse_value(part.strip()) for part in text.split(",") if part.strip()]
    return text


def typed_value(value: Any) -> str:
    """Return a value as it is typed in a shell; the inverse of `parse_value`.

    >>> typed_value(True), typed_value((64, 128)), typed_value(0.0002), typed_value("cosine")
    ('true', '64,128', '0.0002', 'cosine')
    """
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(typed_value, value))  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, float) and value == float(f"{value:g}"):
        return f"{value:g}"
    return str(value)


def parse_assignments(
    arguments: Iterable[str], sections: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Parse `model.channels=64 train.steps=2000` into one dictionary per section.

    Args:
        arguments: the typed arguments.
        sections: names of the sections.

    Raises:
        LimnerError: an argument has no "=", or is in an unknown section; or a text is given, whose
            parts are letters.
    """
    if isinstance(arguments, str):
        raise LimnerError(f"'{arguments}' is one text; give a list, as ['train.steps=2000']")
    allowed = list(sections)
    assignments: dict[str, dict[str, Any]] = {}
    for argument in arguments:
        path, equals, value = argument.partition("=")
        if not equals:
            raise LimnerError(
                f"'{argument}' is not an option; write key=value, as in train.steps=2000"
            )
        section, dot, key = path.partition(".")
        if not dot or not key:
            raise LimnerError(
                f"'{path}' names no section; write {' or '.join(f'{s}.{path}' for s in allowed)}"
            )
        if section not in allowed:
            raise unknown("section", section, allowed)
        assignments.setdefault(section, {})[key] = parse_value(value)
    return assignments
