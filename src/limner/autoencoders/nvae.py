"""NVAE: codes in groups, from coarse to fine, each given those before it.

Vahdat, Kautz (2020). NVAE: a deep hierarchical variational autoencoder. arXiv:2007.03898.

    p(z) = prod_l p(z_l | z_<l),   q(z | x) = prod_l q(z_l | z_<l, x)                    section 3
    log p(x) >= E log p(x | z) - sum_l E KL(q(z_l | z_<l, x) || p(z_l | z_<l))         equation 1
    p(z_l | z_<l) = N(mu, sigma^2)
    q(z_l | z_<l, x) = N(mu + d_mu, (sigma d_sigma)^2)             residual normals, section 3.2
    KL = 1/2 (d_mu^2 / sigma^2 + d_sigma^2 - ln d_sigma^2 - 1)                         equation 2

The encoder goes bottom-up and keeps features for each group; the decoder goes top-down. If x is
given, each group's posterior is computed from both (figure 2). Kept: depthwise generative cells,
batch norm, swish, squeeze-excitation, residual normals, spectral regularisation, a norm on batch
norm's scales, KL warm-up and balancing (appendix A). Against infinities, mu and ln sigma of the
prior, and the posterior's differences from them, become 5 tanh(./5): the posterior's are in +-10.
`calibrate` re-estimates batch norm's statistics for the averaged weights. `encode` returns
epsilon_l = (z_l - mu) / sigma of all groups in a row, standard normal under p(z).

Different: strided convolutions and pixel shuffling between resolutions, no cells at full
resolution, no normalising flows in the posterior. Balancing divides a group's KL by its dimension
only; the authors also multiply it by the number of groups at its resolution. Below temperature 1,
batch norm keeps its statistics under q; the authors measure them again under the prior. With labels
or captions c at each resolution of both towers: p(z_l | z_<l, c), q(z_l | z_<l, x, c), p(x | z, c).
"""

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from limner.autoencoders.encoders import CONDITION_SIZE, halvings, pixel_distribution
from limner.autoencoders.importance_bound import (
    Draws,
    Normal,
    importance_weighted_bound,
    standard_normal,
)
from limner.autoencoders.imputation import Imputes
from limner.autoencoders.nvae_cells import (
    EncodingCell,
    GenerativeCell,
    Grow,
    SpectralNorms,
    kernels,
    norms,
)
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec, from_levels, to_levels
from limner.contract.likelihood import Likelihood
from limner.contract.model import Turn
from limner.contract.noise import Noise, Purpose
from limner.contract.options import Count, Layers, Natural, NonNegative, Share, Widths
from limner.contract.registry import Paper, register
from limner.nn.condition import Conditioner
from limner.nn.standing_statistics import standing_statistics
from limner.nn.wide_convolution import StridedConv2d, WideConv2d

_EXPANSION, _SMOOTHING = 6, 3  # expansions of cells before a group, and of cells after all groups
_PARAMETER_BOUND = 5.0  # bound of means and log-deviations, as in the paper's code
_MIN_KL = 0.01  # nats added to each group's KL when groups are balanced


