"""Pictures with several aspect ratios: their sizes, and models that train and paint in all."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from limner.commands.app import app
from limner.commands.request import SamplingRequest
from limner.contract.checkpoint import load, load_tensors, save_model
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.data import Stream, open_data
from limner.data.buckets import bucket_sizes, nearest
from limner.evaluate.evaluation import evaluate
from limner.training.estimate import dry_run
from limner.training.recipe import Recipe
from limner.training.run import resume, train

SIZES = {"square": (16, 16), "wide": (8, 24), "tall": (24, 8)}
SHAPES = {"square": 24, "wide": 12, "tall": 6}
"""The number of pictures of each shape."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save pictures with about three aspect ratios, each in one grey; return their folder."""
    folder = tmp_path_factory.mktemp("pictures")
    for shape, count in SHAPES.items():
        height, width = SIZES[shape]
        for i in range(count):
            size = 5 * width + i % 3, 5 * height - i % 2
            Image.new("RGB", size, (4 * i + 1,) * 3).save(folder / f"{shape}-{i:02}.png")
    return folder


def open_folder(folder: Path, **options: Any) -> Any:
    arguments = {"size": 16, "buckets": "8x24,24x8"} | options
    return open_data(f"folder:{folder}", **arguments)


def test_a_picture_gets_the_size_with_the_nearest_aspect_ratio(folder: Path):
    assert nearest([(16, 16), (8, 24)], 10, 17) == (16, 16)
    assert nearest([(16, 16), (8, 24)], 10, 18) == (8, 24)  # 1.73 is halfway between ratios 1 and 3
    assert bucket_sizes("8x24, 24X8") == [(8, 24), (24, 8)]
    data = open_folder(folder)
    assert (len(data), data.spec.shape, data.sizes) == (42, (3, 16, 16), (*SIZES.values(),))
    for shape, (height, width) in SIZES.items():
        numbers = [i for i in range(42) if data.name(i).startswith(shape)]
        assert len(numbers) == SHAPES[shape]
        assert data.pixels(torch.tensor(numbers)).shape[2:] == (height, width)


def test_a_half_of_a_picture_gets_the_size_nearest_to_the_half(tmp_path: Path):
    for i, (width, height) in enumerate([(32, 16), (48, 8), (16, 24)]):
        Image.new("RGB", (width, height), (i, i, i)).save(tmp_path / f"{i}.png")
    data = open_folder(tmp_path, half="left")
    shapes = [data.pixels(torch.tensor([i])).shape[2:] for i in range(3)]
    assert [data.name(i) for i in range(3)] == ["0.png", "1.png", "2.png"]
    assert shapes == [(16, 16), (8, 24), (24, 8)]


def test_a_batch_has_one_size_and_each_size_has_its_share_and_epochs(folder: Path):
    stream = Stream(open_folder(folder), seed=3, together=6)
    batches = [stream.indices(torch.arange(first, first + 6)) for first in range(0, 6000, 6)]
    data, by_shape = stream.dataset, {shape: [] for shape in SIZES}
    for indices in batches:
        shapes = {data.name(i).split("-")[0] for i in indices.tolist()}
        assert len(shapes) == 1
        by_shape[shapes.pop()] += indices.tolist()
    for shape, count in SHAPES.items():
        assert len(by_shape[shape]) / 6000 == pytest.approx(count / 42, abs=0.001)
        times = Counter(by_shape[shape][: 5 * count])
        assert len(times) == count and {*times.values()} == {5}
    order = [data.name(int(indices[0])).split("-")[0] for indices in batches[:60]]
    assert len({*order[:20]}) == 3 and order != sorted(order)


def test_parts_of_a_batch_equal_the_whole_and_other_batches_are_refused(folder: Path):
    stream = Stream(open_folder(folder), seed=3, together=6)
    whole, parts = stream.batch(12, 6).x, [stream.batch(12 + i, 2).x for i in (0, 2, 4)]
    assert torch.equal(whole, torch.cat(parts))
    with pytest.raises(LimnerError, match=r"train\.batch=6 does not fit the batches"):
        stream.batch(3, 6)


def test_samples_held_out_pictures_and_evaluation_have_the_first_size(folder: Path):
    assert Stream(open_folder(folder), together=6).preview(5).x.shape == (5, 3, 16, 16)
    held_out = open_folder(folder, holdout=0.2, split="test")
    assert held_out.sizes == () and held_out.pixels(torch.arange(len(held_out))).shape[2:] == (
        16,
        16,
    )


