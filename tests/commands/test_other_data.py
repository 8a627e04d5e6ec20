"""`limner models NAME` says how to train the model on other data, with a command that starts."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from limner.commands.listing import options_text
from limner.commands.train import _recipe
from limner.contract.registry import entry, models
from limner.data import open_data
from limner.training.recipe import Recipe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures in two classes, with captions; also the domains A and B."""
    for part in ("all/cat", "all/dog", "A", "B", "BEFORE", "AFTER"):
        (tmp_path / part).mkdir(parents=True)
        for i in range(2):
            name = f"{part.replace('/', '-') if '/' in part else 'x'}-{i}"
            Image.new("RGB", (24, 24), "red").save(tmp_path / part / f"{name}.png")
            (tmp_path / part / f"{name}.txt").write_text("a red square")
    return tmp_path


def test_the_command_for_other_data_reads_them(folder: Path):
    """It names every part that the recipe starts from."""
    for name in models():
        line = re.search("^on other data: (.*)$", options_text(entry(name)), re.MULTILINE)
        assert line, name
        if line[1].startswith("impossible"):
            assert name in ("caption-reader", "centernet2")
            continue
        typed = line[1].replace("folder:FOLDER", f"folder:{folder}/all").replace("SIZE", "8")
        typed = re.sub("folder:(A|B|BEFORE|AFTER)\\b", rf"folder:{folder}/\1", typed)
        recipe, _ = _recipe([*shlex.split(typed)[2:], "data.size=8"])
        parts = recipe.train.get("init", {})
        assert set(parts.values()) <= {"RUN"} and set(parts) <= {*entry(name).nested_options}
        data = open_data(**recipe.data)
        assert len(data) == (4 if "/all" in typed else 2), name
        assert ("RUN: a run on the same pictures" in options_text(entry(name))) == bool(parts)


RECIPE = """
[model]
name = "cut"
[data]
source = "unpaired:emoji:style=3d,emoji:style=flat"
size = 16
label = "none"
a.style = "3d"
flip = true
[evaluate]
every = 100
against = "paired:emoji:style=3d,emoji:style=flat"
split = "held-out-pair"
"""


def test_another_source_goes_without_the_options_of_the_recipes_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "r.toml").write_text(RECIPE)
    pair = "unpaired:folder:x,folder:y"
    recipe = Recipe.read(tmp_path / "r.toml", [f"data.source={pair}"])
    assert recipe.data == {"source": pair, "size": 16, "flip": True, "a": {"style": "3d"}}
    assert recipe.evaluate == {"every": 100}
    left_out = "data.label, evaluate.against, evaluate.split"
    assert f"goes without the recipe's {left_out}" in capsys.readouterr().err
    one = ["data.source=folder:x", "data.label=none", "evaluate.split=test"]
    recipe = Recipe.read(tmp_path / "r.toml", one)
    assert recipe.data == {"source": "folder:x", "size": 16, "flip": True, "label": "none"}
    assert recipe.evaluate == {"every": 100, "split": "test"}


def test_a_source_of_the_same_kind_keeps_all_options(tmp_path: Path):
    (tmp_path / "r.toml").write_text(RECIPE)
    pair = "unpaired:emoji:style=flat,emoji:style=line"
    recipe = Recipe.read(tmp_path / "r.toml", [f"data.source={pair}"])
    assert recipe.data["label"] == "none" and recipe.evaluate["split"] == "held-out-pair"
