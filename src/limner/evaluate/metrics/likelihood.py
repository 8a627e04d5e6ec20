"""The likelihood of real pictures under a model, in nats and in bits per dimension.

    bits/dim = -log2 p(x) / dimensions,   1 nat = 1 / ln 2 bits

of the discrete picture x, so that models of pixels, of dequantised pixels and of latents can be
compared. A lower bound of log p is an upper bound of bits/dim, and is printed with "<="; if it is a
sum, its terms are listed below it. If the bound is a tighter one from several draws, the ELBO is
listed too, followed by its terms.

Reference:
    Theis, van den Oord, Bethge (2015). A note on the evaluation of generative models.
    arXiv:1511.01844.
"""

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.likelihood import KINDS, Kind, Likelihood, LikelihoodModel
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise, Purpose
from limner.contract.options import option_names, validate_options
from limner.contract.registry import Paper
from limner.evaluate.metric import Metric, NotApplicable, metric
from limner.evaluate.metrics.statistics import count_groups, standard_error
from limner.evaluate.passes import Columns, Observations, Observer
from limner.evaluate.picture_sets import Numbers, PictureSet, Pixels, RealPictures
from limner.evaluate.report import Number
from limner.runtime.cache import cache_key

PAPER = Paper(
    "A note on the evaluation of generative models",
    "Theis, van den Oord, Bethge",
    2015,
    "1511.01844",
)
_TERM_PREFIX = "term: "  # prefix of a term's name among the observed columns


def likelihood_options(
    model: GenerativeModel | None, options: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """Check options of a model's `log_prob`, and fill in the defaults.

    Args:
        model: the model; None if pictures are judged.
        options: the given options.
        name: the subject's name.

    Raises:
        LimnerError: the model has no likelihood, its likelihood has no such option, or the value is
            not allowed.
    """
    if isinstance(model, LikelihoodModel):
        skip = {"x", "c", "noise"}
        return validate_options(type(model).log_prob, options, kind="likelihood option", skip=skip)
    if options:
        raise LimnerError(
            f"{name} has no likelihood of pictures; leave likelihood.{next(iter(options))} out"
        )
    return {}


class LikelihoodObserver(Observer):
    """Observer of log p(x) of real pictures.

    Args:
        log_p: a function that returns log p of the pictures with given numbers.
        fingerprint: a hash of everything that affects the result.
    """

    name = "likelihood"

    def __init__(
        self, log_p: Callable[[RealPictures, Numbers], Likelihood], fingerprint: str
    ) -> None:
        self.log_p, self.fingerprint = log_p, fingerprint

    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """Return `nats`, float64 "b", `kind`, an index into `KINDS`, and the terms of a bound.

        Raises:
            LimnerError: a picture has no finite likelihood.
        """
        assert isinstance(pictures, RealPictures)
        nats, kind, terms = self.log_p(pictures, numbers)
        nats = nats.double().cpu()
        if not nats.isfinite().all():
            worst = int(numbers[~nats.isfinite()][0])
            raise LimnerError(
                f"{pictures.title(worst)} has no finite likelihood, so the mean has no value"
            )
        parts = {f"{_TERM_PREFIX}{name}": term.double().cpu() for name, term in terms.items()}
        return {"nats": nats, "kind": torch.full((len(nats),), [*KINDS].index(kind))} | parts


def kind_of(columns: Columns) -> Kind:
    """Return whether the observed likelihoods are exact, bounds or estimates."""
    kinds: list[Kind] = [*KINDS]
    return kinds[int(columns["kind"].max())]


@metric("likelihood", paper=PAPER)
class LogLikelihood(Metric):
    """The mean log-likelihood of the reference."""

    summary = "log-likelihood of the reference: nats per picture, and bits per dimension"
    reads = ("likelihood",)
    better = "lower"
    redrawn = ("reference",)

    @cached_property
    def model(self) -> LikelihoodModel:
        """The subject; needs() has checked that it has a likelihood."""
        assert isinstance(self.setting.model, LikelihoodModel)
        return self.setting.model

    @cached_property
    def observer(self) -> LikelihoodObserver:
        """The observer of the model's likelihood, given the conditions of the pictures."""
        s, options = self.setting, sorted(self.setting.likelihood.items())
        return LikelihoodObserver(
            self.log_p, cache_key("likelihood and ELBO", s.candidate.fingerprint, s.seed, options)
        )

    def log_p(self, pictures: RealPictures, numbers: Numbers) -> Likelihood:
        """Compute log p of pictures, given their conditions."""
        device = str(self.model.device)
        return self.model.log_prob(
            pictures.images(numbers).to(device),
            pictures.condition(numbers, self.model.spec).to(device),
            noise=Noise.keyed(self.setting.seed, Purpose.LIKELIHOOD, numbers, device),
            **self.setting.likelihood,
        )

    @cached_property
    def pictures(self) -> RealPictures:
        """As many real pictures of the reference as are painted for the other metrics."""
        return self.setting.reference.first(len(self.setting.subject))

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Request the likelihoods of real pictures.

        Raises:
            NotApplicable: the subject is pictures, or a model without a likelihood or with a slow
                one.
        """
        if not isinstance(self.setting.model, LikelihoodModel):
            name = self.setting.subject.name
            raise NotApplicable(f"{name} has no likelihood of pictures")
        if self.model.likelihood_is_slow:
            self.skip_unless_named("it takes long; request it with --metrics likelihood")
        return [(self.pictures, self.observer)]

    def numbers(self, observations: Observations) -> list[Number]:
        """Compute nats and bits, with the standard error of the mean over the things shown."""
        columns = observations.of(self.pictures, self.observer)
        nats, n = columns["nats"], len(columns["nats"])
        groups = self.pictures.groups(torch.arange(n))
        things = count_groups(n, groups)
        sign_of_nats, sign_of_bits = KINDS[kind_of(columns)]
        bit = self.pictures.spec.dimensions * math.log(2)  # nats of one bit in every dimension

        def number(name: str, nats: Tensor, per: float, **more: Any) -> Number:
            error = standard_error(nats, groups) / per if things > 1 else None
            more |= {"error": error, "things": things if things < n else None}
            return self.number(name, float(nats.mean()) / per, n, **more)

        fields: dict[str, Any] = {"protocol": self.protocol()}
        bits = number("bits/dim", -nats, bit, sign=sign_of_bits, better="lower", **fields)
        fields |= {"unit": "nats", "better": "higher"}
        log_likelihood = number("log-likelihood", nats, 1, sign=sign_of_nats, **fields)
        terms = {
            t.removeprefix(_TERM_PREFIX): columns[t] for t in columns if t.startswith(_TERM_PREFIX)
        }
        parts = [number(f"bits/dim, {name}", term, bit) for name, term in terms.items()]
        if terms and not torch.allclose(elbo := sum(terms.values(), 0 * nats), -nats):
            _, sign = KINDS["lower"]
            parts.insert(0, number("bits/dim, ELBO", elbo, bit, sign=sign, better="lower"))
        return [bits, log_likelihood, *parts]

    def protocol(self) -> str:
        """Return the model's description of its likelihood, and the conditions that it is given."""
        condition = self.pictures.condition(torch.arange(1), self.model.spec)
        names = ("label", "text", "image")
        parts = [name for name in names if getattr(condition, name) is not None]
        describe = self.model.likelihood_protocol
        options = option_names(describe)
        text = describe(**{k: v for k, v in self.setting.likelihood.items() if k in options})
        return "; ".join(filter(None, [text, f"given the {' and '.join(parts)}" if parts else ""]))
