"""Self-test of a likelihood: does it detect odd pictures, and does a classifier?

Half of the real pictures are the reference; the other half is compared with odd pictures:

    noise      every value drawn uniformly
    blank      one value everywhere, drawn for each picture
    inverted   the same real pictures with inverted brightness
    foreign    pictures of other data, in the same size and colours

Each of three scores has to separate them, measured by AUROC (1 is perfect separation, 0.5 is
chance; below 0.5, odd pictures seem less odd than real ones):

    low likelihood   -log p
    typicality       oddness by the two-sided test, see `typicality`
    classifier       1 - the largest class probability, Hendrycks, Gimpel (2017), arXiv:1610.02136

A classifier was not trained to recognise odd pictures, so the share that it is sure of is reported.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Images, ImageSpec, from_levels, to_uint8
from limner.contract.likelihood import KINDS, Kind
from limner.contract.noise import Noise, Purpose
from limner.data import open_data
from limner.evaluate.extractors.choose import open_extractor
from limner.evaluate.extractors.extractor import Extractor
from limner.evaluate.passes import BLOCK_PICTURES
from limner.evaluate.picture_sets import RealPictures
from limner.evaluate.scoring import Scorer
from limner.evaluate.tables import align_columns
from limner.evaluate.typicality import UNREASONABLE, auroc, oddness, p_values
from limner.runtime.progress import painting_progress

CONFIDENT_PROBABILITY = 0.9
"""A classifier counts as sure if its largest probability is at least this."""
_MIN_PICTURES = 20


@dataclass(frozen=True)
class Oddity:
    """The separation of a kind of odd pictures from real ones.

    Args:
        kind: "noise", "blank", "inverted", the name of other data; or "real", for comparison.
        nats: the mean of log p.
        refused: the share that `limner score` calls far too unlikely or far too likely.
        unlikely: AUROC of -log p; None for real pictures.
        untypical: AUROC of the two-sided oddness; None for real pictures.
        doubt: AUROC of 1 - the largest class probability; None without a classifier.
        sure: the share of pictures that the classifier is sure of; None without a classifier.
    """

    kind: str
    nats: float
    refused: float
    unlikely: float | None = None
    untypical: float | None = None
    doubt: float | None = None
    sure: float | None = None


@dataclass(frozen=True)
class SelfTest:
    """The result of `self_test`.

    Args:
        model: the name of the model as it was typed.
        against: the name of the real pictures.
        n: the number of pictures of each kind, and of the reference.
        classifier: the name of the classifier; empty without one.
        rows: the results of all kinds, the real pictures first.
        remarks: remarks that matter for the interpretation.
        kind: whether likelihoods are exact, lower bounds or estimates.
    """

    model: str
    against: str
    n: int
    classifier: str
    rows: tuple[Oddity, ...]
    remarks: tuple[str, ...] = ()
    kind: Kind = "exact"

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return asdict(self)

    def text(self) -> str:
        """Return a table for the terminal."""
        heads = ["", "mean log p", "refused", "low likelihood", "typicality"]
        heads += [self.classifier, f"{self.classifier} is sure"] if self.classifier else []
        rows = [heads]
        sign = "" if self.kind == "exact" else KINDS[self.kind][0]
        for oddity in self.rows:
            nats = f"{sign} {oddity.nats:,.1f} nats".strip()
            row = [oddity.kind, nats, f"{oddity.refused:.1%}"]
            row += [_area_text(oddity.unlikely), _area_text(oddity.untypical)]
            if self.classifier:
                row += [_area_text(oddity.doubt), f"{oddity.sure:.1%}"]
            rows.append(row)
        lines = [
            f"{self.model}: AUROC of {self.n:,} pictures of each kind and as many of "
            f"{self.against} (1 is perfect, 0.5 is chance); {self.n:,} others are the reference",
            "",
            *align_columns(rows),
            "",
            f"refused: called far too unlikely or far too likely (p <= {UNREASONABLE:g})",
        ]
        if self.classifier:
            lines.append(
                f"sure: the largest class probability is at least {CONFIDENT_PROBABILITY:g}"
            )
        return "\n".join([*lines, *(f"remark: {line}" for line in self.remarks)])


def self_test(
    scorer: Scorer, foreign: str | None = None, classifier: Extractor | str | None = None
) -> SelfTest:
    """Test how well a likelihood and a classifier separate odd pictures from real ones.

    Args:
        scorer: the model and the real pictures.
        foreign: a source of other data; None for the bundled emoji, unless the real pictures are
            emoji.
        classifier: the classifier to compare with; None for the bundled judge of such pictures.

    Raises:
        LimnerError: too few real pictures; see `Scorer`.
    """
    remarks = list(scorer.remarks)
    n, real = len(scorer.real) // 2, scorer.real
    if n < _MIN_PICTURES:
        raise LimnerError(
            f"a self-test needs at least {2 * _MIN_PICTURES} real pictures, not {len(real)} of "
            f"{real.name}; give a larger -n, or --against a source with more pictures"
        )
    judge: Extractor | None = None
    try:
        judge = _classifier(classifier, scorer)
    except LimnerError as error:
        remarks.append(f"there is no classifier to compare with: {error}")
    kinds = {"real": real.images(torch.arange(n, 2 * n))}
    kinds |= _odd_pictures(kinds["real"], real.spec)
    if foreign or real.dataset.source != "emoji":
        source = foreign or "emoji"
        kinds[source] = _foreign_pictures(source, scorer, n)
    else:
        remarks.append("there are no other data to compare with; name some: --foreign SOURCE")
    with painting_progress(n * (len(kinds) + 1), "scoring") as advance:

        def score_images(x: Images) -> _Scores:
            return _scores(scorer, judge, x, n, advance)

        reference, scores = (
            score_images(real.images(torch.arange(n))).nats,
            score_images(kinds["real"]),
        )
        rows = [_oddity("real", scores, None, reference)]
        rows += [
            _oddity(kind, score_images(x), scores, reference)
            for kind, x in kinds.items()
            if kind != "real"
        ]
    if 2 / (n + 1) > UNREASONABLE:
        remarks.append(f"{n} real pictures are too few to refuse any")
    return SelfTest(
        scorer.candidate.name,
        real.name,
        n,
        judge.name if judge else "",
        tuple(rows),
        tuple(remarks),
        scores.kind,
    )


def _classifier(judge: Extractor | str | None, scorer: Scorer) -> Extractor:
    """Open the classifier.

    Raises:
        LimnerError: there is none for such pictures, or it has no classes.
    """
    if judge is None or isinstance(judge, str):
        real = scorer.real
        judge = open_extractor(judge, real.spec, scorer.model.device, source=real.dataset.source)
    if judge(scorer.real.pictures(torch.arange(1))).logits is None:
        raise LimnerError(f"{judge.name} knows no classes")
    return judge


class _Scores(NamedTuple):
    """log p of pictures and its kind, and the largest class probability of each if there is a
    classifier.
    """

    nats: Float64[Tensor, "n"]
    kind: Kind
    certainty: Float64[Tensor, "n"] | None


def _scores(
    scorer: Scorer,
    judge: Extractor | None,
    x: Images,
    first: int,
    advance: Callable[[float], None],
) -> _Scores:
    """Compute likelihoods and class probabilities; picture i uses the random stream first + i."""
    nats: list[Tensor] = []
    certainty: list[Tensor] = []
    kind: Kind = "exact"
    for numbers in torch.arange(first, first + len(x)).split(BLOCK_PICTURES):
        images = x[numbers - first]
        log_p, kind, _ = scorer.log_p(images, numbers)
        nats.append(log_p)
        if judge is not None:
            logits = judge(to_uint8(images)).logits
            assert logits is not None, "a classifier has logits"
            certainty.append(logits.double().softmax(1).amax(1).cpu())
        advance(len(images))
    return _Scores(torch.cat(nats), kind, torch.cat(certainty) if certainty else None)


def _oddity(
    kind: str, odd: _Scores, real: _Scores | None, reference: Float64[Tensor, "n"]
) -> Oddity:
    """Make a row; it has no AUROCs without real pictures to compare with."""
    areas: dict[str, float] = {}
    if real is not None:
        areas["unlikely"] = auroc(-odd.nats, -real.nats)
        areas["untypical"] = auroc(oddness(odd.nats, reference), oddness(real.nats, reference))
    if real is not None and real.certainty is not None and odd.certainty is not None:
        areas["doubt"] = auroc(-odd.certainty, -real.certainty)
    sure = (
        None
        if odd.certainty is None
        else float((odd.certainty >= CONFIDENT_PROBABILITY).double().mean())
    )
    refused = float((p_values(odd.nats, reference) <= UNREASONABLE).double().mean())
    return Oddity(kind, float(odd.nats.mean()), refused, sure=sure, **areas)


def _odd_pictures(x: Images, spec: ImageSpec) -> dict[str, Images]:
    """Make odd pictures, as many as real ones, on the same levels."""
    streams = Noise.keyed(0, Purpose.ODD_PICTURES, range(len(x)))
    noise = from_levels(streams.integers(spec.levels, *spec.shape), spec.levels)
    blank = from_levels(streams.integers(spec.levels, spec.channels, 1, 1), spec.levels)
    return {"noise": noise, "blank": blank.expand_as(x).clone(), "inverted": -x}


def _foreign_pictures(source: str, scorer: Scorer, n: int) -> Images:
    """Read pictures of other data like the model's; they repeat if there are fewer than n."""
    spec, dynamic = scorer.real.spec, scorer.real.dataset.dynamic
    binarise = "dynamic" if dynamic else "threshold" if spec.levels == 2 else None
    rounding = "floor" if scorer.real.dataset.floors else "round"
    levels = {"binarise": binarise} if binarise else {"levels": spec.levels, "levels_by": rounding}
    size = f"{spec.height}x{spec.width}"
    data = open_data(source, size=size, channels=spec.channels, **levels)
    return RealPictures(data).images(torch.arange(n))


def _area_text(area: float | None) -> str:
    return "" if area is None else f"{area:.3f}"
