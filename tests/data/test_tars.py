"""Pictures in tar shards: read as WebDataset reads them, indexed once, resumed exactly."""

import gzip
import io
import json
import shutil
import tarfile
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from limner.contract.errors import LimnerError
from limner.contract.image import to_uint8
from limner.contract.noise import Noise
from limner.data import Stream, check, open_data, records

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from webdataset import TarWriter
    from webdataset.tariterators import group_by_keys, tar_file_iterator

N, PER = 24, 8


def picture(i: int, form: str = "png", size: int = 8) -> bytes:
    image = Image.new("RGB", (size, size), (10 * i, 255 - 10 * i, i))
    image.putpixel((0, 0), (i, i, i))
    image.save(file := io.BytesIO(), form)
    return file.getvalue()


def record(i: int) -> dict[str, bytes | str]:
    text = json.dumps({"text": f"shade {i}", "label": i % 3, "title": f"title {i}"}).encode()
    image = picture(i)
    files = {"png": image, "json": text, "copy.png": image, "cls": str(i % 2).encode()}
    return {"__key__": f"{i:04}"} | files


def write(path: Path, rows: list[dict[str, bytes | str]]) -> None:
    with TarWriter(str(path), encoder=False) as writer:
        for row in rows:
            writer.write(row)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shards(tmp_path) -> str:
    for s in range(N // PER):
        write(tmp_path / f"{s:02}.tar", [record(i) for i in range(s * PER, (s + 1) * PER)])
    return f"wds:{tmp_path}/{{00..{N // PER - 1:02}}}.tar"


def test_records_equal_those_that_webdataset_reads(shards, tmp_path):
    data = open_data(shards)
    theirs = []
    for path in sorted(tmp_path.glob("*.tar")):
        with path.open("rb") as stream:
            files = ({**file, "__url__": ""} for file in tar_file_iterator(stream))
            theirs += group_by_keys(files)
    assert len(data) == len(theirs) == N
    texts = data.captions(torch.arange(N), Noise.sampling(0, N))
    for i, row in enumerate(theirs):
        image = Image.open(io.BytesIO(row["png"])).convert("RGB")
        assert (
            data.pixels(torch.tensor([i]))[0].permute(1, 2, 0).numpy().tobytes() == image.tobytes()
        )
        assert texts[i] == json.loads(row["json"])["text"]
        assert data.spec.labels[int(data.labels[i])] == row["cls"].decode()
        assert data.name(i).endswith(row["__key__"])


def test_the_index_is_made_once_and_again_for_a_changed_shard(shards, tmp_path, monkeypatch):
    first = Stream(open_data(shards, text=True), 4)
    surveys = []
    survey = records.survey
    monkeypatch.setattr(
        records, "survey", lambda shard: surveys.append(shard.name) or survey(shard)
    )
    second = Stream(open_data(shards, text=True), 4)
    assert not surveys
    assert second.dataset.digest == first.dataset.digest
    for start in (0, 17, 1000):
        a, b = first.batch(start, 7), second.batch(start, 7)
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.c.text, b.c.text)
        assert torch.equal(a.c.label, b.c.label)
    write(tmp_path / "01.tar", [record(i + 1) for i in range(PER, 2 * PER)])
    assert open_data(shards, text=True).digest != first.dataset.digest
    assert surveys == ["01.tar"]
    shutil.copy(tmp_path / "00.tar", tmp_path / "moved.tar")
    digests = [open_data(f"wds:{tmp_path}/{name}.tar").digest for name in ("00", "moved")]
    assert digests[0] == digests[1], "the digest depends on contents, not on paths"


def test_a_damaged_index_is_made_again(shards, cache):
    data = open_data(shards)
    for file in cache.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-5] + b"wrong")
    assert open_data(shards).digest == data.digest


def test_pictures_are_the_same_whether_kept_or_decoded_each_time(shards):
    kept, fresh = open_data(shards, size=6), open_data(shards, size=6, memory=0)
    assert fresh._pixels is None
    order = torch.tensor([3, 3, 20, 0])
    for _ in range(2):
        assert torch.equal(kept.pixels(order), fresh.pixels(order))
    assert kept._is_loaded.sum() == 3


@pytest.mark.parametrize("options", [{}, {"load_size": 8}])
def test_hints_are_transformed_like_the_pictures(shards, options):
    data = open_data(shards, size=6, hint_key="copy.png", flip=True, **options)
    assert data.spec.hint.shape == (3, 6, 6)
    batch = Stream(data, 1).batch(0, 40)
    assert torch.equal(batch.x, batch.c.image)
    assert torch.equal(Stream(data).preview(9).x, Stream(data).preview(9).c.image)


