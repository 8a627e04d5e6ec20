"""What the commands of the command line share: arguments by name, and `key=value` among words."""

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

Options = Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]")]
Run = Annotated[
    Path | None,
    typer.Option("--run", "-r", help="The folder that the run goes to; under torchrun write -r."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Against = Annotated[
    str | None, typer.Option(help="Real pictures: a source; unless given, what was trained on.")
]
Model = Annotated[
    str | None, typer.Option("-m", "--model", help="A run or model folder, or a model file.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]


def is_option(argument: str) -> bool:
    """Whether it is `key=value`."""
    return re.match(r"[a-z_]+(\.[A-Za-z0-9_]+)*=", argument) is not None


def apart(arguments: list[str] | None, *sections: str) -> tuple[list[str], dict[str, Any]]:
    """The words among arguments, and what `key=value ...` says of each section."""
    from limner.contract.options import parse_assignments

    words = [a for a in arguments or [] if not is_option(a)]
    return words, parse_assignments([a for a in arguments or [] if is_option(a)], sections)


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
