"""Variational autoencoder, with the importance-weighted bound.

Kingma, Welling (2013). Auto-encoding variational Bayes. arXiv:1312.6114.
Burda, Grosse, Salakhutdinov (2015). Importance weighted autoencoders. arXiv:1509.00519.

    p(x) = int p(x | z) p(z) dz,   p(z) = N(0, 1),   q(z | x) = N(mu(x), diag(sigma(x)^2))
    log p(x) >= E log p(x | z) - KL(q(z | x) || p(z))                                    the ELBO
    KL = 1/2 sum_j (mu_j^2 + sigma_j^2 - 1 - ln sigma_j^2)                             appendix B

The model is trained on the ELBO or, as an IWAE, on the bound of k draws. p(x | z) is a distribution
over discrete pixel values, so the bounds hold for the probability of the picture itself. `log_prob`
returns the bound of `importance_samples` draws unless another number is given.

Options for the ELBO: KL warm-up, as in Bowman et al. (2015), arXiv:1511.06349; a constant weight
beta, as in Higgins et al. (2017); free bits, lambda nats for each dimension of the code, as in
Kingma et al. (2016), arXiv:1606.04934, equation 15: sum_j max(lambda, E KL_j), where E is the mean
over the batch. The prior can be learned with a RealNVP. The KL is then the mean of
log q(z | x) - log p(z) over draws, and `encode` returns codes mapped through the prior's flow. So
codes are standard normal under either prior. With labels or captions c, encoder and decoder are
conditioned on c: q(z | x, c) and p(x | z, c); the prior stays p(z).
"""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from limner.autoencoders.encoders import CONDITION_SIZE, centre, coders, pixel_distribution
from limner.autoencoders.importance_bound import (
    Draws,
    Normal,
    importance_weighted_bound,
    standard_normal,
)
from limner.autoencoders.imputation import Imputes
from limner.autoencoders.prior import Prior
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec, from_levels, to_levels
from limner.contract.likelihood import Likelihood
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.options import Count, Layers, Natural, NonNegative, Share, Widths
from limner.contract.registry import Paper, register
from limner.nn.condition import Conditioner


