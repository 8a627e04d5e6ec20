"""WGAN and WGAN-GP: the generator descends an estimate of the earth mover's distance.

Arjovsky, Chintala, Bottou (2017). Wasserstein GAN. arXiv:1701.07875.
Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville (2017). Improved training of Wasserstein GANs.
arXiv:1704.00028.

    W(data, G) = max over 1-Lipschitz s of  E_x s(x) - E_z s(G(z))

The critic s must be near its maximum before each move of the generator, so it moves several times,
on fresh pictures and z each time. It is kept Lipschitz by clipping its weights, or by a penalty on
the norm of its gradient between pictures and paintings.

Kept: Algorithm 1 of each. Different: DCGAN's networks; classes and text; the second's critic has a
layer norm, as that paper proposes where there was a batch norm, and its learning rates are 3e-4 and
the critic's 6e-4, where the paper has 1e-4 for both.
"""

from collections.abc import Iterator
from functools import partial
from typing import Literal

import torch

from limner.contract.image import Batch, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, NonNegative, Positive, Share
from limner.contract.registry import Paper, register
from limner.gans.adversarial_model import score_both, variety
from limner.gans.dcgan import DCGAN, NormName
from limner.gans.losses import clip_weights, game, generator_loss, gradient_penalty, wasserstein


@register(
    "wgan",
    family="gans",
    paper=Paper("Wasserstein GAN", "Arjovsky, Chintala, Bottou", 2017, "1701.07875"),
    tiny={"latent": 4, "channels": 4, "critic_steps": 2},
    train={"optimizer": "rmsprop", "lr": 5e-5, "betas": (0.0, 0.99)},
)
class WGAN(DCGAN):
    """WGAN: a critic with clipped weights estimates the distance that the generator descends.

    Args:
        spec: what the images are; at least 8 x 8 pixels.
        critic_steps: moves of the critic before each of the generator's.
        clip: its weights stay in [-clip, clip].
        latent: how many numbers z has.
        channels: of the layers next to the pictures, in both networks.
        norm: the critic's.
        condition_dropout: how often training hides label and text from both.
    """

    def __init__(
        self,
        spec: ImageSpec,
        critic_steps: Count = 5,
        clip: Positive = 0.01,
        latent: Count = 100,
        channels: Count = 64,
        norm: NormName = "batch",
        condition_dropout: Share = 0.0,
    ) -> None:
        super().__init__(spec, latent, channels, norm, condition_dropout)
        self.batches_per_round = critic_steps
        self.clip = clip

    def formula(self) -> list[str]:
        """The game, and the critic's constraint."""
        return [
            *game(wasserstein, generator_loss),
            f"critic's weights in [-{self.clip}, {self.clip}]",
        ]

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """The critic's moves, each with its weights clipped after it, then the generator's."""
        moves = self.moves(batch, noise)
        for x, c, own in moves:
            with torch.no_grad():
                fake = self.paint(own, c)
            loss = wasserstein(self.critic(x, c).float(), self.critic(fake, c).float())
            logs = {"wasserstein": -loss.detach(), "variety": variety(x, fake)}
            yield Turn(loss, of="critic", logs=logs)
            clip_weights(self.critic, self.clip)
        _, c, own = moves[-1]
        yield Turn(generator_loss(self.critic(self.paint(own, c), c).float()), of="generator")


@register(
    "wgan-gp",
    family="gans",
    paper=Paper(
        "Improved training of Wasserstein GANs",
        "Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville",
        2017,
        "1704.00028",
    ),
    tiny={"latent": 4, "channels": 4, "critic_steps": 2},
    train={
        "optimizer": "adam",
        "lr": 3e-4,
        "betas": (0.0, 0.9),
        "players": {"critic": {"lr": 6e-4}},
    },
)
class WGANGP(DCGAN):
    """WGAN-GP: a critic whose gradient is drawn to norm 1 between pictures and paintings.

    Args:
        spec: what the images are; at least 8 x 8 pixels.
        critic_steps: moves of the critic before each of the generator's.
        penalty: the weight lambda of (||gradient|| - 1)^2.
        latent: how many numbers z has.
        channels: of the layers next to the pictures, in both networks.
        norm: the critic's; a batch norm would make a picture's gradient depend on the others.
        condition_dropout: how often training hides label and text from both.
    """

    def __init__(
        self,
        spec: ImageSpec,
        critic_steps: Count = 5,
        penalty: NonNegative = 10.0,
        latent: Count = 128,
        channels: Count = 64,
        norm: Literal["layer", "none"] = "layer",
        condition_dropout: Share = 0.0,
    ) -> None:
        super().__init__(spec, latent, channels, norm, condition_dropout)
        self.batches_per_round = critic_steps
        self.penalty = penalty

    def formula(self) -> list[str]:
        """The game, and the critic's penalty."""
        penalty = f"+ {self.penalty:g} E (|ds/dx| - 1)^2 for the critic"
        return [*game(wasserstein, generator_loss), penalty]

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """The critic's moves with the penalty, then the generator's."""
        moves = self.moves(batch, noise)
        for x, c, own in moves:
            with torch.no_grad():
                fake = self.paint(own, c)
            loss = wasserstein(*score_both(self.critic, x, fake, c))
            penalty = gradient_penalty(partial(self.critic, c=c), x, fake, own.uniform())
            logs = {"wasserstein": -loss.detach(), "penalty": penalty.detach()}
            logs["variety"] = variety(x, fake)
            yield Turn(loss + self.penalty * penalty, of="critic", logs=logs)
        _, c, own = moves[-1]
        yield Turn(generator_loss(self.critic(self.paint(own, c), c).float()), of="generator")
