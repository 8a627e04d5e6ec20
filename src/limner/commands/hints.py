"""Conditioning pictures from files, as a model that is steered by them sees them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from limner.commands.pictures import read_picture
from limner.contract.abilities import Controlled
from limner.contract.errors import LimnerError
from limner.contract.image import Images, ImageSpec
from limner.contract.model import GenerativeModel
from limner.data.hints import DRAWINGS, REDUCED


def read_hints(
    files: Sequence[Path],
    model: GenerativeModel,
    report: Callable[[str], None],
    names: Sequence[str] = (),
) -> Images:
    """The conditioning picture of a model, "1 k hh ww", from a file for each of its controls.

    Args:
        files: pictures of any size, whose middle is taken.
        model: that they steer.
        report: told, in a line each, what is changed of them.
        names: of the pictures in messages; those of their files unless given.

    Raises:
        LimnerError: a file that is not a picture or is blank, too many or too few of them, or a
            model that is steered by none.
    """
    whole = model.spec.hint
    if whole is None:
        raise LimnerError(
            f"this {model.name} model was trained without conditioning pictures; give --control "
            "RUN of a controlnet, or leave --hint out"
        )
    specs = model.hints if isinstance(model, Controlled) else [whole]
    if len(files) != len(specs):
        raise LimnerError(
            f"{len(files)} hints for {len(specs)} control{'s' * (len(specs) > 1)}; give one --hint "
            "for each"
        )
    names = names or [f"'{file}'" for file in files]
    drawn = [read_hint(file, spec, report, name) for file, spec, name in zip(files, specs, names)]
    size = whole.height, whole.width
    return torch.cat(
        [
            x if tuple(x.shape[2:]) == size else F.interpolate(x, size, mode="bilinear")
            for x in drawn
        ],
        dim=1,
    )


def read_hint(file: Path, spec: ImageSpec, report: Callable[[str], None], name: str) -> Images:
    """One conditioning picture, "1 k hh ww"; a drawing that is dark on light is inverted.

    Args:
        file: a picture of any size, whose middle is taken.
        spec: what such pictures look like.
        report: told, in a line, that it is inverted.
        name: of the picture in messages.

    Raises:
        LimnerError: a file that is not a picture, or is blank.
    """
    x = read_picture(file, spec)
    if spec.channels == 1 and spec.domain not in REDUCED and x.min() == x.max():
        raise LimnerError(
            f"{name} is blank at {spec.width} x {spec.height}; draw light on dark, or leave "
            "the hint out"
        )
    if spec.domain in DRAWINGS and x.mean() > 0:
        report(f"{name} is dark on light, and {spec.domain} is light on dark; it is inverted")
        x = -x
    return x
