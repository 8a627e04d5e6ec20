"""`limner data check` reports findings instead of failing, whatever the data."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from limner.contract.errors import LimnerError
from limner.data import check, open_data
from limner.data.stream import Stream


@pytest.fixture
def awkward(tmp_path):
    """Fill a folder with one example of each finding, and return it."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    smooth = noise.resize((5, 5)).resize((40, 40), Image.Resampling.BICUBIC)
    for folder in ("cat", "dog"):
        (tmp_path / folder).mkdir()
    smooth.save(tmp_path / "cat" / "1.png")
    smooth.save(tmp_path / "cat" / "same.bmp")
    smooth.save(tmp_path / "cat" / "again.jpg", quality=85)
    Image.new("RGB", (20, 40), "red").save(tmp_path / "dog" / "2.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    noise.rotate(90).save(tmp_path / "dog" / "turned.jpg", exif=exif)
    noise.rotate(180).save(
        tmp_path / "dog" / "moving.gif", save_all=True, append_images=[noise.rotate(90)]
    )
    Image.new("L", (40, 40), 90).save(tmp_path / "dog" / "grey.png")
    (tmp_path / "cat" / "empty.png").touch()
    (tmp_path / "cat" / "half.png").write_bytes((tmp_path / "cat" / "1.png").read_bytes()[:500])
    (tmp_path / "cat" / "1.txt").write_text("a cat")
    return tmp_path


def test_everything_is_found(awkward):
    report = check(f"folder:{awkward}")
    assert report.pictures == 7
    assert report.sizes == {"40 x 40": 6, "20 x 40": 1}
    assert report.modes["L"] == 1
    assert report.formats["JPEG"] == 2
    assert report.labels == {"cat": 5, "dog": 4}
    assert (report.captioned, report.captions) == (1, [("cat/1.png", "a cat")])
    assert report.duplicates == [["cat/1.png", "cat/same.bmp"]]
    assert report.similar == [["cat/1.png", "cat/again.jpg"]]
    assert report.rotated == ["dog/turned.jpg"]
    assert report.animated == ["dog/moving.gif"]
    assert [name for name, _ in report.broken] == ["cat/empty.png", "cat/half.png"]
    assert len(report.problems) == 1  # the captions that are missing
    assert json.loads(json.dumps(report.to_json()))["pictures"] == 7


def test_the_text_lists_all_findings_in_columns(awkward):
    text = check(f"folder:{awkward}").text()
    for part in (
        "7 valid, 2 broken", "40 x 40 (6), 20 x 40 (1)", "2: cat (5), dog (4)", "1 of 9 pictures",
        "cat/1.png = cat/same.bmp", "cat/1.png ~ cat/again.jpg", "empty.png: empty file",
        "broken (2)", "to fix (1)", "data.captions=false",
    ):  # fmt: skip
        assert part in text
    columns = {
        len(line) - len(line[20:].lstrip()) for line in text.splitlines() if line[:20].strip() == ""
    }
    assert len(columns) <= 1


def test_the_sheet_shows_the_pictures(awkward, tmp_path):
    check(f"folder:{awkward}").sheet(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (662, 68)


def test_a_line_break_in_a_name_does_not_break_the_line(tmp_path):
    (tmp_path / "a\nb.png").write_bytes(b"broken")
    assert "a\\nb.png: not a picture" in check(f"folder:{tmp_path}").text()


def test_many_pictures_make_a_hundred_tiles(tmp_path):
    for i in range(230):
        Image.new("RGB", (2, 2), (i, 0, 0)).save(tmp_path / f"{i}.png")
    assert 70 <= len(check(f"folder:{tmp_path}").tiles) <= 100


def test_empty_data_are_a_finding(tmp_path):
    report = check(f"folder:{tmp_path}")
    assert report.pictures == 0
    assert "contains no pictures" in report.problems[0]
    assert "0 valid" in report.text()
    report.sheet(tmp_path / "sheet.png")
    with pytest.raises(LimnerError, match="there is no folder"):
        check(f"folder:{tmp_path / 'none'}")


def test_a_split_without_pictures_is_a_finding(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    report = check(f"folder:{tmp_path}", holdout=0.001, split="test")
    assert report.refused_by_training
    assert "has no pictures in split 'test'; give data.split=train" in report.problems[0]


def test_both_domains_of_pairs_and_missing_counterparts_are_shown(tmp_path):
    for domain, names in (("a", "123"), ("b", "234")):
        (tmp_path / domain).mkdir()
        for name in names:
            Image.new("RGB", (8, 8), (50 * int(name), 0, 0)).save(tmp_path / domain / f"{name}.png")
    pair = f"folder:{tmp_path}/a,folder:{tmp_path}/b"
    report = check(f"paired:{pair}", size=4)
    assert report.pictures == 6 and not report.refused_by_training
    assert "paired\n2 pairs\nleft out: 4.png (no counterpart in folder:" in report.text()
    assert [name for name, _ in report.to_json()["unpaired"]] == ["4.png", "1.png"]
    assert check(f"unpaired:{pair}").text().endswith("unpaired\nthe sources agree")
    (tmp_path / "b" / "3.png").write_bytes(b"broken")
    (tmp_path / "b" / "2.png").write_bytes(b"broken")
    assert check(f"paired:{pair}").refused_by_training


def test_wrong_metadata_are_findings(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "b.png"}\nno json\n')
    assert len(check(f"folder:{tmp_path}").problems) == 2


def test_pictures_without_a_class_are_findings(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,cat\n")
    report = check(f"folder:{tmp_path}")
    assert report.problems[0].startswith("'b.png' has no label although other pictures have one")


def test_the_number_of_similar_pairs_is_limited(tmp_path):
    for i in range(60):
        Image.new("RGB", (4, 4), (100, 100, 100 + i % 2)).save(tmp_path / f"{i}.png")
        Image.new("RGB", (4, 4), (100, 100, 100)).resize((4 + i, 4)).save(tmp_path / f"wide{i}.png")
    assert len(check(f"folder:{tmp_path}").similar) == 1000


def test_captions_that_no_model_can_read_are_named_and_not_trained_on(tmp_path):
    texts = {"a": "кот", "b": "собака", "c": "a dog"}
    for name, caption in texts.items():
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(caption, encoding="utf-8")
    report = check(f"folder:{tmp_path}")
    assert report.unread == [("a.png", "кот"), ("b.png", "собака")]
    assert "no known word (2)" in report.text()
    Stream(open_data(f"folder:{tmp_path}", text=True)).check_captions()
    (tmp_path / "c.png").unlink()
    with pytest.raises(LimnerError, match="such as 'кот', have no known word; models"):
        Stream(open_data(f"folder:{tmp_path}", text=True)).check_captions()


def test_archives_and_named_sets(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../a.png", b"")
        archive.writestr("b.png", b"")
    report = check(f"zip:{tmp_path / 'a.zip'}")
    assert report.refused == [("../a.png", "a path outside the archive")]
    assert report.broken == [("b.png", "empty file")]
    emoji = check("emoji", split="held-out-concept")
    assert emoji.pictures == emoji.captioned == sum(emoji.labels.values()) > 100
    assert not emoji.problems


def test_what_training_would_refuse_is_reported_with_the_same_names(tmp_path):
    for i in range(6):
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    source = f"folder:{tmp_path}"
    assert not check(source).refused_by_training
    (tmp_path / "1.png").write_bytes(b"")
    assert not check(source).refused_by_training  # one may be broken
    (tmp_path / "2.png").write_bytes(b"")
    content = (tmp_path / "3.png").read_bytes()
    (tmp_path / "3.png").write_bytes(content[:-30])  # broken pixels behind a valid header
    report = check(source)
    assert report.refused_by_training and len(report.broken) == 3
    with pytest.raises(LimnerError, match=r"3 of 6 pictures") as error:
        open_data(source)
    assert all(f"'{name}'" in str(error.value) for name, _ in report.broken)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "the pictures differ in size: '0.png' is 8 x 8, '2.png' is 16 x 8"),
        ({"size": 8, "text": True}, "has no captions; .*leave data.text=true out"),
        ({"size": 8, "buckets": "a"}, "data.buckets=a: give sizes as HEIGHTxWIDTH"),
        ({"size": 8, "buckets": "8x16,64x8"}, "is nearest to 64x8"),
        ({"size": 8, "hint": "mask"}, "data.hint=mask needs the positions of objects"),
    ],
)
def test_what_training_refuses_because_of_its_options_is_a_finding(tmp_path, options, message):
    for i in range(4):
        Image.new("RGB", (8 * (1 + i // 2), 8), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    source = f"folder:{tmp_path}"
    with pytest.raises(LimnerError, match=message) as error:
        open_data(source, **options)
    report = check(source, **options)
    assert report.refused_by_training and report.problems == [str(error.value)]
    for good_options in ({"size": 8}, {"size": 8, "buckets": "8x16"}, {"size": 8, "hint": "edges"}):
        assert not check(source, **good_options).refused_by_training


def test_captions_without_a_known_word_are_refused_only_with_text(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("кот", encoding="utf-8")
    assert not check(f"folder:{tmp_path}").refused_by_training
    assert "models read English" in check(f"folder:{tmp_path}", text=True).problems[0]


def test_each_source_of_a_mixture_is_reported(awkward, tmp_path):
    for name in ("one", "two", "wide"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (16 if name == "wide" else 8, 8), "red").save(tmp_path / name / "a.png")
    one, two, wide = (f"folder:{tmp_path / name}" for name in ("one", "two", "wide"))
    report = check([one, two], **{"b.channels": 3, "weights": [3, 1]})
    assert [part.source for part in report.parts] == [one, two] and report.pictures == 2
    assert not report.refused_by_training and report.text().endswith("the sources agree")
    report.sheet(tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").getpixel((70, 5)) == (255, 0, 0)
    differing = check(f"mixed:{one},{wide}", channels=3)
    assert differing.refused_by_training and "must agree" in differing.to_json()["problems"][0]
    broken = check([one, f"folder:{awkward / 'cat'}"])
    assert broken.refused_by_training and f"to fix in folder:{awkward}" in broken.text()
    assert json.dumps(broken.to_json()) and len(broken.to_json()["parts"][1]["broken"]) == 2
    with pytest.raises(LimnerError, match="unknown data option"):
        check([one, two], sizes=8)
