"""The training loop of all models: after each turn, the player that the turn names takes a step.

    for each step:
        one iterator `model.turns(rows, step, noise)` for each micro-batch, with some conditions
        hidden
        until they end, all in lock step:
            each yields a loss; (loss / micro-batches).backward(inputs=the player's) follows
            gradients are averaged over processes, clipped, and the player takes its step
            only then are the iterators resumed
        the averaged weights are updated

Gradient accumulation is exact for any number of players, and nothing here depends on a family of
models. Data, noise and dropout are pure functions of (seed, step), so that a run continues from
`Loop.state` bit for bit.
"""

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from limner.contract.checkpoint import with_current_names
from limner.contract.errors import LimnerError, unknown
from limner.contract.image import Batch, Condition
from limner.contract.model import Learner, Turn
from limner.contract.noise import Noise
from limner.contract.turns import checked_turns
from limner.data.stream import Prefetcher
from limner.nn.precision import autocast
from limner.runtime import processes
from limner.runtime.seeding import seed_torch
from limner.training import averages, optimisers
from limner.training.checkpointing import Checkpointing
from limner.training.model_memory import gather_memory, restore_memory_
from limner.training.options import TrainOptions
from limner.training.player import Player, players_of
from limner.training.sharding import (
    is_shard,
    shard,
    shard_all_like,
    total_norm,
    whole,
)
from limner.training.torch_errors import (
    differentiates_twice,
    is_of_compiler,
    is_out_of_memory,
)

Groups = dict[str, dict[str, Any]]
"""A state: named groups of named tensors, or of `StoredTensor` ones."""
_Logs = dict[str, list[Tensor]]


class _Result(NamedTuple):
    """The player whose turn it was in all micro-batches, and their mean loss."""

    player: Player
    loss: Float[Tensor, ""]


