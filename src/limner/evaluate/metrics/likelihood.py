"""How likely a model finds real pictures, in nats and in bits per dimension.

    bits/dim = -log2 p(x) / dimensions,   1 nat = 1 / ln 2 bits

of the discrete picture x, so that models of pixels, of dequantised pixels and of latents can be
compared. A bound below log p bounds bits/dim from above, and is printed with "<="; where it is a
sum, its terms stand below it. Terms of the ELBO stand below the ELBO where the bound is a nearer
one, of several draws.

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
from limner.contract.options import validated
from limner.contract.registry import Paper
from limner.evaluate.metric import Metric, NotApplicable, metric
from limner.evaluate.metrics.statistics import count_groups, standard_error
from limner.evaluate.passes import Columns, Observer, Seen
from limner.evaluate.picture_sets import Numbers, PictureSet, Pixels, RealPictures
from limner.evaluate.report import Number
from limner.runtime.cache import key

PAPER = Paper(
    "A note on the evaluation of generative models",
    "Theis, van den Oord, Bethge",
    2015,
    "1511.01844",
)
_TERM = "term: "  # before the name of a term, in the columns of what was seen


def likelihood_options(
    model: GenerativeModel | None, asked: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """The options of a model's `log_prob`, checked, with defaults filled in.

    Args:
        model: whose; None where pictures are judged.
        asked: what was given.
        name: what is judged.

    Raises:
        LimnerError: it has no likelihood, or no such option of it, or not with such a value.
    """
    if isinstance(model, LikelihoodModel):
        skip = {"x", "c", "noise"}
        return validated(type(model).log_prob, asked, kind="likelihood option", skip=skip)
    if asked:
        raise LimnerError(
            f"{name} does not say how likely a picture is; leave likelihood.{next(iter(asked))} out"
        )
    return {}


class LikelihoodObserver(Observer):
    """log p(x) of real pictures.

    Args:
        log_p: of the pictures with some numbers.
        fingerprint: of everything that decides it.
    """

    name = "likelihood"

    def __init__(
        self, log_p: Callable[[RealPictures, Numbers], Likelihood], fingerprint: str
    ) -> None:
        self.log_p, self.fingerprint = log_p, fingerprint

    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """`nats`, float64 "b", `kind`, an index into `KINDS`, and a bound's terms.

        Raises:
            LimnerError: a picture has no finite likelihood.
        """
        assert isinstance(pictures, RealPictures)
        nats, kind, terms = self.log_p(pictures, numbers)
        nats = nats.double().cpu()
        if not nats.isfinite().all():
            worst = int(numbers[~nats.isfinite()][0])
            raise LimnerError(
                f"{pictures.title(worst)} has no finite likelihood, and so all have no mean"
            )
        parts = {f"{_TERM}{name}": term.double().cpu() for name, term in terms.items()}
        return {"nats": nats, "kind": torch.full((len(nats),), [*KINDS].index(kind))} | parts


def kind_of(columns: Columns) -> Kind:
    """How the likelihoods that were seen are to be read."""
    kinds: list[Kind] = [*KINDS]
    return kinds[int(columns["kind"].max())]


@metric("likelihood", paper=PAPER)
class LogLikelihood(Metric):
    """The mean log-likelihood of the reference."""

    summary = "log-likelihood of the reference: nats a picture, and bits a dimension"
    reads = ("likelihood",)
    better = "lower"
    redrawn = ("reference",)

    @cached_property
    def model(self) -> LikelihoodModel:
        """The subject, which needs() has found to be one."""
        assert isinstance(self.setting.model, LikelihoodModel)
        return self.setting.model

    @cached_property
    def observer(self) -> LikelihoodObserver:
        """The model, which is told what the pictures are of."""
        s, options = self.setting, sorted(self.setting.likelihood.items())
        return LikelihoodObserver(
            self.log_p, key("likelihood and ELBO", s.candidate.fingerprint, s.seed, options)
        )

    def log_p(self, pictures: RealPictures, numbers: Numbers) -> Likelihood:
        """log p of pictures under what they are of."""
        device = str(self.model.device)
        return self.model.log_prob(
            pictures.images(numbers).to(device),
            pictures.condition(numbers, self.model.spec).to(device),
            noise=Noise.keyed(self.setting.seed, Purpose.LIKELIHOOD, numbers, device),
            **self.setting.likelihood,
        )

    @cached_property
    def pictures(self) -> RealPictures:
        """As many of the reference as are painted for the other metrics."""
        return self.setting.reference.first(len(self.setting.subject))

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Real pictures, by the model.

        Raises:
            NotApplicable: pictures, a model that gives no likelihood, or one that takes long.
        """
        if not isinstance(self.setting.model, LikelihoodModel):
            name = self.setting.subject.name
            raise NotApplicable(f"{name} does not say how likely a picture is")
        if self.model.likelihood_is_slow:
            self.skip_unless_named("it takes long; ask with --metrics likelihood")
        return [(self.pictures, self.observer)]

    def numbers(self, seen: Seen) -> list[Number]:
        """Nats and bits, with the standard error of the mean over the things that are shown."""
        found = seen.of(self.pictures, self.observer)
        nats, n = found["nats"], len(found["nats"])
        groups = self.pictures.groups(torch.arange(n))
        things = count_groups(n, groups)
        sign_of_nats, sign_of_bits = KINDS[kind_of(found)]
        bit = self.pictures.spec.dimensions * math.log(2)  # nats of one bit in every dimension

        def number(name: str, nats: Tensor, per: float, **more: Any) -> Number:
            error = standard_error(nats, groups) / per if things > 1 else None
            more |= {"error": error, "things": things if things < n else None}
            return self.number(name, float(nats.mean()) / per, n, **more)

        said: dict[str, Any] = {"protocol": self.protocol()}
        bits = number("bits/dim", -nats, bit, sign=sign_of_bits, better="lower", **said)
        said |= {"unit": "nats", "better": "higher"}
        whole = number("log-likelihood", nats, 1, sign=sign_of_nats, **said)
        terms = {t.removeprefix(_TERM): found[t] for t in found if t.startswith(_TERM)}
        parts = [number(f"bits/dim, {name}", term, bit) for name, term in terms.items()]
        if terms and not torch.allclose(elbo := sum(terms.values(), 0 * nats), -nats):
            _, sign = KINDS["lower"]
            parts.insert(0, number("bits/dim, ELBO", elbo, bit, sign=sign, better="lower"))
        return [bits, whole, *parts]

    def protocol(self) -> str:
        """What the model says of its likelihood, and what it was told."""
        told = self.pictures.condition(torch.arange(1), self.model.spec)
        given = [name for name in ("label", "text", "image") if getattr(told, name) is not None]
        said = self.model.likelihood_protocol(**self.setting.likelihood)
        return "; ".join(filter(None, [said, f"given the {' and '.join(given)}" if given else ""]))
