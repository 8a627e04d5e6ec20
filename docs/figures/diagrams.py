"""Draw the diagrams at the top of the families' pages, from five runs on MNIST.

    limner train recipes/autoregressive/pixelcnn-mnist-binary.toml --run runs/pixelcnn
    limner train recipes/autoencoders/vae-mnist-binary.toml --run runs/vae
    limner train recipes/gans/gan-mnist.toml --run runs/gan
    limner train recipes/flows/glow-mnist.toml --run runs/glow
    limner train recipes/diffusion/ddpm-mnist.toml --run runs/ddpm
    python docs/figures/diagrams.py runs/pixelcnn runs/vae runs/gan runs/glow runs/ddpm

Real pictures are the first test digits, and painted ones use the first seeds. All numbers and
pictures in between are computed by the models from these.
"""

import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from canvas import BLUE, GREY, ORANGE, RED, Box, Canvas
from jaxtyping import Float
from torch import Tensor

from flows import inverse_states
from limner import Condition, Noise, load, open_data
from limner.autoencoders.importance_bound import standard_normal
from limner.autoencoders.vae import VAE
from limner.autoregressive.autoregressive_model import AutoregressiveModel
from limner.contract.image import Images, to_levels
from limner.contract.registry import entry
from limner.diffusion.denoising_model import DenoisingModel
from limner.flows.normalizing import NormalizingFlow
from limner.gans.gan import GAN
from limner.maths.denoisers import per_image
from limner.maths.pixel_distributions import draw
from limner.maths.transforms import Chain

DIGITS = 3  # real digits for a diagram
UPPER, LOWER = 138, 44  # heights of the two rows of pictures
EDGE, LAST = 14, 650  # positions of the first and the last column of pictures
COLUMN_STEP = (LAST - EDGE) // 4  # distance between five columns


def laws(model: AutoregressiveModel, x: Images) -> Float[Tensor, "h w levels"]:
    """Return p(x_i | x_<i) of every pixel in one picture's first channel."""
    with torch.no_grad():
        theta = model.network(x.permute(0, 2, 3, 1), None)
    k = to_levels(x, model.spec.levels).permute(0, 2, 3, 1)
    return model.law.log_probs(theta, k, 0)[0].exp()


