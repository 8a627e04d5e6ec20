"""Evaluation during training, as set in a recipe's section [evaluate].

    [evaluate]
    every = 100_000                  # images
    n = 500
    metrics = ["kid", "likelihood"]

The numbers go into the run's log and its curves. Do not select a model by them: the best of many
checkpoints on a reference is too good on that reference.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from limner.contract.errors import LimnerError
from limner.contract.model import GenerativeModel
from limner.contract.options import Count, Natural, validate_options
from limner.data import Dataset
from limner.evaluate.evaluation import evaluate
from limner.evaluate.metric import check_name
from limner.evaluate.report import SUBJECT
from limner.evaluate.subject import Candidate, Reference, open_reference
from limner.runtime.progress import say_error

PREFIX = "evaluate."
"""Prefix of the numbers' names in the log."""
_LIST_OPTIONS_HINT = "limner options evaluate"  # lists the options


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of a recipe's section [evaluate].

    Args:
        every: images between evaluations, and one at the end; 0 = never.
        metrics: one or more names, as in `limner evaluate --metrics`; None for all that apply.
        n: number of pictures to paint each time.
        seed: seed of the first picture; picture i is painted from seed + i.
        against: source of the real pictures; None for the training source.
        split: split of that source; None for its default.
        extractor: name of the network whose features are compared; None for the usual one.
        weights: file or folder of its weights.
    """

    every: Natural = 0
    metrics: list[str] | str | None = None
    n: Count = 256
    seed: int = 0
    against: str | None = None
    split: str | None = None
    extractor: str | None = None
    weights: str | None = None


class Evaluations:
    """Evaluations of a run.

    Args:
        options: the recipe's section [evaluate].
        data: its section [data].
        sampler: its section [sampler].
        dataset: data set to use instead of the source.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        data: Mapping[str, Any],
        sampler: Mapping[str, Any],
        dataset: Dataset | None = None,
    ) -> None:
        values = validate_options(
            EvaluateOptions, options, kind="evaluate option", prefix=PREFIX, hint=_LIST_OPTIONS_HINT
        )
        self.options = EvaluateOptions(**values)
        if options and "every" not in options:
            raise LimnerError(
                "the section [evaluate] does not say how often to evaluate; give "
                "evaluate.every=100000 (in images), or leave the section out"
            )
        self.sampler = dict(sampler)
        metrics = self.options.metrics
        self.metrics = [metrics] if isinstance(metrics, str) else metrics
        for name in self.metrics or ():
            check_name(name)
        self._data, self._dataset = dict(data), dataset
        self._reference: Reference | None = None

    def due(self, images: int, batch: int, ends: bool) -> bool:
        """Return whether an evaluation is due after a step.

        Args:
            images: number of images seen so far.
            batch: number of images seen in this step.
            ends: whether this was the last step.
        """
        interval = self.options.every
        return interval > 0 and (ends or images // interval > (images - batch) // interval)

    def numbers(self, model: GenerativeModel, device: torch.device) -> dict[str, float]:
        """Evaluate a model; return numbers by their names in the log, or none if that fails."""
        o = self.options
        try:
            report = evaluate(
                model,
                self.reference(model),
                metrics=self.metrics,
                n=o.n,
                seed=o.seed,
                extractor=o.extractor,
                weights=o.weights,
                sampler=self.sampler,
                device=str(device),
                quiet=True,
            )
        except Exception as error:  # a metric of another package may raise anything
            say_error("not evaluated", error)
            return {}
        return {
            PREFIX + each.name + (f" ({each.extractor})" if each.extractor else ""): each.value
            for each in report.numbers
            if each.row == SUBJECT
        }

    def reference(self, model: GenerativeModel) -> Reference:
        """Return the reference to evaluate against, opened once."""
        if self._reference is None:
            o = self.options
            candidate = Candidate(model.name, "", model, recipe={"data": self._data})
            split = {} if o.split is None else {"split": o.split}
            against = o.against or self._dataset
            self._reference = open_reference(against, split, candidate)
        return self._reference
