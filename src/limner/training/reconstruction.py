"""Make an average of a run's weights with any width, after training.

A run trained with `train.widths=0.05,0.1` keeps power averages of both widths at each saved state.
Each average has a profile: the share that the weights of each step have in it. The average of
another width is the weighted sum of the kept averages whose profile is nearest to the wanted one.

Reference:
    Karras et al. (2023). Analyzing and improving the training dynamics of diffusion models.
    arXiv:2312.02696, section 3.2 and appendix C.
"""

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from limner.contract.checkpoint import MODEL_FILE, load, load_tensors, save_model
from limner.contract.errors import LimnerError, writing
from limner.contract.model import Learner
from limner.runtime.seeding import seed_torch
from limner.training.averages import FOLDER, IMAGES, UPDATES, gamma
from limner.training.recipe import RECIPE_FILE, Recipe
from limner.training.run import open_stream

# Large shares of both signs would enlarge the rounding errors of half precision.
_RIDGE_PENALTY = 1e-4
_SNAPSHOT = re.compile(r"step-(\d{8,})\.safetensors")


def write_average(run: Path, width: float, step: int | None = None) -> tuple[Path, float]:
    """Write the average of a width as a model folder within the run.

    Args:
        run: folder of the run.
        width: relative width, above 0 and below 0.289.
        step: step of a saved state; the last one if None.

    Returns:
        the folder, and the distance of its profile from the wanted one, see `solve`.

    Raises:
        LimnerError: the run has kept no averages, or none at that step; a width out of range; or
            the folder cannot be written.
    """
    files = _snapshots(run, step)
    weights, images, error = reconstruct(list(files.values()), width)
    model, recipe = load(run), Recipe.read(run / RECIPE_FILE)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
    if type(model).calibrate is not Learner.calibrate:
        _calibrate(model, recipe)
    folder = run / FOLDER / f"width-{width:g}-step-{max(files)}"
    with writing(folder, "make room, or let the run be written"):
        folder.mkdir(exist_ok=True)
        file = folder / MODEL_FILE
        save_model(model.eval(), file, images_seen=images, recipe=recipe.sections())
    return folder, error


def _calibrate(model: Learner, recipe: Recipe) -> None:
    """Re-estimate a model's buffers, as the training loop does for its averaged weights."""
    stream, options = open_stream(recipe), recipe.options()
    firsts = itertools.count(0, options.batch)
    batches = (stream.batch(first, options.batch) for first in firsts)
    with seed_torch((options.seed, "calibrate")), torch.no_grad():
        model.calibrate(itertools.islice(batches, options.calibrate_batches))


def _snapshots(run: Path, step: int | None) -> dict[int, Path]:
    """Return the files of a run's snapshots up to a step, by step."""
    files = (run / FOLDER).glob("step-*")
    snapshots = {int(match[1]): file for file in files if (match := _SNAPSHOT.fullmatch(file.name))}
    if not snapshots:
        raise LimnerError(
            f"{run} has kept no averages; train with train.widths=0.05,0.1 to choose a width later"
        )
    if step is not None and step not in snapshots:
        nearest = min(snapshots, key=lambda k: abs(k - step))
        raise LimnerError(f"{run} has kept no averages at step {step}; the nearest is {nearest}")
    return {k: snapshots[k] for k in sorted(snapshots) if step is None or k <= step}


def reconstruct(files: Sequence[Path], width: float) -> tuple[dict[str, Tensor], int, float]:
    """Return the average of a width at the last of some snapshots.

    Args:
        files: snapshots, in the order of their steps.
        width: relative width.

    Returns:
        the weights by name, how many images the last snapshot had seen, and the error of `solve`.
    """
    averages: list[tuple[int, str]] = []
    profiles: list[tuple[float, float]] = []
    updates, images = 0, 0
    for i, file in enumerate(files):
        tensors = load_tensors(file)
        updates, images = int(tensors.pop(UPDATES)), int(tensors.pop(IMAGES))
        for key in sorted({name.partition("/")[0] for name in tensors}):
            averages.append((i, key))
            profiles.append((gamma(float(key)), updates))
    shares, error = solve(profiles, (gamma(width, "--width"), updates))
    weights: dict[str, Tensor] = {}
    for i, file in enumerate(files):
        tensors = load_tensors(file)
        for (index, key), share in zip(averages, shares):
            for name in (name for name in tensors if index == i and name.startswith(f"{key}/")):
                term = float(share) * tensors[name].float()
                weight_name = name.partition("/")[2]
                weights[weight_name] = (
                    weights[weight_name] + term if weight_name in weights else term
                )
    return weights, images, error


def solve(
    profiles: Sequence[tuple[float, float]], target: tuple[float, float]
) -> tuple[Float64[np.ndarray, "n"], float]:
    """Return the shares of power profiles whose weighted sum is nearest to another profile.

    p_(gamma, t)(tau) = (gamma + 1) tau^gamma / t^(gamma + 1) for tau <= t, and 0 later.

    As in the authors' program, the shares are divided by their sum. Otherwise an average of equal
    weights would be a multiple of them. Different: the squares of the shares have a penalty.

    Args:
        profiles: (gamma, t) of each profile.
        target: (gamma, t) of the target profile.

    Returns:
        the shares, and the remaining distance divided by the norm of the wanted profile.
    """
    gram = np.array([[_product(a, b) for a in profiles] for b in profiles])
    sides = np.array([_product(a, target) for a in profiles])
    length = _product(target, target)
    shares = np.linalg.solve(gram + _RIDGE_PENALTY * length * np.eye(len(gram)), sides)
    shares /= shares.sum()
    residual = length - 2 * shares @ sides + shares @ gram @ shares
    return shares, math.sqrt(max(residual, 0.0) / length)


def _product(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return the integral of the product of two profiles."""
    (early, s), (late, t) = sorted((a, b), key=lambda profile: profile[1])
    return (early + 1) * (late + 1) / (early + late + 1) * (s / t) ** late / t
