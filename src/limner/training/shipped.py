"""The recipes that come with limner, by name: `recipe:ddpm-mnist`."""

import re
from importlib.resources import files
from pathlib import Path

from limner.contract.errors import unknown

PREFIX = "recipe:"
SECTIONS = ("model", "data", "train", "sampler", "evaluate")
"""Of a recipe."""


def shipped() -> dict[str, Path]:
    """The files of the recipes that come with limner, by name: of the package, or of a clone."""
    package = Path(str(files("limner")))
    folders = (package / "recipes", package.parents[1] / "recipes")
    folder = next((each for each in folders if each.is_dir()), folders[0])
    return {path.stem: path for path in sorted(folder.glob("*/*.toml"))}


def header_comment(text: str) -> str:
    """The comment at the top of a TOML file, without its marks."""
    header = re.match(r"(?:#.*\n)*", text)
    return re.sub(r"^# ?", "", header[0], flags=re.MULTILINE).strip() if header else ""


def recipe_file(typed: str) -> Path | None:
    """The file of a recipe as it is typed, FILE.toml or recipe:NAME; None for anything else.

    Raises:
        LimnerError: no shipped recipe is called so.
    """
    if not typed.startswith(PREFIX):
        return Path(typed) if typed.endswith(".toml") else None
    found, name = shipped(), typed.removeprefix(PREFIX)
    if name not in found:
        raise unknown("recipe", name, found, "limner recipes lists all")
    return found[name]
