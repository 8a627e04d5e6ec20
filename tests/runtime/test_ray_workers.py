"""What is said where workers of a Ray cluster cannot be had."""

import socket
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from limner.contract.errors import LimnerError
from limner.runtime.ray_workers import done_by_ray


def test_a_cluster_that_asks_for_a_token_says_how_it_is_given(monkeypatch: pytest.MonkeyPatch):
    def init(**_: Any) -> None:
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(LimnerError, match=r"no Ray cluster .*; or, .* RAY_AUTH_MODE=token bef"):
            next(done_by_ray(object, (), [0], workers=2, address=address))


def test_workers_of_this_machine_are_not_those_of_a_cluster_that_is_there(
    monkeypatch: pytest.MonkeyPatch,
):
    asked = dict[str, Any]()

    def init(**given: Any) -> None:
        asked.update(given)
        raise ConnectionError

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with pytest.raises(LimnerError):
        next(done_by_ray(object, (), [0], workers=2, address=None))
    assert (asked["address"], asked["num_cpus"]) == ("local", 2)
