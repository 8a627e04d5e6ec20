"""`limner sample`: paint pictures from words, classes, or nothing."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from limner.commands.arguments import (
    Device,
    Model,
    Out,
    Size,
    output_file,
    print_paths,
    split_arguments,
)
from limner.contract.errors import LimnerError


def sample_command(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT ...] [sampler.key=value ...]")
    ] = None,
    model: Model = None,
    negative: Annotated[str | None, typer.Option(help="Negative prompt.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="A class by name or number; repeat for several; 'all'."),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("-n", min=1, max=10_000, help="Number of pictures per prompt and class (1)."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Picture i is drawn from seed + i (0).")] = None,
    size: Size = None,
    vary: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Paint variations of the seed's picture, at this distance."
        ),
    ] = None,
    hint: Annotated[
        list[Path] | None,
        typer.Option(help="Drawing, mask, ... to follow; repeat for several controls."),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(help="Run of a controlnet to add to the model; repeat for several."),
    ] = None,
    strength: Annotated[
        list[float] | None,
        typer.Option(min=0, max=2, help="Strength of the hint (1); one for each hint."),
    ] = None,
    like: Annotated[
        Path | None, typer.Option("--from", help="Reuse the settings stored in this PNG.")
    ] = None,
    out: Out = Path("sample.png"),
    separate: Annotated[
        bool, typer.Option("--separate", help="Write a file for each picture: NAME-0.png, ...")
    ] = False,
    enlarge: Annotated[
        int | None,
        typer.Option(
            min=1, max=32, help="Enlarge by this factor (small pictures to about 128); 1 for none."
        ),
    ] = None,
    upscale: Annotated[
        float | None,
        typer.Option(min=1, max=64, help="Enlarge by this factor with a model."),
    ] = None,
    upscaler: Annotated[
        str | None, typer.Option(help="Run or model folder of the model for --upscale.")
    ] = None,
    strip: Annotated[
        bool, typer.Option("--strip", help="Also write the sampling steps: NAME-strip.png.")
    ] = False,
    gif: Annotated[
        bool, typer.Option("--gif", help="Also write the sampling steps: NAME.gif.")
    ] = False,
    dtype: Annotated[
        str | None, typer.Option(help="float32, or bfloat16: faster, slightly different pictures.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Paint pictures with a trained model, as PNG files that store how they were made."""
    from limner.commands.pictures import write_sheet
    from limner.commands.request import SamplingRequest, supported_options
    from limner.commands.sheets.instruct import is_instruction
    from limner.commands.sheets.sample import paint_sheet
    from limner.commands.sheets.upscale import Enlargement
    from limner.commands.suited_model import with_suited_model
    from limner.runtime.progress import say

    words, options = split_arguments(arguments, "sampler")
    settings = {
        "model": model,
        "prompts": words or None,
        "negative": negative,
        "labels": label or None,
    }
    settings |= {"n": n, "seed": seed, "vary": vary, "size": size, "dtype": dtype}
    settings |= {"controls": control or None, "hints": [str(path) for path in hint or []] or None}
    base = dict(vars(SamplingRequest.read(like))) if like else {}
    if words:
        base.pop("changes", None)  # they belong to the stored prompt
    if words or seed is not None:
        base.pop("prompt_seeds", None)
    values = base | {key: value for key, value in settings.items() if value is not None}
    sampler = base.get("sampler", {})
    if model and model != base.get("model"):
        sampler = supported_options(model, sampler, values.get("controls") or ())
    values["sampler"] = sampler | _strengths(strength) | options.get("sampler", {})
    request = SamplingRequest.of(_with_own_words(values))
    if not like:
        request = with_suited_model(request, request.prompts)
    if any(map(is_instruction, request.changes)):
        raise LimnerError(
            f"{like} was made with instructions; type limner edit {shlex.quote(str(like))} "
            "--instruct ..."
        )
    if request.vary and request.n == 1:
        say("--vary changes all pictures of a row but the first; give -n 8 for seven variations")
    enlargement = Enlargement.of(upscale, upscaler, like)
    enlarge_sheet = enlargement.open(device)
    forming = strip or gif
    sheet, request = paint_sheet(request, device=device, forming=forming, separate=separate)
    sheet = enlarge_sheet(sheet, request)
    file = output_file(out, [*([like] if like else []), *map(Path, request.hints)], separate)
    flags = {"separate": separate, "strip": strip, "gif": gif}
    print_paths(
        write_sheet(
            sheet, request, file, enlarge=enlarge, processing=enlargement.settings(), **flags
        )
    )


def _with_own_words(values: dict[str, Any]) -> dict[str, Any]:
    """Give each picture its own prompt where its seed chooses words; variations share theirs.

    Raises:
        LimnerError: only some of several prompts have words to choose.
    """
    from limner.contract.wildcards import choose_words, has_choices, word_lists

    lists = word_lists()
    prompts, n, seed = values.get("prompts") or [], values.get("n") or 1, values.get("seed") or 0
    choosing = [has_choices(prompt, lists) for prompt in prompts]
    if n == 1 or values.get("vary") or not any(choosing):
        return values
    if not all(choosing):
        raise LimnerError(
            "some prompts have words to choose and others do not; paint them one by one"
        )
    seeds = [*range(seed, seed + n)]
    chosen = [choose_words(prompt, s, lists) for prompt in prompts for s in seeds]
    return values | {"prompts": chosen, "prompt_seeds": seeds * len(prompts), "n": 1}


def _strengths(values: list[float] | None) -> dict[str, Any]:
    """Return the strengths of hints as sampler options; they replace all stored ones."""
    if not values:
        return {}
    if len(values) == 1:
        return {"control_strength": values[0], "control_weights": None}
    return {"control_strength": 1.0, "control_weights": tuple(values)}
