"""The small cases of each registered model, found once for all tests of a process."""

import functools

from limner.contract.registry import models
from limner.testing.cases import Case, cases


@functools.cache
def registered_cases(name: str) -> tuple[Case, ...]:
    """A model on each kind of data that it takes; to find them, it is built several times."""
    return tuple(cases(models()[name]))
