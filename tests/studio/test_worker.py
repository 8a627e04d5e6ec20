import importlib

import pytest
from own_package import install_package

from limner.data import sources
from limner.studio import worker


def test_a_failed_job_names_the_line_of_a_package(tmp_path, monkeypatch, capfd):
    text = "def act():\n    raise ValueError('it broke')\n"
    install_package("own_act", text, tmp_path, monkeypatch, sources)
    with pytest.raises(ValueError) as raised:
        importlib.import_module("own_act").act()
    assert worker._failure(raised.value) == (
        "error",
        f"painting failed in {tmp_path / 'own_act.py'}, line 2: ValueError: it broke; correct the "
        "package 'their-package'",
    )
    assert "in act" in capfd.readouterr().err
