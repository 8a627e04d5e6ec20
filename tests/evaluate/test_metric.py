"""What a metric of any package returns is checked where it is used."""

from typing import Any, cast

import pytest
import torch

from limner.contract.errors import LimnerError
from limner.evaluate.metric import Metric, Setting, needs_of, numbers_of, sheets_of
from limner.evaluate.passes import Observations
from limner.evaluate.report import Number


class Own(Metric):
    """A metric of your own, which returns what a test says."""

    name = "own"

    def __init__(self, result: object) -> None:
        super().__init__(cast("Setting", None))
        self.result: Any = result

    def needs(self) -> Any:
        return self.result

    def numbers(self, observations: Observations) -> Any:
        return self.result

    def sheets(self, observations: Observations) -> Any:
        return self.result


SEEN = cast("Observations", None)
pytestmark = pytest.mark.usefixtures("unchecked_shapes")


@pytest.mark.parametrize("needs", [None, [("pictures", "observer")], [torch.zeros(1)], [()]])
def test_needs_are_pairs_of_pictures_and_observers(needs: object):
    with pytest.raises(LimnerError, match="needs of Own does not return pairs of pictures and an"):
        needs_of(Own(needs))


def test_a_number_may_be_a_tensor():
    numbers = [Number("own", "Own", cast("float", torch.tensor(0.5)), 3)]
    assert numbers_of(Own(numbers), SEEN) == [Number("own", "Own", 0.5, 3)]
    assert isinstance(numbers_of(Own(numbers), SEEN)[0].value, float)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"value": None}, "numbers of Own: the field value=None: input should be a valid number"),
        ({"n": "ten"}, "the field n='ten': input should be a valid integer"),
        ({"name": 3}, "the field name=3: input should be a valid string"),
        ({"better": "bigger"}, "field better='bigger': input should be '', 'higher' or 'lower'"),
    ],
)
def test_the_fields_of_numbers_have_the_right_types(fields: dict[str, Any], said: str):
    number = Number(**{"metric": "own", "name": "Own", "value": 1.0, "n": 3} | fields)
    with pytest.raises(LimnerError, match=said):
        numbers_of(Own([number]), SEEN)


@pytest.mark.parametrize(
    "sheets",
    [
        None,
        {"own": "text"},
        {"own": torch.rand(4, 1, 8, 8)},
        {"../own": torch.zeros(4, 1, 8, 8, dtype=torch.uint8)},
        {"own": torch.zeros(8, 8, dtype=torch.uint8)},
    ],
)
def test_sheets_are_bytes_by_file_name(sheets: object):
    with pytest.raises(LimnerError, match="sheets of Own does not return sheets by file name"):
        sheets_of(Own(sheets), SEEN)
