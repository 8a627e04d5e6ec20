"""Toy models for the hard cases of the contract: a few lines each, with one difficulty each.

They pass the same checks as every other model; `test_contract.py` also breaks them on purpose.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec, from_levels, to_levels
from limner.contract.likelihood import Likelihood, LikelihoodModel
from limner.contract.model import GenerativeModel, Learner, Turn
from limner.contract.noise import Noise
from limner.contract.registry import Paper, register

LATENT = 4


def without_conditions(spec: ImageSpec) -> ImageSpec:
    """Return the spec of an unconditional model on these data."""
    return replace(spec, labels=(), frequencies=(), text=None, hint=None)


def only_labels(spec: ImageSpec) -> ImageSpec:
    """Return the spec of a class-conditional model on these data."""
    return replace(spec, text=None, hint=None)


class Label(nn.Embedding):
    """An embedding of each class, and one for no class."""

    def __init__(self, spec: ImageSpec, width: int) -> None:
        super().__init__(len(spec.labels) + 1, width)

    def forward(self, c: Condition, n: int) -> Tensor:
        label = torch.full((n,), -1) if c.label is None else c.label
        return super().forward(label % self.num_embeddings)  # -1 is the last row


def generator(spec: ImageSpec, width: int, *layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(LATENT, width), *layers, nn.Tanh(), nn.Linear(width, spec.dimensions), nn.Tanh(),
        nn.Unflatten(1, spec.shape),
    )  # fmt: skip


def critic(spec: ImageSpec, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(spec.dimensions, width), nn.Softplus(), nn.Linear(width, 1)
    )


@register(
    "toy-critics",
    family="gans",
    paper=Paper("Wasserstein GAN", "Arjovsky, Chintala, Bottou", 2017, "1701.07875"),
    tiny={"critic_steps": 3},
)
class Critics(GenerativeModel):
    """k critic steps on fresh data for each step of a generator with batch norm."""

    couples_batch = True

    def __init__(self, spec: ImageSpec, critic_steps: int = 5, width: int = 16) -> None:
        super().__init__()
        self.spec = without_conditions(spec)
        self.critic_steps = critic_steps
        self.batches_per_round = critic_steps + 1
        self.generator = generator(spec, width, nn.BatchNorm1d(width))
        self.critic = critic(spec, width)

    def players(self) -> dict[str, nn.Module]:
        return {"critic": self.critic, "generator": self.generator}

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        n = len(batch.x) // self.batches_per_round
        for k in range(self.critic_steps):
            rows = slice(k * n, (k + 1) * n)
            fake = self.generator(noise.rows(rows).normal(LATENT)).detach()
            yield Turn(self.critic(fake).mean() - self.critic(batch.x[rows]).mean(), of="critic")
            with torch.no_grad():
                for p in self.critic.parameters():
                    p.clamp_(-0.1, 0.1)
        z = noise.rows(slice(self.critic_steps * n, None)).normal(LATENT)
        yield Turn(-self.critic(self.generator(z)).mean(), of="generator")

    def calibrate(self, batches: Iterator[Batch]) -> None:
        norms = [m for m in self.modules() if isinstance(m, nn.BatchNorm1d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
        self.generator.train()
        for i, batch in enumerate(batches):
            self.generator(Noise.keyed(0, i, range(len(batch.x)), str(self.device)).normal(LATENT))
        self.generator.eval()
        for norm in norms:
            norm.momentum = 0.1

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        yield self.generator(noise.normal(LATENT))


@register(
    "toy-lazy",
    family="gans",
    paper=Paper(
        "Analyzing and improving the image quality of StyleGAN",
        "Karras et al.",
        2019,
        "1912.04958",
    ),
    tiny={"r1_every": 2},
)
class Lazy(GenerativeModel):
    """Lazy R1: a turn that depends on the step, with a gradient of a gradient."""

    def __init__(self, spec: ImageSpec, r1_every: int = 16, width: int = 16) -> None:
        super().__init__()
        self.spec = only_labels(spec)
        self.r1_every = r1_every
        self.label = Label(spec, LATENT)
        self.generator = generator(spec, width)
        self.critic = critic(spec, width)

    def players(self) -> dict[str, nn.Module]:
        return {"generator": nn.ModuleList([self.label, self.generator]), "critic": self.critic}

    def paint(self, noise: Noise, c: Condition) -> Images:
        return self.generator(noise.normal(LATENT) + self.label(c, len(noise)))

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        fake = self.paint(noise, batch.c)
        yield Turn(F.softplus(-self.critic(fake)).mean(), of="generator")
        true, false = self.critic(batch.x), self.critic(fake.detach())
        yield Turn((F.softplus(-true) + F.softplus(false)).mean(), of="critic")
        if step % self.r1_every == 0:
            x = batch.x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.critic(x).sum(), x, create_graph=True)
            yield Turn(self.r1_every * slope.square().sum((1, 2, 3)).mean(), of="critic")

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        yield self.paint(noise, c)


@register(
    "toy-translator",
    family="autoencoders",
    paper=Paper(
        "Image-to-image translation with conditional adversarial networks",
        "Isola et al.",
        2016,
        "1611.07004",
    ),
)
class Translator(GenerativeModel):
    """A model that translates a conditioning image, which it requires."""

    condition = "required"

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        if spec.hint is None:
            raise LimnerError("this model translates images; give it pairs")
        self.spec = replace(spec, labels=(), frequencies=(), text=None)
        self.network = nn.Conv2d(spec.hint.channels, spec.channels, 3, padding=1)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        yield Turn((self.network(batch.c.image) - batch.x).abs().mean())

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        yield self.network(c.image)


@register(
    "toy-cycle",
    family="gans",
    paper=Paper(
        "Unpaired image-to-image translation using cycle-consistent adversarial networks",
        "Zhu et al.",
        2017,
        "1703.10593",
    ),
)
class Cycle(Translator):
    """Two generators, A -> B and back, against two critics; c.image is an independent draw of A."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__(spec)
        assert spec.hint is not None
        self.back = nn.Conv2d(spec.channels, spec.hint.channels, 3, padding=1)
        self.critic_a, self.critic_b = critic(spec.hint, 8), critic(spec, 8)

    def players(self) -> dict[str, nn.Module]:
        return {
            "generators": nn.ModuleList([self.network, self.back]),
            "critics": nn.ModuleList([self.critic_a, self.critic_b]),
        }

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        a, b = batch.c.image, batch.x
        fake_b, fake_a = self.network(a), self.back(b)
        fooled = (self.critic_b(fake_b) - 1).square() + (self.critic_a(fake_a) - 1).square()
        cycle = (self.back(fake_b) - a).abs().mean() + (self.network(fake_a) - b).abs().mean()
        yield Turn(fooled.mean() + 10 * cycle, of="generators", logs={"cycle": cycle.detach()})
        loss = torch.zeros(())
        for judge, real, fake in ((self.critic_a, a, fake_a), (self.critic_b, b, fake_b)):
            loss = loss + ((judge(real) - 1).square() + judge(fake.detach()).square()).mean()
        yield Turn(loss, of="critics")


