"""Every autoregressive model is causal and normalised, and its cached sampling is exact."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from limner.autoregressive.autoregressive_model import AutoregressiveModel
from limner.autoregressive.causal_convolution import RowConv2d
from limner.contract.editing import Completes
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec, from_levels
from limner.contract.noise import Noise
from limner.contract.registry import models
from limner.contract.text import text_spec
from limner.testing.cases import Case

FAMILY = [entry for entry in models().values() if issubclass(entry.model, AutoregressiveModel)]
every = pytest.mark.parametrize("entry", FAMILY, ids=lambda entry: entry.name)
RGB = ImageSpec(3, 4, 5, levels=4)


def ready(entry, spec: ImageSpec, **config) -> AutoregressiveModel:
    """Return a tiny float64 model whose weights make pixels depend strongly on each other."""
    model = Case(entry.name, entry.model, spec, dict(entry.tiny) | config).ready().double()
    with torch.no_grad():
        for p in model.parameters():
            p *= 2
    return model


def thetas(model: AutoregressiveModel, x: Tensor) -> Tensor:
    """Return the parameters "h w p" of all pixels' distributions given a picture "h w c"."""
    return model.network(x[None], None)[0]


@every
def test_a_value_depends_on_earlier_values_only(entry):
    """d theta_i / d x_j is exactly 0 for j >= i in the order of rows, columns, channels."""
    H, W, C = 4, 5, 3
    model = ready(entry, RGB)
    x = torch.rand(H, W, C, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: thetas(model, x), x)
    parts = 1 if model.whole_pixels else C  # theta of each channel, or of all together
    jacobian = jacobian.view(H * W * parts, -1, H * W * C).abs().sum(1)
    i = torch.arange(H * W * parts)[:, None] * C // parts
    later = torch.arange(H * W * C) >= i
    assert not jacobian[later].any()
    assert (
        jacobian[-1, : (H * W - 1) * C].count_nonzero() > C
    )  # and it sees many of the earlier values


@every
@pytest.mark.parametrize("shape", [(1, 3, 3, 2), (1, 2, 1, 3), (2, 1, 2, 3), (3, 1, 1, 3)])
def test_the_probabilities_of_all_pictures_sum_to_one(entry, shape):
    C, H, W, levels = shape
    model = ready(entry, ImageSpec(C, H, W, levels=levels))
    all_k = torch.tensor(list(itertools.product(range(levels), repeat=C * H * W)))
    x = from_levels(all_k.view(-1, C, H, W), levels)
    with torch.no_grad():
        nats, kind, _ = model.log_prob(x, noise=Noise.sampling(0, len(x)))
    assert kind == "exact"
    assert float(nats.exp().sum()) == pytest.approx(1, abs=1e-9)
    assert float(nats.std()) > 1e-3


def lower_mask(n: int, spec: ImageSpec, rows: int) -> Tensor:
    """Return a mask that keeps the first `rows` rows."""
    return (torch.arange(spec.height) >= rows).float()[:, None].expand(n, 1, -1, spec.width)


def without_cache(model: AutoregressiveModel) -> AutoregressiveModel:
    """Make the model run on the whole picture for each value, and return it."""

    def front_network(x: Tensor, c: Condition):
        vector = model._vector(c, len(x), (1, 1))
        return lambda walk: walk.front(model.network(x, vector).permute(1, 2, 0, 3)).flatten(0, 1)

    model.front_network = front_network
    return model


