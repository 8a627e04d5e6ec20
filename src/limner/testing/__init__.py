"""The contract as checks for any model.

    from limner.testing import check_model
    check_model("my-model")

Eleven promises, one function each; a promise that is broken is an AssertionError that says how. A
check is given a `Case`: a model class with a small configuration on a small specification. `cases`
makes them from the registry: a grey, a labelled, a captioned and a translating data set, as far as
the model takes them. What a model does not use of its data (classes, captions, conditioning images)
it either refuses with a LimnerError, or takes out of its `spec`, as in `self.spec = replace(spec,
labels=(), frequencies=())`.
"""

from collections.abc import Callable

from limner.contract.abilities import Features
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
    """The promises that a model makes on such data, in the order of their numbers."""
    generates = issubclass(case.model, GenerativeModel)
    conditions = bool(case.spec.labels or case.spec.text or case.spec.hint)
    exempt = {
        check_paints: not generates,
        check_last_frame: not generates,
        check_any_batch: not issubclass(case.model, (GenerativeModel, Features)),
        check_condition: not generates or not conditions,
        check_accumulates: case.model.couples_batch,
        check_entropy_floor: not issubclass(case.model, LikelihoodModel),
    }
    return [check for check in CHECKS.values() if not exempt.get(check)]


def check_model(name: str) -> list[str]:
    """Put a registered model through the whole contract.

    Args:
        name: what it was registered as.

    Returns:
        what was checked, a line for each promise and kind of data.

    Raises:
        AssertionError: a promise is broken; the message says which and how.
    """
    done = []
    for case in cases(entry(name)):
        for check in checks_for(case):
            said = " ".join((check.__doc__ or "").split("\n\n")[0].split())
            try:
                check(case)
            except (AssertionError, LimnerError) as error:
                raise AssertionError(f"{case}, promise {said}\n{error}") from error
            done.append(f"{case}: {said}")
    return done
