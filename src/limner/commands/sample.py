"""`limner sample`: paint pictures from words, classes, or nothing."""

from pathlib import Path
from typing import Annotated, Any

import typer

from limner.commands.arguments import Device, Model, Out, Size, apart, print_paths, spare
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
        int | None, typer.Option("-n", min=1, max=10_000, help="Pictures of each (1).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Picture i is drawn from seed + i (0).")] = None,
    size: Size = None,
    vary: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Paint variations of the seed's picture, this far away."),
    ] = None,
    hint: Annotated[
        list[Path] | None,
        typer.Option(help="A drawing, mask, ... to follow; repeat for several controls."),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(help="A run of a controlnet to put over the model; repeat for several."),
    ] = None,
    strength: Annotated[
        list[float] | None,
        typer.Option(min=0, max=2, help="How strongly the hint counts (1); one for each hint."),
    ] = None,
    like: Annotated[
        Path | None, typer.Option("--from", help="Reuse the settings stored in this PNG.")
    ] = None,
    out: Out = Path("sample.png"),
    separate: Annotated[
        bool, typer.Option("--separate", help="A file for each picture: NAME-0.png, ...")
    ] = False,
    enlarge: Annotated[
        int | None,
        typer.Option(
            min=1, max=32, help="Enlarge by this factor (small pictures to about 128); 1 for none."
        ),
    ] = None,
    upscale: Annotated[
        float | None,
        typer.Option(min=1, max=64, help="Let a model make the pictures so many times larger."),
    ] = None,
    upscaler: Annotated[
        str | None, typer.Option(help="A run or model folder of the model that does so.")
    ] = None,
    strip: Annotated[
        bool, typer.Option("--strip", help="Also write the steps: NAME-strip.png.")
    ] = False,
    gif: Annotated[bool, typer.Option("--gif", help="Also write the steps: NAME.gif.")] = False,
    dtype: Annotated[
        str | None, typer.Option(help="float32, or bfloat16: quicker, slightly other pictures.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Paint pictures with a trained model, as PNG files that remember how they were made."""
    from limner.commands.instruct import is_instruction
    from limner.commands.painting import paint_sheet
    from limner.commands.pictures import write
    from limner.commands.upscaling import Enlargement
    from limner.commands.wish import Wish, options_it_has

    file = spare(out, [*([like] if like else []), *(hint or [])], separate)
    words, options = apart(arguments, "sampler")
    asked = {
        "model": model,
        "prompts": words or None,
        "negative": negative,
        "labels": label or None,
    }
    asked |= {"n": n, "seed": seed, "vary": vary, "size": size, "dtype": dtype}
    asked |= {"controls": control or None, "hints": [str(each) for each in hint or []] or None}
    base = dict(vars(Wish.read(like))) if like else {}
    if words:
        base.pop("changes", None)  # they are of the other prompt's words
    values = base | {key: value for key, value in asked.items() if value is not None}
    remembered = base.get("sampler", {})
    if model and model != base.get("model"):
        remembered = options_it_has(model, remembered)
    values["sampler"] = remembered | _strengths(strength) | options.get("sampler", {})
    wish = Wish.of(_with_own_words(values))
    if any(map(is_instruction, wish.changes)):
        raise LimnerError(
            f"{like} was made by instructions; type limner edit {like} --instruct ..."
        )
    file = spare(file, [*map(Path, wish.hints)], separate)
    larger = Enlargement.of(upscale, upscaler, like)
    made_larger = larger.open(device)
    sheet, wish = paint_sheet(wish, device=device, forming=strip or gif)
    sheet = made_larger(sheet, wish)
    shown = {"separate": separate, "strip": strip, "gif": gif}
    print_paths(write(sheet, wish, file, enlarge=enlarge, told=larger.settings(), **shown))


def _with_own_words(values: dict[str, Any]) -> dict[str, Any]:
    """The same wish, but each picture has words of its own where its seed chooses some.

    Raises:
        LimnerError: of several prompts only some have words to be chosen.
    """
    from limner.contract.wildcards import choose_words, has_choices, word_lists

    lists = word_lists()
    prompts, n, seed = values.get("prompts") or [], values.get("n") or 1, values.get("seed") or 0
    choosing = [has_choices(prompt, lists) for prompt in prompts]
    if n == 1 or not any(choosing):
        return values
    if not all(choosing):
        raise LimnerError(
            "some prompts have words to be chosen, others none; paint them one by one"
        )
    chosen = [choose_words(prompt, seed + i, lists) for prompt in prompts for i in range(n)]
    return values | {"prompts": chosen, "n": 1}


def _strengths(given: list[float] | None) -> dict[str, Any]:
    """How strongly hints count, as options of a sampler."""
    if not given:
        return {}
    one = len(given) == 1
    return {"control_strength": given[0]} if one else {"control_weights": tuple(given)}
