"""The command line as a user sees it: what it prints, what it writes, and its errors."""

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from own_package import install_package
from PIL import Image

import limner
from limner.__main__ import main
from limner.commands.app import VERBS
from limner.commands.listing import describe_model, describe_models, options_text
from limner.contract import registry
from limner.contract.checkpoint import read_header
from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.options import json_schema
from limner.contract.registry import Paper, models, register
from limner.data.png import read_settings
from limner.data.sources import NON_OPTION_FIELDS, source_kinds
from limner.training.evaluation import EvaluateOptions
from limner.training.options import PlayerOptions, TrainOptions

TINY = ["model.channels=8,8", "train.steps=3", "train.batch=4", "train.samples=0", "data.size=8"]


@pytest.fixture(autouse=True)
def work_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def limner_(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["limner", *arguments])
        with pytest.raises(SystemExit) as error:
            main()
        captured = capsys.readouterr()
        return int(error.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train for three steps with classes and return the run's folder."""
    from limner.training.recipe import Recipe
    from limner.training.run import train

    run = tmp_path_factory.mktemp("cli") / "run"
    train(Recipe.of("edm", "emoji", TINY), run)
    return run


class _Interrupting:
    """An importer that Ctrl-C interrupts."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "limner.commands.app":
            raise KeyboardInterrupt


def test_ctrl_c_during_the_start_prints_nothing(limner_, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "limner.commands.app")
    monkeypatch.setattr(sys, "meta_path", [_Interrupting(), *sys.meta_path])
    assert limner_("models") == (130, "", "")


def test_version_and_help(limner_):
    assert limner_("--version")[1].strip() == f"limner {limner.__version__}"
    code, out, _ = limner_("--help")
    assert code == 0
    for command in ("demo", "doctor", "models", "data", "train", "resume", "sample"):
        assert command in out


@pytest.mark.parametrize("verb", VERBS)
def test_the_list_of_commands_matches_the_help_of_each(verb: str, limner_):
    code, out, _ = limner_(verb, "--help")
    assert code == 0
    message = " ".join(re.sub("[│╭╰─╮╯]", " ", out).split())
    assert VERBS[verb] in message


def test_models_as_a_table_and_as_json(limner_):
    code, out, _ = limner_("models")
    assert code == 0 and "arXiv:2006.11239" in out
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert rows["cascade"].endswith("emoji, emoji-fast") and "ready to use" in rows["model"]
    assert limner_("models", "cascade")[1].rstrip().endswith("-m emoji or -m emoji-fast")
    code, out, _ = limner_("models", "--json")
    entries = {entry["name"]: entry for entry in json.loads(out)}
    assert {"ddpm", "edm", "flow-matching"} <= entries.keys()
    assert entries["ddpm"]["model"]["properties"]["T"]["default"] == 1000
    code, out, _ = limner_("models", "ddpm")
    assert "model.T" in out and "sampler.steps" in out and "Ho, Jain, Abbeel (2020)" in out


def test_a_model_that_cannot_be_described_is_named_and_left_out(capsys, monkeypatch):
    def fail(config: object = None) -> dict[str, Any]:
        raise KeyError("steps")

    monkeypatch.setattr(toys.Pixels, "sample_schema", fail)
    documents = describe_models([models()["toy-pixels"], models()["toy-vae"]])
    assert [document["name"] for document in documents] == ["toy-vae"]
    assert capsys.readouterr().err.splitlines()[-1] == "left out: toy-pixels: KeyError: 'steps'"


def test_options_are_explained(limner_):
    code, out, _ = limner_("options")
    assert code == 0 and "limner options train" in out and "stacked-mnist" in out
    code, out, _ = limner_("options", "train")
    assert code == 0 and "= adamw" in out and "number of training steps." in out
    assert "data.holdout" in limner_("options", "folder:anywhere")[1]
    assert "data.people" in limner_("options", "emoji")[1], "a source before a bundled model"
    assert limner_("options", "vae")[1] == limner_("models", "vae")[1]
    out = limner_("options", "scenes-best")[1]
    assert "model.base" in out
    (own,) = [line for line in out.splitlines() if line.startswith("its own defaults: ")]
    assert {"sampler.candidates=6", "sampler.shift=6"} <= {*own.split()}
    assert "its own defaults" not in limner_("options", "lenet")[1]
    edm = describe_model(models()["edm"])["sampler"]["properties"]
    assert edm["churn_noise"]["description"].startswith("for heun: factor"), "described alone"
    document = json.loads(limner_("options", "mnist", "--json")[1])
    assert document["options"]["properties"]["flip"]["default"] is False
    code, _, err = limner_("options", "trian")
    assert code == 2 and "did you mean 'train'?" in err


def test_a_model_without_labels_and_recipe_is_trained_on_emoji_without_labels(monkeypatch):
    entry = models()["kl-autoencoder"]
    assert "limner train recipe:kl-emoji" in options_text(entry)
    monkeypatch.setattr("limner.commands.listing.bundled_recipes", dict)
    command = "limner train kl-autoencoder emoji data.size=16 data.label=none"
    assert command in options_text(entry).splitlines()[-3]
    assert options_text(models()["edm"]).count("train edm emoji data.size=16\n") == 1


def test_a_model_of_two_levels_is_shown_with_the_data_that_it_takes():
    class Binary(toys.Pixels):
        def __init__(self, spec: ImageSpec) -> None:
            if spec.levels != 2:
                raise LimnerError("give data.levels=2")
            super().__init__(spec)

    register("binary", family="gans", paper=Paper("A title", "Somebody", 2024))(Binary)
    try:
        shown = options_text(models()["binary"])
    finally:
        del registry._entries["binary"]
    assert shown.endswith(
        "train it: limner train binary emoji data.size=16 data.levels=2\n"
        "on other data: limner train binary folder:FOLDER data.size=16 data.levels=2"
    )


def test_every_option_is_described():
    """`limner options` and `limner models NAME` describe every option."""
    sections = {"train": TrainOptions, "evaluate": EvaluateOptions, "player": PlayerOptions}
    kinds = sections | source_kinds()
    schemas = {name: json_schema(kind, skip=NON_OPTION_FIELDS) for name, kind in kinds.items()}
    entries = (each for each in models().values() if each.model.__module__.startswith("limner."))
    for entry in entries:  # leave out the toy models of the tests
        document = describe_model(entry)
        schemas |= {f"{entry.name} {part}": document.get(part, {}) for part in ("model", "sampler")}
    missing = [
        f"{name}: {option}"
        for name, schema in schemas.items()
        for option, each in schema.get("properties", {}).items()
        if not each.get("description") or each["description"].startswith("see ")
    ]
    assert not missing, "\n".join(missing)


def test_doctor_names_what_it_checked(limner_):
    code, out, _ = limner_("doctor", "--json")
    report = json.loads(out)
    assert code == 0 and report["healthy"]
    assert {"torch", "cores", "speed", "emoji"} <= {f["name"] for f in report["findings"]}


def test_doctor_reports_a_package_that_cannot_be_imported(limner_, tmp_path, monkeypatch):
    install_package("their_module", "import no_such_module", tmp_path, monkeypatch, registry)
    code, out, _ = limner_("doctor", "--json")
    report = json.loads(out)
    assert code == 0 and report["healthy"], "limner works without it"
    findings = {finding["name"]: finding for finding in report["findings"]}
    assert findings["package"]["seen"] == "left out"
    assert "correct the package 'their-package'" in findings["package"]["remedy"]
    assert findings["[studio]"]["seen"] == "installed", "the other checks go on"


def test_doctor_knows_every_extra(limner_):
    import tomllib

    from limner.commands.system_checks import EXTRAS

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert EXTRAS.keys() == project["project"]["optional-dependencies"].keys()
    findings = json.loads(limner_("doctor", "--json")[1])["findings"]
    names = [finding["name"] for finding in findings if finding["name"].startswith("[")]
    assert names == [f"[{extra}]" for extra in EXTRAS]


@pytest.mark.parametrize(
    "command", [["train", "edm"], ["data", "check"], ["evaluate"], ["sample", "-o"], ["studio"]]
)
def test_a_name_that_is_not_utf8_is_refused_in_one_line(limner_, command: list[str]):
    code, _, err = limner_(*command, "folder:bad\udcff")
    assert code == 2 and err.count("\n") == 1
    assert err.startswith(r"limner: 'folder:bad\udcff' is not valid UTF-8; rename")


def test_a_text_of_the_data_that_is_not_utf8_is_printed_with_escapes(monkeypatch):
    Image.new("RGB", (4, 4)).save("a.png")
    Path("metadata.jsonl").write_text(r'{"file_name": "a.png", "text": "a \udcff dog"}')
    monkeypatch.setattr(sys, "argv", ["limner", "data", "check", "folder:."])
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    with pytest.raises(SystemExit) as error:
        main()
    assert not error.value.code
    assert rb"a.png: a \udcff dog" in sys.stdout.buffer.getvalue()


def test_train_resume_and_sample_as_in_the_readme(limner_):
    code, out, _ = limner_("train", "edm", "emoji", *TINY)
    assert code == 0 and "runs/edm-emoji" in out
    assert Path("runs/edm-emoji/model.safetensors").is_file()
    code, out, _ = limner_("train", "edm", "emoji", *TINY)
    assert code == 0 and "runs/edm-emoji-2" in out, (
        "a second run of the same name gets another folder"
    )
    code, out, _ = limner_("resume", "runs/edm-emoji", "train.steps=5")
    assert code == 0 and ("sheets in" in out) == Path("runs/edm-emoji/samples").is_dir()
    assert json.loads(Path("runs/edm-emoji/log.jsonl").read_text().splitlines()[-1])["step"] == 5
    code, out, _ = limner_("sample", "-m", "runs/edm-emoji", "-n", "2", "sampler.steps=2")
    assert code == 0 and out.strip() == "sample.png"


def test_dry_run_states_the_cost_and_writes_nothing(limner_):
    code, out, _ = limner_("train", "flow-matching", "emoji", *TINY, "--dry-run")
    assert code == 0 and "GFLOP an image" in out and "images a second" in out
    assert not Path("runs").exists()


def test_dry_run_refuses_a_batch_that_does_not_fit(limner_):
    code, _, err = limner_(
        "train", "flow-matching", "emoji", *TINY, "train.batch=100000000", "--dry-run"
    )
    assert code == 2 and "GiB of memory" in err


def test_a_sheet_has_a_row_for_each_label_and_stores_its_settings(limner_, trained: Path):
    out = ["-o", "sheet.png"]
    code, _, _ = limner_(
        *("sample", "-m", str(trained), "--label", "all", "-n", "3", "--seed", "5", *out),
        *("sampler.steps=2", "sampler.scale=2"),
    )
    assert code == 0
    with Image.open("sheet.png") as sheet:
        assert sheet.size == (3 * 136 + 8, 9 * 136 + 8)
    settings = read_settings("sheet.png")
    assert settings is not None
    assert settings["seed"] == 5 and settings["sampler"]["scale"] == 2.0
    assert settings["labels"] == ["all"] and settings["model"] == str(trained)


def test_separate_pictures_of_all_classes_store_their_own_class(limner_, trained: Path):
    options = ["sampler.steps=1", "--enlarge", "1"]
    code, _, _ = limner_(
        *("sample", "-m", str(trained), "--label", "all", "--separate", "-o", "one.png", *options)
    )
    classes = read_header(trained / "model.safetensors").spec.labels
    stored = [read_settings(f"one-{i}.png") or {} for i in range(len(classes))]
    assert code == 0 and [each["labels"] for each in stored] == [[name] for name in classes]
    limner_("sample", "--from", "one-4.png", "-o", "again.png", "--enlarge", "1")
    with Image.open("one-4.png") as first, Image.open("again.png") as again:
        assert list(first.tobytes()) == list(again.tobytes())


def test_the_same_seed_paints_the_same_picture_alone(limner_, trained: Path):
    common = ["sample", "-m", str(trained), "--label", "flags", "sampler.steps=2"]
    limner_(*common, "-n", "3", "--seed", "4", "-o", "three.png")
    limner_(*common, "-n", "1", "--seed", "6", "-o", "one.png")
    with Image.open("three.png") as three, Image.open("one.png") as one:
        third = three.crop((2 * 136 + 8, 8, 3 * 136, 136))
        pixels = (torch.tensor(list(image.tobytes())) for image in (third, one))
        assert (next(pixels) - next(pixels)).abs().max() <= 1


def test_data_check_as_text_json_and_sheet(limner_, tmp_path: Path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (10, 12), "red").save(folder / "a.png")
    (folder / "b.png").write_bytes(b"")
    code, out, _ = limner_("data", "check", f"folder:{folder}", "--sheet", "sheet.png")
    assert code == 0 and "b.png" in out and Path("sheet.png").is_file()
    code, out, _ = limner_("data", "check", f"folder:{folder}", "--json")
    assert json.loads(out)["pictures"] == 1
    (tmp_path / "empty").mkdir()
    code, out, _ = limner_("data", "check", f"folder:{tmp_path / 'empty'}")
    assert code == 2 and "contains no pictures" in out
    (tmp_path / "c.png").mkdir()
    for name, message in (
        ("c.png", "directory; give another path"),
        ("c.jpg", "give NAME.png"),
    ):
        code, _, err = limner_("data", "check", f"folder:{folder}", "--sheet", name)
        assert code == 2 and message in err and len(err.splitlines()) == 1
    code, _, err = limner_("data", "check", f"folder:{folder}", "data.size=8", "more")
    assert code == 2 and "'more' is not an option" in err


MISTAKES = {
    "unknown command": (["trian"], "no such command"),
    "unknown flag": (["sample", "--lable", "x"], "--label"),
    "unknown model": (["train", "pixelcn", "emoji"], "limner models lists all"),
    "unknown model to list": (["models", "edn"], "did you mean 'edm'?"),
    "unknown source": (["train", "edm", "emojis"], "did you mean 'emoji'?"),
    "source before model": (["train", "my pictures", "edm"], "limner train edm 'my pictures'"),
    "nothing to train": (["train", "edm"], "limner train MODEL SOURCE"),
    "a path in two words": (
        ["train", "edm", "folder:my", "pictures"],
        "'edm folder:my pictures' is neither a recipe nor a model and a source; type limner train "
        "RECIPE.toml, or limner train MODEL SOURCE, as in limner train edm emoji data.size=16; a "
        "path with spaces or braces needs quotes",
    ),
    "two subjects": (["evaluate", "emoji", "pictures"], "'pictures' is a second subject"),
    "unknown format": (
        ["export", "emoji", "x", "--format", "webb"],
        "limner: invalid value for '--format': 'webb' is not one of 'diffusers', 'onnx', 'web'",
    ),
    "no ONNX file": (["export", "emoji", ".", "--format", "onnx"], "give NAME.onnx"),
    "no such recipe": (["train", "nowhere.toml"], "there is no recipe nowhere.toml"),
    "unknown section": (["train", "edm", "emoji", "trian.steps=3"], "did you mean 'train'?"),
    "no section": (["train", "edm", "emoji", "steps=3"], "or train.steps"),
    "unknown train option": (["train", "edm", "emoji", "train.step=3"], "train.steps"),
    "wrong type": (["train", "edm", "emoji", "train.steps=many"], "train.steps='many'"),
    "out of range": (["train", "edm", "emoji", "train.batch=0"], "train.batch=0"),
    "unknown model option": (["train", "edm", "emoji", "model.chanels=8"], "model.channels"),
    "unknown data option": (["train", "edm", "emoji", "data.sizes=8"], "data.size"),
    "impossible size": (["train", "edm", "emoji", "data.size=18"], "data.size=20"),
    "unknown sampler option": (
        ["train", "edm", "emoji", *TINY, "sampler.step=3"],
        "did you mean 'steps'",
    ),
    "nothing to resume": (["resume", "nowhere"], "nowhere"),
    "no such model file": (["sample", "-m", "nowhere"], "'nowhere'"),
    "missing folder": (["data", "check", "folder:nowhere"], "nowhere"),
    "folder without path": (["data", "check", "folder"], "folder:PATH"),
    "zero pictures": (["sample", "-n", "0"], "-n"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_line_with_the_remedy_and_exit_code_2(mistake: str, limner_):
    arguments, remedy = MISTAKES[mistake]
    code, out, err = limner_(*arguments)
    assert code == 2, err
    assert out == ""
    assert err.startswith("limner: ") and err.count("\n") == 1 and "Traceback" not in err
    assert remedy.lower() in err.lower()
    assert not Path("runs").exists(), "nothing is left behind"


SAMPLE_MISTAKES = {
    "unknown label": (["--label", "anmals"], "animals"),
    "ambiguous label": (["--label", "s"], "several"),
    "unknown option": (["sampler.stesp=3"], "steps"),
    "too many steps": (["sampler.steps=100000"], "4000"),
    "eta without ddim": (["sampler.sampler=heun", "sampler.eta=1"], "ddim"),
    "option without value": (["sampler.steps"], "sampler.steps=VALUE"),
    "a prompt": (["a red apple"], "trained without text"),
    "no picture file": (["-o", "picture.gif"], "NAME.png"),
    "a folder that cannot be": (["-o", "/dev/null/picture.png"], "; give another path"),
}


@pytest.mark.parametrize("mistake", SAMPLE_MISTAKES)
def test_a_mistake_while_sampling(mistake: str, limner_, trained: Path):
    arguments, remedy = SAMPLE_MISTAKES[mistake]
    code, _, err = limner_("sample", "-m", str(trained), *arguments)
    assert code == 2, err
    assert err.count("\n") == 1 and remedy.lower() in err.lower()


def test_a_file_that_is_not_a_model_is_refused(limner_, tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"not a model")
    code, _, err = limner_("sample", "-m", "model.safetensors")
    assert code == 2 and "model.safetensors" in err and err.count("\n") == 1


def test_a_recipe_with_a_model_that_is_not_imported_says_so(limner_, tmp_path: Path):
    recipe = '[model]\nname = "my-own"\n[data]\nsource = "emoji"\n'
    (tmp_path / "own.toml").write_text(recipe, encoding="utf-8")
    code, _, err = limner_("train", "own.toml")
    assert code == 2 and err.count("\n") == 1
    assert "own.toml: unknown model 'my-own'" in err and "import the file with its @reg" in err


def test_ctrl_c_exits_with_code_130(monkeypatch: pytest.MonkeyPatch, limner_):
    import limner.commands.system_checks

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(limner.commands.system_checks, "examine", interrupted)
    assert limner_("doctor")[0] == 130


def test_a_broken_picture_is_named_and_left_out_of_training(limner_, tmp_path: Path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (60 * i, 0, 0)).save(folder / f"{i}.png")
    (folder / "bad.png").write_bytes(b"no picture")
    code, _, err = limner_("train", "edm", f"folder:{folder}", *TINY)
    assert code == 0
    assert (
        f"left out: bad.png (not a picture); to see all, type: limner data check folder:{folder}"
        in err
    )


@pytest.mark.parametrize("given", [[], ["model.base=runs/x"], ["train.init.base=lenet"]])
def test_without_a_nested_model_the_message_says_how_to_give_its_run(given: list[str], limner_):
    code, _, err = limner_("train", "cascade", "emoji", "data.size=16", *given)
    assert code == 2 and err.count("\n") == 1
    assert "train.init.base=runs/NAME" in err


def test_without_labels_a_model_is_unconditional(limner_):
    tiny = ["model.h=2", "model.blocks=1", "model.top=4", *TINY[1:]]
    code, _, _ = limner_("train", "pixelcnn", "emoji", "data.label=none", *tiny, "--run", "none")
    assert code == 0
    model = limner.load("none")
    assert model.spec.labels == () and model.network.blocks[0].condition_bias is None
    code, out, _ = limner_("sample", "-m", "none", "-n", "2")
    assert code == 0 and Path(out.strip()).is_file()
    for label in ("flags", "all"):
        code, _, message = limner_("sample", "-m", "none", "--label", label)
        assert code == 2 and "this model has no classes" in message
    picture = Path("picture.png")
    Image.linear_gradient("L").convert("RGB").save(picture)
    assert limner_("edit", str(picture), "-m", "none", "-n", "3", "-o", "edit.png")[0] == 0
    assert Path("edit.png").is_file()


@pytest.mark.parametrize(
    "arguments", [["export", "y" * 300, "m"], ["sample", "-o", "y" * 300 + ".png"]]
)
def test_a_name_that_is_too_long_for_a_file_is_refused(limner_, arguments):
    code, _, message = limner_(*arguments)
    assert (
        code == 2
        and message == f"limner: the name '{'y' * 40}...' is too long; give a shorter one\n"
    )


def test_a_file_without_permission_is_named_in_one_line(limner_, monkeypatch):
    stat = Path.stat

    def refuse(path: Path, **how: Any):
        if "locked" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", refuse)  # as in a folder of another user
    code, _, message = limner_("sample", "-m", "locked")
    assert code == 2
    told = "no permission for 'locked/model.safetensors'; give it with chmod, or name another file"
    assert message == f"limner: {told}\n"
