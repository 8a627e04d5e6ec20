"""Implementation of `limner translate`: translate pictures from one domain to another."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from limner.commands.pictures import Pictures, Sheet
from limner.commands.request import SamplingRequest
from limner.commands.task import Task, Work, able_task, open_work
from limner.contract.abilities import Domain, Translates
from limner.contract.bundled import bundled_models
from limner.contract.checkpoint import model_file, read_header
from limner.contract.errors import LimnerError, unknown
from limner.contract.image import Images, to_uint8
from limner.contract.registry import entry
from limner.contract.upscaling import as_channels
from limner.data.picture_files import read_pictures


def translate(work: Work, *, to: Literal["B", "A"] = "B") -> Iterator[Images]:
    """Translate a picture from one domain to the other.

    Args:
        to: the target domain; B is the domain of the model's own pictures.
    """
    model = work.model
    assert isinstance(model, Translates)
    source = model.spec_of(_other(model.domain(to)))
    x = as_channels(work.pictures["image"], source.channels)
    seeds = [work.seed + i for i in range(len(x))]
    yield model.translate(x, to, seed=seeds)


def _other(domain: Domain) -> Domain:
    return "A" if domain == "B" else "B"


def _missing_options(model: type) -> Sequence[str]:
    assert issubclass(model, Translates)
    return () if len(model.ways) > 1 else ("to",)


TRANSLATE = Task(
    "Translate a picture",
    translate,
    Translates,
    refusal="do not translate; these do",
    example="limner train cyclegan unpaired:emoji:style=3d,emoji:style=flat data.size=32 "
    "data.label=none",
    inputs={"image": True},
    several=False,
    missing_options=_missing_options,
)


def bundled_translator(to: str, source: str = "") -> str:
    """Return a bundled model that translates to a domain, preferably as its main direction.

    Args:
        to: target domain: "B", "A", or its name in the data.
        source: domain of the pictures, in the same form; any domain if empty.

    Raises:
        LimnerError: no model has that domain, or none translates between the two.
    """
    headers = {name: read_header(model_file(folder)) for name, folder in bundled_models().items()}
    ways: list[tuple[tuple[str, str], tuple[str, str], str]] = []
    for letter in ("B", "A"):
        for name, header in headers.items():
            model, hint = entry(header.model).model, header.spec.hint
            if issubclass(model, Translates) and letter in model.ways and hint:
                a, b = ("a", hint.domain.lower()), ("b", header.spec.domain.lower())
                ways.append((a, b, name) if letter == "B" else (b, a, name))
    if not ways:
        raise LimnerError("no model that translates is bundled; give your own with -m RUN")
    target, start = to.strip().lower(), source.strip().lower()
    for end, domain in enumerate((start, target)):
        names = list(dict.fromkeys(way[end][1] for way in ways))
        if domain not in ("", "a", "b", *names) or (end and not domain):
            raise unknown("domain", (source, to)[end], names, "give another model with -m RUN")
    matches = [name for a, b, name in ways if target in b and start in ("", *a)]
    if not matches:
        pairs = ", ".join(dict.fromkeys(f"{a} to {b}" for (_, a), (_, b), _ in ways))
        raise LimnerError(
            f"no bundled model translates {source} to {to}, only {pairs}; give your own with -m RUN"
        )
    return matches[0]


def translate_sheet(
    files: Sequence[Path],
    request: SamplingRequest,
    to: str,
    *,
    source: str = "",
    device: str = "auto",
) -> tuple[Sheet, Pictures, SamplingRequest]:
    """Translate pictures.

    Args:
        files: pictures of the source domain.
        request: model, and seed of its noise if it uses any; without a model, a bundled one for the
            domain.
        to: target domain, by letter or by its name in the data.
        source: source domain, in the same form; if empty, the other domain of the model.
        device: device to run on.

    Returns:
        the sheet, with one row per picture (the picture, its translation, and, if the model
        translates both ways, the back-translation), the translations alone, and the request with
        every option written out.

    Raises:
        LimnerError: the model does not translate, or not to this domain, or a file is not a
            picture.
    """
    if not files:
        raise LimnerError("no pictures to translate are given; type limner translate IMAGE")
    if request.model is None:
        request = replace(request, model=bundled_translator(to, source))
    work = open_work(request, device)
    able_task(work.model, TRANSLATE)
    model = work.model
    assert isinstance(model, Translates)
    target = model.domain(to)
    start = _other(target)
    names = start.lower(), model.spec_of(start).domain.lower()
    if source.strip().lower() not in ("", *names):
        raise LimnerError(
            f"this model translates to {model.domain_name(target)} from "
            f"{model.domain_name(start)}, not from '{source}'; leave --from out"
        )
    images = read_pictures(files, model.spec_of(start))
    seeds = [work.seed + i for i in range(len(images))]
    translations = model.translate(images, target, seed=seeds)
    columns = [images, translations]
    if start in model.ways:
        columns.append(model.translate(translations, start, seed=seeds))
    width = max(column.shape[1] for column in columns)
    rows = torch.stack([column.cpu().expand(-1, width, -1, -1) for column in columns], 1)
    sheet = Sheet(to_uint8(rows.flatten(0, 1)), len(columns), task="translate")
    return sheet, to_uint8(translations).cpu(), request.with_sampler(work.sampler)
