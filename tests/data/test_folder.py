"""Folders and archives: every layout, and every way in which they can be invalid."""

import csv
import io
import itertools
import json
import pickle
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from limner.contract.errors import LimnerError
from limner.contract.image import to_levels
from limner.contract.noise import Noise
from limner.data import Stream, check, files, open_data


def picture(path: Path, shade: int = 0, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 0, 255 - shade)).save(path)


def pictures(root: Path, *names: str) -> str:
    for shade, name in enumerate(names):
        picture(root / name, shade)
    return f"folder:{root}"


def shades(data) -> list[int]:
    return data.pixels(torch.arange(len(data)))[:, 0, 0, 0].tolist()


def all_captions(data, n: int = 50) -> set[str]:
    indices = torch.arange(len(data)).repeat(n)
    return set(data.captions(indices, Noise.keyed(0, 0, torch.arange(len(indices)))))


def test_a_flat_folder_is_sorted_naturally_and_hidden_files_are_ignored(tmp_path):
    source = pictures(tmp_path, "9.png", "10.png", "B2.png", "a1.png", ".hidden.png", ".git/x.png")
    (tmp_path / "README.md").write_text("no picture")
    (tmp_path / "notes.txt").write_text("no caption of any picture")
    data = open_data(source)
    assert [data.name(i) for i in range(len(data))] == ["9.png", "10.png", "a1.png", "B2.png"]
    assert shades(data) == [0, 1, 3, 2]
    assert data.labels is None
    assert data.weights is None
    assert data.spec.shape == (3, 8, 8)
    assert data.captions(torch.tensor([0]), Noise.keyed(0, 0, [0])) is None


def test_class_folders_are_labels(tmp_path):
    source = pictures(tmp_path, "dog/1.png", "cat/1.png", "cat/deep/2.png")
    data = open_data(source)
    assert data.spec.labels == ("cat", "dog")
    assert data.labels.tolist() == [0, 0, 1]
    assert data.spec.frequencies == pytest.approx((2 / 3, 1 / 3))
    assert open_data(source, labels=False).spec.labels == ()
    assert open_data(source, labels=["dog", "cat", "emu"]).labels.tolist() == [1, 1, 0]
    with pytest.raises(
        LimnerError, match=r"unknown label 'cat'; did you mean 'cats'\?.*'cat/1.png'"
    ):
        open_data(source, labels=["dog", "cats"])
    with pytest.raises(LimnerError, match=r"data.labels=dog,cat,cat: 'cat' is given twice; give"):
        open_data(source, labels=["dog", "cat", "cat"])
    picture(tmp_path / "stray.png")
    with pytest.raises(LimnerError, match=r"'stray.png' has no label.*data.labels=false"):
        open_data(source)


@pytest.mark.parametrize("other", ["test", "val", "valid", "validation"])
def test_folders_that_are_splits_are_not_classes(tmp_path: Path, other: str):
    names = [f"d/{top}/{kind}/{i}.png" for top, kind, i in itertools.product(
        ("train", other), ("cat", "dog"), range(4))]  # fmt: skip
    source = pictures(tmp_path, *names, "d/train/emu/0.png")

    def counts(**options: object) -> tuple[int, int]:
        data = open_data(source, **options)
        assert data.spec.labels == ("cat", "dog", "emu")
        folders = [data.name(i).split("/")[1] for i in range(len(data))]
        return folders.count("train"), folders.count(other)

    assert (counts(), counts(split="test"), counts(split="all")) == ((9, 0), (0, 8), (9, 8))
    train, test, both = (counts(split=s, holdout=0.4) for s in ("train", "test", "all"))
    assert train[0] + test[0] == both[0] == 9 and test[0] and train[1] == test[1] == both[1] == 0


def test_of_three_splits_validation_is_only_in_all(tmp_path: Path):
    source = pictures(tmp_path, "train/1.png", "test/2.png", "val/3.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\ntrain/1.png,a\ntest/2.png,b\n")
    assert [shades(open_data(source, split=s)) for s in ("train", "test")] == [[0], [1]]
    assert len(open_data(source, split="all", captions=False)) == 3
    pictures(tmp_path, "dog/3.png")
    assert open_data(source, captions=False, labels=False).spec.labels == ()
    with pytest.raises(LimnerError, match="no pictures are held out"):
        open_data(source, split="test")


