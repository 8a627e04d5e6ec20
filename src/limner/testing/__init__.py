"""The contract as checks that run on any model.

    from limner.testing import check_model
    check_model("my-model")

There are eleven promises, one function each; a broken promise raises an AssertionError that says
how. A check gets a `Case`: a model class with a small configuration on a small specification.
`cases` makes them from the registry: a grey, a labelled, a captioned and a translating data set, if
the model takes them. If a model does not use a part of its data (classes, captions, conditioning
images), it must either refuse it with a LimnerError, or remove it from its `spec`, as in
`self.spec = replace(spec, labels=(), frequencies=())`.
"""

from collections.abc import Callable

from limner.contract.abilities import ExtractsFeatures
from limner.contract.errors import LimnerError
from limner.contract.likelihood import LikelihoodModel
from limner.contract.model import GenerativeModel
from limner.contract.registry import entry
from limner.testing.cases import Case, cases
from limner.testing.entropy import check_entropy_floor
from limner.testing.promises import (
    check_accumulates,
    check_any_batch,
    check_builds,
    check_condition,
    check_last_frame,
    check_moves,
    check_paints,
    check_resumes,
    check_saves,
    check_turns,
)

CHECKS = {
    1: check_builds,
    2: check_paints,
    3: check_last_frame,
    4: check_any_batch,
    5: check_turns,
    6: check_saves,
    7: check_condition,
    8: check_resumes,
    9: check_accumulates,
    10: check_moves,
    11: check_entropy_floor,
}


def checks_for(case: Case) -> list[Callable[[Case], None]]:
    """Return the promises that a model makes on such data, in the order of their numbers."""
    is_generative = issubclass(case.model, GenerativeModel)
    has_conditions = bool(case.spec.labels or case.spec.text or case.spec.hint)
    exempt = {
        check_paints: not is_generative,
        check_last_frame: not is_generative,
        check_any_batch: not issubclass(case.model, (GenerativeModel, ExtractsFeatures)),
        check_condition: not is_generative or not has_conditions,
        check_accumulates: case.model.couples_batch,
        check_entropy_floor: not issubclass(case.model, LikelihoodModel),
    }
    return [check for check in CHECKS.values() if not exempt.get(check)]


def check_model(name: str) -> list[str]:
    """Run all checks of the contract on a registered model.

    Args:
        name: the registered name.

    Returns:
        a line for each promise and kind of data that was checked.

    Raises:
        AssertionError: a promise is broken; the message says which and how.
    """
    lines = []
    for case in cases(entry(name)):
        for check in checks_for(case):
            promise = " ".join((check.__doc__ or "").split("\n\n")[0].split())
            try:
                check(case)
            except (AssertionError, LimnerError) as error:
                raise AssertionError(f"{case}, promise {promise}\n{error}") from error
            lines.append(f"{case}: {promise}")
    return lines
