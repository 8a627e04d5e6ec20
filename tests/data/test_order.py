"""The order of pictures: once per epoch, in windows, with the given shares, reproducible."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.data.order import ROUND_LENGTH, ByWeight, Mixed, Shuffled, Windowed, shares_of_a_round

blocks = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@settings(max_examples=40)
@given(
    blocks=blocks, window=st.integers(1, 20), seed=st.integers(0, 2**40), epoch=st.integers(0, 9)
)
def test_a_windowed_epoch_visits_each_picture_once(blocks, window, seed, epoch):
    order, n = Windowed(torch.tensor(blocks), window, seed), sum(blocks)
    assert sorted(order(torch.arange(epoch * n, (epoch + 1) * n)).tolist()) == list(range(n))


def test_a_window_contains_pictures_of_neighbouring_shards():
    order = Windowed(torch.full((10,), 10), 20, seed=3)
    shards = [set((order(torch.arange(i, i + 20)) // 10).tolist()) for i in range(0, 100, 20)]
    assert [len(indices) for indices in shards] == [2] * 5
    assert set.union(*shards) == set(range(10))
    starts = {int(order(torch.tensor([100 * epoch]))) // 10 for epoch in range(40)}
    assert len(starts) > 6, "shards come in a new order each epoch"


def test_windows_are_shuffled_anew_within_an_epoch_and_in_each_epoch():
    order = Windowed(torch.tensor([40]), 20, seed=3)
    windows = order(torch.arange(80)).view(4, 20)
    places = windows - windows.min(1, keepdim=True).values
    assert len(places.unique(dim=0)) == 4


@settings(max_examples=20)
@given(first=st.integers(0, 10**9), cut=st.integers(1, 39))
def test_an_order_depends_only_on_the_number(first, cut):
    def orders():
        parts = [Shuffled(7, 5), Windowed(torch.tensor([4, 9]), 3, 5)]
        mixed = Mixed(parts, [400, 600], lambda part, index: index + 7 * part, 5)
        return [Windowed(torch.tensor([4, 9, 2]), 6, 5), mixed]

    for one, other in zip(orders(), orders()):
        whole = one(torch.arange(first, first + 40))
        tail = other(torch.arange(first + cut, first + 40))
        head = other(torch.arange(first, first + cut))
        assert torch.equal(torch.cat([head, tail]), whole)


def test_weights_are_the_shares_of_the_interval_from_0_to_1(monkeypatch: pytest.MonkeyPatch):
    """A picture of weight 0 is never drawn, not even for a number at the border of its share."""
    order = ByWeight(torch.tensor([0.0, 1.0, 0.0, 3.0]), 0)
    monkeypatch.setattr(order, "uniform", lambda numbers: numbers.double() / 8)
    assert order(torch.arange(8)).tolist() == [1, 1, 3, 3, 3, 3, 3, 3]


def test_each_source_has_exactly_its_share_and_follows_its_own_order():
    orders = [Shuffled(7, 2), Shuffled(11, 2)]
    order = Mixed(orders, [250, 750], lambda part, index: index + 7 * part, 2)
    indices = order(torch.arange(4 * ROUND_LENGTH))
    for first in range(0, 4 * ROUND_LENGTH, ROUND_LENGTH):
        assert int((indices[first : first + ROUND_LENGTH] < 7).sum()) == 250
    assert torch.equal(indices[indices < 7], orders[0](torch.arange(1000)))
    assert torch.equal(indices[indices >= 7] - 7, orders[1](torch.arange(3000)))
    counts = torch.stack([order(torch.arange(i * 50, i * 50 + 50)) < 7 for i in range(80)]).sum(1)
    assert 8 < counts.double().mean() < 17, "sources take turns within a round"
    assert counts.max() < 30


@pytest.mark.parametrize(
    ("weights", "counts"),
    [([1.0], [1000]), ([2, 1], [667, 333]), ([1, 1e-9], [999, 1]), ([1e-9, 1e-9, 1], [1, 1, 998])],
)  # fmt: skip
def test_shares_are_rounded_to_a_thousandth(weights, counts):
    assert shares_of_a_round(weights) == counts
