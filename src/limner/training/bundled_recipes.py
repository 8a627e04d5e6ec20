"""Recipes that come with limner, given by name: `recipe:ddpm-mnist`."""

import re
from importlib.resources import files
from pathlib import Path

from limner.contract.errors import unknown

PREFIX = "recipe:"


def bundled_recipes() -> dict[str, Path]:
    """Return the files of limner's recipes by name, from the package or from a clone."""
    package = Path(str(files("limner")))
    folders = (package / "recipes", package.parents[1] / "recipes")
    folder = next((candidate for candidate in folders if candidate.is_dir()), folders[0])
    return {path.stem: path for path in sorted(folder.glob("*/*.toml"))}


def header_comment(text: str) -> str:
    """Return the comment at the top of a TOML file, without the comment marks."""
    header = re.match(r"(?:#.*\n)*", text)
    return re.sub(r"^# ?", "", header[0], flags=re.MULTILINE).strip() if header else ""


def recipe_file(typed: str) -> Path | None:
    """Return the file of a typed recipe, FILE.toml or recipe:NAME; None for anything else.

    Raises:
        LimnerError: no bundled recipe has this name.
    """
    if not typed.startswith(PREFIX):
        return Path(typed) if typed.endswith(".toml") else None
    recipes, name = bundled_recipes(), typed.removeprefix(PREFIX)
    if name not in recipes:
        raise unknown("recipe", name, recipes, "limner recipes lists all")
    return recipes[name]
