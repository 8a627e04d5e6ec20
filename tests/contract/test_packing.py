"""Weights stored in eight bits are restored to within half a step of their row's scale."""

from pathlib import Path

import pytest
import torch
from registered import registered_cases

from limner.contract.checkpoint import (
    load,
    load_tensors,
    read_header,
    save_model,
    save_tensors,
)
from limner.contract.errors import LimnerError
from limner.contract.model import GenerativeModel
from limner.contract.packing import pack, unpack, weight_shape
from limner.testing.cases import conditions_for, paint


def test_a_row_is_restored_within_half_a_step_of_its_own_scale() -> None:
    rows = torch.randn(8, 3, 5, 16, generator=torch.Generator().manual_seed(1))
    rows *= torch.logspace(-4, 2, 8)[:, None, None, None]
    result = unpack(pack({"kernel": rows}))["kernel"]
    step = rows.flatten(1).abs().amax(1) / 127
    error = (result - rows).flatten(1).abs().amax(1)
    assert (error <= 0.501 * step).all()
    assert (error >= 0.3 * step).all()  # it is packed, not merely copied


def test_small_matrices_are_stored_in_float16_unless_they_are_rounded() -> None:
    weight = torch.randn(4, 60, generator=torch.Generator().manual_seed(0))
    rounded = (weight / 0.7).round() * 0.7
    packed = pack({"own": weight, "rounded": rounded})
    assert torch.equal(packed["own"], weight.half()) and "rounded" not in packed
    assert sum(x.numel() * x.element_size() for k, x in packed.items() if k != "own") < 240
    torch.testing.assert_close(unpack(packed)["rounded"], rounded)


def test_rows_of_zeros_stay_zeros() -> None:
    assert not unpack(pack({"zero": torch.zeros(4, 512)}))["zero"].any()


def test_vectors_and_whole_numbers_are_not_packed() -> None:
    tensors = {"bias": torch.tensor([0.1, 3.0]), "seen": torch.arange(2000).view(2, 1000)}
    result = unpack(pack(tensors))
    assert torch.equal(result["bias"], tensors["bias"].half())
    assert torch.equal(result["seen"], tensors["seen"])


@pytest.mark.parametrize("name", ["ddpm", "nvae"])
def test_a_model_in_eight_bits_paints_nearly_the_same(name: str, tmp_path: Path) -> None:
    model = registered_cases(name)[0].ready()
    save_model(model, tmp_path / "eight", dtype=torch.int8)
    save_model(model, tmp_path / "half", dtype=torch.float16)
    size = {
        kind: (tmp_path / kind / "model.safetensors").stat().st_size for kind in ("eight", "half")
    }
    assert size["eight"] < size["half"]
    loaded = [load(tmp_path / kind) for kind in size]
    eight, half = (
        paint(each, 2, conditions_for(each, 2))
        for each in loaded
        if isinstance(each, GenerativeModel)
    )
    assert 0 < (eight - half).abs().mean() < 0.1


def test_rows_of_few_levels_are_restored_and_take_about_their_entropy() -> None:
    generator = torch.Generator().manual_seed(2)
    q = (1.5 * torch.randn(64, 16, 3, 3, generator=generator)).round().clamp(-8, 8)
    steps = torch.logspace(-3, 1, 64)
    steps[7] = 0
    tensors = {"kernel": q * steps[:, None, None, None]}
    packed = pack(tensors)
    torch.testing.assert_close(unpack(packed)["kernel"], tensors["kernel"], rtol=1e-6, atol=0)
    share = (q == torch.arange(-8, 9)[:, None, None, None, None]).flatten(1).double().mean(1)
    entropy = -(share * share.clamp(min=1e-12).log2()).sum() / 8
    (key,) = (name for name in packed if "@coded" in name)
    assert key == "kernel@coded:64x16x3x3" and weight_shape(key, ()) == [64, 16, 3, 3]
    assert packed[key].numel() < 1.15 * entropy * q.numel()


def test_multiples_up_to_63_are_restored_exactly() -> None:
    q = torch.arange(-63, 64).float().repeat(16).view(16, 127, 1, 1)
    assert torch.equal(unpack(pack({"w": q * 0.25}))["w"], q * 0.25)


def test_coded_weights_that_are_damaged_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    model = registered_cases("flow-matching")[0].ready()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.02 * (p / 0.02).round().clamp(-20, 20))
    save_model(model, file, dtype=torch.int8)
    weights = load_tensors(file)
    key = next(name for name in weights if "@coded" in name)
    header = {"limner": read_header(file).to_json()}
    ones, scale = torch.zeros(40, dtype=torch.uint8), key.partition("@")[0] + "@scale"
    cases = [
        weights | {key: weights[key][:-9]},
        weights | {key: weights[key].roll(1)},
        weights | {key: ones},
        weights | {key: weights[key].float()},
        weights | {key.partition("@")[0]: torch.zeros(2, 2)},
        weights | {scale: torch.ones(1)},
        {name: weight for name, weight in weights.items() if name != scale},
        *(weights | {f"w@coded:{sides}": ones, "w@scale": torch.ones(2)} for sides in SIDES),
    ]
    for tensors in cases:
        save_tensors(tensors, file, header)
        with pytest.raises(LimnerError, match=r"model\.safetensors is damaged \(its (coded )?wei"):
            load(file)


SIDES = ("", "0x40", "2x-3", "axb", "2000000000x9", "99999999999999999999x9", "3_2x40", "40")


def test_columns_of_few_levels_are_restored_and_take_about_their_entropy() -> None:
    torch.manual_seed(0)
    steps = torch.rand(16) + 0.1
    weight = torch.randn(2000, 16).round() * steps
    packed = pack({"w": weight})
    torch.testing.assert_close(unpack(packed)["w"], weight, atol=0, rtol=1e-6)
    assert sum(x.numel() * x.element_size() for x in packed.values()) < 2000 * 16 * 3 / 8


def test_thin_matrices_take_one_byte_per_weight() -> None:
    for shape in ((1, 1500), (1500, 1), (2, 900)):
        packed = pack({"w": torch.randn(shape)})
        assert sum(x.numel() * x.element_size() for x in packed.values()) <= 2 * 1500 + 8
