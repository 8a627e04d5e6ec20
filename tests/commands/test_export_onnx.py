"""ONNX files paint the models' pictures; the steps of every sampler are a table of sums."""

import importlib
import json
import math
import sys
from collections import deque
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import toys
from typer.testing import CliRunner

import limner
from limner.commands.app import app
from limner.commands.exports.onnx_file import ExportedModel, difference, write_onnx
from limner.commands.exports.onnx_graph import JoinedGraph, file_content, trace
from limner.contract.checkpoint import save_model
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.contract.noise import Noise
from limner.contract.noise_inputs import RecordingNoise
from limner.contract.text import text_spec
from limner.diffusion.sampling import Plan
from limner.diffusion.sampling_table import follow_table, sampling_table
from limner.maths.denoisers import Estimate
from limner.maths.samplers.ancestral import Ancestral
from limner.maths.schedules import LinearPath
from limner.testing.cases import toy_data

SPEC = ImageSpec(3, 8, 8, text=text_spec(5))
LABELLED = ImageSpec(3, 8, 8, labels=("a", "b"), frequencies=(0.5, 0.5))
GREY = ImageSpec(1, 8, 8, labels=("a", "b"), frequencies=(0.5, 0.5))
PLAIN = {"channels": (8,), "attention": 0}  # half as many graph nodes


def perturbed(name, spec=SPEC, **options):
    torch.manual_seed(2)
    model = limner.build(name, spec, **options).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize(
    "sampler", ["euler", "ddim", "dpm++", "unipc", "heun", "ancestral", "ddim eta", "heun churn"]
)
def test_a_sampler_matches_its_table(sampler, scale):
    model = perturbed("edm" if "heun" in sampler else "flow-matching", channels=(8, 16))
    name, _, variant = sampler.partition(" ")
    extra = {"eta": {"eta": 0.7}, "churn": {"churn": 2.0}}.get(variant, {})
    options = model.sampler_options({"sampler": name, "steps": 4, "scale": scale, **extra})
    c = Condition(text=torch.tensor([[3, 4, 0, 0, 0], [5, 0, 0, 0, 0]]))
    noise = RecordingNoise(Noise.sampling(0, 2))
    with torch.no_grad():
        frames = model.frames(2, c, noise=noise, preview=False, **options)
        expected = deque(frames, maxlen=1).pop()
        plan = model.plan(**options)
        _, *further = (value for _, value in noise.records)
        first = model.first(Noise.sampling(0, 2))

        def D(x, t):
            return plan.D(x.float(), torch.tensor(t, dtype=torch.float64), c).x_hat

        actual = follow_table(sampling_table(plan), first, further, D)
    assert torch.allclose(actual.float(), expected, atol=1e-4)


def test_a_table_has_the_variance_that_the_denoiser_returns():
    class Half:
        schedule = LinearPath()

        def __call__(self, x_t, t, c):
            return Estimate(0.5 * x_t, torch.ones(1, 1, 1, 1))

    plan = Plan(Ancestral(), Half(), LinearPath().times(4))
    first, noise = torch.randn(2, 1, 2, 2), RecordingNoise(Noise.sampling(0, 2))
    expected = plan.end(first, Condition(), noise)
    further = [value for _, value in noise.records]
    table = sampling_table(plan, torch.ones(1, 1, 1, 1))
    actual = follow_table(table, first, further, lambda x, t: 0.5 * x)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("change", [lambda x: x.clamp(-1.5, 1.5), lambda x: x - x.mean()])
def test_a_sampler_whose_steps_are_not_linear_has_no_table(change):
    class Own(Ancestral):
        def step(self, *arguments):
            state = super().step(*arguments)
            return state._replace(x=change(state.x))

    plan = perturbed("flow-matching", channels=(8, 16)).plan(steps=4)
    assert sampling_table(plan.with_sampler(Ancestral()))
    with pytest.raises(LimnerError, match="the steps of Own are no sums of pictures and noises"):
        sampling_table(plan.with_sampler(Own()))


