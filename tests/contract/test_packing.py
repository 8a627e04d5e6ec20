"""Weights in eight bits come back within half a step of their row's scale."""

from pathlib import Path

import pytest
import torch
from registered import registered_cases

from limner.contract.checkpoint import load, save_model
from limner.contract.model import GenerativeModel
from limner.contract.packing import pack, unpack
from limner.testing.cases import asked_of, painted


def test_a_row_comes_back_within_half_a_step_of_its_own_scale() -> None:
    rows = torch.randn(8, 3, 5, 16, generator=torch.Generator().manual_seed(1))
    rows *= torch.logspace(-4, 2, 8)[:, None, None, None]
    found = unpack(pack({"kernel": rows}))["kernel"]
    step = rows.flatten(1).abs().amax(1) / 127
    error = (found - rows).flatten(1).abs().amax(1)
    assert (error <= 0.501 * step).all()
    assert (error >= 0.3 * step).all()  # it is packed, not merely copied


def test_rows_of_nothing_stay_nothing() -> None:
    assert not unpack(pack({"zero": torch.zeros(4, 512)}))["zero"].any()


def test_vectors_and_whole_numbers_are_not_packed() -> None:
    own = {"bias": torch.tensor([0.1, 3.0]), "seen": torch.arange(2000).view(2, 1000)}
    found = unpack(pack(own))
    assert torch.equal(found["bias"], own["bias"].half())
    assert torch.equal(found["seen"], own["seen"])


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
        painted(each, 2, asked_of(each, 2)) for each in loaded if isinstance(each, GenerativeModel)
    )
    assert 0 < (eight - half).abs().mean() < 0.1