def test_keys_select_what_is_read(shards):
    def open_shards(**options: object):
        return open_data(shards, **options)

    titled = open_shards(caption_key="json.title", label_key="json.label")
    assert titled.captions(torch.tensor([5]), Noise.sampling(0, 1)) == ["title 5"]
    assert titled.spec.labels == ("0", "1", "2")
    assert titled.spec.frequencies == pytest.approx([1 / 3] * 3)
    plain = open_shards(labels=False, captions=False)
    assert plain.labels is None
    assert plain.captions(torch.tensor([5]), Noise.sampling(0, 1)) is None
    for name in ("caption", "label", "hint"):
        with pytest.raises(
            LimnerError, match=f"no record has its {name} under 'x'.*copy.png, json.FIELD"
        ):
            open_shards(**{f"{name}_key": "x"})
    with pytest.raises(LimnerError, match="'1' is given twice; give each name once"):
        open_shards(labels=["0", "1", "1"])
    with pytest.raises(LimnerError, match="no record has its picture under 'jpg'; give another d"):
        open_shards(image_key="jpg")
    with pytest.raises(LimnerError, match="leave one of the two out"):
        open_shards(hint="lowres", hint_key="copy.png")
    with pytest.raises(LimnerError, match=r"has no captions; .*leave data.text=true out"):
        open_shards(captions=False, text=True)


def test_broken_records_are_named_counted_and_left_out_up_to_a_share(tmp_path):
    rows = [record(i) for i in range(20)]
    rows[3]["png"] = rows[3]["png"][:60]
    rows[5]["png"] = b"no picture"
    del rows[7]["png"], rows[7]["copy.png"]
    rows[9]["json"] = b"{}"
    write(tmp_path / "a.tar", rows)
    source = f"wds:{tmp_path}/a.tar"
    with pytest.raises(LimnerError, match=r"4 of 20 pictures.*broken: 'a.tar/0003'.*data.broken"):
        open_data(source)
    data = open_data(source, broken=0.2)
    assert len(data) == 16
    reasons = dict(data.skipped)
    assert {*reasons} == {f"a.tar/000{i}" for i in (3, 5, 7, 9)}
    assert reasons["a.tar/0005"] == "not a picture"
    assert reasons["a.tar/0009"] == "no caption"
    assert reasons["a.tar/0007"] == "there is no picture among cls, json"
    assert len(open_data(source, broken=0.2, captions=False)) == 17
    report = check(source)
    assert dict(report.broken) == reasons
    assert (report.pictures, report.captioned, report.refused_by_training) == (16, 16, True)
    assert not check(source, broken=0.2).refused_by_training


def test_a_picture_with_a_further_suffix_is_named_with_the_key_that_reads_it(tmp_path):
    rows: list = [{"__key__": f"{i}", "image.png": picture(i), "txt": b"a"} for i in range(4)]
    write(tmp_path / "a.tar", rows)
    with pytest.raises(LimnerError, match=r"among image.png, txt; give data.image_key=image.png\)"):
        open_data(f"wds:{tmp_path}/a.tar")
    assert len(open_data(f"wds:{tmp_path}/a.tar", image_key="image.png")) == 4


def test_texts_that_are_not_utf8_are_named_and_left_out(tmp_path):
    rows = [record(i) | {"txt": f"caf\u00e9 {i}".encode()} for i in range(8)]
    rows[2]["txt"] = "caf\u00e9".encode("latin-1")
    rows[5]["cls"] = "th\u00e9".encode("latin-1")
    rows[6]["txt"] = "\ufeffwith a mark of the byte order".encode()
    write(tmp_path / "a.tar", rows)
    source = f"wds:{tmp_path}/a.tar"
    data = open_data(source, broken=0.5)
    assert dict(data.skipped) == {
        "a.tar/0002": "its caption is not UTF-8 text; save it as UTF-8",
        "a.tar/0005": "its label is not UTF-8 text; save it as UTF-8",
    }
    assert dict(check(source).broken) == dict(data.skipped)
    assert data.spec.labels == ("0", "1")
    captions = data.captions(torch.arange(6), Noise.sampling(0, 6))
    assert captions is not None and captions[0] == "caf\u00e9 0"
    assert captions[4] == "with a mark of the byte order"
    assert len(open_data(source, captions=False, labels=False)) == 8
    write(tmp_path / "b.tar", [row | {"txt": "a dog".encode("utf-16")} for row in rows])
    with pytest.raises(LimnerError, match=r"8 of 8 .*'b.tar/0000' \(its caption is not.*b.tar$"):
        open_data(f"wds:{tmp_path}/b.tar")


