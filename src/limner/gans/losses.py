"""The losses of adversarial training, side by side.

`real` and `fake` are a critic's scores, before any sigmoid, "b" or "b ...". With D = sigmoid of the
score, softplus(-s) = -log D and softplus(s) = -log(1 - D), which never overflow.

    objective        the critic minimises                     the generator minimises
    minimax          -E log D(x) - E log(1 - D(G(z)))          E log(1 - D(G(z)))
    non-saturating   the same                                 -E log D(G(z))
    least-squares    E (s(x) - 1)^2 / 2 + E s(G(z))^2 / 2      E (s(G(z)) - 1)^2 / 2
    hinge            E (1 - s(x))_+ + E (1 + s(G(z)))_+       -E s(G(z))
    relativistic     E softplus(s(G(z)) - s(x))                E softplus(s(x) - s(G(z)))
    wasserstein      E s(G(z)) - E s(x)                       -E s(G(z))

Goodfellow et al. (2014). Generative adversarial nets. arXiv:1406.2661 (the first two).
Mao, Li, Xie, Lau, Wang, Smolley (2016). Least squares generative adversarial networks.
arXiv:1611.04076 (equation 9). Lim, Ye (2017). Geometric GAN. arXiv:1705.02894 (hinge).
Jolicoeur-Martineau (2018). The relativistic discriminator: a key element missing from standard GAN.
arXiv:1807.00734, and Huang, Gokaslan, Kuleshov, Tompkin (2024). arXiv:2501.05441 (relativistic).
Arjovsky, Chintala, Bottou (2017). Wasserstein GAN. arXiv:1701.07875.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.image import Images

Scores = Float[Tensor, "b *rest"]
Scalar = Float[Tensor, ""]
Name = Literal["minimax", "non-saturating", "least-squares", "hinge", "relativistic"]


class Objective(NamedTuple):
    """The losses of both players.

    Args:
        critic: the critic's loss, given the scores of real and of generated pictures.
        generator: the generator's loss, given the scores of generated pictures and, if `paired`,
            those of real pictures.
        opinions: values for the log, given the scores of real and of generated pictures.
        paired: whether each generated picture is compared with a real one.
    """

    critic: Callable[[Scores, Scores], Scalar]
    generator: Callable[..., Scalar]
    opinions: Callable[[Scores, Scores], dict[str, Tensor]]
    paired: bool = False


def discriminate(real: Scores, fake: Scores) -> Scalar:
    """-E log D(x) - E log(1 - D(G(z))): the loss of a classifier of real and fake."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def minimax(fake: Scores) -> Scalar:
    """E log(1 - D(G(z))): its gradient D(G(z)) in the score vanishes if the critic is confident."""
    return -F.softplus(fake).mean()


def non_saturating(fake: Scores) -> Scalar:
    """-E log D(G(z)): its gradient D(G(z)) - 1 is largest if the critic is confident."""
    return F.softplus(-fake).mean()


def least_squares_critic(real: Scores, fake: Scores) -> Scalar:
    """E (s(x) - 1)^2 / 2 + E s(G(z))^2 / 2: scores drawn to 1 for real, to 0 for fake pictures."""
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def least_squares_generator(fake: Scores) -> Scalar:
    """E (s(G(z)) - 1)^2 / 2: scores of fake pictures drawn to 1."""
    return (fake - 1).square().mean() / 2


def hinge(real: Scores, fake: Scores) -> Scalar:
    """E (1 - s(x))_+ + E (1 + s(G(z)))_+: only scores within the margin count."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def relativistic_critic(real: Scores, fake: Scores) -> Scalar:
    """E softplus(s(G(z)) - s(x)): each real picture should score above its fake one."""
    return F.softplus(fake - real).mean()


def relativistic_generator(fake: Scores, real: Scores) -> Scalar:
    """E softplus(s(x) - s(G(z))): each fake picture should score above its real one."""
    return F.softplus(real - fake).mean()


def wasserstein(real: Scores, fake: Scores) -> Scalar:
    """E s(G(z)) - E s(x): minus the estimate of the distance, if s is 1-Lipschitz."""
    return fake.mean() - real.mean()


def generator_loss(fake: Scores) -> Scalar:
    """-E s(G(z)): minus the critic's mean score."""
    return -fake.mean()