def test_held_out_pictures_without_classes_do_not_stop_training(tmp_path: Path):
    source = pictures(tmp_path, "train/cat/1.png", "train/dog/2.png", "test/3.png")
    assert open_data(source).labels.tolist() == [0, 1]
    with pytest.raises(LimnerError, match=r"'test/3.png' has no label"):
        open_data(source, split="test")


def test_metadata_as_json_lines(tmp_path):
    source = pictures(tmp_path, "a.png", "b.png", "sub/c.png")
    rows = [
        {"file_name": "a.png", "text": "one", "label": 10},
        {"file_name": "b.png", "text": ["two", "three"], "label": 9},
        {"file_name": "sub/c.png", "text": "four", "label": 10},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = open_data(source)
    assert data.spec.labels == ("9", "10")
    assert data.labels.tolist() == [1, 0, 1]
    assert all_captions(data) == {"one", "two", "three", "four"}


def test_metadata_as_csv_next_to_its_pictures(tmp_path):
    source = pictures(tmp_path, "x/a.png", "x/b.png")
    with (tmp_path / "x" / "metadata.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file_name", "caption"), ("a.png", "a, b"), ("b.png", "c")])
    assert all_captions(open_data(source)) == {"a, b", "c"}


def test_a_table_with_a_column_twice_is_refused(tmp_path):
    source = pictures(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,ID,id,Text,text\na.png,1,2,a dog,a cat\n")
    with pytest.raises(LimnerError, match=r"'metadata\.csv' has the column text twice; rename one"):
        open_data(source)
    (tmp_path / "metadata.csv").write_text("file_name,ID,id,text\na.png,1,2,a dog\n")
    assert all_captions(open_data(source)) == {"a dog"}


def test_spaces_after_the_commas_of_a_table_and_capitals_of_its_columns_are_ignored(tmp_path):
    source = pictures(tmp_path, "a.png", "b.png")
    table = 'File_Name, Text , LABEL\na.png, "a, b", dog\nb.png, c, cat\n'
    (tmp_path / "metadata.csv").write_text(table)
    data = open_data(source)
    assert [entry.captions for entry in data.entries] == [("a, b",), ("c",)]
    assert data.spec.labels == ("cat", "dog")
    (tmp_path / "metadata.csv").write_text(table + "c.png, d, cat\n")
    with pytest.raises(LimnerError, match="line 4 of"):
        open_data(source)


@pytest.mark.parametrize("wrong", [5, True, {"en": "a cat"}, ["a cat", 5]])
def test_only_texts_are_captions(tmp_path: Path, wrong: object):
    source = pictures(tmp_path, "a.png", "b.png")
    rows = [
        {"file_name": "a.png", "text": ["a dog", None]},
        {"file_name": "b.png", "text": "a cat"},
    ]
    table = tmp_path / "metadata.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    assert [entry.captions for entry in open_data(source).entries] == [("a dog",), ("a cat",)]
    rows[1]["text"] = wrong
    table.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(LimnerError, match=r"'b.png' has caption .*, which is not a text"):
        open_data(source)
    assert len(open_data(source, captions=False)) == 2


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("file_name,text\na.png,a cat, with a hat\n", "line 2 of .* commas in quotes"),
        ("file_name;text\na.png;a cat\n", "first line of .* is 'file_name;text'; .*commas"),
        ("a.png,a cat\n", "first line of .* is 'a.png,a cat'; .*file_name,text"),
        (f"file_name,{'x' * 140_000}\na.png,a\n", "line 1 of .* is not valid"),
    ],
    ids=["commas", "semicolons", "no header", "a name that is too long"],
)
def test_a_malformed_table_is_refused_with_a_remedy(text: str, remedy: str, tmp_path):
    source = pictures(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(LimnerError, match=remedy) as error:
        open_data(source)
    assert "\n" not in str(error.value)


def test_linked_folders_are_classes_and_circular_links_are_not_followed(tmp_path):
    pictures(tmp_path / "elsewhere", "1.png", "2.png")
    source = pictures(tmp_path / "data", "dog/1.png")
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "dog" / "itself").symlink_to(tmp_path / "data" / "dog")
    data = open_data(source)
    assert data.spec.labels == ("cat", "dog") and len(data) == 3


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_a_table_may_have_the_line_ends_of_any_system(tmp_path: Path, end: str):
    source = pictures(tmp_path, "a.png", "b.png")
    lines = ("file_name,text", "a.png,one", 'b.png,"two, three"', "")
    (tmp_path / "metadata.csv").write_bytes(end.join(lines).encode())
    assert all_captions(open_data(source)) == {"one", "two, three"}


