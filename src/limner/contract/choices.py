"""Classes that are registered by name, of which an option chooses one; their fields are options,
too."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from limner.contract.docstrings import argument_descriptions
from limner.contract.errors import LimnerError, unknown
from limner.contract.names import check_new_name, is_again

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
    """

    def __init__(self, kind: str, base: type[_Base]) -> None:
        self.kind, self.base = kind, base
        self._classes: dict[str, type[Any]] = {}

    @property
    def classes(self) -> dict[str, type[Any]]:
        """The registered classes, by name."""
        return dict(self._classes)

    def register(self, name: str) -> Callable[[type[_Own]], type[_Own]]:
        """Register the class below this decorator under a name.

        Raises:
            LimnerError: another class has the name, or the class is not a frozen data class that
                inherits from the base and whose fields have defaults.
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

    def _check_class(self, name: str, of: type[Any]) -> None:
        base = f"{self.base.__module__}.{self.base.__name__}"
        if not issubclass(of, self.base):
            raise LimnerError(f"{of.__name__} is no {self.kind}; give it the base class {base}")
        if missing := sorted(getattr(of, "__abstractmethods__", ())):
            raise LimnerError(f"{of.__name__} lacks the method {missing[0]} of {base}; write it")
        parameters = vars(of).get("__dataclass_params__")
        if not parameters or not parameters.frozen:
            raise LimnerError(
                f"{of.__name__} is not a frozen data class; write @dataclass(frozen=True) below "
                "the decorator that registers it"
            )
        for field, its_type in _field_types(of).items():
            if not hasattr(of, field):
                raise LimnerError(f"the option {field} of {of.__name__} needs a default")
            for other in self.having(field):
                if other != name and _field_types(self._classes[other])[field] != its_type:
                    raise LimnerError(
                        f"the option {field} of {of.__name__} has another type than that of the "
                        f"{self.kind} {other}; give it another name"
                    )

    def option_types(self) -> dict[str, Any]:
        """Return the types of the options of all classes, by name; None is no value."""
        types = [_field_types(of) for of in self._classes.values()]
        return {name: kind | None for each in types for name, kind in each.items()}

    def option_help(self) -> dict[str, str]:
        """Return the description of each option, with the names of the classes that have it."""
        help_of = [argument_descriptions(of.__doc__) for of in self._classes.values()]
        texts = {name: text for each in reversed(help_of) for name, text in each.items()}
        return {
            option: f"for {' and '.join(self.having(option))}: {texts[option]}"
            for option in self.option_types()
            if option in texts
        }

    def having(self, option: str) -> list[str]:
        """Return the names of the classes that have an option."""
        return [name for name, of in self._classes.items() if option in _field_types(of)]

    def make(self, name: str, **options: Any) -> _Base:
        """Return an instance of a class by name; an option that is None has its default.

        Raises:
            LimnerError: there is no class of this name, or it does not have an option.
        """
        if name not in self._classes:
            raise unknown(self.kind, name, self._classes)
        of = self._classes[name]
        given = {option: value for option, value in options.items() if value is not None}
        for option in given:
            if option not in _field_types(of):
                others = " or ".join(self.having(option))
                hint = f"; it belongs to {others}" if others else ""
                raise LimnerError(f"the {self.kind} {name} has no option {option}{hint}")
        return replace(of(), **given)

    def _check_name(self, name: str) -> str:
        """Check the value of the option that chooses, for pydantic."""
        if name not in self._classes:
            quoted = [f"'{known}'" for known in self._classes]
            raise ValueError(f"input should be {', '.join(quoted[:-1])} or {quoted[-1]}")
        return name

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check_name, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"enum": list(self._classes), "type": "string"}


def _field_types(of: type[Any]) -> dict[str, Any]:
    """Return the types of a data class's fields, by name."""
    hints = get_type_hints(of, include_extras=True)
    return {field.name: hints[field.name] for field in fields(of)}
