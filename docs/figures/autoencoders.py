"""Draw the pictures of the page on autoencoders, from three runs:

    limner train recipes/autoencoders/vae-mnist-binary.toml --run runs/vae
    limner train vae mnist data.binarise=dynamic data.label=none model.latent=2 \
        model.hidden=400,400 train.steps=6000 train.batch=100 train.lr=1e-3 \
        train.schedule=cosine train.threads=1 --run runs/plane
    limner train recipes/autoencoders/nvae-mnist-binary.toml --run runs/nvae
    python docs/figures/autoencoders.py runs/vae runs/plane runs/nvae
"""

import math
import sys
from typing import Any

import torch
from labelled import PICTURES, save_sheet
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from limner import Noise, load, open_data
from limner.contract.image import Images, to_uint8
from limner.data.png import grid

MNIST: dict[str, Any] = {"split": "test", "binarise": "dynamic"}
DRAWS = 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000
N_BOUND = 200  # digits for the bounds
TAB10 = "tab10"


def digits(n: int, first: int = 0) -> tuple[Images, torch.Tensor]:
    """Return n test digits, in the file's order, and their classes."""
    data = open_data("mnist", **MNIST)
    numbers = torch.arange(first, first + n)
    assert data.labels is not None
    return data.images(numbers, Noise.keyed(0, 0, numbers)), data.labels[numbers]


def sheet(x: Images, *labels: Any) -> None:
    """Save grey pictures with `save_sheet`, as RGB, so that a single channel is not drawn in false
    colours.
    """
    save_sheet(to_uint8(x).expand(-1, 3, -1, -1), *labels, scale=2)


def reconstructions(model: Any) -> None:
    x, _ = digits(12)
    images = torch.cat([x, model.reconstruct(x)])
    sheet(images, "reconstructions", ["test digit", "E p(x | z)"], [""] * 12)


def paths(model: Any) -> None:
    x, _ = digits(8)
    path = model.interpolate(x[::2], x[1::2], 10)
    rows = torch.cat([x[::2, None], path, x[1::2, None]], 1).flatten(0, 1)
    columns = ["digit", *(f"{i / 9:.2f}" for i in range(10)), "digit"]
    sheet(rows, "code-paths", [""] * 4, columns)


def traversal(model: Any) -> None:
    x, _ = digits(1)
    values = -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0
    images = model.traverse(x, 6, values).flatten(0, 1)
    sheet(images, "traversal", [""] * 6, [f"{v:g}" for v in values])


def plane(model: Any) -> None:
    """Draw the codes of test digits, and the decoded pictures at the quantiles of the prior."""
    x, label = digits(3000)
    with torch.no_grad():
        z = model.encode(x)
    side = 18
    quantiles = torch.special.ndtri((torch.arange(side) + 0.5) / side)
    codes = torch.cartesian_prod(-quantiles, quantiles).flip(1).float()
    with torch.no_grad():
        tiles = to_uint8(model.decode(codes))
    figure = Figure(figsize=(10.4, 5.0), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    points = left.scatter(*z.T.numpy(), c=label.numpy(), s=5, cmap=TAB10, vmin=-0.5, vmax=9.5)
    figure.colorbar(points, ax=left, ticks=range(10), label="class, which the model is not told")
    left.set(xlabel="$z_1$", ylabel="$z_2$", title="means of q(z | x) of 3,000 test digits")
    left.set_aspect("equal")
    right.imshow(grid(tiles, side, gap=0)[0].numpy(), cmap="gray")
    right.set(title="E p(x | z) at the quantiles of p(z)", xlabel="$z_1$", ylabel="$z_2$")
    right.set(xticks=[], yticks=[])
    figure.savefig(PICTURES / "latent-plane.png", metadata={"Software": None})


def bounds(model: Any) -> None:
    """Draw the mean bound of test digits against the number of draws, with standard errors of the
    difference to the last one. Fewer draws are the first ones of more draws.
    """
    x, _ = digits(N_BOUND)
    bound: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for k in DRAWS:
            nats = [
                model.log_prob(x[i : i + 50], noise=Noise.keyed(0, 0, range(i, i + 50)), k=k).nats
                for i in range(0, N_BOUND, 50)
            ]
            bound[k] = torch.cat(nats).double()
    means = [-float(bound[k].mean()) for k in DRAWS]
    reference = bound[DRAWS[-1]]
    errors = [float((bound[k] - reference).std()) / math.sqrt(N_BOUND) for k in DRAWS]
    for k, mean, error in zip(DRAWS, means, errors):
        print(f"IW-{k}: {mean:.2f} nats (+-{error:.2f} to IW-{DRAWS[-1]})")
    figure = Figure(figsize=(6.4, 3.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.errorbar(DRAWS, means, errors, color="#2f6fb2", marker="o", ms=4, lw=1.4, capsize=2)
    axis.set_xscale("log")
    axis.set(
        xlabel="k, draws from q(z | x)",
        ylabel="$-L_k$, nats a digit",
        title=f"the bound on {N_BOUND} test digits: k = 1 is the ELBO",
    )
    axis.grid(color="#e4e4e4", lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURES / "bounds.png", metadata={"Software": None})


def temperatures(model: Any) -> None:
    """Draw the same seeds at several temperatures of the groups' priors."""
    values = 0.4, 0.6, 0.8, 1.0
    rows = torch.cat([model.sample(12, seed=0, temperature=t) for t in values])
    sheet(rows, "nvae-temperatures", [f"T = {t:g}" for t in values], [""] * 12)


def main() -> None:
    if len(sys.argv) != 4:
        raise SystemExit("pass three runs: python docs/figures/autoencoders.py VAE PLANE NVAE")
    PICTURES.mkdir(exist_ok=True)
    model, plane_model, nvae = map(load, sys.argv[1:])
    reconstructions(model)
    paths(model)
    traversal(model)
    plane(plane_model)
    bounds(model)
    temperatures(nvae)


if __name__ == "__main__":
    main()
