"""The toy models, each broken in one way that its check must detect."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import toys
from torch import Tensor, nn

from limner import testing
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.likelihood import Likelihood
from limner.contract.model import Learner, Turn
from limner.contract.noise import Noise
from limner.testing import Case

GREY = ImageSpec(1, 8, 8)
LABELLED = ImageSpec(1, 8, 8, labels=("a", "b", "c"))


class Broken(NamedTuple):
    """A broken model, the check that must fail, and a part of its message."""

    model: type[Learner]
    check: Callable[[Case], None]
    message: str
    spec: ImageSpec = GREY


class Unrepeatable(toys.Dropout):
    made = itertools.count(1)

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__(spec, width=next(self.made))


class Undefaulted(toys.Dropout):
    def __init__(self, spec: ImageSpec, width: int) -> None:
        super().__init__(spec, width)


class GloballyDrawn(toys.Dropout):
    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        yield self.painter(torch.randn(n, toys.LATENT))


class NotANumber(toys.Dropout):
    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        yield self.painter(noise.normal(toys.LATENT)) / 0 * 0


class WronglyShaped(toys.Dropout):
    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        yield self.painter(noise.normal(toys.LATENT))[:, :, 1:]


class Transposed(toys.Dropout):
    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        yield self.painter(noise.normal(toys.LATENT)).transpose(2, 3)


class TooFew(toys.Dropout):
    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        yield self.painter(noise.normal(toys.LATENT))[1:]


class SingleOnly(toys.Dropout):
    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        x = self.painter(noise.normal(toys.LATENT))
        yield torch.lerp(torch.zeros(x.shape), x, 0.5)


class Counting(toys.Dropout):
    def __init__(self, spec: ImageSpec) -> None:
        super().__init__(spec)
        self.register_buffer("painted", torch.zeros(()))

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        self.painted += n
        yield self.painter(noise.normal(toys.LATENT))


class OtherLastFrame(toys.Dropout):
    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        if preview:
            yield self.painter(noise.normal(toys.LATENT))  # advances the random streams
        yield self.painter(noise.normal(toys.LATENT))


class Miscounted(toys.Dropout):
    def frame_count(self, **options: object) -> int:
        return 3


class BatchDependent(toys.Dropout):
    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        x = self.painter(noise.normal(toys.LATENT))
        yield x - x.mean(0)


class OneStream(toys.Dropout):
    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        z = noise.rows(slice(0, 1)).normal(n, toys.LATENT)[0]
        yield self.painter(z)


class BatchLikelihood(toys.Pixels):
    def log_prob(self, x: Images, c: Condition = Condition(), *, noise: Noise) -> Likelihood:
        nats, kind, _ = super().log_prob(x, c, noise=noise)
        return Likelihood(nats.mean().expand(len(x)), kind)


class ByItself(toys.Lazy):
    """Calls backward where the loop should."""

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        fooled = -self.critic(self.paint(noise, batch.c)).mean()
        fooled.backward(retain_graph=True)
        yield Turn(fooled, of="generator")


class OthersMoved(toys.Critics):
    """Clips the generator after the critic's turn."""

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        for turn in super().turns(batch, step, noise):
            yield turn
            if turn.of == "critic":
                with torch.no_grad():
                    self.generator[0].weight.clamp_(-0.01, 0.01)


class Untrained(toys.Dropout):
    def __init__(self, spec: ImageSpec) -> None:
        super().__init__(spec)
        self.forgotten = nn.Parameter(torch.zeros(3))


class TwiceTrained(toys.Lazy):
    def players(self) -> dict[str, nn.Module]:
        return {"generator": self, "critic": self.critic}


class Unbounded(toys.Dropout):
    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        for turn in super().turns(batch, step, noise):
            yield Turn(turn.loss / 0)


class Vectorial(toys.Dropout):
    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        for turn in super().turns(batch, step, noise):
            yield Turn(turn.loss.expand(2))


class Unnamed(toys.Lazy):
    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        for turn in super().turns(batch, step, noise):
            yield Turn(turn.loss)


class Leaking(toys.Dropout):
    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        for turn in super().turns(batch, step, noise):
            yield Turn(turn.loss, logs={"error": turn.loss})


class DataOrdered(toys.Lazy):
    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        turns = super().turns(batch, step, noise)
        yield from reversed(list(turns)) if float(batch.x[0, 0, 0, 0]) > 0 else turns


class Forgetful(toys.Dropout):
    """What it computes from the data is not a buffer, so it is not saved."""

    scale = 1.0

    def prepare(self, batches: Iterator[Batch]) -> None:
        self.scale = 0.5

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        yield self.scale * self.painter(noise.normal(toys.LATENT))


class LabelBlind(toys.TwoStep):
    def velocity(self, x: Tensor, t: Tensor, c: Condition) -> Tensor:
        return super().velocity(x, t, Condition(label=torch.full((len(x),), -1)))


class NullIsFirst(toys.TwoStep):
    """Takes "no label" for the first class."""

    def velocity(self, x: Tensor, t: Tensor, c: Condition) -> Tensor:
        label = torch.full((len(x),), -1) if c.label is None else c.label.clamp(min=0)
        return super().velocity(x, t, Condition(label=label))


class Undemanding(toys.Translator):
    condition = "optional"

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        hint = noise.normal(*self.spec.hint.shape)
        yield self.network(hint if c.image is None else c.image)


class Attributive(toys.Dropout):
    """Keeps its state in a Python attribute, which is not saved."""

    seen = 0

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        self.seen += 1
        for turn in super().turns(batch, step, noise):
            yield Turn(turn.loss / self.seen)


class SilentlyCoupled(toys.Critics):
    couples_batch = False