def session(file):
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def test_a_denoiser_is_one_file_that_paints_the_same(tmp_path):
    model = perturbed("flow-matching", channels=(8,))
    save_model(model, tmp_path / "run")
    arguments = ["export", str(tmp_path / "run"), str(tmp_path / "m.onnx"), "--format", "onnx"]
    options = ["sampler.sampler=dpm++", "sampler.steps=2", "sampler.scale=2"]
    result = CliRunner().invoke(app, [*arguments, *options])
    assert "converting the networks; this can take some minutes" in result.output
    assert result.exit_code == 0, result.exception
    file = onnx.load(tmp_path / "m.onnx")
    metadata = json.loads(next(prop.value for prop in file.metadata_props if prop.key == "limner"))
    assert metadata["model"] == "flow-matching" and metadata["sampler"]["steps"] == 2
    assert metadata["noise"] == {"noise": {"law": "normal", "shape": [3, 8, 8]}}
    text = limner.text_condition(SPEC, "a red dog").text
    padded = torch.nn.functional.pad(text, (0, 5 - text.shape[1]))
    noise = Noise.sampling(7, 1).normal(3, 8, 8).numpy()
    inputs = {"noise": noise, "text": padded.numpy()}
    (picture,) = session(tmp_path / "m.onnx").run(["picture"], inputs)
    settings = {"sampler": "dpm++", "steps": 2, "scale": 2.0}
    expected = model.sample(1, Condition(text=text), seed=7, **settings)
    assert np.abs(picture - expected.numpy()).max() < 1e-4
    empty = {"noise": noise, "text": np.zeros_like(inputs["text"])}
    (picture,) = session(tmp_path / "m.onnx").run(["picture"], empty)
    assert np.abs(picture - model.sample(1, seed=7, **settings).numpy()).max() < 1e-4
    assert "name a new file" in str(CliRunner().invoke(app, [*arguments, *options]).exception)
    message = str(CliRunner().invoke(app, [*arguments, "sampler.steps=3", "more"]).exception)
    assert "'more' is not an option" in message


def test_latents_and_the_noise_of_each_step_are_written(tmp_path):
    plain = ImageSpec(3, 8, 8)
    stage = perturbed("kl-autoencoder", plain, channels=(8, 8), blocks=1)
    model = perturbed("latent-diffusion", plain, first_stage=stage, options=PLAIN)
    options = model.sampler_options({"sampler": "ancestral", "steps": 2})
    assert write_onnx(model, options, tmp_path / "m.onnx", n=2, store="float32") < 1e-4
    names = [node.name for node in session(tmp_path / "m.onnx").get_inputs()]
    assert names == ["noise", "noise_1"]


def test_fewer_bits_make_smaller_files_that_paint_nearly_the_same(tmp_path):
    model = perturbed("gan", GREY, channels=32)
    sizes, errors = {}, {}
    for store in ("float32", "float16", "int8"):
        file = tmp_path / f"{store}.onnx"
        errors[store] = write_onnx(model, {}, file, n=1, store=store)
        sizes[store] = file.stat().st_size / 1000
    assert errors["float32"] < 1e-5 < errors["float16"] < 0.05
    assert sizes["float16"] < 0.6 * sizes["float32"]
    assert sizes["int8"] < 0.35 * sizes["float32"]


def test_for_a_model_that_paints_pixel_by_pixel_the_network_is_written(tmp_path):
    model = perturbed("pixelcnn", GREY, h=4, blocks=1)
    write_onnx(model, model.sampler_options({}), tmp_path / "m.onnx", n=2, store="float32")
    x = Noise.sampling(3, 2).uniform(1, 8, 8) * 2 - 1
    inputs = {"x": x.numpy(), "label": np.array([0, 1])}
    (theta,) = session(tmp_path / "m.onnx").run(["theta"], inputs)
    with torch.no_grad():
        expected = model.theta(x, Condition(label=torch.tensor([0, 1])))
    assert np.abs(theta - expected.numpy()).max() < 1e-4


