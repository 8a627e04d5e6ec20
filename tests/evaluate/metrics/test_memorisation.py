"""The metric `memorisation`: its definition against brute force, copies of all kinds, and a model
that can only return its training pictures."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import from_uint8, to_uint8
from limner.evaluate.metrics.memorisation import NearestTraining, memorisation, suspects


def drawn(n: int, seed: int, side: int = 12) -> Tensor:
    """Return n different smooth coloured pictures."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 2 * torch.rand(n, 3, 4, 4, generator=generator) - 1
    return to_uint8(F.interpolate(coarse, (side, side), mode="bilinear"))


def samples_of_the_memoriser(train: Tensor, n: int, steps: int = 40) -> Tensor:
    """Return samples of the denoiser with the lowest loss on a training set, a softmax over its
    pictures, along x_t = (1 - t) x + t noise."""
    known = from_uint8(train).double()
    x = torch.randn(n, *train.shape[1:], dtype=torch.float64)
    for i in range(steps):
        t, s = 1 - i / steps, 1 - (i + 1) / steps
        squares = (x.flatten(1)[:, None] - (1 - t) * known.flatten(1)).square().sum(-1)
        mean = torch.einsum("bk,kchw->bchw", (-squares / (2 * t**2)).softmax(1), known)
        x = x + (s - t) * (x - mean) / t
    return to_uint8(x.float())


def distance(picture: Tensor, known: Tensor, shift: int) -> float:
    """Return the lowest RMS difference over all shifts and flips, tried one by one."""
    _, h, w = known.shape
    middle = known[:, shift : h - shift, shift : w - shift].double()
    return min(
        float((part.double() - middle).square().mean().sqrt())
        for side in (picture, picture.flip(-1))
        for y, x in itertools.product(range(2 * shift + 1), repeat=2)
        for part in [side[:, y : y + h - 2 * shift, x : x + w - 2 * shift]]
    )


@pytest.mark.parametrize("shift", [0, 1])
def test_distances_equal_their_definition(shift: int):
    train = drawn(7, 0, side=6)
    pictures = torch.cat([drawn(4, 1, side=6), train[2:3]])
    result = memorisation(pictures, train, shift=shift)
    for i, picture in enumerate(pictures):
        distances = torch.tensor([distance(picture, known, shift) for known in train])
        nearest = int(distances.argmin())
        assert result.nearest[i] == nearest
        assert float(result.first[i]) == pytest.approx(float(distances.min()), abs=1e-5)
        assert float(result.second[i]) == pytest.approx(float(distances.sort().values[1]), rel=1e-5)
        others = [distance(train[nearest], k, shift) for j, k in enumerate(train) if j != nearest]
        assert float(result.to_other[i]) == pytest.approx(min(others), rel=1e-5)


def test_a_memoriser_is_detected_and_new_pictures_are_not():
    train, held_out = drawn(60, 0), memorisation(drawn(200, 1), drawn(60, 0))
    result = memorisation(samples_of_the_memoriser(train, 100), train)
    assert result.share_of_copies >= 0.98
    assert result.share_authentic <= 0.02
    assert result.closer(held_out).share.value >= 0.98
    assert len(result.nearest.unique()) > 40, "too few training pictures are reproduced"
    assert held_out.share_of_copies == 0, "false positives"
    assert held_out.share_authentic > 0.4
    unseen = memorisation(drawn(200, 2), train)
    assert unseen.closer(held_out).share.value <= 0.1, "about 5 % of held-out pictures are as near"


def test_a_shifted_mirrored_and_noisy_copy_is_a_copy():
    train = drawn(20, 0)
    grains = torch.randint(-3, 4, train.shape, generator=torch.Generator().manual_seed(0))
    copies = {
        "itself": train,
        "shifted": train.roll((2, -1), (2, 3)),
        "mirrored": train.flip(-1),
        "both": train.roll((-2, 2), (2, 3)).flip(-1),
        "grainy": (train.short() + grains).clamp(0, 255).to(torch.uint8),
    }
    for kind, pictures in copies.items():
        result = memorisation(pictures, train)
        assert result.nearest.equal(torch.arange(20)), kind
        assert result.is_copy.all(), kind
        assert not (result.first > result.to_other).any(), kind
        assert (result.first == 0).all() or kind == "grainy"
    assert not memorisation(train.flip(-2), train).is_copy.any(), (
        "an upside-down picture is not a copy"
    )


