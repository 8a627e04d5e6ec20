"""Held-out loss: the loss on pictures that training never sees, always under the same noise.

The training loss falls as long as a model can memorise its pictures; the held-out loss shows when
the model learns nothing else any more.
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
from limner.runtime.seeding import seed_torch
from limner.training.options import TrainOptions

LOSS_COLUMN = "held_out.loss"
"""Name of the held-out loss in the log."""
HOLDOUT = 0.05
"""Share of pictures to hold out of a source without splits, if `train.validation` is given."""
_USUAL, _USUAL_SHARE = 128, 0.03
"""Default number of held-out pictures for each line of the log: at most this number, and at most
this share of the pictures trained on since the last line. A loss without gradients costs less than
a training step."""
_MAX_PICTURES = 10_000  # held-out pictures, which stay in memory
_MIN_LINES = 2  # of a log; with fewer, a held-out loss shows nothing
_PATIENCE_LINES = 10  # lines of the log without a better loss, until a message says so


class Validation:
    """Held-out loss of a run.

    Args:
        data: the recipe's section [data]; empty for a data set in memory, which holds nothing out.
        options: training options, with the number of pictures, their batches and the dtype.
        model: model with one player; the losses of several players say nothing about held-out
            pictures.

    Raises:
        LimnerError: `options.validation` is given, and the source has no held-out split, or is a
            data set in memory; or the model has several players.
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
            held_out = _open_held_out(data) if self.count else None
        if not held_out:
            return
        if options.validation and self.count > (limit := min(len(held_out), _MAX_PICTURES)):
            raise LimnerError(
                f"train.validation={self.count}: give at most {limit:,} of the held-out pictures"
            )
        stream = Stream(held_out, options.seed)
        for first in range(0, self.count, options.batch):
            n = min(options.batch, self.count - first)
            noise = Noise.keyed(options.seed, Purpose.VALIDATION, range(first, first + n))
            self._batches.append((stream.batch(first, n), noise))

    @torch.no_grad()
    def numbers(self, model: Learner, step: int) -> dict[str, float]:
        """Return the held-out loss of a model in evaluation mode; nothing if it is turned off."""
        if not self._batches:
            return {}
        model.eval()  # also to compute again what layers cache in this mode
        device = model.device
        saved_buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        total = 0.0
        for i, (batch, noise) in enumerate(self._batches):
            streams = Noise(noise.streams, noise.draws, noise.others).to(device)
            with (
                seed_torch((self.options.seed, "validate", i), device),
                autocast(device, self.options.dtype),
            ):
                batch_copy = copy.deepcopy(batch).to(device)  # turns may write into their arguments
                losses = [turn.loss for turn in model.turns(batch_copy, step, streams)]
            total += float(sum(losses)) * len(batch.x)
        for buffer, value in saved_buffers:  # such as singular vectors, which change with each loss
            buffer.copy_(value)
        return {LOSS_COLUMN: total / self.count}


def with_held_out(data: Mapping[str, Any], options: TrainOptions) -> dict[str, Any]:
    """Return a section [data] that holds pictures out, if `train.validation` is given."""
    kinds = source_types(str(data["source"]))
    has_split = "holdout" in data or splits_of(data) != {"train"}
    if not options.validation or not any(hasattr(kind, "holdout") for kind in kinds) or has_split:
        return dict(data)
    return {**data, "holdout": HOLDOUT}


def no_better(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return a message if the held-out loss has had no better value for 10, 20, 40, ... lines.

    Args:
        rows: all lines of the log so far.
    """
    measured = [row for row in rows if row.get(LOSS_COLUMN) is not None]
    if not measured:
        return None
    best = min(range(len(measured)), key=lambda i: measured[i][LOSS_COLUMN])
    wait = len(measured) - 1 - best
    times, rest = divmod(wait, _PATIENCE_LINES)
    if rest or not times or times & (times - 1):
        return None
    best_row, last_row = measured[best], measured[-1]
    return (
        f"the held-out loss has not improved since step {best_row['step']:,} "
        f"({best_row[LOSS_COLUMN]:g}, now {last_row[LOSS_COLUMN]:g}); longer training may only "
        "memorise the training pictures"
    )


def _usual_count(options: TrainOptions) -> int:
    """Return the default number of held-out pictures for each line of the log."""
    return min(_USUAL, int(_USUAL_SHARE * options.log_every * options.batch))


def _usual_data(data: Mapping[str, Any], options: TrainOptions, model: Learner) -> Dataset | None:
    """Return the held-out split of a source, or None if it has none or its loss would say little.

    It says little about several players, in a short run, or with other classes or words.
    """
    is_short = (
        not data or options.steps < _MIN_LINES * options.log_every or not _usual_count(options)
    )
    if is_short or len(model.players()) > 1:
        return None
    try:
        dataset = _open_held_out(data)
    except LimnerError:
        return None
    model_spec, spec = model.spec, dataset.spec
    parts = (
        (model_spec.labels, spec.labels),
        (model_spec.text, spec.text),
        (model_spec.hint, spec.hint),
    )
    is_alike = all(not expected or expected == actual for expected, actual in parts)
    return dataset if len(dataset) and is_alike and model_spec.shape == spec.shape else None


def _open_held_out(data: Mapping[str, Any]) -> Dataset:
    """Open the first split of a recipe's source that training does not see."""
    if not data:
        raise LimnerError(
            "train.validation: a data set in memory has no split that training does not see; leave "
            "it out"
        )
    options = held_out_options(str(data["source"]))
    if splits_of(data) != {"train"}:
        raise LimnerError(
            "train.validation: the data are not the split 'train', and nothing is held out; "
            "leave data.split out, or train.validation"
        )
    if not options:
        raise LimnerError(
            f"train.validation: {data['source']} has no split that training does not see; leave it "
            "out"
        )
    return open_data(**{**data, **options})
