"""`limner sample-set`: paint a data set, with one or more workers."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from limner.commands.arguments import Device, Model, Ray, Workers, only_options
from limner.contract.errors import LimnerError


def sample_set_command(
    out: Annotated[Path, typer.Argument(help="New folder, or a set to continue.")],
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Total number of pictures.")],
    options: Annotated[list[str] | None, typer.Argument(metavar="[sampler.key=value ...]")] = None,
    model: Model = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Text file with one prompt per line, used in turn.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="A class; repeat for several; 'all'.")
    ] = None,
    negative: Annotated[str | None, typer.Option(help="Negative prompt.")] = None,
    seed: Annotated[int, typer.Option(help="Picture i is drawn from seed + i.")] = 0,
    form: Annotated[
        Literal["tar", "folder"],
        typer.Option("--format", help="WebDataset shards, or a folder with metadata.jsonl."),
    ] = "tar",
    shard: Annotated[int, typer.Option(min=1, help="Pictures per shard.")] = 1000,
    workers: Workers = 1,
    ray: Ray = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    device: Device = "auto",
) -> None:
    """Paint a data set: any number of pictures, in shards, with one or more workers."""
    from limner.commands.picture_set import (
        SetFolder,
        SetPlan,
        checked_request,
        paint_shards,
        paint_shards_by_ray,
    )
    from limner.commands.request import SamplingRequest
    from limner.commands.suited_model import example_prompts, with_suited_model
    from limner.runtime.progress import painting_progress, say

    sampler = only_options(options, "sampler")
    settings = {"labels": label, "negative": negative, "model": model, "seed": seed, "dtype": dtype}
    settings |= sampler
    request = SamplingRequest.of(
        {key: value for key, value in settings.items() if value is not None}
    )
    texts = _lines(prompts)
    request = checked_request(with_suited_model(request, example_prompts(texts, seed)))
    plan = SetPlan(request, texts, count, shard, form)
    folder = SetFolder(out, plan)
    missing = folder.missing_shards()
    finished = len(plan.shards()) - len(missing)
    if finished:
        say(f"{finished} of {len(plan.shards())} shards are finished")
    try:
        with painting_progress(sum(len(plan.numbers(i)) for i in missing)) as advance:
            if workers > 1 or ray:
                results = paint_shards_by_ray(plan, missing, workers, ray, device)
            else:
                results = paint_shards(plan, missing, device)
            for number, paintings in results:
                folder.keep(number, paintings)
                advance(len(paintings))
    except KeyboardInterrupt:
        say("stopped; finished shards are kept: to continue, type the same command again")
        raise
    folder.finish()
    typer.echo(str(out))


def _lines(file: Path | None) -> tuple[str, ...]:
    """Read the prompts in a text file."""
    if file is None:
        return ()
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LimnerError(f"cannot read the prompts in {file}: {error}") from None
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise LimnerError(f"{file} contains no prompts; write one per line")
    return prompts
