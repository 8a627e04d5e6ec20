"""Tasks: what models can do, for the command line and the studio.

A task is a function that yields pictures as they form; the last ones are finished. Its options are
its keyword arguments, from which the studio makes a form. An ability tells which models can do it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F

from limner.commands.hints import read_hints
from limner.commands.pictures import Pictures
from limner.commands.prompt_remarks import prompt_remarks
from limner.commands.request import SamplingRequest, open_model
from limner.commands.suited_model import better_model
from limner.contract.abilities import Controlled
from limner.contract.bundled import bundled_models, find_model
from limner.contract.checkpoint import MODEL_FILE, model_file, read_header
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images, ImageSpec, to_uint8
from limner.contract.model import GenerativeModel
from limner.contract.noise import Blend
from limner.contract.options import json_schema, validate_options
from limner.contract.registry import entry_of, models
from limner.data.picture_files import read_own_settings
from limner.nn.precision import autocast
from limner.runtime.progress import painting_progress, say

_NOT_OPTIONS = ("work",)
_FRAMES = 12  # frames kept of the sampling process


@dataclass(frozen=True)
class Work:
    """The inputs of a task.

    Args:
        model: the model.
        c: condition, with one row for each seed, or without parts.
        seeds: seeds of the pictures.
        pictures: input pictures by name, in the model's shape: one, or one for each seed.
        sampler: checked sampler options of the model.
        prompt: the first prompt.
        dtype: number format in which the networks compute.
        changes: changes of the words, see `limner.commands.sheets.reword`.
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
        requests: Sequence[SamplingRequest],
        reports: Sequence[Callable[[str], None]] = (say,),
    ) -> "Work":
        """Combine one or more requests into one work.

        Args:
            model: the model.
            sampler: its checked sampler options.
            requests: the requests, all for the same kind of pictures.
            reports: a function for each request, called with one line for each remark on its
                prompts, and for what is left out of them.
        """
        for request, report in zip(requests, reports):
            for remark in prompt_remarks(model, request):
                report(remark)
        conditions = [
            request.condition(model.spec, report) for request, report in zip(requests, reports)
        ]
        seeds = [
            s for request, c in zip(requests, conditions) for s in request.seeds(max(len(c), 1))
        ]
        rows = [c.repeat(request.n) for request, c in zip(requests, conditions)]
        prompt = requests[0].prompts[0] if requests[0].prompts else ""
        first = requests[0]
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
        """The first seed."""
        first = self.seeds[0]
        assert isinstance(first, int)
        return first

    def picture(self, name: str) -> Images:
        """Return an input picture, repeated for each seed."""
        x = self.pictures[name]
        return x if len(x) == len(self.seeds) else x.repeat(len(self.seeds), 1, 1, 1)

    def rows(self, rows: slice) -> "Work":
        """Return the work for some of the seeds."""
        pictures = {
            name: x[rows] if len(x) == len(self.seeds) else x for name, x in self.pictures.items()
        }
        return replace(self, c=self.c.rows(rows), seeds=self.seeds[rows], pictures=pictures)

    def for_each(self, x: Images) -> "Work":
        """Return the same work for each of several input pictures."""
        k, n = len(x), len(self.seeds)
        c = self.c.rows(slice(0, 1)).repeat(k * n)
        pictures = {"image": x.repeat_interleave(n, 0)}
        return replace(self, c=c, seeds=[*self.seeds] * k, pictures=pictures)


def open_work(
    request: SamplingRequest,
    device: str = "auto",
    *,
    single: bool = False,
    task: "Task | None" = None,
) -> Work:
    """Load the model of a request, and return the work.

    Args:
        request: the request.
        device: device to run on.
        single: whether only one label or prompt is allowed, for all pictures.
        task: task that the model must be able to do.

    Raises:
        LimnerError: there is no such model, option, label, ..., there are several labels, or the
            model cannot do the task.
    """
    model, options = open_model(request, device)
    if task is not None:
        able_task(model, task)
    work = Work.of(model, options, [request])
    if suggestion := better_model(request):
        say(str(suggestion))
    if request.hints:
        hint = read_hints([*map(Path, request.hints)], model, say).to(model.device)
        work = replace(work, pictures={"hint": hint})
    elif isinstance(model, Controlled) and model.hints:
        say("no --hint is given, so the control has no effect")
    if single and len(work.c) > request.n:
        raise LimnerError("give one label or prompt; it is for all pictures")
    return work


