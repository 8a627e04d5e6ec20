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
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.likelihood import LikelihoodModel
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise, Purpose
from limner.contract.options import validated
from limner.contract.registry import Paper
from limner.evaluate.metric import Metric, NotApplicable, metric
from limner.evaluate.passes import Columns, Observer, Seen
from limner.evaluate.picture_sets import Numbers, PictureSet, Pixels, RealPictures
from limner.evaluate.report import Number, Sign
from limner.runtime.cache import key

PAPER = Paper(
    "A note on the evaluation of generative models",
    "Theis, van den Oord, Bethge",
    2015,
    "1511.01844",
)
_KINDS = ("exact", "lower", "estimate")
_TERM = "term: "  # before the name of a term, in the columns of what was seen
_NATS: dict[str, Sign] = {"exact": "=", "lower": ">=", "estimate": "~"}
_BITS: dict[str, Sign] = {"exact": "=", "lower": "<=", "estimate": "~"}


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


class SeenLikely(Observer):
    """log p(x) of real pictures, under what they are of.

    Args:
        model: of such pictures.
        fingerprint: of its weights.
        seed: of what the model draws.
        options: of its `log_prob`.
    """

    def __init__(
        self, model: LikelihoodModel, fingerprint: str, seed: int, options: Mapping[str, Any]
    ) -> None:
        self.model, self.seed, self.options = model, seed, options
        self.name = "likelihood"
        self.fingerprint = key("likelihood and ELBO", fingerprint, seed, sorted(options.items()))

    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """`nats`, float64 "b", `kind`, an index of exact, lower, estimate, and a bound's terms.

        Raises:
            LimnerError: a picture has no finite likelihood.
        """
        assert isinstance(pictures, RealPictures)
        device = str(self.model.device)
        c = pictures.condition(numbers, self.model.spec).to(device)
        streams = Noise.keyed(self.seed, Purpose.LIKELIHOOD, numbers, device)
        x = pictures.images(numbers).to(device)
        nats, kind, terms = self.model.log_prob(x, c, noise=streams, **self.options)
        nats = nats.double().cpu()
        if not nats.isfinite().all():
            worst = int(numbers[~nats.isfinite()][0])
            raise LimnerError(
                f"{pictures.called(worst)} has no finite likelihood; the mean has no value"
            )
        apart = {f"{_TERM}{name}": term.double().cpu() for name, term in terms.items()}
        return {"nats": nats, "kind": torch.full((len(nats),), _KINDS.index(kind))} | apart


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
    def observer(self) -> SeenLikely:
        """The model."""
        s = self.setting
        return SeenLikely(self.model, s.fingerprint, s.seed, s.likelihood)

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
        """Nats and bits, with the standard error of the mean."""
        found = seen.of(self.pictures, self.observer)
        nats, n = found["nats"], len(found["nats"])
        kind = _KINDS[int(found["kind"].max())]
        bit = self.pictures.spec.dimensions * math.log(2)  # nats of one bit in every dimension

        def number(name: str, nats: Tensor, per: float, **more: Any) -> Number:
            error = float(nats.std()) / math.sqrt(n) / per if n > 1 else None
            return self.number(name, float(nats.mean()) / per, n, error=error, **more)

        said: dict[str, Any] = {"protocol": self.protocol()}
        bits = number("bits/dim", -nats, bit, sign=_BITS[kind], better="lower", **said)
        said |= {"unit": "nats", "better": "higher"}
        whole = number("log-likelihood", nats, 1, sign=_NATS[kind], **said)
        terms = {t.removeprefix(_TERM): found[t] for t in found if t.startswith(_TERM)}
        apart = [number(f"bits/dim, {name}", term, bit) for name, term in terms.items()]
        if terms and not torch.allclose(elbo := sum(terms.values(), 0 * nats), -nats):
            sign = _BITS["lower"]
            apart.insert(0, number("bits/dim, ELBO", elbo, bit, sign=sign, better="lower"))
        return [bits, whole, *apart]

    def protocol(self) -> str:
        """What the model says of its likelihood, and what it was told."""
        told = self.pictures.condition(torch.arange(1), self.model.spec)
        given = [name for name in ("label", "text", "image") if getattr(told, name) is not None]
        said = self.model.likelihood_protocol(**self.setting.likelihood)
        return "; ".join(filter(None, [said, f"given the {' and '.join(given)}" if given else ""]))