@register(
    "vae",
    family="autoencoders",
    paper=Paper("Auto-encoding variational Bayes", "Kingma, Welling", 2013, "1312.6114"),
    tiny={"latent": 2, "channels": (8,), "importance_samples": 4},
    train={"lr": 1e-3, "clip": 10.0},
)
class VAE(Imputes):
    """Variational autoencoder: codes with a prior, and a bound on log p(x).

    Args:
        spec: specification of the images.
        latent: dimension of a code.
        channels: channels per resolution, finest first; each resolution halves height and width.
        blocks: residual blocks at each resolution.
        hidden: widths of the hidden layers of MLPs that replace the convolutions, from the picture
            to the code.
        pixels: distribution of a pixel given the code; by default bernoulli for two levels,
            otherwise logistic.
        components: number of components of the logistic mixture.
        prior: prior of the code: a standard normal distribution, or a RealNVP that is trained with
            the rest.
        objective: "elbo", or "iwae", the bound of k draws.
        k: draws of the code for each picture in training.
        beta: weight of the KL term in the ELBO.
        warmup: number of steps in which this weight rises from 0.
        free_bits: nats of KL per dimension of the code that are not penalised.
        importance_samples: number of draws for the reported bound.
        condition_dropout: probability of hiding the condition in training.
    """

    takes = ("labels", "text")

    def __init__(
        self,
        spec: ImageSpec,
        latent: Count = 32,
        channels: Widths = (32, 64),
        blocks: Natural = 1,
        hidden: Layers | None = None,
        pixels: Literal["bernoulli", "logistic", "gaussian"] | None = None,
        components: Count = 1,
        prior: Literal["normal", "realnvp"] = "normal",
        objective: Literal["elbo", "iwae"] = "elbo",
        k: Count = 1,
        beta: NonNegative = 1.0,
        warmup: Natural = 0,
        free_bits: NonNegative = 0.0,
        importance_samples: Count = 100,
        condition_dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        if objective == "iwae" and (beta != 1 or warmup or free_bits):
            raise LimnerError(
                "IWAE's bound has no KL term of its own; leave model.beta, model.warmup and "
                "model.free_bits out, or give model.objective=elbo"
            )
        if prior == "realnvp" and free_bits:
            raise LimnerError(
                "free bits need a KL for each dimension of the code, but a learned prior has one "
                "KL for all of them; leave model.free_bits out, or give model.prior=normal"
            )
        self.law = pixel_distribution(spec, pixels, components)
        self.latent, self.objective, self.k = latent, objective, k
        self.beta, self.warmup, self.free_bits = beta, warmup, free_bits
        self.importance_samples = importance_samples
        self.condition_dropout = condition_dropout
        self.couples_batch, self.loss_compares = free_bits > 0, not warmup
        self.conditioner = Conditioner(spec, CONDITION_SIZE)
        self.encoder, self.decoder = coders(
            spec,
            2 * latent,
            latent,
            self.law.size,
            channels=channels,
            blocks=blocks,
            hidden=hidden,
            vector=CONDITION_SIZE if spec.labels or spec.text else 0,
        )
        self.prior = Prior.realnvp(latent) if prior == "realnvp" else Prior.normal()

    def likelihood_protocol(self, k: int | None = None) -> str:
        """Return which bound is reported, with its number of draws."""
        k = k or self.importance_samples
        return f"IW-{k}" if k > 1 else "ELBO, one draw"

    def formula(self) -> list[str]:
        """Return the formulas of the bound that is maximised and of the model."""
        bound = {
            "elbo": "log p(x) >= E_q(z|x) log p(x | z) - KL(q(z | x) || p(z))",
            "iwae": f"log p(x) >= E log 1/k sum_i p(x, z_i) / q(z_i | x),  k = {self.k}",
        }
        p_x = type(self.law).__name__
        p_z = "RealNVP(N(0, I))" if self.prior.is_learned else "N(0, I)"
        return [bound[self.objective], f"p(x | z) = {p_x}(decoder(z)),  z ~ {p_z}"]

    def log_prob(
        self,
        x: Images,
        c: Condition = Condition(),
        *,
        noise: Noise,
        k: Count | None = None,
    ) -> Likelihood:
        """Return the bound log 1/k sum_i p(x, z_i) / q(z_i | x), z_i from q, and the ELBO's terms.

        Args:
            x, c, noise: see `LikelihoodModel.log_prob`.
            k: number of draws; `importance_samples` by default.
        """
        vector, levels, q = self._levels_and_posterior(x, c)

        def draws(g: int) -> Draws:
            log_p, prior, posterior = self._terms(levels, vector, q, self._draws(g, noise))
            kl = posterior - prior if self.prior.is_learned else exact_kl.expand(g, -1)
            terms = {"reconstruction": -log_p, "KL": kl}
            return Draws(_log_weights(log_p, prior, posterior), terms)

        exact_kl = q.kl(standard_normal(q.mean)).sum(-1)
        k = k or self.importance_samples
        nats, kind, terms = importance_weighted_bound(draws, k, self.spec.dimensions, len(x))
        return Likelihood(nats.to(x.dtype), kind, terms)

    def prepare(self, batches: Iterator[Batch]) -> None:
        """Measure the mean picture, which an MLP encoder subtracts from its input."""
        centre(self.encoder, batches)

    def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
        """Yield one turn, with the loss in bits per dimension; both terms are logged in nats."""
        vector, levels, q = self._levels_and_posterior(batch.x, batch.c)
        z = self._draws(self.k, noise)
        bit = self.spec.dimensions * math.log(2)  # nats of one bit in every dimension
        log_p, prior, posterior = terms = self._terms(levels, vector, q, z)
        if self.objective == "iwae":
            bound = _log_weights(*terms).logsumexp(0) - math.log(self.k)
            loss, kl = -bound.mean(), (posterior - prior).mean()
        else:
            kls = self._kl(q, prior, posterior)
            share = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
            loss = self.beta * share * kls.clamp(min=self.free_bits).sum() - log_p.mean()
            kl = kls.sum()
            bound = log_p.mean() - kl
        logs = {
            "bits_per_dim": -bound.mean().detach() / bit,
            "reconstruction": -log_p.mean().detach(),
            "kl": kl.detach(),
        }
        yield Turn(loss / bit, logs=logs)

    def posterior(self, x: Images, c: Condition = Condition()) -> Normal:
        """Return q(z | x): mu(x) and ln sigma(x), each "b d"."""
        return self._levels_and_posterior(x, c)[2]

    def encode(self, x: Images, c: Condition = Condition()) -> Float[Tensor, "b d"]:
        """Return mu(x), the mean of q(z | x), mapped through the prior's flow if it has one."""
        return self.prior.to_normal(self.posterior(x, c).mean)

    def decode(self, z: Float[Tensor, "b d"], c: Condition = Condition()) -> Images:
        """Return the mean of p(x | z)."""
        return self.law.mean(self.theta(self.prior.code(z), c)).permute(0, 3, 1, 2)

    def theta(self, z: Float[Tensor, "b d"], c: Condition) -> Float[Tensor, "b h w p"]:
        """Return the parameters of p(x | z) at each pixel."""
        return self.decoder(z, self._vector(c, len(z)))

    def propose(self, x: Images, c: Condition, noise: Noise) -> Float[Tensor, "b d"]:
        """Draw z from q(z | x)."""
        return self.posterior(x, c).draw(noise.normal(self.latent, dtype=self.dtype))

    def log_weights(self, x: Images, z: Float[Tensor, "b d"], c: Condition) -> Float[Tensor, "b"]:
        """Return log p(x | z) + log p(z) - log q(z | x) in nats."""
        vector, levels, q = self._levels_and_posterior(x, c)
        log_p = self._log_likelihood(levels, vector, z[None])[0]
        return log_p + self.prior.log_prob(z) - q.log_prob(z).sum(-1)

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
            temperature: factor by which the noise of the code is scaled; below 1, codes are nearer
                to the mean.
            output: the mean of p(x | z), as papers show it, or a draw from p(x | z), which is a
                sample of p(x).
        """
        z = temperature * noise.normal(self.latent, dtype=self.dtype)
        if output == "mean":
            yield self.decode(z, c)
            return
        yield self.draw_picture(self.theta(self.prior.code(z), c), noise)

    def _vector(self, c: Condition, n: int) -> Float[Tensor, "b v"] | None:
        return self.conditioner(c, n).vector

    def _levels_and_posterior(
        self, x: Images, c: Condition
    ) -> tuple[Float[Tensor, "b v"] | None, Int[Tensor, "b h w c"], Normal]:
        """Return the condition's vector, the pictures as levels, and q(z | x)."""
        levels, vector = to_levels(x, self.spec.levels), self._vector(c, len(x))
        x = from_levels(levels, self.spec.levels).to(self.dtype)
        h = self.encoder(x, vector)
        exact = h.to(torch.promote_types(h.dtype, torch.float32))  # the KL needs precision
        q = Normal(*exact.chunk(2, 1))
        return vector, levels.permute(0, 2, 3, 1), q

    def _draws(self, g: int, noise: Noise) -> Float[Tensor, "g b d"]:
        """Draw g standard normal codes per picture; the draws do not depend on g."""
        return torch.stack([noise.normal(self.latent, dtype=self.dtype) for _ in range(g)])

    def _log_likelihood(
        self,
        levels: Int[Tensor, "b h w c"],
        vector: Float[Tensor, "b v"] | None,
        z: Float[Tensor, "g b d"],
    ) -> Float[Tensor, "g b"]:
        """Return log p(x | z) of g codes for each picture."""
        vector = None if vector is None else vector.repeat(len(z), 1)
        theta = self.decoder(z.flatten(0, 1), vector).unflatten(0, z.shape[:2])
        return self.law.log_prob(theta, levels[None]).sum((-2, -1))

    def _terms(
        self,
        levels: Int[Tensor, "b h w c"],
        vector: Float[Tensor, "b v"] | None,
        q: Normal,
        epsilon: Float[Tensor, "g b d"],
    ) -> tuple[Float[Tensor, "g b"], Float[Tensor, "g b"], Float[Tensor, "g b"]]:
        """Return log p(x | z), log p(z) and log q(z | x) of draws from q."""
        z = q.draw(epsilon)
        log_p = self._log_likelihood(levels, vector, z)
        return log_p, self.prior.log_prob(z), q.log_prob(z).sum(-1)

    def _kl(
        self, q: Normal, prior: Float[Tensor, "g b"], posterior: Float[Tensor, "g b"]
    ) -> Float[Tensor, "_numbers"]:
        """Return the mean KL over the batch: in closed form for each dimension of the code, or,
        with a learned prior, for the whole code, estimated from the draws."""
        if self.prior.is_learned:
            return (posterior - prior).mean()[None]
        return q.kl(standard_normal(q.mean)).mean(0)


def _log_weights(
    log_p: Float[Tensor, "g b"], prior: Float[Tensor, "g b"], posterior: Float[Tensor, "g b"]
) -> Float[Tensor, "g b"]:
    """Return log w = log p(x | z) + log p(z) - log q(z | x)."""
    return log_p + prior - posterior
