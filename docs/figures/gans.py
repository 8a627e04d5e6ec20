"""Draw the pictures of the page on GANs: the vanishing gradient, a run on StackedMNIST, and digits
of two runs on MNIST. Put MNIST into the folder LIMNER_DATA first.

    limner train recipes/gans/wgan-gp-stacked-mnist.toml --run runs/stacked
    limner train recipes/gans/gan-mnist.toml --run runs/gan
    limner train recipes/gans/wgan-gp-mnist.toml --run runs/wgan-gp
    python docs/figures/gans.py runs/stacked runs/gan runs/wgan-gp
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from labelled import PICTURES, save_sheet
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from limner import Condition, GenerativeModel, Noise, build, load, open_data
from limner.contract.image import to_uint8
from limner.evaluate.metrics.modes import modes
from limner.gans.gan import GAN
from limner.gans.losses import OBJECTIVES, mean_probabilities
from limner.runtime.log import read_log
from limner.training.recipe import Recipe

TURNS, EVERY, BATCH = 200, 5, 32
SHOWN = {"minimax": "#d9663b", "non-saturating": "#2f6fb2"}


def gradient_norm(model: GAN, objective: str, noise: Noise) -> float:
    """Return the norm of the generator's gradient against the current critic."""
    scores = model.critic(model.paint(noise, Condition()), Condition())
    loss = OBJECTIVES[objective].generator(scores)  # pyright: ignore[reportArgumentType]
    gradients = torch.autograd.grad(loss, list(model.generator.parameters()))
    return float(torch.nn.utils.get_total_norm(gradients))


def experiment() -> tuple[list[int], dict[str, list[float]], list[float]]:
    """Train the critic while the generator is fixed; return turns, gradient norms, and D(fake)."""
    data = open_data("mnist", label="none")
    torch.manual_seed(0)
    model = build("gan", data.spec, channels=8, latent=16, norm="none")
    assert isinstance(model, GAN)
    adam = torch.optim.Adam(model.critic.parameters(), lr=1e-3, betas=(0.5, 0.999))
    turns: list[int] = []
    norms: dict[str, list[float]] = {name: [] for name in SHOWN}
    d_fake: list[float] = []
    for turn in range(TURNS + 1):
        numbers = torch.arange(turn * BATCH, (turn + 1) * BATCH)
        noise = Noise.keyed(0, turn, numbers)
        x = data.images(numbers, noise)
        with torch.no_grad():
            fake = model.paint(noise, Condition())
        on_real, on_fake = (model.critic(images, Condition()) for images in (x, fake))
        if turn % EVERY == 0:
            turns.append(turn)
            d_fake.append(float(mean_probabilities(on_real, on_fake)["D(fake)"]))
            for name, values in norms.items():
                values.append(gradient_norm(model, name, Noise.keyed(1, 0, range(BATCH))))
        adam.zero_grad()
        OBJECTIVES["minimax"].critic(on_real, on_fake).backward()
        adam.step()
    return turns, norms, d_fake


def vanishing_gradient() -> None:
    """Draw the experiment, and print its first and last values."""
    turns, norms, d_fake = experiment()
    figure = Figure(figsize=(6.4, 3.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for name, colour in SHOWN.items():
        axis.plot(turns, norms[name], color=colour, lw=1.6, label=f"{name}: gradient norm")
        print(f"{name}: {norms[name][0]:.3g} before, {norms[name][-1]:.3g} after {TURNS} turns")
    axis.plot(turns, d_fake, color="#8a8f94", lw=1.2, ls="--", label="D(G(z))")
    print(f"D(G(z)): {d_fake[0]:.3g} before, {d_fake[-1]:.3g} after")
    axis.set_yscale("log")
    axis.set(
        xlabel="moves of the critic, while the generator stands still",
        title="what is left for the generator to learn from",
    )
    axis.legend(frameon=False)
    style_axis(axis)
    figure.savefig(PICTURES / "vanishing-gradient.png", metadata={"Software": None})


def style_axis(axis: Axes) -> None:
    """Draw the lines of a grid, and remove the frame."""
    axis.grid(color="#e4e4e4", lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def stacked_digits(run: Path) -> None:
    """Draw real pictures, generated pictures, and the three digits of each generated picture."""
    n, model = 12, load(run)
    assert isinstance(model, GenerativeModel)
    real = open_data("stacked-mnist", split="test").pixels(torch.arange(n))
    images = to_uint8(model.sample(n))
    digits = [images[:, i : i + 1].expand(-1, 3, -1, -1) for i in range(3)]
    rows = ["real", "painted", "its red", "its green", "its blue"]
    save_sheet(torch.cat([real, images, *digits]), "stacked-mnist", rows, [""] * n, 2)


def coverage(run: Path) -> None:
    """Draw the modes and the divergence of a few generated pictures during training, compared with
    a uniform model.
    """
    recipe = Recipe.read(run / "recipe.toml")
    n = recipe.evaluate["n"]
    uniform = torch.randint(1000, (20, n), generator=torch.Generator().manual_seed(0))
    references = [modes(classes, 1000) for classes in uniform]
    rows = [row for row in read_log(run) if "evaluate.modes (lenet)" in row]
    figure = Figure(figsize=(7.2, 2.8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = {
        "modes": ("evaluate.modes (lenet)", [result.covered_count for result in references]),
        "KL to uniform": (
            "evaluate.KL to uniform (lenet)",
            [result.divergence for result in references],
        ),
    }
    for axis, (title, (key, ideal)) in zip(figure.subplots(1, 2), panels.items()):
        level = sum(ideal) / len(ideal)
        images = [row["images"] / 1000 for row in rows]
        axis.plot(images, [row[key] for row in rows], color="#2f6fb2", lw=1.6, marker="o", ms=3)
        axis.axhline(level, color="#8a8f94", lw=1.2, ls="--", label="a uniform model")
        axis.set(title=f"{title}, of {n:,} pictures", xlabel="thousand images seen", ylim=(0, None))
        axis.legend(frameon=False)
        style_axis(axis)
    figure.savefig(PICTURES / "coverage.png", metadata={"Software": None})


def digits(runs: Sequence[Path]) -> None:
    """Draw the first pictures of some runs' models, one row each."""
    n, models = 20, [load(run) for run in runs]
    images = [model.sample(n) for model in models if isinstance(model, GenerativeModel)]
    names = [model.name for model in models]
    sheet = to_uint8(torch.cat(images)).expand(-1, 3, -1, -1)
    save_sheet(sheet, "gan-digits", names, [""] * n, 2)


def main() -> None:
    if len(sys.argv) != 4:
        raise SystemExit("pass three runs: python docs/figures/gans.py STACKED GAN WGAN-GP")
    PICTURES.mkdir(exist_ok=True)
    stacked, *others = map(Path, sys.argv[1:])
    vanishing_gradient()
    stacked_digits(stacked)
    coverage(stacked)
    digits(others)


if __name__ == "__main__":
    main()
