"""A pytest plugin that rewrites tests/slow.txt: the tests that take more than two seconds.

    PYTHONPATH=tests/helpers pytest -n 0 -m "" -p slow_tests

It measures wall-clock time, so nothing else should run at the same time.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SLOW = Path(__file__).parents[1] / "slow.txt"
SECONDS = 2.0
_slow: list[str] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    began = time.perf_counter()
    result = yield
    if time.perf_counter() - began > SECONDS:
        _slow.append(item.nodeid)
    return result


def pytest_sessionfinish() -> None:
    SLOW.write_text("".join(f"{name}\n" for name in sorted(_slow)), encoding="utf-8")
