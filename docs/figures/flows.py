"""Draw the pictures of the page on flows, from a run of Glow, and from small models of two numbers,
which this script trains:

    limner train recipes/flows/glow-mnist.toml --run runs/glow
    python docs/figures/flows.py runs/glow
"""

import math
import sys
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from labelled import PICTURES, save_sheet
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from limner import ImageSpec, Noise, build, load, open_data
from limner.contract.image import Condition, from_levels, to_uint8
from limner.contract.likelihood import LikelihoodModel
from limner.data import Stream
from limner.data.dataset import Dataset
from limner.diffusion.flow_matching import FlowMatching
from limner.flows.normalizing import NormalizingFlow
from limner.maths.transforms import Chain, Inverse, Split, Squeeze, Transform, halves
from limner.training.loop import Loop, TrainOptions

TEMPERATURES = 0.0, 0.5, 0.7, 0.85, 1.0
SIDE = 64  # levels of each of two numbers; the probabilities of all 4,096 pictures can be computed
SPEC = ImageSpec(2, 1, 1, levels=SIDE)
PLANE: dict[str, dict[str, Any]] = {
    "realnvp": {"L": 1, "features": 16, "blocks": 1, "alpha": None},
    "glow": {"L": 1, "K": 6, "hidden": 32, "coupling": "spline"},
    "flow-matching": {"channels": (64,), "attention": 0, "patch": 1},
    "edm": {"channels": (64,), "attention": 0, "patch": 1},
    "pixelcnn": {"h": 32, "blocks": 2, "top": 64},
    "vae": {
        "latent": 2,
        "hidden": (64, 64),
        "objective": "iwae",
        "k": 10,
        "importance_samples": 500,
    },
}


def temperatures(model: NormalizingFlow) -> None:
    """Draw the same seeds at several temperatures."""
    n = 12
    rows = [to_uint8(model.sample(n, seed=0, temperature=t)) for t in TEMPERATURES]
    labels = [f"T = {t:g}" for t in TEMPERATURES]
    save_sheet(torch.cat(rows).expand(-1, 3, -1, -1), "temperatures", labels, [""] * n, 2)


def inverse_states(chain: Chain, z: Float[Tensor, "b c h w"]) -> Iterator[Float[Tensor, "b c h w"]]:
    """Yield the numbers of the pictures after each layer of the inverse, coarsest scale first."""
    squeeze = next(layer for layer in chain if isinstance(layer, Squeeze))
    layers: list[Transform] = [t for t in chain if not isinstance(t, Squeeze | Inverse)]
    h = squeeze(z)[0]
    for layer in reversed(layers):
        if isinstance(layer, Split):
            split_off = halves(h)[1]
            assert isinstance(layer.rest, Chain)
            for rest in inverse_states(layer.rest, halves(h)[0]):
                h = torch.cat([rest, split_off], 1)
                yield squeeze.inverse(h)
        else:
            h = layer.inverse(h)
            yield squeeze.inverse(h)


def way_back(model: NormalizingFlow) -> None:
    """Draw test digits after every second layer of the inverse, from normal numbers to pictures."""
    n = 3
    x = Stream(open_data("mnist", split="test", label="none")).preview(n).x
    assert isinstance(model.flow, Chain)
    with torch.no_grad():
        z = model.encode(x)
        states = list(inverse_states(model.flow, z.unflatten(1, model.spec.shape)))
        picture = to_uint8(model.decode(z))
    numbers = range(2, len(states), 2)
    shown_states = [z.unflatten(1, model.spec.shape), *(states[i - 1] for i in numbers), states[-1]]
    grey = [to_uint8(((h - h.mean()) / (2.5 * h.std())).clamp(-1, 1)) for h in shown_states]
    images = torch.stack([*grey, picture], 1).flatten(0, 1).expand(-1, 3, -1, -1)
    columns = ["z", *map(str, numbers), str(len(states)), "picture"]
    save_sheet(images, "way-back", [""] * n, columns, 2)


