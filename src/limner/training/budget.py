"""Choose as many training steps as fit into a given time on this machine, from a dry run."""

import math
from dataclasses import replace

from limner.contract.errors import LimnerError
from limner.data import source_kinds
from limner.runtime.progress import say
from limner.training.estimate import CostEstimate, dry_run
from limner.training.recipe import Recipe

SIZES = (16, 32, 64, 128)
"""Picture sizes to try if the recipe gives none, in pixels of a side."""
SUFFICIENT_IMAGES = 100_000
"""Least number of images that training must see before larger pictures are considered."""
_CHOSEN_OPTIONS = ("steps", "log_every", "sample_every", "save_every")
_TRAINING_SHARE = 0.9  # share of the time for steps; the rest is for sheets and states


def fit_steps(recipe: Recipe, seconds: float, *, device: str = "auto") -> Recipe:
    """Return a recipe with as many steps as fit into a time.

    If the size is free, it is the largest one whose steps see `SUFFICIENT_IMAGES` images.

    Args:
        recipe: recipe to train; a size that it gives is kept.
        seconds: how long training may take.
        device: device to train on.

    Raises:
        LimnerError: the recipe gives the number of steps, or not even one step fits.
    """
    if "steps" in recipe.train:
        raise LimnerError("--budget chooses the steps; leave train.steps out, or --budget")
    best: tuple[Recipe, CostEstimate] | None = None
    refusal: LimnerError | None = None
    for size in _sizes(recipe):
        candidate = recipe if size is None else replace(recipe, data=recipe.data | {"size": size})
        if best and _images(best[1], seconds) / 4 < SUFFICIENT_IMAGES:
            break  # four times as many pixels take about four times as long
        try:
            estimate = dry_run(candidate, device=device)
        except LimnerError as error:  # such as pictures too small for the model
            refusal = error
            continue
        if best and _images(estimate, seconds) < SUFFICIENT_IMAGES:
            break
        best = candidate, estimate
    if best is None:
        raise refusal or LimnerError("no size fits; give one, for example data.size=32")
    chosen, estimate = best
    per_step = estimate.images / chosen.options().steps
    steps = int(_images(estimate, seconds) / per_step)
    if not steps:
        raise LimnerError("not one training step fits into this budget; give a longer one")
    intervals = _rhythm(chosen, steps, seconds)
    size = f"data.size={chosen.data['size']} " if "size" in chosen.data else ""
    say(f"fits the budget: {size}train.steps={steps} ({estimate.images_per_second:,.1f} images/s)")
    return replace(chosen, train=intervals | chosen.train | {"steps": steps})


def with_choices(recipe: Recipe, old: Recipe) -> Recipe:
    """Return a recipe with the size and steps that a budget chose before torchrun restarted.

    A second measurement would give other steps, and a run continues only with its own recipe.

    Args:
        recipe: recipe to train.
        old: recipe of the run.
    """
    size = {name: value for name, value in old.data.items() if name == "size"}
    train = {name: value for name, value in old.train.items() if name in _CHOSEN_OPTIONS}
    return replace(recipe, data=size | recipe.data, train=train | recipe.train)


def _rhythm(recipe: Recipe, steps: int, seconds: float) -> dict[str, int]:
    """Return the intervals of log, sheets and states, so that a short training can be watched, too.

    There is a sheet a minute up to ten sheets, and there are at least fifty lines of the log.
    """
    options, sheets = recipe.options(), min(max(seconds / 60, 2), 10)
    interval = math.ceil(steps / sheets)
    return {
        "log_every": min(options.log_every, math.ceil(steps / 50)),
        "sample_every": min(options.sample_every, interval),
        "save_every": min(options.save_every, interval),
    }


def _images(estimate: CostEstimate, seconds: float) -> float:
    return _TRAINING_SHARE * seconds * estimate.images_per_second


def _sizes(recipe: Recipe) -> tuple[int | None, ...]:
    """Return the sizes to try, for a source whose pictures have no fixed size; else None alone."""
    kind = str(recipe.data["source"]).partition(":")[0]
    source = source_kinds().get(kind)
    is_fixed = "size" in recipe.data or "init" in recipe.train
    is_scalable = source is not None and kind in ("emoji", "scenes", "folder", "zip", "wds", "hf")
    return SIZES if is_scalable and not is_fixed else (None,)
