"""Errors when a Ray cluster cannot be used."""

import socket
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from limner.contract.errors import LimnerError
from limner.runtime.ray_workers import run_by_ray


def test_the_error_of_a_cluster_with_a_token_states_how_to_give_it(monkeypatch: pytest.MonkeyPatch):
    def init(**_: Any) -> None:
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(LimnerError, match=r"no Ray cluster .*; or, .* RAY_AUTH_MODE=token bef"):
            next(run_by_ray(object, (), [0], workers=2, address=address))


def test_without_an_address_only_local_workers_are_used(
    monkeypatch: pytest.MonkeyPatch,
):
    options = dict[str, Any]()

    def init(**kwargs: Any) -> None:
        options.update(kwargs)
        raise ConnectionError

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with pytest.raises(LimnerError):
        next(run_by_ray(object, (), [0], workers=2, address=None))
    assert (options["address"], options["num_cpus"]) == ("local", 2)
