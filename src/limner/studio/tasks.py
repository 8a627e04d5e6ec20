"""What a model can be asked for: painting, and whatever abilities it has beyond that.

A task is a function that yields pictures as they form, the last ones finished. Its options are its
keyword arguments, from which the page makes a form; which models have it, an ability says.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from limner.commands.style_mix import chosen
from limner.contract.abilities import Attends, Completes, Edits, Encodes, Mixes
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel
from limner.contract.noise import Blend
from limner.contract.options import json_schema, shared_options, validated

_NOT_OPTIONS = ("work",)


@dataclass(frozen=True)
class Work:
    """What a task is done with.

    Args:
        model: who does it.
        c: what is asked for: a row for each seed, or no parts.
        seeds: of the pictures.
        pictures: those that were given, by name, "1 c h w" in the model's shape.
        sampler: the model's own options, checked.
        words: of the prompt, each with its tokens.
    """

    model: GenerativeModel
    c: Condition
    seeds: Sequence[int | Blend]
    pictures: Mapping[str, Images] = field(default_factory=dict[str, Images])
    sampler: Mapping[str, Any] = field(default_factory=dict[str, Any])
    words: Sequence[tuple[str, Sequence[int]]] = ()

    def given(self, name: str) -> Images:
        """A picture, once for each seed."""
        return self.pictures[name].repeat(len(self.seeds), 1, 1, 1)


def paint(work: Work) -> Iterator[Images]:
    """Pictures from a prompt, a class, another picture, or nothing."""
    c, hint = work.c, work.pictures.get("hint")
    if hint is not None:
        c = replace(c, image=hint.repeat(len(work.seeds), 1, 1, 1))
    yield from work.model.watch(len(work.seeds), c, seed=list(work.seeds), **work.sampler)


def complete(
    work: Work, *, keep: Annotated[float, Field(ge=0.05, le=0.95)] = 0.5
) -> Iterator[Images]:
    """The upper part stays, the rest is painted anew.

    Args:
        keep: the share of the height that stays.
    """
    assert isinstance(work.model, Completes)
    height = work.model.spec.height
    rows = max(1, min(round(keep * height), height - 1))
    upper = work.given("image")[:, :, :rows]
    yield from work.model.complete(upper, work.c, seed=list(work.seeds), **work.sampler)


def edit(work: Work, *, strength: Annotated[float, Field(gt=0, le=1)] = 0.6) -> Iterator[Images]:
    """A picture changed as the prompt says, all of it or where you brush.

    Args:
        strength: how far it may go from the picture; at 1 it is painted anew.
    """
    assert isinstance(work.model, Edits)
    mask = work.given("mask") if "mask" in work.pictures else None
    told: dict[str, Any] = {"mask": mask, "strength": strength, "seed": list(work.seeds)}
    yield from work.model.edit(work.given("image"), work.c, **told, **work.sampler)


def reconstruct(work: Work) -> Iterator[Images]:
    """What is left of a picture when only its code is kept."""
    assert isinstance(work.model, Encodes)
    yield work.model.reconstruct(work.pictures["image"], work.c.rows(slice(0, 1)))


def interpolate(work: Work, *, steps: Annotated[int, Field(ge=2, le=16)] = 8) -> Iterator[Images]:
    """From one picture to another, through their codes.

    Args:
        steps: pictures on the way, both ends included.
    """
    assert isinstance(work.model, Encodes)
    a, b = work.pictures["image"], work.pictures["other"]
    yield work.model.interpolate(a, b, steps, work.c.rows(slice(0, 1)))[0]


def walk(
    work: Work,
    *,
    other_seed: Annotated[int, Field(ge=0, le=2**31)] = 100,
    steps: Annotated[int, Field(ge=2, le=16)] = 8,
) -> Iterator[Images]:
    """From the picture of one seed to that of another, through what lies between.

    Args:
        other_seed: at the end of the way; it begins at the seed.
        steps: pictures on the way, both ends included.
    """
    first = work.seeds[0]
    assert isinstance(first, int)
    turns = [math.sin(i / (steps - 1) * math.pi / 2) for i in range(steps)]
    seeds = [first, *(Blend(first, other_seed, turn) for turn in turns[1:-1]), other_seed]
    yield from work.model.watch(steps, work.c.rows(slice(0, 1)), seed=seeds, **work.sampler)


def attention(work: Work) -> Iterator[Images]:
    """Where the model looks for each word of the prompt: a map for each, light where it looks."""
    assert isinstance(work.model, Attends)
    if not work.words:
        raise LimnerError("the model knows no word of this prompt; give others")
    maps = work.model.attention_maps(work.pictures["image"], work.c.rows(slice(0, 1)))[0]
    of_words = torch.stack([maps[list(places)].sum(0) for _, places in work.words])
    low, high = of_words.flatten(1).aminmax(dim=1)
    spread = (high - low).clamp(min=1e-6)
    yield (2 * (of_words - low[:, None, None]) / spread[:, None, None] - 1)[:, None]


def mix(
    work: Work,
    *,
    other: Annotated[int, Field(ge=0, le=2**31)] = 100,
    rows: Annotated[int, Field(ge=1, le=4)] = 3,
    columns: Annotated[int, Field(ge=1, le=4)] = 3,
    layers: Literal["coarse", "middle", "fine"] = "fine",
) -> Iterator[Images]:
    """A table of pictures: each is its row's, but for some layers' styles, its column's.

    Args:
        other: the seed of the first column, whose styles are taken; the first row's is the seed.
        rows, columns: how many.
        layers: which styles are taken: shape and pose, parts and places, colours and texture.
    """
    assert isinstance(work.model, Mixes)
    first = work.seeds[0]
    assert isinstance(first, int)
    seed = [first + i for i in range(rows) for _ in range(columns)]
    taken = [other + i for _ in range(rows) for i in range(columns)]
    which = chosen(layers, work.model.style_layers)
    yield work.model.mix(taken, which, work.c, seed=seed, **work.sampler).float().clamp(-1, 1)


@dataclass(frozen=True)
class Task:
    """Something to be asked for.

    Args:
        title: on a button.
        does: it, yielding pictures; its keyword arguments are the options.
        protocol: which models can.
        unless: which of them cannot after all.
        inputs: the pictures it needs, by name: whether each must be given.
        several: whether there is a picture for each seed.
        frames: how many it yields; as many as the model's `frames` if None.
        reads: whether it is of a prompt's words.
        shows: what its pictures are to a person: "pictures" of their own; a "path", one after the
            other; or "maps", a word's each, which lie over the picture that was given, and are not
            kept among those that were painted.
    """

    title: str
    does: Callable[..., Iterator[Images]]
    protocol: type = GenerativeModel
    unless: type | None = None
    inputs: Mapping[str, bool] = field(default_factory=dict[str, bool])
    several: bool = True
    frames: Callable[[Work, Mapping[str, Any]], int] | None = None
    reads: bool = False
    shows: Literal["pictures", "path", "maps"] = "pictures"

    def described(self, model: type[GenerativeModel]) -> dict[str, Any]:
        """What a client must know of it."""
        return {
            "title": self.title,
            "about": (self.does.__doc__ or "").strip().splitlines()[0],
            "inputs": {name: {"required": needed} for name, needed in self.inputs.items()},
            "several": self.several,
            "shows": self.shows,
            "schema": json_schema(self.does, _NOT_OPTIONS),
            "help": helps(self.does),
        }

    def frame_count(self, work: Work, options: Mapping[str, Any]) -> int:
        """What a progress bar counts to."""
        if self.frames is not None:
            return self.frames(work, options)
        return work.model.frame_count(**work.sampler) if self.several else 1

    def start(self, work: Work, options: Mapping[str, Any]) -> Iterator[Images]:
        """Begin.

        Raises:
            LimnerError: an option that the task has not, or of a wrong value.
        """
        return self.does(work, **validated(self.does, options, skip=_NOT_OPTIONS))


def _edit_count(work: Work, options: Mapping[str, Any]) -> int:
    assert isinstance(work.model, Edits)
    return work.model.edit_count(options.get("strength", 0.6), **work.sampler)


def _frame_count(work: Work, options: Mapping[str, Any]) -> int:
    del options
    return work.model.frame_count(**work.sampler)


TASKS = {
    "paint": Task("New picture", paint),
    "edit": Task(
        "Change a picture", edit, Edits, inputs={"image": True, "mask": False}, frames=_edit_count
    ),
    "complete": Task("Complete a picture", complete, Completes, inputs={"image": True}),
    "reconstruct": Task("Reconstruct", reconstruct, Encodes, inputs={"image": True}, several=False),
    "interpolate": Task(
        "Interpolate",
        interpolate,
        Encodes,
        inputs={"image": True, "other": True},
        several=False,
        shows="path",
    ),
    "walk": Task(
        "From seed to seed",
        walk,
        unless=Completes,  # between what is drawn pixel by pixel there is nothing
        several=False,
        frames=_frame_count,
        shows="path",
    ),
    "mix": Task("Mix styles", mix, Mixes, several=False),
    "attention": Task(
        "Where it looks",
        attention,
        Attends,
        inputs={"image": True},
        several=False,
        reads=True,
        shows="maps",
    ),
}


def tasks_of(model: type[GenerativeModel], spec: ImageSpec) -> dict[str, Task]:
    """What a model can be asked for."""
    return {
        name: task
        for name, task in TASKS.items()
        if issubclass(model, task.protocol)
        and not (task.unless and issubclass(model, task.unless))
        and (spec.text or not task.reads)
    }


def task(name: str) -> Task:
    """A task by name."""
    if name not in TASKS:
        raise LimnerError(f"there is no task '{name}'; there are: {', '.join(TASKS)}")
    return TASKS[name]


def helps(function: Callable[..., Any]) -> dict[str, str]:
    """What the docstrings of a function and of the options that it shares say of each argument.

    >>> helps(complete)
    {'keep': 'the share of the height that stays.'}
    """
    shared = shared_options(function)
    return (_helps(shared.__doc__) if shared else {}) | _helps(function.__doc__)


def _helps(docstring: str | None) -> dict[str, str]:
    """What a docstring's `Args:` say of each argument, in a sentence."""
    lines = (docstring or "").partition("Args:")[2].splitlines()
    found: dict[str, str] = {}
    names: list[str] = []
    depth = 0
    for line in lines[1:]:
        indent = len(line) - len(line.lstrip())
        if not line.strip() or (depth and indent < depth):
            break
        depth = depth or indent
        if indent == depth:
            head, _, said = line.strip().partition(": ")
            names = [name.strip() for name in head.split(",")]
            found |= dict.fromkeys(names, said)
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def stacked(conditions: Sequence[Condition]) -> Condition:
    """Conditions of several jobs as one; texts are padded to the longest."""
    parts = ("text", "avoid")
    longest = {
        name: max(
            (part.shape[1] for c in conditions if (part := getattr(c, name)) is not None), default=0
        )
        for name in parts
    }

    def padded(c: Condition) -> Condition:
        grown = {
            name: torch.nn.functional.pad(part, (0, longest[name] - part.shape[1]))
            for name in parts
            if (part := getattr(c, name)) is not None
        }
        return replace(c, **grown)

    return Condition.cat([padded(c) for c in conditions])
