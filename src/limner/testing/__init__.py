"""The contract as checks that anybody's model can be put through.

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

from limner.model import GenerativeModel, Learner, LikelihoodModel
from limner.registry import entry
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

LEARNER_CHECKS = (
    check_builds,
    check_turns,
    check_saves,
    check_resumes,
    check_accumulates,
    check_moves,
)
PAINTER_CHECKS = (check_paints, check_last_frame, check_any_batch, check_condition)
LIKELIHOOD_CHECKS = (check_entropy_floor,)


def checks_for(model: type[Learner]) -> list[Callable[[Case], None]]:
    """The promises that a class makes, in the order of their numbers."""
    found = list(LEARNER_CHECKS)
    if issubclass(model, GenerativeModel):
        found += PAINTER_CHECKS
    if issubclass(model, LikelihoodModel):
        found += LIKELIHOOD_CHECKS
    return sorted(found, key=lambda check: int((check.__doc__ or "0").split(".")[0]))


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
    of = entry(name)
    for case in cases(of):
        for check in checks_for(of.model):
            said = (check.__doc__ or "").strip().split("\n")[0]
            try:
                check(case)
            except AssertionError as error:
                raise AssertionError(f"{case}, promise {said}\n{error}") from error
            done.append(f"{case}: {said}")
    return done
