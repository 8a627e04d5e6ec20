"""The small test cases of each registered model, built once per process."""

import functools

from limner.contract.registry import models
from limner.testing.cases import Case, cases


@functools.cache
def registered_cases(name: str) -> tuple[Case, ...]:
    """Return one case for each kind of data that the model takes (cached: it builds models)."""
    return tuple(cases(models()[name]))