def mean_probabilities(real: Scores, fake: Scores) -> dict[str, Tensor]:
    """Return the means of D = sigmoid(s) on real and on generated pictures, for the log."""
    return {
        "D(real)": real.detach().float().sigmoid().mean(),
        "D(fake)": fake.detach().float().sigmoid().mean(),
    }


def mean_scores(real: Scores, fake: Scores) -> dict[str, Tensor]:
    """Return the mean scores, for the log of games in which D is not a probability."""
    return {"s(real)": real.detach().float().mean(), "s(fake)": fake.detach().float().mean()}


def game_formula(critic: Callable[..., Scalar], generator: Callable[..., Scalar]) -> list[str]:
    """Return the game as two lines, with the formulas at the start of both losses' docstrings.

    >>> game_formula(wasserstein, generator_loss)
    ['critic:     min E s(G(z)) - E s(x)', 'generator:  min -E s(G(z))']
    """
    players = {"critic:": critic, "generator:": generator}
    return [f"{name:12}min {(loss.__doc__ or '').split(':')[0]}" for name, loss in players.items()]


OBJECTIVES: dict[Name, Objective] = {
    "minimax": Objective(discriminate, minimax, mean_probabilities),
    "non-saturating": Objective(discriminate, non_saturating, mean_probabilities),
    "least-squares": Objective(least_squares_critic, least_squares_generator, mean_scores),
    "hinge": Objective(hinge, generator_loss, mean_scores),
    "relativistic": Objective(
        relativistic_critic, relativistic_generator, mean_scores, paired=True
    ),
}
"""Games for any networks. The Wasserstein game is not among them, since its critic must be kept
Lipschitz (`limner.gans.wgan`). The relativistic game needs both penalties of `limner.gans.r3gan`.
"""


def gradient(critic: Callable[[Images], Scores], x: Images) -> Images:
    """Return d s(x_i) / d x_i for each picture; it is differentiable.

    A picture's score must not depend on other pictures, so the critic must not have batch norm.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        # channels last; not a leaf, since FLOP counters register hooks on it, which leaves refuse
        clone = x.clone(memory_format=torch.channels_last)
        (slope,) = torch.autograd.grad(critic(clone).sum(), x, create_graph=True)
    return slope


def scores_and_slopes(
    critic: Callable[[Images], Scores], x: Images
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Return s(x_i) and |d s(x_i) / d x_i|^2 of each picture in one pass; both are differentiable.

    The mean of the second over real pictures is `r1`; over generated pictures it is R2.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        scores = critic(x.clone(memory_format=torch.channels_last)).float()
        (slope,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return scores, slope.float().square().flatten(1).sum(1)


def gradient_penalty(
    critic: Callable[[Images], Scores], real: Images, fake: Images, mix: Float[Tensor, "b"]
) -> Scalar:
    """E (||d s(x) / d x||_2 - 1)^2 at x = mix real + (1 - mix) fake.

    Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville (2017). Improved training of Wasserstein GANs.
    arXiv:1704.00028, equation 3.

    Args:
        critic: function from pictures to scores.
        real, fake: pictures.
        mix: share of the real picture, uniform in [0, 1], one for each pair.
    """
    m = mix.to(real).view(-1, 1, 1, 1)
    slope = gradient(critic, m * real + (1 - m) * fake).movedim(1, -1)  # as laid out in memory
    return (torch.linalg.vector_norm(slope.flatten(1), dim=1) - 1).square().mean()


def r1(critic: Callable[[Images], Scores], real: Images) -> Scalar:
    """E ||d s(x) / d x||^2 on real pictures; its weight is gamma / 2.

    Mescheder, Geiger, Nowozin (2018). Which training methods for GANs do actually converge?
    arXiv:1801.04406, equation 9. If it is applied every k-th step only ("lazy"), its weight is k
    times as large (Karras et al., 2019, arXiv:1912.04958, section 3.1).
    """
    return gradient(critic, real).square().flatten(1).sum(1).mean()


@torch.no_grad()
def clip_weights(critic: nn.Module, limit: float) -> None:
    """Clip every weight to [-limit, limit], in place (WGAN's Algorithm 1, line 7)."""
    for w in critic.parameters():
        w.clamp_(-limit, limit)
