"""The random streams: published numbers of SplitMix64, tests with scipy, and invariances."""

import math
import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import toys
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.noise import Blend, Noise, _as_signed, _mix

GOLDEN_GAMMA = 0x9E3779B97F4A7C15
SEEDS = st.integers(-(2**40), 2**40)


def splitmix64(seed: int, n: int) -> list[int]:
    """Return n numbers of SplitMix64 (Steele, Lea, Flood, 2014), in Python integers."""
    mask, state, numbers = 2**64 - 1, seed, []
    for _ in range(n):
        state = (state + GOLDEN_GAMMA) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        numbers.append(z ^ (z >> 31))
    return numbers


def unsigned(values: torch.Tensor) -> list[int]:
    return [v % 2**64 for v in values.tolist()]


def test_splitmix64_gives_its_published_numbers():
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    counter = torch.arange(1, 6, dtype=torch.int64)
    assert unsigned(_mix(1234567 + counter * _as_signed(GOLDEN_GAMMA))) == published
    assert splitmix64(1234567, 5) == published


@given(seed=st.integers(0, 2**64 - 1))
def test_mix_agrees_with_integers_of_any_size(seed: int):
    state = torch.tensor(_as_signed(seed)) + torch.arange(1, 9) * _as_signed(GOLDEN_GAMMA)
    assert unsigned(_mix(state)) == splitmix64(seed, 8)


@pytest.mark.parametrize("number", [0, 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -1, -(2**63)])
def test_signed_keeps_the_lowest_64_bits(number: int):
    assert -(2**63) <= _as_signed(number) < 2**63
    assert (_as_signed(number) - number) % 2**64 == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_numbers_are_uniform(dtype: torch.dtype):
    u = Noise.keyed(3, 5, range(50)).uniform(40, 50, dtype=dtype)
    assert u.dtype == dtype
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.kstest(u.flatten().double().numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_uniform_numbers_of_half_precision_are_below_1(dtype: torch.dtype):
    u = Noise.keyed(3, 5, range(50)).uniform(40, 50, dtype=dtype)
    assert 0 <= u.min() < 0.01
    assert 0.99 < u.max() < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_numbers_are_normal(dtype: torch.dtype):
    z = Noise.keyed(4, 7, range(50)).normal(40, 50, dtype=dtype)
    assert z.dtype == dtype
    flat = z.flatten().double().numpy()
    assert stats.kstest(flat, "norm").pvalue > 0.01
    assert abs(stats.kurtosis(flat)) < 5 * math.sqrt(24 / flat.size)
    assert np.abs(flat).max() > 4, "the tails are there"


def test_normal_numbers_are_finite_at_both_ends_of_the_radius():
    smallest = torch.tensor(0.5 * 2.0**-24)
    largest = torch.tensor((0xFFFFFF + 0.5) * 2.0**-24)
    assert float((-2 * smallest.log()).sqrt()) == pytest.approx(
        math.sqrt(50 * math.log(2)), rel=1e-5
    )
    assert (-2 * largest.log()).sqrt().isfinite()


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 3, 5), ()])
def test_random_numbers_have_the_requested_shape(shape: tuple[int, ...]):
    noise = Noise.sampling(0, 4)
    assert noise.normal(*shape).shape == (4, *shape)
    assert noise.uniform(*shape).shape == (4, *shape)
    assert noise.integers(3, *shape).shape == (4, *shape)


def test_both_numbers_of_a_box_muller_pair_are_independent():
    z = Noise.keyed(0, 0, range(2000)).normal(20)
    first, second = z[:, :10].flatten(), z[:, 10:].flatten()
    for f in (lambda a: a, torch.square, torch.abs):
        r = np.corrcoef(f(first).numpy(), f(second).numpy())[0, 1]
        assert abs(r) < 4 / math.sqrt(first.numel())


@pytest.mark.parametrize("high", [1, 2, 3, 10, 1000])
def test_integers_are_uniform(high: int):
    k = Noise.keyed(1, 2, range(100)).integers(high, 300)
    assert k.dtype == torch.int64
    assert k.min() >= 0
    assert k.max() < high
    if high > 1:
        counts = torch.bincount(k.flatten(), minlength=high).numpy()
        assert stats.chisquare(counts).pvalue > 0.01