def test_names_are_sorted_by_numbers_of_any_length():
    names = ["1" * 5000, "2", "10", "\u0663", "007", "00", "0", "1" + "0" * 4999, "x\u00b2"]
    assert sorted(names, key=files.natural) == [
        "0", "00", "2", "\u0663", "007", "10", "1" + "0" * 4999, "1" * 5000, "x\u00b2",
    ]  # fmt: skip


def test_the_line_of_a_field_that_csv_refuses_is_named(tmp_path):
    source = pictures(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text(f"file_name,caption\na.png,{'x' * 200_000}\n")
    with pytest.raises(LimnerError, match=r"line 2 of 'metadata.csv'"):
        open_data(source)


def test_a_table_that_is_not_utf8_is_one_problem(tmp_path):
    source = pictures(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_bytes("file_name,text\na.png,ein Köter\n".encode("latin-1"))
    assert check(source).problems == ["'metadata.csv' is not UTF-8 text; save it as UTF-8"]


def test_captions_next_to_the_pictures(tmp_path):
    source = pictures(tmp_path, "a.png", "b.jpg")
    (tmp_path / "a.txt").write_text("a cat\n\n  a small cat \n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("ein Köter", encoding="utf-8-sig")
    data = open_data(source)
    assert all_captions(data) == {"a cat", "a small cat", "ein Köter"}
    noise = Noise.keyed(0, 0, range(400))
    captions = data.captions(torch.zeros(400, dtype=torch.long), noise)
    assert 150 < captions.count("a cat") < 250
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(LimnerError, match=r"'b.txt' is not UTF-8"):
        open_data(source)


def test_a_missing_caption_is_named_with_the_remedy(tmp_path):
    source = pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text("a cat")
    with pytest.raises(
        LimnerError, match=r"1 of 2 pictures have no caption, first 'b.png'.*'b.txt'"
    ):
        open_data(source)
    assert open_data(source, captions=False).entries[0].captions == ()
    (tmp_path / "a.txt").unlink()
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a cat"}\n')
    with pytest.raises(LimnerError, match=r"'b.png'; write it into metadata.jsonl"):
        open_data(source)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2 of 'metadata.jsonl' is not valid"),
        ("[1]", r"line 2 of 'metadata.jsonl' has no file_name"),
        ('{"text": "x"}', r"line 2 of 'metadata.jsonl' has no file_name"),
        ('{"file_name": "gone.png"}', r"line 2 .* names 'gone.png', which is missing"),
        ('{"file_name": "../a.png"}', r"line 2 .* names '../a.png', which is missing"),
        ('{"file_name": "b.png", "label": [1]}', r"'b.png' has label \[1\]"),
        ('{"file_name": "b.png", "label": 0.5}', r"0.5, which is neither a word nor a whole"),
        ('{"file_name": "b.png", "label": null}', r"'b.png' has no label although other"),
    ],
)
def test_wrong_metadata_is_named(tmp_path, line, message):
    source = pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "label": "cat"}\n' + line)
    with pytest.raises(LimnerError, match=message):
        open_data(source)


def test_sources_without_pictures_are_refused(tmp_path):
    with pytest.raises(LimnerError, match=r"there is no folder"):
        open_data(f"folder:{tmp_path / 'none'}")
    with pytest.raises(LimnerError, match=r"contains no pictures .* it is empty"):
        open_data(f"folder:{tmp_path}")
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(LimnerError, match=r"contains no pictures .* only 1 other files"):
        open_data(f"folder:{tmp_path}")
    with pytest.raises(LimnerError, match=r"is a file; for an archive write zip:"):
        open_data(f"folder:{tmp_path / 'a.txt'}")
    with pytest.raises(LimnerError, match=r"is not a valid zip archive"):
        open_data(f"zip:{tmp_path / 'a.txt'}")
    with pytest.raises(LimnerError, match=r"is a folder; write folder:"):
        open_data(f"zip:{tmp_path}")
    with pytest.raises(LimnerError, match=r"there is no archive"):
        open_data(f"zip:{tmp_path / 'b.zip'}")


