"""A package that registers something of its own in limner."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from limner.contract import registry


def install_package(
    module: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch, room: ModuleType
) -> None:
    """Install a package of one module, which is an entry point of limner, until the test ends.

    Args:
        module: the module's name.
        text: its code.
        folder: where to install it.
        monkeypatch: the test's fixture.
        room: the module of limner that looks for packages.
    """
    (folder / f"{module}.py").write_text(text, encoding="utf-8")
    info = folder / "their_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: their-package\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[limner]\nany = {module}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(room, "import_packages", registry.import_packages.__wrapped__)
