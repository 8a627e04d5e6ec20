"""GAN: a critic learns to distinguish real from generated pictures, and a generator to fool it.

Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio (2014). Generative
adversarial nets. arXiv:1406.2661.

    min_G max_D  E_x log D(x) + E_z log(1 - D(G(z)))

For the optimal critic this is 2 JSD(data, G) - log 4 (theorem 1). If the critic is confident,
log(1 - D) saturates, and the generator learns nothing. In practice the generator therefore
minimises -log D(G(z)) (section 3): the non-saturating game, with the same fixed point.

Kept: Algorithm 1, with k updates of the critic, on new pictures and new z each time, before each
update of the generator. Different: DCGAN's networks; further objectives; classes and text.
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
from limner.gans.adversarial_model import GAME_LOSS, variety
from limner.gans.dcgan import DCGAN, NormName
from limner.gans.losses import OBJECTIVES, Name, game_formula, r1


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
        spec: specification of the images; at least 8 x 8 pixels.
        objective: losses of both players; see `limner.gans.losses`. The Wasserstein game needs a
            Lipschitz critic, see `wgan` and `wgan-gp`.
        critic_steps: updates of the critic before each update of the generator.
        latent: dimension of z.
        channels: channels of the layers next to the image, in both networks.
        norm: normalisation of the critic; "batch" as in DCGAN.
        gamma: weight of the penalty gamma / 2 (R1 + R2) on the critic's gradients at real and at
            generated pictures, which the relativistic game needs; 0 turns it off.
        condition_dropout: probability of hiding label and text from both networks in training.

    Raises:
        LimnerError: a penalty with batch norm, which makes gradients depend on the whole batch.
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
                "model.gamma needs the gradient of each picture's own score, and with batch norm "
                "a score depends on the whole batch; type model.norm=layer or none"
            )
        self.objective, self.gamma = OBJECTIVES[objective], gamma
        self.batches_per_round = critic_steps

    def formula(self) -> list[str]:
        """Return the formulas of the game, and of the critic's penalty if it has one."""
        penalty = f"+ {self.gamma / 2:.3g} (E |ds/dx|^2 + E |ds/dG|^2) for the critic"
        lines = game_formula(self.objective.critic, self.objective.generator)
        return [*lines, penalty] if self.gamma else lines

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield the critic's turns, then the generator's against the updated critic."""
        parts = self.parts(batch, noise)
        for x, c, streams in parts:
            with torch.no_grad():
                fake = self.paint(streams, c)
            on_real, on_fake = self.critic(x, c), self.critic(fake, c)
            loss = self.objective.critic(on_real.float(), on_fake.float())
            logs = self.objective.opinions(on_real, on_fake) | {"variety": variety(x, fake)}
            if self.gamma:
                logs[GAME_LOSS] = loss.detach()
                critic = partial(self.critic, c=c)
                loss = loss + self.gamma / 2 * (r1(critic, x) + r1(critic, fake))
            yield Turn(loss, of="critic", logs=logs)
        x, c, streams = parts[-1]
        reference = ()
        if self.objective.paired:
            with torch.no_grad():
                reference = (self.critic(x, c).float(),)
        scores = self.critic(self.paint(streams, c), c).float()
        yield Turn(self.objective.generator(scores, *reference), of="generator")
