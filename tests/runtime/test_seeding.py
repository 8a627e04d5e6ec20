"""Seeds of torch's global generators."""

import pytest
import torch

from limner.runtime.seeding import seed_torch


def draw(*key: object) -> float:
    with seed_torch(key):
        return float(torch.rand(()))


def test_numbers_depend_on_the_whole_key_alone():
    assert draw(1, "weights") == draw(1, "weights")
    keys = [(1, "weights"), (2, "weights"), (1, "prepare"), (1, "weights", 0), ("1", "weights")]
    assert len({draw(*key) for key in keys}) == len(keys)


def test_the_generator_continues_after_it_also_after_an_error():
    torch.manual_seed(3)
    expected = [float(torch.rand(())) for _ in range(2)]
    torch.manual_seed(3)
    first = float(torch.rand(()))
    with pytest.raises(KeyError), seed_torch((0,)):
        torch.rand(())
        raise KeyError
    assert [first, float(torch.rand(()))] == expected
