"""bfloat16 where a device has it."""

import pytest
import torch

from limner.nn import precision
from limner.nn.precision import autocast, has_bfloat16

CPU = torch.device("cpu")


@pytest.mark.parametrize("has", [True, False])
def test_networks_compute_in_bfloat16_only_where_the_device_has_it(has, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: has)
    layer = torch.nn.Linear(4, 4)
    with autocast(CPU, "bfloat16"):
        assert layer(torch.ones(1, 4)).dtype == (torch.bfloat16 if has else torch.float32)
    with autocast(CPU, "float32"):
        assert layer(torch.ones(1, 4)).dtype == torch.float32


def test_a_processor_has_it_where_onednn_says_so():
    if torch.backends.mkldnn.is_available():
        assert has_bfloat16(CPU) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    else:
        assert not has_bfloat16(CPU)
