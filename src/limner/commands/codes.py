"""What `limner reconstruct` and `limner interpolate` do: pictures through a model's codes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from limner.commands.edit import read_picture
from limner.commands.sample import Sheet, Wish, open_model
from limner.contract.abilities import Encodes
from limner.contract.bundled import find_model
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images, to_uint8
from limner.contract.registry import models
from limner.evaluate.subject import open_reference, open_subject
from limner.runtime.allocator import keep_freed_memory

_ROW = 8  # pictures side by side
_COORDINATES = 8  # of a code, that one picture is shown with
_REACH = 3.0  # standard deviations that each goes from 0


def reconstruct(
    files: Sequence[Path], wish: Wish, *, device: str = "auto"
) -> tuple[Sheet, Wish, float]:
    """Pictures, and below each what a model makes of its code.

    Args:
        files: the pictures; none for `wish.n` of the data that the model was trained on, held-out
            ones where there are such.
        wish: which model; one label or prompt for all files.
        device: where.

    Returns:
        the sheet, the wish with every option written out, and the mean squared error of a pixel's
        channel on the scale [-1, 1].

    Raises:
        LimnerError: the model has no codes, or a file is no picture.
    """
    keep_freed_memory()
    model, wish = _opened(wish, device)
    x, c = _given(files, wish, model)
    x_hat = model.reconstruct(x, c).cpu()
    error = float((x_hat - x).square().mean())
    columns = min(len(x), _ROW)
    rows = [part for pair in zip(x.split(columns), x_hat.split(columns)) for part in pair]
    if len(x) % columns:  # a last row that is not full
        blank = x.new_ones(columns - len(x) % columns, *x.shape[1:])
        rows[-2:] = [torch.cat([row, blank]) for row in rows[-2:]]
    return Sheet(to_uint8(torch.cat(rows)), [], columns), wish, error


def interpolate(
    files: Sequence[Path], wish: Wish, steps: int, *, device: str = "auto"
) -> tuple[Sheet, Wish]:
    """Paths between codes, or, of one picture, what the numbers of its code mean.

    Args:
        files: two or more: a row for each path from one to the next, between the pictures that it
            joins. One: a row for each of the eight numbers of its code that change it most, from -3
            to 3 standard deviations. None: `wish.n` paths between pictures of the data that the
            model was trained on.
        wish: which model; one label or prompt for all.
        steps: pictures on each path, or values of each number.
        device: where.

    Raises:
        LimnerError: the model has no codes, or a file is no picture.
    """
    keep_freed_memory()
    model, wish = _opened(wish, device)
    if len(files) == 1:
        x, c = _given(files, wish, model)
        values = torch.linspace(-_REACH, _REACH, steps).tolist()
        shown = model.traverse(x, _COORDINATES, values, c)
        return Sheet(to_uint8(shown.flatten(0, 1)).cpu(), [], shown.shape[1]), wish
    if files:
        x, c = _given(files, wish, model)
        a, b = x[:-1], x[1:]
    else:
        x, c = _given(files, replace(wish, n=2 * wish.n), model)
        a, b, c = x[::2], x[1::2], c.rows(slice(None, None, 2))
    path = model.interpolate(a, b, steps, c).cpu()
    rows = torch.cat([a[:, None], path, b[:, None]], 1)
    return Sheet(to_uint8(rows.flatten(0, 1)), [], steps + 2), wish


def _opened(wish: Wish, device: str) -> tuple[Encodes, Wish]:
    """The model, and the wish without options of a sampler, for none is used."""
    model, _ = open_model(wish, device)
    if not isinstance(model, Encodes):
        able = [name for name, of in models().items() if issubclass(of.model, Encodes)]
        raise LimnerError(
            f"a {model.name} model has no codes; these have: {', '.join(able)}; limner train vae "
            "mnist makes one"
        )
    return model, replace(wish, sampler={})


def _given(files: Sequence[Path], wish: Wish, model: Encodes) -> tuple[Images, Condition]:
    """Pictures, and what they are of."""
    if files:
        c = wish.condition(model.spec)
        if len(c) > 1:
            raise LimnerError("give one label or prompt; it is for all pictures")
        return torch.cat([read_picture(file, model.spec) for file in files]), c
    if wish.prompts or wish.labels:
        raise LimnerError("labels and prompts are for pictures that are given; give some")
    subject = open_subject(find_model(wish.model), {}, torch.device("cpu"))
    real = open_reference(None, {}, subject).real.first(wish.n)
    numbers = torch.arange(len(real))
    return real.images(numbers), real.condition(numbers, model.spec)
