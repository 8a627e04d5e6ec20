"""The pictures of the page on autoregressive models, by two runs of theirs:

    limner train recipes/autoregressive/pixelcnn-mnist-binary.toml --run runs/pixelcnn
    limner train recipes/autoregressive/pixelrnn-diagonal-mnist-binary.toml --run runs/diagonal
    python docs/figures/autoregressive.py runs/pixelcnn runs/diagonal

Draws are of the first seeds, completions of the first test picture of each digit.
"""

import sys
from typing import Any

import torch
from jaxtyping import Float
from labelled import PICTURES, labelled
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from limner import ImageSpec, build, load, open_data
from limner.autoregressive.autoregressive_model import AutoregressiveModel
from limner.contract.image import to_uint8
from limner.data import Stream

MNIST: dict[str, Any] = {"split": "test", "binarise": "dynamic"}
DIGITS, SHOWN = 8, 2  # ways to go on, times as large
FIELDS = {
    "PixelCNN, 7 blocks": ("pixelcnn", {"h": 8, "blocks": 7}),
    "Gated PixelCNN, 10 layers": ("gated-pixelcnn", {"features": 8, "layers": 10}),
    "PixelCNN++, 3 sizes": ("pixelcnnpp", {"features": 8, "dropout": 0.0}),
    "Row LSTM, 1 layer": ("pixelrnn-row", {"h": 8, "layers": 1}),
    "Diagonal BiLSTM, 1 layer": ("pixelrnn-diagonal", {"h": 8, "layers": 1}),
}


def seen(model: AutoregressiveModel, row: int, column: int) -> Float[Tensor, "h w"]:
    """How much theta at a pixel changes with each other one, by the gradient; 0 is exact."""
    _, H, W = model.spec.shape
    x = torch.rand(1, H, W, 1, dtype=torch.float64, requires_grad=True)
    model.network(x, None)[0, row, column].sum().backward()
    assert x.grad is not None
    return x.grad[0, :, :, 0].abs()


def fields() -> None:
    """What a pixel sees, of random weights: seen, earlier but not seen, itself, later."""
    N, row, column = 28, 20, 13
    raster = torch.arange(N * N).view(N, N)
    colours = ListedColormap(["#f2f2f2", "#e0a58f", "#3b7dd9", "#222222"])
    figure = Figure(figsize=(11, 2.5), layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    for axis, (title, (name, options)) in zip(figure.subplots(1, len(FIELDS)), FIELDS.items()):
        torch.manual_seed(0)
        model = build(name, ImageSpec(1, N, N, levels=2), **options).double().eval()
        assert isinstance(model, AutoregressiveModel)
        shown = (raster < raster[row, column]).int()
        shown[seen(model, row, column) > 0] = 2
        shown[row, column] = 3
        axis.imshow(shown.numpy(), cmap=colours, vmin=0, vmax=3, interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    PICTURES.mkdir(exist_ok=True)
    figure.savefig(PICTURES / "receptive-fields.png", metadata={"Software": None})


def draws(runs: dict[str, AutoregressiveModel]) -> None:
    """The first seeds of each."""
    images = torch.cat([to_uint8(model.sample(16, seed=0)) for model in runs.values()])
    images = images.expand(-1, 3, -1, -1)
    labelled(images, "autoregressive-draws", list(runs), [""] * 16, SHOWN)


def growing(model: AutoregressiveModel) -> None:
    """Three pictures, row by row."""
    frames = list(model.watch(3, seed=0))
    kept = frames[3::4]
    images = to_uint8(torch.stack(kept, 1).flatten(0, 1)).expand(-1, 3, -1, -1)
    rows = [f"seed {i}" for i in range(3)]
    labelled(images, "autoregressive-growing", rows, [f"row {4 * i + 4}" for i in range(7)], SHOWN)


def completions(model: AutoregressiveModel) -> None:
    """The upper half of digits, and ways to go on."""
    data = open_data("mnist", **MNIST)
    real = Stream(data).preview(5).x
    mask = torch.zeros_like(real[:, :1])
    mask[:, :, real.shape[2] // 2 :] = 1
    kept = real * (1 - mask)
    *_, done = model.complete(
        real.repeat_interleave(DIGITS, 0),
        mask=mask.repeat_interleave(DIGITS, 0),
        seed=[*range(DIGITS)] * len(real),
        preview=False,
    )
    shown = torch.cat([real[:, None], kept[:, None], done.unflatten(0, (-1, DIGITS))], 1)
    columns = ["real", "given", *(f"seed {i}" for i in range(DIGITS))]
    labelled(
        to_uint8(shown.flatten(0, 1)).expand(-1, 3, -1, -1),
        "completions",
        [""] * len(real),
        columns,
        SHOWN,
    )


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit("give runs: python docs/figures/autoregressive.py RUN [RUN ...]")
    fields()
    runs: dict[str, AutoregressiveModel] = {}
    for run in sys.argv[1:]:
        model = load(run)
        assert isinstance(model, AutoregressiveModel), f"{run} is no autoregressive model"
        runs[model.name] = model
    first = next(iter(runs.values()))
    draws(runs)
    growing(first)
    completions(first)


if __name__ == "__main__":
    main()