def join_conditions(conditions: Sequence[Condition]) -> Condition:
    """Concatenate conditions with the same parts; texts are padded to the longest."""
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
    conditions = [c.pad(longest) for c in conditions]
    negatives = [c.avoid for c in conditions if c.avoid is not None]
    width = max((negative.shape[1] for negative in negatives), default=0)
    return Condition.cat(
        [
            c if c.avoid is None
            else replace(c, avoid=F.pad(c.avoid, (0, width - c.avoid.shape[1])))
            for c in conditions
        ]
    )  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A task that models can do.

    Args:
        title: text of its button.
        function: function that does it and yields pictures; its keyword arguments are the options.
        ability: class of the models that can do it.
        excluded: subclass of these that cannot.
        refusal: end of the message for other models, after "vae models"; the names of models that
            can do it follow.
        example: command that trains a model that can do it.
        inputs: name of an input picture -> whether it is required.
        several: whether it paints one picture for each seed.
        frames: number of frames that it yields; as many as the model's `frames` if None.
        reads: whether it uses the words of a prompt.
        shows: kind of its results: new "pictures", a "path" of pictures in order, or "maps" of the
            input picture, which are not kept among the painted pictures.
        missing_options: options that a kind of model does not have.
        fits: whether it works for pictures with a specification.
        remark: a line to report before it starts, from the work and the options, or "".
        whole: whether input pictures keep their size and alpha, instead of the model's format.
    """

    title: str
    function: Callable[..., Iterator[Images]]
    ability: type = GenerativeModel
    excluded: type | None = None
    refusal: str = ""
    example: str = ""
    inputs: Mapping[str, bool] = field(default_factory=dict[str, bool])
    several: bool = True
    frames: Callable[..., int] | None = None
    reads: bool = False
    shows: Literal["pictures", "path", "maps"] = "pictures"
    missing_options: Callable[[type], Sequence[str]] = lambda model: ()
    fits: Callable[[ImageSpec], bool] = lambda spec: True
    remark: Callable[[Work, Mapping[str, Any]], str] = lambda work, options: ""
    whole: bool = False

    def suits(self, model: type) -> bool:
        """Whether a class of models can do the task."""
        return issubclass(model, self.ability) and not (
            self.excluded and issubclass(model, self.excluded)
        )

    def suits_model(
        self, model: type[GenerativeModel], spec: ImageSpec, config: Mapping[str, Any]
    ) -> bool:
        """Whether a model with this specification and these options can do the task."""
        is_able = self.suits(model) and model.has_ability(self.ability, config)
        return is_able and self.fits(spec) and (spec.text is not None or not self.reads)

    def schema(self, model: type) -> dict[str, Any]:
        """Return the JSON schema of the options that a class of models has."""
        return json_schema(self.function, (*_NOT_OPTIONS, *self.missing_options(model)))

    def complete(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Check options, and fill in the defaults.

        Raises:
            LimnerError: an option is unknown or has a wrong value.
        """
        return validate_options(self.function, options, skip=_NOT_OPTIONS)

    def frame_count(self, work: Work, options: Mapping[str, Any]) -> int:
        """Return the number of frames, for a progress bar.

        Raises:
            LimnerError: the model's own count is not a number above 0.
        """
        count: object = 1
        if self.frames is not None:
            count = self.frames(work, **options)
        elif self.several:
            count = work.model.frame_count(**work.sampler)
        if not isinstance(count, int) or count < 1:
            name = type(work.model).__name__
            raise LimnerError(
                f"the number of frames that {name} counts is {count!r}; return the number that it "
                "yields from frame_count, at least 1"
            )
        return count

    def start(self, work: Work, options: Mapping[str, Any]) -> Iterator[Images]:
        """Start the task with checked options, and yield its pictures."""
        with autocast(work.model.device, work.dtype, caches=True), torch.no_grad():
            yield from self.function(work, **options)

    def finish(
        self, work: Work, *, forming: bool = False, quiet: bool = False, **options: Any
    ) -> list[Pictures]:
        """Run the task in parts that fit into memory, with a progress bar.

        Args:
            work: inputs of the task.
            forming: whether to keep frames of the sampling process.
            quiet: whether to hide the progress bar.
            options: options of the task.

        Returns:
            the frames, the finished pictures last.
        """
        if remark := self.remark(work, options):
            say(remark)
        total, count = len(work.seeds), self.frame_count(work, options)
        shares = [i / (_FRAMES - 1) for i in range(_FRAMES)] if forming else []
        indices = {round(share * (count - 1)) for share in shares} - {count - 1}
        size = work.model.at_once
        cuts = [slice(first, first + size) for first in range(0, total, size)]
        parts: list[list[Pictures]] = []
        with painting_progress(total, quiet=quiet) as advance:
            for part in [work.rows(cut) for cut in cuts] if self.several else [work]:
                frames, frame = list[Pictures](), torch.empty(0)
                for i, frame in enumerate(self.start(part, options)):
                    advance(len(part.seeds) / count)
                    if i in indices:
                        frames.append(to_uint8(frame).cpu())
                parts.append([*frames, to_uint8(frame).cpu()])
        return [torch.cat(batches) for batches in zip(*parts, strict=True)]


def able_task(model: GenerativeModel, *tasks: Task) -> Task:
    """Return the first of several tasks that a model can do.

    Raises:
        LimnerError: it can do none of them; the message names models that can.
    """
    for task in tasks:
        if task.suits(type(model)):
            return task
    first = tasks[0]
    names = [name for name, entry in models().items() if any(t.suits(entry.model) for t in tasks)]
    ready = [name for name, folder in bundled_models().items() if _is_able(folder, tasks)]
    raise LimnerError(
        f"{model.name} models {first.refusal}: {', '.join(names)}"
        + (f"; bundled (-m NAME): {', '.join(ready)}" if ready else "")
        + f"; {first.example} makes one"
    )


def _is_able(folder: Path, tasks: Collection[Task]) -> bool:
    """Whether a bundled model can do one of several tasks."""
    file = folder / MODEL_FILE
    header = read_header(file)
    model = entry_of(header.model, file).model
    return issubclass(model, GenerativeModel) and any(
        task.suits_model(model, header.spec, header.config) for task in tasks
    )


def with_stored_model(request: SamplingRequest, picture: Path, *tasks: Task) -> SamplingRequest:
    """Return the request; if it names no model, with the one stored in a picture, if that can do
    one of the tasks.

    Raises:
        LimnerError: there is no such picture, or no longer such a model.
    """
    name = (read_own_settings(picture) or {}).get("model")
    if request.model or not isinstance(name, str):
        return request
    try:
        file = model_file(find_model(name))
    except LimnerError:
        raise LimnerError(
            f"'{name}', which painted {picture}, is not here; name another model with -m"
        ) from None
    model = entry_of(read_header(file).model, file).model
    return replace(request, model=name) if any(task.suits(model) for task in tasks) else request
