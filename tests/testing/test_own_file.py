"""`python -m limner.testing` with a user's file: a mistake gives one line with its position."""

import sys
from pathlib import Path

import pytest
import torch

from limner.contract import registry
from limner.contract.errors import LimnerError
from limner.contract.registry import models
from limner.testing import __main__ as own_file
from limner.testing.__main__ import main

FILE = """
from limner import GenerativeModel, ImageSpec, Paper, Turn, register
import torch

@register("own", family="gans", paper=Paper("t", "a", 2024, "2401.00001"))
class Own(GenerativeModel):
    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(spec.shape))
    def turns(self, batch, step, noise):
        yield Turn((batch.x - self.w).square().mean())
    def frames(self, n, c=None, *, noise, preview=True):
        yield self.w.expand(n, *self.spec.shape)
"""


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (
            "        super().__init__()\n",
            "",
            "the constructor of Own does not call super().__init__() before it sets layers; write "
            "that as its first line",
        ),
        (
            "super().__init__()\n        self.w = torch.nn.Parameter(torch.zeros(spec.shape))",
            "self.w = 3",
            "the constructor of Own does not call super().__init__() before it sets layers; ",
        ),
        (
            "    def turns",
            "    def players(self): return {'g': torch.nn.Linear(1, 1)}\n    def turns",
            "players of Own has weights in 'g' that the model does not have; set that module as an "
            "attribute in the constructor",
        ),
        (
            "        yield Turn(",
            "        if step < 0: yield Turn(",
            "turns of Own yields nothing in step 0; write yield Turn(loss)",
        ),
        ("yield Turn(", "yield (", "turns of Own yields Tensor; write yield Turn(loss)"),
        (
            "yield self.w",
            "return self.w",
            "frames of Own returns Tensor; yield the pictures",
        ),
        ("yield self.w", "raise SystemExit; yield self.w", "error: FILE, line 13: SystemExit: "),
        (', paper=Paper("t", "a", 2024, "2401.00001")', "", "error: FILE, line 5: TypeError: "),
        ("class Own(GenerativeModel):", "class Own", "error: FILE, line 6: SyntaxError: "),
        ("Own(GenerativeModel):", "Own:", "Own is not a model; write @register(...) above a class"),
        (
            "    def turns",
            "    def formula(self): return 'x = w'\n    def turns",
            "formula returns str, not a list",
        ),
        ("yield Turn(", "x = Turn(", "turns of Own returns NoneType; write yield Turn(loss)"),
        (".mean())", ".mean().item())", "turns of Own yields float for a loss; give a"),
        (".mean())", ".mean((1, 2, 3)))", "turns of Own yields a loss of 4 numbers; give one"),
        (".mean())", ".mean().detach())", "turns of Own yields a loss without a gradient; "),
        (".mean())", ".mean(), logs={'a': 1.0})", "turns of Own logs float as 'a'; give a tensor"),
        (
            "        yield Turn",
            "        with torch.no_grad(): yield Turn",
            "turns of Own yields within a `with`, which then also applies to the training loop; ",
        ),
        (
            "        yield self.w",
            "        if n < 0: yield self.w",
            "frames of Own yields no pictures; yield at least the finished ones",
        ),
        ("*self.spec.shape)", "8, 8)", "frames of Own yields 3 x 8 x 8; yield 3 x 1 x height"),
        (
            "yield self.w.expand(n, *self.spec.shape)",
            "yield torch.zeros(n, *self.spec.shape).byte()",
            "frames of Own yields torch.uint8; yield floats in [-1, 1]",
        ),
        (".mean())", ".sum())", "is the loss a sum over the batch instead of its mean, "),
        (
            "        yield Turn(",
            "        self.i = getattr(self, 'i', 0) + 1; yield Turn(self.i * ",
            "; does `turns` keep a value that is not a parameter or buffer",
        ),
        (
            "spec: ImageSpec)",
            "spec: ImageSpec, act=torch.relu)",
            "the option act is builtin_function_or_method, which a file cannot store; ",
        ),
        (
            "spec: ImageSpec)",
            "spec: ImageSpec, width: int = 0.5)",
            "the default 0.5 of the option width of Own is not valid: input should be a valid int",
        ),
        (
            "        self.w =",
            "        self.config = {}; self.w =",
            "Own sets self.config, which every model has already; give the attribute another name",
        ),
        ("family=", "train={'rate': 1}, family=", "unknown train option 'train.rate'; "),
        (".mean())", ".mean(), of='gan')", "a turn of 'gan', and the players are model; name one"),
        (
            "        yield Turn(",
            "        batch.x.mul_(0.5); yield Turn(",
            "turns changes batch.x in place, which spoils the held-out loss; change a copy",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_a_mistake_gives_one_line(
    right: str, wrong: str, said: str, tmp_path: Path, monkeypatch, capsys
):
    output = message_for(FILE.replace(right, wrong), tmp_path, monkeypatch, capsys)
    assert said.replace("FILE", str(tmp_path / "own_file.py")) in output


@pytest.mark.usefixtures("unchecked_shapes")
def test_an_option_without_a_default_gives_one_line(tmp_path: Path, monkeypatch, capsys):
    text = FILE.replace("spec: ImageSpec)", "spec: ImageSpec, width: int)")
    output = message_for(
        text.replace("family=", "tiny={'width': 3}, family="), tmp_path, monkeypatch, capsys
    )
    assert "it cannot be built with its defaults: model option model.width is missing" in output


@pytest.mark.usefixtures("unchecked_shapes")
def test_an_autoregressive_model_paints_in_the_type_of_its_weights(tmp_path, monkeypatch, capsys):
    text = FILE.replace('"gans"', '"autoregressive"').replace(
        "yield self.w", "torch.ones(1, 8) @ self.w[0]; yield self.w"
    )
    output = message_for(text, tmp_path, monkeypatch, capsys)
    assert "checked with weights of float64, and this one makes tensors of another type" in output
    assert "give those that `frames` makes dtype=self.dtype" in output


def message_for(text: str, folder: Path, monkeypatch, capsys) -> str:
    models()
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    file = folder / "own_file.py"
    file.write_text(text, encoding="utf-8")
    assert main([str(file)]) in (1, 2)
    output = capsys.readouterr().err
    assert "Traceback" not in output
    return output


@pytest.mark.usefixtures("unchecked_shapes")
def test_state_shared_by_turns_and_frames_must_be_a_buffer(tmp_path: Path, monkeypatch, capsys):
    """Otherwise it is missing in the averaged weights and in the file."""
    text = FILE.replace("mean())", "mean()); self.m = batch.x.mean()").replace(
        "yield self.w", "yield getattr(self, 'm', 0) + self.w"
    )
    output = message_for(text, tmp_path, monkeypatch, capsys)
    assert "the pictures differ; do `frames` use a value from `turns` that is not a" in output


JUDGE = """
from limner import ImageSpec, Paper, Turn, register
from limner.evaluate.judges.judge import Judge
import torch

@register("own-judge", family="judges", paper=Paper("t", "a", 2024, "2401.00001"))
class Own(Judge):
    takes = ("labels",)
    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.f = torch.nn.Linear(spec.dimensions, 4)
        self.g = torch.nn.Linear(4, max(1, len(spec.labels)))
    def features(self, x):
        h = self.f(x.flatten(1))
        return h
    def logits(self, features):
        return self.g(features)
    def turns(self, batch, step, noise):
        yield Turn(self.logits(self.f(batch.x.flatten(1))).square().mean())
"""


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("return h", "return h.sum(1)", "features of 8 pictures have the shape (8,), not a row"),
        ("return h", "return h - h.mean(0)", "a picture's features depend on the batch that it"),
        ("return h", "return h + torch.randn(4)", "depend on the batch that it is in, or are ra"),
        ("max(1, len(spec.labels))", "7", "the shape (8, 7), not a score for each of 3 classes"),
    ],
)
def test_a_mistake_in_a_judge_gives_one_line(
    right: str, wrong: str, said: str, tmp_path: Path, monkeypatch, capsys
):
    assert said in message_for(JUDGE.replace(right, wrong), tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys; sys.exit(0)", "ends the program when it is imported; put that below if __na"),
        ("from .other import x", "relative import with no known parent package; write the import"),
        ("\0", "own_file.py: SyntaxError: source code string cannot contain null bytes"),
        ("import beside", "own_file.py registers no model, metric, sampler or extractor; write"),
    ],
)
def test_a_file_that_cannot_be_imported_gives_one_line(
    text: str, said: str, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "beside.py").touch()
    file = tmp_path / "own_file.py"
    file.write_text(text, encoding="utf-8")
    assert main([str(file)]) == 2
    assert said in capsys.readouterr().err


