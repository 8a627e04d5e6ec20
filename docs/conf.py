"""Sphinx's configuration; the table of models is made from the registry."""

from pathlib import Path

import limner
from limner.contract.registry import models

project = "limner"
author = "The limner authors"
project_copyright = "2026, the limner authors"
version = release = limner.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 2
myst_enable_extensions = ["deflist"]
html_theme = "furo"
html_title = "limner"
exclude_patterns = ["_build", "generated"]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_use_ivar = True
html_show_sphinx = False


def _papers() -> str:
    """A row for each registered model."""
    rows = ["| model | family | what it is | paper |", "|---|---|---|---|"]
    for name, entry in models().items():
        rows.append(f"| `{name}` | {entry.family} | {entry.summary} | {entry.paper} |")
    return "\n".join(rows) + "\n"


_generated = Path(__file__).parent / "generated"
_generated.mkdir(exist_ok=True)
(_generated / "papers.md").write_text(_papers(), encoding="utf-8")


def _as_written(app, what, name, obj, options, lines):
    """Show a module's docstring as it stands in the file, formulas and all."""
    if what == "module":
        lines[:] = ["::", "", *(f"    {line}" for line in lines), ""]


def setup(app):
    """Connect the hook."""
    app.connect("autodoc-process-docstring", _as_written, priority=900)