def neighbours() -> dict[str, list[Noise]]:
    """Return streams with neighbouring keys, for which a weak mixing would show."""
    return {
        "images": [Noise.keyed(0, 0, range(1000)), Noise.keyed(0, 0, range(1000, 2000))],
        "steps": [Noise.keyed(0, s, range(1000)) for s in range(3)],
        "seeds": [Noise.keyed(s, 0, range(1000)) for s in range(3)],
        "seed against step": [Noise.keyed(1, 0, range(1000)), Noise.keyed(0, 1, range(1000))],
        "training against sampling": [Noise.keyed(0, 0, range(1000)), Noise.sampling(0, 1000)],
        "sampling seeds": [Noise.sampling(0, 1000), Noise.sampling(1000, 1000)],
        "draws": [Noise(Noise.sampling(0, 1000).streams, draws=d) for d in range(3)],
    }


@pytest.mark.parametrize("which", neighbours())
def test_neighbouring_streams_are_uncorrelated(which: str):
    values = [noise.normal(64) for noise in neighbours()[which]]
    for a, b in pairwise(values):
        assert not torch.equal(a, b)
        for shift in (0, 1):
            r = np.corrcoef(a.flatten().numpy(), b.roll(shift, 1).flatten().numpy())[0, 1]
            assert abs(r) < 4 / math.sqrt(a.numel()), (which, shift)


def test_the_streams_of_a_batch_are_uncorrelated():
    z = Noise.keyed(0, 0, range(40)).normal(4000)
    correlations = np.corrcoef(z.numpy()) - np.eye(40)
    assert np.abs(correlations).max() < 5 / math.sqrt(4000)


def test_no_two_streams_of_a_long_run_are_the_same():
    streams = [
        Noise.keyed(seed, step, range(64)).streams for seed in range(4) for step in range(99)
    ]
    all_streams = torch.cat([*streams, *(Noise.sampling(s, 1).streams for s in range(500))])
    assert len(all_streams.unique()) == len(all_streams)


@given(seed=SEEDS, n=st.integers(1, 6), shape=st.integers(1, 9))
def test_picture_i_of_seed_s_is_picture_0_of_seed_s_plus_i(seed: int, n: int, shape: int):
    batch = Noise.sampling(seed, n)
    single = [Noise.sampling(seed + i, 1) for i in range(n)]
    for _ in range(2):
        assert torch.equal(batch.normal(shape), torch.cat([a.normal(shape) for a in single]))


@given(rows=st.lists(st.integers(0, 7), min_size=1, max_size=9), before=st.integers(0, 3))
def test_rows_continue_the_same_streams(rows: list[int], before: int):
    noise = Noise.keyed(1, 2, range(8))
    for _ in range(before):
        noise.uniform(2)
    part = noise.rows(torch.tensor(rows))
    a_slice = noise.rows(slice(2, 5))
    values = noise.normal(3)
    assert torch.equal(part.normal(3), values[rows])
    assert torch.equal(a_slice.normal(3), values[2:5])
    assert len(part) == len(rows)


def test_keyed_streams_depend_on_the_image_and_not_on_its_place():
    a = Noise.keyed(0, 3, [5, 9, 2]).uniform(4)
    b = Noise.keyed(0, 3, torch.tensor([9, 2])).uniform(4)
    assert torch.equal(a[1:], b)


def test_successive_draws_differ_and_a_new_noise_repeats_them():
    noise, repeat = Noise.sampling(3, 2), Noise.sampling(3, 2)
    first, second = noise.uniform(5), noise.uniform(5)
    assert not torch.equal(first, second)
    assert torch.equal(first, repeat.uniform(5))
    assert torch.equal(second, repeat.uniform(5))
    assert noise.draws == 2


COMPILED = """
import torch
from limner.contract.noise import Noise

def checked(graph, inputs):
    numbers = [each for node in graph.graph.nodes for each in node.args if isinstance(each, int)]
    assert all(-(2**63) <= each < 2**63 for each in numbers), numbers
    return graph.forward

compiled = torch.compile(lambda noise: noise.uniform(5), backend=checked)
streams = Noise.sampling(0, 2).streams
for draws in (0, 1, 7):  # from the second on, it is a variable
    assert torch.equal(compiled(Noise(streams, draws)), Noise(streams, draws).uniform(5))
"""


