"""Purposes of random numbers: one file draws for each, and no purpose is a step's number."""

import ast
from collections import defaultdict
from pathlib import Path

from limner.contract.noise import Purpose

SOURCE = Path(__file__).parent.parent / "src" / "limner"
STEPS = {("training", "loop.py")}  # streams of training steps
OF_THE_DATA = {"BINARISE"}  # training data and evaluation data are binarised alike
OF_MODELS = {"CALIBRATION", "PREPARATION"}  # every model draws its own


def users() -> dict[str, set[str]]:
    """Return the files that draw for each purpose, and under "step" those that draw at a step."""
    result: dict[str, set[str]] = defaultdict(set)
    for file in sorted(SOURCE.rglob("*.py")):
        place = file.relative_to(SOURCE)
        if place.parts[0] == "testing":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith(".keyed"):
                continue
            step = ast.unparse(node.args[1])
            name = step.removeprefix("Purpose.") if step.startswith("Purpose.") else "step"
            result[name].add(str(place))
    return result


def test_no_two_users_share_a_purpose():
    by_purpose = users()
    assert {tuple(Path(place).parts) for place in by_purpose.pop("step")} == STEPS
    for name, places in by_purpose.items():
        if name not in OF_THE_DATA | OF_MODELS:
            assert len(places) == 1, f"several files draw for {name}: {sorted(places)}"


def test_each_purpose_is_used_and_has_its_own_negative_number():
    names = {*users(), "SAMPLING"}
    assert {purpose.name for purpose in Purpose} <= names
    assert len({*Purpose}) == len(Purpose.__members__)
    assert max(Purpose) < 0, "training steps count from 0"