class Loop:
    """Training loop that takes one step at a time.

    Args:
        model: model to train; it is moved to the device, and trained in place.
        batches: function that returns images first .. first + n - 1, by global number.
        options: training options.
        device: device to train on.

    Attributes:
        model: the weights in training.
        average: the averaged weights, in evaluation mode; shares the frozen weights of `model`.
        power_averages: averages of other widths, to choose from after training.
        step: number of steps taken.
        images_seen: number of images seen in these steps; also the number of the next image.
        micro_batches: number of parts of a batch; doubled once when memory runs out.
        unlucky: number of skipped steps in a row, whose loss or gradient was not finite.
    """

    def __init__(
        self,
        model: Learner,
        batches: Callable[[int, int], Batch],
        options: TrainOptions,
        device: str | torch.device = "cpu",
    ) -> None:
        self.options = options
        self.batches = batches
        self.device = torch.device(device)
        self.model = model.train()
        self._ahead = Prefetcher(batches, self._round)
        self._sharding = sharding = shard(model, options.parallel, options.optimizer, self.device)
        model.to(self.device)
        if options.channels_last and not self._sharding:
            _channels_last_(self.model)
        self.players = players_of(self.model, options)
        trained = {id(p): p for player in self.players.values() for p in player.parameters}
        self._frozen = {id(p): p for p in model.parameters() if id(p) not in trained}
        shared = dict(self._frozen)
        average = sharding.sharded_copy(shared) if sharding else copy.deepcopy(model, shared)
        self.average = average.requires_grad_(False).eval()
        copies = dict(self.average.named_parameters())
        names = {name: p for name, p in self.model.named_parameters() if id(p) in trained}
        self._average_pairs = {name: (copies[name], p) for name, p in names.items()}
        self._beta = averages.average_beta(options.average, options.ema)
        weights = {name: p for name, (_, p) in self._average_pairs.items()}
        self.power_averages = averages.PowerAverages(options.widths, weights)
        self._checkpointing = Checkpointing(self.model) if options.checkpointing else None
        self.step = self.images_seen = self.unlucky = self.rollbacks = self.updates = 0
        self.micro_batches = options.micro_batches
        self.lr_scale = 1.0
        self._nonfinite_player = ""
        self._images_at_once()  # a batch that cannot be split is an error now, not later
        if options.compile:
            for part in model.players().values():
                for network in _networks(part):
                    network.compile()

    def prepare(self) -> None:
        """Initialise the model, its average and the other processes from data, before step 0."""
        model = self._sharding.whole_model() if self._sharding else self.model
        pairs = zip(model.parameters(), self.model.parameters())
        with self._seed_torch("prepare"), torch.no_grad():
            saved = [(p, p.detach().clone()) for p, weight in pairs if id(weight) in self._frozen]
            model.prepare(self._first_batches(model.device))
            for p, value in saved:
                p.copy_(value)
            values = [*model.parameters(), *model.buffers()]
            if model.device == self.device:
                processes.broadcast_(values)
            else:  # one at a time, because the device may be too small for all of them
                for value in values:
                    on_device = value.to(self.device)
                    processes.broadcast_([on_device])
                    value.copy_(on_device)
        if self._sharding:
            self._sharding.take(model)
        self.average.load_state_dict(self.model.state_dict())

    def calibrated_model(self) -> Learner:
        """Return the averaged model ready for use, with its buffers re-estimated where needed."""
        average = self.whole_average()
        if type(self.model).calibrate is Learner.calibrate:
            return average
        model = copy.deepcopy(average, dict(self._frozen))
        with self._seed_torch("calibrate"), torch.no_grad():
            batches = self._first_batches(model.device)
            model.calibrate(itertools.islice(batches, self.options.calibrate_batches))
        return model.eval()

    def whole_average(self) -> Learner:
        """Return the averaged model with all of its weights; to be called on every process."""
        return self._sharding.whole_copy(self.average) if self._sharding else self.average

    def advance(self) -> dict[str, float]:
        """Take one training step.

        Returns:
            the means over micro-batches of each player's loss, gradient norm and learning rate
            (prefixed by the player's name where there are several), and of what the model logs.
            After a step that was skipped because a value was not finite, `unlucky` is above 0.

        Raises:
            LimnerError: the model breaks the rules of `turns`, or memory ran out a second time.
        """
        logs = self._play()
        if self._checkpointing:
            self._checkpointing.check()
        finer = 2 * self.options.micro_batches
        if logs is None and self.micro_batches < finer and self._splits(finer):
            self.micro_batches = finer
            logs = self._play()
        if logs is None:
            raise self._memory_error()
        processes.average_buffers_(self.model)
        if not self.unlucky:
            self._follow()
        self.step += 1
        self.images_seen += self._round
        return logs

    def roll_back(self, state: Groups) -> None:
        """Return to an earlier state, with half the learning rate.

        Raises:
            LimnerError: the run has already returned `options.rollbacks` times.
        """
        scale, count = self.lr_scale / 2, self.rollbacks + 1
        if count > self.options.rollbacks:
            lr = min(self.options.lr / 4, TrainOptions.lr)
            clip_hint = "" if self.options.clip else " or train.clip=1"
            raise LimnerError(
                f"the loss or gradient of player '{self._nonfinite_player}' is not finite at step "
                f"{self.step}, after {self.rollbacks} roll-backs; try train.lr={lr:g}{clip_hint}"
            )
        self.restore(state)
        self.lr_scale, self.rollbacks, self.unlucky = scale, count, 0

    def state(self, copied: Callable[[Tensor], Tensor] = whole) -> Groups:
        """Return copies of all that `restore` needs: weights, average, moments, counters, and the
        model's memory (`Learner.memory`).

        Args:
            copied: function that copies a tensor; `own_shard` where weights, moments and further
                averages may stay sharded.
        """
        counters = {name: torch.tensor(getattr(self, name)) for name in _COUNTERS}
        moments = [player.state(copied) for player in self.players.values()]
        optional = {
            "memory": gather_memory(self.model),
            "power_averages": self.power_averages.state(copied),
        }
        return {
            "model": {name: copied(value) for name, value in self.model.state_dict().items()},
            "average": {name: whole(average) for name, (average, _) in self._average_pairs.items()},
            "optimizer": {name: value for part in moments for name, value in part.items()},
            "counters": counters | {"lr_scale": torch.tensor(self.lr_scale, dtype=torch.float64)},
        } | {name: group for name, group in optional.items() if group}

    def restore(self, state: Groups) -> None:
        """Continue where `state` was taken, on any number of micro-batches or processes.

        Raises:
            LimnerError: the state belongs to another model.
        """
        current = self.model.state_dict()
        weights = with_current_names(shard_all_like(state["model"], current), current)
        average = with_current_names(shard_all_like(state["average"], current), self._average_pairs)
        if average.keys() != self._average_pairs.keys():
            odd_name = min(average.keys() ^ self._average_pairs.keys())
            raise LimnerError(
                f"the saved state is of another model: only one of them has weight '{odd_name}'"
            )
        try:
            self.model.load_state_dict(weights)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise LimnerError(f"the saved state is of another model: {reason}") from None
        self.average.load_state_dict(weights | average)
        restore_memory_(self.model, state.get("memory", {}))
        self.power_averages.restore(state.get("power_averages", {}))
        for player in self.players.values():
            player.restore(state["optimizer"])
        for name in _COUNTERS:
            setattr(self, name, int(state["counters"][name]))
        self.lr_scale = float(state["counters"]["lr_scale"])

    @property
    def _round(self) -> int:
        """Number of images in one step."""
        return self.options.batch * self.model.batches_per_round

    def _splits(self, micro_batches: int) -> bool:
        return self.options.batch % (micro_batches * processes.size()) == 0

    def _images_at_once(self) -> int:
        """Return the number of images of each batch in each micro-batch of each process."""
        parts = self.micro_batches * processes.size()
        if not self._splits(self.micro_batches):
            raise LimnerError(
                f"train.batch={self.options.batch} cannot be split evenly into {parts} parts, the "
                f"micro-batches of all processes; choose a multiple of {parts}"
            )
        return self.options.batch // parts

    def _batch(self, parts: list[Batch]) -> Batch:
        """Join batches, on the device."""
        batch = parts[0]
        if len(parts) > 1:
            c = Condition.cat([part.c for part in parts])
            batch = Batch(torch.cat([part.x for part in parts]), c)
        batch = batch.to(self.device)
        if self.options.channels_last:  # with one channel, only a copy gets this layout's strides
            return Batch(batch.x.clone(memory_format=torch.channels_last), batch.c)
        return batch

    def _first_batches(self, device: torch.device) -> Iterator[Batch]:
        n = self.options.batch
        numbers = itertools.count(0, n)
        return (self._batch([self.batches(first, n)]).to(device) for first in numbers)

    def _game(self, part: int) -> Iterator[Turn]:
        """Yield the turns of one micro-batch: the same rows of each of the round's batches."""
        n = self._images_at_once()
        first = self.images_seen + part * n
        starts = list(range(first, first + self._round, self.options.batch))
        numbers = torch.cat([torch.arange(start, start + n) for start in starts])
        noise = Noise.keyed(self.options.seed, self.step, numbers).to(self.device)
        x, c = self._batch([self._ahead(start, n) for start in starts])
        masked_c = c.drop(self.model.condition_dropout, noise)
        model = self.model.at_size(*x.shape[2:])
        yield from checked_turns(model, Batch(x, masked_c), self.step, noise)

    def _play(self) -> dict[str, float] | None:
        """Play all turns of one step; return None if memory ran out before any update."""
        parts = [micro * processes.size() + processes.rank() for micro in range(self.micro_batches)]
        games, logs = {part: self._game(part) for part in parts}, _Logs()
        for number in itertools.count():
            result, fits = None, True
            try:
                result = self._turn(games, number, logs)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                self._refuse_unless_splitting_helps(error, number)
                fits = False
            if number == 0 and processes.anyone(not fits, self.device):
                for player in self.players.values():
                    player.optimizer.zero_grad()
                return None
            if result is None:
                self.unlucky = 0
                break
            if not self._update(result.player, result.loss, logs):
                self.unlucky, self._nonfinite_player = self.unlucky + 1, result.player.name
                break
        if not logs:
            return {}
        means = torch.stack([torch.stack(values).nanmean() for values in logs.values()])
        return dict(zip(logs, processes.mean_of_known(means).tolist()))

    def _turn(self, games: dict[int, Iterator[Turn]], number: int, logs: _Logs) -> _Result | None:
        """Compute the gradients of each micro-batch's next loss; return None after the last."""
        player, losses = None, []
        for micro, (part, game) in enumerate(games.items()):
            turn = self._next_turn(game, number, part)
            previous, player = player, turn and self._player_of(turn)
            if micro and player is not previous:
                raise self._rule_error("its micro-batches take different turns")
            if turn and player:
                loss = turn.loss / len(games)
                if self._sharding:
                    self._sharding.backward(loss)
                else:
                    loss.backward(inputs=player.parameters)
                losses.append(turn.loss.detach().float())
                for name, value in turn.logs.items():
                    logs.setdefault(name, []).append(value.detach().float())
        return player and _Result(player, torch.stack(losses).mean())

    def _refuse_unless_splitting_helps(self, error: RuntimeError, number: int) -> None:
        """Raise the error again, unless memory ran out in the first turn: splitting may help."""
        if self.options.compile and differentiates_twice(error):
            raise self._rule_error(
                "compiled networks cannot be differentiated twice; type train.compile=false"
            ) from None
        if not is_out_of_memory(error):
            if is_of_compiler(error):
                message = " ".join(str(error).split())[:200]
                reason = f"it cannot be compiled ({message}); type train.compile=false"
                raise self._rule_error(reason) from error
            raise error
        if number:
            raise self._memory_error() from None

    def _next_turn(self, game: Iterator[Turn], number: int, part: int) -> Turn | None:
        """Return a game's next turn, or None at its end; random layers are seeded by the key."""
        with (
            self._seed_torch(self.step, number, part),
            autocast(self.device, self.options.dtype),
        ):
            return self._sharding.next_turn(game) if self._sharding else next(game, None)

    def _player_of(self, turn: Turn) -> Player:
        if turn.of is None and len(self.players) == 1:
            return next(iter(self.players.values()))
        if turn.of is None:
            raise self._rule_error(f"a turn names none of its players {', '.join(self.players)}")
        if turn.of not in self.players:
            raise unknown("player", turn.of, self.players, f"model '{_name(self.model)}'")
        return self.players[turn.of]

    def _update(self, player: Player, loss: Float[Tensor, ""], logs: _Logs) -> bool:
        """Let a player take its step; return False, without a step, if a value is not finite."""
        unshared = [p for p in player.parameters if not is_shard(p)]  # shards are averaged already
        loss = processes.average_gradients_(unshared, loss)
        gradients = [p.grad for p in player.parameters if p.grad is not None]
        if not gradients:
            raise self._rule_error(
                f"the loss of player '{player.name}' depends on none of its weights"
            )
        norm = total_norm(gradients)
        options = self.options
        share = optimisers.rate(
            self.step, options.steps, schedule=options.schedule, warmup=options.warmup
        )
        lr = player.lr * share * self.lr_scale
        prefix = f"{player.name}." if len(self.players) > 1 else ""
        for name, value in (("loss", loss), ("norm", norm), ("lr", torch.tensor(lr))):
            logs.setdefault(prefix + name, []).append(value.float().to(self.device))
        is_finite = bool((loss + norm).isfinite())
        if is_finite:
            player.take_step(lr, options.clip, norm)
        for other in self.players.values():  # with sharding, also of players whose turn it was not
            other.optimizer.zero_grad()
        return is_finite

    @torch.no_grad()
    def _follow(self) -> None:
        """Update the averaged weights, and copy the buffers."""
        average, weights = zip(*self._average_pairs.values())
        averages.lerp_(average, weights, self._beta(self.updates))
        self.power_averages.follow(self.updates)
        self.updates += 1
        if copies := list(self.average.buffers()):
            buffers = list(self.model.buffers())
            torch._foreach_copy_(copies, buffers)  # pyright: ignore[reportPrivateImportUsage]

    def _seed_torch(self, *key: object) -> contextlib.AbstractContextManager[None]:
        return seed_torch((self.options.seed, *key), self.device)

    def _rule_error(self, reason: str) -> LimnerError:
        return LimnerError(f"model '{_name(self.model)}' at step {self.step}: {reason}")

    def _memory_error(self) -> LimnerError:
        images, remedy = self._images_at_once(), "a smaller model"
        if images > 1:
            finer = next(m for m in itertools.count(self.micro_batches + 1) if self._splits(m))
            smaller = self.options.batch // images * (images // 2)
            remedy = f"train.micro_batches={finer} or train.batch={smaller}"
        start = f"out of memory at step {self.step} with {images} images at a time"
        return LimnerError(f"{start}; try {remedy}")


_COUNTERS = ("step", "images_seen", "unlucky", "rollbacks", "updates")


def _name(model: Learner) -> str:
    return model.name or type(model).__name__


def _networks(part: nn.Module) -> Iterator[nn.Module]:
    """Yield the networks to compile: a player, or members of containers, which compilers skip."""
    if isinstance(part, (Learner, nn.ModuleList, nn.ModuleDict, nn.Sequential)):
        for child in part.children():
            yield from _networks(child)
    else:
        yield part


def _channels_last_(model: nn.Module) -> None:
    tensors: list[Shaped[Tensor, ...]] = [*model.parameters(), *model.buffers()]
    for tensor in tensors:
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
