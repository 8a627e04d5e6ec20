"""What benchmarks share: contestants take turns, and one that fails ends the benchmark."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
BROKEN = """
from timing import run_in_process, time_in_processes

if __name__ == "__main__":
    try:
        time_in_processes({"fails": int}, ["no number"], 1, 0.0)
    except SystemExit as error:
        print(error)
    run_in_process(int, "no number")()
"""
HELP = """
import runpy, sys

for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert not end.code, script
"""


def test_contestants_take_turns_of_about_the_same_seconds():
    timing = runpy.run_path(str(BENCHMARKS / "timing.py"))
    now, calls = 0.0, ""

    def contestant(name: str, seconds: float):
        def call() -> None:
            nonlocal now, calls
            now, calls = now + seconds, calls + name

        return call

    contestants = {"a": contestant("a", 1.0), "b": contestant("b", 4.0)}
    times = timing["time_interleaved"](contestants, 3, 4.0, lambda: now)
    assert calls == "aa" + "bb" + 3 * "aaaab"
    assert times == {"a": [1.0] * 3, "b": [4.0] * 3}


def test_a_ratio_has_the_median_and_the_ends_of_the_rounds():
    timing = runpy.run_path(str(BENCHMARKS / "timing.py"))
    assert timing["ratio"]([2.0, 9.0, 5.0], [2.0, 3.0, 2.5]) == "2.00 (1.00-3.00)"
    with pytest.raises(ValueError, match="zip"):
        timing["ratio"]([2.0, 9.0], [2.0])


def test_a_mean_has_an_error_only_if_there_are_several_values(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    mean_text = runpy.run_path(str(BENCHMARKS / "variety.py"))["mean_text"]
    assert mean_text([0.9]) == "0.90"
    assert mean_text([1.0, 2.0, 3.0, 2.0]) == "2.00 +- 0.41"


def test_a_contestant_that_fails_ends_the_benchmark(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(BROKEN)
    path = os.pathsep.join([str(BENCHMARKS), os.environ["PYTHONPATH"]])
    result = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": path},
    )
    message = "a contestant has failed; its own error is printed above\n"
    assert (result.returncode, result.stdout) == (1, message)
    assert result.stderr.endswith(message) and result.stderr.count("'no number'") >= 2


def test_every_benchmark_explains_itself():
    files = sorted(BENCHMARKS.glob("*.py"))
    scripts = [str(file) for file in files if "__main__" in file.read_text()]
    path = os.pathsep.join([str(BENCHMARKS), os.environ["PYTHONPATH"]])
    result = subprocess.run(
        [sys.executable, "-c", HELP, *scripts],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("usage: ") == len(scripts)


def test_a_model_that_does_not_exist_is_refused_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
):
    timing = runpy.run_path(str(BENCHMARKS / "timing.py"))
    parser = timing["options_parser"]("A benchmark.")
    parser.add_argument("model", type=timing["model_name"])
    assert parser.parse_args(["gan"]).model == "gan"
    with pytest.raises(SystemExit):
        parser.parse_args(["nowhere"])
    assert "there is no run, model folder or model file 'nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "values", "wrong"),
    [
        ("count", {"1": 1, "12": 12}, ["0", "-1", "1.5", "two", ""]),
        ("positive", {"0.5": 0.5, "3": 3.0}, ["0", "-1", "inf", "nan", "long"]),
    ],
)
def test_numbers_that_no_benchmark_can_run_with_are_refused(kind, values, wrong, capsys):
    timing = runpy.run_path(str(BENCHMARKS / "timing.py"))
    parser = timing["options_parser"]("Times something.")
    parser.add_argument("--rounds", type=timing[kind])
    for text, value in values.items():
        assert parser.parse_args(["--rounds", text]).rounds == value
    for text in wrong:
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args([f"--rounds={text}"])
        assert f"argument --rounds: '{text}' is not a" in capsys.readouterr().err