@every
@pytest.mark.parametrize("spec", [RGB, ImageSpec(1, 7, 6, levels=2), ImageSpec(1, 1, 9, levels=3)])
def test_cached_and_naive_sampling_paint_the_same(entry, spec):
    n = 5
    cached = ready(entry, spec)
    x = from_levels(Noise.sampling(3, n).integers(spec.levels, *spec.shape), spec.levels)
    mask = lower_mask(n, spec, spec.height // 2)
    samples = [cached.sample(n, seed=8), cached.sample(n, seed=8, temperature=0.3, top_p=0.6)]
    completed = list(cached.complete(x, mask=mask, seed=8))[-1]
    model = without_cache(cached)
    assert torch.equal(model.sample(n, seed=8), samples[0])
    assert torch.equal(model.sample(n, seed=8, temperature=0.3, top_p=0.6), samples[1])
    assert not torch.equal(samples[0], samples[1])
    assert torch.equal(list(model.complete(x, mask=mask, seed=8))[-1], completed)


@every
def test_sampling_computes_about_as_much_as_one_likelihood(entry):
    """Each pixel costs only its own column, so sampling needs as many products as the likelihood.
    torch does not count those products of the likelihood that recurrences compute in place."""
    spec = ImageSpec(1, 8, 8, levels=2)
    model = ready(entry, spec)
    with FlopCounterMode(display=False) as painting:
        x = model.sample(2, seed=1)
    with FlopCounterMode(display=False) as evaluating, torch.no_grad():
        model.log_prob(x, noise=Noise.sampling(0, 2))
    at_once, one_by_one = evaluating.get_total_flops(), painting.get_total_flops()
    assert 0 < one_by_one <= 1.5 * at_once


@pytest.mark.parametrize("name", ["gated-pixelcnn", "pixelcnnpp"])
def test_row_convolutions_are_computed_once_for_each_row(name, monkeypatch):
    H = 6
    model = ready(models()[name], ImageSpec(1, H, 7, levels=2))
    calls = dict.fromkeys((m for m in model.modules() if isinstance(m, RowConv2d)), 0)

    def counted(self, x, walk=None, forward=RowConv2d.forward):
        calls[self] += 1
        return forward(self, x, walk)

    monkeypatch.setattr(RowConv2d, "forward", counted)
    model.sample(2, seed=1)
    assert set(calls.values()) <= {H, H // 2}
    assert list(calls.values()).count(H) >= 2


def toy_condition(spec: ImageSpec, n: int) -> Condition:
    noise = Noise.sampling(4, n)
    label = noise.integers(len(spec.labels)) if spec.labels else None
    text = None
    if spec.text:
        text = 1 + noise.integers(spec.text.vocabulary - 1, spec.text.length)
    return Condition(label, text)


@every
def test_log_probabilities_recorded_while_sampling_sum_to_the_likelihood(entry):
    """Each value's log p is recorded as the value is drawn; their sum is log p(x)."""
    n, entries, total = 3, [], torch.zeros(3, dtype=torch.float64)
    spec = replace(RGB, labels=("one", "two"), text=text_spec(4))
    model = ready(entry, spec)
    law, c = model.law, toy_condition(spec, n)

    class Recording(type(law)):
        """Records log-probabilities, and the tensor that receives the drawn values."""

        def log_probs(self, theta, k, channel):
            log_p = super().log_probs(theta, k, channel)
            entries.append((k, channel, log_p))
            return log_p

    law.__class__ = Recording
    x = model.sample(n, c, seed=2)
    for k, channel, log_p in entries:
        total += log_p.gather(-1, k[..., channel, None]).sum((0, 2))
    assert sum(len(k) for k, _, _ in entries) == spec.dimensions
    with torch.no_grad():
        nats = model.log_prob(x, c, noise=Noise.sampling(0, n)).nats
    torch.testing.assert_close(nats, total, rtol=0, atol=1e-9)


@every
def test_frames_grow_from_the_upper_left_corner_row_by_row(entry):
    """Where rows need not wait, each row is `lag` columns behind the row above."""
    H, W = 5, 7
    model = ready(entry, ImageSpec(1, H, W, levels=2))
    lag = model.lag or W
    frames = list(model.watch(2, seed=1))
    assert len(frames) == model.frame_count() == 5
    for row, frame in enumerate(frames, 1):
        assert torch.equal(frame[:, :, :row], frames[-1][:, :, :row])
        is_painted = frame != 0
        assert torch.equal(frame[is_painted], frames[-1][is_painted])
        counts = (W - lag * torch.arange(H - row + 1)).clamp(min=0)
        assert torch.equal(is_painted[1, 0].sum(1)[row - 1 :], counts)


@every
def test_rows_are_painted_in_parallel_where_they_need_not_wait(entry, monkeypatch):
    """There are 8 * 9 fronts of one pixel, or 9 + 4 * 7 fronts. Each pixel is painted once."""
    model = ready(entry, ImageSpec(1, 8, 9, levels=2))
    fronts, front_network = [], model.front_network

    def counted(x: Tensor, c: Condition):
        front_theta = front_network(x, c)

        def counting(walk):
            rows = range(walk.count)
            fronts.append([(walk.row + i, walk.column - i * walk.lag) for i in rows])
            return front_theta(walk)

        return counting

    monkeypatch.setattr(model, "front_network", counted)
    model.sample(1, seed=1)
    fast = entry.name in ("pixelcnn", "pixelrnn-row")
    assert len(fronts) == (9 + 4 * 7 if fast else 8 * 9)
    assert sorted(pixel for front in fronts for pixel in front) == list(
        itertools.product(range(8), range(9))
    )


@every
def test_the_lag_is_how_far_a_pixel_sees_in_the_row_above(entry):
    """A pixel sees `lag` - 1 columns to its right in the row above, and nothing beyond."""
    H, W = 3, 16
    model = ready(entry, ImageSpec(1, H, W, levels=2))
    x = torch.rand(1, H, W, 1, dtype=torch.float64, requires_grad=True)
    model.network(x, None)[0, H - 1, 0].sum().backward()
    assert x.grad is not None
    visible = x.grad[0, :, :, 0] != 0
    columns = torch.arange(W)
    reach = [int(columns[row].max()) for row in visible[: H - 1]]
    if model.lag is None:
        assert max(reach) >= 4
    else:
        assert reach[1] == model.lag - 1
        assert reach[0] < 2 * model.lag


@every
def test_a_completion_keeps_the_given_pixels(entry):
    model = ready(entry, RGB)
    assert isinstance(model, Completes)
    x, mask = model.sample(4, seed=1), lower_mask(4, RGB, 2)
    frames = list(model.complete(x, mask=mask, seed=9))
    assert torch.equal(frames[-1][:, :, :2], x[:, :, :2])
    assert len(frames) == model.complete_count(mask) == RGB.height
    assert torch.equal(list(model.complete(x, mask=mask, seed=1))[-1], x), "same seed"
    mask = torch.zeros(4, 1, *RGB.shape[1:])
    mask[:, :, 1:3, 2:] = 1
    frames = list(model.complete(x, mask=mask, rounds=3, seed=9))
    assert len(frames) == model.complete_count(mask, rounds=3) == 3
    is_kept = (mask == 0).expand_as(x)
    assert all(torch.equal(frame[is_kept], x[is_kept]) for frame in frames)
    assert not torch.equal(frames[-1], x)
    (*_, single) = model.complete(x[2:3], mask=mask[2:3], rounds=3, seed=11)
    assert torch.equal(single, frames[-1][2:3]), "alone as in a batch"
    with pytest.raises(LimnerError, match="edits 3 x 4 x 5 pictures, not 3 x 2 x 5"):
        next(iter(model.complete(x[:, :, :2], mask=mask[:, :, :2])))
    with pytest.raises(LimnerError, match="leave temperature and top_p out"):
        next(iter(model.complete(x, mask=mask, temperature=0.5)))


def test_a_completion_is_sampled_given_pixels_kept_behind_it():
    """Keep the second and the last of four values; compare frequencies with p(x | kept)."""
    spec, n = ImageSpec(1, 2, 2, levels=3), 1500
    model = ready(models()["gated-pixelcnn"], spec)
    for p in model.parameters():
        p.data *= 1.5  # so that values depend on each other more
    k = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, *spec.shape)
    with torch.no_grad():
        p = model.log_prob(from_levels(k, 3), noise=Noise.sampling(0, 81)).nats.exp()
    p, x = p.view(3, 3, 3, 3), k[[11]].expand(n, -1, -1, -1)
    second, last = 1, 2
    assert x[0].flatten().tolist()[1::2] == [second, last]
    right = p[:, second, :, last] / p[:, second, :, last].sum()
    in_order = p[:, second].sum(2) / p[:, second].sum(2).sum(1, keepdim=True)
    in_order = in_order * p.sum((1, 2, 3))[:, None]
    assert float((right - in_order).abs().sum()) > 0.2, "the kept pixels carry information"
    mask = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).expand(n, 1, 2, 2)
    frames = model.complete(from_levels(x, 3), mask=mask, rounds=10, seed=0, preview=False)
    k = (list(frames)[-1] + 1).round().long().flatten(1)
    assert k[:, 1].eq(second).all() and k[:, 3].eq(last).all()
    counts = torch.bincount(3 * k[:, 0] + k[:, 2], minlength=9)
    expected = n * right.flatten()
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 27, f"{chi_square} with 8 degrees of freedom: {counts}, not {expected}"


