"""CycleGAN: two translators that undo each other, learnt from two heaps of pictures without pairs.

Zhu, Park, Isola, Efros (2017). Unpaired image-to-image translation using cycle-consistent
adversarial networks. arXiv:1703.10593.

    G: A -> B, F: B -> A, with critics D_B, D_A of patches, which play the least-squares game:

    L_G = E (D_B(G(a)) - 1)^2 + E (D_A(F(b)) - 1)^2                       to pass for the other's
        + lambda (E |F(G(a)) - a| + E |G(F(b)) - b|)                      to be undone (equation 2)
        + lambda_i (E |G(b) - b| + E |F(a) - a|)                          to leave what is right
    L_D = E (D_B(b) - 1)^2 / 2 + E D_B(G(a))^2 / 2  and the same of D_A

Kept: generators, critics, losses, and the pool of 50 paintings that critics are shown, so that
they do not forget; lambda = 10, lambda_i = lambda / 2; Adam with 2e-4 and (0.5, 0.999), whose rate
falls to 0 over the second half of training (`train.schedule=linear`), is a recipe's. The generators
move first, as in the authors' program. Different: a critic of small pictures sees smaller patches;
there is no identity loss where the domains have other numbers of channels.
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
from limner.gans.losses import least_squares_critic, least_squares_generator, mean_scores
from limner.gans.painting_pool import PaintingPool
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
    """CycleGAN: translation both ways, learnt without pairs.

    Args:
        spec: of domain B's pictures; its `hint` is that of A's.
        channels: of the generators' layers next to the pictures.
        blocks: residual blocks of a generator; unless given, 6, and 9 from 256 pixels on.
        critic_channels: of the critics' first layer.
        critic_layers: strided layers of a critic, 3 for patches of 70 pixels; unless given, as many
            as suit the size.
        cycle: the weight lambda of the cycle losses.
        identity: the weight of the identity losses, as a share of lambda.
        pool: how many paintings of each domain are kept for its critic.
        upsampling: how generators double: by transposed convolutions, as the paper's do, or by
            repeating each pixel and a convolution, whose pictures have no chequered grain.
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
        ends = {"A": self.a, "B": self.b}
        other = {"A": self.b, "B": self.a}
        self.generators = nn.ModuleDict(
            {
                to: ResidualGenerator(other[to].channels, end.channels, channels, n, upsampling)
                for to, end in ends.items()
            }
        )
        self.critics = nn.ModuleDict(
            {name: PatchCritic(end.channels, critic_channels, layers) for name, end in ends.items()}
        )
        self.pools = nn.ModuleDict(
            {name: PaintingPool(pool, end.shape) for name, end in ends.items()}
        )

    def formula(self) -> list[str]:
        """The games of both ways, and what binds them."""
        cycle = f"{self.cycle:g} (E |F(G(a)) - a| + E |G(F(b)) - b|)"
        kept = self.identity and self.a.channels == self.b.channels
        same = f" + {self.identity:g} (E |G(b) - b| + E |F(a) - a|)" if kept else ""
        return [
            "G: A -> B,  F: B -> A",
            "critics:     min (E (s_B(b) - 1)^2 + E s_B(G(a))^2) / 2,  s_A likewise",
            "generators:  min E (s_B(G(a)) - 1)^2 + E (s_A(F(b)) - 1)^2",
            f"             + {cycle}{same}",
        ]

    def players(self) -> dict[str, nn.Module]:
        """Both generators, which move first, and both critics."""
        return {"generator": self.generators, "critic": self.critics}

    def memory(self) -> dict[str, Tensor]:
        """The pools."""
        return dict(self.pools.named_buffers())

    def translation(self, x: Float[Tensor, "b k h w"], to: Domain, noise: Noise) -> Images:
        """G(x) or F(x)."""
        return self.generators[to](x)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """The generators' move, then the critics' on what these painted, or painted earlier."""
        b, a = batch.x, batch.c.image
        assert a is not None
        fake_b, same_b = self._from(a, b, "B")
        fake_a, same_a = self._from(b, a, "A")
        back_a, back_b = self.generators["A"](fake_b), self.generators["B"](fake_a)
        cycle = distance(back_a, a) + distance(back_b, b)
        on_a, on_b = self.critics["A"](fake_a).float(), self.critics["B"](fake_b).float()
        game = 2 * (least_squares_generator(on_a) + least_squares_generator(on_b))
        loss = game + self.cycle * cycle  # the authors' generators play without the half
        logs = {"cycle": cycle.detach() / 2}
        if same_a is not None and same_b is not None:
            identity = distance(same_b, b) + distance(same_a, a)
            loss = loss + self.identity * identity
            logs["identity"] = identity.detach() / 2
        yield Turn(loss, of="generator", logs=logs | {"variety": variety(b, fake_b)})
        losses: list[Tensor] = []
        opinions: list[dict[str, Tensor]] = []
        for name, real, fake in (("A", a, fake_a), ("B", b, fake_b)):
            pool = self.pools[name]
            assert isinstance(pool, PaintingPool)
            shown = pool.exchange(fake, noise)
            on_real, on_fake = scores_of(self.critics[name], real, shown)
            losses.append(least_squares_critic(on_real, on_fake))
            opinions.append(mean_scores(on_real, on_fake))
        logs = {k: torch.stack([each[k] for each in opinions]).mean() for k in opinions[0]}
        yield Turn(losses[0] + losses[1], of="critic", logs=logs)

    def _from(self, other: Tensor, own: Tensor, to: str) -> tuple[Tensor, Tensor | None]:
        """The other domain's pictures translated, and its own, which should stay, in one pass."""
        network = self.generators[to]
        if other.shape[1] != own.shape[1] or not self.identity:
            return network(other), None
        fake, same = network(torch.cat([other, own])).split([len(other), len(own)])
        return fake, same