@pytest.mark.parametrize(("options", "message"), {
    "no size": ({"size": None}, "give that, too: data.size=64"),
    "one side": ({"buckets": "8x"}, "data.buckets=8x: give sizes as HEIGHTxWIDTH"),
    "a number": ({"buckets": 24}, "no picture of .* is nearest to 24x24"),
    "twice": ({"buckets": "16x16"}, "a size is given twice"),
    "the same": ({"buckets": "32x32"}, "no picture of .* is nearest to 32x32"),
    "none of it": ({"buckets": "8x24,4x64"}, "no picture of .* is nearest to 4x64"),
    "none of the first": ({"size": "8x64"}, "no picture of .* is nearest to 8x64"),
    "hints": ({"hint": "lowres"}, "data.buckets and data.hint do not go together"),
    "parts": ({"load_size": 32}, "data.buckets and data.load_size do not go together"),
}.values())  # fmt: skip
def test_invalid_options_are_refused(folder: Path, options: dict[str, Any], message: str):
    with pytest.raises(LimnerError, match=message):
        open_folder(folder, **options)


@pytest.mark.parametrize("kind", ["paired", "unpaired", "mixed"])
def test_sources_of_several_parts_need_one_size(folder: Path, kind: str):
    source = f"{kind}:folder:{folder},folder:{folder}"
    with pytest.raises(LimnerError, match=r"must have one size; leave data\.buckets out"):
        open_data(source, size=16, buckets="8x24")


def test_only_folders_and_archives_have_aspect_ratios():
    with pytest.raises(LimnerError, match="in folders or archives, which emoji does not have"):
        open_data("emoji", size=16, buckets="8x24")


def test_one_picture_in_colour_makes_all_sizes_coloured(tmp_path: Path):
    Image.new("L", (40, 40)).save(tmp_path / "grey.png")
    Image.new("RGB", (60, 20)).save(tmp_path / "wide.png")
    assert open_folder(tmp_path, buckets="8x24").spec.channels == 3
    Image.new("L", (60, 20)).save(tmp_path / "wide.png")
    assert open_folder(tmp_path, buckets="8x24").spec.channels == 1


