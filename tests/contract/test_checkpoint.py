"""A model file restores the model that was saved; any other file is refused in one line."""

import itertools
import json
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from safetensors.torch import save_file

import limner
from limner.contract import registry
from limner.contract.bundled import bundled_models
from limner.contract.checkpoint import (
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    MODEL_FILE,
    current_name,
    digest_tensors,
    load,
    load_tensors,
    read_header,
    save_model,
    save_tensors,
    sha256,
    usual_options,
)
from limner.contract.errors import LimnerError
from limner.contract.header import FORMAT, Header
from limner.contract.image import ImageSpec
from limner.contract.model import GenerativeModel, Learner
from limner.contract.packing import unpack
from limner.contract.registry import build

LABELLED = ImageSpec(1, 4, 4, labels=("a", "b"), frequencies=(0.25, 0.75))


@pytest.fixture
def model() -> toys.TwoStep:
    return toys.TwoStep(LABELLED, width=5)


def raw(path: Path, header: bytes, data: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def with_metadata(path: Path, header: Any) -> Path:
    """Write a valid file with this limner header (text, or a value for JSON); return its path."""
    text = header if isinstance(header, str) else json.dumps(header)
    save_file({"a": torch.zeros(1)}, path, {"limner": text})
    return path


def good_header(**changes: Any) -> dict[str, Any]:
    return json.loads(Header("toy-two-step", LABELLED, {"width": 5, "p": 0.1}).to_json()) | changes


def refused(path: Path, read: Callable[[Path], Any] = load) -> str:
    """Check that reading the file fails in one line, and return that line."""
    with pytest.raises(LimnerError) as error:
        read(path)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def test_a_saved_model_is_restored(model: toys.TwoStep, tmp_path: Path):
    save_model(model, tmp_path / "run", images_seen=7, recipe={"train": {"lr": 1e-3}})
    file = tmp_path / "run" / MODEL_FILE
    header = read_header(file)
    assert (header.model, header.images_seen, header.format) == ("toy-two-step", 7, FORMAT)
    assert header.recipe == {"train": {"lr": 1e-3}}
    assert header.spec == LABELLED
    for path in (file, tmp_path / "run", str(file)):
        loaded_model = load(path)
        assert type(loaded_model) is toys.TwoStep
        assert loaded_model.description() == model.description()
        assert not loaded_model.training
        assert torch.equal(loaded_model.sample(2), model.sample(2))
    assert [p.name for p in file.parent.iterdir()] == [MODEL_FILE], "no partial file is left"


def test_a_saved_nested_model_is_restored(tmp_path: Path):
    model = toys.Nested(LABELLED, judge=toys.Classifier(LABELLED, width=3))
    save_model(model, tmp_path)
    loaded_model = load(tmp_path)
    assert isinstance(loaded_model, toys.Nested)
    assert loaded_model.judge.config == {"width": 3}
    assert all(torch.equal(v, loaded_model.state_dict()[k]) for k, v in model.state_dict().items())


OLD = Path(__file__).parent / "old"  # written when layers had other names


def test_a_file_with_older_layer_names_paints_the_same_picture():
    names = load_tensors(OLD / MODEL_FILE).keys()
    assert {"enter", "leave", "itself", "shrink", "grow"} <= {
        p for n in names for p in n.split(".")
    }
    model = load(OLD)
    assert isinstance(model, GenerativeModel)
    expected = load_tensors(OLD / "state.safetensors")["picture"]
    torch.testing.assert_close(model.sample(1, seed=3, steps=4), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", bundled_models())
def test_every_weight_of_a_bundled_model_is_loaded(name: str):
    file = bundled_models()[name] / MODEL_FILE
    state = build((header := read_header(file)).model, header.spec, **header.config).state_dict()
    names = [current_name(each, state) for each in unpack(load_tensors(file))]
    assert len({*names}) == len(names)
    assert {*names} <= state.keys()


def test_only_a_name_that_a_model_lacks_is_changed():
    assert current_name("enter.weight", {"enter.weight", "conv_in.weight"}) == "enter.weight"
    assert current_name("a.enter.weight", {"a.conv_in.weight"}) == "a.conv_in.weight"
    assert (
        current_name("enter.leave.bias", {"conv_in.linear_out.bias"}) == "conv_in.linear_out.bias"
    )
    assert current_name("enter.bias", {"other.bias"}) == "enter.bias"


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path: Path):
    model = toys.Critics(ImageSpec(1, 8, 8), width=64)
    save_model(model, tmp_path / "whole.safetensors")
    save_model(model, tmp_path / "half.safetensors", dtype=torch.float16)
    full, half = ((tmp_path / f"{n}.safetensors").stat().st_size for n in ("whole", "half"))
    assert half < 0.6 * full
    state = load(tmp_path / "half.safetensors").state_dict()
    for name, tensor in model.state_dict().items():
        assert state[name].dtype == tensor.dtype
        assert torch.allclose(state[name].double(), tensor.double(), rtol=1e-3, atol=1e-6)


def test_shared_and_strided_tensors_are_saved_by_value(tmp_path: Path):
    base = torch.arange(12.0).view(3, 4)
    save_tensors({"a": base, "b": base.T, "c": base[:, 1]}, tmp_path / "x.safetensors")
    tensors = load_tensors(tmp_path / "x.safetensors")
    assert torch.equal(tensors["b"], base.T)
    assert torch.equal(tensors["c"], base[:, 1])


def test_sha256_is_the_published_hash_of_abc(tmp_path: Path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_a_missing_file_is_named(tmp_path: Path):
    assert "there is no file" in refused(tmp_path / "none.safetensors")
    assert "there is no file" in refused(tmp_path)


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path: Path):
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    assert refused(folder, read_header) == f"cannot read {folder}: Is a directory"


@pytest.mark.parametrize("keep", [0, 4, 8, 30, 300, -1])
def test_a_truncated_file_is_refused(model: toys.TwoStep, tmp_path: Path, keep: int):
    save_model(model, tmp_path)
    file = tmp_path / MODEL_FILE
    file.write_bytes(file.read_bytes()[:keep])
    assert str(file) in refused(file)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04" + bytes(100),
        b"\x80\x02}q\x00." * 20,
        b"GIF89a" * 9,
        bytes(8),
        b"\xff" * 64,
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert "is cut short" in refused(path)
    (pickle := tmp_path / "x.ckpt").write_bytes(content)
    assert "models are read from .safetensors files" in refused(pickle)


def test_a_safetensors_file_of_another_program_is_refused(tmp_path: Path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert "was not written by limner" in refused(tmp_path / "a.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"format": "pt"})
    assert "was not written by limner" in refused(tmp_path / "a.safetensors")


def test_a_state_is_refused_with_the_run_to_give_instead(tmp_path: Path):
    state = tmp_path / "state" / "step-00000002"
    state.mkdir(parents=True)
    save_file({"a": torch.zeros(1)}, state / "model.safetensors")
    expected = f"{state} is a state of the run {tmp_path}; give the run instead"
    assert refused(state / "model.safetensors") == expected


def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2 * 2**30))
        file.truncate(3 * 2**30)  # sparse: it takes no space on the disk
    start = time.process_time()
    assert "2,147,483,648 bytes" in refused(path)
    assert time.process_time() - start < 0.5


def test_a_file_without_a_unit_of_time_gets_1000(tmp_path: Path):
    model = build("meanflow", ImageSpec(1, 8, 8), channels=(4,), unit=1000.0)
    save_model(model, tmp_path / "new")
    tensors = load_tensors(tmp_path / "new" / "model.safetensors")
    config = {k: v for k, v in model.config.items() if k != "unit"}
    header = Header(model.name, model.spec, config)
    save_file(tensors, tmp_path / "old.safetensors", {"limner": header.to_json()})
    assert load(tmp_path / "old.safetensors").config["unit"] == 1000
    assert build("meanflow", model.spec, channels=(4,)).config["unit"] == 1


def test_a_file_without_the_fourier_option_has_no_fourier_features(tmp_path: Path):
    torch.manual_seed(0)
    spec = ImageSpec(1, 8, 8)
    model = build("vdm", spec, channels=(4,), fourier=0)
    save_model(model, tmp_path / "new")
    tensors = load_tensors(tmp_path / "new" / "model.safetensors")
    header = Header(model.name, spec, {k: v for k, v in model.config.items() if k != "fourier"})
    save_file(tensors, tmp_path / "old.safetensors", {"limner": header.to_json()})
    old = load(tmp_path / "old.safetensors")
    assert old.config["fourier"] == 0
    torch.testing.assert_close(dict(old.state_dict()), dict(model.state_dict()))
    assert build("vdm", spec, channels=(4,)).config["fourier"] == 9
    control = build("controlnet", replace(spec, hint=ImageSpec(1, 8, 8)), base=old)
    description = json.loads(json.dumps(control.description()))
    del description["config"]["base"]["config"]["fourier"]
    rebuilt = build(description["model"], control.spec, **description["config"])
    assert rebuilt.description() == control.description()


def test_a_header_with_many_tensors_is_refused_quickly(tmp_path: Path):
    tensor = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"t{i}": tensor for i in range(MAX_TENSORS + 1)}).encode()
    assert len(header) < MAX_HEADER_BYTES
    path = raw(tmp_path / "x.safetensors", header)
    start = time.process_time()
    assert f"{MAX_TENSORS + 1:,} tensors" in refused(path, load_tensors)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "header",
    [
        b"{" * 50_000,
        b"[" * 100_000,
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"__metadata__": []}',
        b'{"__metadata__": {"limner": 3}}',
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}',
    ],
    ids=range(10),
)
def test_a_crafted_safetensors_header_is_refused(tmp_path: Path, header: bytes):
    path = raw(tmp_path / "x.safetensors", header)
    refused(path)
    refused(path, load_tensors)