def paint_with_file(model, options, file, n=2):
    """Return the picture of an exported file, the picture of the model, and the file's inputs.

    Conditions and noise differ from those that the file was traced with."""
    write_onnx(model, options, file, n=n, store="float32")
    noise = RecordingNoise(Noise.sampling(41, n))
    spec, rng = model.spec, Noise.sampling(5, n)
    c = Condition(
        label=rng.integers(len(spec.labels)) if spec.labels else None,
        text=rng.integers(40, spec.text.length) if spec.text else None,
        image=rng.uniform(*spec.hint.shape) * 2 - 1 if spec.hint else None,
    )
    with torch.no_grad():
        frames = model.frames(n, c, noise=noise, preview=False, **options)
        expected = deque(frames, maxlen=1).pop()
    inputs = {f"noise_{i}" if i else "noise": x for i, (_, x) in enumerate(noise.records)}
    inputs |= {"label": c.label, "text": c.text, "image": c.image}
    runner = session(file)
    names = [node.name for node in runner.get_inputs()]
    (picture,) = runner.run(["picture"], {name: inputs[name].numpy() for name in names})
    return torch.from_numpy(picture), expected, names


@pytest.mark.parametrize("coupling", ["affine", "spline"])
def test_glow_is_written_with_its_inverses(tmp_path, coupling):
    model = perturbed("glow", GREY, K=2, hidden=4, coupling=coupling)
    model.prepare(iter([toy_data(GREY, 0, 4)]))
    picture, expected, inputs = paint_with_file(
        model, model.sampler_options({"temperature": 0.7}), tmp_path / "m.onnx"
    )
    assert inputs == ["noise", "label"]
    assert (picture - expected).abs().max() < 1e-3


def test_a_control_is_written_with_its_base(tmp_path):
    base = perturbed("flow-matching", LABELLED, **PLAIN)
    model = perturbed("controlnet", replace(LABELLED, hint=ImageSpec(1, 16, 16)), base=base)
    options = model.sampler_options(
        {"sampler": "ancestral", "steps": 2, "scale": 2.0, "control_interval": (0.0, 0.5)}
    )
    picture, expected, inputs = paint_with_file(model, options, tmp_path / "m.onnx")
    assert inputs == ["image", "noise", "noise_1", "label"]
    assert (picture - expected).abs().max() < 1e-3
    plain = model.sampler_options({"steps": 2, "control_strength": 0.0})
    with pytest.raises(LimnerError, match="with these options the hint has no effect"):
        write_onnx(model, plain, tmp_path / "n.onnx", n=1, store="float32")


def test_a_model_that_follows_instructions_is_written(tmp_path):
    spec = replace(SPEC, hint=ImageSpec(3, 8, 8))
    model = perturbed("instruct", spec, base=latent_model(SPEC), rank=2)
    options = model.sampler_options({"steps": 2, "scale": 3.0, "image_scale": 1.5})
    picture, expected, inputs = paint_with_file(model, options, tmp_path / "m.onnx")
    assert inputs == ["image", "noise", "text"]
    assert (picture - expected).abs().max() < 1e-3


def test_a_model_that_enlarges_is_written(tmp_path):
    small = replace(GREY, labels=(), frequencies=(), hint=ImageSpec(1, 4, 4))
    model = perturbed("sr3", small, T=20, **PLAIN)
    options = model.sampler_options({"steps": 2, "level": 0.0})
    picture, expected, inputs = paint_with_file(model, options, tmp_path / "m.onnx")
    assert inputs == ["noise", "noise_1", "image"]
    assert (picture - expected).abs().max() < 1e-3
    blurred = perturbed("sr3", small, T=20, augmentation=0.2, **PLAIN)
    with pytest.raises(LimnerError, match=r"sr3 models draw .* export another model"):
        write_onnx(blurred, options, tmp_path / "n.onnx", n=1, store="float32")


def test_changed_weights_are_written_in_any_memory_format(tmp_path):
    teacher = perturbed("flow-matching", **PLAIN).to(memory_format=torch.channels_last)
    model = perturbed("distilled", teacher=teacher, steps=2)
    picture, expected, _ = paint_with_file(model, model.sampler_options({}), tmp_path / "m.onnx")
    assert (picture - expected).abs().max() < 1e-3


