"""The README and the documentation: Python runs, commands parse, links have a target."""

import ast
import importlib
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from limner.__main__ import main
from limner.commands.app import app
from limner.contract.model import GenerativeModel
from limner.contract.registry import models
from limner.data import source_kinds
from limner.data.sources import PAIRS
from limner.evaluate.extractors.choose import openers
from limner.maths.samplers.sampler import SAMPLERS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
REQUIRED = ("pip install -e . && limner demo", "pip install -e '.[test]' && pytest")


class Block(NamedTuple):
    """A fenced block: its first line, language and text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").splitlines() if page.exists() else []
    start, language = None, ""
    for number, line in enumerate(lines, 1):
        fence = re.match(r"\s*```\s*(\w*)", line)
        if fence and start is None:
            start, language = number, fence[1]
        elif fence and start is not None:
            yield Block(page, start, language, "\n".join(lines[start : number - 1]))
            start = None
    assert start is None, f"{page.name}:{start}: unclosed block"


def commands(block: Block) -> list[str]:
    """Return the commands of a shell block without comments, joined lines, chains split."""
    result = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        chain: list[str] = []
        for word in [*words, "&&"]:
            if word in ("&&", ";", "|"):
                result += [shlex.join(chain)] if chain else []
                chain = []
            else:
                chain.append(word)
    return result


SHELL = [block for page in PAGES for block in blocks(page) if block.language in ("sh", "bash")]
COMMANDS = [(str(block), command) for block in SHELL for command in commands(block)]
LIMNER = [(where, command) for where, command in COMMANDS if command.startswith("limner ")]


def check_parses(command: str) -> None:
    """Parse a limner command line with the real parser, without running it."""
    group: Any = typer.main.get_command(app)
    words = shlex.split(command)[1:]
    context = group.make_context("limner", list(words), resilient_parsing=False)
    rest = [*getattr(context, "_protected_args", []), *context.args]
    while rest:
        name, inner, rest = group.resolve_command(context, rest)
        context = inner.make_context(name, rest, parent=context)
        if not hasattr(inner, "resolve_command"):
            return
        group, rest = inner, [*getattr(context, "_protected_args", []), *context.args]


@pytest.mark.parametrize("command", REQUIRED)
def test_the_readme_has_each_required_command_on_its_own_line(command: str):
    lines = [line for block in blocks(README) for line in block.text.splitlines()]
    assert command in lines


@pytest.mark.parametrize("block", [b for b in blocks(README) if b.language == "python"], ids=str)
def test_python_in_the_readme_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    code = compile("\n" * block.line + block.text, str(README), "exec")
    exec(code, {"__name__": "__main__"})


SNIPPETS = [b for page in PAGES for b in blocks(page) if b.language == "python"]


@pytest.mark.parametrize("block", SNIPPETS, ids=str)
def test_imports_in_the_documents_work(block: Block):
    tree = ast.parse(block.text)
    imports = [s for s in tree.body if isinstance(s, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), str(block.page), "exec"), {})


@pytest.mark.parametrize(("where", "command"), LIMNER)
def test_a_command_line_in_the_documents_parses(
    where: str, command: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LIMNER_DB", "postgresql://db/limner")  # which deploy.md exports
    try:
        check_parses(command)
    except Exception as error:
        reason = getattr(error, "message", None) or str(error)
        pytest.fail(f"{where}: {command}: {reason}")


@pytest.mark.parametrize("wrong", ["limner pait", "limner train --nonsense", "limner data chek x"])
def test_a_wrong_command_line_does_not_parse(wrong: str):
    with pytest.raises(Exception, match=r"(?i)no such|got unexpected|missing"):
        check_parses(wrong)


TRAINED = sorted({c for _, c in LIMNER if c.startswith("limner train ") and "..." not in c})


@pytest.mark.parametrize("command", TRAINED)
def test_training_commands_in_the_documents_are_valid(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """Options and data exist; a dry run that the documents show is made."""
    words = shlex.split(command)
    if any(
        re.match(r"(folder|zip|unpaired):", word) or word in ("mnist", "cifar10") for word in words
    ):
        check_parses(command)  # the reader's own pictures, or a download
        return
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    target = "limner.training.budget.fit_steps"
    monkeypatch.setattr(target, lambda recipe, seconds, device: recipe)  # it would measure speed
    if "--dry-run" not in words:
        importlib.import_module("limner.training.memory")  # it must have the real `dry_run`
        monkeypatch.setattr("limner.training.estimate.dry_run", lambda recipe, device: "possible")
        words.append("--dry-run")
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code, capsys.readouterr().err


def test_extras_and_scripts_named_in_the_documents_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].keys()
    for where, command in COMMANDS:
        for extra in re.findall(r"\.\[([\w,]+)\]", command):
            assert set(extra.split(",")) <= extras, f"{where}: {command}"
        script = re.match(r"python3? ([\w/]+\.py)", command)
        assert not script or (ROOT / script[1]).exists(), f"{where}: {command}"


def anchors(page: Path) -> set[str]:
    """The names by which links reach the headings of a page; the documentation has two levels."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#{1,2} (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [p for p in PAGES if p.exists()], ids=lambda page: page.name)
def test_links_have_a_target(page: Path):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"(https?:|mailto:)", link):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_a_heading_is_an_anchor():
    assert {"see-it-work", "the-same-words-for-every-model"} < anchors(README)
    assert "see-it" not in anchors(README)


def own(registered: Mapping[str, Any]) -> set[str]:
    """Return the names of what limner itself registers; other tests register more."""
    functions = {name: getattr(each, "func", each) for name, each in registered.items()}
    return {name for name, each in functions.items() if each.__module__.startswith("limner.")}


def test_lists_of_what_limner_has_are_complete():
    generators = {
        name: entry.model
        for name, entry in models().items()
        if issubclass(entry.model, GenerativeModel) and not entry.file
    }
    sources = {*own(source_kinds()), *PAIRS, "mixed"}
    lists = {
        README: own(generators) | sources | own(SAMPLERS.classes),
        ROOT / "docs" / "data.md": sources,
        ROOT / "docs" / "sampling.md": own(SAMPLERS.classes),
        ROOT / "docs" / "judging.md": own(openers()),
    }
    assert all(lists.values())
    for page, names in lists.items():
        text = page.read_text(encoding="utf-8")
        missing = [n for n in sorted(names) if not re.search(rf"`{re.escape(n)}[`:]", text)]
        assert not missing, page.name


SCRIPTS = [f for of in ("benchmarks", "docs/figures", "tools") for f in (ROOT / of).glob("*.py")]


@pytest.mark.parametrize("script", sorted(SCRIPTS), ids=lambda script: script.name)
def test_a_script_has_the_options_that_its_docstring_types(script: Path):
    text = script.read_text(encoding="utf-8")
    options = set(re.findall(r"[\"'](--?[\w-]+)[\"']", text))
    docstring = ast.get_docstring(ast.parse(text)) or ""
    lines = re.findall(rf"^ +python .*{script.name}(.*)$", docstring, flags=re.MULTILINE)
    assert set(re.findall(r" (--?[a-z][\w-]*)", " ".join(lines))) <= options


@pytest.mark.parametrize("script", sorted(SCRIPTS), ids=lambda script: script.name)
def test_what_a_script_imports_from_limner_exists(script: Path):
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "limner":
            exec(ast.unparse(node), {})


def test_every_benchmark_is_in_the_table():
    table = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    files = [f for f in (ROOT / "benchmarks").glob("*.py") if "__main__" in f.read_text()]
    assert not [f.name for f in files if f"`python benchmarks/{f.name}" not in table]
