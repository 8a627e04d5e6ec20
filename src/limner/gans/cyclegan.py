"""CycleGAN: two translators that invert each other, trained on unpaired pictures.

Zhu, Park, Isola, Efros (2017). Unpaired image-to-image translation using cycle-consistent
adversarial networks. arXiv:1703.10593.

    G: A -> B, F: B -> A, with critics D_B, D_A of patches and the least-squares game:

    L_G = E (D_B(G(a)) - 1)^2 + E (D_A(F(b)) - 1)^2                       adversarial loss
        + lambda (E |F(G(a)) - a| + E |G(F(b)) - b|)                      cycle loss (equation 2)
        + lambda_i (E |G(b) - b| + E |F(a) - a|)                          identity loss
    L_D = E (D_B(b) - 1)^2 / 2 + E D_B(G(a))^2 / 2  and the same for D_A

Kept: generators, critics, losses, and the pool of 50 generated pictures for each critic, so that it
does not forget them; lambda = 10, lambda_i = lambda / 2; Adam with 2e-4 and (0.5, 0.999). A recipe
sets the learning rate's decay to 0 over the second half of training (`train.schedule=linear`). The
generators are updated first, as in the authors' program. Different: a critic of small pictures has
smaller patches; there is no identity loss if the domains' numbers of channels differ.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.abilities import Domain
from limner.contract.image import Batch, Images, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, Natural, NonNegative
from limner.contract.registry import Paper, register
from limner.gans.adversarial_model import variety
from limner.gans.image_pool import ImagePool
from limner.gans.losses import least_squares_critic, least_squares_generator, mean_scores
from limner.gans.translation_networks import PatchCritic, ResidualGenerator, Upsampling
from limner.gans.translator import Translator, block_count, distance, layer_count, scores_of


@register(
    "cyclegan",
    family="gans",
    paper=Paper(
        "Unpaired image-to-image translation using cycle-consistent adversarial networks",
        "Zhu, Park, Isola, Efros",
        2017,
        "1703.10593",
    ),
    tiny={"channels": 4, "blocks": 1, "critic_channels": 4, "pool": 2},
    train={"optimizer": "adam", "lr": 2e-4, "betas": (0.5, 0.999), "batch": 1},
)
class CycleGAN(Translator):
    """CycleGAN: translation in both directions, trained without pairs.

    Args:
        spec: specification of domain B's images; its `hint` is that of domain A's images.
        channels: channels of the generators' layers next to the pictures.
        blocks: residual blocks of each generator; by default 6, and 9 from 256 pixels on.
        critic_channels: channels of the critics' first layer.
        critic_layers: strided layers of each critic, 3 for patches of 70 pixels; by default, a
            number that suits the size.
        cycle: lambda, the weight of the cycle losses.
        identity: weight of the identity losses, as a share of lambda.
        pool: number of generated pictures of each domain that are kept for its critic.
        upsampling: how generators double the size: transposed convolutions, as in the paper, or
            nearest-neighbour doubling and a convolution, without checkerboard artifacts.
    """

    ways = ("A", "B")

    def __init__(
        self,
        spec: ImageSpec,
        channels: Count = 64,
        blocks: Count | None = None,
        critic_channels: Count = 64,
        critic_layers: Count | None = None,
        cycle: NonNegative = 10.0,
        identity: NonNegative = 0.5,
        pool: Natural = 50,
        upsampling: Upsampling = "transposed",
    ) -> None:
        super().__init__(spec)
        self.cycle, self.identity = cycle, identity * cycle
        n, layers = block_count(blocks, self.b), layer_count(critic_layers, self.b)
        domains = {"A": self.a, "B": self.b}
        others = {"A": self.b, "B": self.a}
        self.generators = nn.ModuleDict(
            {
                to: ResidualGenerator(others[to].channels, domain.channels, channels, n, upsampling)
                for to, domain in domains.items()
            }
        )
        self.critics = nn.ModuleDict(
            {
                name: PatchCritic(domain.channels, critic_channels, layers)
                for name, domain in domains.items()
            }
        )
        self.pools = nn.ModuleDict(
            {name: ImagePool(pool, domain.shape) for name, domain in domains.items()}
        )

    def formula(self) -> list[str]:
        """Return the formulas of both games, and of the cycle and identity losses."""
        cycle = f"{self.cycle:g} (E |F(G(a)) - a| + E |G(F(b)) - b|)"
        has_identity = self.identity and self.a.channels == self.b.channels
        identity = f" + {self.identity:g} (E |G(b) - b| + E |F(a) - a|)" if has_identity else ""
        return [
            "G: A -> B,  F: B -> A",
            "critics:     min (E (s_B(b) - 1)^2 + E s_B(G(a))^2) / 2,  s_A likewise",
            "generators:  min E (s_B(G(a)) - 1)^2 + E (s_A(F(b)) - 1)^2",
            f"             + {cycle}{identity}",
        ]

    def players(self) -> dict[str, nn.Module]:
        """Return both generators as one player, which is first, and both critics as another."""
        return {"generator": self.generators, "critic": self.critics}

    def memory(self) -> dict[str, Tensor]:
        """Return the buffers of the pools."""
        return dict(self.pools.named_buffers())

    def translation(self, x: Float[Tensor, "b k h w"], to: Domain, noise: Noise) -> Images:
        """Return G(x) or F(x)."""
        return self.generators[to](x)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield the generators' turn, then the critics' on new or earlier generated pictures."""
        b, a = batch.x, batch.c.image
        assert a is not None
        fake_b, identity_b = self._translate_both(a, b, "B")
        fake_a, identity_a = self._translate_both(b, a, "A")
        back_a, back_b = self.generators["A"](fake_b), self.generators["B"](fake_a)
        cycle = distance(back_a, a) + distance(back_b, b)
        on_a, on_b = self.critics["A"](fake_a).float(), self.critics["B"](fake_b).float()
        game = 2 * (least_squares_generator(on_a) + least_squares_generator(on_b))
        loss = game + self.cycle * cycle  # the authors leave out the factor 1/2 here
        logs = {"cycle": cycle.detach() / 2}
        if identity_a is not None and identity_b is not None:
            identity = distance(identity_b, b) + distance(identity_a, a)
            loss = loss + self.identity * identity
            logs["identity"] = identity.detach() / 2
        yield Turn(loss, of="generator", logs=logs | {"variety": variety(b, fake_b)})
        losses: list[Tensor] = []
        scores: list[dict[str, Tensor]] = []
        for name, real, fake in (("A", a, fake_a), ("B", b, fake_b)):
            pool = self.pools[name]
            assert isinstance(pool, ImagePool)
            pooled = pool.exchange(fake, noise)
            on_real, on_fake = scores_of(self.critics[name], real, pooled)
            losses.append(least_squares_critic(on_real, on_fake))
            scores.append(mean_scores(on_real, on_fake))
        logs = {k: torch.stack([means[k] for means in scores]).mean() for k in scores[0]}
        yield Turn(losses[0] + losses[1], of="critic", logs=logs)

    def _translate_both(self, other: Tensor, own: Tensor, to: str) -> tuple[Tensor, Tensor | None]:
        """Translate the other domain's pictures and, for the identity loss, the domain's own."""
        network = self.generators[to]
        if other.shape[1] != own.shape[1] or not self.identity:
            return network(other), None
        fake, identity = network(torch.cat([other, own])).split([len(other), len(own)])
        return fake, identity
