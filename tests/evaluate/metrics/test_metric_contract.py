"""Every registered metric keeps its promises on pictures of a known law."""

from collections.abc import Callable

import pytest

from limner.evaluate.metric import Metric, metrics
from limner.testing.metric_checks import CHECKS, is_checkable

TESTABLE = [name for name, metric in metrics().items() if is_checkable(metric)]


@pytest.mark.parametrize("name", TESTABLE)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_metric_keeps_its_promise(check: Callable[[type[Metric]], None], name: str):
    check(metrics()[name])
