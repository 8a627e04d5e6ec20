"""What `limner attention` shows: where a model looks in a picture for each word of a prompt."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from limner.commands.pictures import Sheet, read_picture
from limner.commands.task import Task, Work, able_task
from limner.commands.wish import Wish, open_model
from limner.contract.abilities import Attends
from limner.contract.emphasis import read_emphasis
from limner.contract.errors import LimnerError
from limner.contract.image import Images, ImageSpec, to_uint8
from limner.contract.text import Tokenizer


def known_words(spec: ImageSpec, prompt: str) -> Sequence[tuple[str, Sequence[int]]]:
    """The words of a prompt that a model knows, each with the places of its tokens."""
    return Tokenizer(spec.text).places(read_emphasis(prompt).text) if spec.text else []


def attention(work: Work) -> Iterator[Images]:
    """Where the model looks for each word of the prompt: a map for each, light where it looks."""
    assert isinstance(work.model, Attends)
    words = known_words(work.model.spec, work.prompt)
    if not work.prompt:
        raise LimnerError("what is looked for are the words of a prompt; give one")
    if not words:
        raise LimnerError("the model knows no word of this prompt; give others")
    maps = work.model.attention_maps(work.pictures["image"], work.c.rows(slice(1)))[0]
    of_words = torch.stack([maps[list(places)].sum(0) for _, places in words])
    low, high = of_words.flatten(1).aminmax(dim=1)
    spread = (high - low).clamp(min=1e-6)
    yield (2 * (of_words - low[:, None, None]) / spread[:, None, None] - 1)[:, None]


ATTENTION = Task(
    "Where it looks",
    attention,
    Attends,
    lacks="look at no words; these do",
    example="limner train edm emoji data.size=16 data.text=true",
    inputs={"image": True},
    several=False,
    reads=True,
    shows="maps",
)


def attention_sheet(
    file: Path, wish: Wish, *, device: str = "auto"
) -> tuple[Sheet, Wish, list[str]]:
    """A picture, and for each word the picture again, light only where the model looks for it.

    Args:
        file: the picture.
        wish: which model, and the prompt.
        device: where.

    Returns:
        the sheet, the wish without options of a sampler, as none is used, and the words.

    Raises:
        LimnerError: the model looks at no words, there are none, or it knows none of these.
    """
    model, options = open_model(wish, device)
    task = able_task(model, ATTENTION)
    if not model.spec.text:
        raise LimnerError("this model was trained without text and looks at no words; give another")
    if not wish.prompts:
        raise LimnerError(f"{file} does not say what it is of; give --prompt")
    work, x = Work.of(model, options, [wish]), read_picture(file, model.spec)
    maps = torch.cat([*task.start(replace(work, pictures={"image": x}), {})]).cpu()
    lit = (x + 1) * (maps + 1) / 2 - 1
    words = [word for word, _ in known_words(model.spec, work.prompt)]
    sheet = Sheet(to_uint8(torch.cat([x, lit])), 1 + len(words), task="attention")
    return sheet, wish.filled({}), words
