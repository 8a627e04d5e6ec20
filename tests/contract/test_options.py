"""A wrong option is refused in one line that says what to type instead."""

import json
from typing import Annotated, Literal, TypedDict, Unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from limner.contract.errors import LimnerError
from limner.contract.options import (
    Count,
    Layers,
    Share,
    Widths,
    json_schema,
    option_names,
    parse_assignments,
    parse_value,
    plain,
    typed_value,
    validate_options,
)


class Painter:
    def __init__(
        self,
        spec: object,
        width: int,
        rate: float = 2e-4,
        sizes: Widths = (1, 2),
        more: Layers = (),
        kind: Literal["cosine", "linear"] = "cosine",
        deep: bool = False,
        cap: int | None = None,
        ends: tuple[float, float] | None = None,
        table: dict[str, float] | None = None,
    ) -> None:
        pass


def read(**values: object) -> dict:
    return validate_options(
        Painter.__init__, values, kind="model option", prefix="model.", skip=("spec",)
    )


def test_defaults_are_filled_in_and_types_converted():
    assert read(width="8", sizes=[3, 4], rate=1) == {
        "width": 8, "rate": 1.0, "sizes": (3, 4), "more": (), "kind": "cosine", "deep": False,
        "cap": None, "ends": None, "table": None,
    }  # fmt: skip


def test_none_clears_an_option_that_need_not_have_a_value():
    values = read(width=3, cap="none", ends="none", table="none")
    assert (values["cap"], values["ends"], values["table"]) == (None, None, None)
    with pytest.raises(LimnerError, match=r"model\.rate='none': input should be a valid number"):
        read(width=3, rate="none")
    assert typed_value(None) == "none"


def test_none_is_itself_where_it_is_a_choice_or_a_text():
    def f(norm: Literal["none", "batch"] | None = None, name: str = "") -> None: ...

    assert validate_options(f, {"norm": "none", "name": "none"}) == {"norm": "none", "name": "none"}


class Shared(TypedDict, total=False):
    steps: Count | None
    eta: Share | None


def walk(n: int, *, clip: bool = True, **options: Unpack[Shared]) -> None:
    del n, clip, options


def test_shared_options_work_like_the_options_of_a_function():
    values = validate_options(walk, {"steps": 3}, skip=("n",))
    assert values == {"steps": 3, "eta": None, "clip": True}
    assert list(json_schema(walk, skip=("n",))["properties"]) == ["steps", "eta", "clip"]
    assert option_names(walk) == ["steps", "eta", "n", "clip"]
    assert option_names(Painter.__init__)[1:3] == ["spec", "width"]
    with pytest.raises(LimnerError, match="unknown option 'stesp'; did you mean 'steps'"):
        validate_options(walk, {"stesp": 3}, skip=("n",))
    with pytest.raises(LimnerError, match="option eta=2: input should be less than or equal to 1"):
        validate_options(walk, {"eta": 2}, skip=("n",))


class Sizes(TypedDict, total=False):
    width: Annotated[Count, Field(default=8)]
    rate: Annotated[Share, Field(default=0.0)]


def build(spec: int, *, deep: bool = False, **sizes: Unpack[Sizes]) -> None:
    del spec, deep, sizes


def test_a_shared_option_may_have_a_default():
    assert validate_options(build, {"rate": 1}, skip=("spec",)) == {
        "width": 8,
        "rate": 1.0,
        "deep": False,
    }
    assert validate_options(build, {}, skip=("spec",))["rate"] == 0.0
    known = json_schema(build, skip=("spec",))["properties"]
    assert known["width"] == {"default": 8, "minimum": 1, "title": "Width", "type": "integer"}
    with pytest.raises(LimnerError, match="width=0: input should be greater"):
        validate_options(build, {"width": 0}, prefix="model.", skip=("spec",))


