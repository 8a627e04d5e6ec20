"""Draw the pictures of the page on autoregressive models, from two runs:

    limner train recipes/autoregressive/pixelcnn-mnist-binary.toml --run runs/pixelcnn
    limner train recipes/autoregressive/pixelrnn-diagonal-mnist-binary.toml --run runs/diagonal
    python docs/figures/autoregressive.py runs/pixelcnn runs/diagonal

Draws use the first seeds, completions the first test picture of each digit.
"""

import sys
from typing import Any

import torch
from jaxtyping import Float
from labelled import PICTURES, save_sheet
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from limner import ImageSpec, build, load, open_data
from limner.autoregressive.autoregressive_model import AutoregressiveModel
from limner.contract.image import to_uint8
from limner.data import Stream

MNIST: dict[str, Any] = {"split": "test", "binarise": "dynamic"}
COMPLETIONS, SCALE = 8, 2  # completions of each digit; enlargement of the pictures
FIELDS = {
    "PixelCNN, 7 blocks": ("pixelcnn", {"h": 8, "blocks": 7}),
    "Gated PixelCNN, 10 layers": ("gated-pixelcnn", {"features": 8, "layers": 10}),
    "PixelCNN++, 3 sizes": ("pixelcnnpp", {"features": 8, "dropout": 0.0}),
    "Row LSTM, 1 layer": ("pixelrnn-row", {"h": 8, "layers": 1}),
    "Diagonal BiLSTM, 1 layer": ("pixelrnn-diagonal", {"h": 8, "layers": 1}),
}


def receptive_field(model: AutoregressiveModel, row: int, column: int) -> Float[Tensor, "h w"]:
    """Return how much theta at a pixel changes with each other pixel, from the gradient; 0 is
    exact.
    """
    _, H, W = model.spec.shape
    x = torch.rand(1, H, W, 1, dtype=torch.float64, requires_grad=True)
    model.network(x, None)[0, row, column].sum().backward()
    assert x.grad is not None
    return x.grad[0, :, :, 0].abs()


def fields() -> None:
    """Draw what a pixel depends on, with random weights: pixels that it sees, earlier pixels that
    it does not see, itself, and later pixels.
    """
    N, row, column = 28, 20, 13
    raster = torch.arange(N * N).view(N, N)
    colours = ListedColormap(["#f2f2f2", "#e0a58f", "#3b7dd9", "#222222"])
    figure = Figure(figsize=(11, 2.5), layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    for axis, (title, (name, options)) in zip(figure.subplots(1, len(FIELDS)), FIELDS.items()):
        torch.manual_seed(0)
        model = build(name, ImageSpec(1, N, N, levels=2), **options).double().eval()
        assert isinstance(model, AutoregressiveModel)
        field = (raster < raster[row, column]).int()
        field[receptive_field(model, row, column) > 0] = 2
        field[row, column] = 3
        axis.imshow(field.numpy(), cmap=colours, vmin=0, vmax=3, interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    PICTURES.mkdir(exist_ok=True)
    figure.savefig(PICTURES / "receptive-fields.png", metadata={"Software": None})


def draws(models: dict[str, AutoregressiveModel]) -> None:
    """Draw the pictures of the first seeds of each model."""
    images = torch.cat([to_uint8(model.sample(16, seed=0)) for model in models.values()])
    images = images.expand(-1, 3, -1, -1)
    save_sheet(images, "autoregressive-draws", list(models), [""] * 16, SCALE)


def growing(model: AutoregressiveModel) -> None:
    """Draw three pictures while they are painted row by row."""
    all_frames = list(model.watch(3, seed=0))
    every_fourth = all_frames[3::4]
    images = to_uint8(torch.stack(every_fourth, 1).flatten(0, 1)).expand(-1, 3, -1, -1)
    rows = [f"seed {i}" for i in range(3)]
    save_sheet(
        images, "autoregressive-growing", rows, [f"row {4 * i + 4}" for i in range(7)], SCALE
    )


def completions(model: AutoregressiveModel) -> None:
    """Draw the upper half of digits, and completions of them."""
    data = open_data("mnist", **MNIST)
    real = Stream(data).preview(5).x
    mask = torch.zeros_like(real[:, :1])
    mask[:, :, real.shape[2] // 2 :] = 1
    upper = real * (1 - mask)
    *_, completed = model.complete(
        real.repeat_interleave(COMPLETIONS, 0),
        mask=mask.repeat_interleave(COMPLETIONS, 0),
        seed=[*range(COMPLETIONS)] * len(real),
        preview=False,
    )
    sheet = torch.cat([real[:, None], upper[:, None], completed.unflatten(0, (-1, COMPLETIONS))], 1)
    columns = ["real", "given", *(f"seed {i}" for i in range(COMPLETIONS))]
    save_sheet(
        to_uint8(sheet.flatten(0, 1)).expand(-1, 3, -1, -1),
        "completions",
        [""] * len(real),
        columns,
        SCALE,
    )


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit("pass runs: python docs/figures/autoregressive.py RUN [RUN ...]")
    fields()
    models: dict[str, AutoregressiveModel] = {}
    for run in sys.argv[1:]:
        model = load(run)
        assert isinstance(model, AutoregressiveModel), f"{run} is not an autoregressive model"
        models[model.name] = model
    first = next(iter(models.values()))
    draws(models)
    growing(first)
    completions(first)


if __name__ == "__main__":
    main()