def test_a_file_does_not_replace_a_module_of_its_name(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    file = tmp_path / "torch.py"
    file.write_text(FILE, encoding="utf-8")
    assert own_file.names_in(file)["model"] == ["own"]
    assert sys.modules["torch"] is torch


def test_a_file_of_the_library_is_checked_under_its_registered_names():
    file = Path(registry.__file__).parent.parent / "flows" / "glow.py"
    assert own_file.names_in(file) == {
        "model": ["glow"],
        "metric": [],
        "sampler": [],
        "extractor": [],
    }
    with pytest.raises(LimnerError, match="registers no model, metric, sampler or extractor"):
        own_file.names_in(file.with_name("normalizing.py"))


LEARNT = """
    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        if spec.hint is None or spec.hint.height != spec.height // REDUCTION:
            raise LimnerError("it needs a hint")
        self.w = torch.nn.Conv2d(spec.hint.channels, spec.channels, 1)
    def turns(self, batch, step, noise):
        yield Turn((batch.x - self.made(batch.c)).square().mean())
    def made(self, c):
        return self.w(torch.nn.functional.interpolate(c.image, self.spec.shape[1:]))
    def frames(self, n, c=None, *, noise, preview=True):
        yield self.made(c)
"""


@pytest.mark.parametrize(
    ("takes", "body", "size"),
    [
        ("", FILE.partition("(GenerativeModel):")[2], 8),
        ("'hint',", LEARNT.replace("REDUCTION", "1"), 8),
        ("'hint',", LEARNT.replace("REDUCTION", "2"), 8),
        (
            "",
            FILE.partition("(GenerativeModel):")[2].replace(
                "        self.w",
                "        if spec.height < 16: raise LimnerError('too small')\n        self.w",
            ),
            16,
        ),
    ],
    ids=["pictures", "edges", "reduced", "larger"],
)
def test_a_model_is_trained_on_emoji_in_the_form_it_takes(
    takes: str, body: str, size: int, tmp_path: Path, monkeypatch, capsys
):
    """Without classes, with conditioning images, and with large enough pictures."""
    models()
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(own_file, "_STEPS", 2)
    monkeypatch.setattr(own_file, "check_model", lambda name: [name])
    start = FILE.partition("(GenerativeModel):")[0] + "(GenerativeModel):\n"
    condition = "    condition = 'required'\n" if takes else ""
    text = f"{start}    takes = ({takes})\n{condition}{body}".replace(
        "import G", "import LimnerError, G"
    )
    file = tmp_path / "own_file.py"
    file.write_text(text, encoding="utf-8")
    assert main([str(file)]) == 0, capsys.readouterr().err
    assert f"own: loss of {size} x {size} emoji" in capsys.readouterr().out


def test_a_model_that_needs_another_is_trained_with_that_of_its_tiny_options(monkeypatch):
    monkeypatch.setattr(own_file, "_STEPS", 2)
    assert own_file.train_briefly("reflow").startswith("reflow: loss of 8 x 8 emoji")
