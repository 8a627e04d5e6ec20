"""Classes that are registered by name, of which an option chooses one; their fields are options,
too."""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, fields, replace
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import (
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    create_model,
)
from pydantic_core import CoreSchema, core_schema

from limner.contract.docstrings import argument_descriptions
from limner.contract.errors import LimnerError, unknown
from limner.contract.names import check_new_name, is_again, registry_table

_Base = TypeVar("_Base")
_Own = TypeVar("_Own")


class Choices(Generic[_Base]):
    """Frozen data classes by name, of which an option chooses one.

    `Annotated[str, choices]` is the type of that option. Where it is one of the options that
    several functions share, the fields of all classes are options as well; without a value, a field
    has the default of its class.

    Args:
        kind: what the classes are, as in "sampler".
        base: the class from which they inherit.
        reserved: names that their options may not have, besides those of the base's attributes.
    """

    def __init__(self, kind: str, base: type[_Base], reserved: Collection[str] = ()) -> None:
        self.kind, self.base, self.reserved = kind, base, reserved
        self._classes: dict[str, type[Any]] = registry_table({})

    @property
    def classes(self) -> dict[str, type[Any]]:
        """The registered classes, by name."""
        return dict(self._classes)

    def register(self, name: str) -> Callable[[type[_Own]], type[_Own]]:
        """Register the class below this decorator under a name.

        Raises:
            LimnerError: another class has the name, or the class is not a frozen data class that
                inherits from the base and whose fields have valid names and defaults.
        """
        check_new_name(name, self.kind)

        def enter(of: type[_Own]) -> type[_Own]:
            known = self._classes.get(name)
            if known and not is_again(of, known):
                raise LimnerError(
                    f"the {self.kind} name '{name}' is taken by {known.__qualname__} of "
                    f"{known.__module__}; choose another"
                )
            self._check_class(name, of)
            self._classes[name] = of
            return of

        return enter

    def _check_class(self, name: str, of: Any) -> None:
        base = f"{self.base.__module__}.{self.base.__name__}"
        if not isinstance(of, type) or not issubclass(of, self.base):
            called = getattr(of, "__name__", repr(of))
            raise LimnerError(f"{called} is no {self.kind}; give it the base class {base}")
        if missing := sorted(getattr(of, "__abstractmethods__", ())):
            raise LimnerError(f"{of.__name__} lacks the method {missing[0]} of {base}; write it")
        parameters = vars(of).get("__dataclass_params__")
        if not parameters or not parameters.frozen:
            raise LimnerError(
                f"{of.__name__} is not a frozen data class; write @dataclass(frozen=True) below "
                "the decorator that registers it"
            )
        options: tuple[Field[Any], ...] = fields(of)  # pyright: ignore[reportArgumentType]
        for option in options:
            self._check_field(of, option)
        self._check_signatures(of)
        types, instance = _field_types(of), of()
        defaults = {option.name: getattr(instance, option.name) for option in options}
        check_defaults(types, defaults, of.__name__)
        for field, its_type in types.items():
            for other in self.classes_with(field):
                known = _field_types(self._classes[other])[field]
                if other != name and repr(known | None) != repr(its_type | None):
                    raise LimnerError(
                        f"the option {field} of {of.__name__} has another type than that of the "
                        f"{self.kind} {other}; give it the same type or another name"
                    )

    def _check_signatures(self, of: type[Any]) -> None:
        for method in sorted(getattr(self.base, "__abstractmethods__", ())):
            arguments = inspect.signature(getattr(self.base, method)).parameters
            try:
                inspect.signature(getattr(of, method)).bind(*arguments)
            except TypeError as error:
                raise LimnerError(
                    f"{method} of {of.__name__} takes other arguments than it is given ({error}); "
                    f"write def {method}({', '.join(arguments)})"
                ) from None

    def _check_field(self, of: type[Any], field: Field[Any]) -> None:
        option = f"the option {field.name} of {of.__name__}"
        is_taken = field.name in self.reserved or hasattr(self.base, field.name)
        if is_taken or field.name.startswith("_"):
            raise LimnerError(f"{option} has a reserved name; give it another name")
        if not field.init:
            raise LimnerError(f"{option} cannot be given, because of init=False; leave that out")
        if field.default is MISSING and field.default_factory is MISSING:
            raise LimnerError(f"{option} needs a default")

    def option_types(self) -> dict[str, Any]:
        """Return the types of the options of all classes, by name; None is no value."""
        types = [_field_types(of) for of in self._classes.values()]
        return {name: kind | None for each in types for name, kind in each.items()}

    def option_help(self) -> dict[str, str]:
        """Return the description of each option, with the names of the classes that have it."""
        help_of = [argument_descriptions(of.__doc__) for of in self._classes.values()]
        texts = {name: text for each in reversed(help_of) for name, text in each.items()}
        return {
            option: f"for {' and '.join(self.classes_with(option))}: {texts[option]}"
            for option in self.option_types()
            if option in texts
        }

    def classes_with(self, option: str) -> list[str]:
        """Return the names of the classes that have an option."""
        return [name for name, of in self._classes.items() if option in _field_types(of)]

    def make(self, name: str, /, **options: Any) -> _Base:
        """Return an instance of a class by name; an option that is None has its default.

        Raises:
            LimnerError: there is no class of this name, it does not have an option, or it refuses
                the values.
        """
        if name not in self._classes:
            raise unknown(self.kind, name, self._classes)
        of = self._classes[name]
        given = {option: value for option, value in options.items() if value is not None}
        for option in given:
            if option not in _field_types(of):
                others = " or ".join(self.classes_with(option))
                hint = f"; it belongs to {others}" if others else ""
                raise LimnerError(f"the {self.kind} {name} has no option {option}{hint}")
        try:
            return replace(of(), **given)
        except ValueError as error:  # of its own __post_init__
            raise LimnerError(f"the {self.kind} {name}: {error}") from error

    def _check_name(self, name: object) -> object:
        """Check the value of the option that chooses, for pydantic."""
        if name not in list(self._classes):  # it may be a list, which has no hash
            quoted = [f"'{known}'" for known in self._classes]
            raise ValueError(f"input should be {', '.join(quoted[:-1])} or {quoted[-1]}")
        return name

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check_name)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"enum": list(self._classes), "type": "string"}


def _field_types(of: type[Any]) -> dict[str, Any]:
    """Return the types of a data class's fields, by name.

    Raises:
        LimnerError: the class's file does not know a type.
    """
    try:
        hints = get_type_hints(of, include_extras=True)
    except NameError as error:
        raise LimnerError(
            f"an option of {of.__name__} has a type that is not known there ({error}); import it "
            "in that file, outside of functions and of if TYPE_CHECKING"
        ) from None
    return {field.name: hints[field.name] for field in fields(of)}


def check_defaults(types: Mapping[str, Any], defaults: Mapping[str, Any], owner: str) -> None:
    """Check the defaults of options.

    Nothing converts a default, so `"3"` is not one of an `int`, although a person may type it.

    Args:
        types: the types of the options, by name.
        defaults: the defaults of all of them.
        owner: the name of the class or function that has the options.

    Raises:
        LimnerError: a default does not fit the type of its option.
    """
    config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=(), strict=True)
    for name, kind in types.items():
        default = defaults[name]
        try:
            create_model("Option", __config__=config, value=(kind, ...))(value=default)
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise LimnerError(
                f"the default {default!r} of the option {name} of {owner} is not valid: "
                f"{message[0].lower()}{message[1:]}"
            ) from None