def test_one_broken_file_is_skipped_and_more_than_one_percent_are_refused(tmp_path):
    source = pictures(tmp_path, *(f"{i}.png" for i in range(5)))
    (tmp_path / "2.png").write_bytes(b"")
    data = open_data(source)
    assert data.skipped == (("2.png", "empty file"),)
    assert shades(data) == [0, 1, 3, 4]
    content = (tmp_path / "3.png").read_bytes()
    (tmp_path / "3.png").write_bytes(content[:-30])
    with pytest.raises(
        LimnerError,
        match=r"2 of 5 .*'2.png' \(empty file\), '3.png' \(.*.*limner data check folder",
    ):
        open_data(source)


def test_a_truncated_picture_is_found_when_it_is_decoded(tmp_path):
    source = pictures(tmp_path, *(f"{i}.png" for i in range(4)))
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:-30])
    for memory in (4.0, 0.0):
        data = open_data(source, memory=memory)
        assert [name for name, _ in data.skipped] == ["1.png"]
        assert shades(data) == [0, 2, 3]


def test_two_broken_of_two_hundred_are_skipped(tmp_path):
    source = pictures(tmp_path, *(f"{i}.png" for i in range(200)))
    for i in (3, 4):
        (tmp_path / f"{i}.png").write_bytes(b"GIF89a")
    assert len(open_data(source)) == 198


def test_a_single_broken_picture_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(LimnerError, match=r"1 of 1 pictures .* 'a.png' \(not a picture\)"):
        open_data(f"folder:{tmp_path}")


def test_pictures_of_formats_that_are_not_read_are_named(tmp_path: Path):
    source = pictures(tmp_path, "1.png")
    for name in ("2.heic", "3.SVG", "4.psd", "notes.md"):
        (tmp_path / name).write_bytes(b"x")
    reason = "pictures of this format are not read; save it as PNG or JPEG"
    expected = tuple((name, reason) for name in ("2.heic", "3.SVG", "4.psd"))
    assert open_data(source).skipped == expected
    assert check(source).refused == [*expected]
    (tmp_path / "1.png").unlink()
    with pytest.raises(LimnerError, match=r"only 4 other files; save '2.heic' and the like as PNG"):
        open_data(source)


def test_a_wrong_extension_is_ignored(tmp_path):
    picture(tmp_path / "a.png", 7)
    (tmp_path / "a.png").rename(tmp_path / "a.JPG")
    assert shades(open_data(f"folder:{tmp_path}")) == [7]


def test_pictures_of_mixed_sizes_require_data_size(tmp_path):
    picture(tmp_path / "a.png", size=(8, 8))
    picture(tmp_path / "b.png", size=(8, 6))
    source = f"folder:{tmp_path}"
    with pytest.raises(
        LimnerError, match=r"'a.png' is 8 x 8, 'b.png' is 8 x 6; give one size, for example data"
    ):
        open_data(source)
    assert open_data(source, size=4).spec.shape == (3, 4, 4)
    assert open_data(source, size="4x6").spec.shape == (3, 4, 6)
    for size in ("0", "4x", "axb", "1x2x3"):
        with pytest.raises(
            LimnerError, match=rf"data.size={size}: give one number below 100000, or HEIGHTxWIDTH"
        ):
            open_data(source, size=size)


@pytest.mark.parametrize(
    "options",
    [{"size": "99999x700"}, {"size": 8, "load_size": 99999}, {"size": 8, "buckets": "99999x9999"}],
)
def test_sizes_beyond_the_cap_of_pixels_are_refused(tmp_path: Path, options: dict):
    with pytest.raises(
        LimnerError, match=r"data.(load_)?(size|buckets): .* the limit is 64 megapix"
    ):
        open_data(pictures(tmp_path, "a.png"), **options)


def test_a_larger_picture_is_cropped_at_every_place_alike(tmp_path: Path):
    """A corner from 0 to 1 chooses among margin + 1 places on each side."""
    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).save(tmp_path / "a.png")
    data = open_data(f"folder:{tmp_path}", size=2, load_size=4)
    corners = torch.tensor([[0.0, 0.0], [0.33, 0.34], [0.34, 0.66], [0.67, 0.99], [1.0, 1.0]])
    crops = data.parts(torch.zeros(5, dtype=torch.int64), corners)
    assert crops[:, 0, 0, 0].tolist() == [0, 1, 5, 10, 10]
    assert data.pixels(torch.tensor([0])).flatten().tolist() == [5, 6, 9, 10]