def test_instructions_over_a_base_that_measured_its_data_are_written(tmp_path):
    spec = replace(SPEC, hint=ImageSpec(3, 8, 8))
    model = perturbed("instruct", spec, base=perturbed("edm", **PLAIN))
    options = model.sampler_options({"sampler": "euler", "steps": 2})
    picture, expected, _ = paint_with_file(model, options, tmp_path / "m.onnx")
    assert (picture - expected).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("pixels", "levels", "output"),
    [
        ("bernoulli", 2, "draw"),
        ("logistic", 9, "draw"),
        ("gaussian", 9, "mean"),
        ("gaussian", 9, "draw"),
    ],
)
def test_decoders_are_written_with_the_distribution_of_pixels(tmp_path, pixels, levels, output):
    spec = replace(GREY, levels=levels)
    model = perturbed("vae", spec, latent=4, channels=(8,), pixels=pixels)
    options = model.sampler_options({"output": output})
    picture, expected, _ = paint_with_file(model, options, tmp_path / "m.onnx")
    assert (picture - expected).abs().max() < 1e-3


def test_equal_weights_are_stored_once():
    linear, x = torch.nn.Linear(3, 3).eval(), torch.randn(1, 3)
    part = trace(linear, {"x": x}, "y")
    assert not any(node.metadata_props or node.doc_string for node in part.graph.node)
    graph = JoinedGraph()
    graph.add("One", part)
    graph.add("Other", part)
    graph_input = graph.input("x", part.graph.input[0])
    last = graph.call("Other", [graph.call("One", [graph_input], "middle")], "last")
    model = graph.model(part, last)
    assert len(model.graph.initializer) == len(part.graph.initializer) == 2
    actual = onnxruntime.InferenceSession(file_content(model)).run(None, {"x": x.numpy()})[0]
    assert np.allclose(actual, linear(linear(x)).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("function", "x"),
    [
        (torch.tan, torch.linspace(-1.5, 1.5, 101, dtype=torch.float64)),
        (torch.erfinv, torch.linspace(-0.99999, 0.99999, 1001)),
    ],
)
def test_functions_that_the_runtime_lacks_are_written(function, x):
    class Applied(torch.nn.Module):
        def forward(self, x):
            return function(x)

    part = trace(Applied(), {"x": x}, "y")
    (actual,) = onnxruntime.InferenceSession(file_content(part)).run(None, {"x": x.numpy()})
    assert actual.dtype == x.numpy().dtype
    assert np.allclose(actual, function(x), rtol=1e-6, atol=1e-12)


def test_an_unsupported_function_is_reported_in_one_line():
    class Applied(torch.nn.Module):
        def forward(self, x):
            return x.atan()

    x = torch.linspace(-1, 1, 5, dtype=torch.float64)
    part = trace(Applied(), {"x": x}, "y")
    export = ExportedModel(part, {"x": x}, x.atan(), "y", {})
    with pytest.raises(LimnerError, match=r"ONNX Runtime cannot run this model \(.*Atan") as error:
        difference(file_content(part), export, "float32")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "spec", "options"),
    [
        ("biggan", replace(LABELLED, height=16, width=16), {"truncation": 0.5}),
        ("classifier-free", LABELLED, {"steps": 2}),
    ],
)
def test_models_that_use_these_functions_are_written(tmp_path, name, spec, options):
    model = perturbed(name, spec, **({"channels": 8} if name == "biggan" else PLAIN))
    sampler = model.sampler_options(options)
    picture, expected, _ = paint_with_file(model, sampler, tmp_path / "m.onnx")
    assert (picture - expected).abs().max() < 1e-3


def latent_model(spec):
    stage = perturbed("kl-autoencoder", ImageSpec(3, 8, 8), channels=(8, 8), blocks=1)
    return perturbed("latent-diffusion", spec, first_stage=stage, options=PLAIN)


