"""Every registered model can resume a run, on every kind of data that it is trained on."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from limner.contract.checkpoint import read_header, save_model
from limner.contract.errors import LimnerError
from limner.contract.image import Images, ImageSpec, TextSpec, to_uint8
from limner.contract.noise import Noise
from limner.contract.registry import models
from limner.data import Dataset
from limner.data.dataset import View
from limner.testing.cases import _DATA, _LAYOUTS, _REDUCED_DATA, Case, _smallest, toy_data
from limner.training.data_record import DATA_FILE, DataRecord, same_kind
from limner.training.recipe import Recipe
from limner.training.run import resume, train

KINDS = _DATA | _LAYOUTS | {"reduced": _REDUCED_DATA["reduced"]}
KINDS |= {"grey": KINDS.pop("grey")}  # plain pictures last, only for models without other data
BRIEF = {"steps": 1, "batch": 2, "samples": 0, "calibrate_batches": 1}


class Toys(Dataset):
    """A data set of eight random pictures with all conditions of its spec."""

    def __init__(self, spec: ImageSpec) -> None:
        self.spec, self.source, self.digest = spec, "toys", "of toys"
        self._batch = toy_data(spec, 0, 8)
        self.labels = self._batch.c.label

    def __len__(self) -> int:
        return 8

    def pixels(self, indices: Tensor) -> Tensor:
        return to_uint8(self._batch.x[indices])

    def captions(self, indices: Tensor, noise: Noise) -> list[str] | None:
        return [f"number {i}" for i in indices.tolist()] if self.spec.text else None

    def hints(
        self,
        indices: Tensor,
        numbers: Tensor,
        seed: int,
        view: View | None = None,
        x: Images | None = None,
    ) -> Images | None:
        hint = self._batch.c.image
        return None if hint is None else hint[indices]


def recipe_of(case: Case, folder: Path) -> Recipe:
    """Return the recipe of a case; nested models are read from files."""
    nested = {key: value for key, value in case.config.items() if isinstance(value, Case)}
    init = {}
    for key, inner in nested.items():
        init[key] = str(folder / f"{key}.safetensors")
        save_model(inner.build(), init[key])
    config = {key: value for key, value in case.config.items() if key not in nested}
    options = BRIEF | ({"init": init} if init else {})
    return Recipe({"name": case.model.name} | config, {"source": "toys"}, options)


@pytest.mark.usefixtures("undrawn_curves")
@pytest.mark.parametrize(
    "name", [k for k, of in models().items() if of.model.__module__.startswith("limner.")]
)
def test_a_run_is_resumed_with_labels_text_and_hints(name: str, tmp_path: Path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    trained = []
    for kind, spec in KINDS.items():
        case, model = _smallest(models()[name], kind, spec)
        if model is None or (kind == "grey" and trained):
            continue
        run, data = tmp_path / kind, Toys(case.spec)
        (tmp_path / f"{kind}-nested").mkdir()
        train(recipe_of(case, tmp_path / f"{kind}-nested"), run, dataset=data, device="cpu")
        resume(run, ["train.steps=2"], dataset=data, device="cpu")
        images_seen = read_header(run / "model.safetensors").images_seen
        assert images_seen == 2 * 2 * model.batches_per_round
        trained.append(kind)
    torch.set_num_threads(threads)
    assert trained


def pictures(folder: Path, first: int, last: int) -> None:
    folder.mkdir(exist_ok=True)
    for i in range(first, last):
        pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def test_changed_data_are_reported_and_used_only_with_new_data(tmp_path: Path):
    root, run = tmp_path / "pictures", tmp_path / "run"
    pictures(root, 0, 10)
    recipe = Recipe(
        {"name": "pixelcnn"} | dict(models()["pixelcnn"].tiny), {"source": f"folder:{root}"}, BRIEF
    )
    train(recipe, run, device="cpu")
    resume(run, ["train.steps=2"], device="cpu")
    pictures(root, 10, 15)
    message = r"15 pictures instead of 10; .* add --new-data to the command"
    with pytest.raises(LimnerError, match=message):
        resume(run, ["train.steps=3"], device="cpu")
    assert read_header(run / "model.safetensors").images_seen == 4
    resume(run, ["train.steps=3"], device="cpu", new_data=True)
    resume(run, ["train.steps=4"], device="cpu")  # from now on the new data are the run's data
    with pytest.raises(LimnerError, match=r"as many pictures, but other pixels.* or data options"):
        resume(run, ["data.flip=true"], device="cpu")
    with pytest.raises(LimnerError, match=r"do not fit the model .* 16 x 16 .* or train a new one"):
        resume(run, ["data.size=16"], device="cpu", new_data=True)
    pictures(other := tmp_path / "other", 20, 28)
    moved = [f"data.source=folder:{other}", "train.steps=5"]
    with pytest.raises(LimnerError, match="cannot be split evenly"):
        resume(run, [*moved, "train.micro_batches=4"], device="cpu", new_data=True)
    with pytest.raises(LimnerError, match=r"8 pictures instead of 15"):  # nothing was recorded
        resume(run, moved, device="cpu")
    (run / DATA_FILE).unlink()  # like a run of an earlier version
    resume(run, ["train.steps=5"], device="cpu")
    assert DataRecord.read(run) is not None


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"labels": ("cat", "dog", "fox")}, "class 'fox' is new"),
        ({"labels": ("dog",)}, "class 'cat' is gone"),
        ({"labels": ("dog", "cat")}, "the classes are in another order"),
        ({"text": TextSpec(4, 9, "words", "")}, "captions are encoded in another way"),
        ({"levels": 2}, "2 levels instead of 256"),
        ({"height": 4}, "3 x 4 x 8 (channels x height x width) instead of 3 x 8 x 8"),
        ({"hint": ImageSpec(1, 8, 8)}, "conditioning images"),
    ],
)
def test_changes_of_data_are_described(other: Mapping, said: str, tmp_path: Path):
    before = DataRecord("toys", 8, "a", ImageSpec(3, 8, 8, labels=("cat", "dog")))
    before.write(tmp_path)
    assert DataRecord.read(tmp_path) == before and before.changes(before) == []
    after = replace(before, spec=replace(before.spec, **other), digest="b")
    assert said in before.changes(after)[0]


def test_a_model_fits_data_with_other_shares_of_the_same_classes():
    spec = ImageSpec(3, 8, 8, labels=("cat", "dog"), frequencies=(0.5, 0.5))
    assert same_kind(spec, replace(spec, frequencies=(0.9, 0.1)))
    assert not same_kind(spec, replace(spec, labels=("dog", "cat")))


def test_a_damaged_record_gives_one_line(tmp_path: Path):
    (tmp_path / DATA_FILE).write_text("{")
    with pytest.raises(LimnerError, match=r"cannot read .*data\.json .* delete it"):
        DataRecord.read(tmp_path)
