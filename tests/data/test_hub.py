"""Data sets of the library `datasets`: limner reads the same rows as the library."""

import io
import sys
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Features, Value
from datasets import Image as ImageColumn
from PIL import Image

from limner.contract.errors import LimnerError
from limner.contract.noise import Noise
from limner.data import Stream, check, open_data

N = 30
FEATURES = Features(
    image=ImageColumn(), text=Value("string"), label=ClassLabel(names=["odd", "even"]),
    copy=ImageColumn(), titles=[Value("string")],
)  # fmt: skip


def picture(i: int) -> dict[str, bytes | str]:
    image = Image.new("RGB", (8, 8), (8 * i, 255 - 8 * i, i))
    image.putpixel((0, 0), (i, i, i))
    image.save(file := io.BytesIO(), "PNG")
    return {"bytes": file.getvalue(), "path": f"{i}.png"}


def table(first: int = 0, n: int = N) -> datasets.Dataset:
    rows = [
        {"image": picture(i), "text": f"shade {i}", "label": (i + 1) % 2, "copy": picture(i),
         "titles": [f"title {i}", f"name {i}"]}
        for i in range(first, first + n)
    ]  # fmt: skip
    return datasets.Dataset.from_list(rows, features=FEATURES)


@pytest.fixture(autouse=True)
def _own_caches(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    datasets.disable_progress_bars()


@pytest.fixture
def parquet(tmp_path) -> Path:
    root = tmp_path / "shades"
    root.mkdir()
    table(0, 20).to_parquet(root / "train-00000-of-00002.parquet", batch_size=8)
    table(20, 10).to_parquet(root / "train-00001-of-00002.parquet", batch_size=8)
    return root


def check_equal_to_the_library(data, rows: datasets.Dataset) -> None:
    assert len(data) == len(rows)
    texts = data.captions(torch.arange(len(rows)), Noise.sampling(0, len(rows)))
    for i, row in enumerate(rows):
        pixels = data.pixels(torch.tensor([i]))[0].permute(1, 2, 0).numpy().tobytes()
        assert pixels == row["image"].convert("RGB").tobytes()
        assert texts[i] == row["text"]
        assert int(data.labels[i]) == row["label"]
    assert data.spec.labels == ("odd", "even")


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_equal_those_of_the_library(parquet, streaming):
    data = open_data(f"hf:{parquet}", streaming=streaming, memory=0, image_key="image")
    check_equal_to_the_library(data, datasets.load_dataset(str(parquet), split="train"))
    text_data = open_data(f"hf:{parquet}", streaming=streaming, text=True, image_key="image")
    a, b = Stream(text_data, 5).batch(0, 70), Stream(text_data, 5).batch(33, 37)
    assert torch.equal(a.x[33:], b.x)
    assert torch.equal(a.c.text[33:], b.c.text)
    assert sorted(Stream(text_data, 5).indices(torch.arange(N)).tolist()) == list(range(N))


CARD = """---
dataset_info:
  features:
  - {name: image, dtype: image}
  - {name: label, dtype: {class_label: {names: {"0": odd, "1": even}}}}
---
"""


@pytest.mark.parametrize("streaming", [False, True])
def test_the_card_names_the_classes_of_files_that_do_not(tmp_path, streaming):
    rows = {"image": [picture(i) for i in range(3)], "label": [1, 0, 1]}
    pq.write_table(pa.table(rows), tmp_path / "train.parquet")
    (tmp_path / "README.md").write_text(CARD)
    data = open_data(f"hf:{tmp_path}", streaming=streaming)
    assert data.spec.labels == ("odd", "even") and data.labels.tolist() == [1, 0, 1]


def test_streaming_copies_nothing(parquet, tmp_path):
    open_data(f"hf:{parquet}", streaming=True, image_key="image")
    assert not list(tmp_path.rglob("*.arrow"))
    open_data(f"hf:{parquet}", image_key="image")
    assert list(tmp_path.rglob("*.arrow"))


def test_other_forms_of_the_same_rows(parquet, tmp_path):
    rows = table()
    rows.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(train=rows, test=table(40, 4)).save_to_disk(tmp_path / "both")
    for address in (tmp_path / "saved", tmp_path / "both"):
        check_equal_to_the_library(open_data(f"hf:{address}", image_key="image"), rows)
    one_file = open_data(f"hf:{parquet}/train-00001-of-00002.parquet", image_key="image")
    assert len(one_file) == 10
    assert len(open_data(f"hf:{tmp_path}/both", split="test", image_key="image")) == 4
    assert len(open_data(f"hf:{tmp_path}/both", split="all", image_key="image")) == N + 4
    for address in (parquet, tmp_path / "saved", tmp_path / "both"):
        subset = open_data(f"hf:{address}", train_split="train[:20%]", image_key="image")
        check_equal_to_the_library(subset, rows.select(range(6)))


def test_options_that_would_have_no_effect_are_refused(parquet, tmp_path):
    table().save_to_disk(tmp_path / "saved")
    for option in ("config", "revision"):
        with pytest.raises(LimnerError, match=f"written by save_to_disk.*data.{option}; leave it"):
            open_data(f"hf:{tmp_path}/saved", image_key="image", **{option: "main"})
    options = {"image_key": "image", "train_split": "train[:20%]"}
    with pytest.raises(LimnerError, match=r"whole splits, not 'train\[:20%\]'; give 'train', or"):
        open_data(f"hf:{parquet}", streaming=True, **options)


def test_a_part_of_a_split_may_be_held_out(tmp_path):
    datasets.DatasetDict(train=table(), test=table(40, 4)).save_to_disk(tmp_path / "both")
    options = {"image_key": "image", "train_split": "train[:50%]", "test_split": "train[50%:]"}
    parts = {s: open_data(f"hf:{tmp_path}/both", split=s, **options) for s in ("train", "test")}
    check_equal_to_the_library(parts["train"], table(0, 15))
    check_equal_to_the_library(parts["test"], table(15, 15))
    for name in ("tst", "tst[:3]"):
        with pytest.raises(LimnerError, match=r"unknown split 'tst.*did you mean 'test'"):
            open_data(f"hf:{tmp_path}/both", **options | {"test_split": name})


def test_a_folder_of_pictures(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(3):
            file = tmp_path / "pets" / name / f"{i}.png"
            file.write_bytes(picture(10 * i + len(file.parts))["bytes"])
    ours = open_data(f"hf:{tmp_path}/pets")
    folder = open_data(f"folder:{tmp_path}/pets")
    assert ours.spec == folder.spec
    assert torch.equal(ours.pixels(torch.arange(6)), folder.pixels(torch.arange(6)))
    with pytest.raises(LimnerError, match=r"data.streaming reads Parquet .* leave it out"):
        open_data(f"hf:{tmp_path}/pets", streaming=True)


def test_columns_are_chosen_by_name(parquet):
    data = open_data(f"hf:{parquet}", hint_key="copy", caption_key="titles", flip=True, size=6)
    batch = Stream(data).batch(0, 20)
    assert torch.equal(batch.x, batch.c.image)
    texts = {data.captions(torch.tensor([3]), Noise.sampling(s, 1))[0] for s in range(20)}
    assert texts == {"title 3", "name 3"}
    with pytest.raises(LimnerError, match=r"several columns of pictures \(image, copy\); name it"):
        open_data(f"hf:{parquet}")
    with pytest.raises(LimnerError, match="unknown column 'imag'; did you mean 'image'"):
        open_data(f"hf:{parquet}", image_key="imag")


def test_broken_rows_and_held_out_rows(tmp_path):
    rows = table().to_list()
    rows[4]["image"]["bytes"] = rows[4]["image"]["bytes"][:50]
    rows[6]["text"] = " "
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_list(rows, features=FEATURES).to_parquet(path)
    with pytest.raises(LimnerError, match=r"2 of 30 pictures .* are broken: 'train/4'"):
        open_data(f"hf:{path}", image_key="image")
    options = {"image_key": "image", "broken": 0.1, "holdout": 0.4}
    parts = {s: open_data(f"hf:{path}", split=s, **options) for s in ("train", "test", "all")}
    assert len(parts["train"]) + len(parts["test"]) == len(parts["all"]) == 28
    assert dict(check(f"hf:{path}", image_key="image").broken)["train/6"] == "no caption"


def test_what_cannot_be_opened_is_refused_in_one_line(parquet, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        LimnerError, match=r"hf:nobody/nothing cannot be opened: .*no such local path"
    ):
        open_data("hf:nobody/nothing")
    with pytest.raises(LimnerError, match="unknown split 'tran'; did you mean 'train'"):
        open_data(f"hf:{parquet}", train_split="tran", image_key="image")
    with pytest.raises(LimnerError, match=r"no pictures are held out; give for example data"):
        open_data(f"hf:{parquet}", split="test", image_key="image")
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "datasets", None)
        with pytest.raises(LimnerError, match=r"hf: needs the library datasets; type: pip .*hf"):
            open_data(f"hf:{parquet}")
    (tmp_path / "words.csv").write_text("a,b\n1,2\n")
    with pytest.raises(LimnerError, match="cannot be opened"):
        open_data(f"hf:{tmp_path}/words.csv")