def test_a_single_number_stands_for_one_layer():
    values = read(width=8, sizes=3, more=4)
    assert (values["sizes"], values["more"]) == ((3,), (4,))
    assert read(width=8, more=[])["more"] == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widht": 3}, "unknown model option 'model.widht'; did you mean 'model.width'?"),
        ({"%%%%%%%%%%%%%%%%%": 3}, "known: model.cap, model.deep"),
        ({}, "model option model.width is missing; give it as model.width=VALUE"),
        ({"width": "broad"}, "model option model.width='broad': input should be a valid integer"),
        ({"width": 1.5}, "model option model.width=1.5: input should be a valid integer"),
        ({"width": 1, "kind": "cos"}, "model.kind='cos': input should be 'cosine' or 'linear'"),
        ({"width": 1, "sizes": ["a"]}, "model option model.sizes.0='a'"),
        ({"width": 1, "sizes": [8, 0]}, "model.sizes.1=0: input should be greater than or equal"),
        ({"width": 1, "sizes": []}, "model.sizes=[]: value should have at least 1 item, not 0"),
        ({"width": 1, "more": "a"}, "model.more='a': give numbers with commas"),
        ({"width": 1, "ends": 0.5}, "model option model.ends=0.5: give 2 numbers with commas"),
        ({"width": 1, "ends": [0.5]}, "model.ends=[0.5]: give 2 numbers with commas"),
        ({"width": 1, "ends": [0, 1, 2]}, "model.ends=[0, 1, 2]: give 2 numbers with commas"),
        ({"width": 1, "table": {"a": "x"}}, "model option model.table.a='x': input should be a"),
        ({"width": 1, "deep": "perhaps"}, "model.deep='perhaps': give true or false"),
        ({"width": "x" * 999}, "..."),
        ({"width": 1, "spec": 2}, "unknown model option 'model.spec'"),
        ({"width": 1, "self": 2}, "unknown model option 'model.self'"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(values: dict, message: str):
    with pytest.raises(LimnerError) as error:
        read(**values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250
    assert error.value.__cause__ is None


def test_a_schema_is_json_and_names_types_and_defaults():
    schema = json.loads(json.dumps(json_schema(Painter.__init__, skip=("spec",))))
    assert set(schema["properties"]) == {
        "width", "rate", "sizes", "more", "kind", "deep", "cap", "ends", "table"
    }  # fmt: skip
    assert schema["required"] == ["width"]
    assert schema["properties"]["kind"]["enum"] == ["cosine", "linear"]
    assert schema["properties"]["rate"]["default"] == 2e-4


def test_plain_values_are_json_and_read_back_the_same():
    values = read(width=3)
    document = plain(Painter.__init__, values, ("spec",))
    assert json.loads(json.dumps(document)) == document
    assert read(**document) == values


def test_variadic_arguments_are_not_options():
    def frames(n: int, *rest: int, scale: float = 1.0, **more: int) -> None:
        pass

    assert validate_options(frames, {}, skip=("n",)) == {"scale": 1.0}
    with pytest.raises(LimnerError, match="unknown option 'more'"):
        validate_options(frames, {"more": 1}, skip=("n",))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("2e-4", 2e-4), ("-1.5", -1.5), ("true", True), ("64,128", [64, 128]),
        ("[1, 2]", [1, 2]), ("cosine", "cosine"), ("a,2", ["a", 2]), ("", ""), ("None", "None"),
        ('"a,b"', "a,b"), ("C:\\x", "C:\\x"), ("a=b", "a=b"), ("{x = 1}", {"x": 1}),
        ("runs/kl", "runs/kl"), ("1,", [1]),
    ],
)  # fmt: skip
def test_values_are_read_as_typed(text: str, value: object):
    result = parse_value(text)
    assert result == value
    assert type(result) is type(value)


@given(st.text(max_size=40))
def test_any_text_is_read_without_an_error(text: str):
    parse_value(text)


@given(st.one_of(st.integers(-(2**60), 2**60), st.booleans(), st.lists(st.integers(0, 9))))
def test_json_numbers_read_as_themselves(value: object):
    assert parse_value(json.dumps(value)) == value


def test_assignments_are_sorted_into_sections():
    sections = parse_assignments(
        ["model.channels=64", "train.steps=2000", "model.kind=a=b"], ("model", "train")
    )
    assert sections == {"model": {"channels": 64, "kind": "a=b"}, "train": {"steps": 2000}}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("channels", "'channels' is not an option; write key=value"),
        ("channels=3", "write model.channels or train.channels"),
        ("modle.channels=3", "unknown section 'modle'; did you mean 'model'?"),
        ("model.=3", "names no section"),
        ("=3", "names no section"),
    ],
)
def test_a_wrong_assignment_is_refused_in_one_line(argument: str, message: str):
    with pytest.raises(LimnerError) as error:
        parse_assignments([argument], ("model", "train"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_text_may_have_commas_which_look_like_a_list():
    """`data.skills="a=2,b=1"`: the shell removes the quotes."""

    def f(
        skills: str = "", words: int | str = 0, widths: tuple[int, ...] | None = None
    ) -> None: ...

    def read(*arguments: str) -> dict[str, object]:
        return validate_options(f, parse_assignments(arguments, ["data"])["data"])

    assert read("data.skills=a=2,b=1.5")["skills"] == "a=2,b=1.5"
    assert read("data.words=dog,cat")["words"] == "dog,cat"
    assert read("data.words=3", "data.widths=1,2") == {"skills": "", "words": 3, "widths": (1, 2)}
    with pytest.raises(LimnerError, match="give numbers with commas"):
        read("data.widths=a")

    def g(names: tuple[str, ...] = (), more: list[str] | str = "") -> None: ...

    assert validate_options(g, {"names": [], "more": ["a"]}) == {"names": (), "more": ["a"]}
