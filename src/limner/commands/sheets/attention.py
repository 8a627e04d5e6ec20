"""Implementation of `limner attention`: attention maps of a picture for the words of a prompt."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from limner.commands.pictures import Sheet
from limner.commands.request import SamplingRequest, open_model
from limner.commands.sheets.reword import read_changes
from limner.commands.task import Task, Work, able_task
from limner.contract.abilities import Attends
from limner.contract.errors import LimnerError
from limner.contract.image import Images, ImageSpec, to_uint8
from limner.contract.text import Tokenizer, plain_text
from limner.data.picture_files import read_own_settings, read_picture


def known_words(spec: ImageSpec, prompt: str) -> Sequence[tuple[str, Sequence[int]]]:
    """Return the words of a prompt that a model knows, each with the positions of its tokens."""
    return Tokenizer(spec.text).places(plain_text(spec.text, prompt)) if spec.text else []


def attention(work: Work) -> Iterator[Images]:
    """Show where the model looks for each word of the prompt: one map per word, light there."""
    assert isinstance(work.model, Attends)
    words = known_words(work.model.spec, work.prompt)
    if not work.prompt:
        raise LimnerError("attention maps need the words of a prompt; give a prompt")
    if not words:
        raise LimnerError("the model knows no word of this prompt; give other words")
    maps = work.model.attention_maps(work.pictures["image"], work.c.rows(slice(1)))[0]
    word_maps = torch.stack([maps[list(places)].sum(0) for _, places in words])
    low, high = word_maps.flatten(1).aminmax(dim=1)
    spread = (high - low).clamp(min=1e-6)
    yield (2 * (word_maps - low[:, None, None]) / spread[:, None, None] - 1)[:, None]


ATTENTION = Task(
    "Where it looks",
    attention,
    Attends,
    refusal="do not attend to words; these do",
    example="limner train edm emoji data.size=16 data.text=true",
    inputs={"image": True},
    several=False,
    reads=True,
    shows="maps",
)


def stored_request(file: Path) -> SamplingRequest:
    """Return the model, prompt, class and size of a picture that limner painted.

    If words of the prompt were changed, it is the new prompt. For any other file, the request is
    empty.
    """
    settings = read_own_settings(file) or {}
    names = ("model", "prompts", "labels", "size", "changes")
    request = SamplingRequest.of({name: settings[name] for name in names if name in settings})
    prompts = [read_changes(prompt, request.changes).prompt for prompt in request.prompts]
    return replace(request, prompts=tuple(prompts), changes=())


def attention_sheet(
    file: Path, request: SamplingRequest, *, device: str = "auto"
) -> tuple[Sheet, SamplingRequest, list[str]]:
    """Show a picture, then once for each word, light only where the model attends to the word.

    Args:
        file: the picture.
        request: the model and the prompt.
        device: device to run on.

    Returns:
        the sheet, the request without sampler options (none are used), and the words.

    Raises:
        LimnerError: the model does not attend to words, there is no prompt, or the model knows none
            of its words.
    """
    model, options = open_model(request, device)
    task = able_task(model, ATTENTION)
    if not model.spec.text:
        raise LimnerError(
            "this model was trained without text and attends to no words; give another"
        )
    if not request.prompts:
        raise LimnerError(f"{file} stores no prompt; give --prompt")
    work, x = Work.of(model, options, [request]), read_picture(file, model.spec)
    maps = torch.cat([*task.start(replace(work, pictures={"image": x}), {})]).cpu()
    highlighted = (x + 1) * (maps + 1) / 2 - 1
    words = [word for word, _ in known_words(model.spec, work.prompt)]
    sheet = Sheet(to_uint8(torch.cat([x, highlighted])), 1 + len(words), task="attention")
    return sheet, request.with_sampler({}), words
