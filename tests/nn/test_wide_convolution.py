"""Convolutions in float32 where bfloat16 is too inaccurate or fails."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from limner.contract.noise import Noise
from limner.contract.registry import entry
from limner.nn.wide_convolution import StridedConv2d, WideConv2d
from limner.testing.cases import cases, toy_data


def test_strided_convolutions_of_narrow_maps_use_full_precision():
    layer, pointwise = StridedConv2d(3, 4, 3, stride=2, padding=1), WideConv2d(3, 4, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(2, 3, 4, 1)).dtype == torch.float32
        assert layer(torch.ones(2, 3, 1, 4)).dtype == torch.bfloat16
        assert pointwise(torch.ones(2, 3, 4, 4)).dtype == torch.float32


DEEP = {
    "autoencoder": {"channels": (8, 8, 8)},
    "best-of-n": {"channels": (8, 8, 8), "blocks": (0, 0, 0)},
    "dual-encoder": {"channels": (8, 8, 8)},
    "nvae": {"channels": (8, 8, 8), "groups": (1,)},
    "vae": {"channels": (8, 8, 8)},
}


@pytest.mark.parametrize("name", DEEP)
def test_networks_that_reduce_pictures_to_one_cell_use_it(name):
    case = cases(entry(name))[-1]
    side = 8 if name == "best-of-n" else 4
    spec = case.spec.with_size(side, side)
    model = replace(case, spec=spec, config={**case.config, **DEEP[name]}).build()
    dtypes = list[torch.dtype]()

    def record(layer, inputs, output):
        if layer.stride[-1] > inputs[0].shape[-1]:
            dtypes.append(output.dtype)

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(record)
    with torch.autocast("cpu", torch.bfloat16):
        next(iter(model.turns(toy_data(spec, 0, 2), 0, Noise.keyed(0, 0, range(2)))))
    assert dtypes and set(dtypes) == {torch.float32}
