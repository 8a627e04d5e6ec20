"""The arguments that commands share: the file that they write."""

from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from limner.commands.app import app
from limner.commands.arguments import Out, output_file, split_arguments
from limner.contract.errors import LimnerError


@pytest.fixture(autouse=True)
def work_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written_file(*arguments: str) -> tuple[str, str]:
    """Return the file that a command with these arguments writes, and its message."""
    app = typer.Typer()

    @app.command()
    def paint(
        out: Out = Path("sample.png"),
        separate: Annotated[bool, typer.Option("--separate")] = False,
        strip: Annotated[bool, typer.Option("--strip")] = False,
        gif: Annotated[bool, typer.Option("--gif")] = False,
    ) -> None:
        typer.echo(str(out))

    run = CliRunner().invoke(app, arguments, catch_exceptions=False)
    return run.stdout.strip(), run.stderr.strip()


def test_a_default_file_name_is_numbered_and_a_message_says_so():
    assert written_file() == ("sample.png", "")
    Path("sample.png").touch()
    Path("sample-2.png").touch()
    message = "sample.png exists already and is kept; the output file is sample-3.png"
    assert written_file() == ("sample-3.png", message)
    assert written_file("-o", "sample.png") == ("sample.png", ""), "named explicitly"


def test_a_command_that_fails_does_not_announce_a_file(capsys: pytest.CaptureFixture[str]):
    Path("sample.png").touch()
    with pytest.raises(LimnerError, match="unknown sampler option 'stepss'"):
        app(["sample", "-m", "gan", "sampler.stepss=3"], standalone_mode=False)
    with pytest.raises(LimnerError, match="unknown sampler option 'stepss'"):
        app(
            ["sample", "-m", "gan", "sampler.stepss=3", "--hint", "sample.png", "-o", "sample.png"],
            standalone_mode=False,
        )
    assert capsys.readouterr() == ("", "")


def test_separate_files_are_not_overwritten():
    Path("sample-0.png").touch()
    assert written_file()[0] == "sample-2.png"


def test_no_file_of_a_sheet_is_overwritten():
    for flag, name in (
        ("--gif", "sample.gif"),
        ("--strip", "sample-strip.png"),
        ("--separate", "sample-5.png"),
    ):
        Path(name).touch()
        message = f"{name} exists already and is kept; the output file is sample-2.png"
        assert written_file(flag) == ("sample-2.png", message)
        assert written_file() == ("sample.png", ""), "it is not written without the flag"
        assert written_file("-o", "sample.png", flag) == ("sample.png", "")
        Path(name).unlink()


def test_a_file_that_is_read_is_not_overwritten(capsys: pytest.CaptureFixture[str]):
    file, other = Path("mine.png"), Path("other.png")
    file.touch(), other.touch()
    assert output_file(file, [other]) == file and output_file(file, []) == file
    assert output_file(Path("./mine.png"), [other, file]) == Path("mine-2.png")
    assert "mine.png exists already" in capsys.readouterr().err
    Path("mine-0.png").touch()
    assert output_file(file, [Path("mine-0.png")], separate=True) == Path("mine-2.png")
    assert output_file(file, [Path("mine-0.png")]) == file


def test_a_file_with_an_equals_sign_in_its_name_is_no_option():
    Path("a=b.png").touch()
    arguments = ["a=b.png", "sampler.steps=2"]
    assert split_arguments(arguments, "sampler") == (["a=b.png"], {"sampler": {"steps": 2}})
