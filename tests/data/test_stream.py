"""The order of the data is the same however it is divided into batches."""

import itertools
import threading
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Int, UInt8
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec, from_levels
from limner.contract.noise import Noise
from limner.data import Dataset, Stream
from limner.data.stream import Prefetcher
from limner.data.two_domains import Unpaired


class Toy(Dataset):
    """A data set whose picture i has the colour i, except for a black left column."""

    def __init__(self, n: int, **attributes: object) -> None:
        self.spec = ImageSpec(1, 2, 3, labels=("even", "odd"), frequencies=(0.5, 0.5))
        self.labels = torch.arange(n) % 2
        self.n = n
        for name, value in attributes.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return self.n

    def pixels(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        pixels = indices.to(torch.uint8)[:, None, None, None].repeat(1, 1, 2, 3)
        pixels[..., 0] = 0
        return pixels

    def captions(self, indices: Int[Tensor, "b"], noise: Noise) -> list[str]:
        return [f"{i} {d}" for i, d in zip(indices.tolist(), noise.integers(100).tolist())]


def binary(n: int, **attributes: object) -> Toy:
    toy = Toy(n, dynamic=True, **attributes)
    toy.spec = ImageSpec(1, 2, 3, levels=2)
    toy.labels = None
    return toy


WEIGHTS = torch.linspace(0, 1, 7, dtype=torch.float64)
STREAMS = {
    "plain": lambda: Toy(7),
    "flipped": lambda: Toy(7, flip=True),
    "weighted": lambda: Toy(7, weights=WEIGHTS, flip=True),
    "binary": lambda: binary(7),
    "unpaired": lambda: Unpaired(Toy(5, flip=True), Toy(7), "unpaired:a,b"),
}


@pytest.mark.parametrize("kind", STREAMS)
@settings(max_examples=20)
@given(
    seed=st.integers(-(2**40), 2**40),
    first=st.integers(0, 10**12),
    cuts=st.sets(st.integers(1, 19)),
)
def test_a_batch_is_the_same_however_it_is_divided(kind, seed, first, cuts):
    whole = Stream(STREAMS[kind](), seed).batch(first, 20)
    other = Stream(STREAMS[kind](), seed)
    edges = [0, *sorted(cuts), 20]
    parts = [other.batch(first + a, b - a) for a, b in itertools.pairwise(edges)]
    assert torch.equal(torch.cat([part.x for part in parts]), whole.x)
    for name in ("label", "image"):
        if getattr(whole.c, name) is not None:
            joined = torch.cat([getattr(part.c, name) for part in parts])
            assert torch.equal(joined, getattr(whole.c, name))
    numbers = torch.arange(first, first + 20)
    texts = [other.captions(numbers[a:b]) for a, b in itertools.pairwise(edges)]
    assert list(itertools.chain(*texts)) == Stream(STREAMS[kind](), seed).captions(numbers)


@settings(max_examples=20)
@given(n=st.integers(1, 50), seed=st.integers(0, 2**40), epoch=st.integers(0, 1000))
def test_each_epoch_visits_each_picture_once(n, seed, epoch):
    indices = Stream(Toy(n), seed).indices(torch.arange(epoch * n, (epoch + 1) * n))
    assert sorted(indices.tolist()) == list(range(n))


def test_epochs_and_seeds_differ():
    orders = [
        tuple(Stream(Toy(20), seed).indices(torch.arange(20) + 20 * epoch).tolist())
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len(set(orders)) == 9


def test_first_places_are_uniform():
    first = [int(Stream(Toy(4), seed).indices(torch.tensor([0]))) for seed in range(1000)]
    assert all(200 < count < 300 for count in Counter(first).values())


def test_weights_are_the_shares_of_draws():
    indices = Stream(Toy(7, weights=WEIGHTS), 3).indices(torch.arange(50_000))
    shares = torch.bincount(indices, minlength=7) / 50_000
    assert shares[0] == 0
    assert torch.allclose(shares.double(), WEIGHTS / WEIGHTS.sum(), atol=0.01)


def test_batch_has_pixels_and_labels():
    batch = Stream(Toy(7), 0).batch(0, 7)
    levels = from_levels(torch.arange(7)[:, None, None, None], 256).flatten()
    indices = Stream(Toy(7), 0).indices(torch.arange(7))
    assert torch.equal(batch.x[:, 0, 0, 1], levels[indices])
    assert torch.equal(batch.c.label, indices % 2)
    with pytest.raises(LimnerError, match="not 0 from 0"):
        Stream(Toy(7)).batch(0, 0)


def test_half_are_mirrored_and_only_if_requested():
    batch = Stream(Toy(200, flip=True)).batch(0, 1000)
    mirrored = (batch.x[:, 0, 0, 2] == -1) & (batch.x[:, 0, 0, 0] > -1)
    assert 430 < int(mirrored.sum()) < 570
    assert (Stream(Toy(200, flip=True)).preview(50).x[:, 0, 0, 0] == -1).all()
    assert (Stream(Toy(200)).batch(0, 500).x[:, 0, 0, 0] == -1).all()


def test_batches_made_ahead_equal_those_made_on_request():
    stream, plain = Stream(Toy(7, flip=True), 5), Stream(Toy(7, flip=True), 5)
    ahead = Prefetcher(stream.batch, stride=8)
    steps = [[(3, 4), (7, 4)], [(11, 4), (15, 4)], [(19, 4), (23, 4)]]
    back_and_finer = [[(11, 2), (13, 2), (15, 2), (17, 2)], [(19, 2), (21, 2), (23, 2), (25, 2)]]
    for first, n in itertools.chain(*steps, *back_and_finer):
        assert torch.equal(ahead(first, n).x, plain.batch(first, n).x)
    assert len(ahead._coming) == 4


def test_the_next_step_is_prepared_while_this_one_is_used():
    main, requests = threading.get_ident(), []

    def batch(first: int, n: int) -> Batch:
        requests.append((first, threading.get_ident() == main))
        if first > 8:
            raise LimnerError("'9.png' can no longer be read")
        return Batch(torch.zeros(n, 1, 2, 2), Condition())

    ahead = Prefetcher(batch, stride=4)
    ahead(0, 4)
    ahead(4, 4)
    ahead(8, 4)
    assert [request for request in requests if request[0] <= 8] == [
        (0, True),
        (4, False),
        (8, False),
    ]
    with pytest.raises(LimnerError, match=r"9\.png"):  # only when this batch is requested
        ahead(12, 4)


def test_preview_takes_classes_in_turn():
    toy = Toy(6, labels=torch.tensor([1, 1, 1, 0, 1, 0]))
    assert toy.overview(8).tolist() == [3, 0, 5, 1, 2, 4, 3, 0]
    assert torch.equal(Stream(toy, 1).preview(4).x, Stream(toy, 2).preview(4).x)
    toy = Toy(6, labels=torch.tensor([1, -1, 1, 0, -1, 0]))  # -1: no class
    assert toy.overview(7).tolist() == [3, 0, 1, 5, 2, 4, 3]


def test_preview_spreads_over_data_without_classes():
    toy = Toy(7, labels=None)
    assert toy.overview(3).tolist() == [0, 2, 4]
    assert toy.overview(9).tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1]


def test_dynamic_binarisation_has_the_intensity_as_mean():
    toy = binary(200)
    numbers = torch.arange(20_000)
    for shade in (0, 51, 150, 199):
        x = toy.images(torch.full_like(numbers, shade), Noise.keyed(1, 0, numbers))
        assert set(x.unique().tolist()) <= {-1.0, 1.0}
        assert float(((x[..., 1:] + 1) / 2).mean()) == pytest.approx(shade / 255, abs=0.01)
        assert (x[..., 0] == -1).all()


def test_training_data_are_binarised_each_time_and_held_out_data_once():
    indices = torch.full((8,), 100)
    for training in (True, False):
        toy = binary(200, training=training)
        draws = [toy.images(indices, Noise.keyed(seed, 0, range(8))) for seed in (1, 2)]
        assert torch.equal(*draws) != training


def test_fewer_levels_round_the_pixels():
    toy = Toy(200)
    toy.spec = ImageSpec(1, 2, 3, levels=3)
    x = toy.images(torch.tensor([10, 100, 199]), Noise.keyed(0, 0, range(3)))
    assert x[:, 0, 0, 1].tolist() == [-1, 0, 1]


def test_unpaired_hints_are_independent_of_the_pictures():
    data = Unpaired(Toy(10), Toy(10), "unpaired:a,b")
    assert data.spec.hint == Toy(10).spec
    batch = Stream(data, 0).batch(0, 1000)
    pairs = torch.stack([batch.x[:, 0, 0, 1], batch.c.image[:, 0, 0, 1]]).double()
    assert abs(float(torch.corrcoef(pairs)[0, 1])) < 0.1
    assert batch.c.image[:10, 0, 0, 1].unique().numel() == 10  # each picture of A once per epoch
