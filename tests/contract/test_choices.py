"""Classes of which an option chooses one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any, TypedDict, Unpack

import pytest

from limner.contract.choices import Choices
from limner.contract.errors import LimnerError
from limner.contract.options import Count, json_schema, option_names, validated


class Shape(ABC):
    @abstractmethod
    def area(self) -> float: ...


SHAPES = Choices("shape", Shape)


@SHAPES.register("square")
@dataclass(frozen=True)
class Square(Shape):
    """A square.

    Args:
        side: length of a side; 1 by default.
    """

    side: Count = 1

    def area(self) -> float:
        return self.side**2


@SHAPES.register("box")
@dataclass(frozen=True)
class Box(Shape):
    """A box.

    Args:
        side: length of the longer side.
        ratio: ratio of the sides.
    """

    side: Count = 2
    ratio: float = 0.5

    def area(self) -> float:
        return self.side**2 * self.ratio


class Drawing(TypedDict, total=False):
    """Options.

    Args:
        shape: the shape to draw.
        width: width of the pen.
    """

    shape: Annotated[str, SHAPES] | None
    width: float | None


def draw(n: int = 1, **options: Unpack[Drawing]) -> Any:
    """Draw.

    Args:
        n: number of drawings.
    """
    values = validated(draw, options)
    values.pop("n"), values.pop("width")
    return SHAPES.make(values.pop("shape") or "square", **values)


def test_the_fields_of_the_classes_are_options():
    assert option_names(draw) == ["shape", "width", "side", "ratio", "n"]
    assert draw() == Square(1)
    assert draw(shape="box") == Box(2, 0.5)
    assert draw(shape="box", side=3) == Box(3, 0.5)  # pyright: ignore


def test_the_schema_has_the_names_and_says_whose_options_they_are():
    schema = json_schema(draw)["properties"]
    assert schema["shape"]["anyOf"] == [
        {"enum": ["square", "box"], "type": "string"},
        {"type": "null"},
    ]
    assert schema["side"]["description"] == ("for square and box: length of a side; 1 by default.")
    assert schema["ratio"]["description"] == "for box: ratio of the sides."
    assert schema["side"]["anyOf"][0] == {"minimum": 1, "type": "integer"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": "circle"}, "option shape='circle': input should be 'square' or 'box'"),
        ({"side": 0}, "option side=0: input should be greater than or equal to 1"),
        ({"ratio": 0.1}, "the shape square has no option ratio; it belongs to box"),
        ({"shape": "box", "angle": 1}, "unknown option 'angle'"),
    ],
)
def test_a_wrong_choice_or_option_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(LimnerError, match=message):
        draw(**options)


def test_an_unknown_class_is_refused_when_it_is_made():
    with pytest.raises(LimnerError, match="unknown shape 'boxes'; did you mean 'box'"):
        SHAPES.make("boxes")


class Area(Shape):
    def area(self) -> float:
        return 0.0


def made(name: str, *options: Any, base: type = Area, frozen: bool = True) -> type:
    return make_dataclass(name, options, bases=(base,), frozen=frozen)


@pytest.mark.parametrize(
    ("name", "of", "message"),
    [
        ("box", made("Disc"), "the shape name 'box' is taken by Box of"),
        ("Disc", made("Disc"), "write the shape's name in lower case"),
        ("disc", made("Disc", base=object), "Disc is no shape; give it"),
        ("disc", Area, "Area is not a frozen data class; write @dataclass"),
        ("disc", type("Disc", (made("Disc"),), {}), "Disc is not a frozen data class"),
        ("disc", made("Disc", frozen=False), "Disc is not a frozen data class"),
        ("disc", made("Disc", base=Shape), "Disc lacks the method area of"),
        ("disc", made("Disc", ("size", int)), "the option size of Disc needs a default"),
        ("disc", made("Disc", ("ratio", int, 1)), "the option ratio of Disc has another type than"),
    ],
)
def test_a_class_that_cannot_be_chosen_is_refused(name: str, of: type, message: str):
    with pytest.raises(LimnerError, match=message):
        SHAPES.register(name)(of)
    assert [*SHAPES.classes] == ["square", "box"]


def test_a_class_whose_file_runs_again_replaces_itself(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(SHAPES, "_classes", SHAPES.classes)
    again = made("Box")
    again.__module__, again.__qualname__ = Box.__module__, "Box"
    SHAPES.register("box")(again)
    assert SHAPES.classes["box"] is again
