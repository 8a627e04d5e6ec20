"""The training loop: exact accumulation and resume, one player or two, and failures."""

import copy
import functools
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.contract.checkpoint import current_name, load_tensors
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.model import GenerativeModel, Learner, Turn
from limner.contract.noise import Noise
from limner.contract.registry import Paper, build, register
from limner.training.loop import Groups, Loop, TrainOptions
from limner.training.torch_errors import differentiates_twice

PAPER = Paper("A toy for tests", "Nobody", 2026, "0000.00000")
SPEC = ImageSpec(channels=1, height=4, width=4)
NOTHING = Condition()


class Net(nn.Sequential):
    def __init__(self, c_in: int, c_out: int, width: int = 4) -> None:
        super().__init__(
            nn.Conv2d(c_in, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, c_out, 3, padding=1)
        )


@register("toy-denoiser", family="diffusion", paper=PAPER)
class ToyDenoiser(GenerativeModel):
    """One player: a denoiser with a layer that draws random numbers, and a buffer."""

    def __init__(self, spec: ImageSpec, width: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = Net(spec.channels, spec.channels, width)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    scale: Tensor
    seen: Tensor

    def prepare(self, batches: Iterator[Batch]) -> None:
        self.scale.copy_(next(batches).x.std())

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        x = batch.x / self.scale
        noisy = x + noise.normal(*x.shape[1:])
        yield Turn(F.mse_loss(self.net(self.dropout(noisy)), x), logs={"power": x.square().mean()})
        self.seen += 1

    def frames(
        self,
        n: int,
        c: Condition = NOTHING,
        *,
        noise: Noise,
        preview: bool = True,
        scale: float = 1.0,
    ) -> Iterator[Tensor]:
        yield scale * self.net(noise.normal(*self.spec.shape))


@register("toy-gan", family="gans", paper=PAPER)
class ToyGAN(GenerativeModel):
    """Two players: k critic steps on fresh data each, then one generator step."""

    def __init__(self, spec: ImageSpec, critic_steps: int = 2, poison: int = -1) -> None:
        super().__init__()
        self.batches_per_round = critic_steps
        self.critic_steps, self.poison = critic_steps, poison
        self.generator = Net(1, spec.channels)
        self.critic = Net(spec.channels, 1)
        self.frozen = nn.Conv2d(1, 1, 1)

    def players(self) -> dict[str, nn.Module]:
        return {"critic": self.critic, "generator": self.generator}

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        n = len(batch.x) // self.critic_steps
        z = noise.normal(1, *self.spec.shape[1:])
        for k in range(self.critic_steps):
            rows = slice(k * n, (k + 1) * n)
            fake = self.generator(z[rows]).detach()
            loss = self.critic(fake).mean() - self.critic(batch.x[rows]).mean()
            yield Turn(loss + self.critic(batch.x[rows]).square().mean(), of="critic")
        loss = -self.critic(self.frozen(self.generator(z[:n]))).mean()
        yield Turn(loss * (math.nan if step == self.poison else 1), of="generator")

    def frames(
        self, n: int, c: Condition = NOTHING, *, noise: Noise, preview: bool = True
    ) -> Iterator[Tensor]:
        yield self.generator(noise.normal(1, *self.spec.shape[1:]))


TOYS = {"one player": lambda: ToyDenoiser(SPEC), "two players": lambda: ToyGAN(SPEC)}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread: results are bit-identical only for equal numbers of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def images(first: int, n: int) -> Batch:
    """Return smooth pictures, a pure function of their numbers."""
    x = Noise.keyed(7, 0, torch.arange(first, first + n)).uniform(1, 1, 1) - 0.5
    ramp = torch.linspace(-0.5, 0.5, 16).view(1, 1, 4, 4)
    return Batch(x + ramp, Condition())


def options(**changes: object) -> TrainOptions:
    return TrainOptions(**{"steps": 20, "batch": 8, "lr": 1e-2, "ema": 0.9} | changes)


def loop_of(build, seed: int = 0, batches=images, **changes: object) -> Loop:
    torch.manual_seed(seed)
    return Loop(build(), batches, options(**changes))


def advanced(loop: Loop, steps: int) -> Loop:
    loop.prepare()
    for _ in range(steps):
        loop.advance()
    return loop


def weights(loop: Loop) -> dict[str, Tensor]:
    return {f"{g}/{k}": v for g, part in loop.state().items() for k, v in part.items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


@pytest.mark.parametrize("build", TOYS.values(), ids=TOYS)
@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_accumulate_exactly(build, parts):
    whole = advanced(loop_of(build), 1)
    split = advanced(loop_of(build, micro_batches=parts), 1)
    for name, weight in whole.model.named_parameters():
        other = split.model.get_parameter(name)
        torch.testing.assert_close(weight, other, atol=3e-6, rtol=0)


def test_a_step_is_plain_autograd_for_both_players():
    """Compare with the algorithm written out: critic, critic, generator, with new gradients."""
    loop = loop_of(TOYS["two players"], optimizer="adam", micro_batches=1)
    model = copy.deepcopy(loop.model)
    assert isinstance(model, ToyGAN)
    critic = torch.optim.Adam(model.critic.parameters(), lr=1e-2)
    generator = torch.optim.Adam(model.generator.parameters(), lr=1e-2)
    batch, noise = images(0, 16), Noise.keyed(0, 0, range(16))
    for turn in model.turns(batch, 0, noise):
        player = critic if turn.of == "critic" else generator
        critic.zero_grad()
        generator.zero_grad()
        turn.loss.backward()
        player.step()
    loop.advance()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(loop.model.get_parameter(name), weight, atol=1e-6, rtol=0)


@pytest.mark.parametrize("build", TOYS.values(), ids=TOYS)
@pytest.mark.parametrize("stop", [1, 3])
def test_resuming_equals_an_uninterrupted_run(build, stop):
    changes = {"micro_batches": 2, "schedule": "cosine", "warmup": 3, "average": "warmup"}
    expected = advanced(loop_of(build, **changes), 7)
    stopped = advanced(loop_of(build, **changes), stop)
    resumed = loop_of(build, seed=99, **changes)
    resumed.restore(stopped.state())
    for _ in range(7 - stop):
        resumed.advance()
    assert_same(weights(expected), weights(resumed))


def test_a_state_whose_layers_have_older_names_is_resumed():
    """Weights, average and moments are restored: the next step equals that of the original loop."""
    file = Path(__file__).parents[1] / "contract" / "old" / "state.safetensors"
    state: Groups = {"model": {}, "average": {}, "optimizer": {}, "counters": {}, "after": {}}
    for path, value in load_tensors(file).items():
        group, _, name = path.partition(":")
        state.setdefault(group, {})[name] = value

    def batches(first: int, n: int) -> Batch:
        draw = torch.Generator().manual_seed(first)
        return Batch(torch.rand(n, 1, 4, 4, generator=draw) * 2 - 1, NOTHING)

    loop = Loop(build("ddpm", SPEC, channels=(2, 4)), batches, TrainOptions(batch=4, steps=3))
    loop.restore(state)
    average = loop.average.state_dict()
    for name, value in state["average"].items():
        assert torch.equal(average[current_name(name, average)], value), name
    loop.advance()
    after = [state["after"][str(i)] for i in range(len(state["after"]))]
    torch.testing.assert_close([*loop.model.parameters()], after, atol=1e-6, rtol=0)


def test_dropout_is_resumed_without_the_global_generator():
    build = lambda: ToyDenoiser(SPEC, dropout=0.5)  # noqa: E731
    expected = advanced(loop_of(build), 4)
    resumed = loop_of(build, seed=5)
    resumed.restore(advanced(loop_of(build), 2).state())
    before = torch.get_rng_state()
    for _ in range(2):
        torch.rand(3)
        before = torch.get_rng_state()
        resumed.advance()
        assert torch.equal(torch.get_rng_state(), before)
    assert_same(weights(expected), weights(resumed))


def test_a_number_missing_in_one_micro_batch_is_averaged_over_others():
    loop = loop_of(TOYS["one player"], micro_batches=2)
    turns, numbers = loop.model.turns, iter([torch.nan, 3.0])

    def some(*args: Any) -> Iterator[Turn]:
        for turn in turns(*args):
            yield turn._replace(logs={"known": torch.tensor(next(numbers))})

    loop.model.turns = some
    assert loop.advance()["known"] == 3


def test_resuming_with_other_micro_batches():
    expected = advanced(loop_of(TOYS["one player"]), 4)
    resumed = loop_of(TOYS["one player"], seed=5, micro_batches=4)
    resumed.restore(advanced(loop_of(TOYS["one player"]), 2).state())
    for _ in range(2):
        resumed.advance()
    for name, weight in expected.model.named_parameters():
        torch.testing.assert_close(resumed.model.get_parameter(name), weight, atol=1e-4, rtol=0)


def test_only_the_named_player_is_trained_and_frozen_parts_never():
    loop = loop_of(TOYS["two players"], players={"critic": {"lr": 1e-9}})
    before = copy.deepcopy(loop.model)
    logs = loop.advance()
    changes = {
        name.split(".")[0]: (loop.model.get_parameter(name) - p).abs().max().item()
        for name, p in before.named_parameters()
    }
    assert changes["frozen"] == 0
    assert changes["critic"] < 1e-6 < changes["generator"]
    assert logs["critic.lr"] == pytest.approx(1e-9)
    assert logs["generator.lr"] == pytest.approx(1e-2)
    assert {"critic.loss", "critic.norm", "generator.loss", "generator.norm"} <= logs.keys()
    assert all(p.grad is None for p in loop.model.parameters())


def test_each_micro_batch_gets_its_rows_of_every_batch_of_the_step():
    requests: list[tuple[int, int]] = []

    def recorded(first: int, n: int) -> Batch:
        requests.append((first, n))
        return images(first, n)

    loop = loop_of(TOYS["two players"], batches=recorded, micro_batches=2)
    loop.advance()
    first_step = [
        request for request in requests if request[0] < 16
    ]  # the others are prefetched for the next step
    assert first_step == [(0, 4), (8, 4), (4, 4), (12, 4)]
    loop.advance()
    second_step = {request for request in requests if 16 <= request[0] < 32}
    assert second_step == {(16, 4), (24, 4), (20, 4), (28, 4)} and len(set(requests)) == len(
        requests
    )
    assert (loop.step, loop.images_seen) == (2, 32)


class RecordsConditions(ToyDenoiser):
    """A model that records its conditions."""

    def __init__(self, spec: ImageSpec, dropout: float = 0.0) -> None:
        super().__init__(spec)
        self.condition_dropout = dropout
        self.given: list[Condition] = []

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        self.given.append(batch.c)
        yield from super().turns(batch, step, noise)


def labelled(first: int, n: int) -> Batch:
    x, _ = images(first, n)
    return Batch(x, Condition(label=torch.ones(n, dtype=torch.int64)))


def test_training_hides_conditions_with_the_models_probability():
    n, p = 2000, 0.15
    model = RecordsConditions(SPEC, p)
    Loop(model, labelled, TrainOptions(batch=n)).advance()
    (c,) = model.given
    assert set(c.label.tolist()) == {-1, 1}
    share = float((c.label == -1).double().mean())
    assert share == pytest.approx(p, abs=3 * math.sqrt(p * (1 - p) / n))
    plain = RecordsConditions(SPEC)
    Loop(plain, labelled, TrainOptions(batch=n)).advance()
    assert plain.given[0].label.min() == 1


def test_hidden_conditions_depend_only_on_image_and_step():
    """A resumed run, or one with other micro-batches, therefore hides the same conditions."""
    whole, parts = RecordsConditions(SPEC, 0.5), RecordsConditions(SPEC, 0.5)
    loops = [
        Loop(model, labelled, TrainOptions(batch=32, micro_batches=m))
        for model, m in ((whole, 1), (parts, 4))
    ]
    for _ in range(2):
        for loop in loops:
            loop.advance()
    labels = [torch.cat([c.label for c in model.given]) for model in (whole, parts)]
    assert torch.equal(*labels)
    assert not torch.equal(*labels[0].chunk(2))


def test_the_average_follows_weights_and_shares_frozen_parts():
    loop = loop_of(TOYS["two players"], ema=0.5, average="constant")
    start = copy.deepcopy(loop.model)
    loop.advance()
    for name, average in loop.average.named_parameters():
        live, first = loop.model.get_parameter(name), start.get_parameter(name)
        torch.testing.assert_close(average, (live + first) / 2)
        assert not average.requires_grad
    assert not loop.average.training
    assert loop.average.frozen.weight is loop.model.frozen.weight


def test_prepare_also_sets_the_average_and_buffers_are_copied():
    loop = advanced(loop_of(TOYS["one player"], micro_batches=2), 3)
    assert loop.average.get_buffer("scale") == images(0, 8).x.std()
    assert loop.average.get_buffer("seen") == 6


class Draws(ToyDenoiser):
    """A model with two turns, each of which draws from torch's own generator."""

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        for name in ("first", "second"):
            yield Turn(self.net(batch.x).mean(), logs={name: torch.rand(())})


def test_random_layers_draw_other_numbers_in_each_move_and_step():
    loop = loop_of(lambda: Draws(SPEC))
    logs = [loop.advance() for _ in range(2)]
    drawn = [each[name] for each in logs for name in ("first", "second")]
    assert len({*drawn}) == 4
    same = loop_of(lambda: Draws(SPEC)).advance()
    assert [same["first"], same["second"]] == drawn[:2]


class Shifted(ToyDenoiser):
    """A model that initialises its weights from data."""

    def prepare(self, batches: Iterator[Batch]) -> None:
        for p in self.parameters():
            p.add_(next(batches).x.mean())


def test_the_average_starts_from_the_weights_that_data_initialise():
    loop = loop_of(lambda: Shifted(SPEC))
    initial = [p.clone() for p in loop.model.parameters()]
    loop.prepare()
    for p, average, before in zip(loop.model.parameters(), loop.average.parameters(), initial):
        assert torch.equal(average, p) and not torch.equal(p, before)


class Calibrated(ToyDenoiser):
    """A model whose scale is re-estimated in `calibrate`."""

    def calibrate(self, batches: Iterator[Batch]) -> None:
        self.scale.copy_(torch.stack([batch.x.mean() for batch in batches]).sum())


def test_calibration_works_on_a_copy():
    loop = loop_of(lambda: Calibrated(SPEC), calibrate_batches=3)
    calibrated = loop.calibrated_model()
    expected = sum(images(first, 8).x.mean() for first in (0, 8, 16))
    torch.testing.assert_close(calibrated.get_buffer("scale"), expected)
    assert loop.average.get_buffer("scale") == 1
    plain = loop_of(TOYS["one player"])
    assert plain.calibrated_model() is plain.average


def test_a_step_that_is_not_finite_is_skipped_completely():
    loop = loop_of(lambda: ToyDenoiser(SPEC), batches=lambda f, n: images(f, n) if f else _nan(n))
    before = weights(loop)
    logs = loop.advance()
    assert math.isnan(logs["loss"])
    assert (loop.unlucky, loop.step, loop.images_seen) == (1, 1, 8)
    after = weights(loop)
    for name in before:
        if not name.startswith(("counters", "model/seen")):
            assert torch.equal(before[name], after[name]), name
    loop.advance()
    assert loop.unlucky == 0


def test_averages_start_after_a_skipped_step():
    """The first update forgets the initial weights, even if it is not the first step."""
    options = {"average": "power", "ema": 0.1, "widths": (0.1,)}
    loop = loop_of(
        lambda: ToyDenoiser(SPEC), batches=lambda f, n: images(f, n) if f else _nan(n), **options
    )
    for _ in range(2):
        loop.advance()
    assert (loop.step, loop.updates) == (2, 1)
    averages = loop.power_averages.state()
    for (name, weight), average in zip(loop.model.named_parameters(), loop.average.parameters()):
        assert torch.equal(average, weight) and torch.equal(averages[f"0.1/{name}"], weight), name
    other = loop_of(lambda: ToyDenoiser(SPEC), seed=1, **options)
    other.restore(loop.state())
    assert_same(other.power_averages.state(), averages)


def _nan(n: int) -> Batch:
    return Batch(torch.full((n, 1, 4, 4), math.nan), Condition())


def test_turns_after_one_that_is_not_finite_are_skipped():
    loop = loop_of(lambda: ToyGAN(SPEC, poison=0))
    generator = copy.deepcopy(loop.model.generator)
    loop.advance()
    assert loop.unlucky == 1
    for a, b in zip(generator.parameters(), loop.model.generator.parameters()):
        assert torch.equal(a, b)
    loop.advance()
    assert loop.unlucky == 0


def test_rolling_back_halves_the_rate_and_ends():
    loop = loop_of(lambda: ToyGAN(SPEC, poison=2), rollbacks=2)
    state = advanced(loop, 1).state()
    for count in (1, 2):
        for _ in range(2):
            loop.advance()
        assert loop.unlucky == 1
        loop.roll_back(state)
        assert (loop.step, loop.unlucky, loop.rollbacks) == (1, 0, count)
        assert loop.advance()["critic.lr"] == pytest.approx(1e-2 / 2**count)
        loop.restore(state | {"counters": loop.state()["counters"] | {"step": torch.tensor(1)}})
    loop.advance()
    loop.advance()
    with pytest.raises(LimnerError, match=r"player 'generator'.*step 3.*2 roll-backs.*train\.lr="):
        loop.roll_back(state)


def test_the_advice_after_the_last_rollback_is_a_valid_option():
    loop = loop_of(lambda: ToyGAN(SPEC), rollbacks=0, lr=1e10, clip=1.0)
    with pytest.raises(LimnerError) as error:
        loop.roll_back(loop.state())
    assert str(error.value).endswith("try train.lr=0.0003")


class Greedy(ToyDenoiser):
    """A model that runs out of memory above a batch size."""

    limit = 4

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        if len(batch.x) > self.limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        yield from super().turns(batch, step, noise)


def test_out_of_memory_halves_the_micro_batch_once():
    loop = advanced(loop_of(lambda: Greedy(SPEC)), 2)
    assert loop.micro_batches == 2
    exact = advanced(loop_of(TOYS["one player"], micro_batches=2), 2)
    for name, weight in exact.model.named_parameters():
        assert torch.equal(loop.model.get_parameter(name), weight)
    greedier = loop_of(lambda: Greedy(SPEC), batch=32)
    with pytest.raises(LimnerError, match=r"out of memory.*train\.micro_batches=4"):
        greedier.advance()


@pytest.mark.parametrize(
    ("batch", "micro_batches", "remedy"),
    [
        (5, 1, "try train.micro_batches=5 or train.batch=2"),
        (18, 2, "try train.micro_batches=3 or train.batch=8"),
        (3, 3, "try a smaller model"),
    ],
)
def test_the_remedy_for_little_memory_is_possible(batch: int, micro_batches: int, remedy: str):
    class NoMemory(Greedy):
        limit = 0

    loop = loop_of(lambda: NoMemory(SPEC), batch=batch, micro_batches=micro_batches)
    with pytest.raises(LimnerError, match="out of memory") as error:
        loop.advance()
    assert str(error.value).endswith(remedy)


def test_out_of_memory_in_an_update_is_reported(monkeypatch: pytest.MonkeyPatch):
    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    loop = loop_of(TOYS["one player"])
    monkeypatch.setattr(loop.players["model"].optimizer, "step", full)
    with pytest.raises(LimnerError, match=r"in the update of the weights of player 'model'"):
        loop.advance()


def test_other_errors_are_not_treated_as_out_of_memory():
    loop = loop_of(lambda: ToyDenoiser(ImageSpec(3, 4, 4)))
    with pytest.raises(RuntimeError, match="channels"):
        loop.advance()


class Unruly(ToyGAN):
    """A model that breaks a given rule of `turns`."""

    rule = ""
    counter = itertools.count()

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        loss = self.critic(batch.x).mean()
        if self.rule == "order":
            yield Turn(loss, of="critic" if next(self.counter) % 2 else "generator")
        if self.rule == "unnamed":
            yield Turn(loss)
        if self.rule == "unknown":
            yield Turn(loss, of="critics")
        if self.rule == "unrelated":
            yield Turn(loss, of="generator")
        if self.rule == "length":
            for _ in range(1 + next(self.counter) % 2):
                yield Turn(self.critic(batch.x).mean(), of="critic")


@pytest.mark.parametrize(
    "rule, said",
    [
        ("order", "take different turns|depends on none"),
        ("length", "take different turns"),
        ("unnamed", "none of its players critic, generator"),
        ("unknown", "did you mean 'critic'"),
        ("unrelated", "depends on none of its weights"),
    ],
)
def test_a_broken_rule_names_the_model(rule, said):
    loop = loop_of(lambda: Unruly(SPEC), micro_batches=2)
    loop.model.rule = rule
    with pytest.raises(LimnerError, match=said) as error:
        loop.advance()
    assert "toy-gan" in str(error.value)


def test_a_model_with_nothing_to_train_is_refused(monkeypatch):
    with pytest.raises(LimnerError, match="'toy-denoiser' has nothing to train; register its"):
        loop_of(lambda: ToyDenoiser(SPEC).requires_grad_(False))
    monkeypatch.setattr(ToyDenoiser, "players", lambda model: {})
    with pytest.raises(LimnerError, match="'toy-denoiser' has no players; return its trained"):
        loop_of(TOYS["one player"])


def test_options_are_checked():
    with pytest.raises(LimnerError, match=r"did you mean 'train\.steps'"):
        TrainOptions.of({"stepps": 3})
    with pytest.raises(LimnerError, match=r"train\.steps=0"):
        TrainOptions(steps=0)
    with pytest.raises(LimnerError, match=r"train\.betas"):
        TrainOptions(betas=(0.5, 1.0))
    with pytest.raises(LimnerError, match=r"train\.ema=0\.999.*0\.289"):
        TrainOptions(average="power")
    with pytest.raises(LimnerError, match=r"did you mean 'train\.players\.critic\.lr'"):
        TrainOptions.of({"players": {"critic": {"lrr": 1}}})
    with pytest.raises(LimnerError, match="unknown player 'criti'; did you mean 'critic'"):
        loop_of(TOYS["two players"], players={"criti": {"lr": 1.0}})
    with pytest.raises(LimnerError, match="multiple of 3"):
        loop_of(TOYS["one player"], micro_batches=3)
    assert TrainOptions.of({"betas": [0, 0.9], "lr": 1}).betas == (0.0, 0.9)


def test_a_state_of_another_model_is_refused():
    with pytest.raises(LimnerError, match="another model"):
        loop_of(TOYS["one player"]).restore(loop_of(TOYS["two players"]).state())
    with pytest.raises(LimnerError, match="another model"):
        loop_of(TOYS["one player"]).restore(loop_of(lambda: ToyDenoiser(SPEC, width=8)).state())


def test_half_precision_loss_is_within_one_per_cent(monkeypatch):
    monkeypatch.setattr("limner.nn.precision.has_bfloat16", lambda device: True)
    build = lambda: ToyDenoiser(SPEC, width=64)  # noqa: E731
    single, half = loop_of(build), loop_of(build, dtype="bfloat16")
    assert half.advance()["loss"] == pytest.approx(single.advance()["loss"], rel=0.01)
    assert half.advance() != single.advance()
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}


class Stale(ToyDenoiser):
    """A model that logs how far the weights that it computes with are from those that it has."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__(spec)
        self.net = nn.Linear(4, 4, bias=False)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        used = self.net(torch.eye(4)).T
        distance = (used - self.net.weight).abs().max()
        yield Turn(used.square().mean(), logs={"distance": distance.detach()})


@pytest.mark.parametrize("outer", [False, True])
def test_bfloat16_computes_with_the_weights_of_each_step(outer, monkeypatch):
    monkeypatch.setattr("limner.nn.precision.has_bfloat16", lambda device: True)
    loop = loop_of(lambda: Stale(SPEC), dtype="bfloat16", lr=0.1)
    loop.prepare()
    with torch.autocast("cpu", torch.bfloat16, enabled=outer):
        logs = [loop.advance() for _ in range(3)]
    assert max(log["distance"] for log in logs) < 0.01


def test_channels_last_changes_the_layout_and_not_the_result():
    last = advanced(loop_of(TOYS["one player"]), 3)
    first = advanced(loop_of(TOYS["one player"], channels_last=False), 3)
    assert last.model.net[2].weight.stride() != first.model.net[2].weight.stride()
    assert last._batch([images(0, 2)]).x.stride() == (16, 1, 4, 1), "this includes a single channel"
    for name, weight in first.model.named_parameters():
        torch.testing.assert_close(last.model.get_parameter(name), weight, atol=1e-4, rtol=0)


class Block(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.net = Net(c_in, c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + x.mean()


class Judge(Learner):
    """A learner without a generator, whose parts are in a list."""

    def __init__(self, spec: ImageSpec, squared: bool = False) -> None:
        super().__init__()
        self.stages = nn.ModuleList([Block(1, 4), Block(4, 1)])
        self.squared = squared

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        x = batch.x.detach().requires_grad_()
        y = self.stages[1](self.stages[0](x)).mean()
        if self.squared:
            (slope,) = torch.autograd.grad(y, x, create_graph=True)
            y = slope.square().sum()
        yield Turn(y)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_networks_are_compiled_in_place_and_double_backward_is_explained(monkeypatch):
    # everything except the code generator, which needs half a minute of a C++ compiler
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    compiled = loop_of(lambda: Judge(SPEC), compile=True)
    eager = loop_of(lambda: Judge(SPEC))
    assert compiled.state()["model"].keys() == eager.state()["model"].keys()
    assert compiled.advance()["loss"] == pytest.approx(eager.advance()["loss"], rel=1e-4)
    with pytest.raises(LimnerError, match=r"train\.compile=false"):
        loop_of(lambda: Judge(SPEC, squared=True), compile=True).advance()


def test_a_slope_in_a_direction_that_is_also_differentiated_is_explained():
    network = torch.compile(nn.Tanh(), backend="aot_eager")
    x, direction = torch.randn(3, 4, requires_grad=True), torch.randn(4, 3).T.requires_grad_()
    with pytest.raises(RuntimeError) as error:
        torch.autograd.grad(network(x), x, direction, create_graph=True)
    assert differentiates_twice(error.value)


def test_compilation_errors_are_reported(monkeypatch: pytest.MonkeyPatch):
    def broken(*args: Any) -> Any:
        raise OverflowError("too big to convert")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    with pytest.raises(LimnerError, match=r"too big to convert.*; type train\.compile=false"):
        loop_of(lambda: Judge(SPEC), compile=True).advance()


def test_clipping_bounds_the_step():
    logs = loop_of(TOYS["one player"], clip=1e-3).advance()
    assert logs["norm"] > 1e-3  # what is logged is the norm before clipping
    loop = loop_of(TOYS["one player"], optimizer="rmsprop", betas=(0.0, 0.9), clip=1e-12)
    before = copy.deepcopy(loop.model)
    loop.advance()
    moves = [(a - b).abs().max() for a, b in zip(before.parameters(), loop.model.parameters())]
    assert max(moves) < 1e-5


class Slashed(ToyDenoiser):
    """A model with a slash in the names of a part and of a player."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__(spec)
        self.parts = nn.ModuleDict({"4/4": self._modules.pop("net")})

    @property
    def net(self) -> nn.Module:
        return self.parts["4/4"]

    def players(self) -> dict[str, nn.Module]:
        return {"a/b": self}


def test_a_run_with_slashes_in_names_is_resumed():
    expected, resumed = advanced(loop_of(lambda: Slashed(SPEC)), 2), loop_of(lambda: Slashed(SPEC))
    resumed.restore(expected.state())
    assert repr(expected.advance()) == repr(resumed.advance())
