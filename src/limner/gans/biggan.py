"""BigGAN: class-conditional pictures, with a trade-off between quality and variety.

Brock, Donahue, Simonyan (2018). Large scale GAN training for high fidelity natural image synthesis.
arXiv:1809.11096.

    critic       minimises  E (1 - s(x, c))_+ + E (1 + s(G(z, c), c))_+,   s = (u + v(c)) . h(x)
    generator    minimises  -E s(G(z, c), c)  +  beta sum_W |W W^T (1 - I)|^2

z is split into chunks, one for the first layer and one for each block (hierarchical). The norms of
a block are scaled and shifted by its chunk and by an embedding of the class that all blocks share.
Every layer's largest singular value is kept at 1 (Miyato, Kataoka, Koyama, Yoshida, 2018,
arXiv:1802.05957), and one size has self-attention (Zhang, Goodfellow, Metaxas, Odena, 2018,
arXiv:1805.08318). The second term of the generator's loss keeps its filters orthogonal, so that
z truncated to |z| <= t works well; norms then use the statistics of pictures of such z (standing
statistics, appendix C.1).

Kept: the networks of figure 15, orthogonal initialisation, two updates of the critic for each
update of the generator. Different: the shared embedding is initialised from N(0, 1); sizes are
halved until four pixels are left, and channels are doubled with each halving; truncation maps a
normal z to a truncated one continuously, so that a seed's picture changes gradually with t;
statistics are stored for some t, and interpolated between them; text.
"""

import math
from collections.abc import Iterator
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Noise, Purpose
from limner.contract.options import Count, Natural, NonNegative, Share
from limner.contract.registry import Paper, register
from limner.gans.adversarial_model import Adversarial, score_both, variety
from limner.gans.biggan_networks import TRUNCATIONS, ConditionalNorm, Critic, Generator
from limner.gans.dcgan import halvings
from limner.gans.losses import game_formula, generator_loss, hinge, mean_scores
from limner.nn.standing_statistics import standing_statistics


@register(
    "biggan",
    family="gans",
    paper=Paper(
        "Large scale GAN training for high fidelity natural image synthesis",
        "Brock, Donahue, Simonyan",
        2018,
        "1809.11096",
    ),
    tiny={"latent": 4, "embedding": 3, "channels": 4, "critic_steps": 2},
    train={
        "optimizer": "adam",
        "lr": 2e-4,
        "betas": (0.0, 0.999),
        "players": {"critic": {"lr": 4e-4}},
    },
)
class BigGAN(Adversarial):
    """BigGAN: hinge loss, spectral norm, and a truncation that trades variety for quality.

    Args:
        spec: specification of the images; at least 8 x 8 pixels.
        latent: dimension of z, in all chunks together.
        embedding: dimension of the shared embedding of the condition.
        channels: channels of the layers at full size, in both networks; doubled with each halving.
        attention: number of halvings of the size at which self-attention is applied; without such
            a size, the nearest one is used.
        critic_steps: updates of the critic before each update of the generator.
        beta: weight of the generator's orthogonal regularisation.
        condition_dropout: probability of hiding label and text from both networks in training.
    """

    def __init__(
        self,
        spec: ImageSpec,
        latent: Count = 120,
        embedding: Count = 128,
        channels: Count = 64,
        attention: Natural = 1,
        critic_steps: Count = 2,
        beta: NonNegative = 1e-4,
        condition_dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        if min(spec.height, spec.width) < 8:
            raise LimnerError("this model needs pictures of at least 8 x 8 pixels")
        if latent <= halvings(spec):
            raise LimnerError(
                f"model.latent={latent}: z has a chunk for each of {halvings(spec) + 1} sizes; "
                f"give model.latent={halvings(spec) + 1} or more"
            )
        if spec.labels:
            self.condition = "required"
        self.generator = Generator(self.spec, latent, embedding, channels, attention)
        self.critic = Critic(self.spec, channels, attention)
        self.batches_per_round = critic_steps
        self.latent, self.beta, self.condition_dropout = latent, beta, condition_dropout

    def formula(self) -> list[str]:
        """Return the formulas of the game, and of the constraint on the layers."""
        constraint = "the largest singular value of every layer is 1"
        return [*game_formula(hinge, generator_loss), constraint]

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield the critic's turns, then the generator's against the updated critic."""
        parts = self.parts(batch, noise)
        for x, c, streams in parts:
            with torch.no_grad():
                fake = self.generator(streams.normal(self.latent), c, None)
            on_real, on_fake = score_both(self.critic, x, fake, c)
            logs = mean_scores(on_real, on_fake) | {"variety": variety(x, fake)}
            yield Turn(hinge(on_real, on_fake), of="critic", logs=logs)
        _, c, streams = parts[-1]
        scores = self.critic(self.generator(streams.normal(self.latent), c, None), c)
        overlap = overlaps(self.generator)
        loss = generator_loss(scores.float()) + self.beta * overlap
        yield Turn(loss, of="generator", logs={"overlap": overlap.detach()})

    def calibrate(self, batches: Iterator[Batch]) -> None:
        """Measure batch norm's statistics for each stored truncation, with the data's labels."""
        conditions = [(len(x), c) for x, c in batches]
        for i, t in enumerate(TRUNCATIONS):
            with standing_statistics(self.generator):
                for k, (n, c) in enumerate(conditions):
                    numbers = range(k * n, (k + 1) * n)
                    noise = Noise.keyed(0, Purpose.CALIBRATION, numbers, str(self.device))
                    self.generator(truncate(noise.normal(self.latent), t), c, None)
            for norm in self.generator.modules():
                if isinstance(norm, ConditionalNorm):
                    norm.keep(i)

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        truncation: Annotated[float, Field(gt=0, le=4)] = 4.0,
    ) -> Iterator[Images]:
        """Yield the pictures, generated in one pass.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            truncation: largest absolute value of z; less gives better but less varied pictures,
                and 4 changes a value of 3 by less than 0.01.
        """
        yield self.generator(truncate(noise.normal(self.latent), truncation), c, truncation)


def truncate(z: Float[Tensor, "b d"], t: float) -> Float[Tensor, "b d"]:
    """Map normal numbers to truncated normal numbers, |z| <= t: Phi_t^-1(Phi(z))."""
    root = math.sqrt(2)
    return (torch.erf(z / root) * math.erf(t / root)).erfinv() * root


def overlaps(network: nn.Module) -> Float[Tensor, ""]:
    """Return sum_W |W W^T (1 - I)|^2 over layers, with a row of W for each output; it is 0 if all
    rows are orthogonal (equation 3).

    |W W^T| = |W^T W| in this norm, and the smaller product is computed.
    """
    norms: list[Tensor] = []
    for name, weight in network.named_parameters():
        if name.endswith("parametrizations.weight.original"):
            w = weight.flatten(1)
            with torch.autocast(w.device.type, enabled=False):  # a difference of large sums
                products = w @ w.T if len(w) <= w.shape[1] else w.T @ w
            lengths = w.square().sum(1)
            norms.append(products.square().sum() - lengths.square().sum())
    return torch.stack(norms).sum()