class Shared(toys.Dropout):
    def __deepcopy__(self, memo: dict) -> Learner:
        return self


class Thawed(toys.Nested):
    """Puts its frozen part into training mode."""

    def train(self, mode: bool = True) -> Learner:
        nn.Module.train(self, mode)
        self.judge.train(mode)
        return self


class NoDequantisation(toys.Prepared):
    """Omits log |dy / dk| = -D log levels."""

    def log_jacobian(self) -> Tensor:
        return self.log_scale.sum()


class OneLevelShort(toys.Prepared):
    """Divides by levels, but its Jacobian uses levels - 1."""

    def log_jacobian(self) -> Tensor:
        ratio = torch.tensor((self.spec.levels - 1) / self.spec.levels)
        return super().log_jacobian() - self.spec.dimensions * ratio.log()


class BoundAsExact(toys.Prepared):
    """Reports a bound as the exact likelihood."""

    def log_prob(self, x: Images, c: Condition = Condition(), *, noise: Noise) -> Likelihood:
        return super().log_prob(x, c, noise=noise)._replace(kind="exact")


class JacobianTwice(toys.Prepared):
    def log_jacobian(self) -> Tensor:
        return super().log_jacobian() + self.log_scale.sum()


class KlSign(toys.Autoencoder):
    def bound(self, reconstruction: Tensor, kl: Tensor) -> Tensor:
        return reconstruction + kl


class NoKl(toys.Autoencoder):
    def bound(self, reconstruction: Tensor, kl: Tensor) -> Tensor:
        return reconstruction


class Unnormalised(toys.Pixels):
    def log_prob(self, x: Images, c: Condition = Condition(), *, noise: Noise) -> Likelihood:
        nats, kind, _ = super().log_prob(x, c, noise=noise)
        return Likelihood(nats + self.spec.dimensions * 0.01, kind)


class Playerless(toys.Dropout):
    """No part of it is trained."""

    def players(self) -> dict[str, nn.Module]:
        return {}


class Weightless(toys.Dropout):
    """Its layers are in a list, so that torch does not know them."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__(spec)
        self.layers = [self.__dict__["_modules"].pop("painter")]


PAIRED = ImageSpec(1, 8, 8, hint=GREY)
BROKEN = [
    Broken(Unrepeatable, testing.check_builds, "does not rebuild the same network"),
    Broken(Undefaulted, testing.check_builds, "missing"),
    Broken(GloballyDrawn, testing.check_paints, "global generator"),
    Broken(NotANumber, testing.check_paints, "not finite"),
    Broken(WronglyShaped, testing.check_paints, "are 7 x 8 .*; yield 8 x 8, as its"),
    Broken(Transposed, testing.check_paints, "cannot paint them .*16 x 8 .*; raise a LimnerError"),
    Broken(TooFew, testing.check_paints, "yields 2 x .*; yield 3 x"),
    Broken(SingleOnly, testing.check_paints, "cannot paint in bfloat16"),
    Broken(Counting, testing.check_paints, "sampling changes 'painted'"),
    Broken(OtherLastFrame, testing.check_last_frame, "not the sample"),
    Broken(Miscounted, testing.check_last_frame, "frame_count returns 3, and frames yields 1;"),
    Broken(BatchDependent, testing.check_any_batch, "painted by themselves"),
    Broken(OneStream, testing.check_any_batch, "painted by themselves"),
    Broken(BatchLikelihood, testing.check_any_batch, "depends on the batch"),
    Broken(BoundAsExact, testing.check_any_batch, "draws from `noise` is not exact; return"),
    Broken(Weightless, testing.check_turns, "player 'model' trains no weights; put layers in"),
    Broken(Playerless, testing.check_turns, "players returns no part of the model"),
    Broken(ByItself, testing.check_turns, "leaves a gradient in 'critic"),
    Broken(OthersMoved, testing.check_turns, "'generator.0.weight' was changed outside"),
    Broken(Untrained, testing.check_turns, "'forgotten' is trained by no turn"),
    Broken(TwiceTrained, testing.check_turns, "in two players"),
    Broken(Unbounded, testing.check_turns, "a loss of inf"),
    Broken(Vectorial, testing.check_turns, "a loss of 2 numbers"),
    Broken(Unnamed, testing.check_turns, "a turn of 'None', and the players are"),
    Broken(Leaking, testing.check_turns, "detach it"),
    Broken(DataOrdered, testing.check_turns, "order of turns depends on data"),
    Broken(Forgetful, testing.check_saves, "paints other pictures"),
    Broken(LabelBlind, testing.check_condition, "another label leaves", LABELLED),
    Broken(NullIsFirst, testing.check_condition, "null condition paints", LABELLED),
    Broken(Undemanding, testing.check_condition, "null condition paints", PAIRED),
    Broken(Attributive, testing.check_resumes, "losses differ"),
    Broken(SilentlyCoupled, testing.check_accumulates, "couples_batch"),
    Broken(Shared, testing.check_moves, "a copy shares"),
    Broken(Thawed, testing.check_moves, "of the frozen 'judge'"),
    Broken(NoDequantisation, testing.check_entropy_floor, "below their entropy"),
    Broken(BoundAsExact, testing.check_entropy_floor, 'a bound is Likelihood.nats, "lower".'),
    Broken(OneLevelShort, testing.check_entropy_floor, "sum to"),
    Broken(JacobianTwice, testing.check_entropy_floor, "below their entropy"),
    Broken(KlSign, testing.check_entropy_floor, "sum to"),
    Broken(
        NoKl,
        testing.check_entropy_floor,
        "after training, the probabilities of all 16 images sum to",
    ),
    Broken(Unnormalised, testing.check_entropy_floor, "below their entropy"),
]
