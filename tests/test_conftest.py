"""Tests of conftest.py: no network, checked shapes, no silent skips."""

import os
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import jaxtyping
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from limner.contract.image import to_uint8
from limner.contract.noise import Noise

ELSEWHERE = "192.0.2.1"  # reserved for documentation: no machine has it
CONNECT = f"import socket; socket.create_connection(('{ELSEWHERE}', 80), timeout=1)"


def test_no_other_machine_can_be_reached():
    with socket.socket() as caller:
        for connect in (caller.connect, caller.connect_ex):
            with pytest.raises(OSError, match=f"may not reach {ELSEWHERE}"):
                connect((ELSEWHERE, 80))
    with pytest.raises(OSError, match="may not look up example"):
        urllib.request.urlopen("http://example.org", timeout=1)
    result = subprocess.run(
        [sys.executable, "-c", CONNECT], capture_output=True, text=True, check=False
    )
    assert "NetworkBlockedError" in result.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_can_be_reached(host: str):
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection((host, server.getsockname()[1]), timeout=5).close()


def test_sockets_in_the_file_system_work(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(os.path.relpath(tmp_path / "s"))
        server.listen()
        client.connect(os.path.relpath(tmp_path / "s"))


def test_shapes_are_checked():
    with pytest.raises(jaxtyping.TypeCheckError):
        to_uint8(torch.zeros(3, 3))
    with pytest.raises(jaxtyping.TypeCheckError):
        Noise.sampling(0, 2).rows("all")  # type: ignore[arg-type]


def test_a_call_is_checked_again_unless_all_its_shapes_are_known():
    def odd(x: Float[Tensor, "b"], twice: bool) -> Float[Tensor, "b"]:
        return x.repeat(2) if len(x) == 3 else x[: 4 - len(results)]

    checked = jaxtyping.jaxtyped(typechecker=sys.modules["limner_checker"].check)(odd)
    results: list[torch.Tensor] = []
    results.append(checked(torch.zeros(4), True))
    with pytest.raises(jaxtyping.TypeCheckError, match="return"):
        checked(torch.zeros(3), True)
    with pytest.raises(jaxtyping.TypeCheckError, match="return"):
        checked(torch.zeros(4), True)  # the same arguments, another result
    for wrong in (torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64), 4):
        with pytest.raises(jaxtyping.TypeCheckError, match="x"):
            checked(wrong, True)
    results.clear()
    checks = []
    counting = jaxtyping.jaxtyped(typechecker=lambda f: checks.append(f) or f)(odd)
    for _ in range(2):
        counting(torch.zeros(4), True)
    count = len(checks)
    for _ in range(9):
        counting(torch.zeros(4), True)
    assert len(checks) == count, "a checker was made again for a known call"


@pytest.mark.usefixtures("unchecked_shapes")
def test_shapes_can_be_left_unchecked():
    assert to_uint8(torch.zeros(3, 3)).shape == (3, 3)


DRAWN_AT_IMPORT = torch.rand(3)


@pytest.fixture(scope="module")
def shared() -> torch.Tensor:
    return torch.rand(3)


@pytest.fixture(scope="module")
def also_shared(shared: torch.Tensor) -> torch.Tensor:
    return torch.rand(3)


def test_what_tests_share_depends_on_no_draw_before_it(
    shared: torch.Tensor, also_shared: torch.Tensor
):
    expected = torch.rand(3)
    for drawn in (shared, also_shared, DRAWN_AT_IMPORT):
        assert torch.equal(drawn, expected)


def test_every_test_starts_with_the_same_seeds():
    assert torch.initial_seed() == 0
    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])


SKIPPING = """
import pytest

def test_skips():
    pytest.skip("no reason")

@pytest.mark.skipif(True, reason="of no matter")
def test_is_skipped(): ...

@pytest.mark.may_skip("there is no accelerator")
def test_may_skip():
    pytest.skip("allowed")

@pytest.mark.xfail(strict=True)
def test_fails_as_expected():
    assert False
"""


@pytest.mark.parametrize(
    ("strict", "outcome"),
    [("0", "3 skipped, 1 xfailed"), ("1", "1 failed, 1 skipped, 1 xfailed, 1 error")],
)
def test_skips_fail_if_limner_no_skip_is_set(tmp_path: Path, strict: str, outcome: str):
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    search = os.pathsep.join([str(Path(__file__).parent), os.environ["PYTHONPATH"]])
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "--rootdir", ".", "."],
        cwd=tmp_path,
        env=os.environ | {"LIMNER_NO_SKIP": strict, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.search(outcome, result.stdout), result.stdout + result.stderr
