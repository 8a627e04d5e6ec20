"""A task: what a model can be asked to do, by the command line and by the page alike.

It is a function that yields pictures as they form, the last ones finished. Its options are its
keyword arguments, from which the page makes a form; which models can do it, an ability says.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F

from limner.commands.hints import read_hints
from limner.commands.pictures import Pictures
from limner.commands.wish import Wish, open_model
from limner.contract.abilities import Controlled
from limner.contract.editing import Follows
from limner.contract.emphasis import read_emphasis
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images, ImageSpec, to_uint8
from limner.contract.model import GenerativeModel
from limner.contract.noise import Blend
from limner.contract.options import json_schema, validated
from limner.contract.registry import models
from limner.nn.precision import autocast
from limner.nn.text import unseen_words
from limner.runtime.progress import painting_progress, say

_NOT_OPTIONS = ("work",)
_FRAMES = 12  # that are kept of how pictures form


@dataclass(frozen=True)
class Work:
    """What a task is done with.

    Args:
        model: who does it.
        c: what is asked for: a row for each seed, or no parts.
        seeds: of the pictures.
        pictures: those that were given, by name, in the model's shape: one, or one for each seed.
        sampler: the model's own options, checked.
        prompt: the words.
        dtype: what the networks compute in.
        changes: of the words.
    """

    model: GenerativeModel
    c: Condition
    seeds: Sequence[int | Blend]
    pictures: Mapping[str, Images] = field(default_factory=dict[str, Images])
    sampler: Mapping[str, Any] = field(default_factory=dict[str, Any])
    prompt: str = ""
    dtype: Literal["float32", "bfloat16"] = "float32"
    changes: Sequence[str] = ()

    @staticmethod
    def of(
        model: GenerativeModel,
        sampler: Mapping[str, Any],
        wishes: Sequence[Wish],
        reports: Sequence[Callable[[str], None]] = (say,),
    ) -> "Work":
        """The work of one or more wishes for the same kind of pictures.

        Args:
            model: who does it.
            sampler: its options.
            wishes: what is asked for.
            reports: one for each wish: told, in a line each, what of its prompts is left out, and
                which words the model was never shown.
        """
        for wish, told in zip(wishes, reports):
            if remark := _unseen(model, wish):
                told(remark)
        asked = [wish.condition(model.spec, told) for wish, told in zip(wishes, reports)]
        seeds = [s for wish, c in zip(wishes, asked) for s in wish.seeds() * max(len(c), 1)]
        rows = [c.repeat(wish.n) for wish, c in zip(wishes, asked)]
        prompt = wishes[0].prompts[0] if wishes[0].prompts else ""
        first = wishes[0]
        return Work(
            model,
            join_conditions(rows),
            seeds,
            {},
            dict(sampler),
            prompt,
            first.dtype,
            first.changes,
        )

    @property
    def seed(self) -> int:
        """The first one."""
        first = self.seeds[0]
        assert isinstance(first, int)
        return first

    def given(self, name: str) -> Images:
        """A picture for each seed."""
        x = self.pictures[name]
        return x if len(x) == len(self.seeds) else x.repeat(len(self.seeds), 1, 1, 1)

    def rows(self, rows: slice) -> "Work":
        """The work for some of the seeds."""
        several = len(self.seeds) > 1
        cut = {
            name: x[rows] if several and len(x) == len(self.seeds) else x
            for name, x in self.pictures.items()
        }
        return replace(self, c=self.c.rows(rows), seeds=self.seeds[rows], pictures=cut)

    def of_each(self, x: Images) -> "Work":
        """The same work for each of some pictures."""
        k, n = len(x), len(self.seeds)
        c = self.c.rows(slice(0, 1)).repeat(k * n)
        pictures = {"image": x.repeat_interleave(n, 0)}
        return replace(self, c=c, seeds=[*self.seeds] * k, pictures=pictures)


def _unseen(model: GenerativeModel, wish: Wish) -> str:
    """A line on words of the prompts that no caption of the training had; empty without any."""
    spec = model.spec.text
    if spec is None or isinstance(model, Follows):  # its words are counted of its base's captions
        return ""
    plain = [read_emphasis(prompt).text for prompt in wish.prompts]
    words = [word for prompt in plain for word in unseen_words(model, spec, prompt)]
    shown = ", ".join(f"'{word}'" for word in list(dict.fromkeys(words))[:5])
    return (
        f"no training caption had {shown}; expect what the nearest known words mean"
        if words
        else ""
    )


def open_work(
    wish: Wish, device: str = "auto", *, single: bool = False, task: "Task | None" = None
) -> Work:
    """The work of a wish, its model loaded.

    Args:
        wish: what is asked for.
        device: where.
        single: whether one label or prompt is for all pictures.
        task: what the model must be able to do.

    Raises:
        LimnerError: there is no such model, option, label, ..., there are several labels, or the
            model cannot do it.
    """
    model, options = open_model(wish, device)
    if task is not None:
        able_task(model, task)
    work = Work.of(model, options, [wish])
    if wish.hints:
        drawn = read_hints([*map(Path, wish.hints)], model, say).to(model.device)
        work = replace(work, pictures={"hint": drawn})
    elif isinstance(model, Controlled) and model.hints:
        say("no --hint is given, so nothing steers the model")
    if single and len(work.c) > wish.n:
        raise LimnerError("give one label or prompt; it is for all pictures")
    return work


def join_conditions(conditions: Sequence[Condition]) -> Condition:
    """Conditions with the same parts, one after the other; texts are padded to the longest."""
    if not len(conditions[0]):
        return Condition()
    if len(conditions) == 1:
        return conditions[0]
    if any(c.weight is not None for c in conditions):
        conditions = [
            c if c.weight is not None or c.text is None
            else replace(c, weight=torch.ones(c.text.shape))
            for c in conditions
        ]  # fmt: skip
    longest = max((c.text.shape[1] for c in conditions if c.text is not None), default=0)
    conditions = [c.padded(longest) for c in conditions]
    avoided = [c.avoid for c in conditions if c.avoid is not None]
    width = max((avoid.shape[1] for avoid in avoided), default=0)
    return Condition.cat(
        [
            c if c.avoid is None
            else replace(c, avoid=F.pad(c.avoid, (0, width - c.avoid.shape[1])))
            for c in conditions
        ]
    )  # fmt: skip


@dataclass(frozen=True)
class Task:
    """Something to be asked for.

    Args:
        title: on a button.
        does: it, yielding pictures; its keyword arguments are the options.
        ability: which models can.
        unless: which of them cannot after all.
        lacks: what is said of models that cannot: "vae models" and this, and those that can.
        example: what to type for a model that can.
        inputs: the pictures it needs, by name: whether each must be given.
        several: whether there is a picture for each seed.
        frames: how many it yields; as many as the model's `frames` if None.
        reads: whether it is of a prompt's words.
        shows: what its pictures are to a person: "pictures" of their own; a "path", one after the
            other; or "maps" of the picture that was given, which are not kept among those that were
            painted.
        without: the options that a kind of model does not have.
        fits: whether it can be done with pictures of a specification.
        remark: what is told before it begins, of the work and its options: a line, or nothing.
        whole: whether pictures are given in their own size and with their alpha, and not as the
            model sees them.
    """

    title: str
    does: Callable[..., Iterator[Images]]
    ability: type = GenerativeModel
    unless: type | None = None
    lacks: str = ""
    example: str = ""
    inputs: Mapping[str, bool] = field(default_factory=dict[str, bool])
    several: bool = True
    frames: Callable[..., int] | None = None
    reads: bool = False
    shows: Literal["pictures", "path", "maps"] = "pictures"
    without: Callable[[type], Sequence[str]] = lambda model: ()
    fits: Callable[[ImageSpec], bool] = lambda spec: True
    remark: Callable[[Work, Mapping[str, Any]], str] = lambda work, options: ""
    whole: bool = False

    def suits(self, model: type) -> bool:
        """Whether a kind of model can do it."""
        return issubclass(model, self.ability) and not (
            self.unless and issubclass(model, self.unless)
        )

    def schema(self, model: type) -> dict[str, Any]:
        """The JSON schema of the options, as far as a kind of model has them."""
        return json_schema(self.does, (*_NOT_OPTIONS, *self.without(model)))

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options with defaults filled in.

        Raises:
            LimnerError: one that the task does not have, or of a wrong value.
        """
        return validated(self.does, options, skip=_NOT_OPTIONS)

    def frame_count(self, work: Work, options: Mapping[str, Any]) -> int:
        """What a progress bar counts to."""
        if self.frames is not None:
            return self.frames(work, **options)
        return work.model.frame_count(**work.sampler) if self.several else 1

    def start(self, work: Work, options: Mapping[str, Any]) -> Iterator[Images]:
        """Begin; the options are checked ones."""
        with autocast(work.model.device, work.dtype), torch.no_grad():
            yield from self.does(work, **options)

    def finish(
        self, work: Work, *, forming: bool = False, quiet: bool = False, **options: Any
    ) -> list[Pictures]:
        """Do it in parts that fit into memory, with a progress bar.

        Args:
            work: of what.
            forming: whether to keep frames of how the pictures form.
            quiet: whether nobody is told how far it is.
            options: the task's own.

        Returns:
            the frames, the finished pictures last.
        """
        if remark := self.remark(work, options):
            say(remark)
        total, count = len(work.seeds), self.frame_count(work, options)
        shares = [i / (_FRAMES - 1) for i in range(_FRAMES)] if forming else []
        kept = {round(share * (count - 1)) for share in shares} - {count - 1}
        size = work.model.at_once
        cuts = [slice(first, first + size) for first in range(0, total, size)]
        parts: list[list[Pictures]] = []
        with painting_progress(total, quiet=quiet) as advance:
            for part in [work.rows(cut) for cut in cuts] if self.several else [work]:
                frames, frame = list[Pictures](), torch.empty(0)
                for i, frame in enumerate(self.start(part, options)):
                    advance(len(part.seeds) / count)
                    if i in kept:
                        frames.append(to_uint8(frame).cpu())
                parts.append([*frames, to_uint8(frame).cpu()])
        return [torch.cat(same) for same in zip(*parts, strict=True)]


def able_task(model: GenerativeModel, *tasks: Task) -> Task:
    """The first of some tasks that a model can do.

    Raises:
        LimnerError: it can do none of them; the message names models that can.
    """
    for task in tasks:
        if task.suits(type(model)):
            return task
    first = tasks[0]
    able = [name for name, of in models().items() if any(t.suits(of.model) for t in tasks)]
    raise LimnerError(
        f"{model.name} models {first.lacks}: {', '.join(able)}; {first.example} makes one"
    )
