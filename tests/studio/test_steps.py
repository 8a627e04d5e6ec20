"""API requests of the page for hints, controls and stepwise rewording."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import Studio, png
from limner import text_condition
from limner.commands.request import SamplingRequest
from limner.commands.sheets.reword import reword_frames
from limner.commands.sheets.sample import paint_sheet
from limner.commands.task import open_work
from limner.contract.checkpoint import load
from limner.contract.image import from_uint8, to_uint8
from limner.contract.model import GenerativeModel
from limner.data.hints import draw_hint
from limner.diffusion.controlnet import ControlNet
from limner.studio.catalogue import describe_model, find_models

QUICK = {"steps": 2}
HALVES = torch.tensor([0, 255]).repeat_interleave(8).expand(3, 16, 16).byte()
"""A picture with a vertical edge in the middle."""


def file_of(pixels: torch.Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).squeeze(-1).numpy()).save(file, "PNG")
    return file.getvalue()


def pixels(studio: Studio, picture: dict[str, Any]) -> torch.Tensor:
    """Return the pixels of a picture in colour, "3 h w"."""
    image = studio.pixels(picture).convert("RGB")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_hints_are_computed_as_in_training_and_have_an_effect(studio: Studio):
    models = {each["name"]: each for each in studio.client.get("/api/v1/models").json()["models"]}
    assert models["runs/control"]["hint"] == [1, 16, 16]
    assert models["runs/control"]["hint_kind"] == "edges"
    assert "control_strength" in models["runs/control"]["schema"]["properties"]
    assert "outline" not in models["runs/boxes"]["tasks"], "boxes cannot be computed from a picture"
    image = studio.send(file_of(HALVES))["id"]
    request = {"task": "outline", "inputs": {"image": image}}
    (hint,) = studio.painted(model="runs/control", **request)["outputs"]
    expected = to_uint8(draw_hint("edges", from_uint8(HALVES[None])))[0].expand(3, -1, -1)
    assert torch.equal(pixels(studio, hint), expected) and (expected > 0).any()
    history = studio.client.get("/api/v1/history").json()["pictures"]
    assert hint["id"] not in {each["id"] for each in history}, (
        "a hint must not appear in the history"
    )
    (picture,) = studio.painted(model="runs/edges", seed=3, inputs={"hint": hint["id"]})["outputs"]
    assert torch.equal(pixels(studio, picture), 255 - expected), (
        "this stub paints the negative of its hint"
    )
    query = {"sha256": picture["settings"]["inputs"]["hint"]}
    asset = studio.client.get("/api/v1/assets", params=query).json()
    assert torch.equal(pixels(studio, asset), expected)


def test_the_bundled_controls_fit_the_bundled_base():
    folders = find_models(Path(__file__).parent)
    scenes, *controls = (
        describe_model(name, folders[name]) for name in ("scenes", "scenes-sketch", "scenes-layout")
    )
    assert scenes and all(control and control["over"] == scenes["built"] for control in controls)


def test_several_controls_over_another_base_have_their_own_hint_and_strength(studio: Studio):
    base, control = load(studio.folder / "runs/words"), load(studio.folder / "runs/control")
    assert isinstance(base, GenerativeModel) and isinstance(control, ControlNet)
    models = {each["name"]: each for each in studio.client.get("/api/v1/models").json()["models"]}
    assert models["runs/control"]["over"] == models["runs/words"]["built"], (
        "the control must fit the base"
    )
    assert models["runs/edges"]["over"] == "", "a model with hints is not a control"
    assert models["toy"]["built"] != models["runs/words"]["built"]
    drawing = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
    drawing[0, :, :, 3], drawing[1, :, 9] = 255, 255
    hint, hint_2 = (studio.send(file_of(each))["id"] for each in drawing)
    two = {"inputs": {"hint": hint, "hint_2": hint_2}, "prompt": "a dog", "seed": 5}
    two |= {"sampler": {"steps": 2, "control_weights": [0.5, 1.5]}}
    (picture,) = studio.painted(model="runs/words", controls=["runs/control"] * 2, **two)["outputs"]
    combined = control.join([control], base)
    c = replace(text_condition(base.spec, ["a dog"]), image=from_uint8(drawing.transpose(0, 1)))
    expected = combined.sample(1, c, seed=5, steps=2, control_weights=(0.5, 1.5))
    assert torch.equal(pixels(studio, picture), to_uint8(expected)[0])
    assert picture["settings"]["controls"] == ["runs/control"] * 2
    (other,) = studio.painted(model="runs/control", controls=["runs/control"], **two)["outputs"]
    assert torch.equal(pixels(studio, other), pixels(studio, picture)), (
        "both models have the same base"
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"controls": ["runs/contrl"]}, "did you mean 'runs/control'?"),
        ({"controls": ["runs/words"]}, "'runs/words' is not a control"),
        ({"task": "walk"}, "task walk takes no controls"),
        ({"inputs": {}}, "needs a picture"),
        ({"controls": ["runs/control"] * 2}, "give inputs.hint_2"),
        ({"sampler": {"control_strength": 9}}, "control_strength=9"),
    ],
)
def test_invalid_controls_are_refused_immediately(wrong: dict[str, Any], said: str, studio: Studio):
    hint = studio.send(file_of(HALVES[:1]))["id"]
    request = {"controls": ["runs/control"], "inputs": {"hint": hint}} | wrong
    error = studio.submit(model="runs/words", expect=422, **request)
    assert said in f"{error['message']}; {error['hint']}"


def test_a_control_over_an_unsuitable_base_fails_in_one_line(studio: Studio):
    hint = studio.send(file_of(HALVES[:1]))["id"]
    request = {"model": "toy", "controls": ["runs/control"], "inputs": {"hint": hint}}
    error = studio.over(studio.submit(**request)["id"])["error"]
    assert error["code"] == "invalid" and "toy-canvas models have no U-Net" in error["message"]


def test_a_drawing_that_is_dark_on_light_is_inverted_and_a_blank_one_refused(studio: Studio):
    drawing = torch.zeros(1, 16, 16, dtype=torch.uint8)
    drawing[:, :, 3] = 255
    light, dark = (
        studio.painted(model="runs/edges", inputs={"hint": studio.send(file_of(each))["id"]})
        for each in (drawing, 255 - drawing)
    )
    first, second = (pixels(studio, job["outputs"][0]) for job in (light, dark))
    assert torch.equal(first, second)
    message = "the hint is dark on light, but edges is light on dark; it is inverted"
    assert not light["notes"]["remarks"] and dark["notes"]["remarks"] == [message]
    blank = studio.submit(model="runs/edges", inputs={"hint": studio.send(png())["id"]})["id"]
    assert studio.over(blank)["error"]["message"] == "the hint is blank at 16 x 16"


def test_words_are_changed_stepwise_and_pictures_know_their_predecessor(studio: Studio):
    common: dict[str, Any] = {"model": "runs/words", "prompt": "a red dog", "sampler": QUICK}
    (first,) = studio.painted(seed=4, **common)["outputs"]
    pictures: list[dict[str, Any]] = [first]
    steps = (["replace:dog=cat"], ["weight:red=2", "cross_steps:0.5"]), (["refine:on grass"],)
    for chain in steps:
        parent, changes = first, []
        for step in chain:
            changes = [*changes, *step]
            request = common | {"seed": 4, "changes": changes, "inputs": {"parent": parent["id"]}}
            (parent,) = studio.painted(**request)["outputs"]
            assert parent["settings"]["changes"] == changes
            pictures.append(parent)
    replaced, weighed, refined = pictures[1:]
    for picture in pictures:
        edits = studio.client.get(f"/api/v1/history/{picture['id']}/edits").json()["pictures"]
        assert [(edit["id"], edit["parent"]) for edit in edits] == [
            (first["id"], None),
            (replaced["id"], first["id"]),
            (refined["id"], first["id"]),
            (weighed["id"], replaced["id"]),
        ]
        assert edits[3]["changes"] == ["replace:dog=cat", "weight:red=2", "cross_steps:0.5"]
    file = studio.folder / "weighed.png"
    file.write_bytes(studio.client.get(weighed["url"]).content)
    settings = vars(SamplingRequest.read(file)) | {"model": str(studio.folder / "runs" / "words")}
    sheet, _ = paint_sheet(SamplingRequest.of(settings), device="cpu")
    assert torch.equal(sheet.images[0], pixels(studio, weighed)), (
        "the result must equal the command line's"
    )
    work = open_work(SamplingRequest.of(settings), "cpu")
    *_, images = reword_frames(work, settings["changes"])
    assert torch.equal(to_uint8(images)[0], pixels(studio, first)), (
        "the first picture must be unchanged"
    )


def test_a_given_picture_is_reworded_and_its_reconstruction_reported(studio: Studio):
    image = studio.send(file_of(HALVES))["id"]
    request = {"task": "reword", "inputs": {"image": image}, "options": {"replace": "dog=cat"}}
    job = studio.painted(model="runs/words", prompt="a red dog", sampler=QUICK, n=4, **request)
    text = "the picture is reconstructed with an error of 0.0 %; edits keep what the reconstruction"
    assert job["notes"]["remarks"] == [f"{text} keeps"]
    assert len(job["outputs"]) == 4, "more words than the prompt has"
    edited = pixels(studio, job["outputs"][0])
    assert 0 < int((edited != HALVES).any(0).sum()) < HALVES[0].numel(), (
        "a part of the picture must change"
    )


def test_rewording_is_refused_for_models_without_words(studio: Studio):
    refusal = studio.submit(expect=422, prompt="a dog", changes=["replace:dog=cat"])
    assert refusal["message"] == "this model or task cannot change words"
    parent = studio.painted(prompt="a dog")["outputs"][0]["id"]
    assert "takes no picture" in studio.submit(expect=422, inputs={"parent": parent})["message"]
    job = studio.submit(model="runs/words", prompt="a dog", changes=["replace:cow=cat"])
    error = studio.over(job["id"])["error"]
    assert (error["code"], error["hint"]) == ("invalid", "name a word that it has")


def test_deleting_a_picture_keeps_its_descendants(studio: Studio):
    (first,) = studio.painted(prompt="to be deleted")["outputs"]
    request = {"task": "edit", "inputs": {"image": first["id"]}, "options": {"strength": 0.5}}
    (second,) = studio.painted(prompt="kept", **request)["outputs"]
    path = f"/api/v1/history/{second['id']}/edits"
    edits = studio.client.get(path).json()["pictures"]
    assert [(edit["id"], edit["task"]) for edit in edits] == [
        (first["id"], "paint"),
        (second["id"], "edit"),
    ]
    studio.client.delete(f"/api/v1/history/{first['id']}")
    edits = studio.client.get(path).json()["pictures"]
    assert [(edit["id"], edit["parent"]) for edit in edits] == [(second["id"], None)]