@every
def test_low_temperatures_paint_the_most_probable_values(entry):
    """At a tiny temperature or top_p, each value is the likeliest given the earlier values."""
    model = ready(entry, ImageSpec(1, 3, 4, levels=5))
    greedy = model.sample(3, seed=0, top_p=1e-6)
    assert torch.equal(greedy, model.sample(3, seed=50, top_p=1e-6))
    assert torch.equal(greedy, model.sample(3, seed=50, temperature=1e-9))


def chain(stay: float):
    """Return a source of rows whose pixels repeat the pixel before with probability `stay`."""

    def rows(first: int, n: int) -> Tensor:
        noise = Noise.keyed(5, 0, range(first, first + n))
        flips = (noise.uniform(8) >= stay).long()
        flips[:, 0] = noise.integers(2)
        return from_levels(flips.cumsum(1)[:, None, None] % 2, 2)

    return rows


def coins(p: float):
    """Return a source of rows of independent pixels, each 1 with probability p."""

    def rows(first: int, n: int) -> Tensor:
        noise = Noise.keyed(5, 0, range(first, first + n))
        return from_levels((noise.uniform(8) < p).long()[:, None, None], 2)

    return rows


def entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


@every
@pytest.mark.parametrize(
    ("rows", "least", "steps"),
    [(chain(0.9), math.log(2) + 7 * entropy(0.1), 100), (coins(0.2), 8 * entropy(0.2), 50)],
    ids=["chain", "coins"],
)
def test_training_reaches_the_entropy_of_the_data(entry, rows, least, steps):
    """The mean of -log p is never more than 3 standard errors below the entropy."""
    from limner.contract.image import Batch
    from limner.training.loop import Loop, TrainOptions

    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = entry.model(ImageSpec(1, 1, 8, levels=2), **entry.tiny)
    options = TrainOptions(steps=steps, batch=48, lr=2e-2, schedule="cosine", ema=0.9)
    loop = Loop(model, lambda first, n: Batch(rows(first, n), Condition()), options)
    loop.prepare()
    for _ in range(options.steps):
        loop.advance()
    n = 2000
    with torch.no_grad():
        nats = -loop.average.log_prob(rows(10**6, n), noise=Noise.sampling(0, n)).nats
    error = float(nats.std()) / math.sqrt(n)
    assert least - 3 * error < float(nats.mean()) < least + 0.15 + 3 * error