def test_broken_pictures_are_counted_over_all_sizes(folder: Path, tmp_path: Path):
    """Two of 37 are too many. One is accepted, although it is the only picture of its size."""
    for file in folder.glob("[sw]*.png"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = (folder / "tall-00.png").read_bytes()
    (tmp_path / "tall-00.png").write_bytes(content[: len(content) // 2])
    data = open_folder(tmp_path)
    assert len(data) == 36 and [name for name, _ in data.skipped] == ["tall-00.png"]
    assert data.sizes == (SIZES["square"], SIZES["wide"])
    (tmp_path / "wide-00.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(LimnerError, match=r"2 of 37 pictures of .* are broken"):
        open_folder(tmp_path)


SPEC = ImageSpec(3, 16, 16, labels=("a", "b"), frequencies=(0.5, 0.5))
PLAIN = replace(SPEC, labels=(), frequencies=())
OF_ANY_SIZE: dict[str, dict[str, Any]] = {
    "ddpm": {"T": 20, "network": "plain"},
    "edm": {},
    "flow-matching": {},
    "vdm": {"hidden": 8},
    "shortcut": {},
}


def perturbed_model(name: str, spec: ImageSpec) -> Any:
    torch.manual_seed(5)
    if name == "latent-diffusion":
        stage = perturbed_model("kl-autoencoder", replace(spec, labels=(), frequencies=()))
        model = build(name, spec, first_stage=stage, options={"channels": (8, 8)})
    elif name == "kl-autoencoder":
        model = build(name, spec, channels=(8, 8), critic_start=0)
    else:
        model = build(name, spec, channels=(8, 16), **OF_ANY_SIZE[name])
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model.eval()


@pytest.mark.parametrize("name", [*OF_ANY_SIZE, "kl-autoencoder", "latent-diffusion"])
def test_at_another_size_a_model_equals_one_built_for_that_size(name: str):
    """With the same weights in a model of that size, losses and pictures are the same."""
    spec = PLAIN if name == "kl-autoencoder" else SPEC
    reference = perturbed_model(name, replace(spec, height=8, width=24))
    model = perturbed_model(name, spec)
    reference.load_state_dict(model.state_dict())
    view = model.at_size(8, 24)
    assert view.spec == reference.spec and model.spec == spec and model.at_size(16, 16) is model
    assert next(view.parameters()) is next(model.parameters())
    c = Condition(torch.tensor([0, 1])) if spec.labels else Condition()
    x = torch.rand(2, 3, 8, 24) * 2 - 1
    losses = [
        [turn.loss for turn in m.turns(Batch(x, c), 300, Noise.keyed(0, 0, range(2)))]
        for m in (view, reference)
    ]
    assert losses[0] and losses[0] == losses[1]
    assert isinstance(view, GenerativeModel)
    options: dict[str, Any] = {} if name == "kl-autoencoder" else {"steps": 2}
    x = view.sample(2, c, seed=1, **options)
    assert x.shape == (2, 3, 8, 24) and torch.equal(x, reference.sample(2, c, seed=1, **options))


def test_a_guide_is_used_at_another_size(tmp_path: Path):
    model, guide = perturbed_model("edm", SPEC), perturbed_model("edm", SPEC)
    save_model(guide, tmp_path)
    options = {"steps": 2, "guide": str(tmp_path)}
    reference = perturbed_model("edm", replace(SPEC, height=8, width=24))
    save_model(reference, tmp_path / "there")
    x = model.at_size(8, 24).sample(2, seed=1, **options)
    reference.load_state_dict(model.state_dict())
    assert torch.equal(x, reference.sample(2, seed=1, steps=2, guide=str(tmp_path / "there")))


def test_a_model_for_one_size_refuses_others():
    with pytest.raises(LimnerError, match="gan models learn and paint pictures of one size"):
        build("gan", PLAIN).at_size(8, 24)
    with pytest.raises(LimnerError, match="sides must be multiples of 4; try 8x24"):
        perturbed_model("flow-matching", SPEC).at_size(8, 26)


@pytest.mark.usefixtures("undrawn_curves")
def test_a_run_trains_on_all_sizes_and_resumes_exactly(folder: Path, tmp_path: Path):
    options = ["data.size=16", "data.buckets=8x24,24x8", "model.channels=8,16", "train.batch=6"]
    options += ["train.save_every=5", "train.log_every=5", "train.threads=1"]
    recipe = Recipe.of("flow-matching", f"folder:{folder}", [*options, "train.steps=15"])
    whole, part = tmp_path / "whole", tmp_path / "part"
    train(recipe, whole)
    train(recipe.with_values(["train.steps=10"]), part)
    resume(part, ["train.steps=15"])
    a, b = (load_tensors(run / "model.safetensors") for run in (whole, part))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert load(whole).spec.shape == (3, 16, 16)
    with pytest.raises(LimnerError, match=r"train\.batch=8 does not fit"):
        resume(part, ["train.steps=20", "train.batch=8"])
    for function in (train, lambda recipe, run: dry_run(recipe)):
        gan = Recipe.of("gan", f"folder:{folder}", [*options[:2], "train.steps=4"])
        with pytest.raises(
            LimnerError, match=r"data.buckets with 8x24: gan models learn and paint"
        ):
            function(gan, tmp_path / "gan")
    with pytest.raises(LimnerError, match=r"judged in one size; leave data\.buckets out"):
        evaluate(whole, n=8, metrics=["kid"], data={"buckets": "8x24"})
    result = CliRunner().invoke(app, ["sample", "-m", str(whole), "--size", "8x25"])
    expected = "--size 8x25: sides must be multiples of 4; try 8x24; or give --size 16x16, the "
    assert isinstance(result.exception, LimnerError)
    assert str(result.exception) == f"{expected}model's own"
    result = CliRunner().invoke(
        app, ["sample", "-m", str(whole), "--size", "8x24", "-o", str(tmp_path / "wide.png")]
    )
    assert result.exit_code == 0, result.output
    assert SamplingRequest.read(tmp_path / "wide.png").size == "8x24"
    arguments = ["sample", "--from", str(tmp_path / "wide.png"), "-o", str(tmp_path / "again.png")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    pictures = [Image.open(tmp_path / name) for name in ("wide.png", "again.png")]
    assert pictures[0].size == (120, 40) and pictures[0].tobytes() == pictures[1].tobytes()
