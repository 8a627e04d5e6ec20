"""bfloat16 on devices that support it."""

import pytest
import torch

from limner.nn import precision
from limner.nn.precision import autocast, has_bfloat16

CPU = torch.device("cpu")


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_is_used_only_if_the_device_supports_it(has, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: has)
    layer = torch.nn.Linear(4, 4)
    with autocast(CPU, "bfloat16"):
        assert layer(torch.ones(1, 4)).dtype == (torch.bfloat16 if has else torch.float32)
    with autocast(CPU, "float32"):
        assert layer(torch.ones(1, 4)).dtype == torch.float32


def test_cpu_support_is_reported_by_onednn():
    if torch.backends.mkldnn.is_available():
        assert has_bfloat16(CPU) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    else:
        assert not has_bfloat16(CPU)


@pytest.mark.parametrize("outer", [False, True])
def test_changed_weights_are_used_at_once(outer, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    layer = torch.nn.Linear(4, 4, bias=False)
    with torch.autocast("cpu", torch.bfloat16, enabled=outer):
        for value in (1.0, 2.0):
            torch.nn.init.constant_(layer.weight, value)
            with autocast(CPU, "bfloat16"):
                assert torch.equal(layer(torch.eye(4)).float(), layer.weight)