class Moons(Dataset):
    """Two half circles, as pictures of one pixel with two channels, x and y."""

    def __init__(self, n: int) -> None:
        self.spec = SPEC
        generator = torch.Generator().manual_seed(0)
        angle = math.pi * torch.rand(n, generator=generator)
        upper = torch.rand(n, generator=generator) < 0.5
        x = torch.where(upper, angle.cos(), 1 - angle.cos()) - 0.5
        y = torch.where(upper, angle.sin(), 0.5 - angle.sin()) - 0.25
        points = torch.stack([x, y], 1) + 0.08 * torch.randn(n, 2, generator=generator)
        self.levels = ((points / 3.6 + 0.5) * SIDE).long().clamp(0, SIDE - 1)
        self.stored = to_uint8(from_levels(self.levels, SIDE)).view(n, 2, 1, 1)

    def __len__(self) -> int:
        return len(self.stored)

    def pixels(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """Return the stored pictures."""
        return self.stored[indices]


def train_model(name: str, data: Moons, steps: int, **options: Any) -> LikelihoodModel:
    """Train a small model of the two numbers, and return it."""
    torch.manual_seed(0)
    model = build(name, SPEC, **options)
    assert isinstance(model, LikelihoodModel)
    stream = Stream(data, 0)
    train_options = {"steps": steps, "batch": 128, "lr": 3e-3, "schedule": "cosine", "clip": 10.0}
    loop = Loop(model, stream.batch, TrainOptions.of(train_options))
    model.prepare(iter([stream.preview(512)]))
    for _ in range(steps):
        loop.advance()
    return model.eval()


def all_pictures() -> Float[Tensor, "n 2 1 1"]:
    """Return all possible pictures, row by row of x."""
    values = torch.arange(SIDE)
    return from_levels(torch.cartesian_prod(values, values), SIDE).view(-1, 2, 1, 1)


def probabilities(model: LikelihoodModel, draws: int) -> Float[Tensor, "x y"]:
    """Return P(x, y) of every picture; for dequantised models, the mean over some draws."""
    x = all_pictures()
    samples = []
    with torch.no_grad():
        for i in range(draws):
            parts = [
                model.log_prob(x[k : k + 1024], noise=Noise.keyed(i, 0, range(k, k + 1024))).nats
                for k in range(0, len(x), 1024)
            ]
            samples.append(torch.cat(parts).double().exp())
    return torch.stack(samples).mean(0).view(SIDE, SIDE)


def plane(models: dict[str, LikelihoodModel], data: Moons) -> None:
    """Draw the density of each family's model over the plane, next to the data."""
    figure = Figure(figsize=(2.1 * (len(models) + 1), 2.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(models) + 1)
    count = torch.zeros(SIDE, SIDE)
    count.index_put_(tuple(data.levels.T), torch.ones(len(data)), accumulate=True)
    densities = {"data": count.double() / len(data)}
    for name, model in models.items():
        dequantised = isinstance(model, NormalizingFlow)
        densities[name] = probabilities(model, 8 if dequantised else 1)
        print(
            f"{name}: the probabilities of all pictures sum to {float(densities[name].sum()):.3f}"
        )
    top = float(densities["data"].quantile(0.995))
    for axis, (title, p) in zip(axes, densities.items()):
        axis.imshow(p.T.numpy(), origin="lower", cmap="magma", vmin=0, vmax=top)
        axis.set_title(title, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.savefig(PICTURES / "data-space.png", metadata={"Software": None})


def paths(models: dict[str, FlowMatching]) -> None:
    """Draw paths from noise to data along the velocity, in 50 steps."""
    n, steps = 150, 50
    figure = Figure(figsize=(8.0, 4.3), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (title, model) in zip(figure.subplots(1, len(models)), models.items()):
        x = Noise.sampling(0, n).normal(2, 1, 1)
        states = [x]
        with torch.no_grad():
            for i in range(steps):
                t = torch.full((n,), 1 - i / steps)
                x = x - model.velocity(x, t, Condition()) / steps
                states.append(x)
        points = torch.stack(states).flatten(2)  # steps n 2
        length = points.diff(dim=0).norm(dim=-1).sum(0)
        excess = float((length.sum() / (points[-1] - points[0]).norm(dim=-1).sum()) - 1)
        print(f"{title}: paths are {100 * excess:.1f} % longer than straight ones")
        axis.plot(*points.permute(2, 0, 1).numpy(), color="#2f6fb2", lw=0.5, alpha=0.6)
        axis.scatter(*points[0].T.numpy(), s=6, color="#999999", label="noise, t = 1", zorder=3)
        axis.scatter(*points[-1].T.numpy(), s=6, color="#c0392b", label="data, t = 0", zorder=3)
        axis.set(title=title, xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[])
        axis.set_aspect("equal")
        axis.legend(loc="upper right", fontsize=8, frameon=False)
    figure.savefig(PICTURES / "straight-paths.png", metadata={"Software": None})


def two_numbers(steps: int = 2000) -> None:
    """Train the models of the plane, and draw their figures."""
    data = Moons(20_000)
    models = {name: train_model(name, data, steps, **options) for name, options in PLANE.items()}
    plane(models, data)
    independent = models["flow-matching"]
    optimal = train_model("flow-matching", data, steps, pairing="optimal", **PLANE["flow-matching"])
    assert isinstance(independent, FlowMatching)
    assert isinstance(optimal, FlowMatching)
    paths({"pairing=independent": independent, "pairing=optimal": optimal})


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("pass a run of Glow: python docs/figures/flows.py RUN")
    PICTURES.mkdir(exist_ok=True)
    model = load(sys.argv[1])
    assert isinstance(model, NormalizingFlow)
    temperatures(model)
    way_back(model)
    two_numbers()


if __name__ == "__main__":
    main()
