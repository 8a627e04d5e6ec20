"""Training options of every model: the validated section [train] of a recipe."""

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
    validate_options,
)
from limner.training import averages, optimisers

_LIST_OPTIONS_HINT = "limner options train"  # lists the options


@dataclass(frozen=True)
class PlayerOptions:
    """Optimiser settings of one player; None stands for the value that all players share.

    Args:
        lr: the highest learning rate.
        betas: decay rates of the optimiser's moments.
        weight_decay: strength of the weight decay.

    Reference: Heusel et al. (2017). GANs trained by a two time-scale update rule. arXiv:1706.08500.
    """

    lr: Positive | None = None
    betas: tuple[Rate, Rate] | None = None
    weight_decay: NonNegative | None = None


@dataclass(frozen=True)
class TrainOptions:
    """Training options, the same for every model.

    Args:
        steps: number of training steps.
        batch: images per step, over all micro-batches and processes.
        micro_batches: number of parts that a batch is split into, to save memory.
        seed: seed of the initial weights, of the order of the data, and of all noise.
        optimizer: "adamw", "adam", "rmsprop", "muon" or "soap".
        lr: the highest learning rate.
        betas: decay rates of the optimiser's moments.
        weight_decay: strength of the weight decay.
        warmup: number of steps in which the learning rate rises linearly to its highest value.
        schedule: schedule of the learning rate: "constant"; "cosine", to 0 at the last step; or
            "linear", constant for the first half of the steps, then linearly to 0.
        clip: maximum gradient norm; 0 = no clipping.
        ema: decay rate of the averaged weights (0 = no averaging), or their relative width for
            average="power".
        average: "constant", the decay rate ema; "warmup", lower rates at first, so that the average
            forgets the initial weights; or "power", a rate that depends on the step.
        widths: relative widths of further averages. Each saved state keeps a snapshot of them in
            half precision; with two, e.g. 0.05,0.1, `limner average` can make any width afterwards.
        dtype: number format in which the networks compute. Weights and losses are always float32;
            on a device without bfloat16, float32 is used instead.
        channels_last: whether images and kernels are stored in channels-last order, which is
            faster.
        parallel: how several processes work together. "ddp": each has all weights. "fsdp": each
            has its share of weights, gradients, moments and averages, and all weights during a
            turn. "fsdp-blocks": the same with one block of layers at a time, for a model with a
            single player.
        checkpointing: whether blocks of layers keep only their inputs, and are computed again for
            their gradients: less memory, up to a third more computation, the same weights.
        compile: whether to compile the networks; impossible for models that differentiate
            gradients.
        threads: number of CPU threads; 0 leaves it to torch.
        log_every: steps between lines of the log.
        validation: number of held-out pictures whose loss is in each line of the log; 0 = none. A
            folder or archive without data.holdout then holds out one picture in twenty. Unless
            given, where there is a held-out split: at most 128, and at most 3 % of the pictures
            trained on since the last line.
        sample_every: steps between sample sheets; 0 = only at the end.
        samples: pictures on a sheet; 0 = none.
        save_every: steps between saved states.
        keep: number of saved states to keep.
        calibrate_batches: number of batches for models that re-estimate buffers of the averaged
            weights.
        patience: number of non-finite steps in a row after which a run returns to its last state,
            with half the learning rate; the last step must be finite.
        rollbacks: how often a run may return in this way before it stops.
        players: lr, betas and weight_decay of single players, by the player's name.
        frozen: parts that are not trained, each given by a part of its weights' names, such as
            "text.layers"; running statistics are still updated.
        init: trained models to start from. A nested model is given by its option
            (`init.first_stage`). `init.model` is the whole model, including nested ones.
            `init.text` is any model with captions; the weights with which its text encoder reads
            tokens are copied.
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
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        checked = validate_options(
            TrainOptions, values, kind="train option", prefix="train.", hint=_LIST_OPTIONS_HINT
        )
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.checkpointing and self.compile:
            raise LimnerError(
                "the compiler itself chooses what to compute twice; give "
                "train.checkpointing=true or train.compile=true, not both"
            )
        averages.average_beta(self.average, self.ema)
        for width in self.widths:
            averages.gamma(width)
        for name in self.players or {}:
            self.player(name)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "TrainOptions":
        """Return the options of a recipe's section [train].

        Raises:
            LimnerError: an unknown name (the message names the nearest one), or an invalid value.
        """
        return cls(
            **validate_options(
                cls, values, kind="train option", prefix="train.", hint=_LIST_OPTIONS_HINT
            )
        )

    def player(self, name: str) -> PlayerOptions:
        """Return the settings of one player."""
        values = (self.players or {}).get(name, {})
        prefix = f"train.players.{name}."
        return PlayerOptions(
            **validate_options(PlayerOptions, values, kind="train option", prefix=prefix)
        )

    def assignments(self) -> list[str]:
        """Return the options that decide how well a model learns, as typed in a command."""
        names = ["optimizer", "lr", "betas", "weight_decay", "batch", "clip", "ema", "steps"]
        values = {f"train.{name}": getattr(self, name) for name in names}
        for name, options in (self.players or {}).items():
            values |= {f"train.players.{name}.{key}": value for key, value in options.items()}
        return [f"{path}={typed_value(value)}" for path, value in values.items()]
