"""Write `docs/results.md`: the results of each recipe, from the headers of the recipes.

python docs/figures/results.py
"""

import re
import textwrap
from collections import defaultdict
from pathlib import Path

from limner.training.bundled_recipes import bundled_recipes
from limner.training.recipe import Recipe

PAGE = Path(__file__).parents[1] / "results.md"
TITLES = {
    "mnist": "Digits of 256 levels",
    "mnist, binary": "Digits of two levels",
    "stacked-mnist": "Three digits at a time",
    "emoji": "Emoji",
    "scenes": "Scenes",
    "instructions": "Instructions",
    "folder": "Making pictures larger",
    "unpaired": "Translation without pairs",
    "paired": "Translation from pairs",
}
HEAD = """# Results

The results of the recipes, by data set: the numbers, how many pictures they are measured on, and
what they cost. Each entry is taken from the header of its recipe (`docs/figures/results.py` writes
this page). The header has the commands that train the model and measure it. Published numbers for
the same data are given next to ours. A recipe "without a number yet" was built and its first steps
were run, or its numbers are in the card of a bundled model.

`limner train recipe:NAME --run RUN` repeats one. `limner recipes` lists them.
"""
GLANCE = """## At a glance

The first number of each entry below. The entries also say how many pictures were used, the
interval, and the extractor. Compare FD only within a data set. Bits/dim and nats are of
`-log p(x)`: lower is better.

Intervals for emoji that are older than 2026-11-30 treat pictures of one thing, such as a hand in
six skin tones, as independent. They are too narrow: those of `cut-3d-flat64` were too narrow by a
factor of 1.3 (PSNR) to 1.9 (R@1).
"""
NUMBERS = {
    "FD": r"(?:FD|Frechet distance) (\d[\d.]*\d)",
    "precision": r"precision (\d\.\d+)",
    "recall": r"recall (\d\.\d+)",
    "bits/dim": r"(\d[\d.]*)(?: (?:\+-|±) [\d.]+)? bits/dim",
    "nats": r"(\d[\d.]*) (?:\+-|±) [\d.]+ nats",
    "PSNR, dB": r"(\d[\d.]*) dB",
}
"""The pattern of a number in a header, by the heading of its column."""
_UNFINISHED = ("its first steps only", "not run to its end", "not yet trained", "built, not run")
_WIDTH = 108
_FIELD = re.compile(r"^([A-Z][a-z]+(?: [a-z]+)?): +", re.MULTILINE)


def fields(header: str) -> dict[str, str]:
    """Return the parts of a header: its title ("about"), and the text of "Seen:", "Beside:", ..."""
    first, *rest = _FIELD.split(header)
    parts = zip(["about", *rest[::2]], [first, *rest[1::2]], strict=True)
    return {name: " ".join(text.split()) for name, text in parts}


def data_set(recipe: Recipe) -> str:
    """Return the title of the section of a recipe."""
    source = str(recipe.data["source"]).partition(":")[0]
    return TITLES[f"{source}, binary" if recipe.data.get("binarise") else source]


def entry(name: str, recipe: Recipe, parts: dict[str, str]) -> str:
    """Return the entry of one recipe, with its results."""
    text = f"**`{name}`** ({recipe.model['name']}): {parts['Seen'].rstrip('.')}."
    if beside := parts.get("Beside"):
        text += f" *Beside: {beside.rstrip('.')}.*"
    return _wrap(text, "* ")


def glance(results: dict[str, dict[str, str]]) -> str:
    """Return the table of the first numbers; the results are given by title and recipe name."""
    lines = [f"| data | recipe | {' | '.join(NUMBERS)} |", "|---" * (len(NUMBERS) + 2) + "|"]
    for title, recipes in results.items():
        for name, text in recipes.items():
            matches = [re.search(pattern, text) for pattern in NUMBERS.values()]
            if any(matches):
                cells = " | ".join(number[1] if number else "" for number in matches)
                lines.append(f"| {title} | `{name}` | {cells} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the text of the page."""
    results: dict[str, dict[str, str]] = {title: {} for title in TITLES.values()}
    entries: defaultdict[str, list[str]] = defaultdict(list)
    names_without: defaultdict[str, list[str]] = defaultdict(list)
    for name, file in bundled_recipes().items():
        recipe = Recipe.read(file)
        header = fields(recipe.about)
        if "Seen" in header and not header["Seen"].startswith("its first steps only"):
            entries[data_set(recipe)].append(entry(name, recipe, header))
            if not header["Seen"].startswith(_UNFINISHED):
                results[data_set(recipe)][name] = header["Seen"]
        else:
            names_without[data_set(recipe)].append(f"`{name}`")
    sections = [HEAD, GLANCE, glance(results)]
    for title in TITLES.values():
        sections.append(f"## {title}\n")
        if entries[title]:
            sections.append("\n".join(entries[title]) + "\n")
        if names_without[title]:
            sections.append(
                _wrap(f"Without a number yet: {', '.join(names_without[title])}.", "") + "\n"
            )
    return "\n".join(sections)


def _wrap(text: str, bullet: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        break_long_words=False,
        break_on_hyphens=False,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
    )


if __name__ == "__main__":
    PAGE.write_text(page())
