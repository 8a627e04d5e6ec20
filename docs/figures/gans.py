"""The picture of the vanishing gradient on the page on GANs; LIMNER_DATA has MNIST:

python docs/figures/gans.py
"""

import torch
from labelled import PICTURES
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from limner import Condition, Noise, build, open_data
from limner.gans.adversarial import beliefs
from limner.gans.gan import GAN
from limner.gans.losses import OBJECTIVES

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


def main() -> None:
    """Draw it, and print its ends."""
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
    axis.grid(color="#e4e4e4", lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    PICTURES.mkdir(exist_ok=True)
    figure.savefig(PICTURES / "vanishing-gradient.png", metadata={"Software": None})


if __name__ == "__main__":
    main()