def test_a_truncated_shard_is_named(tmp_path):
    write(tmp_path / "a.tar", [record(i) for i in range(20)])
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(content[: content.index(b"0012.png") + 600])
    data = open_data(f"wds:{tmp_path}/a.tar", broken=0.2)
    assert 11 <= len(data) <= 12
    assert data.skipped[-1][0].startswith("a.tar")


def test_a_shard_that_was_cut_where_a_file_starts_is_named(tmp_path):
    write(tmp_path / "a.tar", [record(i) for i in range(20)])
    content = (tmp_path / "a.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        offset = archive.getmember("0012.cls").offset
    for i, cut in enumerate(
        (content[:offset], content[: offset + 100], content[:offset] + b"x" * 512)
    ):
        (tmp_path / f"{i}.tar").write_bytes(cut)
        data = open_data(f"wds:{tmp_path}/{i}.tar", labels=False, captions=False)
        message = "the file is truncated or damaged after '0011'"
        assert data.skipped == ((f"{i}.tar", message),) and len(data) == 12
    assert not open_data(f"wds:{tmp_path}/a.tar").skipped


def test_files_of_the_operating_system_are_not_records(tmp_path):
    of_macos = {"__key__": "._0001", "png": b"x"}
    for name, files in {"a": [record(1)], "b": [of_macos, record(1)]}.items():
        write(tmp_path / f"{name}.tar", files)
    a, b = (open_data(f"wds:{tmp_path}/{name}.tar") for name in "ab")
    assert b.skipped == () and b.digest == a.digest


def test_what_is_not_a_shard_is_refused_in_one_line(shards, tmp_path):
    with pytest.raises(LimnerError, match=r"there is no shard '.*03.tar'; correct the pattern"):
        open_data(f"wds:{tmp_path}/{{00..03}}.tar")
    with pytest.raises(LimnerError, match="download or mount the shards"):
        open_data("wds:https://example.org/{00..03}.tar")
    with pytest.raises(LimnerError, match="matches no shard"):
        open_data(f"wds:{tmp_path}/nothing-*.tar")
    packed = tmp_path / "packed.tar"
    packed.write_bytes(gzip.compress((tmp_path / "00.tar").read_bytes()))
    with pytest.raises(LimnerError, match="if it is compressed"):
        open_data(f"wds:{packed}")
    with pytest.raises(LimnerError, match="no pictures are held out"):
        open_data(shards, split="test")
    with pytest.raises(LimnerError, match=r"has a wrong form; type wds:PATTERN.tar"):
        open_data("wds:")


def test_a_pattern_may_be_numbers_stars_or_a_folder(shards, tmp_path):
    digests = {
        open_data(f"wds:{tmp_path}{suffix}").digest for suffix in ("", "/*.tar", "/{00,01,02}.tar")
    }
    assert digests == {open_data(shards).digest}


def test_holdout_splits_the_records_by_name(shards):
    splits = {s: open_data(shards, split=s, holdout=0.3) for s in ("train", "test", "all")}
    names = {s: {data.name(i) for i in range(len(data))} for s, data in splits.items()}
    assert names["train"] | names["test"] == names["all"]
    assert not names["train"] & names["test"]
    assert names["test"]


def test_windows_keep_shards_together(shards):
    data = open_data(shards, shuffle=4)
    order = Stream(data, 2).indices(torch.arange(2 * N))
    assert sorted(order[:N].tolist()) == sorted(order[N:].tolist()) == list(range(N))
    assert len({*(order[:PER] // PER).tolist()}) == 1
    batch = Stream(data, 2).batch(5, 9)
    assert torch.equal(to_uint8(batch.x), data.pixels(order[5:14]))


def test_pictures_of_different_sizes_require_data_size(tmp_path):
    rows = [record(0), record(1)]
    rows[1]["png"] = picture(1, size=9)
    write(tmp_path / "a.tar", rows)
    with pytest.raises(LimnerError, match=r"'a.tar/0000' is 8 x 8, 'a.tar/0001' is 9 x 9"):
        open_data(f"wds:{tmp_path}/a.tar")
    assert open_data(f"wds:{tmp_path}/a.tar", size=8).spec.shape == (3, 8, 8)
