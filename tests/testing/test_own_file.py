"""`python -m limner.testing` of a file with a mistake: one line, with the place in the file."""

from pathlib import Path

import pytest

from limner.contract import registry
from limner.contract.registry import models
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
        ("        super().__init__()\n", "", "error: FILE, line 8: AttributeError: cannot assign"),
        ("yield Turn(", "yield (", "turns yields Tensor; write yield Turn(loss)"),
        (
            "yield self.w",
            "return self.w",
            "frames of Own returns Tensor; yield the pictures",
        ),
        (', paper=Paper("t", "a", 2024, "2401.00001")', "", "error: FILE, line 5: TypeError: "),
        ("class Own(GenerativeModel):", "class Own", "error: FILE, line 6: SyntaxError: "),
    ],
)
def test_a_mistake_is_one_line(
    right: str, wrong: str, said: str, tmp_path: Path, monkeypatch, capsys
):
    models()
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    file = tmp_path / "own_file.py"
    file.write_text(FILE.replace(right, wrong), encoding="utf-8")
    assert main([str(file)]) in (1, 2)
    shown = capsys.readouterr().err
    assert said.replace("FILE", str(file)) in shown
    assert "Traceback" not in shown
