"""Training that starts with the weights of a trained model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toys

from limner.contract import registry
from limner.contract.bundled import load
from limner.contract.checkpoint import save_model
from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.registry import entry, register
from limner.contract.text import text_spec
from limner.nn.text import TextEncoder
from limner.training.recipe import Recipe
from limner.training.run import resume, train

SMALL = ["data.size=8", "model.channels=8,16", "train.steps=1", "train.batch=4", "train.samples=0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "first"
    train(Recipe.of("flow-matching", "emoji", ["data.label=group", "data.text=false", *SMALL]), run)
    return run


def _recipe(model: str, trained: Path, *extra: str) -> Recipe:
    options = ["data.text=false", "data.size=8", f"train.init.model={trained}", *extra]
    return Recipe.of(model, "emoji", options)


def test_weights_and_options_come_from_the_trained_model(trained: Path) -> None:
    first = load(trained)
    model = _recipe("flow-matching", trained, "data.label=group").build(first.spec)
    assert model.config == first.config
    weights = model.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in first.state_dict().items())


def test_weights_of_other_labels_are_new_and_named(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = load(trained)
    spec = replace(first.spec, labels=tuple("abcdefg"), frequencies=(1 / 7,) * 7)
    weights = _recipe("flow-matching", trained).build(spec).state_dict()
    same = {k for k, w in first.state_dict().items() if weights[k].shape == w.shape}
    assert 0 < len(weights) - len(same) < 4
    assert all(torch.equal(weights[name], first.state_dict()[name]) for name in same)
    assert f"{len(weights) - len(same)} of {len(weights)} tensors" in capsys.readouterr().err


def test_another_model_is_refused(trained: Path) -> None:
    with pytest.raises(LimnerError, match="holds weights of flow-matching, which cannot start edm"):
        _recipe("edm", trained).build(load(trained).spec)
    with pytest.raises(LimnerError, match="fewer than half of the weights"):
        recipe = _recipe("flow-matching", trained, "model.channels=12,20")
        recipe.build(load(trained).spec)


def test_a_model_of_other_data_is_refused_with_the_difference(trained: Path) -> None:
    spec = replace(load(trained).spec, text=text_spec(5))
    said = "give data like its own, not other ones: captions are encoded in another way"
    with pytest.raises(LimnerError, match=said):
        _recipe("flow-matching", trained).build(spec)


@pytest.mark.parametrize("key", ["model", "base"])
def test_an_empty_name_is_not_training_from_scratch(key: str) -> None:
    recipe = Recipe.of("classifier", "mnist", [f"train.init.{key}="])
    with pytest.raises(LimnerError, match=rf"train\.init\.{key}: there is no run.*''"):
        recipe.build(ImageSpec(1, 28, 28))


def test_a_part_that_the_whole_model_has_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    own = ["train.init.model=classifier", "train.init.base=elsewhere"]
    Recipe.of("classifier", "mnist", own).build(load("classifier").spec)
    said = "train.init.base is not used: train.init.model=classifier has its own base"
    assert said in capsys.readouterr().err


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "reader"
    options = [
        "data.hint=objects",
        "model.words=32",
        "data.size=16",
        "train.steps=1",
        "train.batch=4",
    ]
    train(Recipe.of("caption-reader", "scenes", options), run)
    return run


def _encoder(path: Path) -> TextEncoder:
    return next(module for module in load(path).modules() if isinstance(module, TextEncoder))


_FROZEN = "train.frozen=text.project,text.positions,text.layers,text.norm"


def _with_text_encoder(reader: Path, *extra: str) -> Recipe:
    options = ["data.size=16", "model.channels=8,16", "train.steps=2", "train.batch=4"]
    return Recipe.of("ddpm", "scenes", [*options, f"train.init.text={reader}", *extra])


def test_a_trained_text_encoder_can_be_used_and_frozen(reader: Path, tmp_path: Path) -> None:
    train(_with_text_encoder(reader, _FROZEN, "train.samples=0"), tmp_path / "told")
    resume(tmp_path / "told", ["train.steps=3"])
    encoder = _encoder(reader).state_dict()
    weights = load(tmp_path / "told").state_dict()
    prefix = next(name for name in weights if name.endswith("text.project.weight"))[
        : -len("project.weight")
    ]
    same = {k for k, w in encoder.items() if torch.equal(weights[prefix + k], w)}
    others = {k.split(".")[0] for k in encoder.keys() - same}
    assert {"pool", "seen"} <= others <= {"pool", "null", "seen"}
    assert same > {"positions", "project.weight", "layers.1.fc_2.weight", "norm.bias"}


def test_model_and_text_encoder_may_come_from_two_runs(reader: Path, tmp_path: Path) -> None:
    spec = replace(load(reader).spec, hint=None)
    first = Recipe.of("ddpm", "scenes", ["data.size=16", "model.channels=8,16"]).build(spec)
    save_model(first, tmp_path)
    weights = _with_text_encoder(reader, f"train.init.model={tmp_path}").build(spec).state_dict()
    prefix = next(name for name in weights if name.endswith("text.positions"))[: -len("positions")]
    encoder = _encoder(reader).state_dict()
    for name, weight in first.state_dict().items():
        part = name.removeprefix(prefix)
        reads = name.startswith(prefix) and part.split(".")[0] not in ("pool", "null", "seen")
        assert torch.equal(weights[name], encoder[part] if reads else weight), name


def test_missing_and_other_text_encoders_are_refused(trained: Path, reader: Path) -> None:
    spec = replace(load(reader).spec, hint=None)
    with pytest.raises(
        LimnerError, match=r"model\.words=64 model\.layers=2 on captions of 32 tokens"
    ):
        _with_text_encoder(reader, "model.channels=16").build(spec)
    with pytest.raises(LimnerError, match=r"train.init.base: there is no run.*bundled are: "):
        Recipe.of("classifier", "mnist", ["train.init.base=nowhere"]).build(ImageSpec(1, 8, 8))
    for key in ("model", "text"):
        with pytest.raises(LimnerError, match=rf"train.init.{key}: there is no run.*nowhere"):
            Recipe.of("ddpm", "mnist", [f"train.init.{key}=nowhere"]).build(ImageSpec(1, 8, 8))
    with pytest.raises(LimnerError, match=r"did you mean 'train\.init\.model'"):
        Recipe.of("ddpm", "mnist", ["train.init.modle=nowhere"]).build(ImageSpec(1, 8, 8))
    with pytest.raises(LimnerError, match=r"train.init.text=\S+ reads no captions"):
        _with_text_encoder(trained).build(spec)
    with pytest.raises(LimnerError, match="the model to train reads no captions"):
        _with_text_encoder(reader).build(replace(spec, text=None))


def test_unknown_parts_to_freeze_are_refused(reader: Path, tmp_path: Path) -> None:
    with pytest.raises(LimnerError, match=r"unknown part 'txt'; did you mean 'text'\?"):
        train(_with_text_encoder(reader, "train.frozen=txt"), tmp_path / "told")
    with pytest.raises(LimnerError, match=r"did you mean 'text\.layers'\?"):
        train(_with_text_encoder(reader, "train.frozen=text.layer"), tmp_path / "told")
    with pytest.raises(LimnerError, match=r"freeze fewer of its parts than train\.frozen=network"):
        train(_with_text_encoder(reader, "train.frozen=network"), tmp_path / "told")


def test_initial_weights_apply_to_the_trained_part_and_not_to_a_frozen_base(
    reader: Path, tmp_path: Path
) -> None:
    """The base of a cascade has its own text encoder, which must not change."""
    spec = replace(load(reader).spec, hint=None)
    base = Recipe.of("flow-matching", "scenes", ["data.size=16", "model.channels=8"]).build(spec)
    save_model(base, tmp_path)
    options = [f"train.init.base={tmp_path}", f"train.init.text={reader}"]
    cascade = Recipe.of("cascade", "scenes", [*options, "model.options={channels=[8,16]}"])
    model = cascade.build(spec.with_size(32, 32))
    first, second = (m for m in model.modules() if isinstance(m, TextEncoder))
    encoder = _encoder(reader)
    assert not torch.equal(first.positions, encoder.positions)
    assert torch.equal(second.positions, encoder.positions)


def test_initialisation_from_data_keeps_frozen_weights(tmp_path: Path) -> None:
    brief = ["data.size=8", "data.label=none", "train.steps=1", "train.batch=4", "train.samples=0"]
    train(Recipe.of("glow", "emoji", brief), tmp_path / "first")
    extra = [f"train.init.model={tmp_path / 'first'}", "train.frozen=transforms.1"]
    train(Recipe.of("glow", "emoji", [*brief, *extra]), tmp_path / "second")
    before, after = (load(tmp_path / name).state_dict() for name in ("first", "second"))
    same = {name for name, weight in before.items() if torch.equal(weight, after[name])}
    assert {name for name in before if "transforms.1." in name} <= same < before.keys()


def test_an_optional_nested_model_can_be_given_as_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Over(toys.Pixels):
        """A model with an optional base."""

        def __init__(self, spec: ImageSpec, base: toys.Classifier | None = None) -> None:
            super().__init__(spec)
            self.base = base

    paper = entry("toy-pixels").paper
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    register("toy-over", family="gans", paper=paper)(Over)
    base = toys.Classifier(ImageSpec(1, 4, 4), width=3)
    save_model(base, tmp_path / "model.safetensors")
    options = [f"train.init.base={tmp_path}"]
    model = Recipe.of("toy-over", "mnist", options).build(base.spec)
    assert isinstance(model, Over) and model.base is not None
    assert torch.equal(next(model.base.parameters()), next(base.parameters()))
    plain = Recipe.of("toy-over", "mnist", []).build(base.spec)
    assert isinstance(plain, Over) and plain.base is None
    for m in (model, plain):
        save_model(m, tmp_path / "over.safetensors")
        assert load(tmp_path / "over.safetensors").description() == m.description()
    with pytest.raises(LimnerError, match=r"give the run .*: train\.init\.base=runs/NAME"):
        Recipe.of("toy-over", "mnist", ["model.base=runs/x"]).build(base.spec)
