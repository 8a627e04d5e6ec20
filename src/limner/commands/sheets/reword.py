"""Implementation of `limner edit --replace`, `--refine` and `--weight`: change words of a prompt.

A picture stores all its changes as text, in order:

    replace:dog=cat        refine:with a hat        weight:red=2
    cross_steps:0.2  self_steps:0.1  local:0.3      see `Rewording`
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from limner.commands.pictures import Sheet
from limner.commands.request import SamplingRequest, supported_options
from limner.commands.task import Task, Work, able_task, open_work, with_stored_model
from limner.contract.editing import Rewords, reconstruction_error
from limner.contract.emoji_names import spell_emoji
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images, ImageSpec
from limner.contract.options import Share
from limner.contract.rewording import Rewording, align_prompts
from limner.contract.text import Tokenizer, plain_text, text_condition
from limner.data.picture_files import read_own_settings, read_picture
from limner.runtime.progress import say

_SHARE_OPTIONS = ("cross_steps", "self_steps", "local")
_MAX_WEIGHT = 10.0


@dataclass(frozen=True)
class ChangedPrompt:
    """A prompt after changes.

    Args:
        prompt: the new prompt.
        gains: word -> factor of the attention to it.
        shares: `cross_steps`, `self_steps` and `local` of `Rewording`, if given.
    """

    prompt: str
    gains: dict[str, float]
    shares: dict[str, float]


def read_changes(prompt: str, changes: Sequence[str]) -> ChangedPrompt:
    """Apply changes to a prompt, one after the other.

    >>> read_changes("a red dog", ["replace:dog=cat", "refine:with a hat"]).prompt
    'a red cat with a hat'

    Raises:
        LimnerError: a change has a wrong form, or names a word that the prompt does not have.
    """
    gains, shares = dict[str, float](), dict[str, float]()
    for change in changes:
        kind, _, value = change.partition(":")
        if kind == "refine":
            if not value.strip():
                raise LimnerError("refine has no words to add; give some")
            prompt = f"{prompt} {value.strip()}"
        elif kind in _SHARE_OPTIONS:
            shares[kind] = _number(kind, value, 1.0)
        elif kind in ("replace", "weight"):
            old, equals, new = (part.strip() for part in value.rpartition("="))
            if not equals or not old:
                example = "dog=cat" if kind == "replace" else "red=2"
                raise LimnerError(f"{kind} '{value}' is not WORD=VALUE; write it as {example}")
            match = next(_matches(old, prompt), None)
            if match is None:
                raise LimnerError(f"the prompt '{prompt}' has no '{old}'; name a word that it has")
            if kind == "weight":
                gains[old] = _number(f"weight {old}", new, _MAX_WEIGHT)
            else:
                prompt = " ".join((prompt[: match.start()] + new + prompt[match.end() :]).split())
        else:
            raise LimnerError(f"unknown change '{change}'; give replace:, refine: or weight:")
    return ChangedPrompt(prompt, gains, shares)


def _matches(words: str, text: str) -> Iterator[re.Match[str]]:
    """Yield where a text has these words, in upper or lower case."""
    return re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE)


def _number(name: str, text: str, maximum: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= maximum:
        raise LimnerError(f"{name}={text}: give a number from 0 to {maximum:g}")
    return number


def rewording(
    spec: ImageSpec, prompt: str, changes: Sequence[str]
) -> tuple[Condition, Condition, Rewording]:
    """Return a prompt before and after changes, and the alignment of the two.

    Raises:
        LimnerError: see `read_changes`; or the model has no text.
    """
    changed = read_changes(prompt, changes)
    c = text_condition(spec, [prompt, changed.prompt], lambda line: None)
    assert c.text is not None and spec.text is not None
    gains = torch.ones(c.text.shape[1])
    text = plain_text(spec.text, changed.prompt)
    starts = torch.tensor(Tokenizer(spec.text).read(text).starts)
    for words, gain in changed.gains.items():
        for match in _matches(spell_emoji(words), text):
            gains[: len(starts)][(starts >= match.start()) & (starts < match.end())] = gain
    edit = Rewording(align_prompts(c.text), gains, **changed.shares)
    return c.rows(slice(0, 1)), c.rows(slice(1, 2)), edit


def reword_frames(work: Work, changes: Sequence[str], strength: float = 1.0) -> Iterator[Images]:
    """Yield pictures of each seed before (first half of the batch) and after the changes."""
    model = work.model
    able_task(model, REWORD)
    assert isinstance(model, Rewords)
    before, after, edit = rewording(model.spec, work.prompt, changes)
    if edit.alignment.new == edit.alignment.removed == () and bool((edit.gains == 1).all()):
        raise LimnerError("the prompt does not change; replace, add or weight some words")
    if edit.alignment.new == edit.alignment.removed == ():  # weights act on the whole picture
        edit = replace(edit, local=0.0)
    condition = work.c.rows(slice(0, 1))
    if "hint" in work.pictures:
        condition = replace(condition, image=work.pictures["hint"][:1])
    before, after = (replace(condition, text=c.text, weight=c.weight) for c in (before, after))
    image = work.pictures.get("image")
    yield from model.reword(
        before, after, edit, image=image, strength=strength, seed=list(work.seeds), **work.sampler
    )


def reword(
    work: Work,
    *,
    replace: str = "",
    refine: str = "",
    weight: str = "",
    cross_steps: Share = Rewording.cross_steps,
    self_steps: Share = Rewording.self_steps,
    local: Annotated[float, Field(ge=0, lt=1)] = Rewording.local,
    strength: Annotated[float, Field(gt=0, le=1)] = 1.0,
) -> Iterator[Images]:
    """Repaint the picture of a prompt with changed words, and keep the rest.

    Args:
        replace: replace a word with another, as in dog=cat.
        refine: words to add.
        weight: weight of a word, as in red=2.
        cross_steps: share of the steps in which words keep their places.
        self_steps: share of the steps in which shapes are kept.
        local: change only where attention to the words is above this share of its maximum.
        strength: how far a picture of your own may change.
    """
    changes = [f"replace:{replace}"] * bool(replace) + [f"refine:{refine}"] * bool(refine)
    changes += [f"weight:{weight}"] * bool(weight)
    changes += [f"cross_steps:{cross_steps}", f"self_steps:{self_steps}", f"local:{local}"]
    for images in reword_frames(work, [*work.changes, *changes], strength):
        yield images.chunk(2)[1]


def _pairs(work: Work, *, strength: float = 1.0) -> Iterator[Images]:
    """Yield the pictures before and after in alternation."""
    for images in reword_frames(work, work.changes, strength):
        yield images.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)


def _frame_count(work: Work, **options: Any) -> int:
    """Return the number of frames of rewordings, for a progress bar."""
    assert isinstance(work.model, Rewords)
    return work.model.reword_count("image" in work.pictures, **work.sampler)


def reconstruction_remark(work: Work, options: Mapping[str, Any]) -> str:
    """Report the reconstruction error of a given picture; return "" if none is given."""
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
    refusal="change no words; these do",
    example="limner train flow-matching emoji data.size=16 data.text=true",
    inputs={"image": False},
    reads=True,
    frames=_frame_count,
    remark=reconstruction_remark,
)
_PAIR_TASK = replace(REWORD, function=_pairs)


def _report_words(work: Work) -> None:
    """Report what the model leaves out of the changed prompt, but not of the prompt before.

    Raises:
        LimnerError: see `read_changes`.
    """
    changed, known = read_changes(work.prompt, work.changes), list[str]()
    text_condition(work.model.spec, work.prompt, known.append)
    text_condition(
        work.model.spec, changed.prompt, lambda line: None if line in known else say(line)
    )


def reword_sheet(
    file: Path,
    request: SamplingRequest,
    *,
    strength: float | None = None,
    device: str = "auto",
    **asked: int,
) -> tuple[Sheet, SamplingRequest]:
    """Change words of a picture's prompt; each row of the sheet shows a picture before and after.

    Args:
        file: a picture painted by limner, which is repainted from its stored settings; or any other
            picture, described by `request.prompts`.
        request: the changes; other settings default to those stored in the picture.
        strength: how far to move from the picture, in (0, 1]; only for pictures without settings.
        device: device to run on.
        asked: `n` and `seed`, if they differ from the stored ones.

    Returns:
        the sheet, and the request with every option and change written out.

    Raises:
        LimnerError: the model does not attend to words, or the picture has no prompt.
    """
    is_stored = read_own_settings(file) is not None and not request.prompts
    if is_stored:
        if strength is not None:
            raise LimnerError("--strength is for pictures that limner did not paint; leave it out")
        request = _with_stored_settings(file, request)
    else:
        request = with_stored_model(request, file, REWORD)
    if not request.prompts:
        raise LimnerError(f"{file} stores no prompt; give --prompt")
    request = SamplingRequest.of({**vars(request), **asked})
    work = open_work(request, device, single=True, task=REWORD)
    if not is_stored:
        image = read_picture(file, work.model.spec)
        work = replace(work, pictures={**work.pictures, "image": image})
    _report_words(work)
    frames = _PAIR_TASK.finish(work, strength=strength or 1.0)
    sheet = Sheet(frames[-1], 2, task="" if is_stored else "edit")
    return sheet, request.with_sampler(work.sampler)


def _with_stored_settings(file: Path, request: SamplingRequest) -> SamplingRequest:
    """Return the request stored in a picture with further changes, and with the model, class, size
    and sampler options of another request where that gives them.

    Raises:
        LimnerError: the picture cannot be repeated, or has several prompts.
    """
    base = SamplingRequest.read(file)
    if len(base.prompts) > 1:
        raise LimnerError(f"{file} has {len(base.prompts)} prompts; give a picture with one")
    sampler = base.sampler
    if request.model and request.model != base.model:
        sampler = supported_options(request.model, sampler, base.controls)
    return replace(
        base,
        model=request.model or base.model,
        labels=request.labels or base.labels,
        size=request.size or base.size,
        sampler={**sampler, **request.sampler},
        changes=(*base.changes, *request.changes),
    )