def test_pictures_have_one_channel_if_all_are_grey(tmp_path):
    Image.new("L", (4, 4), 100).save(tmp_path / "a.png")
    assert open_data(f"folder:{tmp_path}").spec.channels == 1
    assert open_data(f"folder:{tmp_path}", channels=3).spec.channels == 3
    picture(tmp_path / "b.png", size=(4, 4))
    assert open_data(f"folder:{tmp_path}").spec.channels == 3
    grey = open_data(f"folder:{tmp_path}", channels=1)
    assert shades(grey) == [100, round(0.114 * 255)]


def test_holdout_splits_the_pictures_by_name(tmp_path):
    names = [f"{i}.png" for i in range(100)]
    source = pictures(tmp_path, *names)
    parts = [open_data(source, holdout=0.3, split=split) for split in ("train", "test")]
    split_names = [{data.name(i) for i in range(len(data))} for data in parts]
    assert split_names[0] | split_names[1] == set(names)
    assert not split_names[0] & split_names[1]
    assert 20 <= len(parts[1]) <= 40
    assert len(open_data(source, holdout=0.3, split="all")) == 100
    with pytest.raises(LimnerError, match=r"give for example data.holdout=0.1"):
        open_data(source, split="test")


def test_unknown_options_and_sources_are_refused(tmp_path):
    source = pictures(tmp_path, "a.png")
    with pytest.raises(LimnerError, match=r"'data.hold_out'; did you mean 'data.holdout'\?"):
        open_data(source, hold_out=0.1)
    with pytest.raises(LimnerError, match=r"data.fit='squash': input should be 'crop'"):
        open_data(source, fit="squash")
    with pytest.raises(LimnerError, match=r"unknown data source 'fodler:x'; did you mean 'folder"):
        open_data("fodler:x")
    with pytest.raises(LimnerError, match=r"\(for a folder, type folder:.*\)$"):
        open_data(str(tmp_path))
    (tmp_path / "my pictures").mkdir()
    with pytest.raises(LimnerError, match=r"\(for a folder, type 'folder:.*my pictures'\)$"):
        open_data(str(tmp_path / "my pictures"))
    with pytest.raises(LimnerError, match=r"'folder' has a wrong form; type folder:PATH"):
        open_data("folder")
    for url in ("https://a.org/b.zip", "zip:https://a.org/b.zip", "mixed:emoji,folder:s3://a/b"):
        with pytest.raises(LimnerError, match="is a URL; download the pictures and type folder:PA"):
            open_data(url)
    with pytest.raises(LimnerError, match=r"is a URL; type hf:owner/name$"):
        open_data("hf:https://huggingface.co/datasets/owner/name/")
    with pytest.raises(LimnerError, match=r"leave data.levels=5 out"):
        open_data(source, levels=5, binarise="dynamic")


def test_the_digest_depends_on_contents_and_options(tmp_path):
    source = pictures(tmp_path / "a", "1.png", "2.png")
    copy = pictures(tmp_path / "b", "1.png", "2.png")
    digest = open_data(source).digest
    assert open_data(copy).digest == digest
    assert open_data(copy, memory=0).digest == digest
    digests = {open_data(source, **o).digest for o in ({"flip": True}, {"levels": 4}, {"size": 4})}
    picture(tmp_path / "b" / "2.png", 200)
    assert len(digests | {digest, open_data(copy).digest}) == 5


def zipped(path: Path, root: Path) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root.parent))
    return f"zip:{path}"


def test_an_archive_equals_its_folder(tmp_path):
    root = tmp_path / "data"
    source = pictures(root, "dog/1.png", "cat/2.png", "cat/10.png")
    for name in ("dog/1", "cat/2", "cat/10"):
        (root / f"{name}.txt").write_text(f"this is {name}")
    (tmp_path / "data" / "__MACOSX").mkdir()
    picture(root / "__MACOSX" / "x.png")
    folder_data, zip_data = open_data(source), open_data(zipped(tmp_path / "data.zip", root))
    assert shades(folder_data) == shades(zip_data)
    assert folder_data.spec == zip_data.spec
    assert all_captions(folder_data) == all_captions(zip_data)
    uncached = open_data(f"zip:{tmp_path / 'data.zip'}", memory=0)
    assert uncached.digest == zip_data.digest
    assert shades(uncached) == shades(zip_data)


