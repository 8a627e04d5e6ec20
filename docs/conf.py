"""Configure Sphinx; make the tables of models and metrics and the lists of files from the code."""

import ast
from pathlib import Path

import limner
from limner.contract.registry import models
from limner.evaluate.metric import NEEDS, metrics

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
_extra = Path(__file__).parent / "extra"
if (_extra / "try" / "index.html").exists():  # `limner export emoji-fast docs/extra/try ...`
    html_extra_path = [_extra.name]
    tags.add("try")


def _papers() -> str:
    """Return the table of the registered models."""
    rows = ["| model | family | what it is | paper |", "|---|---|---|---|"]
    for name, entry in models().items():
        rows.append(f"| `{name}` | {entry.family} | {entry.summary} | {entry.paper} |")
    return "\n".join(rows) + "\n"


def _metrics() -> str:
    """Return the table of the registered metrics."""
    rows = [
        "| name | what it says | needs | min n | better | paper |",
        "|---|---|---|---|---|---|",
    ]
    for name, metric in metrics().items():
        needs = ", ".join(NEEDS[what] for what in metric.reads)
        cells = (
            f"`{name}`",
            metric.summary,
            needs,
            metric.min_pictures,
            metric.better,
            metric.paper,
        )
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows) + "\n"


def _first_paragraph(file: Path) -> str:
    """Return the first paragraph of a module's docstring."""
    return " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0].split())


def _package_files(folder: Path) -> str:
    """Return the list of a package's files, in the order of their names."""
    files = sorted(p for p in folder.rglob("*.py") if p.name != "__init__.py")
    names = [".".join(p.relative_to(folder).with_suffix("").parts) for p in files]
    entries = zip(names, files, strict=True)
    return "\n".join(f"* `{name}`: {_first_paragraph(p)}" for name, p in entries) + "\n"


_generated = Path(__file__).parent / "generated"
(_generated / "rooms").mkdir(parents=True, exist_ok=True)
for _folder in Path(limner.__file__).parent.glob("*/"):
    (_generated / "rooms" / f"{_folder.name}.md").write_text(
        _package_files(_folder), encoding="utf-8"
    )
(_generated / "papers.md").write_text(_papers(), encoding="utf-8")
(_generated / "metrics.md").write_text(_metrics(), encoding="utf-8")


def _keep_docstring(app, what, name, obj, options, lines):
    """Show a module's docstring unchanged, including its formulas."""
    if what == "module":
        lines[:] = ["::", "", *(f"    {line}" for line in lines), ""]


def setup(app):
    """Register the hook for docstrings."""
    app.connect("autodoc-process-docstring", _keep_docstring, priority=900)