def test_similar_training_pictures_do_not_hide_copies():
    """Another drawing of the same thing can be as near to a copy as the original."""
    train = drawn(20, 0)
    redrawn = ((3 * train.float() + drawn(20, 3).float()) / 4).to(torch.uint8)  # one quarter is new
    pictures, groups = torch.cat([train, redrawn]), torch.arange(20).repeat(2)
    means = ((train.short() + redrawn.short()) // 2).to(torch.uint8)
    assert memorisation(means, pictures).share_of_copies < 0.2
    assert memorisation(means, pictures, groups).share_of_copies == 1
    similar = (train.short() + 2).clamp(0, 255).to(torch.uint8)
    assert memorisation(train, torch.cat([train, similar])).share_of_copies == 1, (
        "near-equal training pictures count as one"
    )
    assert memorisation(train, torch.cat([train, similar])).second.min() > 8


def test_the_result_does_not_depend_on_the_batch():
    train, pictures = drawn(30, 0), drawn(40, 1)
    batch = memorisation(pictures, train)
    single = [memorisation(picture[None], train) for picture in pictures]
    for name, column in vars(batch).items():
        assert torch.equal(column, torch.cat([getattr(row, name) for row in single])), name


def test_the_most_suspicious_pairs_come_first():
    train = drawn(10, 0)
    pictures = torch.cat([drawn(5, 1), train[[3]]])
    pairs = suspects(pictures, train, memorisation(pictures, train), pairs=2)
    assert len(pairs) == 4
    assert torch.equal(pairs[0], train[3])
    assert torch.equal(pairs[1], train[3])


def test_an_exact_copy_has_ratio_0():
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    assert float(NearestTraining(zero.long(), zero, zero, one).ratio) == 0


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("pictures", "train", "said"),
    [
        (drawn(0, 0), drawn(3, 0), "needs at least 1 picture and 2 training pictures, not 0 and 3"),
        (drawn(1, 0), drawn(1, 0), "needs at least 1 picture and 2 training pictures, not 1 and 1"),
        (drawn(1, 0, side=16), drawn(3, 0), "pictures of 3 x 16 x 16 cannot be compared with"),
        (drawn(1, 0, side=4), drawn(3, 0, side=4), "4 x 4 cannot be shifted by 2 pixels"),
        (drawn(1, 0), drawn(1, 0).expand(5, -1, -1, -1), "no second one to compare with"),
    ],
)
def test_invalid_pictures_are_refused(pictures: Tensor, train: Tensor, said: str):
    with pytest.raises(LimnerError, match=said) as error:
        memorisation(pictures, train)
    assert "\n" not in str(error.value)


def test_percentiles_of_few_pictures_are_refused():
    result = memorisation(drawn(99, 1), drawn(10, 0))
    with pytest.raises(LimnerError, match="at least 100 held-out pictures, not 99"):
        result.closer(result)


@pytest.mark.parametrize(
    ("m", "percent", "j"), [(100, 5, 5), (199, 5, 10), (999, 5, 50), (1099, 1, 11)]
)
def test_pictures_are_closer_below_the_j_th_smallest_held_out_distance(
    m: int, percent: int, j: int
):
    """j = floor(a (m + 1)); a picture at the bound itself is not closer."""
    held_out, d = torch.randperm(m) + 1.0, torch.tensor([0.0, j - 0.5, j, j + 0.5])
    near, far = (
        NearestTraining(
            torch.zeros(len(x), dtype=torch.int64), x.double(), x.double() + 1, x.double()
        )
        for x in (d, held_out)
    )
    closer = near.closer(far)
    assert (closer.share.value, closer.percent) == (0.5, percent)
    assert closer.expected == pytest.approx(j / (m + 1))


@pytest.mark.parametrize(("held_out", "pictures"), [(105, 1000), (192, 192), (1000, 1000)])
@pytest.mark.parametrize("power", [1, 2])
def test_the_interval_of_the_closer_share_contains_the_truth(
    held_out: int, pictures: int, power: int
):
    """For equal distributions (power 1) and for closer pictures, F(d) = sqrt(d)."""
    generator = torch.Generator().manual_seed(0)

    def drawn_distances(n: int) -> NearestTraining:
        d = torch.rand(n, dtype=torch.float64, generator=generator)
        return NearestTraining(torch.zeros(n, dtype=torch.int64), d, d + 1, d)

    results = []
    for _ in range(400):
        reference, new = drawn_distances(held_out), drawn_distances(pictures)
        new = NearestTraining(new.nearest, new.first**power, new.second, new.to_other)
        results.append(new.closer(reference))
    mean = sum(result.share.value for result in results) / len(results)
    truth = results[0].expected if power == 1 else mean
    assert mean == pytest.approx(truth, rel=0.15)
    count = sum(result.share.low <= truth <= result.share.high for result in results)
    assert 0.94 * len(results) <= count < len(results)


def test_the_interval_of_the_closer_share_is_over_things_not_pictures():
    """Five variants of one thing are equally near to the training pictures."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(60).repeat_interleave(5)

    def drawn_distances(power: int) -> NearestTraining:
        d = torch.rand(60, dtype=torch.float64, generator=generator)[groups] ** power
        return NearestTraining(groups, d, d + 1, d)

    pairs = [(drawn_distances(2), drawn_distances(1)) for _ in range(400)]
    alone = [new.closer(reference).share for new, reference in pairs]
    grouped = [new.closer(reference, groups, groups).share for new, reference in pairs]
    mean = sum(share.value for share in grouped) / len(grouped)
    contains = [sum(s.low <= mean <= s.high for s in shares) for shares in (alone, grouped)]
    assert contains[0] < 0.85 * len(pairs) and 0.94 * len(pairs) <= contains[1]
    assert [share.value for share in alone] == [share.value for share in grouped]