@register(
    "toy-classifier",
    family="gans",
    paper=Paper("Improved techniques for training GANs", "Salimans et al.", 2016, "1606.03498"),
)
class Classifier(Learner):
    """A learner that paints nothing; its batch norm shows whether it is unchanged when frozen."""

    couples_batch = True

    def __init__(self, spec: ImageSpec, width: int = 8) -> None:
        super().__init__()
        self.spec = only_labels(spec)
        self.features = nn.Sequential(
            nn.Flatten(), nn.Linear(spec.dimensions, width), nn.BatchNorm1d(width), nn.Dropout(0.2)
        )
        self.head = nn.Linear(width, max(len(spec.labels), 2))

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        label = (
            torch.zeros(len(batch.x), dtype=torch.int64) if batch.c.label is None else batch.c.label
        )
        yield Turn(F.cross_entropy(self.head(self.features(batch.x)), label))


@register(
    "toy-nested",
    family="autoencoders",
    paper=Paper(
        "Perceptual losses for real-time style transfer",
        "Johnson, Alahi, Fei-Fei",
        2016,
        "1603.08155",
    ),
    tiny={"judge": {"model": "toy-classifier"}},
)
class Nested(GenerativeModel):
    """A generator that is trained on the features of a frozen model inside it."""

    def __init__(self, spec: ImageSpec, judge: Learner, width: int = 8) -> None:
        super().__init__()
        self.spec = without_conditions(spec)
        self.judge = judge
        self.painter = generator(spec, width)

    def players(self) -> dict[str, nn.Module]:
        return {"painter": self.painter}

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        features: Any = self.judge.features
        generated = features(self.painter(noise.normal(LATENT)))
        yield Turn((generated - features(batch.x)).square().mean())

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        yield self.painter(noise.normal(LATENT))


