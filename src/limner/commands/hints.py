"""Conditioning pictures from files, as tensors for a model."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from limner.contract.abilities import Controlled
from limner.contract.errors import LimnerError
from limner.contract.image import Images, ImageSpec
from limner.contract.model import GenerativeModel
from limner.data.hints import DRAWINGS, REDUCED_HINTS
from limner.data.picture_files import read_picture


def read_hints(
    files: Sequence[Path],
    model: GenerativeModel,
    report: Callable[[str], None],
    names: Sequence[str] = (),
) -> Images:
    """Read the conditioning picture of a model, "1 k hh ww", from one file for each control.

    Args:
        files: pictures of any size, which are centre-cropped.
        model: the model that they condition.
        report: called with one line for each change of a picture.
        names: names of the pictures in messages; by default, their files.

    Raises:
        LimnerError: a file is not a picture or is blank, there are too many or too few, or the
            model has no conditioning pictures.
    """
    hint = model.spec.hint
    if hint is None:
        raise LimnerError(
            f"this {model.name} model was trained without conditioning pictures; give one trained "
            "with them (-m scenes-sketch) or --control RUN of a controlnet, or leave --hint out"
        )
    specs = model.hints if isinstance(model, Controlled) else [hint]
    if len(files) != len(specs):
        raise LimnerError(
            f"{len(files)} hint{'s' * (len(files) > 1)} for {len(specs)} "
            f"control{'s' * (len(specs) > 1)}; give one --hint for each"
        )
    names = names or [f"'{file}'" for file in files]
    hints = [read_hint(file, spec, report, name) for file, spec, name in zip(files, specs, names)]
    size = hint.height, hint.width
    return torch.cat(
        [
            x
            if tuple(x.shape[2:]) == size
            else F.interpolate(x, size, mode="bilinear", antialias=True)
            for x in hints
        ],
        dim=1,
    )


def read_hint(file: Path, spec: ImageSpec, report: Callable[[str], None], name: str) -> Images:
    """Read one conditioning picture, "1 k hh ww"; a drawing that is dark on light is inverted.

    Args:
        file: a picture of any size, which is centre-cropped.
        spec: specification of such pictures.
        report: called with one line if the picture is inverted.
        name: name of the picture in messages.

    Raises:
        LimnerError: the file is not a picture, or is blank.
    """
    x = read_picture(file, spec)
    if spec.channels == 1 and spec.domain not in REDUCED_HINTS and x.min() == x.max():
        raise LimnerError(
            f"{name} is blank at {spec.width} x {spec.height}; draw light on dark, or leave "
            "the hint out"
        )
    if spec.domain in DRAWINGS and x.mean() > 0:
        report(f"{name} is dark on light, but {spec.domain} is light on dark; it is inverted")
        x = -x
    return x
