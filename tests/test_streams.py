"""Who draws which random numbers: a purpose has one user, and no number stands for a step."""

import ast
from collections import defaultdict
from pathlib import Path

from limner.contract.noise import Purpose

SOURCE = Path(__file__).parent.parent / "src" / "limner"
STEPS = {("training", "loop.py")}  # whose streams are those of training steps
OF_THE_DATA = {"BINARISE"}  # training data and what a model is judged by are binarised alike
OF_MODELS = {"CALIBRATION", "PREPARATION"}  # each model draws them for itself alone


def users() -> dict[str, set[str]]:
    """Which files draw for which purpose; under "step", those that draw at a training step."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in sorted(SOURCE.rglob("*.py")):
        place = file.relative_to(SOURCE)
        if place.parts[0] == "testing":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith(".keyed"):
                continue
            step = ast.unparse(node.args[1])
            name = step.removeprefix("Purpose.") if step.startswith("Purpose.") else "step"
            found[name].add(str(place))
    return found


def test_no_two_users_share_a_purpose():
    found = users()
    assert {tuple(Path(place).parts) for place in found.pop("step")} == STEPS
    for name, places in found.items():
        if name not in OF_THE_DATA | OF_MODELS:
            assert len(places) == 1, f"{name} is drawn for by {sorted(places)}"


def test_each_purpose_is_used_and_has_a_number_of_its_own():
    drawn = {*users(), "SAMPLING"}
    assert {purpose.name for purpose in Purpose} <= drawn
    assert len({*Purpose}) == len(Purpose.__members__)
    assert max(Purpose) < 0, "steps of training count from 0"
