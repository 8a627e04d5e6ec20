"""The loss on pictures that training never sees, always the same ones under the same noise.

Training loss falls for as long as a model can learn its pictures by heart; this one says when it
no longer learns anything else.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from limner.contract.errors import LimnerError
from limner.contract.image import Batch
from limner.contract.model import Learner
from limner.contract.noise import Noise, Purpose
from limner.data import Dataset, Stream, open_data
from limner.data.sources import held_out_options, source_types, splits_of
from limner.nn.precision import autocast
from limner.training.loop import seeded
from limner.training.options import TrainOptions

LOSS = "held_out.loss"
"""What the log calls it."""
HOLDOUT = 0.05
"""The share of pictures held out of a source that has no split of its own, where one is wanted."""
_USUAL, _USUAL_SHARE = 128, 0.03
"""Held-out pictures of each line of the log, unless given: so many, or such a share of those that
were trained on since the last one; a loss alone costs less than a step of training."""
_MOST = 10_000  # held-out pictures, which stay in memory
_LEAST_LINES = 2  # of a log, below which a held-out loss says nothing
_PATIENCE = 10  # lines of the log without a better loss, until that is said


class Validation:
    """The held-out loss of a run.

    Args:
        data: the recipe's section [data]; empty for a data set in memory, which holds nothing out.
        options: of training: how many pictures, how they are batched and in which dtype.
        model: with one player; a game's losses say nothing about pictures that are held out.

    Raises:
        LimnerError: the source has no held-out split, or is a data set in memory; or the model has
            several players.
    """

    def __init__(self, data: Mapping[str, Any], options: TrainOptions, model: Learner) -> None:
        self.options = options
        self._batches: list[tuple[Batch, Noise]] = []
        self.count = options.validation or 0
        if options.validation is None:
            held_out = _usual_data(data, options, model)
            self.count = _usual_count(options) if held_out else 0
        elif self.count and len(model.players()) > 1:
            raise LimnerError(
                f"train.validation: the players of {model.name} models have no held-out loss; "
                "leave it out, or measure pictures with a section [evaluate]"
            )
        else:
            held_out = _held_out(data) if self.count else None
        if not held_out:
            return
        if options.validation and self.count > (most := min(len(held_out), _MOST)):
            raise LimnerError(
                f"train.validation={self.count}: give at most {most:,} of the held-out pictures"
            )
        stream = Stream(held_out, options.seed)
        for first in range(0, self.count, options.batch):
            n = min(options.batch, self.count - first)
            noise = Noise.keyed(options.seed, Purpose.VALIDATION, range(first, first + n))
            self._batches.append((stream.batch(first, n), noise))

    @torch.no_grad()
    def numbers(self, model: Learner, step: int) -> dict[str, float]:
        """The held-out loss of a model in evaluation mode; nothing where none was asked for."""
        if not self._batches:
            return {}
        model.eval()  # also for what layers keep in this mode: it is computed again
        device = model.device
        remembered = [(buffer, buffer.clone()) for buffer in model.buffers()]
        total = 0.0
        for i, (batch, noise) in enumerate(self._batches):
            streams = Noise(noise.streams, noise.draws, noise.others).to(device)
            with (
                seeded((self.options.seed, "validate", i), device),
                autocast(device, self.options.dtype),
            ):
                seen = copy.deepcopy(batch).to(device)  # turns may write into what they are given
                losses = [turn.loss for turn in model.turns(seen, step, streams)]
            total += float(sum(losses)) * len(batch.x)
        for buffer, before in remembered:  # such as singular vectors, which move with each loss
            buffer.copy_(before)
        return {LOSS: total / self.count}


def with_held_out(data: Mapping[str, Any], options: TrainOptions) -> dict[str, Any]:
    """A section [data] under which pictures are held out, where the loss on such is wanted."""
    kinds = source_types(str(data["source"]))
    chosen = "holdout" in data or splits_of(data) != {"train"}
    if not options.validation or not any(hasattr(kind, "holdout") for kind in kinds) or chosen:
        return dict(data)
    return {**data, "holdout": HOLDOUT}


def no_better(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """A sentence when the held-out loss has had no better value for 10, 20, 40, ... lines.

    Args:
        rows: all lines of the log so far.
    """
    measured = [row for row in rows if row.get(LOSS) is not None]
    if not measured:
        return None
    best = min(range(len(measured)), key=lambda i: measured[i][LOSS])
    waited = len(measured) - 1 - best
    times, rest = divmod(waited, _PATIENCE)
    if rest or not times or times & (times - 1):
        return None
    then, now = measured[best], measured[-1]
    return (
        f"the held-out loss is no better since step {then['step']:,} ({then[LOSS]:g}, now "
        f"{now[LOSS]:g}); longer training may only learn the training pictures by heart"
    )


def _usual_count(options: TrainOptions) -> int:
    """How many pictures are held against each line of the log, unless that is given."""
    return min(_USUAL, int(_USUAL_SHARE * options.log_every * options.batch))


def _usual_data(data: Mapping[str, Any], options: TrainOptions, model: Learner) -> Dataset | None:
    """The held-out split of a source; None where it has none, or the loss of it would say little:
    of several players, of a short run, of pictures with other classes or words.
    """
    short = (
        not data or options.steps < _LEAST_LINES * options.log_every or not _usual_count(options)
    )
    if short or len(model.players()) > 1:
        return None
    try:
        found = _held_out(data)
    except LimnerError:
        return None
    told, spec = model.spec, found.spec
    parts = (told.labels, spec.labels), (told.text, spec.text), (told.hint, spec.hint)
    alike = all(not wanted or wanted == given for wanted, given in parts)
    return found if len(found) and alike and told.shape == spec.shape else None


def _held_out(data: Mapping[str, Any]) -> Dataset:
    """The first split of a recipe's source that training does not see."""
    if not data:
        raise LimnerError(
            "train.validation: a data set in memory has no split that training does not see; leave "
            "it out"
        )
    held = held_out_options(str(data["source"]))
    if splits_of(data) != {"train"}:
        raise LimnerError(
            "train.validation: the data are not of the split 'train', and nothing is held out; "
            "leave data.split out, or train.validation"
        )
    if not held:
        raise LimnerError(
            f"train.validation: {data['source']} has no split that training does not see; leave it "
            "out"
        )
    return open_data(**{**data, **held})
