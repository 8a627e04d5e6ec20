"""CUT: unpaired translation in one direction, with a contrastive loss on patches.

Park, Efros, Zhang, Zhu (2020). Contrastive learning for unpaired image-to-image translation.
arXiv:2007.15651.

The first half of the generator encodes the picture a and its translation G(a). At a position s of
one of its layers, the translation's features z_s should resemble the picture's features z+_s at the
same position, and not its features z-_s at other positions:

    l(z, z+, z-) = -log exp(z . z+ / tau) / (exp(z . z+ / tau) + sum exp(z . z- / tau))
    L_G = E (D(G(a)) - 1)^2 + (NCE(a, G(a)) + NCE(b, G(b))) / 2           (equation 5)

z are features that a small network of two layers maps to vectors of length 1. The second NCE
replaces the identity loss.

Kept: objective, tau = 0.07, 256 positions in each of five layers, heads of 256 features; the critic
is updated first, without a pool. CycleGAN's generator and critic, with `smooth` as in the authors'
program. Different: weights are initialised from N(0, 0.02^2), and the heads with torch's defaults;
positions differ between pictures; the first layer is the picture without its reflected padding.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from limner.contract.abilities import Domain
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Images, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, NonNegative, Positive
from limner.contract.registry import Paper, register
from limner.gans.adversarial_model import variety
from limner.gans.losses import least_squares_critic, least_squares_generator, mean_scores
from limner.gans.translation_networks import PatchCritic, ResidualGenerator
from limner.gans.translator import Translator, block_count, layer_count, scores_of

_LAST_FEATURE_BLOCK = 5  # last block of which features are compared, if there are as many


def contrast(
    query: Float[Tensor, "b p d"], key: Float[Tensor, "b p d"], temperature: float
) -> Float[Tensor, ""]:
    """Return the mean loss l of identifying each position's key among those of its picture.

    Args:
        query: features of translations, of length 1.
        key: features of the pictures at the same positions.
        temperature: tau.
    """
    logits = torch.einsum("bpd,bqd->bpq", query, key) / temperature
    target = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[:2])
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


class Heads(nn.Module):
    """A small network for each layer, applied to the layer's features at some positions.

    Args:
        widths: channels of the layers.
        dim: d, the dimension of the output.
    """

    def __init__(self, widths: Sequence[int], dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim)) for width in widths
        )

    def forward(
        self, maps: Sequence[Float[Tensor, "b _ _ _"]], places: Sequence[Int[Tensor, "b _"]]
    ) -> list[Float[Tensor, "b _ d"]]:
        """Return vectors of length 1 for each layer."""
        vectors: list[Tensor] = []
        for head, features, positions in zip(self.layers, maps, places):
            rows = features.flatten(2).mT
            samples = rows.gather(1, positions[..., None].expand(-1, -1, rows.shape[-1]))
            vectors.append(F.normalize(head(samples).float(), dim=-1))
        return vectors


@register(
    "cut",
    family="gans",
    paper=Paper(
        "Contrastive learning for unpaired image-to-image translation",
        "Park, Efros, Zhang, Zhu",
        2020,
        "2007.15651",
    ),
    tiny={"channels": 4, "blocks": 1, "critic_channels": 4, "places": 8, "features": 8},
    train={"optimizer": "adam", "lr": 2e-4, "betas": (0.5, 0.999), "batch": 1},
)
class CUT(Translator):
    """CUT: translation in one direction, trained without pairs and without an inverse.

    Args:
        spec: specification of domain B's images; its `hint` is that of domain A's images.
        channels: channels of the generator's layers next to the pictures.
        blocks: number of residual blocks; by default 6, and 9 from 256 pixels on.
        critic_channels: channels of the critic's first layer.
        critic_layers: strided layers of the critic, 3 for patches of 70 pixels; by default, a
            number that suits the size.
        likeness: weight of the contrastive losses.
        temperature: tau, the temperature of the contrastive losses.
        places: maximum number of positions of each layer that are compared.
        features: dimension of the compared features.
        smooth: whether strides of both networks are smooth, which avoids checkerboard artifacts.
    """

    def __init__(
        self,
        spec: ImageSpec,
        channels: Count = 64,
        blocks: Count | None = None,
        critic_channels: Count = 64,
        critic_layers: Count | None = None,
        likeness: NonNegative = 1.0,
        temperature: Positive = 0.07,
        places: Count = 256,
        features: Count = 256,
        smooth: bool = False,
    ) -> None:
        super().__init__(spec)
        a, b = self.a, self.b
        self.inner = max(a.channels, b.channels)
        if {a.channels, b.channels} - {1, self.inner}:
            raise LimnerError(
                f"this model cannot compare pictures of {a.channels} and of {b.channels} channels; "
                "give data.channels=3"
            )
        n = block_count(blocks, b)
        self.likeness, self.temperature, self.places = likeness, temperature, places
        self.compared_layers = sorted({0, 1, 2, 3, 2 + min(n, _LAST_FEATURE_BLOCK)})
        widths = [self.inner, 2 * channels, *[4 * channels] * (len(self.compared_layers) - 2)]
        self.painter = ResidualGenerator(self.inner, b.channels, channels, n, smooth=smooth)
        self.heads = Heads(widths, features)
        layers = layer_count(critic_layers, b)
        self.critic = PatchCritic(b.channels, critic_channels, layers, smooth)

    def formula(self) -> list[str]:
        """Return the formulas of the game, and of the contrastive loss."""
        weight = f"{self.likeness / 2:g}"
        return [
            "critic:     min (E (s(b) - 1)^2 + E s(G(a))^2) / 2",
            f"generator:  min E (s(G(a)) - 1)^2 + {weight} (NCE(a, G(a)) + NCE(b, G(b)))",
            f"NCE: -log softmax of z . z' / {self.temperature:g} at the place itself, z of its own "
            "patch",
        ]

    def players(self) -> dict[str, nn.Module]:
        """Return the critic, which is first, and the generator with the heads."""
        return {"critic": self.critic, "generator": nn.ModuleList([self.painter, self.heads])}

    def translation(self, x: Float[Tensor, "b k h w"], to: Domain, noise: Noise) -> Images:
        """Return G(x)."""
        return self.painter(self._wide(x))

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield the critic's turn, then the generator's."""
        b, a = batch.x, batch.c.image
        assert a is not None
        n = len(a)
        x = torch.cat([self._wide(a), self._wide(b)])
        maps = list(self.painter.features(x))
        fake, identity = self.painter.decode(maps[-1])[..., : x.shape[2], : x.shape[3]].split(n)
        on_real, on_fake = scores_of(self.critic, b, fake.detach())
        logs = mean_scores(on_real, on_fake) | {"variety": variety(b, fake)}
        yield Turn(least_squares_critic(on_real, on_fake), of="critic", logs=logs)
        game = 2 * least_squares_generator(self.critic(fake).float())  # without the factor 1/2
        features = [*self.painter.features(self._wide(torch.cat([fake, identity])))]
        query = [features[i] for i in self.compared_layers]
        with torch.no_grad():
            positions = [self._places(maps[i], noise) for i in self.compared_layers]
            key = self.heads([maps[i] for i in self.compared_layers], positions)
        pairs = zip(self.heads(query, positions), key)
        loss = torch.stack([contrast(q, k, self.temperature) for q, k in pairs]).mean()
        logs = {"contrast": loss.detach()}
        yield Turn(game + self.likeness * loss, of="generator", logs=logs)

    def _wide(self, x: Float[Tensor, "b k h w"]) -> Images:
        """Repeat the channel of grey pictures if the other domain has more channels."""
        return x.expand(-1, self.inner, -1, -1)

    def _places(self, features: Tensor, noise: Noise) -> Int[Tensor, "b p"]:
        """Draw positions of each picture's map without replacement; the pictures of both domains
        share the positions.
        """
        size = features.shape[2] * features.shape[3]
        count = min(self.places, size)
        u = noise.uniform(size)
        return torch.cat([u, u]).topk(count, dim=1).indices
