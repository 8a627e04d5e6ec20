"""Every registered metric keeps its promises on pictures of a known law."""

from collections.abc import Callable

import pytest

from limner.evaluate.metric import Metric, metrics
from limner.testing.metric_checks import CHECKS, check_interval, is_checkable

TESTABLE = [name for name, metric in metrics().items() if is_checkable(metric)]
SLOW = ("mind", "fld")


@pytest.mark.parametrize("name", TESTABLE)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_metric_keeps_its_promise(check: Callable[[type[Metric]], None], name: str):
    if check is check_interval and name in SLOW:
        check_interval(metrics()[name], repeats=80)
    else:
        check(metrics()[name])
