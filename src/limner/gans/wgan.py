"""WGAN and WGAN-GP: the generator minimises an estimate of the earth mover's distance.

Arjovsky, Chintala, Bottou (2017). Wasserstein GAN. arXiv:1701.07875.
Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville (2017). Improved training of Wasserstein GANs.
arXiv:1704.00028.

    W(data, G) = max over 1-Lipschitz s of  E_x s(x) - E_z s(G(z))

The critic s must be near its maximum before each update of the generator, so it is updated several
times, on new pictures and z each time. It is kept Lipschitz by clipping its weights, or by a
penalty on the norm of its gradient between real and generated pictures.

Kept: Algorithm 1 of each paper. Different: DCGAN's networks; classes and text. WGAN-GP's critic has
layer norm, which that paper proposes in place of batch norm. WGAN-GP's learning rates are 3e-4 and,
for the critic, 6e-4; the paper uses 1e-4 for both.
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
from limner.gans.losses import (
    clip_weights,
    game_formula,
    generator_loss,
    gradient_penalty,
    wasserstein,
)


@register(
    "wgan",
    family="gans",
    paper=Paper("Wasserstein GAN", "Arjovsky, Chintala, Bottou", 2017, "1701.07875"),
    tiny={"latent": 4, "channels": 4, "critic_steps": 2},
    train={"optimizer": "rmsprop", "lr": 5e-5, "betas": (0.0, 0.99)},
)
class WGAN(DCGAN):
    """WGAN: a critic with clipped weights estimates the distance that the generator minimises.

    Args:
        spec: specification of the images; at least 8 x 8 pixels.
        critic_steps: updates of the critic before each update of the generator.
        clip: bound of the critic's weights, which are clipped to [-clip, clip].
        latent: dimension of z.
        channels: channels of the layers next to the image, in both networks.
        norm: normalisation of the critic.
        condition_dropout: probability of hiding label and text from both networks in training.
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
        """Return the formulas of the game, and of the critic's constraint."""
        return [
            *game_formula(wasserstein, generator_loss),
            f"critic's weights in [-{self.clip}, {self.clip}]",
        ]

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield the critic's turns, clipping its weights after each, then the generator's."""
        parts = self.parts(batch, noise)
        for x, c, streams in parts:
            with torch.no_grad():
                fake = self.paint(streams, c)
            loss = wasserstein(self.critic(x, c).float(), self.critic(fake, c).float())
            logs = {"wasserstein": -loss.detach(), "variety": variety(x, fake)}
            yield Turn(loss, of="critic", logs=logs)
            clip_weights(self.critic, self.clip)
        _, c, streams = parts[-1]
        yield Turn(generator_loss(self.critic(self.paint(streams, c), c).float()), of="generator")


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
    """WGAN-GP: a penalty draws the critic's gradient to norm 1 between real and generated pictures.

    Args:
        spec: specification of the images; at least 8 x 8 pixels.
        critic_steps: updates of the critic before each update of the generator.
        penalty: lambda, the weight of (||gradient|| - 1)^2.
        latent: dimension of z.
        channels: channels of the layers next to the image, in both networks.
        norm: normalisation of the critic; batch norm would make a picture's gradient depend on the
            others.
        condition_dropout: probability of hiding label and text from both networks in training.
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
        """Return the formulas of the game, and of the critic's penalty."""
        penalty = f"+ {self.penalty:g} E (|ds/dx| - 1)^2 for the critic"
        return [*game_formula(wasserstein, generator_loss), penalty]

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield the critic's turns with the penalty, then the generator's."""
        parts = self.parts(batch, noise)
        for x, c, streams in parts:
            with torch.no_grad():
                fake = self.paint(streams, c)
            loss = wasserstein(*score_both(self.critic, x, fake, c))
            penalty = gradient_penalty(partial(self.critic, c=c), x, fake, streams.uniform())
            logs = {"wasserstein": -loss.detach(), "penalty": penalty.detach()}
            logs["variety"] = variety(x, fake)
            yield Turn(loss + self.penalty * penalty, of="critic", logs=logs)
        _, c, streams = parts[-1]
        yield Turn(generator_loss(self.critic(self.paint(streams, c), c).float()), of="generator")
