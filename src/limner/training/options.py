"""How to train, whatever the model: what a recipe's section [train] may say, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from limner.contract.errors import LimnerError
from limner.contract.options import (
    Count,
    Names,
    Natural,
    NonNegative,
    Positive,
    Rate,
    typed_value,
    validated,
)
from limner.training import averages, optimisers


@dataclass(frozen=True)
class PlayerOptions:
    """One player's own optimiser settings; what is None is as for every player.

    Reference: Heusel et al. (2017). GANs trained by a two time-scale update rule. arXiv:1706.08500.
    """

    lr: Positive | None = None
    betas: tuple[Rate, Rate] | None = None
    weight_decay: NonNegative | None = None


@dataclass(frozen=True)
class TrainOptions:
    """How to train, whatever the model.

    Args:
        steps: how many training steps.
        batch: images a step, over all micro-batches and processes.
        micro_batches: parts that a batch is split into, to save memory.
        seed: of the first weights, the data's order, and all noise.
        optimizer: "adamw", "adam", "rmsprop", "muon" or "soap".
        lr: the highest learning rate.
        betas: decay rates of the optimiser's moments.
        weight_decay: the pull of the weights to zero.
        warmup: steps of linear rise of the learning rate.
        schedule: of the learning rate: "constant"; "cosine", to 0 at the last step; or "linear",
            constant for the first half of the steps, then to 0 on a line.
        clip: the largest gradient norm; 0 does not clip.
        ema: the average's decay rate (0 = no averaging), or its relative width for average="power".
        average: how the decay rate depends on time, see `averages.average_beta`.
        widths: relative widths of further averages, of which each saved state keeps a snapshot in
            half precision; two, as 0.05,0.1, let `limner average` make any width afterwards.
        dtype: in which the networks compute; weights and losses are float32 anyway, and bfloat16
            is float32 where the device has none.
        channels_last: whether images and kernels lie in memory pixel by pixel, which is faster.
        parallel: of many processes: "ddp", each with all weights; "fsdp", each with its share of
            weights, gradients, moments and averages, and with all weights for the length of a turn;
            "fsdp-blocks", with one block of layers at a time, of a model with a single player.
        checkpointing: whether blocks of layers keep their inputs alone, and are computed again for
            their gradients: less memory, up to a third more computation, the same weights.
        compile: whether the networks are compiled; models that differentiate gradients cannot be.
        threads: of the CPU; 0 leaves it to torch.
        log_every: steps between lines of the log.
        validation: held-out pictures whose loss each line of the log gives; 0 = none. A folder or
            archive without data.holdout then holds out one picture in twenty. Unless given, where
            there is a held-out split: at most 128, and 3 % of those that are trained on.
        sample_every: steps between sample sheets; 0 = only at the end.
        samples: pictures on a sheet; 0 = none.
        save_every: steps between saved states.
        keep: how many saved states stay.
        calibrate_batches: batches for models that re-estimate buffers of the averaged weights.
        patience: non-finite steps in a row before a run returns to its last state at half the rate.
        rollbacks: how often, before the run stops.
        players: a player's own lr, betas and weight_decay, by its name.
        frozen: parts whose weights stay as they are, each by a part of its weights' names, such as
            "text.layers"; running statistics go on.
        init: trained models to begin with. A nested model is given by its option
            (`init.first_stage`). `init.model` is the whole model, nested ones with it. `init.text`
            is any model with captions: its text encoder's reading of tokens is taken.
    """

    steps: Count = 10_000
    batch: Count = 64
    micro_batches: Count = 1
    seed: int = 0
    optimizer: optimisers.OptimizerName = "adamw"
    lr: Positive = 3e-4
    betas: tuple[Rate, Rate] = (0.9, 0.999)
    weight_decay: NonNegative = 0.0
    warmup: Natural = 0
    schedule: optimisers.ScheduleName = "constant"
    clip: NonNegative = 0.0
    ema: float = 0.999
    average: averages.AverageName = "warmup"
    widths: tuple[Positive, ...] = ()
    dtype: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = True
    parallel: Literal["ddp", "fsdp", "fsdp-blocks"] = "ddp"
    checkpointing: bool = False
    compile: bool = False
    threads: Natural = 0
    log_every: Count = 50
    validation: Natural | None = None
    sample_every: Natural = 1000
    samples: Natural = 40
    save_every: Count = 1000
    keep: Count = 2
    calibrate_batches: Count = 16
    patience: Count = 10
    rollbacks: Natural = 3
    players: dict[str, dict[str, Any]] | None = None
    frozen: Names = ()
    init: dict[str, str] | None = None

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        checked = validated(TrainOptions, given, kind="train option", prefix="train.")
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.checkpointing and self.compile:
            raise LimnerError(
                "compiled networks choose by themselves what to compute twice; give "
                "train.checkpointing=true or train.compile=true, not both"
            )
        averages.average_beta(self.average, self.ema)
        for width in self.widths:
            averages.gamma(width)
        for name in self.players or {}:
            self.player(name)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "TrainOptions":
        """Options as a recipe has them.

        Raises:
            LimnerError: an unknown name (the nearest one is named), or a value that cannot be.
        """
        return cls(**validated(cls, values, kind="train option", prefix="train."))

    def player(self, name: str) -> PlayerOptions:
        """A player's own settings."""
        own = (self.players or {}).get(name, {})
        prefix = f"train.players.{name}."
        return PlayerOptions(**validated(PlayerOptions, own, kind="train option", prefix=prefix))

    def typed(self) -> list[str]:
        """What decides how well it learns, as it is typed."""
        shown = ["optimizer", "lr", "betas", "weight_decay", "batch", "clip", "ema", "steps"]
        values = {f"train.{name}": getattr(self, name) for name in shown}
        for name, own in (self.players or {}).items():
            values |= {f"train.players.{name}.{key}": value for key, value in own.items()}
        return [f"{path}={typed_value(value)}" for path, value in values.items()]