@register(
    "toy-two-step",
    family="diffusion",
    paper=Paper("Flow matching for generative modeling", "Lipman et al.", 2022, "2210.02747"),
)
class TwoStep(GenerativeModel):
    """A velocity field integrated with Adams-Bashforth, which uses the previous velocity."""

    def __init__(self, spec: ImageSpec, width: int = 16, p: float = 0.1) -> None:
        super().__init__()
        self.spec = only_labels(spec)
        self.condition_dropout = p
        self.label = Label(spec, width)
        self.inn = nn.Linear(spec.dimensions + 1, width)
        self.out = nn.Linear(width, spec.dimensions)
        nn.init.zeros_(self.out.weight)

    def velocity(self, x: Tensor, t: Tensor, c: Condition) -> Tensor:
        h = self.inn(torch.cat([x.flatten(1), t[:, None]], 1)) + self.label(c, len(x))
        return self.out(h.tanh()).view_as(x)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        z, t = noise.normal(*self.spec.shape), noise.uniform()
        x = z.lerp(batch.x, t[:, None, None, None])
        yield Turn((self.velocity(x, t, batch.c) - (batch.x - z)).square().mean())

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        steps: int = 5,
    ) -> Iterator[Images]:
        x, last = noise.normal(*self.spec.shape), None
        for k in range(steps):
            v = self.velocity(x, torch.full((n,), k / steps, device=x.device), c)
            x = x + (v if last is None else 1.5 * v - 0.5 * last) / steps
            last = v
            if preview:
                yield x
        yield x

    def frame_count(self, *, steps: int = 5, **options: object) -> int:
        return steps + 1


@register(
    "toy-dropout",
    family="gans",
    paper=Paper("Implicit maximum likelihood estimation", "Li, Malik", 2018, "1809.09087"),
)
class Dropout(GenerativeModel):
    """A model with layers that draw from torch's global generator in training."""

    def __init__(self, spec: ImageSpec, width: int = 16) -> None:
        super().__init__()
        self.spec = without_conditions(spec)
        self.painter = generator(spec, width, nn.Dropout(0.5))

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        yield Turn((self.painter(noise.normal(LATENT)) - batch.x).square().mean())

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        yield self.painter(noise.normal(LATENT))


@register(
    "toy-pixels",
    family="autoregressive",
    paper=Paper("Pixel recurrent neural networks", "van den Oord et al.", 2016, "1601.06759"),
)
class Pixels(LikelihoodModel):
    """A model with an exact likelihood: each number has its own table of probabilities."""

    condition_dropout = 0.1

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.spec = only_labels(spec)
        self.logits = Label(spec, spec.dimensions * spec.levels)
        nn.init.zeros_(self.logits.weight)

    def table(self, c: Condition, n: int) -> Tensor:
        return self.logits(c, n).view(n, *self.spec.shape, self.spec.levels).log_softmax(-1)

    def log_prob(self, x: Images, c: Condition = Condition(), *, noise: Noise) -> Likelihood:
        k = to_levels(x, self.spec.levels)
        log_p = self.table(c, len(x)).gather(-1, k[..., None]).squeeze(-1)
        return Likelihood(log_p.sum((1, 2, 3)), "exact")

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        edges = self.table(c, n).exp().cumsum(-1)
        k = (noise.uniform(*self.spec.shape)[..., None] > edges).sum(-1)
        yield from_levels(k.clamp(max=self.spec.levels - 1), self.spec.levels)


