"""Typicality: is a picture as likely as real pictures are, or far less, or far more?

A model's likeliest pictures are not typical ones. A blank sheet has a higher density than any
digit. In the same way, the origin has the highest density of a normal distribution in many
dimensions, where nearly all mass lies far from it (Nalisnick et al. 2019a, 2019b). So both tails
count. With the log-likelihoods r_1 .. r_n of real pictures that the model never saw, and the
log-likelihood s of the picture to test,

    p = min(1, 2 min(1 + #{i: r_i <= s}, 1 + #{i: r_i >= s}) / (n + 1)).

If s were one more real picture, all ranks would be equally likely, so P(p <= a) <= a for any
distribution and any model (Bates et al. 2023). Nalisnick et al. compare |mean r - s| with a bound
that they have to choose; ranks need no bound, and work for two tails of different weight.

A picture that passes is as likely as real ones. The test says no more: other pictures may be as
likely, too.

References:
    Nalisnick, Matsukawa, Teh, Gorur, Lakshminarayanan (2019a). Do deep generative models know what
    they don't know? arXiv:1810.09136.
    Nalisnick, Matsukawa, Teh, Lakshminarayanan (2019b). Detecting out-of-distribution inputs to
    deep generative models using typicality. arXiv:1906.02994.
    Bates, Candes, Lei, Romano, Sesia (2023). Testing for outliers with conformal p-values.
    arXiv:2104.08279.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limner.contract.errors import LimnerError

UNUSUAL = 0.05
"""At most one real picture in twenty has a smaller p."""
UNREASONABLE = 0.01
"""At most one real picture in a hundred has a smaller p; this takes at least 199 real pictures."""

Verdict = Literal["typical", "unlikely", "likely", "far too unlikely", "far too likely"]
"""As likely as real pictures; beyond 95 % of them, on either side; beyond 99 % of them."""


@dataclass(frozen=True)
class Typicality:
    """The place of a picture's log-likelihood among those of real pictures.

    Args:
        nats: the log-likelihood of the picture.
        n: the number of real pictures.
        percentile: the share of real pictures that are less likely, ties counted half, in percent.
        p: the two-sided p-value, in (0, 1].
        beyond: nats below the least likely real picture (negative), or above the likeliest one; 0
            between them.
    """

    nats: float
    n: int
    percentile: float
    p: float
    beyond: float

    @property
    def verdict(self) -> Verdict:
        """The result of the test in up to three words."""
        if self.p > UNUSUAL:
            return "typical"
        if self.p > UNREASONABLE:
            return "unlikely" if self.percentile < 50 else "likely"
        return "far too unlikely" if self.percentile < 50 else "far too likely"

    def sentence(self) -> str:
        """Return the result of the test as a sentence."""
        if self.verdict == "typical" and not self.beyond:
            return "as likely as real pictures are"
        is_below = self.percentile < 50
        share = 100 - self.percentile if is_below else self.percentile
        comparison = f"{share:.1f} % of"
        if self.beyond:
            comparison = f"all {self.n:,}"
        sentence = f"{'less likely' if is_below else 'likelier'} than {comparison} real pictures"
        if self.beyond:
            sentence += f", by {abs(self.beyond):,.3g} nats"
        if self.verdict.startswith("far too"):
            note = "" if is_below else "; plain pictures are likely, but not typical"
            return f"{self.verdict}: {sentence}{note}"
        if self.n < 2 / UNREASONABLE - 1:
            sentence += "; they are too few to say more"
        return sentence


def typicality(nats: float, reference: Float[Tensor, "n"]) -> Typicality:
    """Compare a picture's log-likelihood with those of real pictures that the model never saw.

    Args:
        nats: log p of the picture.
        reference: log p of the real pictures, computed in the same way.

    Raises:
        LimnerError: there is no real picture, or a likelihood is NaN or infinite. Only `nats` may
            be minus infinity.
    """
    real, s = reference.double().cpu(), float(nats)
    if not len(real):
        raise LimnerError("typicality needs the likelihoods of real pictures, and there are none")
    if not real.isfinite().all() or not s < float("inf"):
        raise LimnerError("typicality needs finite likelihoods, and some are NaN or infinite")
    below, above = int((real < s).sum()), int((real > s).sum())
    low, high = float(real.min()), float(real.max())
    return Typicality(
        nats=s,
        n=len(real),
        percentile=100 * (below + (len(real) - below - above) / 2) / len(real),
        p=float(p_values(torch.tensor([s], dtype=torch.float64), real)),
        beyond=min(s - low, 0.0) + max(s - high, 0.0),
    )


def p_values(nats: Float[Tensor, "m"], reference: Float[Tensor, "n"]) -> Float[Tensor, "m"]:
    """Compute the two-sided p-value of each picture; see the module's docstring.

    Args:
        nats: log p of the pictures.
        reference: log p of the real pictures.
    """
    real, s = reference.double().sort().values, nats.double()
    n = len(real)
    up_to = torch.searchsorted(real, s, right=True)  # r <= s
    from_s = n - torch.searchsorted(real, s)  # r >= s
    return (2 * (1 + torch.minimum(up_to, from_s)).double() / (n + 1)).clamp(max=1)


def oddness(nats: Float[Tensor, "m"], reference: Float[Tensor, "n"]) -> Float[Tensor, "m"]:
    """Compute 1 - p, with a small addition that ranks pictures outside the range of real ones.

    All these have the same p; the addition grows with their distance from the range.

    Args:
        nats: log p of the pictures.
        reference: log p of the real pictures.
    """
    s, real = nats.double(), reference.double()
    beyond = (real.min() - s).clamp(min=0) + (s - real.max()).clamp(min=0)
    step = 1 / (len(real) + 1)  # half of the steps of p, so that no other order changes
    return 1 - p_values(s, real) + step * (1 - 1 / (1 + beyond))


def auroc(odd: Float[Tensor, "m"], real: Float[Tensor, "n"]) -> float:
    """Compute the area under the receiver operating characteristic (AUROC).

    It is the probability that an odd picture scores higher than a real one, ties counted half: 1 is
    perfect separation, 0.5 is chance.

    Args:
        odd: scores of the pictures to detect; odder pictures should have higher scores.
        real: scores of real pictures.

    Raises:
        LimnerError: no odd or no real pictures, or NaN.
    """
    odd, real = odd.double().cpu(), real.double().cpu().sort().values
    if not len(odd) or not len(real) or odd.isnan().any() or real.isnan().any():
        raise LimnerError("an AUROC needs scores of odd and of real pictures, none of them NaN")
    below = torch.searchsorted(real, odd)
    up_to = torch.searchsorted(real, odd, right=True)
    return float((below + up_to).double().mean()) / (2 * len(real))