class Group(nn.Module):
    """One group of the code: the cells before it, its prior, and its posterior.

    Args:
        channels: channels of both towers at this resolution.
        latent: channels of the code.
        cells: generative cells before the prior.
        first: whether it is the coarsest group; its prior is standard normal, and it has no cells.
    """

    def __init__(self, channels: int, latent: int, cells: int, first: bool) -> None:
        super().__init__()
        count = 0 if first else cells
        self.cells = nn.Sequential(*(GenerativeCell(channels, _EXPANSION) for _ in range(count)))
        self.prior = None if first else nn.Conv2d(channels, 2 * latent, 1)
        self.merge = None if first else nn.Conv2d(channels, channels, 1)
        self.posterior = nn.Conv2d(channels, 2 * latent, 3, padding=1)
        self.combine = nn.Conv2d(channels + latent, channels, 1)

    def before(
        self, s: Float[Tensor, "b c h w"], z: Float[Tensor, "b d h w"]
    ) -> tuple[Float[Tensor, "b c h w"], Normal]:
        """Return the decoder's features, and p(z_l | z_<l); only the shape of z is used."""
        s = self.cells(s)
        return s, standard_normal(z) if self.prior is None else _soft_clamp(self.prior(F.elu(s)))

    def approximate_posterior(
        self, features: Float[Tensor, "b c h w"], s: Float[Tensor, "b c h w"], p: Normal
    ) -> Normal:
        """Return q(z_l | z_<l, x): the prior, shifted by d_mu and d_sigma times as wide."""
        h = features if self.merge is None else features + self.merge(s)
        d_mu, log_d_sigma = _soft_clamp(self.posterior(F.elu(h)))
        return Normal(p.mean + d_mu, p.log_deviation + log_d_sigma)

    def with_code(
        self, s: Float[Tensor, "b c h w"], z: Float[Tensor, "b d h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the decoder's features, combined with z_l."""
        return self.combine(torch.cat([s, z.to(s)], 1))


Choose = Callable[[int, Group, Tensor, Normal, Tensor], Tensor]
"""(l, group, decoder's features, p(z_l | z_<l), epsilon_l) -> z_l."""
Biases = list[Float[Tensor, "b _ 1 1"]]


@register(
    "nvae",
    family="autoencoders",
    paper=Paper(
        "NVAE: a deep hierarchical variational autoencoder", "Vahdat, Kautz", 2020, "2007.03898"
    ),
    tiny={
        "channels": (8, 8),
        "groups": (1, 2),
        "latent": 2,
        "components": 2,
        "importance_samples": 2,
    },
    train={"lr": 1e-3, "clip": 10.0},
)
class NVAE(Imputes):
    """NVAE: a deep hierarchical variational autoencoder, with a bound on log p(x).

    Args:
        spec: specification of the images.
        channels: channels per resolution, finest first; each resolution halves height and width.
        groups: number of groups at each of the coarsest resolutions, coarsest first.
        latent: channels of the code in each group.
        cells: cells in each tower before each group, and at each resolution without groups.
        pixels: distribution of a pixel given the code; by default bernoulli for two levels,
            otherwise logistic.
        components: number of components of the logistic mixture.
        warmup: steps in which the weight of the KL terms rises from 0 and they are balanced.
        spectral: lambda, the weight of the kernels' spectral norms and of batch norm's scales.
        importance_samples: number of draws for the reported bound.
        condition_dropout: probability of hiding the condition in training.
    """

    takes = ("labels", "text")
    couples_batch = True

    def __init__(
        self,
        spec: ImageSpec,
        channels: Widths = (32, 64, 64),
        groups: Layers = (2, 4),
        latent: Count = 8,
        cells: Count = 1,
        pixels: Literal["bernoulli", "logistic", "gaussian"] | None = None,
        components: Count = 5,
        warmup: Natural = 1000,
        spectral: NonNegative = 0.01,
        importance_samples: Count = 10,
        condition_dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        if not 1 <= len(groups) <= len(channels):
            raise LimnerError(
                f"model.groups={','.join(map(str, groups))}: give a number for 1 to "
                f"{len(channels)} resolutions, at most as many as model.channels has"
            )
        self.law = pixel_distribution(spec, pixels, components)
        self.warmup, self.spectral, self.loss_compares = warmup, spectral, not warmup
        self.importance_samples = importance_samples
        self.condition_dropout = condition_dropout
        sizes = halvings(spec.height, spec.width, len(channels))
        plain = len(channels) - len(groups)
        counts = [0] * plain + list(groups[::-1])  # groups at each resolution, finest first

        self.downsample, self.up = nn.ModuleList(), nn.ModuleList()
        self.groups, self.upsample = nn.ModuleList(), nn.ModuleList()
        self.shapes: list[tuple[int, int, int]] = []
        for i, width in enumerate(channels):
            channels_in = channels[i - 1] if i else spec.channels
            self.downsample.append(StridedConv2d(channels_in, width, 3, stride=2, padding=1))
            towers = max(1, counts[i])
            self.up.append(
                nn.ModuleList(
                    nn.Sequential(*(EncodingCell(width) for _ in range(cells)))
                    for _ in range(towers)
                )
            )
        for i in reversed(range(len(channels))):
            width, finer = channels[i], channels[max(0, i - 1)]
            for _ in range(counts[i]):
                self.groups.append(Group(width, latent, cells, first=not self.shapes))
                self.shapes.append((latent, *sizes[i + 1]))
            smooth = [GenerativeCell(width, _SMOOTHING) for _ in range(0 if counts[i] else cells)]
            self.upsample.append(nn.Sequential(*smooth, Grow(width, finer, sizes[i])))
        self.counts = counts
        self.constant = nn.Parameter(torch.zeros(1, channels[-1], *sizes[-1]))
        self.conv_out = WideConv2d(channels[0], self.law.size, 3, padding=1)
        self.conditioner = Conditioner(spec, CONDITION_SIZE)
        widths = [*channels, *channels[::-1]] if spec.labels or spec.text else []
        self.condition_biases = nn.ModuleList(nn.Linear(CONDITION_SIZE, width) for width in widths)
        self.spectral_norms = SpectralNorms(kernels(self))
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def likelihood_protocol(self, k: int | None = None) -> str:
        """Return which bound is reported, with its number of draws."""
        k = k or self.importance_samples
        return f"IW-{k}" if k > 1 else "ELBO, one draw"

    def prepare(self, batches: Iterator[Batch]) -> None:
        """Run the first power iterations of the spectral norms."""
        self.spectral_norms.settle(kernels(self))

    def calibrate(self, batches: Iterator[Batch]) -> None:
        """Set batch norm's statistics to their means over batches, with codes drawn from q."""
        self.eval()
        with standing_statistics(self), torch.no_grad():
            for i, batch in enumerate(batches):
                n, start = len(batch.x), i * len(batch.x)
                noise = Noise.keyed(
                    0, Purpose.CALIBRATION, range(start, start + n), str(self.device)
                )
                self._terms(batch.x, self._biases(batch.c, n), self._draws(1, noise)[0])

    def formula(self) -> list[str]:
        """Return the formulas of the bound that is maximised and of the groups of the code."""
        name = type(self.law).__name__
        return [
            "log p(x) >= E_q(z|x) log p(x | z) - KL(q(z | x) || p(z))",
            f"p(x | z) = {name}(decoder(z)),  p(z) = prod_l N(z_l; mu(z_<l), sigma(z_<l)^2),"
            f"  l = 1 .. {len(self.groups)}",
        ]

    def log_prob(
        self,
        x: Images,
        c: Condition = Condition(),
        *,
        noise: Noise,
        k: Count | None = None,
    ) -> Likelihood:
        """Return the bound log 1/k sum_i p(x, z_i) / q(z_i | x), z_i from q, and the ELBO's terms:
        the reconstruction and the KL of each group.

        Args:
            x, c, noise: see `LikelihoodModel.log_prob`.
            k: number of draws; `importance_samples` by default.
        """
        biases = self._biases(c, len(x))
        features = self._features(x, biases)
        names = [f"KL {i} ({h} x {w})" for i, (_, h, w) in enumerate(self.shapes, start=1)]

        def draws(g: int) -> Draws:
            epsilon = self._draws(g, noise).flatten(0, 1)
            f_g, b_g = ([part.repeat(g, 1, 1, 1) for part in maps] for maps in (features, biases))
            log_p, kl, ratio = self._terms(x.repeat(g, 1, 1, 1), b_g, epsilon, f_g)
            terms = {"reconstruction": -log_p, **dict(zip(names, kl, strict=True))}
            terms_by_draw = {name: term.unflatten(0, (g, -1)) for name, term in terms.items()}
            return Draws((log_p - ratio).unflatten(0, (g, -1)), terms_by_draw)

        k = k or self.importance_samples
        nats, kind, terms = importance_weighted_bound(draws, k, self.spec.dimensions, len(x))
        return Likelihood(nats.to(x.dtype), kind, terms)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield one turn, with the loss in bits per dimension; both terms are logged in nats."""
        biases = self._biases(batch.c, len(batch.x))
        log_p, kl, _ = self._terms(batch.x, biases, self._draws(1, noise)[0])
        group_kl, share = kl.mean(1), 1.0
        weighted = group_kl.sum()
        if step < self.warmup:
            share = (step + 1) / self.warmup
            weighted = (self.balance(group_kl.detach()) * group_kl).sum()
        scales = torch.stack([norm.weight.abs().max() for norm in norms(self)]).sum()
        penalty = self.spectral_norms(kernels(self)) + scales
        loss = share * weighted - log_p.mean() + self.spectral * penalty
        bit = self.spec.dimensions * math.log(2)  # nats of one bit in every dimension
        logs = {
            "bits_per_dim": (group_kl.sum() - log_p.mean()).detach() / bit,
            "reconstruction": -log_p.mean().detach(),
            "kl": group_kl.sum().detach(),
            "active_groups": (group_kl.detach() > 1).sum(),  # KL of more than 1 nat
        }
        yield Turn(loss / bit, logs=logs)

    def balance(self, each: Float[Tensor, "l"]) -> Float[Tensor, "l"]:
        """Return weights of the groups' KL terms: each group's KL per dimension, scaled to mean 1.

        Groups with a large KL are penalised more, so that small ones do not collapse. Appendix A.
        """
        sizes = each.new_tensor([math.prod(shape) for shape in self.shapes])
        share = (each.abs() + _MIN_KL) / sizes
        return share / share.mean()

    def encode(self, x: Images, c: Condition = Condition()) -> Float[Tensor, "b d"]:
        """Return epsilon of the means of q, each given the means of the groups before it."""
        biases, parts = self._biases(c, len(x)), list[Tensor]()
        features = self._features(x, biases)

        def choose(index: int, group: Group, s: Tensor, p: Normal, _: Tensor) -> Tensor:
            q = group.approximate_posterior(features[index], s, p)
            parts.append((q.mean - p.mean) * (-p.log_deviation).exp())
            return q.mean

        self._down(x.new_zeros(len(x), self._size), biases, choose)
        return torch.cat([part.flatten(1) for part in parts], 1)

    def decode(self, z: Float[Tensor, "b d"], c: Condition = Condition()) -> Images:
        """Return the mean of p(x | z), where z_l = mu + sigma epsilon_l."""
        theta = self._down(z, self._biases(c, len(z)), _from_prior)
        return self.law.mean(theta).permute(0, 3, 1, 2)

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        temperature: Annotated[float, Field(ge=0, le=10)] = 1.0,
        output: Literal["mean", "draw"] = "mean",
    ) -> Iterator[Images]:
        """Yield the decoded pictures of codes drawn from the prior.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            temperature: factor by which the noise of every group is scaled; below 1, codes are
                nearer to its mean.
            output: the mean of p(x | z), or a draw from it, which is a sample of p(x).
        """
        epsilon = temperature * self._draws(1, noise)[0]
        if output == "mean":
            yield self.decode(epsilon, c)
            return
        yield self.draw_picture(self._down(epsilon, self._biases(c, n), _from_prior), noise)

    def theta(self, z: Float[Tensor, "b d"], c: Condition) -> Float[Tensor, "b h w p"]:
        """Return the parameters of p(x | z) at each pixel; z has all groups in a row."""
        return self._down(z, self._biases(c, len(z)), lambda index, group, s, p, z: z)

    def propose(self, x: Images, c: Condition, noise: Noise) -> Float[Tensor, "b d"]:
        """Draw z from q(z | x)."""
        parts = list[Tensor]()

        def choose(index: int, group: Group, s: Tensor, p: Normal, epsilon: Tensor) -> Tensor:
            parts.append(group.approximate_posterior(features[index], s, p).draw(epsilon))
            return parts[-1]

        biases = self._biases(c, len(x))
        features = self._features(x, biases)
        self._down(self._draws(1, noise)[0], biases, choose)
        return torch.cat([part.flatten(1) for part in parts], 1)

    def log_weights(self, x: Images, z: Float[Tensor, "b d"], c: Condition) -> Float[Tensor, "b"]:
        """Return log p(x | z) + log p(z) - log q(z | x) in nats."""
        ratios = list[Tensor]()

        def choose(index: int, group: Group, s: Tensor, p: Normal, z: Tensor) -> Tensor:
            q = group.approximate_posterior(features[index], s, p)
            ratios.append((p.log_prob(z) - q.log_prob(z)).flatten(1).sum(1))
            return z

        biases = self._biases(c, len(x))
        features = self._features(x, biases)
        theta = self._down(z, biases, choose)
        k = to_levels(x, self.spec.levels).permute(0, 2, 3, 1)
        return self.law.log_prob(theta, k).sum((1, 2)) + torch.stack(ratios).sum(0)

    @property
    def _size(self) -> int:
        """Dimension of the whole code."""
        return sum(math.prod(shape) for shape in self.shapes)

    def _draws(self, g: int, noise: Noise) -> Float[Tensor, "g b d"]:
        """Draw g standard normal codes per picture; the draws do not depend on g."""
        dtype = self.constant.dtype
        return torch.stack([noise.normal(self._size, dtype=dtype) for _ in range(g)])

    def _biases(self, c: Condition, n: int) -> Biases:
        """Return the condition's biases, for each resolution of the encoder, then of the decoder;
        empty if the data have no condition."""
        vector = self.conditioner(c, n).vector
        return [layer(vector)[:, :, None, None] for layer in self.condition_biases]

    def _features(self, x: Images, biases: Biases) -> list[Float[Tensor, "b ..."]]:
        """Return the encoder's features for each group, coarsest first."""
        levels = to_levels(x, self.spec.levels)
        h, features = from_levels(levels, self.spec.levels).to(self.constant.dtype), list[Tensor]()
        up = zip(self.downsample, self.up, self.counts)
        for i, (downsample, towers, count) in enumerate(up):
            h = downsample(h)
            h = h + biases[i] if biases else h
            for tower in towers.children():
                h = tower(h)
                features += [h] if count else []
        return features[::-1]

    def _down(
        self, code: Float[Tensor, "b d"], biases: Biases, choose: Choose
    ) -> Float[Tensor, "b h w p"]:
        """Return theta of each pixel; `choose` returns the code of each group on the way down."""
        parts = code.split([math.prod(shape) for shape in self.shapes], 1)
        s, index = self.constant.expand(len(code), -1, -1, -1), 0
        down = zip(self.upsample, self.counts[::-1])
        for i, (upsample, count) in enumerate(down, start=len(self.counts)):
            s = s + biases[i] if biases else s
            for _ in range(count):
                group, epsilon = self.groups[index], parts[index].unflatten(1, self.shapes[index])
                assert isinstance(group, Group)
                s, p = group.before(s, epsilon)
                s = group.with_code(s, choose(index, group, s, p, epsilon))
                index += 1
            s = upsample(s)
        return self.conv_out(F.elu(s)).permute(0, 2, 3, 1)

    def _terms(
        self,
        x: Images,
        biases: Biases,
        epsilon: Float[Tensor, "b d"],
        features: list[Float[Tensor, "b ..."]] | None = None,
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "l b"], Float[Tensor, "b"]]:
        """Return log p(x | z), the KL of each group, and log q(z | x) / p(z), for z from q."""
        features = self._features(x, biases) if features is None else features
        kl, ratio = list[Tensor](), list[Tensor]()

        def choose(index: int, group: Group, s: Tensor, p: Normal, epsilon: Tensor) -> Tensor:
            q = group.approximate_posterior(features[index], s, p)
            z = q.draw(epsilon)
            kl.append(q.kl(p).flatten(1).sum(1))
            ratio.append((q.log_prob(z) - p.log_prob(z)).flatten(1).sum(1))
            return z

        theta = self._down(epsilon, biases, choose)
        k = to_levels(x, self.spec.levels).permute(0, 2, 3, 1)
        log_p = self.law.log_prob(theta, k).sum((1, 2))
        return log_p, torch.stack(kl), torch.stack(ratio).sum(0)


def _from_prior(index: int, group: Group, s: Tensor, p: Normal, epsilon: Tensor) -> Tensor:
    """Return z_l = mu + sigma epsilon_l."""
    return p.draw(epsilon)


def _soft_clamp(h: Float[Tensor, "b c h w"]) -> Normal:
    """Return a mean and a log-deviation, each within +-5, in float32 or more."""
    exact = h.to(torch.promote_types(h.dtype, torch.float32))
    return Normal(*(_PARAMETER_BOUND * (exact / _PARAMETER_BOUND).tanh()).chunk(2, 1))