@register(
    "toy-vae",
    family="autoencoders",
    paper=Paper("Auto-encoding variational Bayes", "Kingma, Welling", 2013, "1312.6114"),
)
class Autoencoder(LikelihoodModel):
    """A model with a lower bound: log p(x | z) - KL(q(z | x) || p(z)), with z ~ q."""

    def __init__(self, spec: ImageSpec, width: int = 16) -> None:
        super().__init__()
        self.spec = without_conditions(spec)
        D, L = spec.dimensions, spec.levels
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(D, width), nn.Tanh(), nn.Linear(width, 2 * LATENT)
        )
        self.decoder = nn.Sequential(nn.Linear(LATENT, width), nn.Tanh(), nn.Linear(width, D * L))

    def table(self, z: Tensor) -> Tensor:
        return self.decoder(z).view(-1, *self.spec.shape, self.spec.levels).log_softmax(-1)

    def bound(self, reconstruction: Tensor, kl: Tensor) -> Tensor:
        return reconstruction - kl

    def log_prob(self, x: Images, c: Condition = Condition(), *, noise: Noise) -> Likelihood:
        mean, log_std = self.encoder(x).chunk(2, 1)
        z = mean + log_std.exp() * noise.normal(LATENT)
        k = to_levels(x, self.spec.levels)
        reconstruction = self.table(z).gather(-1, k[..., None]).sum((1, 2, 3, 4))
        kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(1)
        return Likelihood(self.bound(reconstruction, kl), "lower")

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        edges = self.table(noise.normal(LATENT)).exp().cumsum(-1)
        k = (noise.uniform(*self.spec.shape)[..., None] > edges).sum(-1)
        yield from_levels(k.clamp(max=self.spec.levels - 1), self.spec.levels)


@register(
    "toy-prepared",
    family="flows",
    paper=Paper(
        "Glow: generative flow with invertible 1x1 convolutions",
        "Kingma, Dhariwal",
        2018,
        "1807.03039",
    ),
)
class Prepared(LikelihoodModel):
    """A flow of one ActNorm set from data: y = (k + u) / levels, z = exp(s) (y - m)."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.spec = without_conditions(spec)
        self.mean = nn.Parameter(torch.zeros(spec.shape))
        self.log_scale = nn.Parameter(torch.zeros(spec.shape))

    def dequantised(self, x: Images, noise: Noise) -> Tensor:
        k = to_levels(x, self.spec.levels)
        return (k + noise.uniform(*self.spec.shape)) / self.spec.levels

    def prepare(self, batches: Iterator[Batch]) -> None:
        parts = [
            self.dequantised(batch.x, Noise.keyed(0, i, range(len(batch.x)), str(self.device)))
            for i, batch in enumerate(itertools.islice(batches, 4))
        ]
        deviation, mean = torch.std_mean(torch.cat(parts), 0)
        self.mean.copy_(mean)
        self.log_scale.copy_(-deviation.clamp(min=0.05).log())

    def log_jacobian(self) -> Tensor:
        """Return log |dz / dy| + log |dy / dk|."""
        return self.log_scale.sum() - self.spec.dimensions * math.log(self.spec.levels)

    def log_prob(self, x: Images, c: Condition = Condition(), *, noise: Noise) -> Likelihood:
        z = self.log_scale.exp() * (self.dequantised(x, noise) - self.mean)
        log_normal = -0.5 * (z**2 + math.log(2 * math.pi)).sum((1, 2, 3))
        return Likelihood(log_normal + self.log_jacobian(), "lower")

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Images]:
        y = self.mean + noise.normal(*self.spec.shape) / self.log_scale.exp()
        k = (y * self.spec.levels).floor().clamp(0, self.spec.levels - 1).long()
        yield from_levels(k, self.spec.levels)
