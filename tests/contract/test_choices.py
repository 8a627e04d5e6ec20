"""Classes of which an option chooses one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, TypedDict, Unpack

import pytest
from pydantic import Field

from limner.contract.choices import Choices
from limner.contract.errors import LimnerError
from limner.contract.names import check_new_name
from limner.contract.options import Count, json_schema, option_names, validate_options


class Shape(ABC):
    @abstractmethod
    def area(self) -> float: ...


SHAPES = Choices("shape", Shape, {"colour"})


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
    values = validate_options(draw, options)
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
        (
            {"shape": ["box", "square"]},
            r"option shape=\['box', 'square'\]: input should be 'square'",
        ),
        (
            {"shape": "disc", "size": 3},
            "shape=disc is none of square, box, so size is unknown, too",
        ),
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


class Scaled(Shape):
    def area(self, scale: float) -> float:  # pyright: ignore
        return scale


def made(
    name: str, *options: Any, base: type = Area, frozen: bool = True, slots: bool = False
) -> type:
    return make_dataclass(name, options, bases=(base,), frozen=frozen, slots=slots)


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
        ("disc", made("Disc", ("size", int), slots=True), "the option size of Disc needs a defau"),
        ("disc", made("Disc", ("size", int, field(default=1, init=False))), "because of init=Fal"),
        ("disc", made("Disc", ("size", int, "large")), "the default 'large' of the option size"),
        ("disc", made("Disc", ("size", Count, 0)), "the default 0 of the option size .* greater"),
        ("disc", made("Disc", ("size", int, Field(default=1))), "the default FieldInfo"),
        ("disc", made("Disc", ("size", "Unknown", 1)), "type that is not known there"),
        ("disc", made("Disc", ("area", int, 1)), "the option area of Disc has a reserved name"),
        ("disc", made("Disc", ("colour", int, 1)), "the option colour of Disc has a reserved name"),
        ("disc", made("Disc", ("_size", int, 1)), "the option _size of Disc has a reserved name"),
        (
            "disc",
            made("Disc", base=Scaled),
            r"area of Disc takes other arg.*; write def area\(self",
        ),
        ("disc", made("Disc", ("ratio", int, 1)), "the option ratio of Disc has another type than"),
    ],
)
def test_a_class_that_cannot_be_chosen_is_refused(name: str, of: Any, message: str):
    with pytest.raises(LimnerError, match=message):
        SHAPES.register(name)(of)
    assert [*SHAPES.classes] == ["square", "box"]


def test_a_name_that_is_left_out_is_asked_for():
    with pytest.raises(LimnerError, match="the decorator takes the shape's name, not <class"):
        check_new_name(Box, "shape")


@pytest.fixture
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore
    monkeypatch.setattr(SHAPES, "_classes", SHAPES.classes)


@pytest.mark.usefixtures("_own_registry")
def test_an_option_with_the_name_of_an_argument_is_refused():
    SHAPES.register("disc")(made("Disc", ("n", int, 1)))
    with pytest.raises(LimnerError, match="the option n of the shape disc is also one of draw"):
        draw()


@pytest.mark.usefixtures("_own_registry")
@pytest.mark.parametrize("kind", [Annotated[int, Field(ge=1)], Count | None])
def test_two_classes_may_share_an_option_of_the_same_type(kind: Any):
    SHAPES.register("disc")(made("Disc", ("side", kind, 3)))
    assert draw(shape="disc", side=2).side == 2  # pyright: ignore


@pytest.mark.usefixtures("_own_registry")
def test_a_class_registered_again_may_change_the_type_of_an_option():
    for kind, value in ((int, 1), (tuple[float, ...], (0.5, 0.2))):
        disc = made("Disc", ("size", kind, value))
        SHAPES.register("disc")(disc)
        assert draw(shape="disc", size=value) == disc()  # pyright: ignore


@pytest.mark.usefixtures("_own_registry")
def test_an_option_may_be_called_name_and_have_a_default_factory():
    disc = made("Disc", ("name", str, "a"), ("sides", list[int], field(default_factory=list[int])))
    SHAPES.register("disc")(disc)
    assert draw(shape="disc", name="b") == disc(name="b")  # pyright: ignore


@pytest.mark.usefixtures("_own_registry")
def test_values_that_a_class_refuses_are_reported():
    class Bounded(Area):
        size: int

        def __post_init__(self) -> None:
            if self.size > 1:
                raise ValueError("size is too large")

    SHAPES.register("disc")(made("Disc", ("size", int, 1), base=Bounded))
    with pytest.raises(LimnerError, match="the shape disc: size is too large"):
        draw(shape="disc", size=2)  # pyright: ignore


def test_a_class_whose_file_runs_again_replaces_itself(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(SHAPES, "_classes", SHAPES.classes)
    again = made("Box")
    again.__module__, again.__qualname__ = Box.__module__, "Box"
    SHAPES.register("box")(again)
    assert SHAPES.classes["box"] is again
