"""What the commands of the command line share: arguments by name, and `key=value` among words."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
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
    str | None, typer.Option(help="Real pictures: a source; unless given, what was trained on.")
]
Model = Annotated[
    str | None, typer.Option("-m", "--model", help="A run or model folder, or a model file.")
]
Prompt = Annotated[str | None, typer.Option(help="What the pictures are of.")]
Size = Annotated[
    str | None,
    typer.Option(help="HEIGHTxWIDTH, of models that paint in other sizes than their own."),
]
Label = Annotated[str | None, typer.Option(help="Their class, by name or number.")]
Files = Annotated[list[Path] | None, typer.Argument(metavar="[IMAGE ...]", show_default=False)]
Workers = Annotated[
    int, typer.Option(min=1, help="Processes, or GPUs with --device cuda; by Ray if several.")
]
Ray = Annotated[
    str | None, typer.Option(help="The address of a Ray cluster; 'auto' for the nearest.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]


def png_file(out: Path) -> Path:
    """The name of a PNG file.

    Raises:
        LimnerError: it is another's.
    """
    if out.suffix.lower() != ".png":
        raise LimnerError(f"'{out}' is not a PNG file; give NAME.png")
    return out


@no_type_check  # typer hands over the context's base class
def numbered(context: typer.Context, out: Path) -> Path:
    """Where to write; if nobody said that, and there is a file of the usual name, the next."""
    source = context.get_parameter_source("out")
    named = source is not None and source.name != "DEFAULT"
    return out if named or not _taken(out) else free_file(out)


@no_type_check
def _numbered_png(context: typer.Context, out: Path) -> Path:
    return numbered(context, png_file(out))


def free_file(file: Path) -> Path:
    """NAME-2.png, NAME-3.png, ...: the first that is not there, which is said."""
    number = 2
    while _taken(free := file.with_stem(f"{file.stem}-{number}")):
        number += 1
    typer.echo(f"{file} is there already; it stays, and {free} will be written", err=True)
    return free


def _taken(file: Path) -> bool:
    """Whether there is a file, or the first of several, NAME-0.png."""
    return file.exists() or file.with_stem(f"{file.stem}-0").exists()


def spare(out: Path, read: Sequence[Path], separate: bool = False) -> Path:
    """The file to write, or a next one if it is among those that are read.

    Args:
        out: a PNG file.
        read: files that are read.
        separate: whether NAME-0.png, ... are written in its place.
    """
    first = out.with_stem(f"{out.stem}-0") if separate else out
    same = first.exists() and any(each.exists() and first.samefile(each) for each in read)
    return free_file(out) if same else out


Out = Annotated[Path, typer.Option("-o", "--out", help="The PNG file.", callback=_numbered_png)]


def is_option(argument: str) -> bool:
    """Whether it is `key=value`."""
    return re.match(r"[a-z_]+(\.[A-Za-z0-9_]+)*=", argument) is not None


def apart(arguments: list[str] | None, *sections: str) -> tuple[list[str], dict[str, Any]]:
    """The words among arguments, and what `key=value ...` says of each section."""
    from limner.contract.options import parse_assignments

    words = [a for a in arguments or [] if not is_option(a)]
    for word in words:
        if re.fullmatch(rf"({'|'.join(sections)})\.[a-z_.]+", word):
            raise LimnerError(f"{word} has no value; write {word}=VALUE")
    return words, parse_assignments([a for a in arguments or [] if is_option(a)], sections)


@contextmanager
def continued() -> Iterator[None]:
    """Say after Ctrl-C how to go on with what keeps its blocks of pictures."""
    from limner.runtime.progress import say

    try:
        yield
    except KeyboardInterrupt:
        say("stopped; what is done is kept: to go on, type the same command again")
        raise


def names(text: str | None) -> list[str] | None:
    """The names in `fid,kid`; None where none are given."""
    return text.replace(",", " ").split() if text else None


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def only_options(arguments: list[str] | None, *sections: str) -> dict[str, Any]:
    """What `key=value ...` says of each section, where no other words may stand.

    Raises:
        LimnerError: there is another word.
    """
    words, options = apart(arguments, *sections)
    if words:
        raise LimnerError(f"'{words[0]}' is not an option; give {sections[0]}.key=value")
    return options


def print_paths(paths: list[Path], remark: str = "") -> None:
    """The files that were written, a line each, with a remark beside."""
    for path in paths:
        typer.echo(f"{path}  ({remark})" if remark else str(path))
