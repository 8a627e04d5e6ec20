"""GAN: a critic learns to tell pictures from paintings, and a generator to deceive it.

Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio (2014). Generative
adversarial nets. arXiv:1406.2661.

    min_G max_D  E_x log D(x) + E_z log(1 - D(G(z)))

For the best critic this is 2 JSD(data, G) - log 4 (theorem 1). Where the critic is sure,
log(1 - D) barely changes, and the generator learns nothing; so it lowers -log D(G(z)) in practice
(section 3): the non-saturating game, with the same fixed point.

Kept: Algorithm 1, with k moves of the critic on fresh pictures and fresh z before each of the
generator's. Different: DCGAN's networks; further objectives; classes and text.
"""

from collections.abc import Iterator
from functools import partial

import torch

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, NonNegative, Share
from limner.contract.registry import Paper, register
from limner.gans.adversarial_model import GAME, variety
from limner.gans.dcgan import DCGAN, NormName
from limner.gans.losses import OBJECTIVES, Name, game, r1


@register(
    "gan",
    family="gans",
    paper=Paper(
        "Generative adversarial nets",
        "Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio",
        2014,
        "1406.2661",
    ),
    tiny={"latent": 4, "channels": 4, "critic_steps": 2},
    train={"optimizer": "adam", "lr": 2e-4, "betas": (0.5, 0.999)},
)
class GAN(DCGAN):
    """GAN: the minimax game and its non-saturating form, on DCGAN's networks.

    Args:
        spec: what the images are; at least 8 x 8 pixels.
        objective: what is played for; see `limner.gans.losses`. The Wasserstein game, whose critic
            must be kept Lipschitz, is `wgan` and `wgan-gp`.
        critic_steps: moves of the critic before each of the generator's.
        latent: how many numbers z has.
        channels: of the layers next to the pictures, in both networks.
        norm: the critic's; "batch" as DCGAN has it.
        gamma: of the penalty gamma / 2 (R1 + R2) on the critic's gradients at pictures and at
            paintings, which the relativistic game wants; 0 without.
        condition_dropout: how often training hides label and text from both.

    Raises:
        LimnerError: a penalty, and a batch norm, which makes a gradient that of a whole batch.
    """

    def __init__(
        self,
        spec: ImageSpec,
        objective: Name = "non-saturating",
        critic_steps: Count = 1,
        latent: Count = 100,
        channels: Count = 64,
        norm: NormName = "batch",
        gamma: NonNegative = 0.0,
        condition_dropout: Share = 0.0,
    ) -> None:
        super().__init__(spec, latent, channels, norm, condition_dropout)
        if gamma and norm == "batch":
            raise LimnerError(
                "model.gamma is of the gradient of each picture's own score, which batch norm does "
                "not give; type model.norm=layer or none"
            )
        self.objective, self.gamma = OBJECTIVES[objective], gamma
        self.batches_per_round = critic_steps

    def formula(self) -> list[str]:
        """The game, and the critic's penalties where it has some."""
        penalty = f"+ {self.gamma / 2:.3g} (E |ds/dx|^2 + E |ds/dG|^2) for the critic"
        lines = game(self.objective.critic, self.objective.generator)
        return [*lines, penalty] if self.gamma else lines

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """The critic's moves, then the generator's against the critic that they left."""
        moves = self.moves(batch, noise)
        for x, c, own in moves:
            with torch.no_grad():
                fake = self.paint(own, c)
            on_real, on_fake = self.critic(x, c), self.critic(fake, c)
            loss = self.objective.critic(on_real.float(), on_fake.float())
            logs = self.objective.opinions(on_real, on_fake) | {"variety": variety(x, fake)}
            if self.gamma:
                logs[GAME] = loss.detach()
                critic = partial(self.critic, c=c)
                loss = loss + self.gamma / 2 * (r1(critic, x) + r1(critic, fake))
            yield Turn(loss, of="critic", logs=logs)
        x, c, own = moves[-1]
        beside = ()
        if self.objective.paired:
            with torch.no_grad():
                beside = (self.critic(x, c).float(),)
        scores = self.critic(self.paint(own, c), c).float()
        yield Turn(self.objective.generator(scores, *beside), of="generator")
