"""Two domains: pairs by name, side by side, or in the papers' layouts; crops of pictures."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from limner.contract.errors import LimnerError
from limner.contract.noise import Noise
from limner.data import open_data
from limner.data.stream import Stream


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def random(seed: int, side: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save CycleGAN's layout in `ab` and pix2pix's in `sides`; B is the negative of A."""
    root = tmp_path_factory.mktemp("sets")
    for split, seeds in {"train": range(4), "test": range(4, 6)}.items():
        for seed in seeds:
            a = random(seed)
            save(root / "ab" / f"{split}A" / f"{seed}.png", a)
            save(root / "ab" / f"{split}B" / f"{seed}.png", 255 - a)
            folder = "val" if split == "test" else split
            save(root / "sides" / folder / f"{seed}.png", np.concatenate([a, 255 - a], 1))
    return root


@pytest.mark.parametrize("name", ["ab", "sides"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_pairs_in_the_layouts_of_the_papers(sets: Path, name: str, split: str):
    data = open_data(f"paired:folder:{sets / name}", split=split)
    assert data.paired and len(data) == {"train": 4, "test": 2}[split]
    assert data.training == (split == "train")
    batch = Stream(data).preview(len(data))
    assert batch.c.image is not None
    assert torch.allclose(batch.x, -batch.c.image, atol=1e-6)
    reverse = Stream(
        open_data(f"paired:folder:{sets / name}", split=split, direction="BtoA")
    ).preview(len(data))
    assert reverse.c.image is not None
    assert torch.equal(reverse.x, batch.c.image) and torch.equal(reverse.c.image, batch.x)


def test_pictures_for_validation_are_the_test_split_only_if_there_is_no_other(tmp_path: Path):
    for split, seeds in {"train": [0], "val": [1, 2], "test": [3]}.items():
        for seed in seeds:
            pair = np.concatenate([random(seed), random(seed + 9)], 1)
            save(tmp_path / split / f"{seed}.png", pair)
    data = open_data(f"paired:folder:{tmp_path}", split="test")
    assert [data.name(i) for i in range(len(data))] == ["test/3.png"]
    shutil.rmtree(tmp_path / "test")
    data = open_data(f"paired:folder:{tmp_path}", split="test")
    assert [data.name(i) for i in range(len(data))] == ["val/1.png", "val/2.png"]


def test_both_pictures_of_a_pair_are_cropped_and_mirrored_alike(sets: Path):
    source = f"paired:folder:{sets / 'sides'}"
    data = open_data(source, size=16, load_size=24, flip=True)
    first, second = (Stream(data, seed=3).batch(0, 24) for _ in range(2))
    assert first.c.image is not None
    assert torch.equal(first.x, second.x)
    assert torch.allclose(first.x, -first.c.image, atol=0.02)  # resizing rounds
    assert len({tuple(x.flatten().tolist()) for x in first.x}) > 12  # crops of four pictures
    whole = open_data(source, size=24, split="test")
    middle = open_data(source, size=16, load_size=24, flip=True, split="test")
    numbers = torch.arange(2)
    assert torch.equal(
        middle.images(numbers, Noise.sampling(0, 2)),
        whole.images(numbers, Noise.sampling(0, 2))[..., 4:20, 4:20],
    )


def test_the_two_domains_of_a_folder_are_drawn_independently(sets: Path):
    data = open_data(f"unpaired:folder:{sets / 'ab'}")
    assert not data.paired and data.name(0) == "trainB/0.png"
    batch = Stream(data).batch(0, 400)
    assert batch.c.image is not None
    is_pair = (batch.x + batch.c.image).abs().flatten(1).amax(1) < 1e-6
    assert 0.1 < float(is_pair.float().mean()) < 0.4  # one in four by chance
    hints = data.hints(torch.arange(4), torch.arange(4), 0)
    assert hints is not None
    assert len({tuple(x.flatten().tolist()) for x in hints}) == 4  # each of A once


def test_endless_pictures_can_be_either_domain(sets: Path):
    a, b = f"folder:{sets}/sides", "scenes:style=flat"
    for source in (f"unpaired:{a},{b}", f"unpaired:{b},{a}", f"unpaired:{b},{b}"):
        data = open_data(source, size=16)
        assert data.endless == source.endswith(b)
        stream, parts = Stream(data), [open_data(part, size=16) for part in (a, b)]
        batch = stream.batch(10**6, 3)
        assert batch.c.image is not None and batch.c.image.shape == batch.x.shape
        expected = parts[source.endswith(b)].images(
            stream.indices(torch.arange(10**6, 10**6 + 3)), Noise.sampling(0, 3)
        )
        assert torch.equal(batch.x, expected)


def test_a_pair_is_held_out_if_its_picture_of_b_is(tmp_path: Path):
    for i in range(60):
        for name in (f"A/{i}.bmp", f"B/{i}.png", *([f"C/{i}.png"] if i else [])):
            save(tmp_path / name, random(i, 4))
    one, two, three = (f"folder:{tmp_path}/{name}" for name in "ABC")

    def names(source: str, split: str, **options: object) -> list[str]:
        data = open_data(source, split=split, holdout=0.3, **options)
        assert not [file for file in data.skipped if file[0] != "0.png"]
        return [data.name(i).partition(".")[0] for i in range(len(data))]

    for split in ("train", "test"):
        expected = names(two, split)
        assert (
            names(f"paired:{one},{two}", split) == names(f"paired:{two},{two}", split) == expected
        )
        assert names(f"paired:{one},{two}", split, direction="BtoA") == expected
        assert {*names(f"paired:{three},{two}", split)} == {*expected} - {"0"}
    assert len(names(two, "test")) == 16  # the split of data without pairs is unchanged


def test_pictures_without_a_counterpart_are_named(tmp_path: Path):
    for i, name in enumerate(("A/x/1.png", "A/y/2.png", "B/x/1.jpg", "B/y/1.jpg", "B/y/2.jpg")):
        save(tmp_path / name, random(i, 8))
    a, b = f"folder:{tmp_path}/A", f"folder:{tmp_path}/B"
    data = open_data(f"paired:{a},{b}")
    assert [data.name(i) for i in range(2)] == ["x/1.jpg", "y/2.jpg"]
    assert data.skipped == (("y/1.jpg", f"no counterpart in {a}"),)
    assert open_data(f"paired:{b},{a}").skipped == (("y/1.jpg", f"no counterpart in {a}"),)


@pytest.mark.parametrize("options", [{}, {"holdout": 0.5}])
def test_a_picture_with_two_counterparts_is_refused(tmp_path: Path, options: dict[str, float]):
    for i, name in enumerate(("A/1.bmp", "A/2.bmp", "B/x/1.bmp", "B/x/2.bmp", "B/x/2.png")):
        save(tmp_path / name, random(i, 8))
    a, b = f"folder:{tmp_path}/A", f"folder:{tmp_path}/B"
    for source in (f"paired:{a},{b}", f"paired:{b},{a}"):
        with pytest.raises(LimnerError, match=r"'x/2.bmp' and 'x/2.png' have the same counterpart"):
            open_data(source, **options)
    (tmp_path / "A" / "2.bmp").unlink()
    data = open_data(f"paired:{a},{b}")
    assert len(data) == 1 and [name for name, _ in data.skipped] == ["x/2.bmp", "x/2.png"]


def test_styles_of_emoji_are_domains():
    source = "emoji:style=3d,emoji:style=flat"
    options = {"size": 16, "split": "held-out-concept"}
    data = open_data(f"paired:{source}", **options)
    assert len(data) == 105
    assert data.spec.domain == "flat" and data.spec.hint and data.spec.hint.domain == "3d"
    batch = Stream(data).preview(105)
    assert batch.c.image is not None
    x, y = batch.x.flatten(1), batch.c.image.flatten(1)
    assert float((torch.cdist(x, y).argmin(1) == torch.arange(105)).float().mean()) > 0.9
    styles = {"a.style": "3d", "b.style": "flat"}
    assert open_data("paired:emoji,emoji", **options, **styles).spec == data.spec


def test_coloured_digits_are_the_digits_in_a_colour(tmp_path: Path, monkeypatch):
    folder = tmp_path / "mnist"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 28, 28), dtype=np.uint8)
    head = bytes([0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 28, 0, 0, 0, 28])
    (folder / "train-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
    (folder / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3]))
    monkeypatch.setenv("LIMNER_DATA", str(tmp_path))
    data = open_data("paired:mnist,coloured-mnist")
    batch = Stream(data).preview(3)
    assert batch.c.image is not None
    assert torch.equal(batch.x.amax(1, keepdim=True), batch.c.image)  # the brightest channel
    assert batch.x.amin() == -1 and (batch.x.amin(1) < batch.x.amax(1)).any()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("paired:folder:{}/ab,emoji", {"size": 16}, "rename counterparts, or use unpaired:"),
        ("unpaired:folder:{}/sides", {}, "has no folders trainA and trainB"),
        ("paired:folder:{}/ab", {"direction": "back"}, "give AtoB or BtoA"),
        ("folder:{}/ab", {"size": 24, "load_size": 16}, "give a data.size that is not larger"),
        ("emoji:stile=flat", {}, "did you mean 'data.style'"),
        ("paired:scenes,scenes", {}, "use unpaired:"),
    ],
)
def test_what_cannot_be_paired_is_refused(sets: Path, source: str, options: dict, message: str):
    with pytest.raises(LimnerError, match=message):
        open_data(source.format(sets), **options)


def test_paired_and_unpaired_data_of_the_same_pictures_differ(sets: Path):
    source = f"folder:{sets / 'ab'}"
    assert open_data(f"paired:{source}").digest != open_data(f"unpaired:{source}").digest