def test_a_compiled_graph_has_no_numbers_beyond_64_bits():
    # in a process of its own, because here every function is wrapped by the type checker
    subprocess.run([sys.executable, "-c", COMPILED], check=True)


def test_the_global_generator_is_neither_read_nor_changed():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    a = Noise.sampling(0, 2).normal(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(Noise.sampling(0, 2).normal(3), a)


@pytest.mark.parametrize("seed", [-1, -(2**62), 2**62, 2**63 - 1, 2**65])
def test_seeds_of_every_size_make_streams(seed: int):
    assert Noise.keyed(seed, 0, [0]).uniform(2).isfinite().all()
    assert Noise.sampling(seed, 2).normal(2).isfinite().all()


FORMS = [np.array([5, 6, 7]), torch.tensor([5, 6, 7]), [np.int64(5), torch.tensor(6), 7], (5, 6, 7)]


@pytest.mark.parametrize("seed", [np.int64(5), np.uint8(5), torch.tensor(5), range(5, 8), *FORMS])
def test_whole_numbers_of_other_libraries_are_accepted_as_seeds(seed: Any):
    expected = Noise.sampling(5, 3).streams
    assert torch.equal(Noise.sampling(seed, 3).streams, expected)
    model = toys.TwoStep(ImageSpec(1, 2, 2))
    assert torch.equal(model.sample(3, seed=seed), model.sample(3, seed=5))
    if isinstance(seed, np.generic | torch.Tensor) and seed.ndim == 0:
        assert torch.equal(Noise.keyed(seed, 1, [2]).streams, Noise.keyed(5, 1, [2]).streams)


def test_normal_numbers_are_pairs_of_box_and_muller():
    """The radius is of the upper 24 bits, the angle of 24 lower ones."""
    bits = Noise.sampling(5, 3).bits(4)
    upper, lower = ((bits >> shift & 0xFFFFFF).double() for shift in (40, 8))
    radius, angle = (-2 * ((upper + 0.5) / 2**24).log()).sqrt(), 2 * math.pi * lower / 2**24
    expected = torch.cat([radius * angle.cos(), radius * angle.sin()], 1)
    drawn = Noise.sampling(5, 3).normal(7, dtype=torch.float64)
    torch.testing.assert_close(drawn, expected[:, :7], rtol=1e-12, atol=1e-12)


def test_a_blend_is_the_weighted_sum_of_two_streams_at_each_draw():
    blended = Noise.sampling([Blend(1, 2, 0.6), 3], 2)
    one, other, plain = (Noise.sampling(seed, 1) for seed in (1, 2, 3))
    for _ in range(3):
        sums = 0.8 * one.normal(2, 5) + 0.6 * other.normal(2, 5)
        torch.testing.assert_close(blended.normal(2, 5), torch.cat([sums, plain.normal(2, 5)]))
    first = blended.rows(slice(0, 1)).to("cpu")
    torch.testing.assert_close(first.normal(5), 0.8 * one.normal(5) + 0.6 * other.normal(5))


def test_blends_of_numbers_of_other_libraries_are_accepted_as_seeds():
    blend: Any = Blend(*np.array([1, 2]), np.float32(0.5))
    first, second = (Noise.sampling([seed], 1).normal(4) for seed in (blend, Blend(1, 2, 0.5)))
    assert torch.equal(first, second)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("seed", [5.0, None, "567", [1.5, 2, 3], np.ones(3), torch.tensor(1.0)])
def test_a_seed_that_is_not_a_whole_number_is_refused(seed: Any):
    model = toys.TwoStep(ImageSpec(1, 2, 2))
    for call in (
        lambda: model.sample(3, seed=seed),
        lambda: next(model.watch(3, seed=seed)),
        lambda: Noise.keyed(seed, 0, [0]),
    ):
        with pytest.raises(LimnerError, match=r"^seed=.* is not a whole number; give one.*$"):
            call()


@pytest.mark.parametrize("seeds", [[1, 2], [1, 2, 3, 4]])
def test_a_list_has_a_seed_for_each_picture(seeds: list[int]):
    with pytest.raises(LimnerError, match=f"{len(seeds)} seeds for 3 pictures"):
        toys.TwoStep(ImageSpec(1, 2, 2)).sample(3, seed=seeds)
