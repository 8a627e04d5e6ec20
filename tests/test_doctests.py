"""The examples in docstrings are run."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
EXAMPLE = re.compile(r"^ *>>> ", re.MULTILINE)
FILES = sorted(f for f in SOURCE.rglob("*.py") if EXAMPLE.search(f.read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE / "limner")))
def test_examples_print_what_they_show(file: Path):
    parts = file.relative_to(SOURCE).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted and not result.failed


def test_examples_are_found():
    assert len(FILES) >= 6
