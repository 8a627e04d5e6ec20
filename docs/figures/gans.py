"""The pictures of the page on GANs: the vanishing gradient, a run on StackedMNIST, and digits of
two runs on MNIST. LIMNER_DATA has MNIST:

    limner train recipes/gans/wgan-gp-stacked-mnist.toml --run runs/stacked
    limner train recipes/gans/gan-mnist.toml --run runs/gan
    limner train recipes/gans/wgan-gp-mnist.toml --run runs/wgan-gp
    python docs/figures/gans.py runs/stacked runs/gan runs/wgan-gp
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from labelled import PICTURES, labelled
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from limner import Condition, GenerativeModel, Noise, build, load, open_data
from limner.contract.image import to_uint8
from limner.evaluate.metrics.modes import modes
from limner.gans.gan import GAN
from limner.gans.losses import OBJECTIVES, beliefs
from limner.runtime.log import read_log
from limner.training.recipe import Recipe

MOVES, EVERY, BATCH = 200, 5, 32
SHOWN = {"minimax": "#d9663b", "non-saturating": "#2f6fb2"}


def gradient_norm(model: GAN, objective: str, noise: Noise) -> float:
    """The norm of the generator's gradient against the present critic."""
    scores = model.critic(model.paint(noise, Condition()), Condition())
    loss = OBJECTIVES[objective].generator(scores)  # pyright: ignore[reportArgumentType]
    parts = torch.autograd.grad(loss, list(model.generator.parameters()))
    return float(torch.nn.utils.get_total_norm(parts))


def experiment() -> tuple[list[int], dict[str, list[float]], list[float]]:
    """A generator stands still while its critic learns: moves, gradient norms, D(fake)."""
    data = open_data("mnist", label="none")
    torch.manual_seed(0)
    model = build("gan", data.spec, channels=8, latent=16, norm="none")
    assert isinstance(model, GAN)
    adam = torch.optim.Adam(model.critic.parameters(), lr=1e-3, betas=(0.5, 0.999))
    moves: list[int] = []
    norms: dict[str, list[float]] = {name: [] for name in SHOWN}
    believed: list[float] = []
    for move in range(MOVES + 1):
        numbers = torch.arange(move * BATCH, (move + 1) * BATCH)
        noise = Noise.keyed(0, move, numbers)
        x = data.images(numbers, noise)
        with torch.no_grad():
            fake = model.paint(noise, Condition())
        on_real, on_fake = (model.critic(some, Condition()) for some in (x, fake))
        if move % EVERY == 0:
            moves.append(move)
            believed.append(float(beliefs(on_real, on_fake)["D(fake)"]))
            for name, found in norms.items():
                found.append(gradient_norm(model, name, Noise.keyed(1, 0, range(BATCH))))
        adam.zero_grad()
        OBJECTIVES["minimax"].critic(on_real, on_fake).backward()
        adam.step()
    return moves, norms, believed


def vanishing_gradient() -> None:
    """Draw the experiment, and print its ends."""
    moves, norms, believed = experiment()
    figure = Figure(figsize=(6.4, 3.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for name, colour in SHOWN.items():
        axis.plot(moves, norms[name], color=colour, lw=1.6, label=f"{name}: gradient norm")
        print(f"{name}: {norms[name][0]:.3g} before, {norms[name][-1]:.3g} after {MOVES} moves")
    axis.plot(moves, believed, color="#8a8f94", lw=1.2, ls="--", label="D(G(z))")
    print(f"D(G(z)): {believed[0]:.3g} before, {believed[-1]:.3g} after")
    axis.set_yscale("log")
    axis.set(
        xlabel="moves of the critic, while the generator stands still",
        title="what is left for the generator to learn from",
    )
    axis.legend(frameon=False)
    plain(axis)
    figure.savefig(PICTURES / "vanishing-gradient.png", metadata={"Software": None})


def plain(axis: Axes) -> None:
    """Lines of a grid, and no frame."""
    axis.grid(color="#e4e4e4", lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def stacked_digits(run: Path) -> None:
    """Real pictures, paintings, and the three digits of each painting."""
    n, model = 12, load(run)
    assert isinstance(model, GenerativeModel)
    real = open_data("stacked-mnist", split="test").pixels(torch.arange(n))
    painted = to_uint8(model.sample(n))
    digits = [painted[:, i : i + 1].expand(-1, 3, -1, -1) for i in range(3)]
    rows = ["real", "painted", "its red", "its green", "its blue"]
    labelled(torch.cat([real, painted, *digits]), "stacked-mnist", rows, [""] * n, 2)


def coverage(run: Path) -> None:
    """Modes and divergence of few paintings in training, beside those of a uniform model."""
    recipe = Recipe.read(run / "recipe.toml")
    n = recipe.evaluate["n"]
    uniform = torch.randint(1000, (20, n), generator=torch.Generator().manual_seed(0))
    best = [modes(classes, 1000) for classes in uniform]
    rows = [row for row in read_log(run) if "evaluate.modes (lenet)" in row]
    figure = Figure(figsize=(7.2, 2.8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = {
        "modes": ("evaluate.modes (lenet)", [each.covered for each in best]),
        "KL to uniform": (
            "evaluate.KL to uniform (lenet)",
            [each.divergence for each in best],
        ),
    }
    for axis, (title, (key, reachable)) in zip(figure.subplots(1, 2), panels.items()):
        level = sum(reachable) / len(reachable)
        seen = [row["images"] / 1000 for row in rows]
        axis.plot(seen, [row[key] for row in rows], color="#2f6fb2", lw=1.6, marker="o", ms=3)
        axis.axhline(level, color="#8a8f94", lw=1.2, ls="--", label="a uniform model")
        axis.set(title=f"{title}, of {n:,} pictures", xlabel="thousand images seen", ylim=(0, None))
        axis.legend(frameon=False)
        plain(axis)
    figure.savefig(PICTURES / "coverage.png", metadata={"Software": None})


def digits(runs: Sequence[Path]) -> None:
    """The first draws of some runs' models, a row for each."""
    n, models = 20, [load(run) for run in runs]
    painted = [model.sample(n) for model in models if isinstance(model, GenerativeModel)]
    names = [model.name for model in models]
    sheet = to_uint8(torch.cat(painted)).expand(-1, 3, -1, -1)
    labelled(sheet, "gan-digits", names, [""] * n, 2)


def main() -> None:
    if len(sys.argv) != 4:
        raise SystemExit("give three runs: python docs/figures/gans.py STACKED GAN WGAN-GP")
    PICTURES.mkdir(exist_ok=True)
    stacked, *others = map(Path, sys.argv[1:])
    vanishing_gradient()
    stacked_digits(stacked)
    coverage(stacked)
    digits(others)


if __name__ == "__main__":
    main()
