"""The Containerfiles: every path, extra, command and option that they name exists."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import torch.distributed.run

from limner.commands.app import VERBS, _command
from limner.studio.settings import PORT

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "containers").glob("*.Containerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
KNOWN = ("FROM", "COPY", "RUN", "USER", "WORKDIR", "VOLUME", "EXPOSE", "ENV", "ENTRYPOINT", "CMD")
DEPLOY = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


def instructions(file: Path) -> list[tuple[str, str]]:
    """Return each instruction and its text, with continued lines joined."""
    text = re.sub(r"\\\n\s*", "", file.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def arguments(file: Path, word: str) -> list[str]:
    return [rest for keyword, rest in instructions(file) if keyword == word]


def check_limner(words: list[str]) -> None:
    """Check that limner has this verb and these options."""
    verb, *rest = words
    assert verb in VERBS
    params = _command(verb).params
    options = {name for param in params for name in (*param.opts, *param.secondary_opts)}
    for word in rest:
        assert not word.startswith("-") or word.partition("=")[0] in options, word


def test_there_is_one_for_the_studio_and_one_for_training():
    assert [file.stem for file in FILES] == ["studio", "train"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_everything_named_in_a_containerfile_exists(file: Path):
    steps = instructions(file)
    assert steps[0][0] == "FROM" and {word for word, _ in steps} <= {*KNOWN}
    major, minor = map(int, re.findall(r"python:(\d+)\.(\d+)", steps[0][1])[0])
    least = tuple(map(int, re.findall(r"\d+", PROJECT["requires-python"])))
    assert (major, minor) >= least
    paths = [path for rest in arguments(file, "COPY") for path in rest.split()[:-1]]
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert all((ROOT / path).exists() and f"!{path}" in lines for path in paths)
    needed = [PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "src", "recipes"]
    assert {*paths} >= {*needed}, "the build of the package needs files that are not copied"
    extras = [
        name for rest in arguments(file, "RUN") for name in re.findall(r"/limner\[(.+?)\]", rest)
    ]
    assert extras and {*",".join(extras).split(",")} <= PROJECT["optional-dependencies"].keys()
    for rest in arguments(file, "RUN"):
        assert rest.count("pip install") == rest.count("--no-cache-dir")
    assert arguments(file, "USER") == ["limner"] and "useradd" in "".join(arguments(file, "RUN"))
    assert arguments(file, "WORKDIR") == arguments(file, "VOLUME") == ["/srv/limner"]
    commands = [
        json.loads(rest) for word in ("ENTRYPOINT", "CMD") for rest in arguments(file, word)
    ]
    words = [word for part in commands for word in part]
    if words[0] == "torchrun":
        args = torch.distributed.run.get_args_parser().parse_args(words[1:])
        assert args.module and args.training_script == "limner"
        words = ["limner", *args.training_script_args]
    assert words[0] == "limner"
    check_limner(words[1:])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_commands_in_the_documentation_are_valid(file: Path):
    name = {"studio": "limner", "train": "limner-train"}[file.stem]
    build = f"docker build -t {name} -f containers/{file.name} ."
    assert build in DEPLOY and build in file.read_text(encoding="utf-8")
    lines = DEPLOY.replace("\\\n", "")
    runs = re.findall(rf"docker run .*?(?<!--name) {name}(?: +(\S.*)|$)", lines, re.MULTILINE)
    assert runs
    for words in map(shlex.split, runs):
        if "limner" in words:
            check_limner(words[words.index("limner") + 1 :])


def test_the_documented_port_is_the_studios():
    [studio] = [file for file in FILES if file.stem == "studio"]
    assert arguments(studio, "EXPOSE") == [str(PORT)] and f":{PORT}:{PORT} " in DEPLOY
