import errno
import os
from pathlib import Path

import pytest

from limner.contract import errors
from limner.contract.errors import LimnerError, install_command, unknown, writing


def test_the_nearest_name_is_offered():
    error = unknown("model", "pixelcn", ["pixelcnn", "vae"], "limner models lists all")
    assert isinstance(error, LimnerError)
    assert str(error) == (
        "unknown model 'pixelcn'; did you mean 'pixelcnn'? (limner models lists all)"
    )


def test_without_a_near_name_all_are_listed_in_order():
    assert str(unknown("family", "zzz", ["gans", "flows"])) == (
        "unknown family 'zzz'; known: flows, gans"
    )


def test_without_known_names_the_message_says_so():
    assert (
        str(unknown("option", "scale", []))
        == "unknown option 'scale'; there are none; leave it out"
    )


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\nb"])
def test_any_name_makes_an_error_that_can_be_printed(name: str):
    assert "unknown model" in str(unknown("model", name, ["vae"]))


def test_a_generator_of_names_is_read_once():
    assert "did you mean 'vae'" in str(unknown("model", "vea", (n for n in ["gan", "vae"])))


def test_an_extra_is_installed_from_the_clone_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clone = Path(errors.__file__).parents[3]
    assert install_command("studio") == f"pip install -e '{clone}[studio]'"
    wheel = tmp_path / "site-packages" / "limner" / "contract" / "errors.py"
    monkeypatch.setattr(errors, "__file__", str(wheel))
    assert install_command("studio") == "pip install 'limner[studio]'"


def test_a_section_that_all_names_share_does_not_make_them_similar():
    message = str(unknown("option", "model.foo", ["model.dropout", "model.channels"]))
    assert message.endswith("known: model.channels, model.dropout")
    assert "did you mean 'model.channels'" in str(
        unknown("option", "model.chanels", ["model.dropout", "model.channels"])
    )


def test_a_folder_that_cannot_be_made_is_named_with_the_file_in_its_place(tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    for folder, name in ((file, "it"), (file / "folder" / "folder", file)):
        with pytest.raises(LimnerError) as caught, writing(folder, "give another"):
            folder.mkdir(parents=True, exist_ok=True)
        expected = f"cannot write {folder}: {name} is a file, not a folder; give another"
        assert str(caught.value) == expected


def test_an_operating_systems_error_becomes_one_line(tmp_path: Path):
    with pytest.raises(LimnerError) as caught, writing(tmp_path):
        tmp_path.write_text("")
    assert str(caught.value) == f"cannot write {tmp_path}: Is a directory; give another path"


def test_a_full_disk_needs_room(tmp_path: Path):
    with pytest.raises(LimnerError) as caught, writing(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    advice = "make room, or give another path"
    assert str(caught.value) == f"cannot write {tmp_path}: No space left on device; {advice}"
    with pytest.raises(LimnerError, match=f"; {advice}$"), writing(tmp_path):
        raise OSError(errno.ENOSPC, "There is not enough space on the disk")  # as on Windows


def test_control_characters_in_a_name_are_escaped():
    assert str(LimnerError("no file 'a\nb\x1b[2J\N{ESCAPE}é🐈‍⬛'")) == (
        "no file 'a\\nb\\x1b[2J\\x1bé🐈‍⬛'"
    )