def test_both_stages_of_a_cascade_are_written(tmp_path):
    small = perturbed("flow-matching", LABELLED.with_size(4, 4), **PLAIN)
    model = perturbed("cascade", LABELLED, base=small, options=PLAIN)
    options = model.sampler_options(
        {"steps": 2, "scale": 2.0, "upsampler_sampler": "ancestral", "upsampler_steps": 2}
    )
    picture, expected, inputs = paint_with_file(model, options, tmp_path / "m.onnx")
    assert inputs == ["noise", "label", "noise_1", "noise_2", "noise_3"]
    assert (picture - expected).abs().max() < 1e-3
    picture, cleaned, _ = paint_with_file(model, options | {"clean": 2}, tmp_path / "c.onnx")
    assert (picture - cleaned).abs().max() < 1e-3 < (cleaned - expected).abs().max()
    flow = perturbed("glow", LABELLED.with_size(4, 4), K=1, L=1, hidden=4)
    cascade = perturbed("cascade", LABELLED, base=flow, options={"channels": (8, 16)})
    with pytest.raises(LimnerError, match="a stage of this cascade, glow, takes no steps"):
        write_onnx(cascade, cascade.sampler_options({}), tmp_path / "n.onnx", n=1, store="float32")


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (lambda: perturbed("ddpm", ImageSpec(3, 8, 8), channels=(8,), T=20, variance="learned"),
         {"steps": 4}, "give sampler.sampler=ddim"),
        (lambda: perturbed("ddpm", ImageSpec(3, 8, 8), channels=(8,)), {}, "too many for a table"),
        (lambda: perturbed("flow-matching", channels=(8,)),
         {"steps": 2, "scale": 2.0, "interval": (0.1, 3.0)}, "give sampler.interval=none"),
        (lambda: perturbed("classifier", LABELLED, channels=(8,), attention=0,
                           base=perturbed("flow-matching", LABELLED, **PLAIN)),
         {"steps": 4}, "a classifier guides with gradients"),
        (lambda: perturbed("best-of-n", channels=(8,), blocks=(0,), words=8, layers=1,
                           base=perturbed("flow-matching", channels=(8,))),
         {"steps": 2}, "rank what they painted; export the base"),
    ],
)  # fmt: skip
def test_models_without_a_graph_are_refused(tmp_path, capsys, model, options, message):
    painter = model()
    with pytest.raises(LimnerError, match=message):
        write_onnx(
            painter, painter.sampler_options(options), tmp_path / "m.onnx", n=1, store="float32"
        )
    assert not list(tmp_path.iterdir())
    assert "converting" not in capsys.readouterr().err


def test_pictures_of_a_wrong_size_are_refused(tmp_path, monkeypatch):
    model = limner.build("toy-two-step", GREY)
    large = torch.zeros(1, 1, 16, 16)
    monkeypatch.setattr(toys.TwoStep, "frames", lambda *args, **options: iter([large]))
    with pytest.raises(LimnerError, match="the last pictures of TwoStep are 16 x 16"):
        write_onnx(model, {}, tmp_path / "m.onnx", n=1, store="float32")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "name"),
    [(["sampler.steps=3"], "sampler.steps"), (["-n", "2"], "-n"), (["--store", "int8"], "--store")],
)
def test_an_option_that_diffusers_folders_lack_is_named(tmp_path, options, name):
    result = CliRunner().invoke(app, ["export", "ddpm", str(tmp_path / "folder"), *options])
    assert f"{name} does not go with --format diffusers; leave it out" in str(result.exception)


def test_a_model_whose_pictures_are_not_finite_is_refused():
    export = ExportedModel(None, {}, torch.full((1, 1, 2, 2), math.nan), "picture", {})
    with pytest.raises(LimnerError, match="the pictures are not finite; leave options out"):
        difference(b"", export, "float32")


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_library_that_is_missing_is_named_before_the_conversion(monkeypatch, name):
    for part in [*sys.modules]:
        if part.partition(".")[0] == name:
            monkeypatch.delitem(sys.modules, part)
    for part in ("onnx_graph", "onnx_functions"):
        monkeypatch.delitem(sys.modules, f"limner.commands.exports.{part}")
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(LimnerError, match=f"ONNX files need {name}; type: pip install"):
        importlib.import_module("limner.commands.exports.onnx_graph")


def test_incompatible_arguments_are_refused(tmp_path):
    run = CliRunner()
    for arguments, message in (
        (["x", "folder", "--store", "int8"], "give --format onnx"),
        (["x", "folder", "--format", "onnx"], "give NAME.onnx"),
        (["x", "painter.onnx"], "give --format onnx, or a folder"),
    ):
        assert message in str(run.invoke(app, ["export", *arguments]).exception)
