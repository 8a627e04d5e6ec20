"""Shared parts of the commands: named arguments, and the parsing of `key=value` among words."""

import json
import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, no_type_check

import typer

from limner.contract.errors import LimnerError

Options = Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]")]
Run = Annotated[
    Path | None,
    typer.Option("--run", "-r", help="Folder of the run; under torchrun write -r."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Against = Annotated[
    str | None, typer.Option(help="Source of the real pictures (the training data).")
]
Model = Annotated[
    str | None,
    typer.Option("-m", "--model", help="A bundled model, a run, a model folder or a model file."),
]
Prompt = Annotated[str | None, typer.Option(help="Prompt for the pictures.")]
Size = Annotated[
    str | None,
    typer.Option(help="HEIGHTxWIDTH, for models that can paint in other sizes than their own."),
]
Label = Annotated[str | None, typer.Option(help="Class of the pictures, by name or number.")]
Files = Annotated[list[Path] | None, typer.Argument(metavar="[IMAGE ...]", show_default=False)]
Workers = Annotated[
    int, typer.Option(min=1, help="Processes, or GPUs with --device cuda; more than one needs Ray.")
]
Ray = Annotated[str | None, typer.Option(help="Address of a Ray cluster; 'auto' for the nearest.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]


def png_file(out: Path) -> Path:
    """Return `out` if it names a PNG file.

    Raises:
        LimnerError: it has another suffix.
    """
    if out.suffix.lower() != ".png":
        raise LimnerError(f"'{out}' is not a PNG file; give NAME.png")
    return out


@no_type_check  # typer hands over the context's base class
def free_output_file(context: typer.Context, out: Path) -> Path:
    """Return the output file; if none was given and the default exists, a numbered one.

    A message says so once the command is done, but not after an error.
    """
    source = context.get_parameter_source("out")
    is_given = source is not None and source.name != "DEFAULT"
    flags = [name for name, value in context.params.items() if value is True]
    if is_given or not _existing_file(out, flags):
        return out
    free, message = _free_file(out, flags)
    context.with_resource(_message_at_the_end(message))
    return free


@contextmanager
def _message_at_the_end(message: str) -> Iterator[None]:
    yield
    typer.echo(message, err=True)


@no_type_check
def _free_png(context: typer.Context, out: Path) -> Path:
    return free_output_file(context, png_file(out))


def free_file(file: Path) -> Path:
    """Return the first of NAME-2.png, NAME-3.png, ... that is free, and report it.

    Args:
        file: PNG file that is not free.
    """
    free, message = _free_file(file)
    typer.echo(message, err=True)
    return free


def _free_file(file: Path, flags: Collection[str] = ()) -> tuple[Path, str]:
    """Return the first numbered file that is free with these flags, and a message."""
    number = 2
    while _existing_file(free := file.with_stem(f"{file.stem}-{number}"), flags):
        number += 1
    existing = _existing_file(file, flags) or file
    return free, f"{existing} exists already and is kept; the output file is {free}"


def _existing_file(file: Path, flags: Collection[str]) -> Path | None:
    """Return an existing file that a command with these flags would overwrite, if there is one."""
    files = [file, file.with_stem(f"{file.stem}-0")]
    if "strip" in flags:
        files.append(file.with_stem(f"{file.stem}-strip"))
    if "gif" in flags:
        files.append(file.with_suffix(".gif"))
    if "separate" in flags:
        number = re.compile(rf"{re.escape(file.stem)}-\d+")
        files += [other for other in file.parent.glob("*.png") if number.fullmatch(other.stem)]
    return next((each for each in files if each.exists()), None)


def output_file(out: Path, read: Sequence[Path], separate: bool = False) -> Path:
    """Return the file to write, or a numbered one if it is also an input file.

    Args:
        out: PNG file to write.
        read: input files.
        separate: whether NAME-0.png, ... are written in its place.
    """
    first = out.with_stem(f"{out.stem}-0") if separate else out
    is_input = first.exists() and any(file.exists() and first.samefile(file) for file in read)
    return free_file(out) if is_input else out


Out = Annotated[Path, typer.Option("-o", "--out", help="Output PNG file.", callback=_free_png)]


def is_option(argument: str) -> bool:
    """Whether an argument has the form `key=value`, and is not the name of a file."""
    if re.match(r"[a-z_]+(\.[A-Za-z0-9_]+)*=", argument) is None:
        return False
    return not os.path.exists(argument)  # noqa: PTH110  (False for a name that is too long)


def split_arguments(
    arguments: list[str] | None, *sections: str
) -> tuple[list[str], dict[str, Any]]:
    """Split arguments into words, and the options of each section from `key=value ...`."""
    from limner.contract.options import parse_assignments

    words = [a for a in arguments or [] if not is_option(a)]
    for word in words:
        if re.fullmatch(rf"({'|'.join(sections)})\.[a-z_.]+", word):
            raise LimnerError(f"{word} has no value; write {word}=VALUE")
    return words, parse_assignments([a for a in arguments or [] if is_option(a)], sections)


@contextmanager
def report_interruption() -> Iterator[None]:
    """Report after Ctrl-C how to continue, where finished blocks of pictures are kept."""
    from limner.runtime.progress import say

    try:
        yield
    except KeyboardInterrupt:
        say("stopped; finished work is kept: to continue, type the same command again")
        raise


def names(text: str | None) -> list[str] | None:
    """Split names such as `fid,kid`; None if there are none."""
    return text.replace(",", " ").split() if text else None


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def only_options(arguments: list[str] | None, *sections: str) -> dict[str, Any]:
    """Return the options of each section from `key=value ...`, where no words are allowed.

    Raises:
        LimnerError: an argument is not `key=value`.
    """
    words, options = split_arguments(arguments, *sections)
    if words:
        raise LimnerError(f"'{words[0]}' is not an option; give {sections[0]}.key=value")
    return options


def print_paths(paths: list[Path], remark: str = "") -> None:
    """Print the files that were written, one per line, each with a remark."""
    for path in paths:
        typer.echo(f"{path}  ({remark})" if remark else str(path))
