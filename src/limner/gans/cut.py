"""CUT: unpaired translation one way, by patches that must keep what they have in common.

Park, Efros, Zhang, Zhu (2020). Contrastive learning for unpaired image-to-image translation.
arXiv:2007.15651.

The first half of the generator sees the picture a and its translation G(a). At a place s of one of
its layers, the translation's features z_s should resemble those of the picture at the same place,
z+_s, and not those at other places z-_s, ..., of the same picture:

    l(z, z+, z-) = -log exp(z . z+ / tau) / (exp(z . z+ / tau) + sum exp(z . z- / tau))
    L_G = E (D(G(a)) - 1)^2 + (NCE(a, G(a)) + NCE(b, G(b))) / 2           (equation 5)

z are features behind a small network of two layers, of length 1. The second NCE takes the place of
the identity loss.

Kept: objective, tau = 0.07, 256 places in each of five layers, heads of 256 features; the critic
moves first, without a pool. CycleGAN's generator and critic, with `smooth` as in the authors'
program. Different: weights from N(0, 0.02^2), in the heads torch's own; the places are each
picture's own; the first layer is the picture without its mirrored margin.
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

_LAST_BLOCK = 5  # whose features are compared, or the last one of fewer


def contrast(
    query: Float[Tensor, "b p d"], key: Float[Tensor, "b p d"], temperature: float
) -> Float[Tensor, ""]:
    """The mean loss l of telling each place's own key from those of the picture's other places.

    Args:
        query: features of translations, of length 1.
        key: features of the pictures at the same places.
        temperature: tau.
    """
    logits = torch.einsum("bpd,bqd->bpq", query, key) / temperature
    own = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[:2])
    return F.cross_entropy(logits.flatten(0, 1), own.flatten())


class Heads(nn.Module):
    """Features of several layers at some places, behind a small network for each layer.

    Args:
        widths: channels of the layers.
        dim: d, numbers of a feature.
    """

    def __init__(self, widths: Sequence[int], dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim)) for width in widths
        )

    def forward(
        self, maps: Sequence[Float[Tensor, "b _ _ _"]], places: Sequence[Int[Tensor, "b _"]]
    ) -> list[Float[Tensor, "b _ d"]]:
        """Of length 1, for each layer."""
        found: list[Tensor] = []
        for head, features, at in zip(self.layers, maps, places):
            rows = features.flatten(2).mT
            chosen = rows.gather(1, at[..., None].expand(-1, -1, rows.shape[-1]))
            found.append(F.normalize(head(chosen).float(), dim=-1))
        return found


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
    """CUT: translation one way, learnt without pairs and without a way back.

    Args:
        spec: of domain B's pictures; its `hint` is that of A's.
        channels: of the generator's layers next to the pictures.
        blocks: residual blocks; unless given, 6, and 9 from 256 pixels on.
        critic_channels: of the critic's first layer.
        critic_layers: strided layers of the critic, 3 for patches of 70 pixels; unless given, as
            many as suit the size.
        likeness: the weight of the contrastive losses.
        temperature: tau.
        places: how many of each layer are compared, at most.
        features: numbers of a feature.
        smooth: whether the strides of both networks are smooth, which leaves no chequered grain.
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
                f"this model compares pictures of {a.channels} and of {b.channels} channels; give "
                "data.channels=3"
            )
        n = block_count(blocks, b)
        self.likeness, self.temperature, self.places = likeness, temperature, places
        self.compared = sorted({0, 1, 2, 3, 2 + min(n, _LAST_BLOCK)})
        widths = [self.inner, 2 * channels, *[4 * channels] * (len(self.compared) - 2)]
        self.painter = ResidualGenerator(self.inner, b.channels, channels, n, smooth=smooth)
        self.heads = Heads(widths, features)
        layers = layer_count(critic_layers, b)
        self.critic = PatchCritic(b.channels, critic_channels, layers, smooth)

    def formula(self) -> list[str]:
        """The game, and what a translation shares with its picture."""
        weight = f"{self.likeness / 2:g}"
        return [
            "critic:     min (E (s(b) - 1)^2 + E s(G(a))^2) / 2",
            f"generator:  min E (s(G(a)) - 1)^2 + {weight} (NCE(a, G(a)) + NCE(b, G(b)))",
            f"NCE: -log softmax of z . z' / {self.temperature:g} at the place itself, z of its own "
            "patch",
        ]

    def players(self) -> dict[str, nn.Module]:
        """The critic, which moves first, and the generator with the heads."""
        return {"critic": self.critic, "generator": nn.ModuleList([self.painter, self.heads])}

    def translation(self, x: Float[Tensor, "b k h w"], to: Domain, noise: Noise) -> Images:
        """G(x)."""
        return self.painter(self._wide(x))

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """The critic's move, then the generator's."""
        b, a = batch.x, batch.c.image
        assert a is not None
        n = len(a)
        x = torch.cat([self._wide(a), self._wide(b)])
        maps = list(self.painter.features(x))
        fake, same = self.painter.decode(maps[-1])[..., : x.shape[2], : x.shape[3]].split(n)
        on_real, on_fake = scores_of(self.critic, b, fake.detach())
        logs = mean_scores(on_real, on_fake) | {"variety": variety(b, fake)}
        yield Turn(least_squares_critic(on_real, on_fake), of="critic", logs=logs)
        game = 2 * least_squares_generator(self.critic(fake).float())  # played without the half
        seen = [*self.painter.features(self._wide(torch.cat([fake, same])))]
        query = [seen[i] for i in self.compared]
        with torch.no_grad():
            places = [self._places(maps[i], noise) for i in self.compared]
            key = self.heads([maps[i] for i in self.compared], places)
        pairs = zip(self.heads(query, places), key)
        loss = torch.stack([contrast(q, k, self.temperature) for q, k in pairs]).mean()
        logs = {"contrast": loss.detach()}
        yield Turn(game + self.likeness * loss, of="generator", logs=logs)

    def _wide(self, x: Float[Tensor, "b k h w"]) -> Images:
        """Grey pictures in as many channels as coloured ones."""
        return x.expand(-1, self.inner, -1, -1)

    def _places(self, features: Tensor, noise: Noise) -> Int[Tensor, "b p"]:
        """Places of each picture's map, drawn without replacement; a picture and what it was made
        from share a stream.
        """
        size = features.shape[2] * features.shape[3]
        count = min(self.places, size)
        u = noise.uniform(size)
        return torch.cat([u, u]).topk(count, dim=1).indices