def test_unsafe_members_are_refused_and_named(tmp_path, monkeypatch):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    monkeypatch.setattr(files, "BYTE_CAP", 10_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (
            "ok.png",
            "../up.png",
            "in/../../up.png",
            "/abs.png",
            "C:/abs.png",
            "a\\b.png",
        ):
            archive.writestr(name, stream.getvalue())
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("bomb.png", bytes(10**6))
    data = open_data(f"zip:{tmp_path / 'a.zip'}", labels=False)
    assert [data.name(i) for i in range(len(data))] == ["a/b.png", "ok.png"]
    reasons = dict(data.skipped)
    out = "a path outside the archive"
    assert reasons.pop("link.png") == "a link"
    assert reasons.pop("bomb.png").startswith("larger than")
    assert set(reasons.values()) == {out}
    assert len(reasons) == 4
    monkeypatch.setattr(files, "TOTAL_CAP", 100)
    with pytest.raises(LimnerError, match=r"would unpack to"):
        open_data(f"zip:{tmp_path / 'a.zip'}")


def test_a_damaged_member_is_skipped(tmp_path):
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    root.mkdir()
    for i in range(4):
        noise = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / f"{i}.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i in range(4):
            archive.write(root / f"{i}.png", f"{i}.png")
        offset = archive.getinfo("2.png").header_offset + 1500
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[offset] ^= 255
    (tmp_path / "a.zip").write_bytes(data)
    dataset = open_data(f"zip:{tmp_path / 'a.zip'}")
    assert [name for name, _ in dataset.skipped] == ["2.png"]


def test_a_file_that_disappears_later_is_named(tmp_path):
    data = open_data(pictures(tmp_path, "a.png", "b.png"), memory=0)
    (tmp_path / "b.png").unlink()
    with pytest.raises(LimnerError, match=r"'b.png' can no longer be read"):
        Stream(data).batch(0, 2)


def test_several_lines_of_metadata_give_a_picture_all_their_captions(tmp_path):
    for i in range(2):
        Image.new("RGB", (4, 4), (90 * i, 0, 0)).save(tmp_path / f"{i}.png")
    texts = [(0, "a cat"), (0, "a pet"), (1, "a dog"), (0, "a cat"), (0, ["one", "two"])]
    rows = [{"file_name": f"{i}.png", "text": text, "label": "x"} for i, text in texts]
    file = tmp_path / "metadata.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    data = open_data(f"folder:{tmp_path}")
    assert data.entries[0].captions == ("a cat", "a pet", "one", "two")
    assert data.entries[1].captions == ("a dog",)
    captions = data.captions(torch.zeros(200).long(), Noise.keyed(0, 0, range(200)))
    assert set(captions) == {"a cat", "a pet", "one", "two"}
    file.write_text("\n".join(json.dumps(row) for row in [*rows, rows[2] | {"label": "y"}]))
    with pytest.raises(LimnerError, match=r"'1\.png' has the label 'x' .* and 'y' in another"):
        open_data(f"folder:{tmp_path}")
    assert not open_data(f"folder:{tmp_path}", labels=False).spec.labels


@pytest.mark.parametrize("by", ["round", "floor"])
def test_fewer_levels_are_the_nearest_or_n_bits_of_eight(tmp_path: Path, by: str):
    """All 256 values: floor(v / 8) is 5 bits of 8; for 52 values, rounding differs from it."""
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "a.png")
    data = open_data(f"folder:{tmp_path}", levels=32, levels_by=by)
    x = data.images(torch.tensor([0]), Noise.sampling(0, 1))
    k = to_levels(x, 32).flatten()
    v = torch.arange(256)
    nearest = (v * 31 / 255).round().long()
    assert torch.equal(k, v // 8 if by == "floor" else nearest)
    assert int((v // 8 != nearest).sum()) == 52
    other = "round" if by == "floor" else "floor"
    assert data.digest != open_data(f"folder:{tmp_path}", levels=32, levels_by=other).digest


def test_a_path_is_a_folder_or_an_archive(tmp_path):
    source = pictures(tmp_path / "own", "1.png", "2.png")
    archive = tmp_path / "own.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("1.png", "2.png"):
            file.write(tmp_path / "own" / name, name)
    for path in (tmp_path / "own", archive):
        assert shades(open_data(path)) == shades(open_data(source))


def test_folders_and_archives_can_be_pickled(tmp_path):
    pictures(tmp_path / "own", "1.png", "2.png")
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as file:
        file.write(tmp_path / "own" / "2.png", "2.png")
    for source in (tmp_path / "own", tmp_path / "own.zip"):
        data = open_data(source)
        copy = pickle.loads(pickle.dumps(data))
        assert shades(copy) == shades(data)
