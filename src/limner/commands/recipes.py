"""`limner recipes`: list the recipes that come with limner."""

import re
import tomllib
from typing import Any

import typer

from limner.commands.arguments import AsJson, print_json


def _first_sentence(about: str) -> str:
    text = " ".join(about.split("\nCommand:")[0].split())
    return re.split(r"(?<!\.)[.;] ", text)[0].rstrip(".")  # not at the end of "..."


def recipes_command(as_json: AsJson = False) -> None:
    """List the recipes that come with limner: what each trains, and on what."""
    from limner.contract.names import SECTIONS
    from limner.evaluate.tables import align_columns
    from limner.training.bundled_recipes import PREFIX, bundled_recipes, header_comment

    texts = {name: path.read_text(encoding="utf-8") for name, path in bundled_recipes().items()}
    empty: dict[str, Any] = {section: {} for section in SECTIONS}
    recipes: dict[str, dict[str, Any]] = {
        name: {"about": header_comment(text)} | empty | tomllib.loads(text)
        for name, text in texts.items()
    }
    if as_json:
        print_json(recipes)
        return
    rows = [
        (name, recipe["model"]["name"], recipe["data"]["source"], _first_sentence(recipe["about"]))
        for name, recipe in recipes.items()
    ]
    typer.echo("\n".join(align_columns(rows)))
    typer.echo(f"\ntrain one: limner train {PREFIX}{rows[0][0]}")
