"""Words of a prompt changed: what `limner edit --replace`, `--refine` and `--weight` do.

Changes are written as text, in order, so that a picture remembers all that was done to it:

    replace:dog=cat        refine:with a hat        weight:red=2
    cross:0.2  own:0.1  local:0.3                   see `Rewording`
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from limner.commands.pictures import Sheet, read_own_settings, read_picture
from limner.commands.task import Task, Work, able_task, open_work
from limner.commands.wish import Wish, options_it_has
from limner.contract.editing import Rewords, reconstruction_error
from limner.contract.emphasis import read_emphasis
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images, ImageSpec
from limner.contract.options import Share
from limner.contract.rewording import Rewording, aligned_prompts
from limner.contract.text import Tokenizer, prompted

_SHARES = ("cross", "own", "local")
_MOST = 10.0


@dataclass(frozen=True)
class Changed:
    """A prompt after changes.

    Args:
        prompt: the words.
        gains: what the attention to some of them is multiplied by.
        shares: `cross`, `own` and `local` of `Rewording`, where they were given.
    """

    prompt: str
    gains: dict[str, float]
    shares: dict[str, float]


def read_changes(prompt: str, changes: Sequence[str]) -> Changed:
    """A prompt after changes, made one after the other.

    >>> read_changes("a red dog", ["replace:dog=cat", "refine:with a hat"]).prompt
    'a red cat with a hat'

    Raises:
        LimnerError: a change that cannot be read, or of a word that is not there.
    """
    gains, shares = dict[str, float](), dict[str, float]()
    for change in changes:
        kind, _, told = change.partition(":")
        if kind == "refine":
            if not told.strip():
                raise LimnerError("refine adds words, and there are none; give some")
            prompt = f"{prompt} {told.strip()}"
        elif kind in _SHARES:
            shares[kind] = _number(kind, told, 1.0)
        elif kind in ("replace", "weight"):
            old, given, new = (part.strip() for part in told.rpartition("="))
            if not given or not old:
                example = "dog=cat" if kind == "replace" else "red=2"
                raise LimnerError(f"{kind} '{told}' has no word and '='; write it as {example}")
            found = re.search(rf"(?<!\w){re.escape(old)}(?!\w)", prompt, re.IGNORECASE)
            if found is None:
                raise LimnerError(f"the prompt '{prompt}' has no '{old}'; name a word that it has")
            if kind == "weight":
                gains[old] = _number(f"weight {old}", new, _MOST)
            else:
                prompt = " ".join((prompt[: found.start()] + new + prompt[found.end() :]).split())
        else:
            raise LimnerError(f"'{change}' changes no words; give replace:, refine: or weight:")
    return Changed(prompt, gains, shares)


def _number(name: str, told: str, most: float) -> float:
    try:
        number = float(told)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        raise LimnerError(f"{name}={told}: give a number from 0 to {most:g}")
    return number


def rewording(
    spec: ImageSpec, prompt: str, changes: Sequence[str]
) -> tuple[Condition, Condition, Rewording]:
    """A prompt before and after changes, and what the two share.

    Raises:
        LimnerError: as of `read_changes`; or the model has no text.
    """
    changed = read_changes(prompt, changes)
    both = prompted(spec, [prompt, changed.prompt])
    assert both.text is not None and spec.text is not None
    gains = torch.ones(both.text.shape[1])
    words = Tokenizer(spec.text).places(read_emphasis(changed.prompt).text)
    for phrase, gain in changed.gains.items():
        parts = phrase.lower().split()
        for word, places in words:
            if word.strip().lower() in parts:
                gains[[place for place in places if place < len(gains)]] = gain
    told = Rewording(aligned_prompts(both.text), gains, **changed.shares)
    return both.rows(slice(0, 1)), both.rows(slice(1, 2)), told


def reworded(work: Work, changes: Sequence[str], strength: float = 1.0) -> Iterator[Images]:
    """Both pictures of each seed: the first half before, the second after the changes."""
    model = work.model
    able_task(model, REWORD)
    assert isinstance(model, Rewords)
    before, after, told = rewording(model.spec, work.prompt, changes)
    if told.alignment.new == told.alignment.left == () and bool((told.gains == 1).all()):
        raise LimnerError("the words are the same as before; replace, refine or weigh some")
    if told.alignment.new == told.alignment.left == ():  # only weights change: everywhere
        told = replace(told, local=0.0)
    asked = work.c.rows(slice(0, 1))
    if "hint" in work.pictures:
        asked = replace(asked, image=work.pictures["hint"][:1])
    before, after = (replace(asked, text=c.text, weight=c.weight) for c in (before, after))
    image = work.pictures.get("image")
    yield from model.reword(
        before, after, told, image=image, strength=strength, seed=list(work.seeds), **work.sampler
    )


def reword(
    work: Work,
    *,
    replace: str = "",
    refine: str = "",
    weight: str = "",
    cross: Share = Rewording.cross,
    own: Share = Rewording.own,
    local: Annotated[float, Field(ge=0, lt=1)] = Rewording.local,
    strength: Annotated[float, Field(gt=0, le=1)] = 1.0,
) -> Iterator[Images]:
    """The picture of a prompt again, with words changed and the rest as it is.

    Args:
        replace: a word and what stands in its place, as in dog=cat.
        refine: words that are added.
        weight: how much a word counts, as in red=2.
        cross: the share of the steps in which words keep their places.
        own: the share of the steps in which forms keep their shape.
        local: change only where attention to the words is above this share of its maximum.
        strength: how far a picture of your own may change.
    """
    told = [f"replace:{replace}"] * bool(replace) + [f"refine:{refine}"] * bool(refine)
    told += [f"weight:{weight}"] * bool(weight)
    told += [f"cross:{cross}", f"own:{own}", f"local:{local}"]
    for both in reworded(work, [*work.changes, *told], strength):
        yield both.chunk(2)[1]


def _pairs(work: Work, *, strength: float = 1.0) -> Iterator[Images]:
    """Before and after, in turn."""
    for both in reworded(work, work.changes, strength):
        yield both.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)


def reconstruction_remark(work: Work, options: Mapping[str, Any]) -> str:
    """How much of a given picture an edit keeps; empty where none is given."""
    image, model = work.pictures.get("image"), work.model
    if image is None or not isinstance(model, Rewords):
        return ""
    error = 100 * reconstruction_error(image, model.reconstruct_for_edit(image, work.seed))
    return (
        f"the picture is reconstructed with an error of {error:.1f} %; edits keep what the "
        "reconstruction keeps"
    )


REWORD = Task(
    "Change words",
    reword,
    Rewords,
    lacks="change no words; these do",
    example="limner train flow-matching emoji data.size=16 data.text=true",
    inputs={"image": False},
    reads=True,
    remark=reconstruction_remark,
)
_PAIRS = replace(REWORD, does=_pairs)


def reword_sheet(
    file: Path, wish: Wish, *, strength: float | None = None, device: str = "auto", **asked: int
) -> tuple[Sheet, Wish]:
    """Change words of a picture's prompt: each picture before and after, in a row.

    Args:
        file: a picture of limner, which is painted again by its own settings; or any other, whose
            description is `wish.prompts`.
        wish: with the changes; what else it leaves out is the picture's.
        strength: of a picture that is not limner's: how far it may go from it, in (0, 1].
        device: where.
        asked: `n` and `seed`, where they are not the picture's own.

    Returns:
        the sheet, and the wish with every option and change written out.

    Raises:
        LimnerError: a model that looks at no words, or a picture that does not say what it is of.
    """
    own = read_own_settings(file)
    if own is not None and not wish.prompts:
        made = Wish.read(file)
        if not made.prompts:
            raise LimnerError(f"{file} does not say what it is of; give --prompt")
        if len(made.prompts) != 1:
            raise LimnerError(f"{file} shows {len(made.prompts)} prompts; edit a picture of one")
        sampler = made.sampler
        if wish.model and wish.model != made.model:
            sampler = options_it_has(wish.model, sampler)
        sampler = {**sampler, **wish.sampler}
        wish = replace(made, changes=(*made.changes, *wish.changes), sampler=sampler,
                       model=wish.model or made.model)  # fmt: skip
        if strength is not None:
            raise LimnerError("--strength is for pictures that limner did not paint; leave it out")
        given: dict[str, Images] = {}
        wish = Wish.of({**vars(wish), **asked})
        work = open_work(wish, device, single=True, task=REWORD)
    else:
        if not wish.prompts:
            raise LimnerError(f"{file} does not say what it is of; give --prompt")
        wish = Wish.of({**vars(wish), **asked})
        work = open_work(wish, device, single=True, task=REWORD)
        given = {"image": read_picture(file, work.model.spec)}
    read_changes(work.prompt, work.changes)  # a fault in them is told before the work
    work = replace(work, pictures={**work.pictures, **given})
    frames = _PAIRS.finish(work, strength=strength or 1.0)
    return Sheet(frames[-1], 2, task="edit" if given else ""), wish.filled(work.sampler)