@pytest.mark.parametrize(
    "header",
    [
        "not JSON",
        "",
        "[" * 100_000,
        '{"a":' * 100_000,
        [],
        3,
        None,
        "{}",
        {"format": "one"},
        {"format": [1]},
        {"format": None, "version": "0"},
        good_header(format=1e400),
        good_header(spec=None),
        good_header(spec=[]),
        good_header(spec={}),
        good_header(spec={"channels": "many", "height": 2, "width": 2}),
        good_header(spec={"channels": 0, "height": 2, "width": 2}),
        good_header(spec={"channels": 10**9, "height": 10**9, "width": 10**9}),
        good_header(spec=good_header()["spec"] | {"surprise": 1}),
        good_header(spec=good_header()["spec"] | {"labels": 3}),
        good_header(spec=good_header()["spec"] | {"hint": "x"}),
        good_header(spec=good_header()["spec"] | {"text": [1]}),
        good_header(config=None),
        good_header(config=[]),
        good_header(config="abc"),
        good_header(config={"width": "wide"}),
        good_header(config={"width": -3}),
        good_header(config={"width": 10**12}),
        good_header(config={"self": 1}),
        good_header(config={"spec": 1}),
        good_header(config={"__class__": 1}),
        good_header(config={"width": {"model": "toy-two-step", "spec": {}, "config": {}}}),
        good_header(config={"width": {"model": 3, "spec": None, "config": None}}),
        good_header(model=None),
        good_header(model=["toy-two-step"]),
        good_header(model={}),
        good_header(model="os.system"),
        good_header(model="../toys"),
    ],
    ids=itertools.count(),
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_a_crafted_limner_header_is_refused(tmp_path: Path, header: Any):
    refused(with_metadata(tmp_path / "x.safetensors", header))


def test_a_newer_format_says_how_to_read_it(tmp_path: Path):
    header = good_header(format=FORMAT + 1, version="9.0", model="from-the-future", spec=7)
    message = refused(with_metadata(tmp_path / "x.safetensors", header))
    assert "written by limner 9.0, newer than this one" in message
    assert "pip install -U limner" in message


def test_header_fields_of_a_later_version_are_ignored(tmp_path: Path):
    path = with_metadata(tmp_path / "x.safetensors", good_header(mood="cheerful"))
    assert read_header(path).model == "toy-two-step"


@pytest.mark.parametrize(
    "recipe", [{"sampler": "x"}, {"sampler": None}, {"data": [1]}, {"data": {"source": 5}}]
)
def test_a_recipe_that_is_damaged_is_refused(tmp_path: Path, recipe: dict[str, Any]):
    path = with_metadata(tmp_path / "x.safetensors", good_header(recipe=recipe))
    message = refused(path, read_header)
    assert message.startswith(f"the header of {path} is damaged (recipe.")


def test_an_unknown_option_names_the_file_and_its_version(tmp_path: Path):
    header = good_header(config={"width": 5, "zoom": 2}, version="9.0")
    path = with_metadata(tmp_path / "x.safetensors", header)
    message = refused(path)
    assert message.startswith(
        f"{path}, by limner 9.0 (this is {limner.__version__}): unknown model"
    )
    assert "'model.zoom'" in message
    assert "; if the package of this model has changed, install the version that" in message


def test_an_unknown_sampler_option_names_the_file(model: toys.TwoStep):
    assert usual_options(model, {"data": {}}, "x") == {}
    with pytest.raises(LimnerError, match="the recipe in runs/x: unknown sampler option 'zoom'"):
        usual_options(model, {"sampler": {"zoom": 2}}, "runs/x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("out.bias"), "lacks tensor 'out.bias' (1 such)"),
        (lambda w: w.update(more=torch.zeros(1)), "has the unknown tensor 'more'"),
        (lambda w: w.update({"out.bias": torch.zeros(3)}), "has a misshapen tensor 'out.bias'"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    model: Learner, tmp_path: Path, change: Callable[[dict], Any], message: str
):
    weights = dict(model.state_dict())
    change(weights)
    header = Header(model.name, model.spec, model.config)
    save_file(weights, tmp_path / MODEL_FILE, {"limner": header.to_json()})
    assert message in refused(tmp_path)


def test_digests_differ_for_different_tensors_and_purposes():
    weights = {"a": torch.ones(3), "b": torch.zeros(2, 2)}
    first = digest_tensors(weights, "28 x 28")
    assert first == digest_tensors(dict(reversed(weights.items())), "28 x 28")
    others = [
        digest_tensors(weights, "32 x 32"),
        digest_tensors(weights | {"a": torch.tensor([1, 1, 1 + 1e-6])}, "28 x 28"),
        digest_tensors(weights | {"b": torch.zeros(4)}, "28 x 28"),
        digest_tensors(weights | {"b": torch.zeros(2, 2).half()}, "28 x 28"),
        digest_tensors({"a": weights["a"], "c": weights["b"]}, "28 x 28"),
        digest_tensors({"a": weights["a"]}, "28 x 28"),
    ]
    assert len({first, *others}) == 7


def test_a_file_of_an_unregistered_model_is_refused(
    model: toys.TwoStep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save_model(model, tmp_path)
    known = {name: entry for name, entry in registry._entries.items() if name != model.name}
    monkeypatch.setattr(registry, "_entries", known)
    message = refused(tmp_path)
    assert f"{tmp_path / 'model.safetensors'}: its model 'toy-two-step' is not known" in message
    assert "install the package that has it, import the file with its @register, or" in message


def test_a_model_of_an_unregistered_class_is_not_saved(tmp_path: Path, monkeypatch):
    """Its file would be loaded as its base class, or not at all."""

    class Derived(toys.TwoStep):
        pass

    class Outer(toys.TwoStep):
        def __init__(self, spec: ImageSpec, base: Derived) -> None:
            super().__init__(spec)
            self.base = base

    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    paper = registry.entry("toy-two-step").paper
    registry.register("toy-outer", family="gans", paper=paper)(Outer)
    for model, subject in (
        (Derived(LABELLED), "Derived"),
        (Outer(LABELLED, Derived(LABELLED)), "the model given as base"),
    ):
        with pytest.raises(LimnerError, match=f"^{subject} is not registered, so that its file"):
            save_model(model, tmp_path / "own.safetensors")
        assert not any(tmp_path.iterdir())
