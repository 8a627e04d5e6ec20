"""The tasks of the studio, and their descriptions for clients."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from limner.commands.outline import OUTLINE
from limner.commands.sheets.attention import ATTENTION
from limner.commands.sheets.codes import INTERPOLATE, RECONSTRUCT
from limner.commands.sheets.edit import COMPLETE, EDIT
from limner.commands.sheets.instruct import INSTRUCT
from limner.commands.sheets.reword import REWORD
from limner.commands.sheets.sample import PAINT
from limner.commands.sheets.style_mix import MIX
from limner.commands.sheets.translate import TRANSLATE
from limner.commands.sheets.upscale import UPSCALE
from limner.commands.sheets.walk import WALK
from limner.commands.task import Task
from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.model import GenerativeModel

TASKS = {
    "paint": PAINT,
    "edit": EDIT,
    "reword": REWORD,
    "instruct": INSTRUCT,
    "complete": COMPLETE,
    "translate": TRANSLATE,
    "upscale": UPSCALE,
    "enlarge": replace(UPSCALE, title="Enlarged view", shows="maps"),
    "reconstruct": RECONSTRUCT,
    "interpolate": INTERPOLATE,
    "walk": WALK,
    "mix": MIX,
    "attention": ATTENTION,
    "outline": OUTLINE,
}


def tasks_of(
    model: type[GenerativeModel], spec: ImageSpec, config: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return descriptions of the tasks that a model can do, for clients."""
    tasks = {name: task for name, task in TASKS.items() if task.suits_model(model, spec, config)}
    if not model.is_random(config):  # all its pictures are the same
        tasks = {n: replace(task, several=False) for n, task in tasks.items() if n != "walk"}
    return {name: _description(task, model) for name, task in tasks.items()}


def _description(task: Task, model: type[GenerativeModel]) -> dict[str, Any]:
    return {
        "title": task.title,
        "about": (task.function.__doc__ or "").strip().splitlines()[0],
        "inputs": {name: {"required": required} for name, required in task.inputs.items()},
        "several": task.several,
        "sized": not task.whole,
        "shows": task.shows,
        "schema": task.schema(model),
    }


def find_task(name: str) -> Task:
    """Return a task by name."""
    if name not in TASKS:
        raise LimnerError(f"there is no task '{name}'; choose one of: {', '.join(TASKS)}")
    return TASKS[name]