def autoregressive(model: AutoregressiveModel, real: Images) -> Canvas:
    """Draw a digit up to a pixel, the distribution of that pixel, a draw, and the digit with one
    more pixel.
    """
    (_, H, W), levels = model.spec.shape, model.spec.levels
    x = model.sample(1, seed=0)
    p = laws(model, x)
    values, half = to_levels(x, levels)[0, 0].flatten(), H // 2 * W
    white = values[half:] == levels - 1  # among the white pixels, take the least certain one
    i = half + int(p.amax(-1).flatten()[half:].where(white, 2.0).argmin())
    p_i = p[i // W, i % W]
    u = Noise.sampling(0, 1).uniform(*model.spec.shape, dtype=torch.float64)[0, 0].flatten()[i]
    x_i = int(draw(p_i.log(), u))
    assert x_i == int(values[i]), "the sampler draws the same"
    order = torch.arange(H * W).view(H, W)
    before, after = (torch.where(order < end, x[0], 0.0) for end in (i, i + 1))

    canvas = Canvas()
    first = canvas.picture(before, EDGE, 112, "$x_{<i}$", 3)
    second = canvas.picture(after, 398, 112, r"$x_{\leq i}$", 3)
    last = canvas.picture(x[0], 622, 112, "$x$", 3)
    for box in first, second:
        corner = box.x + 3 * (i % W), box.y + box.height - 3 * (i // W + 1)
        canvas.frame(Box(corner[0] - 1.5, corner[1] - 1.5, 6, 6), ORANGE)
    network = canvas.network("masked\nnetwork", 128, 128, 70, 52)
    bars = Box(232, 134, 90, 44)
    canvas.bars(p_i.tolist(), x_i, bars)
    canvas.words(r"$p(x_i \mid x_{<i})$", 277, 189, size=11)
    canvas.arrow("paints", first.right(), network.left())
    canvas.arrow("paints", network.right(), bars.left(154))
    canvas.arrow("paints", bars.right(154), second.left())
    canvas.words("draw $x_i$", 359, 164, size=8)
    canvas.arrow("paints", second.top(), (440, 211), (56, 211), first.top())
    canvas.words("once more, with the next $i$", 248, 211, size=8)
    canvas.arrow("paints", second.right(), last.left())
    canvas.words("... until the last pixel", 552, 164, size=8)
    real_digit = canvas.picture(real[0], EDGE, 34)
    canvas.words("a real $x$", 78, 84, GREY, "left", 8)
    canvas.arrow("trains", real_digit.right(72), (163, 72), network.bottom())
    canvas.words(r"$-\sum_i \,\log\, p(x_i \mid x_{<i})$", 277, 48, RED, size=11)
    canvas.arrow("compares", real_digit.right(48), (206, 48))
    canvas.arrow("compares", (277, 115), (277, 64))
    return canvas


def sheet(code: Float[Tensor, "d"]) -> Float[Tensor, "h w"]:
    """Return the numbers of a code in rows, as nearly square as possible."""
    rows = max(h for h in range(1, len(code) + 1) if h * h <= len(code) and len(code) % h == 0)
    return code.view(rows, -1)


def autoencoder(model: VAE, real: Images) -> Canvas:
    """Draw a digit, the distribution of its code, a code, and its reconstruction; below, a code
    from the prior.
    """
    sample = model.sample(1, seed=0)
    new_z = Noise.sampling(0, 1).normal(model.latent)
    with torch.no_grad():
        q = model.posterior(real[:1])
        z = q.draw(Noise.keyed(0, 0, [0]).normal(model.latent))
        x_hat = model.decode(z)
        assert model.decode(new_z).allclose(sample, atol=1e-5)
    j = int(q.kl(standard_normal(q.mean))[0].argmax())  # the most informative number of the code

    canvas = Canvas()
    middles = UPPER + 28, LOWER + 28
    x = canvas.picture(real[0], EDGE, UPPER, "$x$")
    reconstructed = canvas.picture(x_hat[0], LAST, UPPER, r"$\widehat{x}$")
    sample_box = canvas.picture(sample[0], LAST, LOWER, "a draw")
    encoder = canvas.network("encoder", 112, UPPER + 8, 76, 40)
    decoder = canvas.network("decoder", 518, LOWER, 78, UPPER + 56 - LOWER)
    posterior, prior = (Box(234, row + 5, 110, 46) for row in (UPPER, LOWER))
    canvas.bump(posterior, float(q.mean[0, j]), float(q.log_deviation[0, j].exp()), BLUE)
    canvas.bump(prior)
    canvas.words(r"$q(z_j \mid x)$", 289, UPPER + 60, BLUE, size=10)
    canvas.words("$p(z_j) = N(0, 1)$", 289, LOWER - 9, ORANGE, size=10)
    code = canvas.random(sheet(z[0]), 404, UPPER + 15.5, "$z$", 5)
    new_code = canvas.random(sheet(new_z[0]), 404, LOWER + 15.5, r"$z \sim N(0, I)$", 5)
    for a, b in pairwise((x, encoder, posterior, code, decoder, reconstructed)):
        canvas.arrow("trains", a.right(middles[0]), b.left(middles[0]))
    for a, b in pairwise((prior, new_code, decoder, sample_box)):
        canvas.arrow("paints", a.right(middles[1]), b.left(middles[1]))
    canvas.words(r"$\mathrm{KL}(q(z \mid x) \,\Vert\, p(z))$", 289, 119, RED, size=10)
    canvas.arrow("compares", posterior.bottom(), (289, 127))
    canvas.arrow("compares", prior.top(), (289, 111))
    canvas.words(r"$-\log\, p(x \mid z)$", 460, 210, RED, size=11)
    canvas.arrow("compares", x.top(), (42, 210), (405, 210))
    canvas.arrow("compares", reconstructed.top(), (678, 210), (515, 210))
    return canvas


def gan(model: GAN, real: Images) -> Canvas:
    """Draw codes, the pictures that the generator makes of them, and the critic's outputs for these
    and for digits.
    """
    assert model.config["objective"] == "non-saturating", (
        "the losses below are those of this objective"
    )
    n = len(real)
    z = Noise.sampling(0, n).normal(model.latent)
    fake = model.sample(n, seed=0)
    with torch.no_grad():
        D = [model.critic(x, Condition()).sigmoid().tolist() for x in (fake, real)]

    canvas = Canvas()
    codes = [canvas.random(z[i].view(4, -1), EDGE, UPPER + 43 - 21 * i, scale=3) for i in range(n)]
    canvas.words(r"$z \sim N(0, I)$", 41, UPPER - 10, size=9)
    generator = canvas.network("generator\n$G$", 98, UPPER + 4, 76, 48)
    critic = canvas.network("critic\n$D$", 446, LOWER, 66, UPPER + 56 - LOWER)
    fakes, reals = (
        [canvas.picture(x[i], 212 + 63 * i, y, f"{values[i]:.2f}") for i in range(n)]
        for x, y, values in zip((fake, real), (UPPER, LOWER), D)
    )
    canvas.words("$D(G(z)) =$", 206, UPPER - 11, align="right")
    canvas.words("$D(x) =$", 206, LOWER - 11, align="right")
    canvas.words("real $x$", 206, LOWER + 28, GREY, "right")
    canvas.arrow("paints", codes[n // 2].right(UPPER + 28), generator.left())
    canvas.arrow("paints", generator.right(), fakes[0].left())
    for row in fakes, reals:
        canvas.arrow("trains", row[-1].right(), critic.left(row[-1].y + 28))
    canvas.words("$G$ lowers", 545, UPPER + 39, RED, "left")
    canvas.words(r"$-\mathrm{E}\,\log\, D(G(z))$", 545, UPPER + 17, RED, "left", 11)
    canvas.words("$D$ lowers", 545, LOWER + 56, RED, "left")
    canvas.words(r"$-\mathrm{E}\,\log\, D(x)$", 545, LOWER + 34, RED, "left", 11)
    canvas.words(r"$-\mathrm{E}\,\log\, (1 - D(G(z)))$", 545, LOWER + 12, RED, "left", 11)
    for y in UPPER + 28, LOWER + 34:
        canvas.arrow("compares", critic.right(y), (540, y))
    return canvas


def states_of(model: NormalizingFlow, z: Float[Tensor, "1 d"]) -> list[Images]:
    """Return a picture, its state after each quarter of the layers, scaled for display, and z."""
    assert isinstance(model.flow, Chain)
    with torch.no_grad():
        states = list(inverse_states(model.flow, z.view(1, *model.spec.shape)))
        middle = [states[k * len(states) // 4 - 1] for k in (3, 2, 1)]
        scaled = [((h - h.mean()) / (2.5 * h.std())).clamp(-1, 1) for h in middle]
        return [model.decode(z), *scaled, z.view(1, *model.spec.shape)]


def flow(model: NormalizingFlow, real: Images) -> Canvas:
    """Draw a digit that is mapped to its code by invertible maps, and a drawn code that is mapped
    back.
    """
    with torch.no_grad():
        encoding = states_of(model, model.encode(real[:1]))
    decoding = states_of(model, Noise.sampling(0, 1).normal(model.spec.dimensions))
    assert encoding[0].equal(real[:1]), "every level of the digit comes back"
    assert decoding[0].equal(model.sample(1, seed=0))

    canvas = Canvas()
    maps = [
        canvas.network(f"$f_{k + 1}$", 98 + COLUMN_STEP * k, LOWER, 46, UPPER + 46 - LOWER, 12)
        for k in range(4)
    ]
    labels = {UPPER: ("$x = f^{-1}(z)$", "$z = f(x)$"), LOWER: ("a draw", r"$z \sim N(0, I)$")}
    for states, (y, (left, right)) in zip((encoding, decoding), labels.items()):
        row = [
            canvas.picture(h[0], EDGE + COLUMN_STEP * k, y, "" if k else left)
            for k, h in enumerate(states[:-1])
        ]
        row.append(canvas.random(states[-1][0, 0], LAST, y, right))
        for a, f, b in zip(row, maps, row[1:]):
            kind, both = ("trains", True) if y == UPPER else ("paints", False)
            canvas.arrow(kind, b.left(), f.right(y + 28), both=both)
            canvas.arrow(kind, f.left(y + 28), a.right(), both=both)
    density, volume = r"\log\, N(f(x); 0, I)", r"\log\, |\det\, \partial f / \partial x|"
    canvas.words(rf"$-\log\, p(x) = -{density} - {volume}$", 425, 209, RED, size=12)
    canvas.arrow("compares", maps[0].top(), (121, 209), (238, 209))
    for f in maps[1:]:
        canvas.arrow("compares", f.top(), (f.top()[0], 200))
    canvas.arrow("compares", (678, 197), (678, 209), (612, 209))
    return canvas


def diffusion(model: DenoisingModel, real: Images) -> Canvas:
    """Draw a digit with more and more noise, and the denoiser's estimate from much noise."""
    t = torch.arange(5, dtype=torch.float64) / 4
    x = real[:1].expand(len(t), -1, -1, -1)
    eps = Noise.keyed(0, 0, [0]).normal(*model.spec.shape)
    alpha, sigma = (per_image(level, x) for level in model.schedule(t))
    x_t = alpha * x + sigma * eps
    with torch.no_grad():
        x_hat = model(x_t[3:4], t[3:4], Condition()).x_hat.clamp(-1, 1)

    canvas = Canvas()
    chain = [
        canvas.picture(image.clamp(-1, 1), EDGE + COLUMN_STEP * k, UPPER)
        for k, image in enumerate(x_t)
    ]
    for box, symbol in zip(chain, ("x_0", "x_{T/4}", "x_{T/2}", "x_{3T/4}", "x_T")):
        canvas.words(f"${symbol}$", box.x + 28, UPPER + 66, size=11)
    for a, b in pairwise(chain):
        canvas.arrow("trains", a.right(UPPER + 40), b.left(UPPER + 40))
        canvas.arrow("paints", b.left(UPPER + 17), a.right(UPPER + 17))
    canvas.words(r"$q(x_t \mid x_0)$", 121, UPPER + 52, GREY, size=10)
    canvas.words(r"$p(x_s \mid x_t)$", 121, UPPER + 5, size=10)
    D = canvas.network("$D(x_t, t)$", 479, LOWER + 8, 80, 40, 11)
    denoised = canvas.picture(x_hat[0], EDGE + 2 * COLUMN_STEP, LOWER, r"$\widehat{x} = D(x_t, t)$")
    canvas.arrow("paints", chain[3].bottom(), D.top())
    canvas.arrow("paints", D.left(), denoised.right())
    canvas.arrow("paints", denoised.top(), chain[2].bottom())
    loss = r"|\widehat{\epsilon} - \epsilon|^2 = (\alpha_t^2 / \sigma_t^2)\, |\widehat{x} - x_0|^2"
    canvas.words(f"${loss}$", 185, LOWER + 28, RED, size=11)
    canvas.arrow("compares", chain[0].bottom(), (42, LOWER + 28), (72, LOWER + 28))
    canvas.arrow("compares", denoised.left(), (298, LOWER + 28))
    noise = canvas.random(eps[0, 0], LAST, LOWER, r"$\epsilon \sim N(0, I)$")
    canvas.arrow("trains", noise.top(), chain[4].bottom())
    canvas.words(
        "$x_t = \\alpha_t x_0$\n$\\qquad + \\sigma_t \\epsilon$", 604, LOWER + 28, GREY, size=10
    )
    return canvas


DIAGRAMS: dict[str, Callable[[Any, Images], Canvas]] = {
    "autoregressive": autoregressive,
    "autoencoders": autoencoder,
    "gans": gan,
    "flows": flow,
    "diffusion": diffusion,
}
"""The diagrams by the name of the family, which is also that of its page."""


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit("pass runs on MNIST: python docs/figures/diagrams.py RUN ...")
    numbers = torch.arange(DIGITS)
    for run in sys.argv[1:]:
        model = load(run).eval()
        binarise = "dynamic" if model.spec.levels == 2 else None
        data = open_data("mnist", split="test", binarise=binarise)
        real = data.images(numbers, Noise.keyed(0, 0, numbers))
        family = entry(model.name).family
        DIAGRAMS[family](model, real).save(f"how-{family}")


if __name__ == "__main__":
    main()
