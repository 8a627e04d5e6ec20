"""The comparison of a device with the CPU: the CPU itself, and a device with wrong results."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from limner.commands.app import app
from limner.contract.errors import LimnerError
from limner.contract.registry import entry
from limner.testing import on_device
from limner.testing.on_device import DeviceResult, compare, rows, speeds, table

CPU = torch.device("cpu")


def test_the_cpu_equals_itself():
    result = list(rows(CPU, ["gan", "lenet"]))
    assert result == [DeviceResult("gan", 0), DeviceResult("lenet")]
    assert all(row.is_accepted for row in result)
    assert "| lenet | - | 0.0e+00 | yes |" in table(result)


def test_a_device_with_wrong_results_is_marked(monkeypatch: pytest.MonkeyPatch):
    """The second model of each pair runs on the device."""
    models: list[nn.Module] = []
    original = nn.Module.to

    def erring(self: nn.Module, *args: object, **kwargs: object) -> nn.Module:
        if args == (CPU,) and not models:
            models.append(self)
            with torch.no_grad():
                for p in self.parameters():
                    p.mul_(1.5)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "to", erring)
    row = compare(entry("gan"), CPU)
    assert (
        not row.is_accepted
        and row.levels is not None
        and row.levels > on_device.MAX_LEVEL_DIFFERENCE
    )
    assert table([row]).splitlines()[-1].startswith("| ! gan |")


def test_an_operation_that_a_device_lacks_is_stated_in_its_row(monkeypatch: pytest.MonkeyPatch):
    def lacking(*args: Tensor) -> Tensor:
        raise RuntimeError("'aten::conv2d' is not there\nmore words")

    monkeypatch.setattr(on_device, "paint", lacking)
    row = compare(entry("gan"), CPU)
    assert row.error == "'aten::conv2d' is not there" and not row.is_accepted
    assert "aten::conv2d" in table([row])


def test_speeds_are_pictures_per_second(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(on_device, "_SIDE", 8)
    monkeypatch.setattr(on_device, "_BATCH", 1)
    clock = SimpleNamespace(perf_counter=itertools.count(0.0, 0.05).__next__)
    monkeypatch.setattr(on_device, "time", clock)
    lines = speeds(CPU, 0.0).splitlines()
    assert lines[2].startswith("| training") and float(lines[2].split("|")[2]) == 10


def test_the_tables_are_not_json():
    with pytest.raises(LimnerError, match="leave --json out"):
        app(["doctor", "--gpu", "--json"])


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_reported():
    with pytest.raises(LimnerError, match="torch finds no GPU here"):
        app(["doctor", "--gpu"])
