import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import toys
from own_package import install_package

from limner.__main__ import main
from limner.contract.errors import LimnerError
from limner.contract.package_errors import (
    changed_package_hint,
    describe,
    package_traceback,
    place_of_error,
)
from limner.contract.registry import entry
from limner.data import sources

SOURCE = """
from dataclasses import dataclass
from typing import Literal

from limner.data import source
from limner.data.pictures import Source


@source("{name}")
@dataclass(frozen=True, kw_only=True)
class Own(Source):
    split: Literal["train", "test", "all"] = "train"

    def listing(self, report):
        raise {error}
"""


def error_of(function: Callable[[], object]) -> Exception:
    """Return the error that a function raises."""
    with pytest.raises(Exception) as raised:
        function()
    assert isinstance(raised.value, Exception)
    return raised.value


def run_own_source(
    error: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[int, list[str]]:
    """Check a source of an installed package that raises an error; return the exit code, and the
    lines on standard error."""
    name = f"own-{error.partition('(')[0].lower()}"
    text = SOURCE.format(name=name, error=error)
    install_package(f"own_source_{name[4:]}", text, folder, monkeypatch, sources)
    monkeypatch.setattr(sys, "argv", ["limner", "data", "check", name])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code, capfd.readouterr().err.splitlines()


def test_an_error_in_an_own_source_is_shown_with_the_lines_of_its_own_file(
    tmp_path, monkeypatch, capfd
):
    code, lines = run_own_source("ValueError('it broke')", tmp_path, monkeypatch, capfd)
    file = tmp_path / "own_source_valueerror.py"
    assert code == 1
    assert [line for line in lines if "File " in line] == [f'  File "{file}", line 15, in listing']
    assert lines[-1] == (
        f"limner: {file}, line 15: ValueError: it broke; correct the package 'their-package'"
    )


def test_a_missing_file_of_an_own_source_is_shown_the_same_way(tmp_path, monkeypatch, capfd):
    code, lines = run_own_source("FileNotFoundError('x')", tmp_path, monkeypatch, capfd)
    assert code == 1 and lines[0].startswith("Traceback")
    assert "line 15: FileNotFoundError: x; correct the package" in lines[-1]


def test_a_package_that_ends_the_program_is_named(tmp_path, monkeypatch, capfd):
    code, lines = run_own_source("SystemExit()", tmp_path, monkeypatch, capfd)
    assert code == 1 and lines[0].startswith("Traceback")
    assert "line 15: SystemExit: no message; correct the package" in lines[-1]


def test_an_error_outside_of_packages_has_no_place():
    assert place_of_error(error_of(lambda: {}["x"])) == ""


def test_a_package_is_not_at_fault_if_memory_runs_out(tmp_path, monkeypatch):
    text = "def act():\n    raise MemoryError('too large')\n"
    install_package("own_large", text, tmp_path, monkeypatch, sources)
    error = error_of(importlib.import_module("own_large").act)
    assert place_of_error(error) == "" and describe(error) == "MemoryError: too large"


def test_errors_are_described_in_one_line():
    assert describe(LimnerError("it broke")) == "it broke"
    assert describe(KeyError("x\ny")) == "KeyError: 'x\\ny'"
    assert (
        describe(ValueError("a\nb")) == "ValueError: a" and describe(ValueError()) == "ValueError"
    )


def test_only_the_code_of_a_package_may_have_another_version_than_limner():
    assert changed_package_hint(entry("vae").model) == ""
    assert "install the version that wrote the file" in changed_package_hint(toys.TwoStep)


def test_a_traceback_keeps_the_own_lines_and_the_last(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "import json\n\ndef call(other):\n    other()\n\ndef act():\n    json.loads('')\n"
    )
    code: dict[str, Callable[..., object]] = {}
    exec(compile(file.read_text(), str(file), "exec"), code)
    error = error_of(lambda: code["call"](lambda: code["act"]()))
    shown = [
        line for line in package_traceback(error, {file: "own"}).splitlines() if "File" in line
    ]
    assert [line.rpartition(" ")[2] for line in shown] == ["call", "act", "raw_decode"]


def test_a_traceback_shortens_the_cause_too(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "def act(other):\n    try:\n        other()\n    except KeyError as error:\n"
        "        raise ValueError('b') from error\n"
    )
    code: dict[str, Callable[..., object]] = {}
    exec(compile(file.read_text(), str(file), "exec"), code)
    error = error_of(lambda: code["act"](lambda: {}["a"]))
    shown = package_traceback(error, {file: "own"})
    assert "KeyError: 'a'" in shown and "ValueError: b" in shown
    assert shown.count(f'File "{file}"') == 2 and ", in error_of" not in shown
