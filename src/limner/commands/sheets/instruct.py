"""Implementation of `limner edit --instruct`: pictures edited with instructions.

The instructions are stored, in order, among the changes of a picture as "instruct:make the dog
blue", and the first input file among its hints. So a chain can continue from its last picture.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from limner.commands.pictures import Sheet
from limner.commands.request import SamplingRequest
from limner.commands.task import Task, Work, open_work
from limner.contract.bundled import bundled_names_with
from limner.contract.editing import Follows
from limner.contract.errors import LimnerError
from limner.contract.image import Images, from_uint8, to_uint8
from limner.contract.text import text_condition
from limner.data.picture_files import read_own_settings, read_picture
from limner.runtime.progress import say

_KIND_PREFIX = "instruct:"
_EMPTY_INSTRUCTION = "an instruction is empty; write what to do: 'make the dog blue'"


def instruct(work: Work) -> Iterator[Images]:
    """Change a picture as the prompt says, and nothing else in it."""
    model = work.model
    assert isinstance(model, Follows)
    if not work.prompt.strip():
        raise LimnerError(_EMPTY_INSTRUCTION)
    yield from model.follow(work.picture("image"), work.c, seed=list(work.seeds), **work.sampler)


INSTRUCT = Task(
    "Follow an instruction",
    instruct,
    Follows,
    refusal="follow no instructions; these can",
    example="limner train instruct instructions train.init.base=RUN",
    inputs={"image": True},
    reads=True,
)


def instruct_sheet(
    file: Path,
    request: SamplingRequest,
    instructions: Sequence[str],
    device: str = "auto",
    **asked: int,
) -> tuple[Sheet, SamplingRequest]:
    """Change a picture by instructions, one after the other, with a progress bar.

    Args:
        file: the picture; if instructions made it, they are repeated first.
        request: model and options; without a model, the bundled one that follows instructions.
        instructions: what to do, in order.
        device: device to run on.
        asked: `n` and `seed`: number of variations, and seed of the first; by default those stored
            in a picture that instructions made.

    Returns:
        the sheet, with a row for each variation (the picture, then the result of each instruction),
        and the request with everything written out.

    Raises:
        LimnerError: the model follows no instructions, an instruction has no words, or the file is
            not a picture.
    """
    if not all(text.strip() for text in instructions):
        raise LimnerError(_EMPTY_INSTRUCTION)
    settings = read_own_settings(file)
    base = (
        SamplingRequest.read(file)
        if settings and any(map(is_instruction, settings.get("changes", ())))
        else None
    )
    if base:
        if not base.hints or not Path(base.hints[0]).is_file():
            raise LimnerError(
                f"{file} was made from '{base.hints[0] if base.hints else ''}', which is missing; "
                "put it back, or cut one picture out of the sheet and edit that"
            )
        instructions = [*(text.removeprefix(_KIND_PREFIX) for text in base.changes), *instructions]
        file, asked = Path(base.hints[0]), {"n": base.n, "seed": base.seed} | asked
        if request.model in (None, base.model):
            request = replace(
                request, model=base.model, sampler={**base.sampler, **request.sampler}
            )
    request = SamplingRequest.of({**vars(request), **asked, "prompts": tuple(instructions)})
    instructions = request.prompts  # with emoji spelled, and words chosen by the seed
    if request.model is None and (names := bundled_names_with(Follows)):
        request = replace(request, model=names[0])
    first = replace(request, prompts=(instructions[0],))
    work = open_work(first, device, single=True, task=INSTRUCT)
    x = read_picture(file, work.model.spec).repeat(request.n, 1, 1, 1)
    columns = [to_uint8(x)]
    for i, instruction in enumerate(instructions):
        pictures = {"image": from_uint8(columns[-1])}
        report = say if i else (lambda line: None)  # words of the first one were reported above
        c = text_condition(work.model.spec, instruction, report).repeat(request.n)
        (images,) = INSTRUCT.finish(replace(work, c=c.to(work.model.device), pictures=pictures))
        columns.append(images)
    changes = tuple(_KIND_PREFIX + text for text in instructions)
    request = replace(request, prompts=(), changes=changes, hints=(str(file),))
    sheet = Sheet(torch.stack(columns, 1).flatten(0, 1), len(columns))
    return sheet, request.with_sampler(work.sampler)


def is_instruction(change: str) -> bool:
    """Whether a change of a picture is an instruction."""
    return change.startswith(_KIND_PREFIX)
